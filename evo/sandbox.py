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

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType

from evo.pagecache import load_whole
from evo.turn import REAP_S, TAIL, Limits, SandboxError, Turn, Watched, Watchers

FORKSERVER = Path(__file__).with_name("forkserver.py")
REQUIRED = ("processes", "files")  # the layers without which a machine does not isolate
OPTIONAL = ("memory",)  # what only some machines let anybody have; the level is full without it
BOOT_S = 120.0  # importing torch from a cluster's shared file system can take minutes

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
        attended: bool = False,
    ) -> Turn:
        """Runs `script`, which lies in `guest`; returns once it runs. With `shuts`, `Turn.shut` works on it.

        With `attended` no thread watches the turn: for a caller who does nothing but wait through it. SandboxError
        means that it never began. A dead fork server is replaced once.
        """
        inside, folder = _placed(script, guest)
        own = tuple({**self._environment, **environment}.items())
        asked = _asked(inside, folder, tuple(arguments), limits, own, shuts)
        begin = partial(self._begin, asked, _real(program), folder, limits, keep_output, shuts, attended)
        server = self._process
        turn = begin()
        if turn is None:
            self._replace(server)
            turn = begin()
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

    def _begin(
        self, asked: str, program: str, guest: str, limits: Limits, keep_output: bool, shuts: bool, attended: bool
    ) -> Turn | None:
        """One try; None where the fork server is gone."""
        channel, channel_inside = socket.socketpair()
        control, control_inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        output, output_inside = os.pipe() if keep_output else (None, None)
        inside = [channel_inside.fileno(), control_inside.fileno()]
        if output_inside is not None:
            inside.append(output_inside)
        scratch = None if self._isolated else _scratch_of_the_host()
        request = f'{asked[:-1]}, "program": {json.dumps(program)}, "scratch": {json.dumps(scratch and str(scratch))}}}'
        seen = [*self._trees, program, guest], self._libraries
        ends = channel, control, output, limits, scratch, seen, shuts and self._shuts
        turn = Turn(*ends) if attended else Watched(self._watchers, *ends)
        try:
            with self._lock:
                socket.send_fds(self._socket, [request.encode()], inside)
        except (BrokenPipeError, ConnectionResetError):
            turn.close()
            return None
        finally:
            channel_inside.close()
            control_inside.close()
            if output_inside is not None:
                os.close(output_inside)
        began = False
        try:
            began = turn.begin()
        finally:
            if not began:
                turn.close()
        return turn if began else None

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
        self._watchers = Watchers()
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
        layers = tuple(Layer(*layer) for layer in hello["layers"])
        level = Level(layers, self._allow_unisolated)
        self._isolated = level.isolated
        self._shuts = any(layer.name == "names" and layer.holds for layer in layers)
        return level


@lru_cache(maxsize=64)
def _asked(
    script: str,
    guest: str,
    arguments: tuple[str, ...],
    limits: Limits,
    environment: tuple[tuple[str, str], ...],
    shuts: bool,
) -> str:
    """What of a request is the same in one turn after the other, as JSON."""
    request = {"script": script, "guest": guest, "arguments": arguments, "limits": vars(limits), "shuts": shuts}
    return json.dumps({**request, "environment": dict(environment)})


def _scratch_of_the_host() -> Path:
    """Without a mount namespace the scratch directory is an ordinary one, of unlimited size."""
    import tempfile  # here, because importing it takes longer than the rest of this module

    return Path(tempfile.mkdtemp(prefix="evo-scratch-"))


@lru_cache(maxsize=64)
def _placed(script: Path, guest: Path) -> tuple[str, str]:
    """Where a script lies in its guest directory, and the directory itself, without links."""
    guest = guest.resolve(strict=True)
    return str(script.resolve().relative_to(guest) if script.is_absolute() else script), str(guest)


def _real(folder: Path) -> str:
    """A folder's path without links, as the kernel knows it; FileNotFoundError where there is none."""
    fd = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


def _compiler() -> Path | None:
    """The host's C compiler, which Triton needs for what loads its kernels; its installation is shown to sandboxes."""
    import shutil  # here, because only a GPU's sandbox needs it

    found = next(
        (path for name in (os.environ.get("CC"), "gcc", "cc", "clang") if name and (path := shutil.which(name))), None
    )
    return Path(found).resolve() if found is not None else None
