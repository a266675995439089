"""Runs the same search with several seeds, one after the other, and tables what each certified.

python scripts/seeds.py --benchmark speedrun --seeds 10 --minutes 6 --out runs/seeds [more options of evo.run]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from evo import stats


def read(command: list[str]) -> dict[str, Any]:
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--out", type=Path, required=True)
    options, more = parser.parse_known_args()
    certified = 0
    gains = []
    head = f"{'seed':>4} {'wall s':>7} {'judged':>7} {'certified':>10} {'95% interval':>22}"
    print(f"{head} {'p':>9}  patches", flush=True)
    for seed in range(options.first, options.first + options.seeds):
        out = options.out / f"seed-{seed}"
        command = [sys.executable, "-m", "evo.run", "--benchmark", options.benchmark, "--seed", str(seed), *more]
        command += ["--out", str(out)] + (["--minutes", str(options.minutes)] if options.minutes else [])
        began = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        wall = time.monotonic() - began
        view = [sys.executable, "-m", "evo.inspect", str(out)]
        found = read([*view, "summary", "--json"])
        if found["champion"] is None:
            print(f"{seed:>4} {wall:>7.0f} {found['evaluated']:>7} {'none':>10}", flush=True)
            continue
        certified += 1
        gains.append(found["gain"])
        genome = read([*view, "genome"])
        low, high = found["interval"]
        interval = f"[{low:+.3f}, {high:+.3f}]"
        row = f"{seed:>4} {wall:>7.0f} {found['evaluated']:>7} {found['gain']:>+10.3f} {interval:>22}"
        ideas = "; ".join(patch["hypothesis"][:50] for patch in genome["patches"])
        print(f"{row} {found['p']:>9.2g}  {len(genome['patches'])}: {ideas}", flush=True)
    low, high = stats.wilson(certified, options.seeds)
    print(f"certified in {certified} of {options.seeds} seeds (95% [{low:.2f}, {high:.2f}])")
    if len(gains) > 1:
        spread = statistics.stdev(gains)
        error = spread / math.sqrt(len(gains))
        print(f"gain {statistics.mean(gains):+.3f}, sd {spread:.3f}, se {error:.3f} (units of gain)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
