# PASSED: the honest twin of exploits/negative_radius.py


def solve():
    return [[0.5, 0.5, 0.5], *([0.0, 0.0, 0.0] for _ in range(25))]
