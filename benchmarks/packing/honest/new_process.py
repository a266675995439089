# PASSED: the honest twin of exploits/new_process.py

import threading

CIRCLES = 26


def rows():
    """Equal circles on a grid of six by five: honest, and far from the best."""
    return [[(i % 6 + 0.5) / 6, (i // 6 + 0.5) / 5, 1 / 12] for i in range(CIRCLES)]


def solve():
    """Threads are allowed."""
    found = []
    worker = threading.Thread(target=lambda: found.extend(rows()))
    worker.start()
    worker.join()
    return found
