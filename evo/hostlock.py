"""Turns on one host: judges of a search share it, a certification has it alone."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from evo.benchmark import UserMistake


def meeting_place(name: str) -> Path:
    """A folder in the host's temporary directory where all processes of this user meet, and nobody else.

    Its name can be foreseen, so that they find it; another user could have made it first, with locks that are never
    freed, or links in their place by which opening a lock would empty a file of ours.
    """
    place = Path(tempfile.gettempdir()) / f"evo-{name}-{os.getuid()}"
    own(place)
    return place


def own(place: Path) -> None:
    """Makes a folder for this user alone; raises UserMistake where another one could write in what is there."""
    try:
        about = os.lstat(place)
    except FileNotFoundError:
        place.mkdir(mode=0o700, exist_ok=True)
        about = os.lstat(place)
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise UserMistake(
            f"{place}: expected a folder of your own that no other user can write in, found another; remove it, or set "
            "TMPDIR to a directory of yours"
        )


@contextmanager
def turn(*, alone: bool, folder: Path | None = None) -> Iterator[None]:
    """Holds the host for one measurement, across all runs of this user on it.

    Two locks, since a lone one can starve: everybody passes the gate, and who wants to be alone keeps it shut
    while the room empties. The kernel frees both when a process dies.
    """
    if folder is None:
        folder = meeting_place("turns")
    else:
        own(folder)
    with ExitStack() as held:
        gate, room = (_opened(f"{folder}/{name}", held) for name in ("gate", "room"))
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(gate, fcntl.LOCK_UN)
        yield


def _opened(path: str, held: ExitStack) -> int:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    held.callback(os.close, fd)
    return fd
