"""Scores 26 circles in the unit square: the sum of their radii, if they lie inside and do not overlap.

Exact: floats become fractions, so no rounding decides. The one tolerance is 1e-9 in length, for overlaps and border.
"""

from fractions import Fraction

CIRCLES = 26
TOLERANCE = Fraction(1, 10**9)


def verify(answer):
    if not isinstance(answer, list) or len(answer) != CIRCLES:
        raise ValueError(f"expected a list of {CIRCLES} rows [x, y, r]")
    circles = [circle(row, number) for number, row in enumerate(answer)]
    for number, (x, y, r) in enumerate(circles):
        if min(x, y, 1 - x, 1 - y) < r - TOLERANCE:
            raise ValueError(f"circle {number} reaches over the border of the unit square by more than 1e-9")
    for i, (x, y, r) in enumerate(circles):
        for j, (u, v, s) in enumerate(circles[:i]):
            apart = r + s - TOLERANCE
            if apart > 0 and (x - u) ** 2 + (y - v) ** 2 < apart**2:
                raise ValueError(f"circles {j} and {i} overlap by more than 1e-9")
    return float(sum(r for _, _, r in circles))


def circle(row, number):
    if not isinstance(row, list) or len(row) != 3 or not all(type(value) in (int, float) for value in row):
        raise ValueError(f"row {number}: expected three numbers [x, y, r]")
    x, y, r = (Fraction(value) for value in row)
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(f"circle {number}: expected a centre in the unit square")
    if r < 0:
        raise ValueError(f"circle {number}: expected a radius of at least 0, found {float(r):.3g}")
    return x, y, r
