"""Append-only journals: one file a writer, one line an event, flushed and synced before anybody acts on it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from evo import events
from evo.events import Entry, Event


class Journal:
    """The one file that this process appends to. It is opened exclusively: a restarted worker gets a new file."""

    def __init__(self, folder: Path, writer: str, clock: Callable[[], float]) -> None:
        self.writer = writer
        self._clock = clock
        self._torn = False
        self._file = os.open(folder / f"{writer}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)

    def append(self, *facts: Event) -> None:
        """Writes events as one write and one sync; when this returns they survive a power cut."""
        if not facts:
            return
        text = "".join(events.dump(fact, self._clock()) + "\n" for fact in facts)
        # a line that a full disk cut off is ended first, or it would swallow this one
        data = (("\n" if self._torn else "") + text).encode()
        self._torn = True
        while data:
            data = data[os.write(self._file, data) :]
        os.fdatasync(self._file)
        self._torn = False

    def close(self) -> None:
        os.close(self._file)


class Journals:
    """A live reader of everybody's files. It stops at each file's last newline, so a torn tail is never read."""

    def __init__(self, folder: Path) -> None:
        self._folder = os.fspath(folder)
        # by file name: bytes read, lines read, whether its lines have checksums
        self._seen: dict[str, tuple[int, int, bool]] = {}

    def new_entries(self) -> Sequence[Entry]:
        """Entries that appeared since the last call, by file and then in the order they were written.

        A line that is no event is skipped, as a disk that failed once must not end a run; `damaged` counts them.
        """
        found: list[Entry] = []
        with os.scandir(self._folder) as listing:
            files = sorted((item.name, item.stat().st_size) for item in listing if item.name.endswith(".jsonl"))
        for name, size in files:
            position, line, checked = self._seen.get(name, (0, 0, False))
            if size <= position:
                continue
            whole, newline, _ = _from(f"{self._folder}/{name}", position, size).rpartition(b"\n")
            if not newline:
                continue
            writer = sys.intern(name.removesuffix(".jsonl"))
            checked = checked or events.CHECKSUM.encode() in whole
            for raw in whole.split(b"\n"):
                line += 1
                try:
                    at, event = events.load(raw.decode(), checked=checked)
                except ValueError:
                    continue
                found.append(Entry(writer, line, at, event))
            self._seen[name] = (position + len(whole) + 1, line, checked)
        return found


def _from(path: str, position: int, end: int) -> bytes:
    """The bytes of a file from one position to another; opened each time, which is when a network's file system looks
    for what other hosts have written."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while position < end and (part := os.pread(file, end - position, position)):
            parts.append(part)
            position += len(part)
        return b"".join(parts)
    finally:
        os.close(file)


def writer_name(host: str, process: int, taken: Sequence[str]) -> str:
    """A name for a new journal: host, process and the first free number."""
    stem = re.sub(r"[^A-Za-z0-9_-]", "-", host)[:40] + f"-{process}"
    number = 0
    while f"{stem}-{number}" in taken:
        number += 1
    return f"{stem}-{number}"
