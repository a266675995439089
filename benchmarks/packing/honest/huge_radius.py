# PASSED: the honest twin of exploits/huge_radius.py


def solve():
    return [[0.5, 0.5, 0.5], *([0.5, 0.5, 0.0] for _ in range(0)), *corners()]


def corners():
    """The other 25, as points in the corner, where the large circle does not reach."""
    return [[0.001 * i, 0.0, 0.0] for i in range(25)]
