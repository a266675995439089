"""Who becomes a parent, and who is validated."""

from __future__ import annotations

import math
from collections.abc import Iterator

from evo.archive import Archive
from evo.chance import Chance

STEPPING_STONE = 0.1  # share of parents from cells outside the front, times the run's novelty


def parents(archive: Archive, chance: Chance, novelty: float) -> Iterator[str]:
    """Genomes to build on, each drawn from what is left.

    From the front by exp(posterior - best) / (1 + offspring), now and then an elite from elsewhere.
    """
    front = archive.front()
    stones = [name for name in archive.elites().values() if name not in front]
    values = [archive.posterior(name) for name in front]
    while front or stones:
        if stones and (not front or chance.uniform("stone") < STEPPING_STONE * novelty):
            stone = chance.pick("which stone", stones)
            stones.remove(stone)
            yield stone
        else:
            best = max(values)
            weights = [
                math.exp(value - best) / (1 + archive.offspring(name))
                for name, value in zip(front, values, strict=True)
            ]
            at = front.index(chance.pick("parent", front, weights))
            del values[at]
            yield front.pop(at)


def finalists(archive: Archive, count: int) -> list[str]:
    """The genomes with the best posteriors; those not expected to gain anything are left out."""
    best: list[str] = []
    for name in archive.ranking():
        if len(best) == count or archive.posterior(name) <= 0:
            break
        best.append(name)
    return best
