"""What calls to models cost, and caps on it that any number of workers cannot overrun."""

from __future__ import annotations

import json
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from evo.benchmark import UserMistake, settings
from evo.llm import Model, Prompt, Usage

SHIPPED = Path(__file__).resolve().parent / "prices.toml"
OVERHEAD = 1000  # tokens of a call beside its text: roles, formats, what thinking adds
ABANDONED_S = 3 * 3600.0  # a ticket open for longer belonged to a worker that is gone; it counts as spent


# --- prices --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Price:
    """USD per million tokens."""

    input: float
    cache_write: float
    cache_read: float
    output: float
    long_above: int | None = None  # tokens of input, cached ones included, above which `long` applies
    long: dict = field(default_factory=dict)

    def usd(self, used: Usage) -> float:
        """What one call costs; `used.input` holds only what was neither read from nor written to the cache."""
        sent = used.input + used.cache_read + used.cache_write
        if self.long_above is not None and sent > self.long_above:
            return Price(**self.long).usd(used)
        tokens = (used.input, used.cache_write, used.cache_read, used.output)
        rates = (self.input, self.cache_write, self.cache_read, self.output)
        return sum(rate * count for rate, count in zip(rates, tokens, strict=True)) / 1e6


@dataclass(frozen=True)
class Prices:
    date: str
    models: Mapping[str, Price]

    def of(self, model: str) -> Price | None:
        """The price of a model or of one of its dated forms; None where the table has none."""
        return self.models.get(model) or self.models.get(re.sub(r"-\d{8}$", "", model))


def read_prices(file: Path | None = None) -> Prices:
    """The shipped table, overridden model by model by a user's file of the same form."""
    shipped = _table(SHIPPED)
    if file is None:
        return shipped
    own = _table(file)
    return Prices(own.date, {**shipped.models, **own.models})


def _table(file: Path) -> Prices:
    try:
        found: dict[str, Any] = tomllib.loads(file.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UserMistake(f"--prices {file}: expected a table like {SHIPPED}, found none ({error})") from error
    if unknown := sorted(set(found) - {"date", "models"}) or not isinstance(found.get("models"), dict):
        raise UserMistake(f"--prices {file}: expected `date` and [models.NAME] tables, found {unknown}")
    models = {name: settings(Price, table, f"{file.name} [models.{name}]") for name, table in found["models"].items()}
    for name, price in models.items():
        if price.long:
            settings(Price, price.long, f"{file.name} [models.{name}] long")
    return Prices(str(found.get("date", "undated")), models)


# --- caps ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Caps:
    """What a run may spend on models, over all its workers; None where there is no cap."""

    calls: int | None = None
    tokens: int | None = None  # input, cached or not, and output
    usd: float | None = None


class Room(Enum):
    TAKEN = "a ticket was taken"
    LATER = "calls under way might use what is left"
    NONE = "the cap is reached"


@dataclass(frozen=True)
class Ticket:
    number: int
    tokens: int
    usd: float


class Ledger:
    """A hard cap without a coordinator: no ticket, no call.

    Ticket n is a file that only one worker can create, with the most that its call may cost written in it. Whoever
    creates it has seen all n tickets before it, so the sum of what is settled and what is still open never passes the
    cap. After the call the ticket is settled at what it did cost.
    """

    def __init__(self, folder: Path, caps: Caps, prices: Prices) -> None:
        self._folder = folder
        self._caps = caps
        self._prices = prices
        self._tickets: list[Ticket] = []
        self._paid: dict[int, Ticket] = {}

    def bound(self, model: Model, prompt: Prompt) -> tuple[int, float]:
        """The most tokens and USD that a call may take: a token holds at least one byte of text."""
        if model.answer_tokens is None:
            return 0, 0.0
        sent = len(prompt.text.encode()) + OVERHEAD
        price = self._prices.of(model.name)
        usd = 0.0
        if price is not None:
            out = model.answer_tokens
            usd = max(price.usd(Usage(sent, 0, 0, out)), price.usd(Usage(0, 0, sent, out)))
        return sent + model.answer_tokens, usd

    def take(self, model: Model, prompt: Prompt) -> Ticket | Room:
        """A ticket for one call, or why there is none."""
        tokens, usd = self.bound(model, prompt)
        self._folder.mkdir(parents=True, exist_ok=True)
        while True:
            self._read()
            own = Ticket(len(self._tickets), tokens, usd)
            if (room := self._room(own)) is not Room.TAKEN:
                return room
            if self._create(str(own.number), {"tokens": tokens, "usd": usd}):
                return own

    def settle(self, ticket: Ticket, model: str, used: Usage | None, billed: bool) -> float:
        """Writes down what a call did cost and gives it in USD; without usage the whole ticket, if it was billed."""
        tokens, usd = (ticket.tokens, ticket.usd) if billed else (0, 0.0)
        if used is not None:
            price = self._prices.of(model)
            tokens = used.input + used.cache_read + used.cache_write + used.output
            usd = price.usd(used) if price is not None else 0.0
        self._create(f"{ticket.number}.paid", {"tokens": tokens, "usd": usd})
        return usd

    def _room(self, own: Ticket) -> Room:
        caps = self._caps
        if caps.calls is not None and own.number >= caps.calls:
            return Room.NONE
        paid = list(self._paid.values())
        held = [ticket for ticket in self._tickets if ticket.number not in self._paid]
        room = Room.TAKEN
        for cap, name in ((caps.tokens, "tokens"), (caps.usd, "usd")):
            if cap is None:
                continue
            spent = sum(getattr(ticket, name) for ticket in paid) + getattr(own, name)
            if spent > cap:
                return Room.NONE
            if spent + sum(getattr(ticket, name) for ticket in held) > cap:
                room = Room.LATER
        return room

    def _read(self) -> None:
        while (found := self._load(str(len(self._tickets)))) is not None:
            self._tickets.append(Ticket(len(self._tickets), **found))
        for ticket in self._tickets:
            if ticket.number in self._paid:
                continue
            if (found := self._load(f"{ticket.number}.paid")) is not None:
                self._paid[ticket.number] = Ticket(ticket.number, **found)
            elif self._age(ticket) > ABANDONED_S:
                self._paid[ticket.number] = ticket

    def _load(self, name: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((self._folder / name).read_text())
        except FileNotFoundError:
            return None
        return found

    def _age(self, ticket: Ticket) -> float:
        probe = self._folder / f".now-{os.getpid()}"
        probe.touch()  # the file system's own time
        return probe.stat().st_mtime - (self._folder / str(ticket.number)).stat().st_mtime

    def _create(self, name: str, content: Mapping[str, float]) -> bool:
        """A file that appears whole and at most once; False if somebody made it before."""
        handle, pending = tempfile.mkstemp(prefix=f".{name}-", dir=self._folder)
        with open(handle, "w") as file:
            json.dump(content, file)
        try:
            os.link(pending, self._folder / name)
        except FileExistsError:
            return False
        finally:
            os.unlink(pending)
        return True


def check(models: list[Model], caps: Caps, prices: Prices, prefix: str) -> None:
    """Raises UserMistake where a cap could not be kept, or where nothing would bound what a run costs."""
    for model in models:
        if model.answer_tokens is None:
            if caps.tokens is not None:
                raise UserMistake(f"--tokens: {model.name} does not count tokens; cap it with --calls")
            continue
        if prices.of(model.name) is None and (caps.usd is not None or (caps.calls is None and caps.tokens is None)):
            raise UserMistake(
                f"no price is known for {model.name} (table of {prices.date}); give one in a file by --prices, "
                "or cap the run with --calls or --tokens instead of --usd"
            )
        tokens, usd = Ledger(Path(), caps, prices).bound(model, Prompt(prefix, ""))
        for name, cap, least in (("tokens", caps.tokens, tokens), ("usd", caps.usd, usd)):
            if cap is not None and cap < least:
                raise UserMistake(
                    f"--{name} {cap:g} is less than one call to {model.name} may take ({least:.3g}); "
                    f"ask for more, or for shorter answers with anthropic:{model.name}?max_tokens=N"
                )
