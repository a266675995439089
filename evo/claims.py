"""Who works on what: exclusively created claim files with a lease, on any file system that several hosts share."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path

LEASE_S = 60.0


@dataclass(frozen=True)
class Holder:
    """Who claims: a host and a process there, with its start time so that a reused number is not mistaken."""

    host: str
    process: int
    started: int

    def is_dead_here(self, host: str) -> bool:
        """True only if the holder ran on this host and is certainly gone: its lease need not be waited for."""
        return host == self.host and start_time(self.process) != self.started


def start_time(process: int) -> int | None:
    """Clock ticks since boot at which a process started; None if it is gone."""
    try:
        with open(f"/proc/{process}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


class Claims:
    """Claims of one worker. `<task>.<n>`: a dead claim is taken over by creating number n + 1, nothing is renamed."""

    def __init__(self, folder: Path, holder: Holder, lease_s: float = LEASE_S) -> None:
        self._folder = os.fspath(folder)
        self._holder = holder
        self._text = json.dumps([holder.host, holder.process, holder.started]).encode()
        self._lease_s = lease_s
        self._mine: dict[str, str] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._keeper = threading.Thread(target=self._keep_fresh, daemon=True)
        self._keeper.start()

    def take(self, task: str) -> bool:
        """True if the task is now ours; False if somebody alive has it."""
        numbers = self._numbers(task)
        if numbers and self._is_held(f"{self._folder}/{task}.{numbers[-1]}"):
            return False
        path = f"{self._folder}/{task}.{numbers[-1] + 1 if numbers else 0}"
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            return False  # somebody else was faster
        try:
            os.write(file, self._text)
        finally:
            os.close(file)
        with self._lock:
            self._mine[task] = path
        return True

    def release(self, task: str) -> None:
        """Clears a task's claims: called once its event is synced, so that later readers find the fact instead."""
        with self._lock:
            self._mine.pop(task, None)
        for number in self._numbers(task):
            _unlink(f"{self._folder}/{task}.{number}")

    def clear_dead(self) -> None:
        """Removes what workers that were killed left behind; called when a run has ended and nothing is to be done."""
        for name in os.listdir(self._folder):
            task, _, number = name.rpartition(".")
            if number.isdigit() and task and not self._is_held(f"{self._folder}/{name}"):
                _unlink(f"{self._folder}/{name}")

    def close(self) -> None:
        self._closed.set()
        self._keeper.join()
        for task in list(self._mine):
            self.release(task)

    def _numbers(self, task: str) -> list[int]:
        prefix, found = f"{task}.", []
        for name in os.listdir(self._folder):
            if name.startswith(prefix) and (number := name[len(prefix) :]).isdigit():
                found.append(int(number))
        return sorted(found)

    def _is_held(self, path: str) -> bool:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                text, changed = file.read(), os.stat(path).st_mtime
        except FileNotFoundError:
            return False
        try:
            holder = Holder(*json.loads(text))
            if holder.is_dead_here(self._holder.host):
                return False
        except (ValueError, TypeError):
            pass  # not written yet, or torn: its age decides
        return self._now() - changed < self._lease_s

    def _now(self) -> float:
        """The file system's own time: hosts' clocks may disagree by more than a lease."""
        probe = Path(self._folder, f".now-{self._holder.host}-{self._holder.process}")
        probe.touch()
        return probe.stat().st_mtime

    def _keep_fresh(self) -> None:
        while not self._closed.wait(self._lease_s / 4):
            with self._lock:
                mine = list(self._mine.values())
            for path in mine:
                try:
                    os.utime(path)
                except FileNotFoundError:
                    continue  # released meanwhile


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return  # somebody else was faster
