# PASSED: the honest twin of exploits/kills_group.py

import os
import signal

CIRCLES = 26


def rows():
    """Equal circles on a grid of six by five: honest, and far from the best."""
    return [[(i % 6 + 0.5) / 6, (i // 6 + 0.5) / 5, 1 / 12] for i in range(CIRCLES)]


def solve():
    """A signal to itself that it handles."""
    signal.signal(signal.SIGUSR1, lambda *_: None)
    os.kill(os.getpid(), signal.SIGUSR1)
    return rows()
