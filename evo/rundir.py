"""A run is a directory; this module alone knows the names in it."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from evo.benchmark import UserMistake, settings

FORMAT = 1  # of the directory and its journals
LOGS = (".log", ".out", ".err")


@dataclass(frozen=True)
class RunSettings:
    """What is frozen when a run begins; resuming with other values is refused, except for the budget."""

    benchmark: str  # name, or the folder's absolute path
    profile: str
    base: str  # hash of the base program
    seed: int
    threads: int
    novelty: float
    control: str | None
    evaluations: int
    minutes: float | None
    reserve: int
    base_runs: int
    noise_sd: float
    noise_df: float
    pair_sd: float
    typical_gain: float
    paired: bool = False  # screens share seeds with base runs and are compared with those
    model: str = "none"
    calls: int | None = None  # caps on what models may take, over all workers
    tokens: int | None = None
    usd: float | None = None
    prices: str | None = None  # file that overrides the shipped table
    record: str | None = None  # file that every answer and proposal is appended to
    format: int = FORMAT

    @property
    def replays(self) -> bool:
        return self.model.startswith("replay:")


@dataclass(frozen=True)
class RunDir:
    path: Path

    @property
    def settings_file(self) -> Path:
        return self.path / "run.toml"

    @property
    def events(self) -> Path:
        return self.path / "events"

    @property
    def claims(self) -> Path:
        return self.path / "claims"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def tickets(self) -> Path:
        return self.path / "tickets"

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def base(self) -> Path:
        """The base program as it was when the run began, so that a run can be read after its benchmark has moved on."""
        return self.path / "base"

    @property
    def earlier(self) -> Path:
        """What a run before this one found, as prompts tell it; only where `--after` named one."""
        return self.path / "earlier.md"

    def earlier_text(self) -> str:
        return self.earlier.read_text() if self.earlier.is_file() else ""

    @property
    def shared(self) -> Path:
        """The library that the runs of a suite, which lie side by side, write for each other; others have none."""
        return self.path.parent / "library"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def journal(self, writer: str) -> Path:
        return self.events / f"{writer}.jsonl"

    def exists(self) -> bool:
        return self.settings_file.is_file()

    def strangers(self) -> list[str]:
        """What lies here that no run has written: another run may be beginning here, a batch system may write a log."""
        ours = (self.settings_file, self.events, self.claims, self.logs, self.tickets, self.best, self.base)
        own = {path.name for path in (*ours, self.earlier, self.report)}
        try:
            names = os.listdir(self.path)
        except OSError:
            return []  # there is none, or writing it says what is wrong
        return sorted(n for n in names if n not in own and not n.startswith(".run.toml.") and not n.endswith(LOGS))

    def create(self, frozen: RunSettings, base: Mapping[str, str]) -> None:
        try:
            write_program(self.base, base)
            for folder in (self.events, self.claims, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
            text = "".join(f"{key} = {_toml(value)}\n" for key, value in asdict(frozen).items() if value is not None)
            pending = self.path / f".run.toml.{os.getpid()}"
            pending.write_text(
                "# Frozen when the run began; `evo.run` on this directory reads it and goes on.\n" + text
            )
            try:
                os.link(pending, self.settings_file)  # exclusive: two runs that begin at once agree on the first
            except FileExistsError:
                pass
            finally:
                pending.unlink()
        except OSError as error:
            raise UserMistake(
                f"cannot write the run directory {self.path}: {error.strerror}; choose another --out"
            ) from error

    def settings(self) -> RunSettings:
        """Raises UserMistake where there is no run, or one that leads elsewhere: what it no longer needs is deleted."""
        for place in (self.events, self.claims, self.logs, self.tickets, self.best, self.best / "program", self.base):
            if place.is_symlink():
                raise UserMistake(f"{place}: expected a folder of the run, found a link; who made this run? Remove it")
        try:
            table = tomllib.loads(self.settings_file.read_text())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserMistake(f"{self.path} is not a run: it has no run.toml; give the --out of an evo.run") from error
        except tomllib.TOMLDecodeError as error:
            raise UserMistake(f"{self.settings_file} is damaged ({error}); restore it or start a new --out") from error
        if table.get("format") != FORMAT:
            raise UserMistake(
                f"{self.path} was written in format {table.get('format')}, this evo reads {FORMAT}; "
                "use the version that began the run, or a new --out"
            )
        return settings(
            RunSettings, {**{f.name: None for f in fields(RunSettings) if "None" in f.type}, **table}, "run.toml"
        )

    def rewrite(self, frozen: RunSettings) -> None:
        """Replaces the settings: only a larger budget does that."""
        pending = self.path / f".run.toml.{os.getpid()}"
        text = "".join(f"{key} = {_toml(value)}\n" for key, value in asdict(frozen).items() if value is not None)
        pending.write_text("# Frozen when the run began; `evo.run` on this directory reads it and goes on.\n" + text)
        pending.replace(self.settings_file)


def _toml(value: object) -> str:
    # JSON strings, numbers and booleans are TOML too
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or nothing: readers never see half of it."""
    pending = path.with_name(f".{path.name}.{os.getpid()}")
    pending.write_text(text)
    pending.replace(path)


def write_program(folder: Path, tree: Mapping[str, str]) -> None:
    for name, text in tree.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
