"""One process in the sandbox, from the judge's side: its channel, its clock, its limits, its end."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evo.pagecache import forget

TAIL = 8192  # bytes of output kept
SETUP_S = 60.0
REPORT = 1 << 14  # bytes of what an init says
INIT, CANDIDATE = 0, 1  # the order of a turn's pidfds
PAUSE_S = 5.0
AWAKE_S = 5e-3  # of CPU time; a way into the stop takes microseconds, from within a driver more
READ_KB = 256  # that a shut turn may read from disks without a trace being suspected; a page is one bit at most
SHUT = b"shut"
REAP_S = 60.0  # a process that holds a GPU's memory takes its time to end


class SandboxError(Exception):
    """A sandbox could not be set up; no code of a candidate has run, so the failure is ours."""


@dataclass(frozen=True)
class Limits:
    """What one turn may use; `wall_s` and `output_kb` kill it, beyond the others a call fails."""

    wall_s: float  # from the candidate's start to the end of the turn
    # Address space of each process and, with files and where there are cgroups, memory of all of them together. None
    # where CUDA runs, which reserves without using.
    memory_mb: int | None = 2048
    scratch_mb: int = 64
    file_mb: int = 64
    output_kb: int = 8192
    children: bool = False  # False: no new process, no exec, no file lock; threads are allowed
    threads: int = 64  # with `children` processes and threads together
    loopback: bool = False  # TCP between processes of one turn, within its own network namespace


@dataclass(frozen=True)
class Ending:
    """How a turn's process ended: `exited` (code), `killed` (code is the signal), `wall`, `output`, or `lost`.

    `lost` is the host's failure: the sandbox was killed from outside, which nothing inside it can bring about.
    """

    kind: str
    code: int | None = None

    def __str__(self) -> str:
        if self.kind == "killed" and self.code is not None:
            return f"killed by {signal.Signals(self.code).name if self.code in set(signal.Signals) else self.code}"
        return f"exited with {self.code}" if self.kind == "exited" else self.kind


class Turn:
    """One process in the sandbox; leaving it as a context manager kills and reaps it and everything it started.

    Whoever waits through it (`wait`, `ending`, `shut`) attends to it meanwhile: drains its output, keeps its deadline,
    hears how it ended. `channel` belongs to the caller until the turn is left.
    """

    def __init__(
        self,
        channel: socket.socket,
        control: socket.socket,
        output: int | None,
        limits: Limits,
        scratch: Path | None,
        seen: tuple[Sequence[str], Collection[str]],
        shuts: bool,
    ):
        self.channel, self.shuts = channel, shuts
        self._seen = seen  # of the host's files: trees, and the libraries among them
        self._read_kb = 0.0  # from disks, when it was shut
        self._read_at_end: float | None = None  # in kB, as the init counted; None until then, or if it died before
        self._scratch = scratch  # only without isolation
        self._control, self._output, self._limits = control, output, limits
        self._cgroup: str | None = None
        self._pidfds: list[int] = []
        self._pid = 0
        self._paused: list[int] = []
        self._ran_s = 0.0
        self._verdict: str | None = None  # why this side killed
        self._ending: Ending | None = None
        self._tail = b""
        self._written = 0
        self._peak_kb = 0
        self._cpu = 0.0
        self._left = False
        self._is_shut = False
        self._deadline = 0.0
        self._poller = select.poll()
        self._poller.register(control, select.POLLIN)
        self._asked = 0  # events of the channel that the poller looks for

    def begin(self) -> bool:
        """Waits until the candidate runs; False if the fork server died before, SandboxError if the set-up failed."""
        if not self._poller.poll(1000 * SETUP_S):
            raise SandboxError(f"the sandbox was not set up after {SETUP_S:.0f} s")
        try:
            message, self._pidfds, _, _ = socket.recv_fds(self._control, REPORT, 2, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return False
        if not message:
            return False
        answer = json.loads(message)
        if "error" in answer:
            raise SandboxError(f"the sandbox could not be set up: {answer['error']}")
        self._cgroup = answer["cgroup"]
        self._pid = _number_of(self._pidfds[CANDIDATE])
        self._deadline = time.monotonic() + self._limits.wall_s
        if self._output is not None:
            os.set_blocking(self._output, False)
            self._poller.register(self._output, select.POLLIN)
        return True

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def cpu_seconds(self) -> float:
        """CPU time of the candidate's process, all its threads, from its fork on; not that of its children."""
        if self._pidfds:
            # The clock's number as the kernel builds it: ~pid << 3 | 2 (all threads, the scheduler's count). If the
            # turn is lost, so is the clock, and the last reading stays.
            with contextlib.suppress(OSError):
                self._cpu = time.clock_gettime(~self._pid << 3 | 2)
        return self._cpu

    def peak_mb(self) -> float:
        """Largest resident memory so far, of the candidate's process or, at its end, of a child it waited for."""
        if not self._peak_kb:
            try:
                with open(f"/proc/{self._pid}/status") as status:
                    return next((int(line.split()[1]) for line in status if line.startswith("VmHWM")), 0) / 1024
            except FileNotFoundError:
                return 0.0
        return self._peak_kb / 1024

    def wait(self, events: int, timeout: float) -> bool:
        """Whether the channel is ready for `events` of poll, or has ended; waits up to `timeout` seconds, or less."""
        return self._attend(timeout, events)

    def ending(self, timeout: float | None = 0) -> Ending | None:
        """How it ended, waiting up to `timeout` seconds (None: as long as it takes); None while it runs."""
        self._until(lambda: self._ending is not None, timeout)
        return self._ending

    def output(self) -> str:
        """The last 8 KB of stdout and stderr, complete once it has ended."""
        return self._tail.decode(errors="replace")

    def shut(self) -> None:
        """From its return on the candidate can look up no name: nothing opens, what it has open stays.

        What two turns see of a file system remembers which names were asked for, there or not, and answers faster to
        those; so a turn is shut before it is given what no later one may know. Without `shuts`, or on a machine without
        the layer, nothing happens.
        """
        if not self.shuts or self._is_shut:
            return
        self._read_kb = self._from_disks_kb()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.send(SHUT)
        if not self._until(lambda: self._is_shut or self._ending is not None, PAUSE_S):
            raise SandboxError(f"process {self._pid} could not be shut within {PAUSE_S:.0f} s")

    def kill(self) -> None:
        """Kills the candidate's process; its clock stays readable until the turn is left."""
        self._signal(CANDIDATE)

    def close(self) -> None:
        """Kills and reaps the candidate and whatever it started, and frees everything; twice does no harm."""
        self._left = True
        may_have_read = False
        if self._pidfds:
            self.cpu_seconds()
            if self._is_shut:  # the init's count, because an ordinary user may not read that of a dead process
                self._signal(CANDIDATE)
                self._until(lambda: self._ending is not None, REAP_S)
                may_have_read = self._read_at_end is None or self._read_at_end - self._read_kb > READ_KB
            if self._scratch is None:
                self._signal(INIT)  # and the pid namespace with it
            else:  # without one, the init must first end all descendants
                self._signal(CANDIDATE)
                self._control.shutdown(socket.SHUT_WR)
            poller = select.poll()
            poller.register(self._pidfds[INIT], select.POLLIN)
            if not poller.poll(REAP_S * 1000):
                raise SandboxError(f"process {self._pid} was killed but is still there after {REAP_S:.0f} s")
        if self._cgroup is not None:
            self._remove_cgroup(self._cgroup)
        if may_have_read:
            forget(*self._seen)
        self._settle()
        for fd in [*self._pidfds, *([self._output] if self._output is not None else [])]:
            os.close(fd)
        self._pidfds, self._output = [], None
        self.channel.close()
        self._control.close()
        if self._scratch is not None:
            import shutil  # here, because only a run without isolation needs it

            shutil.rmtree(self._scratch, ignore_errors=True)

    def pause(self) -> None:
        """Stops every process of the turn but its init; returns when none of them runs on a processor any more."""
        deadline = time.monotonic() + PAUSE_S
        while True:
            found = self._processes()
            self._paused = [pid for pid, _ in found]
            running = [pid for pid, state in found if state not in "TtZXx"]
            if not running:
                self._ran_s = self._run_time()
                return
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            if time.monotonic() > deadline:
                raise SandboxError(f"process {self._pid} could not be stopped within {PAUSE_S:.0f} s")

    def awake(self) -> bool:
        """Whether something that `pause` stopped has run since: a timer of its own can wake a process."""
        return self._run_time() - self._ran_s > AWAKE_S

    def resume(self) -> None:
        """Lets go on what `pause` has stopped."""
        for pid in self._paused:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _run_time(self) -> float:
        """CPU seconds so far of everything that is stopped."""
        total = 0.0
        for pid in self._paused:
            with contextlib.suppress(OSError):
                total += time.clock_gettime(~pid << 3 | 2)
        return total

    def _from_disks_kb(self) -> float:
        """What the candidate's process, which runs, has had read from disks; 0 where the kernel does not tell."""
        try:
            with open(f"/proc/{self._pid}/io") as counts:
                return next((int(line.split()[1]) for line in counts if line.startswith("read_bytes")), 0) / 1024
        except OSError:
            return 0.0

    def _processes(self) -> list[tuple[int, str]]:
        """(process, state) of the candidate and, where it may have any, of everything else below the turn's init."""
        pids = _below(_number_of(self._pidfds[INIT])) if self._limits.children else [self._pid]
        found = []
        for pid in pids:
            with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as stat:
                found.append((pid, stat.read().rpartition(")")[2].split()[0]))
        return found

    def _remove_cgroup(self, path: str) -> None:
        """Its processes are gone, but version 1 takes its time to notice. What stays the next server sweeps away."""
        for _ in range(20):
            try:
                os.rmdir(path)
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(0.001)
            else:
                break
        self._cgroup = None

    def _signal(self, which: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfds[which], signal.SIGKILL)

    # attending to it

    def _until(self, known: Callable[[], bool], timeout: float | None) -> bool:
        """Attends until something is known, for up to `timeout` seconds; whether it is."""
        until = None if timeout is None else time.monotonic() + timeout
        while not known():
            self._attend(None if until is None else max(0.0, until - time.monotonic()))
            if until is not None and time.monotonic() >= until:
                return known()
        return True

    def _settle(self) -> None:
        """After everything of the turn was killed."""
        self._ending = self._ending or Ending(*([self._verdict] if self._verdict else ["killed", signal.SIGKILL]))

    def _attend(self, timeout: float | None, events: int = 0) -> bool:
        """Waits once, up to `timeout` seconds, for the turn or for its channel; True if the channel has `events`."""
        if events != self._asked:
            self._asked = events
            if events:
                self._poller.register(self.channel, events)
            else:
                self._poller.unregister(self.channel)
        if self._ending is None and self._verdict is None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                self._condemn("wall")
            elif timeout is None or left < timeout:
                timeout = left
        found = False
        for fd, _ in self._poller.poll(None if timeout is None else 1000 * timeout):
            if fd == self._output:
                if not self._drain():
                    self._poller.unregister(fd)
            elif fd == self._control.fileno():
                self._hear()
            else:
                found = True
        return found

    def _hear(self) -> None:
        """What the init says: that it has shut the turn, or how the candidate ended; it is gone if it says nothing."""
        try:
            message = self._control.recv(REPORT)
        except ConnectionResetError:
            message = b""
        if message == SHUT:
            self._is_shut = True
            return
        self._poller.unregister(self._control)
        while self._output is not None and self._verdict != "output" and self._drain():
            pass
        ending = Ending("killed", signal.SIGKILL) if self._left else Ending("lost")
        if message:
            report = json.loads(message)
            self._peak_kb, self._read_at_end = report["peak_kb"], report["read_kb"]
            ending = Ending(report["how"], report["code"])
        self._ending = Ending(self._verdict) if self._verdict else ending

    def _drain(self) -> bool:
        """Reads what is there, at most one pipe's worth; False when nothing is left to come or nothing is there."""
        assert self._output is not None
        try:
            data = os.read(self._output, 1 << 16)
        except BlockingIOError:
            return False
        self._written += len(data)
        self._tail = (self._tail + data)[-TAIL:]
        if self._written > self._limits.output_kb << 10:
            self._condemn("output")
        return bool(data)

    def _condemn(self, verdict: str) -> None:
        self._verdict = self._verdict or verdict
        self._signal(CANDIDATE)


class Watched(Turn):
    """A turn that a thread of the judge attends to, whatever the judge itself does: when it kills, the channel ends."""

    def __init__(self, watchers: Watchers, *arguments: Any):
        super().__init__(*arguments)
        self._watchers = watchers
        self._news = threading.Condition()
        self._watching = False

    def begin(self) -> bool:
        self._watching = super().begin()
        if self._watching:
            self._watchers.watch(self)
        return self._watching

    def watch(self) -> None:
        """What a watcher does until the turn has ended."""
        try:
            while self._ending is None:
                self._attend(None)
                if self._is_shut or self._ending is not None:
                    with self._news:
                        self._news.notify_all()
        finally:
            with self._news:
                self._watching = False
                self._news.notify_all()

    def wait(self, events: int, timeout: float) -> bool:
        poller = select.poll()
        poller.register(self.channel, events)
        return bool(poller.poll(1000 * timeout))

    def _until(self, known: Callable[[], bool], timeout: float | None) -> bool:
        with self._news:
            self._news.wait_for(lambda: known() or not self._watching, timeout)
        return known()

    def _settle(self) -> None:
        self._until(lambda: False, None)


class _Watcher(threading.Thread):
    def __init__(self, after: Callable[[_Watcher], bool]) -> None:
        super().__init__(daemon=True)
        self.tasks: queue.SimpleQueue[Watched | None] = queue.SimpleQueue()
        self._after = after  # a turn; False where there will be no other
        self.start()

    def run(self) -> None:
        while (turn := self.tasks.get()) is not None:
            turn.watch()
            del turn
            if not self._after(self):
                return


class Watchers:
    """Threads that watch a sandbox's turns, one after the other: starting one for each takes longer than its work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Watcher] = []
        self._closed = False

    def watch(self, turn: Watched) -> None:
        with self._lock:
            watcher = self._idle.pop() if self._idle else None
        (watcher or _Watcher(self._rest)).tasks.put(turn)

    def close(self) -> None:
        """Ends the idle ones now and the others after their turn."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for watcher in idle:
            watcher.tasks.put(None)
            watcher.join()

    def _rest(self, watcher: _Watcher) -> bool:
        with self._lock:
            if not self._closed:
                self._idle.append(watcher)
            return not self._closed


def _number_of(pidfd: int) -> int:
    """The process id behind a pidfd; the kernel translates it into this namespace."""
    fd = os.open(f"/proc/self/fdinfo/{pidfd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(fd, 4096).partition(b"\nPid:")[2].split(None, 1)[0])
    finally:
        os.close(fd)


def _below(pid: int) -> list[int]:
    """Every process that descends from one; orphans of a turn are its init's children."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as children:
                for child in map(int, children.read().split()):
                    found += [child, *_below(child)]
    return found
