"""What of the host's files lies in memory, which is known by timing to whoever may read them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Sequence


def forget(trees: Sequence[str], libraries: Collection[str]) -> None:
    """Throws every file of these trees out of the memory, so that which of its pages lie there tells nothing.

    Libraries that every turn has mapped are loaded whole instead: nobody could throw them out. It takes seconds for a
    whole system's files, and what is needed of them is read again.
    """
    for tree in dict.fromkeys(map(os.path.realpath, trees)):
        for folder, _, names in os.walk(tree) if os.path.isdir(tree) else [(os.path.dirname(tree), [], [tree])]:
            for path in (os.path.join(folder, name) for name in names):
                if path not in libraries:
                    _advise(path, os.POSIX_FADV_DONTNEED)
    load_whole(libraries)


def load_whole(files: Collection[str]) -> None:
    """Has the kernel begin to read what of these files does not lie in memory."""
    for path in files:
        _advise(path, os.POSIX_FADV_WILLNEED, step=1 << 17)  # of one call the kernel does no more


def _advise(path: str, advice: int, step: int = 0) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            for at in range(0, os.fstat(fd).st_size, step) if step else [0]:
                os.posix_fadvise(fd, at, step, advice)
        finally:
            os.close(fd)
