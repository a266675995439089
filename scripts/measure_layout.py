"""Measures whether a changed comment changes a training program's CPU time: sessions of one judge, seeds in each.

    python scripts/measure_layout.py [--profile smoke] [--sessions 5] [--seeds 4] [--stage layout|certify]

`same` is the base once more, `comment` the base with three lines of comment on top. What differs between sessions by
more than the scatter within them is a bias that pairs of one session do not take out. With `--stage certify` the judge
does what it does for a certification, where every pair has a fork server of its own: the bias must be in the scatter.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
from pathlib import Path

from evo import benchmark as benchmarks
from evo import stats
from evo.judges import open_judge


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--sessions", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--stage", default="layout")
    options = parser.parse_args()
    benchmark = benchmarks.load("speedrun", options.profile)
    base = dict(benchmark.base)
    comment = {**base, "train.py": "# a comment\n" * 3 + base["train.py"]}
    programs = {"base": base, "same": base, "comment": comment}
    for session in range(options.sessions):
        found: dict[str, list[float]] = {name: [] for name in programs}
        with open_judge(benchmark, benchmark.profile(options.profile)) as judge:
            for seed in range(options.seeds):
                for name in random.Random(seed).sample(sorted(programs), len(programs)):
                    with tempfile.TemporaryDirectory(prefix="evo-program-") as folder:
                        benchmarks.write_tree(programs[name], Path(folder))
                        outcome = judge.judge(Path(folder), stage=options.stage, seed=100 + seed)
                    found[name].append(math.log(outcome.measures["cpu_s"]))
        told = [f"base {math.exp(stats.mean(found['base'])):.3f} CPU s"]
        for name in ("same", "comment"):
            steps = [ours - theirs for ours, theirs in zip(found[name], found["base"])]
            told.append(f"{name} {stats.mean(steps):+.3f} (sd {stats.sample_sd(steps):.3f})")
        print(f"session {session}: {', '.join(told)}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
