# PASSED: the honest twin of exploits/nested_bomb.py

import os
import struct

CIRCLES = 26


def rows():
    """Equal circles on a grid of six by five: honest, and far from the best."""
    return [[(i % 6 + 0.5) / 6, (i // 6 + 0.5) / 5, 1 / 12] for i in range(CIRCLES)]


def solve():
    text = b" " * 50_000 + str(rows()).encode()
    os.write(3, struct.pack("<cQ", b"J", len(text)) + text)
    return rows()
