"""What this run has tried: an idea that was paid for once is never paid for again."""

from __future__ import annotations

from collections.abc import Sequence


class Tried:
    """Patch sets and normalised programs of every proposal of the run, the base's own among them."""

    def __init__(self, identity: str, seedless: str) -> None:
        self._sets: dict[frozenset[str], str] = {frozenset(): "the base"}
        self._identities = {identity: "the base"}
        self._seedless = {seedless: "the base"}
        self.spent: set[tuple[object, ...]] = set()  # moves that operators found to lead to something tried

    def add(self, genome: str, patches: Sequence[str], identity: str, seedless: str) -> None:
        self._sets.setdefault(frozenset(patches), genome)
        self._identities.setdefault(identity, genome)
        self._seedless.setdefault(seedless, genome)

    def refuse(self, patches: Sequence[str]) -> None:
        """Remembers a rejected proposal: what was no good once is not proposed again."""
        self._sets.setdefault(frozenset(patches), "a rejected proposal")

    def has_set(self, patches: Sequence[str]) -> bool:
        return frozenset(patches) in self._sets

    def objection(self, patches: Sequence[str], identity: str, seedless: str) -> str | None:
        """Why a proposal is not new, or None."""
        if twin := self._sets.get(frozenset(patches)):
            return f"the same patches as {twin}"
        if twin := self._identities.get(identity):
            return f"the same program as {twin} but for names, comments or layout"
        if twin := self._seedless.get(seedless):
            return f"the same program as {twin} but for a seed; seeds belong to the judge"
        return None
