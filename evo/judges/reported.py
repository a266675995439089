"""Judges a user's own checkout of a program that prints its metric; what it says carries the trust level `reported`.

The candidate's files are laid over a copy of the checkout, the published command runs there, and its output is read
strictly: every pattern exactly once, no failure word, exit code 0. All other files are compared by their hashes before
and after, and the time that is claimed with the judge's own clock. What this cannot see: a program that computes its
metric dishonestly within the time that it says. It runs as the user, with network and device, in no sandbox.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import math
import os
import re
import secrets
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from evo.benchmark import REPORTED, UserMistake, from_environment
from evo.judges.loss import equivalent_seconds
from evo.judges.turns import OUTPUT_LIMIT, Verdict
from evo.outcome import Outcome, Status, tail
from evo.sandbox import Limits, Sandbox

JUDGE_VERSION = "reported-1"
PRELOAD = ()
HASHED = 8 << 20  # bytes; of larger files size and times stand for the content
CLOCK_S = 0.5  # that a claimed time may exceed the judge's: output takes a moment to arrive
MARK = "EVO_TURN"  # in the environment of everything that a turn starts, also of what leaves its process group
GROUPS = ("score", "loss", "seconds", "milliseconds")  # names with a meaning; other groups become measures


@dataclass(frozen=True)
class Settings:
    checkout: str  # the clone; $NAME is read from the environment
    command: tuple[str, ...]  # run in the copy of the checkout
    patterns: tuple[str, ...]  # one line of output each, exactly once; named groups give score and measures
    data: tuple[str, ...] = ()  # files and folders elsewhere that must not change
    linked: tuple[str, ...] = (".git", ".venv", "data")  # of the checkout, not copied: data and environments
    ignored: tuple[str, ...] = ()  # patterns of files that runs write into the checkout
    variables: tuple[str, ...] = ()  # of the user's environment that the command sees, or NAME=value
    failures: tuple[str, ...] = ("FAIL",)  # a line that is one of these is a failure
    began: str = ""  # the line with which the claimed time begins; the start of the command where there is none
    untimed_s: float = 600.0  # that the judge's clock may exceed the claimed time
    least_s: float = 0.0  # of claimed time
    objective: str = "metric"  # "metric": the group `score`; "race": equivalent seconds from `loss` and the time
    target: float | None = None
    slope: float | None = None
    band: float | None = None

    def __post_init__(self) -> None:
        if self.objective not in ("metric", "race"):
            raise UserMistake(f"objective: expected metric or race, found '{self.objective}'")
        names: set[str] = set()
        for pattern in (*self.patterns, self.began):
            try:
                names |= re.compile(pattern).groupindex.keys()
            except re.error as error:
                raise UserMistake(f"patterns: expected regular expressions, found {pattern!r}: {error}") from None
        needed = {"score"} if self.objective == "metric" else {"loss"}
        if missing := needed - names:
            raise UserMistake(f"patterns: expected a group named '{missing.pop()}', found {', '.join(sorted(names))}")
        if not names & {"seconds", "milliseconds"}:
            raise UserMistake("patterns: expected a group 'seconds' or 'milliseconds', to be checked by a clock")
        race = {"target": self.target, "slope": self.slope, "band": self.band}
        if self.objective == "race" and (absent := [name for name, value in race.items() if value is None]):
            raise UserMistake(f"objective race needs target, slope and band; missing: {', '.join(absent)}")


def rules(settings: Settings, limits: Limits, root: Path) -> list[str]:
    s = settings
    found = [
        f"The program is a checkout in which `{' '.join(s.command)}` is run and prints its metric; the printed lines "
        f"must stay as they are. It is ended after {limits.wall_s:g} s by the wall clock.",
    ]
    if s.objective == "race":
        assert s.target is not None and s.slope is not None and s.band is not None
        found.append(
            f"Score: t * exp((L - {s.target:g}) / {s.slope:g}), L the loss that it prints. L above "
            f"{s.target + s.band:g} is WRONG; L below {s.target - s.band:g} counts as {s.target - s.band:g}."
        )
    return found


@dataclass(frozen=True)
class _Printed:
    """What a command wrote, line by line with the judge's time of each, and how it ended."""

    lines: Sequence[tuple[float, str]]
    code: int | None  # None: killed at the limit
    seconds: float


@dataclass
class ReportedJudge:
    settings: Settings
    limits: Limits
    checkout: Path
    data: tuple[Path, ...]
    frozen: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.frozen = self._hashes(self.checkout, ())

    def judge(self, program: Path, *, stage: str, seed: int) -> Outcome:
        """The seed is told in EVO_SEED, which upstream programs do not read: their runs repeat with their own."""
        measures: dict[str, float] = {}
        try:
            return self._judge(program, seed, measures)
        except Verdict as verdict:
            return Outcome(verdict.status, None, measures, tail(verdict.detail), REPORTED)

    def fingerprint(self) -> Mapping[str, str]:
        return {
            "judge": JUDGE_VERSION,
            "trust": REPORTED,
            "frozen": hashlib.sha256(json.dumps(self.frozen, sort_keys=True).encode()).hexdigest()[:16],
            "settings": json.dumps(asdict(self.settings), sort_keys=True),
            "limits": json.dumps(asdict(self.limits), sort_keys=True),
            "device": _devices(),
        }

    def close(self) -> None:
        """Nothing is held between evaluations."""

    def _judge(self, program: Path, seed: int, measures: dict[str, float]) -> Outcome:
        with tempfile.TemporaryDirectory(prefix="evo-reported-") as folder:
            copy = Path(folder) / "checkout"
            self._lay_out(program, copy)
            own = tuple(p.relative_to(program).as_posix() for p in program.rglob("*") if p.is_file())
            before = self._hashes(copy, own)
            printed = self._run(copy, seed)
            changed = _difference(before, self._hashes(copy, own))
            changed += _difference(self.frozen, self._hashes(self.checkout, ()))
        measures["wall_s"] = printed.seconds
        if changed:
            raise Verdict(
                Status.CHEATED, f"expected frozen files as they were, found changed: {', '.join(changed[:5])}"
            )
        said = "\n".join(line for _, line in printed.lines).strip()[-OUTPUT_LIMIT:]
        if printed.code is None:
            raise Verdict(Status.TIMEOUT, f"still running after {self.limits.wall_s:g} s; its last output:\n{said}")
        if printed.code != 0:
            raise Verdict(Status.CRASHED, f"ended with exit code {printed.code}; its last output:\n{said}")
        if failure := next((line for _, line in printed.lines if line.strip() in self.settings.failures), None):
            raise Verdict(Status.CRASHED, f"printed {failure.strip()!r}; its last output:\n{said}")
        found, at = self._read(printed.lines)
        self._check_time(found, at, printed, measures)
        measures.update({name: value for name, value in found.items() if name not in ("score", "milliseconds")})
        return Outcome.passed(self._score(found, measures), measures=measures, trust=REPORTED)

    # Files.

    def _lay_out(self, program: Path, copy: Path) -> None:
        """A copy of the checkout with the candidate's files in it; data and environments are links."""
        linked = {name for name in self.settings.linked if (self.checkout / name).exists()}
        shutil.copytree(
            self.checkout,
            copy,
            symlinks=True,
            ignore=lambda folder, names: {*(linked if Path(folder) == self.checkout else ()), "__pycache__"},
        )
        for name in linked:
            (copy / name).symlink_to((self.checkout / name).resolve())
        shutil.copytree(program, copy, dirs_exist_ok=True)

    def _hashes(self, root: Path, own: Sequence[str]) -> dict[str, str]:
        """Of every file that must not change: below `root` but for `own`, and the data elsewhere."""
        found: dict[str, str] = {}
        for path in _files(root, {".git", ".venv", "__pycache__"}):
            name = path.relative_to(root).as_posix()
            if name not in own and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.settings.ignored):
                found[name] = _content(path)
        for path in _files(root / ".venv", {"__pycache__"}) if (root / ".venv").is_dir() else ():
            if path.suffix in (".py", ".so"):  # many: their sizes and times must do
                found[path.relative_to(root).as_posix()] = _stamp(path)
        for place in self.data:
            for path in _files(place, set()):
                found[str(path)] = _content(path)
        return found

    # The run.

    def _run(self, copy: Path, seed: int) -> _Printed:
        mark = secrets.token_hex(16)
        with tempfile.TemporaryDirectory(prefix="evo-reported-") as scratch:
            environment = {**self._environment(scratch), MARK: mark, "EVO_SEED": str(seed)}
            began = time.monotonic()
            try:
                process = subprocess.Popen(
                    self.settings.command,
                    cwd=copy,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                name = self.settings.command[0]
                raise UserMistake(f"command: expected a program '{name}', found {error.strerror}; install it") from None
            with _ended(process, mark):
                lines, code = self._collect(process, began)
                return _Printed(lines, code, time.monotonic() - began)

    def _collect(self, process: subprocess.Popen[bytes], began: float) -> tuple[list[tuple[float, str]], int | None]:
        assert process.stdout is not None
        output = process.stdout.fileno()
        os.set_blocking(output, False)
        lines: list[tuple[float, str]] = []
        rest, size = b"", 0
        with selectors.DefaultSelector() as ready:
            ready.register(output, selectors.EVENT_READ)
            while (left := began + self.limits.wall_s - time.monotonic()) > 0:
                if ready.select(min(left, 0.2)):
                    data = os.read(output, 1 << 16)
                    size += len(data)
                    if size > self.limits.output_kb << 10:
                        raise Verdict(Status.CRASHED, f"wrote more than {self.limits.output_kb} KB of output")
                    *whole, rest = (rest + data).split(b"\n")
                    now = time.monotonic() - began
                    lines += [(now, _shown(line)) for line in whole]
                    if data:
                        continue
                    lines += [(now, _shown(rest))] if rest else []
                    with suppress(subprocess.TimeoutExpired):
                        return lines, process.wait(max(0.0, left))
                    return lines, None
                if process.poll() is not None and not ready.select(0):
                    return [*lines, (time.monotonic() - began, _shown(rest))], process.returncode
        return lines, None

    def _environment(self, scratch: str) -> dict[str, str]:
        """Built up and not inherited: no key of the user's reaches a candidate."""
        found = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
        for entry in self.settings.variables:
            name, equals, value = entry.partition("=")
            if equals:
                found[name] = from_environment(value, f"variables: {name}")
            elif name in os.environ:
                found[name] = os.environ[name]
        return {**found, "TMPDIR": scratch, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}

    # What it says.

    def _read(self, lines: Sequence[tuple[float, str]]) -> tuple[dict[str, float], float]:
        """The named numbers of every pattern's one line, and when the last of these lines came."""
        found: dict[str, float] = {}
        last = 0.0
        for pattern in self.settings.patterns:
            matches = [(at, match) for at, line in lines if (match := re.search(pattern, line.strip()))]
            if len(matches) != 1:
                raise Verdict(Status.WRONG, f"output: expected exactly one line like {pattern!r}, found {len(matches)}")
            at, match = matches[0]
            last = max(last, at)
            for name, text in match.groupdict().items():
                try:
                    found[name] = float(text)
                except (TypeError, ValueError):
                    found[name] = math.nan
                if not math.isfinite(found[name]):
                    raise Verdict(Status.WRONG, f"output: expected a finite number for '{name}', found {text!r}")
        return found, last

    def _check_time(self, found: dict[str, float], at: float, printed: _Printed, measures: dict[str, float]) -> None:
        s = self.settings
        claimed = found.setdefault("seconds", found.get("milliseconds", math.nan) / 1000)
        start = 0.0
        if s.began:
            starts = [when for when, line in printed.lines if re.search(s.began, line)]
            if not starts:
                raise Verdict(Status.WRONG, f"output: expected a line like {s.began!r}, with which time begins")
            start = starts[0]
        measures["clock_s"] = at - start
        if claimed > at - start + CLOCK_S:
            raise Verdict(
                Status.CHEATED, f"claims {claimed:.3f} s of training in {at - start:.3f} s of the judge's clock"
            )
        if claimed < s.least_s:
            raise Verdict(Status.WRONG, f"claims {claimed:.3f} s of training, expected at least {s.least_s:g} s")
        if at - start - claimed > s.untimed_s:
            raise Verdict(
                Status.WRONG,
                f"claims {claimed:.3f} s of training in {at - start:.3f} s of the judge's clock; expected at most "
                f"{s.untimed_s:g} s beside it",
            )

    def _score(self, found: Mapping[str, float], measures: Mapping[str, float]) -> float:
        s = self.settings
        if s.objective == "metric":
            return found["score"]
        assert s.target is not None and s.slope is not None and s.band is not None
        score = equivalent_seconds(found["seconds"], found["loss"], target=s.target, slope=s.slope, band=s.band)
        if score is None:
            raise Verdict(Status.WRONG, f"loss {found['loss']:.4f} is above target + band = {s.target:g} + {s.band:g}")
        return score


def _shown(line: bytes) -> str:
    """What a terminal shows of a line that was written over: the text after the last carriage return."""
    return line.decode(errors="replace").rstrip("\r").rpartition("\r")[2]


def _files(place: Path, skipped: set[str]) -> Iterator[Path]:
    if place.is_file():
        yield place
    for folder, below, names in os.walk(place, followlinks=False):
        below[:] = sorted(name for name in below if name not in skipped)
        yield from (path for name in sorted(names) if (path := Path(folder, name)).is_file())


def _content(path: Path) -> str:
    return _stamp(path) if path.stat().st_size > HASHED else hashlib.sha256(path.read_bytes()).hexdigest()


def _stamp(path: Path) -> str:
    """Size and times; nobody but root can set the last one back."""
    about = path.stat()
    return f"{about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}"


def _difference(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Names of files that are other than before, or gone; new files are a program's own business."""
    return sorted(name for name, content in before.items() if after.get(name) != content)


@contextmanager
def _ended(process: subprocess.Popen[bytes], mark: str) -> Iterator[None]:
    """Afterwards nothing that the process started is left, whatever group or session it has gone to."""
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                        os.kill(int(entry.name), signal.SIGKILL)


def _devices() -> str:
    """The GPUs as the driver names them, or the processor's architecture: times of different ones do not compare."""
    try:
        names = [path.read_text() for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    except OSError:
        names = []
    models = [
        line.partition(":")[2].strip() for text in names for line in text.splitlines() if line.startswith("Model")
    ]
    return ", ".join(models) or os.uname().machine


def hidden(settings: Settings, root: Path) -> tuple[Path, ...]:
    return ()


def judge_of(settings: Settings, limits: Limits, root: Path, sandbox: Sandbox) -> ReportedJudge:
    """The sandbox stays unused: the published programs need the user's environment, network caches and devices."""
    checkout = Path(from_environment(settings.checkout, "checkout")).expanduser().resolve()
    if not checkout.is_dir():
        raise UserMistake(f"checkout: expected the folder of a clone, found none at {checkout}")
    data = tuple(Path(from_environment(place, "data")).expanduser() for place in settings.data)
    if missing := [str(place) for place in data if not place.exists()]:
        raise UserMistake(f"data: expected {missing[0]}, found none; prepare it as the checkout's README says")
    return ReportedJudge(settings, limits, checkout, data)
