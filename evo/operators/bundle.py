"""Adds two techniques at once: some pay only together, and each may have lost alone."""

from __future__ import annotations

from itertools import combinations

from evo.operators.scene import Draft, Scene
from evo.operators.transplant import addable, fits

ATTEMPTS = 10  # pairs looked at; a library of n has n (n - 1) / 2


def propose(scene: Scene, parent: str) -> Draft | None:
    """The parent with an untried pair of library patches that fit it and each other, or None."""
    own = scene.genome(parent)
    names = [patch.name for patch in own.patches]
    for one, two in scene.chance.shuffled("pair", list(combinations(addable(scene, own), 2)))[:ATTEMPTS]:
        child = own.with_patch(one).with_patch(two)
        if not scene.tried.has_set([*names, one.name, two.name]) and fits(scene, child):
            return Draft((parent,), child)
    return None
