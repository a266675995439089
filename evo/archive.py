"""MAP-Elites over (category, footprint): what is good and different, kept as a pure function of what was measured."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from evo import stats

FRONT = 12  # the best by posterior, wherever they live
CHILD_PRIOR = -0.3  # a child is expected a little under its parent, in typical gains
CROSSOVER_PRIOR = -0.1

Cell = tuple[str, str]  # category, footprint


@dataclass(slots=True)
class Member:
    """What the archive knows of one genome. Scores are gains over the base mean, in typical gains."""

    name: str
    cell: Cell
    parents: tuple[str, ...]
    crossover: bool = False
    scores: dict[str, float] = field(default_factory=dict)  # task name -> score; certification's never enter
    barred: str = ""  # why it may be no elite: it failed, was refuted, is quarantined or banned
    pinned: bool = False


class Archive:
    """Cells with one elite each and, beside them, the front. Nothing is deleted: what is barred can return."""

    def __init__(self, base: str, noise_variance: float) -> None:
        self.base = base
        self._noise = noise_variance
        self._members: dict[str, Member] = {}
        self._children: dict[str, set[str]] = {}
        self._posteriors: dict[str, float] = {}
        self._ranked: list[tuple[float, str]] = []  # (-posterior, name) of everything that may be an elite
        self._cells: dict[Cell, list[tuple[float, str]]] = {}
        self._rank: dict[str, float] = {}
        self._pinned: set[str] = set()
        self.add(Member(base, ("base", "base"), ()))

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def __getitem__(self, name: str) -> Member:
        return self._members[name]

    def offspring(self, name: str) -> int:
        """How many genomes came from one; counted, not kept, since a child may become known before its parent."""
        return len(self._children.get(name, ()))

    def members(self) -> Iterator[Member]:
        return iter(self._members.values())

    def add(self, member: Member) -> None:
        self._members[member.name] = member
        for parent in member.parents:
            self._children.setdefault(parent, set()).add(member.name)
        self._touch(member.name)

    def change(self, name: str, score: tuple[str, float] | None = None, **fields: object) -> None:
        """Applies one fact to one genome and moves it and its descendants to their new places."""
        member = self._members[name]
        if score is not None:
            member.scores[score[0]] = score[1]
        for key, value in fields.items():
            setattr(member, key, value)
        (self._pinned.add if member.pinned else self._pinned.discard)(name)
        self._touch(name)

    def posterior(self, name: str) -> float:
        """The expected gain in typical gains; the base is 0 by definition, an unknown parent counts as the base."""
        if (known := self._posteriors.get(name)) is not None:
            return known
        if name == self.base or name not in self._members:
            return 0.0
        if name not in self._posteriors:
            pending = [name]
            while pending:  # parents first; a lineage can be deeper than Python's stack
                top = pending[-1]
                member = self._members[top]
                missing = [
                    p for p in member.parents if p in self._members and p != self.base and p not in self._posteriors
                ]
                if missing:
                    pending.extend(missing)
                    continue
                pending.pop()
                best = max((self.posterior(parent) for parent in member.parents), default=0.0)
                prior = best + (CROSSOVER_PRIOR if member.crossover else CHILD_PRIOR)
                self._posteriors[top] = stats.posterior(prior, sorted(member.scores.values()), self._noise)
        return self._posteriors[name]

    def front(self) -> list[str]:
        """The best by posterior, the base among them at 0, pinned genomes always; ties go to the smaller name."""
        best = [name for _, name in self._ranked[:FRONT]]
        return best + sorted(name for name in self._pinned if name in self._rank and name not in best)

    def elites(self) -> Mapping[Cell, str]:
        return {cell: ranked[0][1] for cell, ranked in sorted(self._cells.items()) if ranked and cell[0] != "base"}

    def ranking(self) -> Iterable[str]:
        """Every eligible genome but the base, best posterior first."""
        return (name for _, name in self._ranked if name != self.base)

    def siblings_in(self, cell: Cell) -> list[str]:
        return [name for _, name in self._cells.get(cell, ())]

    def _touch(self, name: str) -> None:
        affected, pending = {name}, [name]
        while pending:
            for child in self._children.get(pending.pop(), ()):
                if child not in affected:
                    affected.add(child)
                    pending.append(child)
        for one in affected:
            self._posteriors.pop(one, None)
        for one in sorted(affected):
            self._place(one)

    def _place(self, name: str) -> None:
        member = self._members.get(name)
        if member is None:
            return
        old = self._rank.pop(name, None)
        cell = self._cells.setdefault(member.cell, [])
        if old is not None:
            _remove(self._ranked, (old, name))
            _remove(cell, (old, name))
        if member.barred or not (member.scores or name == self.base):
            return
        rank = -self.posterior(name)
        self._rank[name] = rank
        bisect.insort(self._ranked, (rank, name))
        bisect.insort(cell, (rank, name))


def _remove(ranked: list[tuple[float, str]], item: tuple[float, str]) -> None:
    position = bisect.bisect_left(ranked, item)
    if position < len(ranked) and ranked[position] == item:
        del ranked[position]
