"""Language models behind one small interface: a prompt in, a completion with its usage out."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from evo.benchmark import UserMistake
from evo.chance import Chance

MAX_TOKENS = 16_000  # of an answer
CALL_S = 600.0
POLL_S = 0.5
SPECS = "none, anthropic:MODEL, command:ARGV, inbox:DIR, replay:FILE"


class ModelError(Exception):
    """A call that brought no answer: the world's fault, written down and tried again with the next proposal."""


@dataclass(frozen=True)
class Prompt:
    """`prefix` is the same in every call of a run, so that a provider can keep it; `request` is this call's own."""

    prefix: str
    request: str

    @property
    def text(self) -> str:
        return f"{self.prefix}\n\n{self.request}"


@dataclass(frozen=True)
class Usage:
    """Tokens as the provider counted them; `input` is what was neither read from nor written to its cache."""

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0


@dataclass(frozen=True)
class Completion:
    text: str
    model: str
    usage: Usage = Usage()


@dataclass(frozen=True)
class Slot:
    """Which call this is: the same on every machine, so that a recorded run can be played back."""

    thread: int
    number: int
    attempt: int = 0

    @property
    def name(self) -> str:
        return f"{self.thread}-{self.number}-{self.attempt}"


class Model(Protocol):
    def complete(self, prompt: Prompt, slot: Slot) -> Completion:
        """Answers or raises ModelError; never answers half."""
        ...


@dataclass(frozen=True)
class Anthropic:
    """Anthropic's SDK; any server that speaks the Messages API serves through ANTHROPIC_BASE_URL.

    The key is read by the SDK from the environment and is nowhere else.
    """

    model: str
    max_tokens: int = MAX_TOKENS
    timeout_s: float = CALL_S
    retries: int = 2  # by the SDK, with its own back-off, for 408, 409, 429 and 5xx

    def complete(self, prompt: Prompt, slot: Slot) -> Completion:
        import anthropic  # 1.5 s, and only who calls a model pays it
        import httpx2

        cached = {"type": "text", "text": prompt.prefix, "cache_control": {"type": "ephemeral"}}
        try:
            answer = anthropic.Anthropic(timeout=self.timeout_s, max_retries=self.retries).messages.create(
                model=self.model,
                max_tokens=self.max_tokens,
                system=[cached],  # type: ignore[list-item]
                messages=[{"role": "user", "content": prompt.request}],
            )
        except (anthropic.AnthropicError, httpx2.HTTPError) as error:  # a dropped stream comes as the latter
            raise ModelError(f"{type(error).__name__}: {error}") from error
        text = "".join(block.text for block in answer.content if block.type == "text")
        used = answer.usage
        read, written = used.cache_read_input_tokens or 0, used.cache_creation_input_tokens or 0
        return Completion(text, self.model, Usage(used.input_tokens, read, written, used.output_tokens))


@dataclass(frozen=True)
class Command:
    """Any program: the prompt on its standard input, the answer on its standard output."""

    argv: Sequence[str]
    timeout_s: float = CALL_S

    def complete(self, prompt: Prompt, slot: Slot) -> Completion:
        try:
            done = subprocess.run(
                self.argv, input=prompt.text, capture_output=True, text=True, timeout=self.timeout_s, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ModelError(f"{self.argv[0]}: {error}") from error
        if done.returncode:
            raise ModelError(f"{self.argv[0]} exited with {done.returncode}: {done.stderr[-500:]}")
        return Completion(done.stdout, self.argv[0])


@dataclass(frozen=True)
class Inbox:
    """Prompts and answers as files, for a person or an agent: `<slot>.prompt.md` waits for `<slot>.answer.md`.

    A slot is thread-number-attempt; several may wait at once. Files appear whole, by renaming; an answer may be
    written in place, since it is read only once it holds still.
    """

    folder: Path
    sleep: Callable[[float], None] = time.sleep
    timeout_s: float = 24 * 3600.0

    def complete(self, prompt: Prompt, slot: Slot) -> Completion:
        self.folder.mkdir(parents=True, exist_ok=True)
        question, answer = self.folder / f"{slot.name}.prompt.md", self.folder / f"{slot.name}.answer.md"
        if not question.exists() or question.read_text() != prompt.text:
            if answer.exists():  # of an interrupted run that asked something else under this name
                answer.replace(self.folder / f"{slot.name}.stale.md")
            pending = self.folder / f".{slot.name}.prompt"
            pending.write_text(prompt.text)
            pending.replace(question)
        waited, before = 0.0, ""
        while not (text := answer.read_text() if answer.exists() else "").strip() or text != before:
            if waited >= self.timeout_s:
                raise ModelError(f"no {answer.name} within {self.timeout_s:g} s")
            before = text
            self.sleep(POLL_S)
            waited += POLL_S
        return Completion(text, "inbox")


@dataclass(frozen=True)
class Scripted:
    """Answers from a function; for tests and demonstrations."""

    answer: Callable[[Prompt, Slot], str]
    name: str = "scripted"

    def complete(self, prompt: Prompt, slot: Slot) -> Completion:
        return Completion(self.answer(prompt, slot), self.name)


def ask(model: Model, prompt: Prompt, slot: Slot) -> Completion:
    """One call; whatever goes wrong inside a backend is a ModelError here."""
    try:
        return model.complete(prompt, slot)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{type(error).__name__}: {error}") from error


def asked(model: Model, prompt: Prompt, slot: Slot) -> Future[Completion]:
    """The same call in the background. Its thread is a daemon: a worker that is told to stop need not wait for it."""
    answer: Future[Completion] = Future()

    def call() -> None:
        try:
            answer.set_result(ask(model, prompt, slot))
        except ModelError as error:
            answer.set_exception(error)

    threading.Thread(target=call, daemon=True, name=f"call-{slot.name}").start()
    return answer


class Tickets:
    """A hard cap on calls that needs no coordinator: a call needs a ticket, a file that only one can create."""

    def __init__(self, folder: Path, cap: int | None) -> None:
        self._folder = folder
        self._cap = cap

    def take(self) -> bool:
        """True if a call may be made; False once every ticket is taken."""
        if self._cap is None:
            return True
        self._folder.mkdir(exist_ok=True)
        for number in range(len(os.listdir(self._folder)), self._cap):
            try:
                os.close(os.open(self._folder / str(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                return True
            except FileExistsError:
                continue
        return False

    def left(self) -> bool:
        return self._cap is None or not self._folder.exists() or len(os.listdir(self._folder)) < self._cap


@dataclass(frozen=True)
class Models:
    """Who writes: models with fixed weights, and perhaps one that is asked for repairs only."""

    weighted: tuple[tuple[Model, float], ...]
    repairer: Model | None = None

    def chosen(self, task: str, chance: Chance) -> Model:
        """The model of one proposal: a draw that the seed, the thread and the number decide."""
        if task == "repair" and self.repairer is not None:
            return self.repairer
        models, weights = zip(*self.weighted, strict=True)
        return chance.pick("model", models, weights)


def open_models(spec: str) -> Models | None:
    """The models that a `--model` names; None for none. Raises UserMistake for a spec that is none of SPECS.

    Several are separated by commas; `*N` behind one gives its weight, `repair=` before one asks it for repairs only.
    """
    if spec == "none":
        return None
    weighted: list[tuple[Model, float]] = []
    repairer = None
    for part in re.split(rf",(?=(?:repair=)?(?:{'|'.join(MAKERS)}):)", spec):
        named, weight = re.fullmatch(r"(.*?)(?:\*(\d+(?:\.\d+)?))?", part, re.S).groups()  # type: ignore[union-attr]
        if named.startswith("repair="):
            repairer = _opened(named.removeprefix("repair="), spec)
        else:
            weighted.append((_opened(named, spec), float(weight or 1)))
    if not weighted or not sum(share for _, share in weighted) > 0:
        raise UserMistake(f"--model: expected at least one model that writes, with a weight above 0; found '{spec}'")
    return Models(tuple(weighted), repairer)


def _opened(part: str, spec: str) -> Model:
    kind, _, rest = part.partition(":")
    if kind not in MAKERS or not rest:
        raise UserMistake(f"--model: expected one of {SPECS}; found '{spec}'")
    return MAKERS[kind](rest)


MAKERS: Mapping[str, Callable[[str], Model]] = {
    "anthropic": Anthropic,
    "command": lambda argv: Command(tuple(shlex.split(argv))),
    "inbox": lambda folder: Inbox(Path(folder)),
}
