"""CMA-ES over all named settings of the base at once, by DEAP: the control that searches numbers and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence

from evo import chance
from evo.genome import Genome, PatchError, patch_between
from evo.operators.scene import Draft, Scene
from evo.operators.sweep import Constant, constants, with_constant

SIGMA = 0.3  # first step size, in log units: a setting moves by about a third


def propose(scene: Scene, parent: str) -> Draft | None:
    """The next individual of the current generation, as one patch on the base; the parent plays no part."""
    settings = named_settings(scene)
    if not settings:
        return None
    population = 4 + int(3 * math.log(len(settings)))  # CMA-ES's default size
    generation, member = divmod(scene.chance.number, population)
    point = sampled(scene, len(settings), population, generation)[member]
    program = dict(scene.base)
    for constant, log_factor in sorted(zip(settings, point, strict=True), key=lambda pair: -pair[0].start):
        value = constant.value * math.exp(log_factor)
        value = max(1.0, round(value)) if constant.is_integer else value
        program[constant.path] = with_constant(program[constant.path], constant, value)
    words = {"hypothesis": f"settings at point {member} of generation {generation}", "source": "polish"}
    base = Genome(scene.genome(scene.archive.base).base)
    try:
        return Draft((scene.archive.base,), base.with_patch(patch_between(base, scene.base, program, **words)))
    except PatchError:
        return Draft((scene.archive.base,), base)  # rounded back to the base: rejected as tried, and counted as worst


def named_settings(scene: Scene) -> list[Constant]:
    """Positive numbers that define an upper-case name at the top of an editable file."""
    files = sorted(path for path in scene.base if path.endswith(".py") and scene.editable(path))
    found = [constant for path in files for constant in constants(scene.base[path], path)]
    return [c for c in found if c.name.isupper() and c.value > 0 and math.isfinite(c.value)]


def sampled(scene: Scene, dimensions: int, population: int, generation: int) -> Sequence[Sequence[float]]:
    """The points of a generation; the strategy is replayed from the measured gains, so nothing need be stored.

    What failed, was rejected or is still being judged counts as the worst of its generation.
    """
    import numpy as np
    from deap import base as deap_base
    from deap import cma

    class Fitness(deap_base.Fitness):
        weights = (1.0,)

    class Point(list):
        def __init__(self, values: Sequence[float]) -> None:
            super().__init__(values)
            self.fitness = Fitness()

    strategy = cma.Strategy(centroid=[0.0] * dimensions, sigma=SIGMA, lambda_=population)
    before = np.random.get_state()  # DEAP draws from numpy's global generator; it is put back at the end
    try:
        for past in range(generation + 1):
            np.random.seed(chance.number(scene.chance.seed, scene.chance.thread, "generation", past) % 2**32)
            points = strategy.generate(Point)
            if past == generation:
                return points
            gains = [scene.gain_of(past * population + member) for member in range(population)]
            worst = min((gain for gain in gains if gain is not None), default=0.0)
            for point, gain in zip(points, gains, strict=True):
                point.fitness.values = (worst - 1.0 if gain is None else gain,)
            strategy.update(points)
    finally:
        np.random.set_state(before)
    raise AssertionError("unreachable: the last generation returns")
