"""Chance without a state: every draw is a hash of (seed, thread, proposal number, label)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")


@lru_cache(maxsize=256, typed=True)  # a proposal draws again and again by the same label
def number(*parts: object) -> int:
    """A 63-bit number that only the parts decide."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class Chance:
    seed: int
    thread: int
    number: int

    def uniform(self, label: object) -> float:
        """A number in [0, 1)."""
        return number(self.seed, self.thread, self.number, label) / 2**63

    def pick(self, label: object, items: Sequence[T], weights: Sequence[float] | None = None) -> T:
        """One item; equal weights where none are given."""
        if not items:
            raise ValueError(f"nothing to pick '{label}' from")
        shares = list(weights) if weights is not None else [1.0] * len(items)
        threshold = self.uniform(label) * sum(shares)
        for item, share in zip(items, shares, strict=True):
            threshold -= share
            if threshold < 0:
                return item
        return items[-1]

    def shuffled(self, label: object, items: Sequence[T]) -> list[T]:
        text = "\x1f".join(map(str, (self.seed, self.thread, self.number, label))).encode()
        keys = hashlib.shake_128(text).digest(8 * len(items))  # one hash for all: eight bytes an item
        return [items[i] for i in sorted(range(len(items)), key=lambda i: keys[8 * i : 8 * i + 8])]
