"""Experience cards: short, deterministic records of what was tried and what happened, for the next prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BUDGET = 6000  # characters of cards in one prompt; about 1,500 tokens


@dataclass(frozen=True)
class Card:
    """One evaluated genome. `gain` is its posterior in units of gain; None where it failed, with the reason."""

    genome: str
    cell: tuple[str, str]
    ideas: tuple[str, ...]
    patches: frozenset[str]
    gain: float | None
    described: str  # the gain as a person says it, or the status and reason
    certified: bool = False

    def line(self) -> str:
        proof = ", certified" if self.certified else ""
        return f"- [{self.cell[0]}, {self.cell[1]}{proof}] {self.described}: {'; '.join(self.ideas)}"


def for_improving(cards: Iterable[Card], parent: Card | None) -> list[Card]:
    """The parent's own lineage, then the best of every other cell, then the failures that share most with it."""
    everything = list(cards)
    mine = parent.patches if parent else frozenset()
    related = [c for c in everything if c.patches and c.patches <= mine]
    best: dict[tuple[str, str], Card] = {}
    for card in everything:
        if card.gain is not None and (card.cell not in best or _rank(card) < _rank(best[card.cell])):
            best[card.cell] = card
    failed = [c for c in everything if c.gain is None or c.gain < 0]
    nearest = sorted(failed, key=lambda c: (-len(c.patches & mine), c.genome))
    return _distinct([*sorted(related, key=_rank), *sorted(best.values(), key=_rank), *nearest])


def for_mutating(cards: Iterable[Card], cell: tuple[str, str]) -> list[Card]:
    """What was tried in the parent's cell, the best first: the new mechanism shall be none of it."""
    return _distinct(sorted((c for c in cards if c.cell == cell), key=_rank))


def within(cards: Sequence[Card], budget: int = BUDGET) -> str:
    """As many cards as fit the budget, in their order."""
    lines: list[str] = []
    for card in cards:
        line = card.line()[:600]
        if sum(len(have) + 1 for have in lines) + len(line) > budget:
            break
        lines.append(line)
    return "\n".join(lines)


def _rank(card: Card) -> tuple[float, str]:
    return (float("inf") if card.gain is None else -card.gain, card.genome)


def _distinct(cards: Sequence[Card]) -> list[Card]:
    return list({card.genome: card for card in cards}.values())
