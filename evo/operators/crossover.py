"""The union of two parents' patches, by three-way merge."""

from __future__ import annotations

import math

from evo.genome import union
from evo.operators.scene import Draft, Scene
from evo.operators.transplant import fits


def propose(scene: Scene, parent: str) -> Draft | None:
    """The parent crossed with another member of the front that fits it; None where every union was tried."""
    own = scene.genome(parent)
    others = [
        name
        for name in scene.archive.front()
        if name not in (parent, scene.archive.base) and ("cross", *sorted((parent, name))) not in scene.tried.spent
    ]
    best = max((scene.archive.posterior(name) for name in others), default=0.0)
    while others:
        weights = [math.exp(scene.archive.posterior(name) - best) for name in others]
        mate = scene.chance.pick(("mate", len(others)), others, weights)
        others.remove(mate)
        child = union(own, scene.genome(mate))
        if not scene.tried.has_set([p.name for p in child.patches]) and fits(scene, child):
            return Draft((parent, mate), child)
        scene.tried.spent.add(("cross", *sorted((parent, mate))))
    return None
