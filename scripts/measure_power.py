"""Measures how likely a true gain is certified, and after how many pairs.

    python scripts/measure_power.py [--runs 500]                by simulation on the benchmark's noise table
    python scripts/measure_power.py --real --gains 20 10        once each with real programs, in the real sandbox

A simulated trial adds paired differences of the true gain and Gaussian noise of the table's `pair_sd` until
`evo.certify.decide` gives a verdict. A real one makes a benchmark whose base does idle work for a share of its CPU time
after training, lets the untouched base be the candidate, and certifies it as `evo.run --certify` does.
"""

from __future__ import annotations

import argparse
import math
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from evo import benchmark as benchmarks
from evo import certify, recertify, stats, syntax, worker
from evo.benchmark import Benchmark, Profile
from evo.certify import PairResult, Spread
from evo.events import Certified, Evaluated, Proposed, Refuted, Task
from evo.genome import Genome, patch_between
from evo.outcome import Outcome
from evo.rundir import RunDir, RunSettings

IDLE = """    spent = time.process_time() - began
    while time.process_time() - began < spent / {left}:
        pass
"""


def pair(k: int, gain: float) -> PairResult:
    """Two outcomes whose difference is `gain` for an objective of log-ratios that is minimized."""
    sides = (math.exp(-gain), f"c{k}"), (1.0, f"b{k}")
    ours, theirs = (
        Evaluated(Task(artifact[0], "certify", k), Outcome.passed(score, artifact=artifact), 0.0, "f")
        for score, artifact in sides
    )
    return PairResult(ours, theirs)


def simulated(
    benchmark: Benchmark, profile: Profile, gain: float, wider: float, chance: random.Random
) -> Certified | Refuted:
    noise = profile.noise
    spread = Spread(noise.of_pair, noise.df)
    pairs: list[PairResult] = []
    while True:
        verdict = certify.decide(
            pairs, benchmark.objective, genome="c", round=0, spread=spread, judge="", may_go_on=True
        )
        if verdict is not None:
            return verdict
        pairs.append(pair(len(pairs), chance.gauss(gain, wider * noise.of_pair)))


def simulate(benchmark: Benchmark, profile: Profile, percents: list[float], runs: int, wider: float) -> None:
    noise = profile.noise
    print(
        f"simulated, {runs} trials each, pair sd {noise.of_pair:g} by the table over {noise.df:g} degrees of freedom,"
    )
    print(f"{wider:g} times as much in truth")
    print(f"{'true gain':>9} {'certified':>22} {'median pairs, certified':>24} {'median pairs, all':>18} {'mean':>6}")
    for percent in percents:
        chance = random.Random(percent)
        gain = -math.log(1 - percent / 100)
        verdicts = [simulated(benchmark, profile, gain, wider, chance) for _ in range(runs)]
        good = [verdict.pairs for verdict in verdicts if isinstance(verdict, Certified)]
        low, high = stats.wilson(len(good), runs)
        share = f"{100 * len(good) / runs:.1f}% [{100 * low:.1f}, {100 * high:.1f}]"
        every = [verdict.pairs for verdict in verdicts]
        middle = f"{statistics.median(good):g}" if good else "-"
        print(f"{percent:>8g}% {share:>22} {middle:>24} {statistics.median(every):>18g} {stats.mean(every):>6.1f}")


def slowed(program: dict[str, str], percent: float) -> dict[str, str]:
    """The base with idle work, so that without it the program takes `percent` less CPU time."""
    text = program["train.py"]
    opened, submit = "    stream = run.open()", "    run.submit("
    if text.count(opened) != 1 or text.count(submit) != 1:
        raise SystemExit("expected one run.open() and one run.submit() in train.py: mend scripts/measure_power.py")
    text = text.replace(opened, f"    began = time.process_time()\n{opened}")
    text = text.replace(submit, IDLE.format(left=1 - percent / 100) + submit)
    return {**program, "train.py": text.replace("\nimport ", "\nimport time\nimport ", 1)}


def real(benchmark: Benchmark, profile: Profile, percent: float, seed: int) -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / benchmark.name
        root.mkdir()
        shutil.copy(benchmark.root / "benchmark.toml", root)
        base = slowed(dict(benchmark.base), percent)
        benchmarks.write_tree(base, root / benchmark.program_folder)
        copy = benchmarks.load(str(root), profile.name)
        noise = profile.noise
        run = RunDir(Path(place) / "run")
        run.create(
            RunSettings(
                benchmark=str(root), profile=profile.name, base=copy.base_hash, seed=seed, threads=1, novelty=1.0,
                control=None, evaluations=100, minutes=None, reserve=50, base_runs=2, noise_sd=noise.sd,
                noise_df=noise.df, pair_sd=noise.of_pair, typical_gain=noise.typical_gain,
            ),
            copy.base,
        )  # fmt: skip
        crew = worker.join(run, role="judge", minutes=None, allow_unisolated=False)
        try:
            own = Genome(copy.base_hash)
            patch = patch_between(own, copy.base, dict(benchmark.base), hypothesis="no idle work")
            faster = own.with_patch(patch)
            identity = syntax.identity(benchmark.base)
            known = "optimizer", "local", identity, identity
            crew.journal.append(Proposed(0, 0, "by hand", (own.name,), faster.name, (patch.name,), (patch,), *known))
            while len(crew.state.base_scores) < 2:
                crew.work(limit=1)
            crew.state.extend(crew.journals.new_entries())
            verdict = recertify.certified_again(crew, faster.name, lambda text: None)
            pairs = crew.state.certification(verdict.round, faster.name)
            differences = certify.differences_of(pairs, copy.objective)
        finally:
            crew.close()
    told = copy.objective.describe
    sd = f"{stats.sample_sd(differences):.3f}" if len(differences) > 1 else "-"
    interval = f"[{told(verdict.low)}, {told(verdict.high)}]"
    print(f"{percent:g}% real: {verdict.kind} after {verdict.pairs} pairs, {told(verdict.gain)} {interval}, "
          f"E = {verdict.e_value:.3g}, sd of a pair {sd}, noise used {verdict.pair_sd:.3f}, "
          f"{time.monotonic() - began:.0f} s", flush=True)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", default="speedrun")
    parser.add_argument("--profile")
    parser.add_argument("--gains", type=float, nargs="+", default=[0.0, 2.0, 5.0, 10.0, 20.0], help="percent less time")
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--wider", type=float, default=1.0, help="the true sd of a pair, in the table's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", action="store_true")
    options = parser.parse_args()
    benchmark = benchmarks.load(options.benchmark, options.profile)
    profile = benchmark.profile(options.profile)
    if not options.real:
        simulate(benchmark, profile, options.gains, options.runs, options.wider)
        return 0
    for percent in options.gains:
        real(benchmark, profile, percent, options.seed)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
