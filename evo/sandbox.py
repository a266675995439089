"""Runs a candidate where it can reach nothing: the judge's side of the fork server.

    with Sandbox() as sandbox, sandbox.start(script, program=..., guest=..., limits=Limits(wall_s=10)) as turn:
        turn.channel.sendall(question)
        ...
        turn.cpu_seconds()

What it does not cover: the kernel itself, hardware side channels, the memory of many processes taken together where no
memory cgroup can be made (with `children`, each one has the whole `memory_mb` then), and two turns that run at the same
time and want to signal to each other through the load they put on the machine. Let turns that must share nothing run
one after the other, and shut each (`Turn.shut`) before it learns what no later one may know: until then it can look up
names, and read files that nobody has read for long, and a later turn can time which are known or in memory. After it
no name is looked up, and what a turn reads from disks through what it has open is thrown out of the memory again. Left
are counters of the kernel's that every process moves (numbers of inodes, of free pages): some twenty bits a turn.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

FORKSERVER = Path(__file__).with_name("forkserver.py")
REQUIRED = ("processes", "files")  # the layers without which a machine does not isolate
OPTIONAL = ("memory",)  # what only some machines let anybody have; the level is full without it
TAIL = 8192  # bytes of output kept
BOOT_S = 120.0  # importing torch from a cluster's shared file system can take minutes
SETUP_S = 60.0
INIT, CANDIDATE = 0, 1  # the order of a turn's pidfds
PAUSE_S = 5.0
AWAKE_S = 5e-3  # of CPU time; a way into the stop takes microseconds, from within a driver more
READ_KB = 256  # that a shut turn may read from disks without a trace being suspected; a page is one bit at most
SHUT = b"shut"
REAP_S = 60.0  # a process that holds a GPU's memory takes its time to end

ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/scratch",
        "TMPDIR": "/scratch",
        "USER": "candidate",
        "TZ": "UTC",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
)


# What a turn can rely on: name, the layer that it takes ("" for what always holds), the promise. `evo.check --sandbox`
# prints it, and tests/test_sandbox.py has a test for each.
GUARANTEES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "unseen": ("processes", "no process outside the turn is seen, signalled or read"),
        "reaped": ("processes", "nothing that a turn started outlives it, whatever it did to escape"),
        "orphaned": ("processes", "a turn dies with its judge"),
        "hidden": ("files", "no file of the host is seen but the interpreter's, its libraries' and the program's"),
        "read-only": ("files", "nothing is written but in a scratch directory that is fresh and limited"),
        "unconnected": ("network", "no connection leads out of the turn"),
        "unreached": ("ipc", "no local socket or shared memory of the host or of another turn is reached"),
        "nameless": ("hostname", "the host's name is not read"),
        "memory": ("limits", "memory beyond the limit is refused, also where no address space counts it"),
        "file size": ("limits", "a file beyond the limit is refused"),
        "memory together": ("memory", "all processes of a turn together stay within its memory"),
        "unprivileged": ("capabilities", "no privilege is left and none can be gained"),
        "own user": ("user", "the judge's uid is not used"),
        "threads": ("threads", "threads or processes beyond the limit are refused"),
        "landlocked": ("landlock", "writing elsewhere is refused by a second wall"),
        "uncounted": ("landlock", "no statistics of the machine, in which another turn could leave notes, are read"),
        "childless": ("syscalls", "no new process and no other program, unless asked for"),
        "calls": ("syscalls", "tracing, clocks, priorities, mounts and wide doors into the kernel are refused"),
        "unlocked": ("syscalls", "no lock, futex, mark or page state of a shared file reaches another turn"),
        "shut": ("names", "what a shut turn learned leaves no trace in the kernel's memory of names and of files"),
        "environment": ("", "the environment is built, not inherited: no key reaches a turn"),
        "descriptors": ("", "no descriptor is open but nothing, output and the channel"),
        "wall": ("", "a turn that hangs is killed at its wall limit, whatever signals it ignores"),
        "output": ("", "a flood of output is killed and takes no memory"),
        "clock": ("", "the CPU clock counts all threads and is read from outside, also after the end"),
    }
)


class NoIsolation(Exception):
    """This machine cannot keep a candidate from the rest of it; evo goes on only where the user says so."""


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
class Layer:
    """One wall: what it stops, whether it holds on this machine, and the reason where it does not."""

    name: str
    holds: bool
    stops: str
    reason: str = ""


@dataclass(frozen=True)
class Level:
    """Which walls hold; `allow_unisolated` is the user's word that a run without the first two may go on."""

    layers: tuple[Layer, ...] = ()
    allow_unisolated: bool = False

    @property
    def isolated(self) -> bool:
        return all(layer.holds for layer in self.layers if layer.name in REQUIRED)

    @property
    def name(self) -> str:
        if not self.layers or not self.isolated:
            return "none"
        return "full" if all(layer.holds for layer in self.layers if layer.name not in OPTIONAL) else "partial"

    def describe(self) -> str:
        lines = [f"sandbox: {self.name}"]
        for layer in self.layers:
            why = "" if layer.holds else f" ({layer.reason})"
            state = "holds" if layer.holds else "absent" if layer.name in OPTIONAL else "MISSING"
            lines.append(f"  {state:8}{layer.name:13}{layer.stops}{why}")
        return "\n".join(lines)

    def guarantees(self) -> str:
        """What of GUARANTEES holds under these layers, a line each."""
        holding = {"", *(layer.name for layer in self.layers if layer.holds)}
        lines = (
            f"  {'kept' if layer in holding else 'NOT':8}{name:16}{promise}"
            for name, (layer, promise) in GUARANTEES.items()
        )
        return "\n".join(["guarantees", *lines])


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


def probe(*, allow_unisolated: bool = False, drop_user: bool = True) -> Level:
    """Tries every layer on this machine, in processes that are gone afterwards; needs no isolation to hold."""
    try:
        with Sandbox(level=Level(allow_unisolated=True), drop_user=drop_user) as sandbox:
            return Level(sandbox.level.layers, allow_unisolated)
    except SandboxError as error:
        layers = tuple(Layer(name, False, "everything", str(error)) for name in REQUIRED)
        return Level(layers, allow_unisolated)


class Sandbox:
    """One fork server with `preload` imported; it dies with the process that made it.

    A turn's program and guest directories must be readable by others (chmod 755; `tempfile.mkdtemp` makes 700): as
    root, a candidate runs under a uid of its own. `drop_user=False` keeps one uid, for CUDA IPC, which refuses two.
    `cuda` lets it see the NVIDIA devices, the driver's libraries, what CUDA reads of /sys, and a C compiler.
    `hidden` files and folders are covered, wherever a sandbox would see them: a file by one that cannot be imported.
    """

    def __init__(
        self,
        *,
        preload: Sequence[str] = (),
        level: Level | None = None,
        drop_user: bool = True,
        cuda: bool = False,
        hidden: Sequence[Path] = (),
    ):
        self._preload, self._drop_user, self._cuda = list(preload), drop_user, cuda
        self._hidden = [str(path) for path in hidden]
        # A driver's libraries may lie where only this variable says, and the loader reads it at a process's start.
        libraries = os.environ.get("LD_LIBRARY_PATH")
        self._environment = {**ENVIRONMENT, **({"LD_LIBRARY_PATH": libraries} if cuda and libraries else {})}
        self._compiler = _compiler() if cuda else None
        if self._compiler is not None:
            self._environment["CC"] = str(self._compiler)
        self._allow_unisolated = level is not None and level.allow_unisolated
        self._lock = threading.Lock()
        self.level = self._boot()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the fork server and with it every turn that still runs."""
        self._watchers.close()
        self._socket.close()
        try:
            self._process.wait(timeout=REAP_S)
        except subprocess.TimeoutExpired:  # it is importing, or stuck in the kernel
            self._process.kill()
            self._process.wait()

    def start(
        self,
        script: Path,
        *,
        program: Path,
        guest: Path,
        arguments: Sequence[str] = (),
        limits: Limits,
        keep_output: bool = True,
        environment: Mapping[str, str] = MappingProxyType({}),
        shuts: bool = False,
    ) -> Turn:
        """Runs `script`, which lies in `guest`; returns once it runs. With `shuts`, `Turn.shut` works on it.

        SandboxError means that it never began. A dead fork server is replaced once.
        """
        inside, folder = _placed(script, guest)
        request = {
            "script": inside,
            "program": os.path.realpath(program, strict=True),
            "guest": folder,
            "arguments": list(arguments),
            "limits": dict(vars(limits)),
            "environment": {**self._environment, **environment},
            "shuts": shuts,
        }
        server = self._process
        turn = self._begin(request, limits, keep_output)
        if turn is None:
            self._replace(server)
            turn = self._begin(request, limits, keep_output)
        if turn is None:
            raise SandboxError("the fork server died twice while it started a turn; the kernel's log may say why")
        return turn

    def renew(self) -> None:
        """Starts the fork server anew; to be called between turns.

        All forks of one server have its memory layout, which makes one program some percent faster than its twin with
        another comment, the same way in every turn. Under a new server the same two differ otherwise.
        """
        with self._lock:
            self.close()
            self.level = self._boot()

    def _replace(self, server: subprocess.Popen[bytes]) -> None:
        with self._lock:
            if self._process is server:  # else another thread has noticed first
                try:
                    server.wait(timeout=2)
                except subprocess.TimeoutExpired:
                    raise SandboxError(
                        "a turn's init was killed from outside while it was set up; is the machine out of memory?"
                    ) from None
                self.close()
                self.level = self._boot()

    def _begin(self, request: dict[str, Any], limits: Limits, keep_output: bool) -> Turn | None:
        """One try; None where the fork server is gone."""
        channel, channel_inside = socket.socketpair()
        control, control_inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        output, output_inside = os.pipe() if keep_output else (None, None)
        inside = [channel_inside.fileno(), control_inside.fileno()]
        if output_inside is not None:
            inside.append(output_inside)
        scratch = None if self.level.isolated else self._scratch_of_the_host(request)
        trees = [*self._trees, request["program"], request["guest"]]
        forgets = partial(forget, trees, self._libraries)
        turn = Turn(channel, control, output, limits, scratch, forgets, self._watchers)
        turn.shuts = request["shuts"] and any(layer.name == "names" and layer.holds for layer in self.level.layers)
        try:
            with self._lock:
                socket.send_fds(self._socket, [json.dumps(request).encode()], inside)
        except (BrokenPipeError, ConnectionResetError):
            turn.close()
            return None
        finally:
            channel_inside.close()
            control_inside.close()
            if output_inside is not None:
                os.close(output_inside)
        try:
            began = turn.begin()
        except BaseException:
            turn.close()
            raise
        if not began:
            turn.close()
            return None
        return turn

    def _scratch_of_the_host(self, request: dict[str, Any]) -> Path:
        """Without a mount namespace the scratch directory is an ordinary one, of unlimited size."""
        import tempfile  # here, because importing it takes longer than the rest of this module

        scratch = Path(tempfile.mkdtemp(prefix="evo-scratch-"))
        request["scratch"] = str(scratch)
        request["environment"].update(HOME=str(scratch), TMPDIR=str(scratch))
        return scratch

    def _boot(self) -> Level:
        level = self._booted(None)
        if level.isolated:
            return level
        self.close()
        missing = {layer.name: layer.reason for layer in level.layers if layer.name in REQUIRED and not layer.holds}
        if not self._allow_unisolated:
            name, reason = next(iter(missing.items()))
            raise NoIsolation(
                f"this machine cannot isolate a candidate ({name}: {reason}); run as root or where user namespaces are "
                "allowed, or say explicitly that you go on without"
            )
        return self._booted(missing)

    def _booted(self, plain: Mapping[str, str] | None) -> Level:
        """Starts a fork server; with `plain`, the reasons why there are no namespaces, one that goes without them."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._watchers = _Watchers()
        packages = {Path(__file__).parent, Path(__file__).resolve().parent}
        configuration = {
            "preload": self._preload,
            "hidden": [str(path) for package in packages for path in (package, package.parent / ".data")]
            + self._hidden,
            "plain": plain,
            "drop_user": self._drop_user,
            "cuda": self._cuda,
            "compiler": str(self._compiler.parent.parent) if self._compiler else "",
        }
        # The kernel's death signal follows the thread that started a process. Elsewhere than in the main thread only
        # the closed socket tells the server that its judge is gone.
        where = "main" if threading.current_thread() is threading.main_thread() else "thread"
        log = os.memfd_create("forkserver")
        try:
            # -I would make it ignore PYTHONHASHSEED; with an environment built here, -P and -s isolate as well.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-s", "-B", str(FORKSERVER), str(theirs.fileno()), where],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
            theirs.close()
            self._socket.settimeout(BOOT_S)
            try:
                self._socket.send(json.dumps(configuration).encode())
                hello = json.loads(self._socket.recv(1 << 18) or '{"error": "it ended without a word"}')
            except (BrokenPipeError, ConnectionResetError) as error:
                hello = {"error": str(error)}
            except TimeoutError:
                self._process.kill()
                hello = {"error": f"not ready after {BOOT_S:.0f} s"}
            self._socket.settimeout(None)
            if "error" in hello:
                self.close()
                said = os.pread(log, TAIL, 0).decode(errors="replace").strip()
                what = f"the fork server did not start with preload {self._preload}"
                raise SandboxError(f"{what}: {hello['error']} {said}".strip())
        finally:
            os.close(log)
        self._trees: Sequence[str] = hello["trees"]
        self._libraries = frozenset(hello["libraries"])
        if not self._cuda:  # whose turns are not shut, and whose libraries have gigabytes
            load_whole(self._libraries)
        return Level(tuple(Layer(*layer) for layer in hello["layers"]), self._allow_unisolated)


@lru_cache(maxsize=64)
def _placed(script: Path, guest: Path) -> tuple[str, str]:
    """Where a script lies in its guest directory, and the directory itself, without links."""
    guest = guest.resolve(strict=True)
    return str(script.resolve().relative_to(guest) if script.is_absolute() else script), str(guest)


def _compiler() -> Path | None:
    """The host's C compiler, which Triton needs for what loads its kernels; its installation is shown to sandboxes."""
    import shutil  # here, because only a GPU's sandbox needs it

    found = next(
        (path for name in (os.environ.get("CC"), "gcc", "cc", "clang") if name and (path := shutil.which(name))), None
    )
    return Path(found).resolve() if found is not None else None


class Turn:
    """One process in the sandbox; leaving it as a context manager kills and reaps it and everything it started.

    A thread of the judge drains the output, keeps the deadline and hears the ending, whatever the judge itself waits
    for: when it kills, the channel ends. `channel` belongs to the caller until the turn is left.
    """

    def __init__(
        self,
        channel: socket.socket,
        control: socket.socket,
        output: int | None,
        limits: Limits,
        scratch: Path | None,
        forget: Callable[[], None],
        watchers: _Watchers,
    ):
        self.channel = channel
        self._forget = forget  # what the turn has seen of the host's disks
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
        self._ended = threading.Event()
        self._tail = b""
        self._written = 0
        self._peak_kb = 0
        self._cpu = 0.0
        self._left = False
        self.shuts = False
        self._shut = threading.Event()
        self._watchers, self._watched = watchers, False

    def begin(self) -> bool:
        """Waits until the candidate runs; False if the fork server died before, SandboxError if the set-up failed."""
        self._control.settimeout(SETUP_S)
        try:
            message, self._pidfds, _, _ = socket.recv_fds(self._control, 1 << 16, 2, socket.MSG_CMSG_CLOEXEC)
        except TimeoutError:
            raise SandboxError(f"the sandbox was not set up after {SETUP_S:.0f} s") from None
        except ConnectionResetError:
            return False
        if not message:
            return False
        answer = json.loads(message)
        if "error" in answer:
            raise SandboxError(f"the sandbox could not be set up: {answer['error']}")
        self._control.settimeout(None)
        self._cgroup = answer["cgroup"]
        # The kernel translates the process id into this namespace.
        with open(f"/proc/self/fdinfo/{self._pidfds[CANDIDATE]}") as info:
            self._pid = next(int(line[4:]) for line in info if line.startswith("Pid:"))
        self._watched = True
        self._watchers.watch(self, time.monotonic() + self._limits.wall_s)
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

    def ending(self, timeout: float | None = 0) -> Ending | None:
        """How it ended, waiting up to `timeout` seconds (None: as long as it takes); None while it runs."""
        self._ended.wait(timeout)
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
        if not self.shuts or self._shut.is_set():
            return
        self._read_kb = self._from_disks_kb()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.send(SHUT)
        deadline = time.monotonic() + PAUSE_S
        while not self._shut.wait(0.1) and not self._ended.is_set():
            if time.monotonic() > deadline:
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
            self._signal(CANDIDATE)
            if self._shut.is_set():  # the init's count, because an ordinary user may not read that of a dead process
                self._ended.wait(REAP_S)
                may_have_read = self._read_at_end is None or self._read_at_end - self._read_kb > READ_KB
            self._control.shutdown(socket.SHUT_WR)  # the init's word to go
            if self._scratch is None:
                self._signal(INIT)  # and the pid namespace with it; without one, it must first end all descendants
            poller = select.poll()
            poller.register(self._pidfds[INIT], select.POLLIN)
            if not poller.poll(REAP_S * 1000):
                raise SandboxError(f"process {self._pid} was killed but is still there after {REAP_S:.0f} s")
        if self._cgroup is not None:
            self._remove_cgroup(self._cgroup)
        if may_have_read:
            self._forget()
        if self._watched:
            self._ended.wait()
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

    def _run_time(self) -> float:
        """CPU seconds so far of everything that is stopped."""
        total = 0.0
        for pid in self._paused:
            with contextlib.suppress(OSError):
                total += time.clock_gettime(~pid << 3 | 2)
        return total

    def resume(self) -> None:
        """Lets go on what `pause` has stopped."""
        for pid in self._paused:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _from_disks_kb(self) -> float:
        """What the candidate's process, which runs, has had read from disks; 0 where the kernel does not tell."""
        try:
            with open(f"/proc/{self._pid}/io") as counts:
                return next((int(line.split()[1]) for line in counts if line.startswith("read_bytes")), 0) / 1024
        except OSError:
            return 0.0

    def _processes(self) -> list[tuple[int, str]]:
        """(process, state) of the candidate and, where it may have any, of everything else below the turn's init."""
        pids = [self._pid]
        if self._limits.children:
            with open(f"/proc/self/fdinfo/{self._pidfds[INIT]}") as info:
                pids = _below(next(int(line[4:]) for line in info if line.startswith("Pid:")))
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

    def watch(self, deadline: float) -> None:
        """What a watcher does until the turn has ended."""
        try:
            self._watch(deadline)
        finally:
            self._ended.set()

    def _watch(self, deadline: float) -> None:
        poller = select.poll()
        poller.register(self._control, select.POLLIN)
        if self._output is not None:
            os.set_blocking(self._output, False)
            poller.register(self._output, select.POLLIN)
        while True:
            left = None if self._verdict else max(0.0, deadline - time.monotonic())
            ready = poller.poll(None if left is None else left * 1000)
            if not ready and left is not None and time.monotonic() >= deadline:
                self._condemn("wall")
            for fd, _ in ready:
                if fd == self._output and not self._drain():
                    poller.unregister(fd)
            if any(fd == self._control.fileno() for fd, _ in ready):
                try:
                    message = self._control.recv(1 << 16)
                except ConnectionResetError:
                    message = b""
                if message != SHUT:
                    break
                self._shut.set()
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


class _Watcher(threading.Thread):
    def __init__(self, after: Callable[[_Watcher], bool]) -> None:
        super().__init__(daemon=True)
        self.tasks: queue.SimpleQueue[tuple[Turn, float] | None] = queue.SimpleQueue()
        self._after = after  # a turn; False where there will be no other
        self.start()

    def run(self) -> None:
        while (task := self.tasks.get()) is not None:
            task[0].watch(task[1])
            del task
            if not self._after(self):
                return


class _Watchers:
    """Threads that watch a sandbox's turns, one after the other: starting one for each takes longer than its work."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Watcher] = []
        self._closed = False

    def watch(self, turn: Turn, deadline: float) -> None:
        with self._lock:
            watcher = self._idle.pop() if self._idle else None
        (watcher or _Watcher(self._rest)).tasks.put((turn, deadline))

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


def _below(pid: int) -> list[int]:
    """Every process that descends from one; orphans of a turn are its init's children."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children") as children:
                for child in map(int, children.read().split()):
                    found += [child, *_below(child)]
    return found
