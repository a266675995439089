"""Tables groups of finished runs side by side: what each certified, the mean of each group and the differences.

python scripts/compare_runs.py offline=runs/a-1,runs/a-2,runs/a-3 model=runs/b-1,runs/b-2,runs/b-3

A run that certified nothing counts as a gain of 0: that is what its user has in hand.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys

# Student's t for a two-sided 95% interval, by degrees of freedom; runs of a comparison are few
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228}


def summary(run: str) -> dict:
    command = [sys.executable, "-m", "evo.inspect", run, "summary", "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def half_width(values: list[float]) -> float:
    return T95.get(len(values) - 1, 1.96) * statistics.stdev(values) / math.sqrt(len(values))


def welch(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """Difference of two means and the half width of its 95% interval (Welch; degrees of freedom rounded down)."""
    a, b = (statistics.variance(values) / len(values) for values in (ours, theirs))
    if a + b == 0:
        return statistics.mean(ours) - statistics.mean(theirs), 0.0
    df = (a + b) ** 2 / (a**2 / (len(ours) - 1) + b**2 / (len(theirs) - 1))
    return statistics.mean(ours) - statistics.mean(theirs), T95.get(max(1, int(df)), 1.96) * math.sqrt(a + b)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", metavar="NAME=DIR,DIR,...")
    gains: dict[str, list[float]] = {}
    print(f"| {'group':<12} | run | screens | judged | rejected | certified gain | 95% interval | p |")
    print("|---|---|---|---|---|---|---|---|")
    for group in parser.parse_args().groups:
        name, _, runs = group.partition("=")
        gains[name] = []
        for number, run in enumerate(runs.split(","), 1):
            found = summary(run)
            gains[name].append(found["gain"] or 0.0)
            counts = f"{found['screened']} | {found['evaluated']} | {found['rejected']}"
            low, high = found["interval"] or (0.0, 0.0)
            proof = (
                f"{found['gain']:+.4f} | [{low:+.4f}, {high:+.4f}] | {found['p']:.1g}" if found["gain"] else "none | |"
            )
            print(f"| {name:<12} | {number} | {counts} | {proof} |")
    print()
    for name, values in gains.items():
        width = f" ± {half_width(values):.4f} (95%, t), sd {statistics.stdev(values):.4f}" if len(values) > 1 else ""
        print(f"{name}: mean {statistics.mean(values):+.4f}{width}, n = {len(values)}")
    first, *others = gains
    for name in others:
        if len(gains[first]) > 1 and len(gains[name]) > 1:
            difference, width = welch(gains[name], gains[first])
            print(f"{name} minus {first}: {difference:+.4f} ± {width:.4f} (95%, Welch)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
