"""Measures what the engine itself costs: CPU, memory and disk per evaluation on a trivial `answer` benchmark.

    python scripts/measure_engine.py [--evaluations 10000] [--judge real|instant]

CPU is the worker's own process (user + system), so candidates and verifiers, which are other processes, do not count.
`instant` replaces the sandboxed judge by one that answers at once: what is left is search, journal and archive.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from evo import benchmark as benchmarks
from evo import worker
from evo.outcome import Outcome
from evo.rundir import RunDir, RunSettings

TOML = """
name = "trivial"
judge = "answer"
editable = ["solve.py"]
[objective]
name = "cost"
unit = "s"
direction = "minimize"
gain = "difference"
[profiles.main.noise]
sd = 0.1
df = 30
typical_gain = 0.1
"""
SETTINGS = 16
NAMES = [f"S{i}" for i in range(SETTINGS)]
PROGRAM = "".join(f"{name} = {3 + i % 9}.5\n" for i, name in enumerate(NAMES))
PROGRAM += f"\n\ndef solve():\n    return [{', '.join(NAMES)}]\n"
# without an optimum, so that the search never runs dry
VERIFY = "import math\n\n\ndef verify(answer):\n    return 100 - sum(math.log(value) for value in answer)\n"


class Instant:
    """Answers at once with a number that the program's text decides."""

    def judge(self, program: Path, *, stage: str, seed: int) -> Outcome:
        space: dict = {}
        exec((program / "solve.py").read_text(), space)
        return Outcome.passed(100 - sum(math.log(value) for value in space["solve"]()))

    def fingerprint(self) -> Mapping[str, str]:
        return {"judge": "instant"}

    def close(self) -> None:
        pass


@contextmanager
def instant() -> Iterator[Instant]:
    yield Instant()


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def rss_mb() -> float:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmRSS"))


def disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def measure(evaluations: int, real: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "trivial"
        (root / "program").mkdir(parents=True)
        (root / "program" / "solve.py").write_text(PROGRAM)
        (root / "verify.py").write_text(VERIFY)
        (root / "benchmark.toml").write_text(TOML)
        benchmark = benchmarks.load(str(root))
        run = RunDir(Path(place) / "run")
        run.create(
            RunSettings(
                benchmark=str(root), profile="main", base=benchmark.base_hash, seed=0, threads=1, novelty=1.0,
                control=None, evaluations=evaluations + 60, minutes=None, reserve=50, base_runs=2, noise_sd=0.1,
                noise_df=30.0, pair_sd=0.14, typical_gain=0.1,
            ),
            benchmark.base,
        )  # fmt: skip
        crew = worker.join(run, role="both", minutes=None, allow_unisolated=False)
        if not real:
            crew.open_judge = instant
        crew.state.extend(crew.journals.new_entries())
        marks = [m for m in (100, 300, 1000, 2000, 5000, 10_000) if m <= evaluations]
        done, before, began = 0, cpu(), time.monotonic()
        last_disk = disk(run.events)
        print(f"{'evaluations':>12}{'CPU ms each':>13}{'RSS MB':>9}{'disk B each':>13}{'wall ms each':>14}")
        for mark in marks:
            while crew.state.used < mark:
                if crew.work(limit=20) != "asked to stop":
                    sys.exit(f"ended early at {crew.state.used} evaluations: nothing left to propose")
            spent, now, size = cpu() - before, time.monotonic(), disk(run.events)
            patches = sum(len(patch.diff) for patch in crew.state.patches.values())
            step = crew.state.used - done
            bare = (size - last_disk - (patches - measure.patches)) / step
            measure.patches = patches
            print(
                f"{mark:>12}{1e3 * spent / step:>13.2f}{rss_mb():>9.0f}{bare:>13.0f}{1e3 * (now - began) / step:>14.1f}"
            )
            done, before, began, last_disk = crew.state.used, cpu(), time.monotonic(), size
        claims = disk(run.claims)
        crew.close()
        print(f"claims left on disk: {claims} B")


measure.patches = 0  # type: ignore[attr-defined]


def imports() -> None:
    """The best of five, as a process: what starting costs beyond Python itself."""
    for code in ("pass", "import evo.run"):
        times = []
        for _ in range(5):
            began = time.monotonic()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.monotonic() - began)
        print(f"python -c {code!r:<18} {1e3 * min(times):.0f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=1000)
    parser.add_argument("--judge", choices=("real", "instant"), default="real")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    imports()
    measure(options.evaluations, options.judge == "real")
