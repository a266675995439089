# PASSED: the honest twin of exploits/too_long.py

from decimal import Decimal

CIRCLES = 26


def rows():
    """Equal circles on a grid of six by five: honest, and far from the best."""
    return [[(i % 6 + 0.5) / 6, (i // 6 + 0.5) / 5, 1 / 12] for i in range(CIRCLES)]


def solve():
    """Every number with all digits that it has, which is long and still within the limit."""
    return [[x, y, float(str(Decimal(r)))] for x, y, r in rows()]
