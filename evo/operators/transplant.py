"""Adds one technique of the library to a parent. The library's measured effects are never read here."""

from __future__ import annotations

from evo.genome import Genome, PatchError, union
from evo.operators.scene import Draft, Scene


def propose(scene: Scene, parent: str) -> Draft | None:
    """The parent with an untried library patch that fits it, or None."""
    own = scene.genome(parent)
    for patch in scene.chance.shuffled("technique", scene.library):
        if patch.name in own:
            continue
        child = union(own, Genome(own.base, (patch,)))
        if not scene.tried.has_set([p.name for p in child.patches]) and fits(scene, child):
            return Draft((parent,), child)
    return None


def fits(scene: Scene, child: Genome) -> bool:
    try:
        scene.build(child)
    except PatchError:
        return False
    return True
