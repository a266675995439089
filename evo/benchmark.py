"""A benchmark is a folder: benchmark.toml, the program that patches change, and what its judge needs."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import math
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

from evo.genome import is_plain

SHIPPED = Path(__file__).resolve().parent.parent / "benchmarks"
REPORTED = "reported"  # the trust in scores that a program prints itself; they never mix with isolated ones
KERNELS = "sol:"
CATEGORIES = ("optimizer", "attention", "kernel", "precision")


class UserMistake(Exception):
    """Something a user can put right; entry points print the sentence and exit with 2."""


T = TypeVar("T")


def settings(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """Builds a frozen dataclass from a TOML table; an unknown or missing key or a wrong type is the user's mistake."""
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise UserMistake(f"{where}: unknown key '{key}'; valid are {', '.join(sorted(known))}")
    for name, f in known.items():
        if name not in table and f.default is MISSING and f.default_factory is MISSING:
            raise UserMistake(f"{where}: '{name}' is missing; add it ({hints[name]})")
    return cls(**{key: _typed(value, hints[key], f"{where}.{key}") for key, value in table.items()})


def _typed(value: Any, hint: Any, where: str) -> Any:
    allowed = [a for a in get_args(hint) if isinstance(a, type)] or [hint]
    if isinstance(value, list) and any(str(a).startswith("tuple") for a in (hint, *get_args(hint))):
        return tuple(value)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = isinstance(hint, type) or (isinstance(hint, UnionType) and len(allowed) == len(get_args(hint)))
    if plain and not any(isinstance(a, type) and isinstance(value, a) for a in allowed):
        raise UserMistake(f"{where}: expected {getattr(hint, '__name__', hint)}, found {value!r}")
    return value


@dataclass(frozen=True)
class Objective:
    """What the score means. `gain` says how two scores compare: the log of their ratio, or their difference."""

    name: str
    unit: str
    direction: str  # "minimize" or "maximize"
    gain: str  # "log-ratio" or "difference"

    def __post_init__(self) -> None:
        if self.direction not in ("minimize", "maximize"):
            raise UserMistake(f"[objective] direction: expected minimize or maximize, found '{self.direction}'")
        if self.gain not in ("log-ratio", "difference"):
            raise UserMistake(f"[objective] gain: expected log-ratio or difference, found '{self.gain}'")

    def gain_over(self, base: float, score: float) -> float:
        """How much better `score` is than `base`; larger is better, 0 is equal."""
        sign = 1.0 if self.direction == "maximize" else -1.0
        if self.gain == "log-ratio":
            if base <= 0 or score <= 0:
                raise ValueError(
                    f"a log-ratio needs positive scores, found {base} and {score}; use gain = 'difference'"
                )
            return sign * math.log(score / base)
        return sign * (score - base)

    def complaint(self, score: float) -> str:
        """Why gains cannot be made of a score, or an empty text."""
        if self.gain == "log-ratio" and score <= 0:
            return (
                f"score {score:g}: gain = 'log-ratio' needs scores above 0; use gain = 'difference' for this objective"
            )
        return ""

    def describe(self, gain: float) -> str:
        """A gain as a person says it: '12.3% fewer s' or '0.012 bpb'."""
        if self.gain == "log-ratio":
            percent = 100 * (1 - math.exp(-gain)) if self.direction == "minimize" else 100 * (math.exp(gain) - 1)
            return f"{percent:+.1f}%"
        return f"{gain:+.4g} {self.unit}"


@dataclass(frozen=True)
class Noise:
    """How far scores of one program scatter, measured by `evo.check`, in units of gain."""

    sd: float  # of one evaluation
    df: float  # degrees of freedom behind sd
    typical_gain: float  # median absolute gain of single patches: the unit of search
    pair_sd: float | None = None  # of a paired difference; sqrt(2) sd where it was not measured

    def __post_init__(self) -> None:
        for name in ("sd", "df", "typical_gain", "pair_sd"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserMistake(
                    f"[noise] {name}: expected a number above 0, found {value}; for a deterministic score give the "
                    "smallest difference worth a word"
                )

    @property
    def of_pair(self) -> float:
        return self.pair_sd if self.pair_sd is not None else math.sqrt(2) * self.sd


UNMEASURED = Noise(sd=1e-12, df=1, typical_gain=1e-12)  # of a profile that is read to be measured or judged by hand


@dataclass(frozen=True)
class Audit:
    """What is refused unjudged, and what is put in quarantine although it passed; see evo/audit.py."""

    program_kb: float = 256.0  # of the whole program's text; more is refused
    carried_kb: float = 24.0  # that the compressed program may have beyond the compressed base; more is refused
    flags: bool = True  # whether words that no honest program needs lead to quarantine
    jump: float | None = None  # the largest gain over its best parent that is believed of one evaluation
    bound: float | None = None  # the best score that is thought possible
    gap: float | None = None  # how far the measure `gap` may exceed the base's
    floor: dict = field(default_factory=dict)  # measure -> the least value that the work itself takes

    def __post_init__(self) -> None:
        for name in ("program_kb", "carried_kb", "jump", "gap"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserMistake(f"[audit] {name}: expected a number above 0, found {value}")
        for name, value in self.floor.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UserMistake(f"[audit] floor.{name}: expected a number, found {value!r}")


@dataclass(frozen=True)
class Record:
    """The record rule of a race; see evo/record.py."""

    target: float  # the mean loss must be at or under it
    constant: str  # the module-level setting that sets the length of the schedule
    n: int = 10  # fresh seeds, fixed before the first
    loss: str = "loss"  # names of the judge's measures
    time: str = "seconds"

    def __post_init__(self) -> None:
        if self.n < 3:
            raise UserMistake(f"[record] n: expected 3 seeds or more, found {self.n}; a t-test needs a spread")


@dataclass(frozen=True)
class Budget:
    evaluations: int = 100
    minutes: float | None = None
    reserve: int | None = None  # evaluations kept for finalists and certification; None: what the noise asks for
    base_runs: int = 3


@dataclass(frozen=True)
class Profile:
    name: str
    settings: Mapping[str, Any]  # the judge's own table, which the judge types and checks
    limits: Mapping[str, Any]  # of the sandbox, typed there
    noise: Noise
    budget: Budget
    audit: Audit = field(default_factory=Audit)
    record: Record | None = None


@dataclass(frozen=True)
class Benchmark:
    name: str
    root: Path
    judge: str
    editable: tuple[str, ...]
    objective: Objective
    regions: Mapping[str, Sequence[str]]
    profiles: Mapping[str, Profile]
    summary: str = ""
    default_profile: str = ""
    program_folder: str = "program"
    base: Mapping[str, str] = field(default_factory=dict)  # path -> text, every file of the base program

    @property
    def base_hash(self) -> str:
        return tree_hash(self.base)

    @property
    def trust(self) -> str:
        return REPORTED if self.judge == REPORTED else "isolated"

    def is_editable(self, path: str) -> bool:
        """True for a file that patches may change; never for a path that leads out of the program's folder."""
        return is_plain(path) and any(fnmatch.fnmatchcase(path, pattern) for pattern in self.editable)

    def profile(self, name: str | None) -> Profile:
        chosen = name or self.default_profile
        if chosen not in self.profiles:
            raise UserMistake(f"{self.name}: no profile '{chosen}'; there are {', '.join(sorted(self.profiles))}")
        return self.profiles[chosen]


@dataclass(frozen=True)
class _Head:
    """The keys at the top of benchmark.toml."""

    name: str
    judge: str
    editable: tuple[str, ...]
    profiles: dict
    objective: dict
    summary: str = ""
    default_profile: str = ""
    program: str = "program"
    regions: dict = field(default_factory=dict)


def load(name_or_folder: str, profile: str | None = None, *, measured: bool = True) -> Benchmark:
    """Reads a shipped benchmark by name or any benchmark by folder; its base is the program of `profile`.

    Profiles without a noise table are a mistake where they must be `measured`, else their noise is UNMEASURED.
    `sol:TASK` or the folder of a kernel problem is a kernel task, with the one benchmark.toml of all of them.
    """
    root = Path(name_or_folder)
    if not root.is_dir() and (SHIPPED / name_or_folder).is_dir():
        root = SHIPPED / name_or_folder
    if name_or_folder.startswith(KERNELS):
        root = kernel_folder(name_or_folder)
    file = root / "benchmark.toml"
    kernel = not file.is_file() and (root / "definition.json").is_file()
    if kernel:
        file = SHIPPED / "sol" / "benchmark.toml"  # one for all kernel tasks
    if not file.is_file():
        shipped = ", ".join(sorted(p.parent.name for p in SHIPPED.glob("*/benchmark.toml")))
        raise UserMistake(f"no benchmark '{name_or_folder}': expected a folder with benchmark.toml or one of {shipped}")
    try:
        head = settings(_Head, tomllib.loads(file.read_text()), file.name)
    except tomllib.TOMLDecodeError as error:
        raise UserMistake(f"{file} is not valid TOML: {error}") from error
    if not head.profiles:
        raise UserMistake(f"{file.name}: expected at least one [profiles.NAME] table, found none")
    for category in head.regions:
        if category not in CATEGORIES:
            raise UserMistake(
                f"{file.name} [regions]: unknown category '{category}'; valid are {', '.join(CATEGORIES)}"
            )
    default_profile = head.default_profile or next(iter(head.profiles))
    program = head.profiles.get(profile or default_profile, {}).get("program", head.program)
    if program.startswith("$"):  # a user's checkout, of which only what may change is the program
        checkout = Path(from_environment(program, f"{file.name} program")).expanduser()
        files = {path for pattern in head.editable for path in checkout.glob(pattern) if path.is_file()}
        base = {path.relative_to(checkout).as_posix(): path.read_text() for path in sorted(files)}
    else:
        base = read_tree(root / program)
    if not base and kernel:
        base = {"kernel.py": _kernel_of_reference(root)}
    if not base and (root / "tasks").is_dir():
        names = ", ".join(sorted(p.parent.name for p in root.glob("tasks/*/definition.json")))
        raise UserMistake(
            f"{head.name} is a suite; `evo.run --benchmark sol` searches all of it, sol:TASK is one: {names}"
        )
    if not base:
        raise UserMistake(f"{file.name}: the program folder '{program}' holds no file; put the base program there")
    benchmark = Benchmark(
        name=f"{head.name}-{root.name}" if kernel else head.name,
        root=root.resolve(),
        judge=head.judge,
        editable=head.editable,
        objective=settings(Objective, head.objective, f"{file.name} [objective]"),
        regions=head.regions,
        profiles={key: _profile(key, table, file.name, measured) for key, table in head.profiles.items()},
        summary=head.summary,
        default_profile=default_profile,
        program_folder=program,
        base=base,
    )
    if not any(benchmark.is_editable(path) for path in base):
        raise UserMistake(f"{file.name}: editable = {list(head.editable)} matches no file of '{program}'")
    return benchmark


def kernel_folder(name: str) -> Path:
    """The folder behind `sol:TASK` (shipped) or `sol:FOLDER` (a user's, of one problem or of many)."""
    rest = name.removeprefix(KERNELS)
    for folder in (SHIPPED / "sol" / "tasks" / rest, Path(rest)):
        if rest and folder.is_dir():
            return folder
    names = ", ".join(sorted(p.parent.name for p in SHIPPED.glob("sol/tasks/*/definition.json")))
    raise UserMistake(f"no kernel task '{name}': expected sol:FOLDER or sol: with one of {names}")


def _kernel_of_reference(folder: Path) -> str:
    """A first kernel for a problem that brings none: its reference, copied into the outputs."""
    definition = json.loads((folder / "definition.json").read_text())
    reference = definition.get("reference") or (folder / "reference.py").read_text()
    return f"""{reference.rstrip()}


reference = run


def run(*arguments):
    inputs, outputs = arguments[: {len(definition["inputs"])}], arguments[{len(definition["inputs"])} :]
    found = reference(*inputs)
    found = tuple(found.values()) if isinstance(found, dict) else found
    for output, value in zip(outputs, found if isinstance(found, (tuple, list)) else (found,)):
        output.copy_(value)
"""


def _profile(name: str, table: Mapping[str, Any], file: str, measured: bool) -> Profile:
    where = f"{file} [profiles.{name}]"
    rest = {k: v for k, v in table.items() if k not in ("limits", "noise", "budget", "audit", "record", "program")}
    if "noise" not in table and measured:
        raise UserMistake(
            f"{where}: [profiles.{name}.noise] is missing; "
            f"`python -m evo.check FOLDER --profile {name}` measures and prints it"
        )
    return Profile(
        name=name,
        settings=rest,
        limits=table.get("limits", {}),
        noise=settings(Noise, table["noise"], f"{where}.noise") if "noise" in table else UNMEASURED,
        budget=settings(Budget, table.get("budget", {}), f"{where}.budget"),
        audit=settings(Audit, table.get("audit", {}), f"{where}.audit"),
        record=settings(Record, table["record"], f"{where}.record") if "record" in table else None,
    )


def from_environment(text: str, where: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text with every $NAME replaced; a variable that is not set is the user's mistake."""

    def value(match: re.Match[str]) -> str:
        if not environment.get(match[1]):
            raise UserMistake(f"{where}: expected the variable {match[1]}, found none; set it, as in {match[1]}=/path")
        return environment[match[1]]

    return re.sub(r"\$(\w+)", value, text)


def read_tree(folder: Path) -> dict[str, str]:
    """Every text file below a folder, by its path with forward slashes."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    tree = {}
    for file in files:
        try:
            tree[file.relative_to(folder).as_posix()] = file.read_text()
        except UnicodeDecodeError as error:
            raise UserMistake(f"{file}: expected UTF-8 text, found {error.reason}; a program is text alone") from error
    return tree


def write_tree(tree: Mapping[str, str], folder: Path) -> None:
    """Writes a program; files and folders are readable by the sandbox's user."""
    root = os.fspath(folder)
    if not os.path.isdir(root):
        os.makedirs(root, exist_ok=True)
    os.chmod(root, 0o755)
    for path, text in tree.items():
        name = f"{root}/{path}"
        if "/" in path:
            os.makedirs(os.path.dirname(name), exist_ok=True)
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.fchmod(file, 0o644)  # whatever the umask
            data = memoryview(text.encode())
            while data:
                data = data[os.write(file, data) :]
        finally:
            os.close(file)


def tree_hash(tree: Mapping[str, str]) -> str:
    digest = hashlib.sha256()
    for path in sorted(tree):
        digest.update(f"{path}\0{len(tree[path].encode())}\0".encode() + tree[path].encode())
    return digest.hexdigest()[:16]
