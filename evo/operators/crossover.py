"""The union of two parents' patches, by three-way merge; where their lines meet, a model may join them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from evo.genome import clashing, union
from evo.operators.scene import Draft, Scene
from evo.operators.transplant import fits


def propose(scene: Scene, parent: str) -> Draft | None:
    """The parent crossed with another member of the front that fits it; None where every union was tried."""
    own = scene.genome(parent)
    for mate in _mates(scene, parent, "cross"):
        other = scene.genome(mate)
        new = [patch for patch in other.patches if patch.name not in own.names]
        if not clashing(new, own.patches, scene.base):
            child = union(own, other)
            if not scene.tried.has_set([p.name for p in child.patches]) and fits(scene, child):
                return Draft((parent, mate), child)
        scene.tried.spend_pair("cross", parent, mate)
    return None


def conflict(scene: Scene, parent: str) -> str | None:
    """The mate that is drawn first if its patches and the parent's meet in the same lines: a model may join them."""
    mate = next(_mates(scene, parent, "joined"), None)
    if mate is None or fits(scene, union(scene.genome(parent), scene.genome(mate))):
        return None
    scene.tried.spend_pair("joined", parent, mate)
    return mate


def _mates(scene: Scene, parent: str, move: str) -> Iterator[str]:
    """Members of the front that were not crossed with the parent in this way, drawn by their posterior."""
    archive, spent = scene.archive, scene.tried.spent_with(move, parent)
    others = [name for name in archive.front() if name not in spent and name not in (parent, archive.base)]
    values = [archive.posterior(name) for name in others]
    best = max(values, default=0.0)
    weights = [math.exp(value - best) for value in values]
    while others:
        mate = scene.chance.pick(("mate", len(others)), others, weights)
        at = others.index(mate)
        del others[at], weights[at]
        yield mate
