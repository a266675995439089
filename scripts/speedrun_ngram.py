"""The control of benchmarks/speedrun: what counting alone reaches, without any training.

    python scripts/speedrun_ngram.py --target 1.66 --slope 0.15

Interpolated Kneser-Ney with three discounts (Chen and Goodman 1999), pruned by counts until a table fits into a
checkpoint, values rounded to 8 bits. An entry costs 3 bytes (next token 2, probability 1) and 2 more if longer entries
hang on it (their number and the weight of backing off, a byte each): a trie that plain tensors hold. Contexts end at a
window's edge, as they do for the base. Seconds are CPU seconds of counting, discounting and rounding, on one thread.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from evo.judges import django

CAPS = (250_000, 750_000, 1_500_000, 10_000_000)
LEAST = {2: (1, 2, 3), 3: (1, 2, 3, 5, 10), 4: (1, 2, 3, 5, 10)}  # an entry with fewer occurrences is left out


@dataclass(frozen=True)
class Order:
    """The entries of one length, sorted, with discounted probabilities; and what each context backs off with."""

    keys: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    contexts: NDArray[np.int64]
    backoff: NDArray[np.float64]


def windows_of(tokens: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Every run of `length` tokens as one number."""
    keys = np.zeros(len(tokens) - length + 1, np.int64)
    for place in range(length):
        keys = keys * django.VOCABULARY + tokens[place : len(tokens) - length + 1 + place]
    return keys


def round_to_byte(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest of 256 values, even in the logarithm, down to 2^-16."""
    return np.exp2(np.round(np.log2(np.maximum(values, 2.0**-16)) * 255 / 16) * 16 / 255)


def table(tokens: NDArray[np.int64], least: Sequence[int]) -> list[Order]:
    """One `Order` a length from 1 to 1 + len(least); all but the longest count distinct left neighbours."""
    longest = 1 + len(least)
    counted = {longest: np.unique(windows_of(tokens, longest), return_counts=True)}
    for length in range(longest - 1, 0, -1):
        suffixes = counted[length + 1][0] % django.VOCABULARY**length
        counted[length] = np.unique(suffixes, return_counts=True)
    found: list[Order] = []
    for length in range(1, longest + 1):
        keys, counts = counted[length]
        ones, twos, threes, fours = (int((counts == n).sum()) for n in (1, 2, 3, 4))
        y = ones / max(ones + 2 * twos, 1)
        discount = np.array([0, 1 - 2 * y * twos / max(ones, 1), 2 - 3 * y * threes / max(twos, 1)])
        discount = np.append(discount, 3 - 4 * y * fours / max(threes, 1))
        contexts, place = np.unique(keys // django.VOCABULARY, return_inverse=True)
        total = np.bincount(place, counts)
        kept = counts >= (least[length - 2] if length > 1 else 1)
        if length > 2:  # an entry hangs on its context's entry
            kept &= np.isin(keys // django.VOCABULARY, found[-1].keys)
        share = np.maximum(counts - discount[np.minimum(counts, 3)], 0) / total[place]
        backoff = 1 - np.bincount(place, share * kept)
        used = np.bincount(place, kept) > 0
        found.append(Order(keys[kept], round_to_byte(share[kept]), contexts[used], round_to_byte(backoff[used])))
    return found


def size(orders: Sequence[Order]) -> int:
    return sum(3 * len(order.keys) + 2 * len(order.contexts) for order in orders)


def look_up(keys: NDArray[np.int64], values: NDArray[np.float64], asked: NDArray[np.int64], absent: float):
    place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[place] == asked, values[place], absent)


def bits_per_byte(
    orders: Sequence[Order], tokens: NDArray[np.int64], window: int, token_bytes: NDArray[np.int64]
) -> float:
    """Over whole windows; a target at place j of its window sees the j + 1 tokens before it."""
    seen = np.arange(len(tokens) - 1) % window + 1
    probability = np.full(len(tokens) - 1, 1 / django.VOCABULARY)
    for length, order in enumerate(orders, start=1):
        asked = windows_of(tokens, length)[-(len(tokens) - 1) :]
        first = max(length - 2, 0)
        mixed = look_up(order.keys, order.probabilities, asked, 0.0)
        mixed = mixed + look_up(order.contexts, order.backoff, asked // django.VOCABULARY, 1.0) * probability[first:]
        probability[first:] = np.where(seen[first:] >= length - 1, mixed, probability[first:])
    sizes = token_bytes[tokens[1:]]
    return float(-(np.log2(probability) * (sizes > 0)).sum() / sizes.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=float, required=True, help="the base's mean bits per byte")
    parser.add_argument("--slope", type=float, required=True)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--windows", type=int, default=1024)
    parser.add_argument("--train-tokens", type=int, help="the first ones; all by default")
    asked = parser.parse_args()
    text = django.load()
    stream = text.train[: asked.train_tokens].astype(np.int64)
    held_out = text.validation[: asked.window * asked.windows + 1].astype(np.int64)
    tried = []
    for longest in (2, 3, 4):
        for least in itertools.product(*(LEAST[length] for length in range(2, longest + 1))):
            if list(least) != sorted(least):
                continue
            started = time.process_time()
            orders = table(stream, least)
            seconds = time.process_time() - started
            loss = bits_per_byte(orders, held_out, asked.window, text.token_bytes)
            tried.append((loss, size(orders), seconds, longest, least))
    print("| within, bytes | order | least counts | bytes | CPU s | L, bits per byte | equivalent s |")
    print("|---|---|---|---|---|---|---|")
    for longest, cap in [(2, CAPS[0]), *((0, cap) for cap in CAPS)]:
        best = min(one for one in tried if one[1] <= cap and longest in (0, one[3]))
        loss, taken, seconds, order, least = best
        equivalent = seconds * math.exp((loss - asked.target) / asked.slope)
        counts = "/".join(map(str, least))
        print(f"| {cap:,} | {order} | {counts} | {taken:,} | {seconds:.2f} | {loss:.3f} | {equivalent:.2f} |")


if __name__ == "__main__":
    main()
