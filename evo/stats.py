"""The numbers behind the search and the proof: posteriors, the sequential paired test and its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np  # only evidence needs it, and importing it takes a third of starting evo

EFFECT_SCALE = 1.0  # sd of the half-normal prior over true effects, in sds of a paired difference
CERTAIN = 100.0  # E at or above this certifies: p <= .01
DOUBT = 20.0  # E below this keeps a value inside the 95% interval


def posterior(prior: float, scores: Sequence[float], noise_variance: float) -> float:
    """Shrunken mean (t m0 + sum of scores) / (t + n) with t = noise variance / 2, all in typical gains."""
    weight = noise_variance / 2
    return (weight * prior + math.fsum(scores)) / (weight + len(scores)) if weight + len(scores) else prior


def e_value(differences: Sequence[float], sd: float, df: float, *, two_sided: bool = False) -> float:
    """Evidence against "the true mean difference is at most 0" (or "is 0"), valid at every stopping time.

    A Bayes factor of Gaussian differences with unknown variance: effects delta = mean / sd are half-normal with scale
    EFFECT_SCALE against delta = 0, and sigma has the right-Haar prior 1 / sigma in both, updated by the pooled noise
    (`sd` over `df` degrees of freedom). The ratio is that of a maximal invariant, hence a test martingale under the
    null for every sigma (Perez-Ortiz, Lardy, de Heide, Gruenwald, "E-statistics, group invariance and anytime-valid
    testing", 2022). With u = 1 / sigma, A = df sd^2 + sum d^2, S = sum d, N = df + n it is
        integral over delta of exp(-n delta^2 / 2) E_v[exp(v delta S / sqrt A)],   v ~ chi with N degrees of freedom.
    By Ville's inequality P(E >= 1 / alpha ever) <= alpha, so p = 1 / E.
    """
    n = len(differences)
    if n == 0:
        return 1.0
    total = math.fsum(differences)
    spread = df * sd * sd + math.fsum(d * d for d in differences)
    if spread <= 0:
        raise ValueError("the pooled noise and all differences are 0: measure the benchmark's noise first")
    freedom = df + n
    ratio = total / math.sqrt(spread)
    signs = (1.0, -1.0) if two_sided else (1.0,)
    return math.fsum(_one_sided(sign * ratio, freedom, n) for sign in signs) / len(signs)


@lru_cache(maxsize=1)
def _effects() -> np.ndarray:
    import numpy as np

    return np.linspace(0.0, 5.0 * EFFECT_SCALE, 61)


def _one_sided(ratio: float, freedom: float, n: int) -> float:
    import numpy as np

    effects = _effects()
    middle = math.sqrt(freedom)
    v = np.linspace(max(1e-9, middle - 9.0), middle + 9.0 + float(effects[-1]) * max(ratio, 0.0), 121)
    log_chi = (freedom - 1) * np.log(v) - v * v / 2
    log_norm = _log_sum(log_chi)
    exponents = log_chi[None, :] - log_norm + effects[:, None] * ratio * v[None, :]
    log_ratio = _log_sum(exponents) - n * effects**2 / 2
    log_prior = -(effects**2) / (2 * EFFECT_SCALE**2)
    log_prior[0] -= math.log(2.0)  # the trapezoidal rule: half a step lies beyond the edge at 0
    value = _log_sum(log_ratio + log_prior) - _log_sum(log_prior)
    return float(np.exp(np.minimum(value, 700.0)))


def _log_sum(values: np.ndarray) -> np.ndarray:
    import numpy as np

    top = values.max(axis=-1)
    return top + np.log(np.exp(values - top[..., None]).sum(axis=-1))


def interval(differences: Sequence[float], sd: float, df: float, level: float = DOUBT) -> tuple[float, float]:
    """The means that the same evidence does not reject: a confidence sequence, valid at every stopping time.

    An edge so far out that few pairs over few degrees of freedom never reject it is given as 1e6 spreads: journals
    hold finite numbers only.
    """
    if not differences:
        raise ValueError("an interval needs at least one difference")
    centre = math.fsum(differences) / len(differences)
    width = max(math.sqrt(df * sd * sd / max(df, 1.0)), max(abs(d - centre) for d in differences), 1e-12)

    def rejected(mean: float) -> bool:
        return e_value([d - mean for d in differences], sd, df, two_sided=True) >= level

    def edge(sign: float) -> float:
        outer = width
        while not rejected(centre + sign * outer):
            outer *= 2
            if outer > 1e6 * width:
                return centre + sign * 1e6 * width
        inner = 0.0
        for _ in range(40):
            middle = (inner + outer) / 2
            inner, outer = (inner, middle) if rejected(centre + sign * middle) else (middle, outer)
        return centre + sign * outer

    return edge(-1.0), edge(1.0)


def squares(values: Sequence[float]) -> float:
    """Sum of squared distances from the mean, over n - 1 degrees of freedom; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    centre = mean(values)
    return math.fsum((value - centre) ** 2 for value in values)


def pooled(sd: float, df: float, more: float, more_df: float) -> tuple[float, float]:
    """The noise of a table joined with replicates (`more` squares over `more_df`): sd and degrees of freedom.

    Where the replicates scatter more than the table says, theirs counts alone: a table from a quieter host would
    make certificates of noise (at 1.5 times the table's sd 2.0% of empty candidates passed, with this rule 1.1%). E can
    only shrink by it, so it stays a test martingale's lower bound under the table's own noise.
    """
    if more_df <= 0:
        return sd, df
    joined = (df * sd * sd + more) / (df + more_df)
    return math.sqrt(max(joined, more / more_df)), df + more_df


def student_tail(t: float, df: float) -> float:
    """P(T > t) of Student's t, with t = sqrt(df) tan x its density becomes cos(x) ** (df - 1) up to a constant.

    Simpson's rule over x; the constant is Gamma((df + 1) / 2) / (sqrt(pi) Gamma(df / 2)) (Student 1908).
    """
    if t < 0:
        return 1.0 - student_tail(-t, df)
    low, steps = math.atan(t / math.sqrt(df)), 400
    width = min(math.pi / 2 - low, 12 / math.sqrt(df)) / steps  # what lies beyond 12 sds is nothing
    weights = [1 if i in (0, steps) else 4 if i % 2 else 2 for i in range(steps + 1)]
    heights = [max(0.0, math.cos(low + i * width)) ** (df - 1) for i in range(steps + 1)]
    area = math.fsum(w * h for w, h in zip(weights, heights)) * width / 3
    return area * math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(math.pi)


def student_quantile(p: float, df: float) -> float:
    """The t that Student's t stays under with probability `p` >= 1/2, by bisection of its tail."""
    low, high = 0.0, 1.0
    while student_tail(high, df) > 1 - p:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_tail(middle, df) > 1 - p else (low, middle)
    return high


def welch(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Difference of two means and the half width of its 95% interval (Welch 1947); each side needs two values."""
    errors = [squares(values) / (len(values) - 1) / len(values) for values in (ours, theirs)]
    difference = mean(ours) - mean(theirs)
    if sum(errors) == 0:
        return difference, 0.0
    df = sum(errors) ** 2 / sum(error**2 / (len(values) - 1) for error, values in zip(errors, (ours, theirs)))
    return difference, student_quantile(0.975, df) * math.sqrt(sum(errors))


def shift(ours: Sequence[float], theirs: Sequence[float], sd: float, df: float) -> tuple[float, float]:
    """Difference of two means and its two-sided p by Student's t, with the sd of one value known from `df` others."""
    difference = mean(ours) - mean(theirs)
    error = sd * math.sqrt(1 / len(ours) + 1 / len(theirs))
    return difference, 2 * student_tail(abs(difference) / error, df)


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def sample_sd(values: Sequence[float]) -> float:
    """Standard deviation with n - 1; needs two values."""
    return math.sqrt(squares(values) / (len(values) - 1))


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a proportion."""
    share = successes / trials
    middle = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
