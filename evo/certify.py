"""Proof: base and candidate side by side on fresh seeds until the evidence suffices, or does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from evo import stats
from evo.benchmark import Noise, Objective
from evo.events import Certified, Evaluated, Refuted
from evo.outcome import Status

MIN_PAIRS = 3  # a certificate is repeated measurement, however large the first difference
MAX_PAIRS = 20
CANDIDATES = 3  # certified a round; the others wait for the next
LEAVE_OUT_PAIRS = 8  # a patch; never decided on one
FUTILE = 0.5  # E below this after enough pairs ends a hopeless certification; stopping early never helps a candidate
FUTILE_PAIRS = 8  # so late that power at one sd of a pair falls by less than 0.2 points
FINALISTS = 6  # evaluations of four finalists, halved
LEAST_RESERVE = 16
TABLE_DF = 6  # degrees of freedom that a table's sd counts for at most: it was measured on another host or another day
DRIFTED = 0.01  # p of the base's own shift during a round below which it is told


@dataclass(frozen=True)
class PairResult:
    """The two sides of a pair, judged one after the other with the same fresh seed."""

    candidate: Evaluated
    rival: Evaluated

    def difference(self, objective: Objective) -> float | None:
        """The candidate's gain over its rival; None where the pair cannot be compared."""
        ours, theirs = self.candidate.outcome.score, self.rival.outcome.score
        if ours is None or theirs is None or self.candidate.fingerprint != self.rival.fingerprint:
            return None
        return objective.gain_over(theirs, ours)


@dataclass(frozen=True)
class Spread:
    """How far paired differences scatter: what the benchmark's table says, and the run's own replicates so far."""

    sd: float
    df: float
    squares: float = 0.0  # of the replicates about their means, in squared units of gain of a pair
    replicates: float = 0.0  # degrees of freedom behind `squares`

    def with_replicates(self, squares: float, df: float) -> Spread:
        return replace(self, squares=self.squares + squares, replicates=self.replicates + df)

    def of(self, differences: Sequence[float]) -> tuple[float, float]:
        """sd and degrees of freedom for a test of these differences.

        The noise is unknown: the table's sd is a scaled inverse chi-square prior of its variance, whose degrees of
        freedom say how far a host of today can be from it (with 6, sds of 0.64 to 2.2 times the table's are within
        95%), and the run's own pairs update it. The scatter of these differences may widen the noise as replicates do,
        but adds no degrees of freedom: the test learns from it by itself.
        """
        sd, df = stats.pooled(self.sd, min(self.df, TABLE_DF), self.squares, self.replicates)
        own_df = self.replicates + max(0, len(differences) - 1)
        own = math.sqrt((self.squares + stats.squares(differences)) / own_df) if own_df else 0.0
        return max(sd, own), df


def differences_of(pairs: Sequence[PairResult], objective: Objective) -> list[float]:
    """Gains of the pairs of one device and judge, the one with most pairs: others measure another effect."""
    prints = [pair.candidate.fingerprint for pair in pairs]
    usual = max(prints, key=prints.count, default="")
    return [
        d for pair in pairs if pair.candidate.fingerprint == usual and (d := pair.difference(objective)) is not None
    ]


def pairs_needed(gain: float, pair_sd: float, df: float) -> int | None:
    """About how many pairs a true gain takes: the fewest that certify differences with just this mean and sd."""
    for n in range(MIN_PAIRS, MAX_PAIRS + 1):
        step = pair_sd * math.sqrt((n - 1) / (n - n % 2))  # so that the sample sd is pair_sd for odd n, too
        signs = [step if k % 2 else -step for k in range(n - n % 2)] + [0.0] * (n % 2)
        differences = [gain + sign for sign in signs]
        if stats.e_value(differences, *Spread(pair_sd, df).of(differences)) >= stats.CERTAIN:
            return n
    return None


def reserve(noise: Noise) -> int:
    """Evaluations that finalists and the certification of one typical gain take under this noise: four finalists halved
    and both sides of the pairs, all there are if even they may not suffice; at least 16."""
    pairs = pairs_needed(noise.typical_gain, noise.of_pair, noise.df) or MAX_PAIRS
    return max(LEAST_RESERVE, FINALISTS + 2 * pairs)


def decide(
    pairs: Sequence[PairResult],
    objective: Objective,
    *,
    genome: str,
    round: int,
    spread: Spread,
    judge: str,
    may_go_on: bool,
) -> Certified | Refuted | None:
    """The verdict on a candidate, or None for one more pair.

    Only paired differences enter, never the score of the search; E is `stats.e_value`, valid under this peeking.
    """
    differences = differences_of(pairs, objective)
    sd, df = spread.of(differences)
    value = stats.e_value(differences, sd, df)
    gain = stats.mean(differences) if differences else 0.0

    def found(cls: type[Certified] | type[Refuted], reason: str) -> Certified | Refuted:
        low, high = stats.interval(differences, sd, df) if differences else (0.0, 0.0)
        prints = [pair.candidate.fingerprint for pair in pairs]
        fingerprint = max(prints, key=prints.count, default="")
        found = cls(genome, round, len(differences), value, gain, low, high, reason, fingerprint)
        return replace(found, judge=judge, pair_sd=sd, df=df)

    for pair in pairs:
        status = pair.candidate.outcome.status
        if status not in (Status.PASSED, Status.LOST):
            return found(Refuted, f"{status.value} inside certification: {pair.candidate.outcome.detail[:200]}")
    if twin := _repeated_artifact(pairs):
        return found(Refuted, f"WRONG: two seeds handed over the identical result {twin}; it was not made in the run")
    if value >= stats.CERTAIN and len(differences) >= MIN_PAIRS:
        return found(Certified, f"E = {value:.4g} after {len(differences)} pairs")
    if len(differences) >= FUTILE_PAIRS and value < FUTILE:
        return found(Refuted, f"hopeless: E = {value:.2g} after {len(differences)} pairs")
    if len(pairs) >= MAX_PAIRS or not may_go_on:
        spent = len(pairs) < MAX_PAIRS
        why = f"{len(pairs)} pairs" + (", the budget's last" if spent else "")
        verdict = found(Refuted, f"not shown: E = {value:.3g} after {why}, {stats.CERTAIN:g} is needed")
        return replace(verdict, spent=spent)  # type: ignore[arg-type]
    return None


def _repeated_artifact(pairs: Sequence[PairResult]) -> str:
    seen: set[str] = set()
    for pair in pairs:
        artifact = pair.candidate.outcome.artifact
        if artifact and artifact in seen:
            return artifact[:12]
        seen.add(artifact)
    return ""
