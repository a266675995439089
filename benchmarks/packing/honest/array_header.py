# PASSED: the honest twin of exploits/array_header.py

import numpy

CIRCLES = 26


def rows():
    """Equal circles on a grid of six by five: honest, and far from the best."""
    return [[(i % 6 + 0.5) / 6, (i // 6 + 0.5) / 5, 1 / 12] for i in range(CIRCLES)]


def solve():
    """A whole array of numpy, as rows in the end: this verifier wants lists."""
    return numpy.asfortranarray(rows()).tolist()
