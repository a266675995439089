"""Adds one technique of the library to a parent. The library's measured effects are never read here."""

from __future__ import annotations

from evo.genome import Genome, Patch, PatchError
from evo.operators.scene import Draft, Scene


def propose(scene: Scene, parent: str) -> Draft | None:
    """The parent with an untried library patch that fits it, or None."""
    if ("transplant", parent) in scene.tried.spent:
        return None
    own = scene.genome(parent)
    names = [patch.name for patch in own.patches]
    for patch in scene.chance.shuffled("technique", addable(scene, own)):
        if not scene.tried.has_set([*names, patch.name]):
            return Draft((parent,), own.with_patch(patch))
    scene.tried.spend(("transplant", parent))
    return None


def addable(scene: Scene, own: Genome) -> list[Patch]:
    """Techniques that a genome lacks and that merge into it. Misfits are remembered: they stay misfits."""
    found = []
    for patch in scene.library:
        move = (own.name, patch.name)
        if patch.name in own or move in scene.tried.spent:
            continue
        if fits(scene, own.with_patch(patch)):
            found.append(patch)
        else:
            scene.tried.spend(move)
    return found


def fits(scene: Scene, child: Genome) -> bool:
    try:
        scene.build(child)
    except PatchError:
        return False
    return True
