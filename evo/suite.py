"""Searches many kernel tasks together: one run and one archive a task, a library between them, a budget in slices.

    python -m evo.run --benchmark sol                 all shipped tasks
    python -m evo.run --benchmark sol:FOLDER          a user's own problems, as many as load

OUT/<task>/ is an ordinary run; OUT/suite.jsonl has a line for every slice of evaluations that a task was given;
OUT/library/kernel/ holds what was certified on one task as patches for the others, and what their prompts are told.
The same command on the same OUT goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from evo import benchmark as benchmarks
from evo import carry, journal, problem, search, sol
from evo.benchmark import KERNELS, SHIPPED, UserMistake
from evo.rundir import RunDir

SLICE = 28  # evaluations of one turn of a task: base runs and validation take about twenty of its first
FLOOR = 0.5  # of an equal share of the slices goes to every task whatever it promises
FADE = 0.6  # a slice's gain counts so much for each slice that came after it
HOPE = 0.15  # of what a task lacks to 1, the gain that a slice is expected to bring before anything is known
CURIOSITY = 0.03  # of what a task lacks to 1


@dataclass(frozen=True)
class Slice:
    """One turn of one task: evaluations granted so far, its best score then, what the turn gained."""

    task: str
    evaluations: int
    score: float | None
    gain: float
    seconds: float


def promise(task: str, history: Sequence[Slice]) -> float:
    """The expected gain of a task's next slice: its faded mean gain, hope where little is known, some curiosity.

    Never more than what the task lacks to 1.
    """
    own = [s for s in history if s.task == task]
    best = max((s.score for s in own if s.score is not None), default=0.0)
    lacks = max(0.0, 1.0 - best)
    weights = [FADE**age for age in range(len(own))]
    seen = sum(w * max(0.0, s.gain) for w, s in zip(weights, reversed(own)))
    doubt = 1 / (1 + len(own))
    rate = (seen + doubt * HOPE * lacks) / (sum(weights) + doubt)
    return min(lacks, rate + CURIOSITY * lacks * math.sqrt(math.log(1 + len(history)) * doubt))


def choose(tasks: Sequence[str], history: Sequence[Slice]) -> str:
    """The next task: whoever is below the floor, else whoever promises most; equals by name."""
    counts = {task: sum(s.task == task for s in history) for task in tasks}
    fewest = min(counts.values())
    if fewest == 0 or fewest < math.floor(FLOOR * len(history) / len(tasks)):
        return min(task for task in sorted(tasks) if counts[task] == fewest)
    return max(sorted(tasks), key=lambda task: promise(task, history))


def read(file: Path) -> list[Slice]:
    """The slices of a suite; a torn last line is as good as never written."""
    if not file.is_file():
        return []
    lines = file.read_text().split("\n")[:-1]
    return [Slice(**json.loads(line)) for line in lines]


def problems_of(name: str) -> tuple[dict[str, str], dict[str, str]]:
    """Task -> what `--benchmark` takes for it; and folder -> why it did not load."""
    folder = SHIPPED / "sol" / "tasks" if name == "sol" else benchmarks.kernel_folder(name)
    loaded, refused = problem.discover(folder)
    return {task: f"{KERNELS}{found.root}" for task, found in loaded.items()}, refused


def is_suite(name: str | None) -> bool:
    if name is None or not (name == "sol" or name.startswith(KERNELS)):
        return False
    return name == "sol" or not (benchmarks.kernel_folder(name) / "definition.json").is_file()


def main(found: argparse.Namespace, step: Callable[[list[str]], int] | None = None) -> int:
    """Gives out slices until the evaluations or minutes are spent; returns an exit code of `evo.run`."""
    step = step or _run
    for name in ("after", "record"):
        if getattr(found, name) is not None:
            raise UserMistake(f"--{name} is for a run of one task, {found.benchmark} has many; name one as sol:TASK")
    tasks, refused = problems_of(found.benchmark)
    print(loading_table(tasks, refused), file=sys.stderr)
    if not tasks:
        raise UserMistake(f"{found.benchmark}: none of its {len(refused)} problems loads; the table says why")
    out = (found.out or Path("runs") / f"sol-{date.today():%Y%m%d}").resolve()
    out.mkdir(parents=True, exist_ok=True)
    total = found.evaluations or SLICE * len(tasks)
    deadline = time.monotonic() + 60 * found.minutes if found.minutes else math.inf
    history = read(out / "suite.jsonl")
    names = sorted(tasks)
    while spent(history) + SLICE <= max(total, SLICE) and time.monotonic() < deadline:
        task = choose(names, history)
        before = [s for s in history if s.task == task]
        granted = SLICE + max((s.evaluations for s in before), default=0)
        began = time.monotonic()
        code = step(arguments(found, tasks[task], out / task, granted, deadline - began))
        if code:
            return code
        score = best_score(RunDir(out / task))
        previous = max((s.score for s in before if s.score is not None), default=_state(RunDir(out / task)).base_mean)
        gain = 0.0 if score is None or previous is None else max(0.0, score - previous)
        turn = Slice(task, granted, score, gain, round(time.monotonic() - began, 1))
        with open(out / "suite.jsonl", "a") as file:
            file.write(json.dumps(asdict(turn)) + "\n")
        history.append(turn)
        if found.control != "no-library":
            share(out, task, tasks)
    print(table(names, history))
    from evo import report

    print(f"the same as a page: {report.write([out], None)}", file=sys.stderr)
    return 0


def spent(history: Iterable[Slice]) -> int:
    largest: dict[str, int] = {}
    for s in history:
        largest[s.task] = max(s.evaluations, largest.get(s.task, 0))
    return sum(largest.values())


def arguments(found: argparse.Namespace, benchmark: str, out: Path, evaluations: int, left_s: float) -> list[str]:
    given = ["--benchmark", benchmark, "--out", str(out), "--evaluations", str(evaluations)]
    for name in ("profile", "workers", "threads", "seed", "novelty", "control", "calls", "tokens", "usd", "prices"):
        value = getattr(found, name)
        given += [f"--{name}", str(value)] if value is not None else []
    given += ["--model", found.model] if found.model != "none" else []
    given += ["--minutes", f"{left_s / 60:.3f}"] if math.isfinite(left_s) else []
    return [*given, "--allow-unisolated"] if found.allow_unisolated else given


def _run(given: list[str]) -> int:
    return subprocess.run([sys.executable, "-m", "evo.run", *given], check=False).returncode


def _state(run: RunDir) -> search.State:
    settings = run.settings()
    benchmark = benchmarks.load(settings.benchmark, settings.profile)
    state = search.State(settings, benchmark)
    state.extend(journal.Journals(run.events).new_entries())
    return state


def best_score(run: RunDir) -> float | None:
    """The base's mean and the certified champion's gain over it; the base's mean alone where nothing is certified."""
    state = _state(run)
    champion = state.champion()
    if state.base_mean is None:
        return None
    return state.base_mean + (champion.gain if champion is not None else 0.0)


def share(out: Path, task: str, tasks: Mapping[str, str]) -> None:
    """Writes what was certified on `task` into the suite's library, for every task that it fits in some form."""
    state = _state(RunDir(out / task))
    own = benchmarks.load(tasks[task])
    for name in state.certified():
        for patch in state.genome(name).patches:
            for other, where in tasks.items():
                if other == task:
                    continue
                theirs = benchmarks.load(where)
                diff = carry.over(patch.diff, own.base, theirs.base)
                if diff is None:
                    continue
                file = out / "library" / "kernel" / f"{theirs.name}-from-{own.name}-{patch.name[:8]}.patch"
                file.parent.mkdir(parents=True, exist_ok=True)
                idea = " ".join((patch.hypothesis or patch.name).split())
                file.write_text(
                    f"benchmark: {theirs.name}\nhypothesis: {idea}\nsource: certified on {own.name}\n---\n{diff}"
                )
            note = {"task": own.name, "idea": " ".join((patch.hypothesis or patch.name).split())[:200]}
            notes = out / "library" / "notes.jsonl"
            notes.parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps(note, sort_keys=True)
            if line not in (notes.read_text().splitlines() if notes.is_file() else []):
                with open(notes, "a") as file_:
                    file_.write(line + "\n")


def loading_table(tasks: Mapping[str, str], refused: Mapping[str, str]) -> str:
    lines = [f"{len(tasks)} kernel task(s) loaded, {len(refused)} not"]
    lines += [f"  not {name}: {reason}" for name, reason in sorted(refused.items())]
    return "\n".join(lines)


def table(tasks: Sequence[str], history: Sequence[Slice]) -> str:
    rows: list[tuple[Any, ...]] = []
    scores: dict[str, float | None] = {}
    for task in tasks:
        own = [s for s in history if s.task == task]
        found = [s.score for s in own if s.score is not None]
        scores[task] = max(found, default=None)
        best = "-" if not found else f"{scores[task]:.3f}"
        rows.append((task, len(own), max((s.evaluations for s in own), default=0), best, sum(s.gain for s in own)))
    lines = [f"{'task':26}{'slices':>7}{'evaluations':>13}{'best S':>9}{'gained':>9}"]
    lines += [f"{task:26}{n:>7}{evaluations:>13}{best:>9}{gain:>+9.3f}" for task, n, evaluations, best, gain in rows]
    lines.append(f"suite mean {sol.suite_mean(scores, tasks):.3f} over {len(tasks)} tasks, a task without a score as 0")
    return "\n".join(lines)
