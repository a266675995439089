"""Measures how often a run certifies what is no gain at all: A/A runs by simulation, with the interval of the rate.

    python scripts/measure_false_certificates.py [--runs 1000] [--noise gauss|tails|recorded] [--wider 1.0]

Every run is a real one: `--control aa` proposes, screens, halves finalists and certifies with the code of `evo.run`.
Only the judge is replaced: it answers with the base's score times exp(noise), noise as the benchmark's table states it.
A part that two programs with one seed share makes up what `sd` has beyond `pair_sd`. `--wider 1.5` lets the truth
scatter 1.5 times as far as the table says, as a busier host does. `tails` draws from Student's t with 3 degrees of
freedom, scaled to the same sd. `--recorded FILE` draws from the residuals of recorded log scores, one number a line, of
a base that was judged again and again.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evo import benchmark as benchmarks
from evo import stats, worker
from evo.events import Certified
from evo.outcome import Outcome
from evo.rundir import RunDir, RunSettings


@dataclass
class Scattered:
    """Answers at once with the base's score and noise."""

    chance: random.Random
    own_sd: float
    seed_sd: float
    kind: str
    residuals: tuple[float, ...] = ()

    def judge(self, program: Path, *, stage: str, seed: int) -> Outcome:
        shared = random.Random(seed).gauss(0, self.seed_sd)
        return Outcome.passed(5.0 * math.exp(shared + self.own_sd * self._unit()))

    def _unit(self) -> float:
        """One draw of mean 0 and sd 1."""
        if self.kind == "gauss":
            return self.chance.gauss(0, 1)
        if self.kind == "tails":
            scale = math.sqrt(sum(self.chance.gauss(0, 1) ** 2 for _ in range(3)) / 3)
            return self.chance.gauss(0, 1) / scale / math.sqrt(3)
        return self.chance.choice(self.residuals)

    def fingerprint(self) -> Mapping[str, str]:
        return {"judge": "scattered"}

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Found:
    """What one run ended with."""

    verdicts: int
    certified: int
    judged: int
    pairs: int


def one(seed: int, options: argparse.Namespace) -> Found:
    benchmark = benchmarks.load(options.benchmark, options.profile)
    profile = benchmark.profile(options.profile)
    noise = profile.noise
    own = noise.of_pair / math.sqrt(2)
    shared = math.sqrt(max(0.0, noise.sd**2 - own**2))
    residuals: tuple[float, ...] = ()
    if options.noise == "recorded":
        values = [float(line) for line in options.recorded.read_text().split()]
        centre, spread = stats.mean(values), stats.sample_sd(values)
        residuals = tuple((value - centre) / spread for value in values)
    judge = Scattered(random.Random(seed), options.wider * own, options.wider * shared, options.noise, residuals)

    @contextmanager
    def opened() -> Iterator[Scattered]:
        yield judge

    with tempfile.TemporaryDirectory(dir=options.scratch) as place:
        run = RunDir(Path(place) / "run")
        run.create(
            RunSettings(
                benchmark=benchmark.name, profile=profile.name, base=benchmark.base_hash, seed=seed, threads=1,
                novelty=1.0, control="aa", evaluations=options.evaluations, minutes=None, reserve=options.reserve,
                base_runs=profile.budget.base_runs, noise_sd=noise.sd, noise_df=noise.df, pair_sd=noise.of_pair,
                typical_gain=noise.typical_gain,
            ),
            benchmark.base,
        )  # fmt: skip
        crew = worker.join(run, role="both", minutes=None, allow_unisolated=False)
        crew.open_judge, crew.exclusive = opened, False
        try:
            crew.work()
        finally:
            crew.close()
        verdicts = [verdict for _, verdict in crew.state.verdicts.values()]
        kinds = Counter(type(verdict) for verdict in verdicts)
        return Found(len(verdicts), kinds[Certified], crew.state.used, sum(v.pairs for v in verdicts))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", default="speedrun")
    parser.add_argument("--profile")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="seed of the first run")
    parser.add_argument("--evaluations", type=int, default=60)
    parser.add_argument("--reserve", type=int, default=40)
    parser.add_argument("--noise", choices=("gauss", "tails", "recorded"), default="gauss")
    parser.add_argument("--recorded", type=Path, metavar="FILE")
    parser.add_argument("--wider", type=float, default=1.0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--scratch", type=Path, help="where run directories are made and removed; memory is fastest")
    options = parser.parse_args()
    if (options.noise == "recorded") != (options.recorded is not None):
        parser.error("--noise recorded and --recorded FILE belong together")
    began = time.monotonic()
    seeds = range(options.first, options.first + options.runs)
    with ProcessPoolExecutor(options.processes) as pool:
        found = list(pool.map(one, seeds, [options] * options.runs, chunksize=10))
    runs = len(found)
    candidates, wrong = sum(f.verdicts for f in found), sum(f.certified for f in found)
    wrong_runs = sum(f.certified > 0 for f in found)
    judged, pairs = sum(f.judged for f in found) / runs, sum(f.pairs for f in found) / runs
    print(f"noise {options.noise}, {options.wider:g} times as wide as the table says; {runs} A/A runs")
    print(f"{judged:.1f} evaluations and {pairs:.1f} pairs each, {time.monotonic() - began:.0f} s")
    for what, bad, of in (("candidate", wrong, candidates), ("run", wrong_runs, runs)):
        low, high = stats.wilson(bad, of)
        rate = f"{100 * bad / of:.2f}% [{100 * low:.2f}, {100 * high:.2f}]"
        print(f"false certificates a {what:<9} {bad} of {of}: {rate}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
