"""The metric, on arrays that the judge owns: windows, bits per byte, race score, agreement on truncated windows."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.uint16]
Floats = NDArray[np.float32]

STANDARD_ERRORS = 4.0  # a two-sided normal test passes an honest program 99.994 times in 100
MEAN_FLOOR = 1e-4  # nats; rounding of a program that answers deterministically stays far below it
SPREAD_SHARE = (
    0.1  # of the tolerance, for the root mean square of the true token's change: bfloat16 needs a fifth of it
)
LEAST = -100.0  # nats; less likely than this is all the same, and differences of infinities are none


class NotFinite(Exception):
    """Logits that are not finite numbers."""


RULE = (
    "an answer may depend on nothing but the tokens up to its own position, and not on the batch; "
    "if rounding is the reason, compute the last layer in float32"
)


@dataclass(frozen=True)
class Windows:
    """`inputs` [N, T] and what follows each of their tokens, `targets` [N, T]."""

    inputs: Tokens
    targets: Tokens

    @classmethod
    def cut(cls, tokens: Tokens, count: int, length: int) -> Windows:
        """Evenly spread windows that share no token, so that none holds another's target."""
        stride = len(tokens) // count
        if stride < length + 1:
            raise ValueError(
                f"expected at least {count * (length + 1)} tokens for {count} windows, found {len(tokens)}"
            )
        rows = np.stack([tokens[i * stride : i * stride + length + 1] for i in range(count)]).astype("<u2")
        return cls(np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:]))

    @classmethod
    def join(cls, first: Windows, second: Windows) -> Windows:
        return cls(np.concatenate([first.inputs, second.inputs]), np.concatenate([first.targets, second.targets]))

    def renumbered(self, numbers: Tokens) -> Windows:
        """The same windows with `numbers[token]` in the place of every token."""
        return Windows(numbers[self.inputs], numbers[self.targets])

    def __len__(self) -> int:
        return len(self.inputs)


def log_probabilities(logits: Floats) -> Floats:
    """log-softmax over the last axis, float32, in place on the judge's own copy; raises `NotFinite`."""
    peak = logits.max(axis=-1, keepdims=True)
    if not (np.isfinite(peak).all() and np.isfinite(logits.min())):
        raise NotFinite
    with np.errstate(over="ignore"):  # the largest floats lie further apart than floats reach: probability 0
        np.subtract(logits, peak, out=logits)
    total = np.exp(logits).sum(axis=-1, keepdims=True)
    return np.subtract(logits, np.log(total), out=logits)


def nats_of(log_p: Floats, targets: Tokens) -> NDArray[np.float64]:
    """Cross-entropy per target, for log-probabilities [..., V] and targets [...]."""
    return -np.take_along_axis(log_p, targets[..., None].astype(np.int64), axis=-1)[..., 0].astype(np.float64)


def bits_per_byte(nats: NDArray[np.float64], targets: Tokens, token_bytes: NDArray[np.int64]) -> float:
    """Sum of cross-entropies / (ln 2 x bytes of the targets); targets of no bytes count in neither sum."""
    sizes = token_bytes[targets]
    return float(nats[sizes > 0].sum() / (math.log(2) * sizes.sum()))


def equivalent_seconds(seconds: float, loss: float, *, target: float, slope: float, band: float) -> float | None:
    """t x exp((L - target) / slope), with slope = -dL/d ln t; None above the band, the band's edge below it."""
    if loss > target + band:
        return None
    return seconds * math.exp((max(loss, target - band) - target) / slope)


@dataclass(frozen=True)
class Cuts:
    """Windows in groups of different sizes, each truncated to a length of its own."""

    groups: Sequence[tuple[NDArray[np.int64], int]]  # rows, and how many tokens of them are shown
    last_shown: NDArray[np.int64]  # [N], for every row the index of its last shown token

    @classmethod
    def draw(cls, count: int, length: int, chance: random.Random) -> Cuts:
        """Every row is cut once, and every length is used where there are as many rows: a program that looks ahead at a
        few positions only is then caught for certain instead of by luck."""
        rows = np.array(chance.sample(range(count), count))
        number = min(count, length)
        lengths = chance.sample(range(1, length + 1), number)
        edges = [0, *sorted(chance.sample(range(1, count), number - 1)), count]
        groups = [(rows[a:b], cut) for a, b, cut in zip(edges, edges[1:], lengths)]
        last_shown = np.empty(count, np.int64)
        for found, cut in groups:
            last_shown[found] = cut - 1
        return cls(groups, last_shown)


def disagreement(whole: Floats, truncated: Floats, targets: Tokens, tolerance: float) -> str | None:
    """What is wrong between log-probabilities [N, V] of the same cuts, seen with and without what follows them.

    Three tests. The largest absolute difference over the whole vocabulary, not the target's alone: a memory of rows
    that reshapes the rest is as forbidden. The signed mean of the target's change, which finds a bias that hides below
    the tolerance. Its root mean square, because noise as large as the tolerance would hide a bias from the second; with
    it no more than 4 x 0.1 x tolerance / sqrt(N) nats can be gained.
    """
    whole, truncated = np.maximum(whole, LEAST), np.maximum(truncated, LEAST)
    largest = float(np.abs(whole - truncated).max())
    if not largest <= tolerance:
        return (
            f"truncation test: log-probabilities at a cut differ by {largest:.4g} from those of the whole window, "
            f"tolerance {tolerance:.4g}; {RULE}"
        )
    change = nats_of(truncated, targets) - nats_of(whole, targets)
    mean, error = float(change.mean()), float(change.std() / math.sqrt(len(change)))
    if not abs(mean) <= STANDARD_ERRORS * error + MEAN_FLOOR:
        return (
            f"signed test: the true token's log-probability is higher by {mean:.4g} nats on average when the window "
            f"goes on, standard error {error:.2g}; {RULE}"
        )
    spread = float(np.sqrt((change**2).mean()))
    if not spread <= SPREAD_SHARE * tolerance:
        return (
            f"spread test: the true token's log-probability changes by {spread:.4g} nats (root mean square) when the "
            f"window goes on, tolerance {SPREAD_SHARE * tolerance:.4g}; {RULE}"
        )
    return None
