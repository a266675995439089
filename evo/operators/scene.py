"""What an operator may look at, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from evo.archive import Archive
from evo.benchmark import Audit
from evo.cards import Card
from evo.chance import Chance
from evo.chronicle import Chronicle
from evo.genome import Genome, Patch, Tree
from evo.novelty import Tried


@dataclass(frozen=True)
class Scene:
    """The archive, the technique library and chance, at the moment of one proposal."""

    archive: Archive
    tried: Tried
    genome: Callable[[str], Genome]
    build: Callable[[Genome], Tree]
    known: Collection[str]  # names of patches that the run's journals hold already
    library: Sequence[Patch]
    base: Tree
    editable: Callable[[str], bool]
    chance: Chance
    gain_of: Callable[[int], float | None]  # the screened gain of this thread's proposal of a number, if it has one
    bounds: Audit = field(default_factory=Audit)  # of what is refused before it is judged
    cards: Sequence[Card] = ()
    chronicle: Chronicle = field(default_factory=Chronicle)
    earlier: str = ""  # what a run before this one found
    standing: str = ""  # what the base scores
    said: Callable[[str], str] = lambda name: ""  # what the judge added to a genome's score
    rules: Sequence[str] = ()  # what the judge allows, in words
    hypotheses: Sequence[str] = ()  # that models wrote down in this run
    novelty: float = 1.0
    novel: bool = True  # False only in the control that measures what the novelty check is worth


@dataclass(frozen=True)
class Draft:
    parents: tuple[str, ...]
    genome: Genome
