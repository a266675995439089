"""Measures target and slope of a race on this machine: the base with its schedule at 0.8, 1 and 1.25 of its length.

    python scripts/calibrate_race.py --benchmark speedrun --profile gpu [--seeds 3]

The target is the base's mean loss at its own length, the slope -dL / d ln t a line through all runs. The judge is the
profile's, with the loss itself as the score, so that no target is needed yet. STEPS or SHARDED_STEPS in train.py set
the length.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from evo import benchmark as benchmarks  # noqa: E402
from evo.chance import number  # noqa: E402
from evo.genome import Tree  # noqa: E402
from evo.judges import open_judge  # noqa: E402

LENGTHS = (1.0, 0.8, 1.25)


def stretched(base: Tree, constant: str, factor: float) -> Tree:
    """The base with `constant` of train.py times `factor`."""
    text, count = re.subn(
        rf"^{constant} = (\d+)", lambda m: f"{constant} = {round(int(m[1]) * factor)}", base["train.py"], flags=re.M
    )
    if count != 1:
        raise benchmarks.UserMistake(f"train.py: expected one line '{constant} = NUMBER', found {count}")
    return {**base, "train.py": text}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--benchmark", default="speedrun")
    parser.add_argument("--profile", default="gpu")
    parser.add_argument("--constant", help="STEPS, or SHARDED_STEPS for a profile of several devices")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--lengths", type=float, nargs="+", default=LENGTHS, help="shares of the base's schedule")
    options = parser.parse_args(arguments)
    benchmark = benchmarks.load(options.benchmark, options.profile)
    profile = benchmark.profile(options.profile)
    constant = options.constant or ("SHARDED_STEPS" if profile.settings.get("devices", 1) > 1 else "STEPS")
    plain = {k: v for k, v in profile.settings.items() if k not in ("target", "slope", "band")}
    plain.update(objective="budget", cap_s=2 * profile.settings["cap_s"])
    runs: list[tuple[float, float, float]] = []
    with open_judge(benchmark, replace(profile, settings=plain)) as judge:
        for k in range(options.first_seed, options.first_seed + options.seeds):
            for factor in options.lengths:
                with tempfile.TemporaryDirectory(prefix="evo-program-") as folder:
                    benchmarks.write_tree(stretched(benchmark.base, constant, factor), Path(folder))
                    outcome = judge.judge(Path(folder), stage="calibrate", seed=number("calibrate", k) % 2**31)
                if outcome.score is None:
                    print(f"x{factor:g} seed {k}: {outcome.status.value}: {outcome.detail[-400:]}", flush=True)
                    continue
                runs.append((factor, outcome.measures["seconds"], outcome.score))
                print(
                    f"x{factor:g} seed {k}: {outcome.measures['seconds']:.2f} s, loss {outcome.score:.4f}", flush=True
                )
    for factor in options.lengths:
        own = [(s, loss) for f, s, loss in runs if f == factor]
        if own:
            losses = [loss for _, loss in own]
            sd = f", sd {statistics.stdev(losses):.4f}" if len(losses) > 1 else ""
            seconds = statistics.mean(s for s, _ in own)
            print(f"x{factor:g}: n = {len(own)}, {seconds:.2f} s, loss {statistics.mean(losses):.4f}{sd}")
    base = [loss for factor, _, loss in runs if factor == 1]
    if len({factor for factor, _, _ in runs}) < 2 or not base:
        print("expected passing runs of at least two lengths, the base's own among them; nothing to fit")
        return 1
    slope = -np.polyfit([math.log(s) for _, s, _ in runs], [loss for _, _, loss in runs], 1)[0]
    print(f"target = {statistics.mean(base):.4f}\nslope = {slope:.4f}\nband = {1.3 * slope:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
