"""Turns on one host: judges of a search share it, a certification has it alone."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(*, alone: bool, folder: Path | None = None) -> Iterator[None]:
    """Holds the host for one measurement, across all runs of this user on it.

    Two locks, since a lone one can starve: everybody passes the gate, and who wants to be alone keeps it shut
    while the room empties. The kernel frees both when a process dies.
    """
    place = folder or Path(tempfile.gettempdir()) / f"evo-turns-{os.getuid()}"
    if not place.is_dir():  # a stat instead of a failing mkdir, which is a write on some file systems
        place.mkdir(mode=0o700, exist_ok=True)
    with open(place / "gate", "w") as gate, open(place / "room", "w") as room:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if not alone:
            fcntl.flock(gate, fcntl.LOCK_UN)
        yield
