"""Small benchmarks and a deterministic judge that tests share."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from evo import benchmark as benchmarks
from evo import certify, chance, journal, search, worker
from evo.benchmark import Benchmark
from evo.claims import Claims, Holder
from evo.genome import Genome, Patch, patch_between
from evo.outcome import Outcome, Status
from evo.rundir import RunDir, RunSettings
from evo.sandbox import Level, Sandbox


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--exploit-table", type=Path, metavar="FILE", help="write what became of every exploit to FILE")


class ExploitTable:
    """What the tests of exploits and of their honest twins found, as Markdown."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], dict[str, tuple[str, Outcome, str]]] = {}

    def add(self, benchmark: str, folder: str, name: str, tries: str, found: Outcome, gain: float | None) -> None:
        shown = found.status.value + (f" {gain:+.2f}" if gain is not None else "")
        self.rows.setdefault((benchmark, name), {})[folder] = (tries, found, shown)

    def markdown(self) -> str:
        lines = []
        for benchmark in dict.fromkeys(key[0] for key in self.rows):
            lines += [f"| {benchmark} | tries to | result | why | honest twin |", "|---|---|---|---|---|"]
            for (_, name), found in sorted(self.rows.items()):
                if _ == benchmark and "exploits" in found:
                    tries, outcome, shown = found["exploits"]
                    why = " ".join(outcome.detail.split()).replace("|", "/")
                    twin = found["honest"][2] if "honest" in found else ""
                    lines.append(f"| {name} | {tries} | {shown} | {why[:110]} | {twin} |")
            lines.append("")
        return "\n".join(lines)


@pytest.fixture(scope="session")
def exploit_table(request: pytest.FixtureRequest) -> Iterator[ExploitTable]:
    table = ExploitTable()
    yield table
    if (file := request.config.getoption("--exploit-table")) is not None:
        file.write_text(table.markdown())


class Unisolated(Sandbox):
    """What is left on a machine that cannot isolate, for EVO_SANDBOX of tests/test_sandbox.py."""

    def __init__(self, **options: Any) -> None:
        super().__init__(level=Level(allow_unisolated=True), **options)


def opened_way(place: Path) -> str:
    """Shell lines after which an ordinary user reaches interpreter and repository, which may lie in somebody's home.

    For a mount namespace of their own: a closed folder on the way is covered by an empty one in which both stand.
    """
    ways = {Path(sys.base_prefix), Path(__file__).resolve().parent.parent}
    closed = {
        way: next((path for path in [*reversed(way.parents)] if path.stat().st_mode & 0o5 != 0o5), None) for way in ways
    }
    covered = {way: path for way, path in closed.items() if path is not None}
    lines = []
    for number, way in enumerate(covered):
        lines.append(f"mkdir -p {place}/way{number} && mount --rbind {way} {place}/way{number}")
    lines += [f"mount -t tmpfs -o mode=755 open {path}" for path in sorted(set(covered.values()))]
    for number, way in enumerate(covered):
        lines.append(f"mkdir -p {way} && mount --move {place}/way{number} {way}")
    return "".join(f"{line}\n" for line in lines)


PROGRAM = """\
RATE = 0.1
DEPTH = 4
WIDTH = 8


def optimizer(x):
    return x * RATE


def attention(x):
    return x + DEPTH


def solve():
    return optimizer(attention(WIDTH))
"""

TOML = """\
name = "toy"
judge = "answer"
editable = ["solve.py"]
[objective]
name = "cost"
unit = "s"
direction = "minimize"
gain = "log-ratio"
[regions]
optimizer = ["optimizer", "rate"]
attention = ["attention", "depth"]
[profiles.main]
[profiles.main.noise]
sd = 0.02
df = 30
typical_gain = 0.02
[profiles.main.budget]
evaluations = 60
reserve = 46
base_runs = 2
"""


@pytest.fixture
def toy(tmp_path: Path) -> Benchmark:
    """A benchmark folder whose program is a few lines of arithmetic."""
    root = tmp_path / "toy"
    (root / "program").mkdir(parents=True)
    (root / "program" / "solve.py").write_text(PROGRAM)
    (root / "benchmark.toml").write_text(TOML)
    return benchmarks.load(str(root))


class TableJudge:
    """A deterministic judge: the score follows from the numbers in the program, noise from the seed alone."""

    def __init__(self, noise: float = 0.02) -> None:
        self.noise = noise
        self.judged = 0

    def judge(self, program: Path, *, stage: str, seed: int) -> Outcome:
        self.judged += 1
        space: dict[str, float] = {}
        exec((program / "solve.py").read_text(), space)
        if space["DEPTH"] > 30:
            return Outcome.failed(Status.CRASHED, "too deep")
        cost = 5.0 * math.exp(0.3 * math.log(space["RATE"] / 0.4) ** 2 + 0.1 * math.log(space["WIDTH"] / 16) ** 2)
        unit = (chance.number("noise", seed) / 2**63 - 0.5) * math.sqrt(12)
        return Outcome.passed(cost * math.exp(self.noise * unit), artifact=str(chance.number(seed, cost)))

    def fingerprint(self) -> Mapping[str, str]:
        return {"device": "table"}

    def close(self) -> None:
        pass


def settings_for(benchmark: Benchmark, **changes: object) -> RunSettings:
    profile = benchmark.profile(None)
    found = dict(
        benchmark=str(benchmark.root),
        profile=profile.name,
        base=benchmark.base_hash,
        seed=0,
        threads=1,
        novelty=1.0,
        control=None,
        evaluations=profile.budget.evaluations,
        minutes=None,
        reserve=profile.budget.reserve or certify.LEAST_RESERVE,
        base_runs=profile.budget.base_runs,
        noise_sd=profile.noise.sd,
        noise_df=profile.noise.df,
        pair_sd=profile.noise.of_pair,
        typical_gain=profile.noise.typical_gain,
    )
    return RunSettings(**{**found, **changes})  # type: ignore[arg-type]


def new_worker(
    run: RunDir, benchmark: Benchmark, judge: TableJudge, name: str = "w", **fields: object
) -> worker.Worker:
    ticks = iter(range(10**9))
    taken = [file.stem for file in run.events.glob("*.jsonl")]
    return worker.Worker(
        run=run,
        benchmark=benchmark,
        state=search.State(run.settings(), benchmark),
        journal=journal.Journal(run.events, journal.writer_name(name, 1, taken), lambda: float(next(ticks))),
        journals=journal.Journals(run.events),
        claims=Claims(run.claims, Holder(name, 1, 0)),
        library=fields.pop("library", None) or library_of(benchmark),  # type: ignore[arg-type]
        open_judge=lambda: nullcontext(judge),
        clock=lambda: 0.0,
        exclusive=False,
        **fields,  # type: ignore[arg-type]
    )


def library_of(benchmark: Benchmark) -> list[Patch]:
    """Techniques for the toy: some help, one harms, one breaks it."""
    text = benchmark.base["solve.py"]
    edits = [
        ("RATE = 0.1", "RATE = 0.2", "twice the rate"),
        ("WIDTH = 8", "WIDTH = 12", "wider"),
        ("DEPTH = 4", "DEPTH = 64", "far too deep"),
        ("return x + DEPTH", "return x + DEPTH + 0", "adds nothing"),
        ("return x * RATE", "return RATE * x", "turns a product"),
    ]
    base = Genome(benchmark.base_hash)
    return [
        patch_between(base, benchmark.base, {"solve.py": text.replace(old, new)}, hypothesis=why)
        for old, new, why in edits
    ]


@pytest.fixture
def run_of(tmp_path: Path) -> Iterator[object]:
    def make(benchmark: Benchmark, name: str = "run", **changes: object) -> RunDir:
        run = RunDir(tmp_path / name)
        run.create(settings_for(benchmark, **changes), benchmark.base)
        return run

    yield make
