"""What this run has tried: an idea that was paid for once is never paid for again."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

SPENT = 10_000  # moves; the front's dozen genomes have some hundred


class Tried:
    """Patch sets and normalised programs of every proposal of the run, the base's own among them."""

    def __init__(self, identity: str, seedless: str) -> None:
        self._sets: dict[bytes, str] = {_set_name(()): "the base"}
        self._identities = {identity: "the base"}
        self._seedless = {seedless: "the base"}
        self.spent: set[tuple[object, ...]] = set()  # moves that operators found to lead to something tried
        self._pairs: dict[tuple[str, str], set[str]] = {}  # by move and genome: those it was joined with in vain
        self._joined = 0

    def add(self, genome: str, patches: Sequence[str], identity: str, seedless: str) -> None:
        self._sets.setdefault(_set_name(patches), genome)
        self._identities.setdefault(identity, genome)
        self._seedless.setdefault(seedless, genome)

    def refuse(self, patches: Sequence[str]) -> None:
        """Remembers a rejected proposal: what was no good once is not proposed again."""
        self._sets.setdefault(_set_name(patches), "a rejected proposal")

    def spend(self, move: tuple[object, ...]) -> None:
        """Remembers that a move leads nowhere new. Only a memory aid: past its size it is emptied and fills again."""
        if len(self.spent) >= SPENT:
            self.spent.clear()
        self.spent.add(move)

    def spend_pair(self, move: str, one: str, other: str) -> None:
        """Remembers that joining two genomes by a move leads nowhere new; forgets as `spend` does."""
        if self._joined >= SPENT:
            self._pairs.clear()
            self._joined = 0
        self._joined += 1
        for own, mate in ((one, other), (other, one)):
            self._pairs.setdefault((move, own), set()).add(mate)

    def spent_with(self, move: str, genome: str) -> Collection[str]:
        """The genomes that one was joined with in vain."""
        return self._pairs.get((move, genome), ())

    def has_set(self, patches: Sequence[str]) -> bool:
        return _set_name(patches) in self._sets

    def objection(self, patches: Sequence[str], identity: str, seedless: str) -> str | None:
        """Why a proposal is not new, or None."""
        if twin := self._sets.get(_set_name(patches)):
            return f"the same patches as {twin}"
        if twin := self._identities.get(identity):
            return f"the same program as {twin} but for names, comments or layout"
        if twin := self._seedless.get(seedless):
            return f"the same program as {twin} but for a seed; seeds belong to the judge"
        return None


def _set_name(patches: Sequence[str]) -> bytes:
    """A short name of a set of patches: ten thousand frozen sets of thirty names would take more than all else."""
    return hashlib.blake2b("\0".join(sorted(set(patches))).encode(), digest_size=12).digest()
