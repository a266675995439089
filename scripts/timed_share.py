"""How much of its GPUs' time a run spent in timed sections, from its journals; a model of the turns for more workers.

    python scripts/timed_share.py RUN --devices 2
    python scripts/timed_share.py --model [--compile 60 --build 13.5 --timed 19.6 --score 11]

The model: each worker of one device compiles, builds, is timed and scores, round and round; what is timed has the
device alone, building and scoring share it, and turns are taken in the order in which they are asked for.
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from evo.events import Evaluated  # noqa: E402
from evo.journal import Journals  # noqa: E402
from evo.rundir import RunDir  # noqa: E402

SPAN_S = 3000.0


def modelled(workers: int, compiling: float, building: float, timed: float, scoring: float) -> float:
    """The share of SPAN_S in which the device is timed; building and scoring scatter by a tenth."""
    chance = random.Random(1)
    ends = [(compiling * k / workers, k, "compile") for k in range(workers)]
    queue: list[tuple[int, str]] = []
    sharing, alone, busy = 0, False, 0.0
    while ends:
        now, worker, what = heapq.heappop(ends)
        if now > SPAN_S:
            break
        if what in ("compile", "build"):
            queue.append((worker, "build" if what == "compile" else "timed"))
        elif what == "timed":
            queue.append((worker, "score"))
        else:
            heapq.heappush(ends, (now + compiling, worker, "compile"))
        sharing -= what in ("build", "score")
        alone = alone and what != "timed"
        while queue and not alone and not (queue[0][1] == "timed" and sharing):
            worker, what = queue.pop(0)
            took = {"build": building, "timed": timed, "score": scoring}[what]
            if what == "timed":
                alone, busy = True, busy + timed
            else:
                sharing, took = sharing + 1, took * chance.uniform(0.9, 1.1)
            heapq.heappush(ends, (now + took, worker, what))
    return busy / SPAN_S


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--model", action="store_true")
    for name, seconds in (("compile", 60.0), ("build", 13.5), ("timed", 19.6), ("score", 11.0)):
        parser.add_argument(f"--{name}", type=float, default=seconds, dest=f"{name}_s")
    options = parser.parse_args(arguments)
    if options.model:
        for workers in range(1, 9):
            share = modelled(workers, options.compile_s, options.build_s, options.timed_s, options.score_s)
            print(f"{workers} workers a device: {share:.0%}")
    if options.run:
        entries = sorted(Journals(RunDir(options.run).events).new_entries(), key=lambda entry: entry.at)
        done = 0.0
        for entry in entries:
            if isinstance(entry.event, Evaluated):
                done += entry.event.outcome.measures.get("wall_s", 0.0)
                spent = options.devices * (entry.at - entries[0].at)
                print(f"{entry.at - entries[0].at:7.0f} s  {entry.event.task.stage:<24} {done / spent:.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
