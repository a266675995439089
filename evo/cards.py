"""Experience cards: short, deterministic records of what was tried and what happened, for the next prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

BUDGET = 300  # tokens of cards in one prompt; the record of everything stands before it
EARLIER = 1500  # tokens of an earlier run's cards
LINE = 400  # characters of one card
REMINDER = 60  # characters of the idea of a card that is told by its number
BEGINNING = 40  # characters of an idea that a card builds on
RECENT = 3  # latest cards of a thread that its own prompts always hold


@dataclass(frozen=True)
class Card:
    """One evaluated genome. `gain` is its posterior in units of gain; None where it failed or was set aside."""

    genome: str
    base: str  # hash of the program that gains are measured against
    cell: tuple[str, str]
    ideas: tuple[str, ...]  # one for each patch
    patches: frozenset[str]
    stage: str  # how far it came: screen, finalist, certified or refuted
    status: str
    gain: float | None
    described: str  # the measured gain with its interval, or why there is none
    thread: int = 0

    @property
    def is_negative(self) -> bool:
        return self.gain is None or self.gain <= 0

    def line(self) -> str:
        """The latest idea in full, since the earlier ones have cards of their own; of them only the beginnings."""
        where = f"{self.cell[0]}, {self.cell[1]}, {self.stage}"
        *earlier, latest = self.ideas or ("nothing",)
        below = f" | on top of: {'; '.join(one_line(idea, BEGINNING) for idea in earlier)}" if earlier else ""
        return f"- [{where}] {self.described}: {latest}{below}"[:LINE]

    def reminder(self, number: int) -> str:
        """Its number and idea; its figures only where they are newer than its screen's, which was told."""
        newer = f" {self.stage}, {self.described}" if self.stage != "screen" else ""
        return f"- G{number}{newer}: {one_line(self.ideas[-1] if self.ideas else 'nothing', REMINDER)}"


def chosen(task: str, cards: Iterable[Card], parents: Sequence[Card], thread: int) -> list[Card]:
    """The cards that a task's prompt shows, the most telling first; the parents' own are left out."""
    current = list(cards)
    mine = frozenset(name for parent in parents for name in parent.patches)
    cells = {parent.cell for parent in parents}
    recent = [card for card in current if card.thread == thread][-RECENT:][::-1]
    lineage = sorted((c for c in current if c.patches and c.patches < mine), key=_rank)
    failed = sorted((c for c in current if c.is_negative), key=lambda c: (-len(c.patches & mine), c.genome))
    inside = sorted((c for c in current if c.cell in cells), key=_rank)
    single = [c for c in current if len(c.patches) == 1 and not c.patches & mine]
    order = {
        "improve": [*lineage, *recent, *_best_of_cells(current), *failed],
        "mutate": [*inside, *recent, *_best_of_cells(current)],
        "crossover": [*lineage, *recent],
        "bundle": [*lost_alone(single), *sorted((c for c in single if not c.is_negative), key=_rank), *recent],
        "repair": [*lineage, *failed],
        "reflect": [*_best_of_cells(current), *_alternating(sorted(current, key=_rank))],
    }[task]
    without = {parent.genome for parent in parents}
    return [card for card in dict.fromkeys(order) if card.genome not in without]


def of_earlier(cards: Iterable[Card], base: str) -> str:
    """What an earlier run found, the best first, for a run on `base`; within a budget of tokens.

    What failed against another base than this one says nothing any more and is dropped.
    """
    valid = sorted((card for card in cards if card.base == base or not card.is_negative), key=_rank)
    return within(valid, {}, EARLIER)


def lost_alone(cards: Iterable[Card]) -> list[Card]:
    """Single patches that passed and gained nothing, the nearest to a gain first: two of them may pay together."""
    found = [card for card in cards if len(card.patches) == 1 and card.gain is not None and card.gain <= 0]
    return sorted(found, key=_rank)


def within(cards: Sequence[Card], told: Mapping[str, int], budget: int = BUDGET) -> str:
    """As many cards as fit a budget of tokens, in their order; `told` has the numbers of genomes told before."""
    lines: list[str] = []
    left = budget
    for card in cards:
        line = card.reminder(told[card.genome]) if card.genome in told else card.line()
        left -= tokens(line + "\n")
        if left < 0:
            break
        lines.append(line)
    return "\n".join(lines)


def one_line(text: str, limit: int = 300) -> str:
    """A text that somebody else wrote, as one short line of a prompt."""
    return " ".join(text.split())[:limit]


def tokens(text: str) -> int:
    """About how many tokens a text has: one for every four bytes, as in English and in code."""
    return -(-len(text.encode()) // 4)


def _best_of_cells(cards: Iterable[Card]) -> list[Card]:
    best: dict[tuple[str, str], Card] = {}
    for card in cards:
        if not card.is_negative and (card.cell not in best or _rank(card) < _rank(best[card.cell])):
            best[card.cell] = card
    return sorted(best.values(), key=_rank)


def _alternating(ranked: list[Card]) -> list[Card]:
    """From both ends inwards: the best, the worst, the second best."""
    pairs = zip(ranked, reversed(ranked), strict=True)
    return [card for pair in pairs for card in pair][: len(ranked)]


def _rank(card: Card) -> tuple[float, str]:
    return (float("inf") if card.gain is None else -card.gain, card.genome)
