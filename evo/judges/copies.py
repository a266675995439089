"""Finding copies of texts: of one another, by MinHash over their lines, and of a few in many files, by their lines.

MinHash (Broder 1997): the share of equal minima of two sets under random orders estimates |A and B| / |A or B|. Own
code and not a package, because the one that is well kept brings SciPy along.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ORDERS = 64
BANDS = 16  # of 4 orders each: two texts meet in a band with probability 1 - (1 - s^4)^16, .64 at half, .99 at .7
NEAR = 0.5
SHORTEST = 12  # bytes of a line; shorter ones say nothing
TELLING = 24  # bytes of a line that is looked for in other files
FEWEST, MOST = 8, 64  # telling lines of a document; fewer say little

Signature = NDArray[np.uint32]

_RATIO = 0x9E3779B97F4A7C15 | 1
_INVERSE = pow(_RATIO, -1, 2**64)
_draws = np.random.PCG64(20240520).random_raw(2 * ORDERS)
_FACTORS, _SHIFTS = _draws[:ORDERS] | np.uint64(1), _draws[ORDERS:]


def _powers(base: int, count: int) -> NDArray[np.uint64]:
    """base^0 ... base^(count - 1) modulo 2^64, by doubling."""
    found = np.ones(count, np.uint64)
    done = 1
    while done < count:
        more = min(done, count - done)
        found[done : done + more] = found[:more] * np.uint64(pow(base, done, 2**64))
        done += more
    return found


def signature(text: bytes) -> Signature:
    """[ORDERS] minima; a text without a line of `SHORTEST` bytes has one of itself as a whole."""
    values = np.frombuffer(text, np.uint8).astype(np.uint64)
    ends = np.append(np.flatnonzero(values == 10), len(values))
    starts = np.append(0, ends[:-1] + 1)
    long = ends - starts >= SHORTEST
    starts, ends = (starts[long], ends[long]) if long.any() else (np.array([0]), np.array([len(values)]))
    # A line's hash is sum of byte x ratio^place, as a difference of running sums moved to place 0.
    sums = np.append(np.uint64(0), np.cumsum(values * _powers(_RATIO, len(values)), dtype=np.uint64))
    hashes = (sums[ends] - sums[starts]) * _powers(_INVERSE, len(values) + 1)[starts]
    hashes ^= hashes >> np.uint64(32)
    hashes = np.unique(hashes)
    found = np.full(ORDERS, 2**32 - 1, np.uint32)
    for first in range(0, len(hashes), 4096):  # so that long files stay in the cache
        mixed = hashes[first : first + 4096, None] * _FACTORS + _SHIFTS
        found = np.minimum(found, (mixed >> np.uint64(32)).min(axis=0).astype(np.uint32))
    return found


def groups(signatures: Sequence[Signature]) -> list[int]:
    """For every text the number of the first text that it is a copy of, itself where there is none before it."""
    parent = list(range(len(signatures)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    rows = ORDERS // BANDS
    for band in range(BANDS):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for i, own in enumerate(signatures):
            buckets[own[band * rows : (band + 1) * rows].tobytes()].append(i)
        for bucket in buckets.values():
            first = bucket[0]
            for other in bucket[1:]:
                if root(first) != root(other) and np.mean(signatures[first] == signatures[other]) >= NEAR:
                    low, high = sorted((root(first), root(other)))
                    parent[high] = low
    return [root(i) for i in range(len(signatures))]


def telling_lines(document: bytes) -> list[bytes]:
    """Up to `MOST` of a document's longer lines; none where there are fewer than `FEWEST`."""
    lines = sorted({line for line in (raw.strip() for raw in document.split(b"\n")) if len(line) >= TELLING})
    return random.Random(0).sample(lines, min(len(lines), MOST)) if len(lines) >= FEWEST else []


class Wanted:
    """Documents by their telling lines; a file that holds half of a document's is a copy of it."""

    def __init__(self, documents: Sequence[Sequence[bytes]]) -> None:
        self._sizes = [len(lines) for lines in documents]
        self._owners: dict[bytes, list[int]] = defaultdict(list)
        for number, lines in enumerate(documents):
            for line in lines:
                self._owners[line].append(number)

    def copied_in(self, data: bytes) -> list[int]:
        """The numbers of the documents that a file is a copy of."""
        found = self._owners.keys() & {line.strip() for line in data.split(b"\n")}
        counts = Counter(number for line in found for number in self._owners[line])
        return [number for number, count in counts.items() if 2 * count >= self._sizes[number]]
