"""26 circles in the unit square, as large in sum as they come: a penalty method from rows of equal circles."""

import numpy as np

CIRCLES = 26
ROWS = (5, 5, 6, 5, 5)  # circles in each row of the first layout
SEED = 1
JITTER = 0.010  # of the first layout
START_RADIUS = 0.070
STEPS = 400
LEARNING_RATE = 0.004
FINAL_RATE = 0.10  # of the learning rate, at the last step
PENALTY = 5.0
PENALTY_GROWTH = 20.0  # over the whole run
MOMENTUM = 0.90


def layout(chance):
    """First centres [26, 2]: rows of different lengths, evenly spread."""
    centres = []
    for row, count in enumerate(ROWS):
        for column in range(count):
            centres.append(((column + 0.5) / count, (row + 0.5) / len(ROWS)))
    return np.array(centres) + chance.normal(0.0, JITTER, (CIRCLES, 2))


def gradient(centres, radii, penalty):
    """Of  sum(radii) - penalty * sum(overlaps**2)  by centres and radii, overlaps with the border included."""
    difference = centres[:, None] - centres[None]
    distance = np.sqrt((difference**2).sum(-1)) + 1e-12
    overlap = np.maximum(0.0, radii[:, None] + radii[None] - distance)
    np.fill_diagonal(overlap, 0.0)
    low = np.maximum(0.0, radii[:, None] - centres)
    high = np.maximum(0.0, centres + radii[:, None] - 1.0)
    by_centres = 2 * penalty * ((overlap / distance)[..., None] * difference).sum(1) + 2 * penalty * (low - high)
    by_radii = 1.0 - 2 * penalty * overlap.sum(1) - 2 * penalty * (low + high).sum(1)
    return by_centres, by_radii


def optimise(centres, radii):
    moved, grown = np.zeros_like(centres), np.zeros_like(radii)
    for step in range(STEPS):
        progress = step / STEPS
        rate = LEARNING_RATE * (1 - progress * (1 - FINAL_RATE))
        by_centres, by_radii = gradient(centres, radii, PENALTY * PENALTY_GROWTH**progress)
        moved = MOMENTUM * moved + (1 - MOMENTUM) * by_centres
        grown = MOMENTUM * grown + (1 - MOMENTUM) * by_radii
        centres = np.clip(centres + rate * moved, 0.0, 1.0)
        radii = np.maximum(radii + rate * grown, 0.0)
    return centres, radii


def feasible(centres, radii):
    """Radii shrunk until nothing overlaps, then each grown as far as the others leave room."""
    border = np.minimum(centres, 1.0 - centres).min(1)
    distance = np.sqrt(((centres[:, None] - centres[None]) ** 2).sum(-1))
    np.fill_diagonal(distance, np.inf)
    radii = np.minimum(radii, border)
    radii = radii * min(1.0, (distance / (radii[:, None] + radii[None] + 1e-300)).min())
    for i in range(CIRCLES):
        radii[i] = max(0.0, min(border[i], (distance[i] - radii).min()))
    return radii


def solve():
    """Rows [x, y, r]."""
    centres = layout(np.random.default_rng(SEED))
    centres, radii = optimise(centres, np.full(CIRCLES, START_RADIUS))
    return np.column_stack([centres, feasible(centres, radii)]).tolist()
