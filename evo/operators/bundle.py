"""Adds two techniques at once: some pay only together, and each may have lost alone."""

from __future__ import annotations

from itertools import combinations

from evo.genome import Genome, union
from evo.operators.scene import Draft, Scene
from evo.operators.transplant import fits

ATTEMPTS = 30  # pairs looked at; a library of n has n (n - 1) / 2


def propose(scene: Scene, parent: str) -> Draft | None:
    """The parent with an untried pair of library patches that fit it, or None."""
    own = scene.genome(parent)
    free = [patch for patch in scene.library if patch.name not in own]
    for pair in scene.chance.shuffled("pair", list(combinations(free, 2)))[:ATTEMPTS]:
        child = union(own, Genome(own.base, pair))
        if not scene.tried.has_set([p.name for p in child.patches]) and fits(scene, child):
            return Draft((parent,), child)
    return None
