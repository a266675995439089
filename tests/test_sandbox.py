"""One test or more for each of evo.sandbox.GUARANTEES; they run real sandboxes and need no network.

`EVO_SANDBOX=package.module:Class pytest tests/test_sandbox.py -m guarantee` tries them on another sandbox: a class that
is opened, started and left as evo.sandbox.Sandbox is. `conftest:Unisolated` is what remains without isolation.
"""

from __future__ import annotations

import importlib
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import opened_way

import evo.sandbox
from evo.sandbox import GUARANTEES, Level, Limits, NoIsolation, Sandbox, SandboxError, probe
from evo.turn import Ending

REPOSITORY = Path(__file__).resolve().parent.parent
LEVEL = probe()
NAMED = os.environ.get("EVO_SANDBOX", "evo.sandbox:Sandbox")
REASON = f"this machine cannot isolate:\n{LEVEL.describe()}"
pytestmark = pytest.mark.skipif(not LEVEL.isolated and "EVO_SANDBOX" not in os.environ, reason=REASON)


GUARDED: set[str] = set()


def guards(*names: str) -> pytest.MarkDecorator:
    """Marks a test as one of these guarantees; without the layer that one takes it is skipped."""
    GUARDED.update(names)
    missing = sorted({layer for layer in (GUARANTEES[name][0] for name in names) if layer and not holds(layer)})
    if missing:
        return pytest.mark.skip(reason=f"this machine lacks {', '.join(missing)}")
    return pytest.mark.guarantee


def holds(layer: str) -> bool:
    return any(found.name == layer and found.holds for found in LEVEL.layers)


def test_every_guarantee_has_a_test() -> None:
    assert set(GUARANTEES) == GUARDED
    assert {layer for layer, _ in GUARANTEES.values() if layer} == {layer.name for layer in LEVEL.layers}
    assert LEVEL.guarantees().count("kept") == sum(not layer or holds(layer) for layer, _ in GUARANTEES.values())


@dataclass(frozen=True)
class Result:
    ending: Ending | None
    output: str
    cpu: float
    peak_mb: float


def opened() -> Sandbox:
    module, _, name = NAMED.partition(":")
    sandbox: Sandbox = getattr(importlib.import_module(module), name)()
    return sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with opened() as sandbox:
        yield sandbox


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with program/ and guest/, readable by the candidate's uid."""
    for name in ("program", "guest"):
        (tmp_path / name).mkdir(mode=0o755)
    (tmp_path / "program" / "train.py").write_text("WIDTH = 64\n")
    return tmp_path


def written(place: Path, code: str) -> Path:
    script = place / "guest" / "script.py"
    script.write_text(textwrap.dedent(code))
    return script


@pytest.fixture
def run(sandbox: Sandbox, place: Path) -> Callable[..., Result]:
    def run(code: str, *arguments: str, limits: Limits | None = None, keep_output: bool = True) -> Result:
        limits = limits or Limits(wall_s=10)
        where = {"program": place / "program", "guest": place / "guest"}
        with sandbox.start(
            written(place, code), **where, arguments=arguments, limits=limits, keep_output=keep_output
        ) as turn:
            ending = turn.ending(15)
            return Result(ending, turn.output(), turn.cpu_seconds(), turn.peak_mb())

    return run


def processes(mark: str) -> list[int]:
    """The host's processes whose command line or memory-resident name holds `mark`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark in (entry / "comm").read_text():
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


REFUSED = """
    def refused(step, *errors):
        try:
            found = step()
        except (errors or (OSError,)) as error:
            print("refused", error)
        else:
            raise SystemExit(f"it was allowed: {found!r}")
"""

LIBC = """
    import ctypes, errno
    libc = ctypes.CDLL(None, use_errno=True)
    def number_refused(*call):
        found = libc.syscall(*call)
        assert (found, ctypes.get_errno()) == (-1, errno.EPERM), (call, found, ctypes.get_errno())
"""


def test_runs_the_script_as_main_with_program_and_guest_importable(run: Callable[..., Result]) -> None:
    result = run(
        """
        import sys, os
        import train
        assert __name__ == "__main__" and train.WIDTH == 64
        assert sys.argv == ["/guest/script.py", "a", "b"], sys.argv
        assert sys.path[:2] == ["/program", "/guest"] and os.getcwd() == "/scratch"
        print("ran")
        """,
        "a",
        "b",
    )
    assert (result.ending, result.output) == (Ending("exited", 0), "ran\n")


def test_channel_is_descriptor_3_and_ends_with_the_candidate(sandbox: Sandbox, place: Path) -> None:
    script = written(place, "import os; os.write(3, os.read(3, 100).upper())")
    with sandbox.start(script, program=place / "program", guest=place / "guest", limits=Limits(wall_s=10)) as turn:
        turn.channel.sendall(b"question")
        assert turn.channel.recv(100) == b"QUESTION"
        assert turn.channel.recv(100) == b""


@guards("descriptors")
def test_no_other_descriptor_is_open(run: Callable[..., Result]) -> None:
    result = run("""
        import os
        for fd in range(4, 4096):
            try:
                os.fstat(fd)
            except OSError:
                continue
            print(fd, "is open")
        assert os.fstat(0).st_rdev == os.stat("/dev/null").st_rdev
    """)
    assert (result.ending, result.output) == (Ending("exited", 0), "")


@guards("environment")
def test_environment_is_built_not_inherited(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret-of-the-judge")
    script = written(
        place,
        """
        import os
        print(sorted(os.environ))
        assert os.environ["HOME"] == os.environ["TMPDIR"] == os.getcwd() and os.environ["EXTRA"] == "1"
        for process in ("self", "1"):
            try:
                assert b"secret" not in open(f"/proc/{process}/environ", "rb").read()
            except PermissionError:
                pass
        """,
    )
    with (
        opened() as sandbox,
        sandbox.start(
            script,
            program=place / "program",
            guest=place / "guest",
            limits=Limits(wall_s=10),
            environment={"EXTRA": "1"},
        ) as turn,
    ):
        assert turn.ending(10) == Ending("exited", 0), turn.output()
        assert "KEY" not in turn.output()
        assert eval(turn.output()) == sorted([*evo.sandbox.ENVIRONMENT, "EXTRA"])


@guards("unconnected")
def test_network_cannot_be_reached(run: Callable[..., Result]) -> None:
    result = run(
        REFUSED
        + """
    import socket
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET):
        refused(lambda: socket.socket(family, socket.SOCK_RAW))
        refused(lambda: socket.socket(family, socket.SOCK_DGRAM))
        refused(lambda: socket.socket(family, socket.SOCK_STREAM))
    interfaces = [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line]
    assert interfaces == ["lo"], interfaces
    """
    )
    assert result.ending == Ending("exited", 0), result.output


def test_a_sandbox_for_cuda_compiles_and_loads_c(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    elsewhere = place / "toolchain" / "bin"
    elsewhere.mkdir(parents=True)
    for folder in (place, elsewhere.parent, elsewhere):
        folder.chmod(0o755)
    (elsewhere / "mycc").write_text(f'#!/bin/sh\nexec {compiler} "$@"\n')
    (elsewhere / "mycc").chmod(0o755)
    monkeypatch.setenv("CC", str(elsewhere / "mycc"))
    code = """
    import ctypes, os, subprocess, tempfile
    with tempfile.TemporaryDirectory() as folder:
        open(f"{folder}/a.c", "w").write("int answer(void) { return 42; }")
        subprocess.run([os.environ["CC"], "-shared", "-o", f"{folder}/a.so", f"{folder}/a.c"], check=True)
        print(ctypes.CDLL(f"{folder}/a.so").answer())
    """
    limits = Limits(wall_s=30, memory_mb=None, children=True)
    with (
        Sandbox(cuda=True, preload=("torch",)) as sandbox,
        sandbox.start(written(place, code), program=place / "program", guest=place / "guest", limits=limits) as turn,
    ):
        turn.ending(30)
        assert turn.output().split() == ["42"], turn.output()


def test_loopback_joins_processes_of_one_turn_and_reaches_nothing_else(run: Callable[..., Result]) -> None:
    code = """
    import errno, os, socket
    door = socket.create_server(("127.0.0.1", 0))
    if os.fork() == 0:
        with socket.create_connection(door.getsockname()) as line:
            line.sendall(b"hello")
        os._exit(0)
    line, _ = door.accept()
    print(line.recv(5).decode())
    for address in ("192.0.2.1", "8.8.8.8"):
        try:
            socket.create_connection((address, 53), timeout=2)
        except OSError as error:
            print(errno.errorcode[error.errno])
    """
    result = run(code, limits=Limits(wall_s=10, children=True, loopback=True))
    assert result.output.split() == ["hello", "ENETUNREACH", "ENETUNREACH"]


@guards("unreached")
def test_local_sockets_of_the_host_cannot_be_reached(run: Callable[..., Result]) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0evo-test-abstract")
        listener.listen()
        result = run(
            REFUSED + "    import socket\n"
            '    refused(lambda: socket.socket(socket.AF_UNIX).connect("\\0evo-test-abstract"))\n'
        )
    assert result.ending == Ending("exited", 0), result.output


@guards("unseen", "nameless")
def test_other_processes_are_invisible(run: Callable[..., Result]) -> None:
    result = run(
        REFUSED
        + f"""
    import os, signal
    assert sorted(name for name in os.listdir("/proc") if name.isdigit()) == ["1", "2"]
    refused(lambda: os.kill({os.getpid()}, 0))
    refused(lambda: open("/proc/1/mem", "rb"))
    refused(lambda: os.listdir("/proc/1/fd"))
    try:
        os.kill(1, signal.SIGKILL)  # the kernel drops it, or refuses where the uid differs
    except PermissionError:
        pass
    assert os.uname().nodename == "sandbox"
    """
    )
    assert result.ending == Ending("exited", 0), result.output


@guards("hidden")
def test_host_files_are_invisible(run: Callable[..., Result]) -> None:
    result = run(f"""
        import os, sys
        for path in ({str(REPOSITORY / "evo")!r}, {str(REPOSITORY / ".data")!r}, {str(REPOSITORY / "tests")!r},
                     {os.path.expanduser("~/.cache")!r}, "/home", "/var", "/tmp", "/opt", "/old", "/new", "/etc/shadow",
                     "/etc/hostname", "/sys/class", "/sys/fs", "/dev/mem", "/dev/tty", "/run", "/mnt"):
            if not sys.prefix.startswith(path + "/"):  # a clone below it has its environment mounted there
                assert not os.path.exists(path), path
        assert set(os.listdir("/etc")) <= {{"passwd", "group", "covered", "ld.so.cache", "alternatives"}}
        seen = [line.split()[3:5] for line in open("/proc/self/mountinfo")]
        assert not any(target == "/" and source != "/" for source, target in seen), seen
    """)
    assert result.ending == Ending("exited", 0), result.output


def test_evo_is_not_importable(run: Callable[..., Result]) -> None:
    assert run("import evo").ending == Ending("exited", 1)
    assert "No module named 'evo'" in run("import evo").output


@guards("read-only")
def test_everything_but_scratch_is_read_only(run: Callable[..., Result], place: Path) -> None:
    result = run(
        REFUSED
        + """
    import os, sys
    library = os.path.dirname(os.__file__)
    for directory in ("/", "/program", "/guest", "/usr", "/etc", "/dev", "/proc", "/root", sys.prefix, library):
        if os.path.exists(directory):
            refused(lambda: open(directory + "/written", "w"))
    for path in ("/program/train.py", "/guest/script.py", "/etc/passwd", "/usr/bin/env", os.__file__):
        for change in (lambda: open(path, "a"), lambda: os.unlink(path), lambda: os.chmod(path, 0o777)):
            refused(change)
    refused(lambda: open("/proc/sys/kernel/core_pattern", "w"))
    refused(lambda: open("/proc/sysrq-trigger", "w"))
    open("/scratch/file", "w").write("text")
    open("/dev/shm/file", "w").write("text")
    open("/dev/null", "w").write("text")
    assert len(open("/dev/urandom", "rb").read(8)) == 8
    """
    )
    assert result.ending == Ending("exited", 0), result.output
    assert (place / "program" / "train.py").read_text() == "WIDTH = 64\n"


@guards("read-only")
def test_scratch_is_limited_and_fresh(run: Callable[..., Result]) -> None:
    code = """
        import os
        assert os.listdir("/scratch") == [], os.listdir("/scratch")
        written = 0
        try:
            for number in range(32):
                with open(f"/scratch/{number}", "wb", buffering=0) as file:
                    written += file.write(bytes(1 << 20))
        except OSError as error:
            print(error.strerror)
        assert written <= 8 << 20, written
        """
    for _ in range(2):
        result = run(code, limits=Limits(wall_s=10, scratch_mb=8))
        assert (result.ending, result.output) == (Ending("exited", 0), "No space left on device\n")


@guards("file size")
def test_files_larger_than_the_limit_are_refused(run: Callable[..., Result]) -> None:
    result = run(
        REFUSED + "    refused(lambda: open('big', 'wb', buffering=0).truncate(5 << 20))\n",
        limits=Limits(wall_s=10, file_mb=4),
    )
    assert result.ending == Ending("exited", 0), result.output
    assert "File too large" in result.output


@guards("memory")
def test_memory_is_limited(run: Callable[..., Result]) -> None:
    result = run("bytearray(600 << 20)", limits=Limits(wall_s=10, memory_mb=500))
    assert result.ending == Ending("exited", 1)
    assert "MemoryError" in result.output
    assert result.peak_mb < 200


@guards("memory")
def test_memory_outside_the_address_space_is_refused(run: Callable[..., Result]) -> None:
    result = run(REFUSED + LIBC + "    import os\n    refused(lambda: os.memfd_create('x'))\n")
    assert result.ending == Ending("exited", 0), result.output


@guards("memory together")
def test_memory_of_all_processes_together_is_limited(run: Callable[..., Result]) -> None:
    code = """
        import os, time
        for _ in range(4):
            if not os.fork():
                kept = bytearray(60 << 20)
                time.sleep(0.3)
                os._exit(0)
        print(sorted(os.waitpid(-1, 0)[1] for _ in range(4)))
    """
    result = run(code, limits=Limits(wall_s=10, memory_mb=128, scratch_mb=1, children=True))
    assert result.ending == Ending("exited", 0), result
    assert signal.SIGKILL in eval(result.output)


@guards("output")
def test_output_flood_is_killed_with_flat_memory(run: Callable[..., Result]) -> None:
    result = run("while True: print('x' * 1000)", limits=Limits(wall_s=10, output_kb=2000))
    assert result.ending == Ending("output")
    assert len(result.output) == evo.sandbox.TAIL


def test_output_can_be_dropped(run: Callable[..., Result]) -> None:
    result = run("print('x' * 5000000)", limits=Limits(wall_s=10, output_kb=1), keep_output=False)
    assert (result.ending, result.output) == (Ending("exited", 0), "")


def test_output_is_complete_and_holds_the_traceback(run: Callable[..., Result]) -> None:
    result = run("print('before', '\\udcff'); raise ValueError('sad')")
    assert result.ending == Ending("exited", 1)
    assert result.output.startswith("before") and result.output.endswith("ValueError: sad\n")
    assert "forkserver" not in result.output


@guards("childless")
def test_new_processes_are_refused_without_children(run: Callable[..., Result]) -> None:
    result = run(
        REFUSED
        + """
    import os, subprocess
    refused(os.fork)
    refused(lambda: os.posix_spawn("/usr/bin/true", ["true"], {}))
    refused(lambda: subprocess.run(["/usr/bin/true"]))
    refused(lambda: os.execv("/usr/bin/true", ["true"]))
    """
    )
    assert result.ending == Ending("exited", 0), result.output


@guards("threads")
def test_threads_are_allowed_up_to_the_limit(run: Callable[..., Result]) -> None:
    result = run(
        """
        import threading, time
        stop, threads = threading.Event(), []
        try:
            for _ in range(100):
                threads.append(threading.Thread(target=stop.wait))
                threads[-1].start()
        except RuntimeError:
            print("refused after", len(threads) - 1)
        stop.set()
        assert 8 <= len(threads) <= 17, len(threads)
        """,
        limits=Limits(wall_s=10, threads=16),
    )
    assert result.ending == Ending("exited", 0), result.output
    assert "refused" in result.output


@guards("reaped")
def test_children_are_allowed_on_request_and_escapees_die_with_the_turn(sandbox: Sandbox, place: Path) -> None:
    script = written(
        place,
        """
        import os, subprocess, sys, time
        subprocess.run([sys.executable, "-c", "print('child')"], check=True)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                open("/proc/self/comm", "w").write("evo-escapee")
                os.write(3, b"away")
                time.sleep(600)
            os._exit(0)
        os.wait()
        time.sleep(600)
        """,
    )
    limits = Limits(wall_s=20, children=True)
    with sandbox.start(script, program=place / "program", guest=place / "guest", limits=limits) as turn:
        assert turn.channel.recv(4) == b"away", turn.output()
        assert len(processes("evo-escapee")) == 1
    assert processes("evo-escapee") == []
    assert turn.ending() == Ending("killed", signal.SIGKILL)
    assert "child" in turn.output()


@guards("reaped")
def test_what_the_candidate_left_running_dies_when_it_exits(sandbox: Sandbox, place: Path) -> None:
    script = written(place, "import os, time\nif os.fork() == 0:\n    os.setsid(); time.sleep(600)\n")
    limits = Limits(wall_s=20, children=True)
    with sandbox.start(script, program=place / "program", guest=place / "guest", limits=limits) as turn:
        assert turn.ending(10) == Ending("exited", 0)
        assert turn.channel.recv(1) == b""  # the grandchild held the other end


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        ("import os; os._exit(0)", Ending("exited", 0)),
        ("import sys; sys.exit(7)", Ending("exited", 7)),
        ("import sys; sys.exit('a word')", Ending("exited", 1)),
        ("1 / 0", Ending("exited", 1)),
        ("import os; os.kill(os.getpid(), 9)", Ending("killed", signal.SIGKILL)),
        ("import os; os.kill(0, 9)", Ending("killed", signal.SIGKILL)),
        ("import ctypes; ctypes.string_at(0)", Ending("killed", signal.SIGSEGV)),
        ("import os; os.abort()", Ending("killed", signal.SIGABRT)),
        ("import atexit; atexit.register(print, 'bye')", Ending("exited", 0)),
    ],
)
def test_exit_codes_and_signals_are_reported(run: Callable[..., Result], code: str, ending: Ending) -> None:
    result = run(code)
    assert result.ending == ending, result.output
    assert ("bye" in result.output) == ("bye" in code)


DEAF = """
import signal, time
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
time.sleep(60)
"""


@guards("wall")
@pytest.mark.parametrize("code", ["import time; time.sleep(60)", "while True: pass", DEAF])
def test_a_hang_is_killed_while_the_judge_waits_on_the_channel(sandbox: Sandbox, place: Path, code: str) -> None:
    began = time.monotonic()
    limits = Limits(wall_s=0.3)
    with sandbox.start(written(place, code), program=place / "program", guest=place / "guest", limits=limits) as turn:
        assert turn.channel.recv(1) == b""
        assert turn.ending(5) == Ending("wall")
    assert time.monotonic() - began < 30  # the 60 s that it would have slept


ENDS = [
    (DEAF, Ending("wall"), 0),
    ("while True: print('x' * 1000)", Ending("output"), evo.sandbox.TAIL),
    ("import os, sys; os.close(3); print('y' * 100_000); sys.exit(3)", Ending("exited", 3), evo.sandbox.TAIL),
]


@pytest.mark.parametrize(("code", "ending", "said"), ENDS)
def test_a_judge_that_waits_through_a_turn_needs_no_thread_for_its_limits(
    sandbox: Sandbox, place: Path, code: str, ending: Ending, said: int
) -> None:
    threads, limits = threading.active_count(), Limits(wall_s=0.5, output_kb=2000)
    where = {"program": place / "program", "guest": place / "guest"}
    with sandbox.start(written(place, code), **where, limits=limits, attended=True) as turn:
        while not turn.wait(select.POLLIN, 5):
            pass
        assert turn.channel.recv(1) == b""
        assert turn.ending(5) == ending
        assert len(turn.output()) == said and threading.active_count() == threads
        assert turn.wait(select.POLLIN, 0) and turn.ending() == ending  # asking again costs nothing


def test_a_judge_that_waits_through_a_turn_can_shut_it(sandbox: Sandbox, place: Path) -> None:
    code = """
        import os, socket
        channel = socket.socket(fileno=3)
        channel.send(b"x")
        channel.recv(1)
        try:
            os.stat("/nowhere")
        except OSError as error:
            channel.send(type(error).__name__.encode())
    """
    where = {"program": place / "program", "guest": place / "guest"}
    script = written(place, code)
    with sandbox.start(script, **where, limits=Limits(wall_s=10), shuts=True, attended=True) as turn:
        while not turn.wait(select.POLLIN, 5):
            pass
        assert turn.channel.recv(1) == b"x"
        turn.shut()
        turn.channel.send(b"y")
        assert turn.channel.recv(100) == b"PermissionError"


@guards("clock")
def test_cpu_clock_counts_all_threads_and_outlives_the_process(run: Callable[..., Result]) -> None:
    result = run("""
        import hashlib, threading, time
        def burn():
            while time.thread_time() < 0.15:
                hashlib.sha256(bytes(1 << 20)).digest()  # releases the interpreter's lock
        threads = [threading.Thread(target=burn) for _ in range(2)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        print(time.process_time())
    """)
    assert result.ending == Ending("exited", 0), result.output
    assert result.cpu >= 0.3
    assert abs(result.cpu - float(result.output)) < 0.1


@guards("clock")
def test_cpu_clock_is_readable_after_a_kill_and_after_the_turn(sandbox: Sandbox, place: Path) -> None:
    script = written(place, "import os\nos.write(3, b'x')\nwhile True: pass")
    with sandbox.start(script, program=place / "program", guest=place / "guest", limits=Limits(wall_s=10)) as turn:
        turn.channel.recv(1)
        first = turn.cpu_seconds()
        assert turn.ending() is None and turn.peak_mb() > 1
        time.sleep(0.1)
        turn.kill()
        assert turn.ending(5) == Ending("killed", signal.SIGKILL)
        last = turn.cpu_seconds()
        assert last > first and turn.cpu_seconds() == last
    assert turn.cpu_seconds() == last


def test_what_wakes_while_it_is_stopped_is_noticed(sandbox: Sandbox, place: Path) -> None:
    """As by a timer whose signal is SIGCONT, which woke 3 of 20 stopped processes here."""
    script = written(place, "import os\nos.write(3, b'x')\nwhile True: pass")
    with sandbox.start(script, program=place / "program", guest=place / "guest", limits=Limits(wall_s=10)) as turn:
        turn.channel.recv(1)
        turn.pause()
        time.sleep(0.02)
        assert not turn.awake()
        os.kill(turn._pid, signal.SIGCONT)
        until = time.monotonic() + 5
        while not turn.awake() and time.monotonic() < until:
            time.sleep(0.01)
        assert turn.awake()


@guards("calls")
def test_dangerous_calls_are_refused(run: Callable[..., Result]) -> None:
    result = run(
        LIBC
        + """
    import importlib.util, os, time
    numbers = dict(ptrace=101, process_vm_readv=310, io_uring_setup=425, bpf=321, perf_event_open=298, keyctl=250,
                   userfaultfd=323, mount=165, unshare=272, setns=308, kexec_load=246, init_module=175, reboot=169,
                   clock_settime=227, settimeofday=164, adjtimex=159, personality=135, pidfd_getfd=438, chroot=161,
                   swapon=167, setpriority=141, inotify_init1=294, shmget=29, flock=73, fsopen=430, open_tree=428,
                   fork=57, clone=56, fadvise64=221, readahead=187, preadv2=327, mincore=27, setxattr=188,
                   lsetxattr=189, fsetxattr=190, semget=64, msgget=68, io_setup=206, io_submit=209, vmsplice=278)
    if os.uname().machine == "x86_64":
        for name, number in numbers.items():
            number_refused(number, 0, 0, 0, 0, 0)
        assert libc.syscall(435, 0, 0) == -1 and ctypes.get_errno() == errno.ENOSYS  # clone3
        number_refused(302, 1, 7, 0, 0)  # prlimit64 of another process
        number_refused(28, 0, 4096, 12)  # madvise, MERGEABLE
        number_refused(157, 67, 1, 0, 0, 0)  # prctl, PR_SET_MEMORY_MERGE
        number_refused(157, 4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
    clock = lambda: time.clock_settime(time.CLOCK_REALTIME, 0)
    for step in (clock, lambda: os.nice(-5), lambda: os.chroot("/scratch")):
        try:
            step()
        except PermissionError:
            continue
        raise SystemExit("allowed")
    """
    )
    assert result.ending == Ending("exited", 0), result.output


@guards("uncounted")
def test_counters_of_the_machine_are_not_read(run: Callable[..., Result]) -> None:
    """Of 190 in /proc/vmstat, locking a page moves one that nothing else moves: twenty bits in a second, exact."""
    result = run(
        REFUSED
        + """
    import os
    for path in ("vmstat", "stat", "meminfo", "interrupts", "loadavg", "buddyinfo", "sys/fs/inode-nr", "1/status"):
        refused(lambda: open("/proc/" + path).read(), PermissionError)
    for place, _, names in os.walk("/sys/devices/system/node"):
        for name in names:
            refused(lambda: open(os.path.join(place, name)).read(), OSError)
    for path in ("/proc/cpuinfo", "/proc/self/status", "/proc/thread-self/stat", "/sys/devices/system/cpu/online"):
        assert open(path).read()
    open("/proc/self/comm", "w").write("mine")
    """
    )
    assert result.ending == Ending("exited", 0), result.output


@guards("unlocked")
def test_one_turn_leaves_nothing_for_the_next(run: Callable[..., Result]) -> None:
    """Neither as an attribute of a file that both see, nor as pages of one that are or are not in memory."""
    result = run(
        REFUSED
        + """
    import fcntl, mmap, os, struct
    fd = os.open(os.__file__, os.O_RDONLY)
    refused(lambda: os.setxattr(fd, "user.note", b"x"))
    refused(lambda: os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED))
    refused(lambda: os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT))
    view = mmap.mmap(fd, 4096, prot=mmap.PROT_READ)
    for advice in (mmap.MADV_RANDOM, mmap.MADV_WILLNEED, 21):
        refused(lambda: view.madvise(advice))
    mmap.mmap(-1, 8192).madvise(mmap.MADV_DONTNEED)  # what allocators need is allowed
    for command in (1036, 1038, fcntl.F_NOTIFY, fcntl.F_SETLEASE, fcntl.F_SETOWN):  # the first two: write hints
        refused(lambda: fcntl.fcntl(fd, command, struct.pack("Q", 3)), PermissionError)
    refused(lambda: fcntl.ioctl(fd, 0x8008661A, bytes(8)))  # FS_IOC_GETVERSION, for all that a file system may offer
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    assert not os.isatty(fd) and not os.get_blocking(reader) and fcntl.fcntl(writer, fcntl.F_GETFD) == 1
    """
    )
    assert result.ending == Ending("exited", 0), result.output


@guards("calls")
def test_the_x32_table_is_no_way_round_the_filter(run: Callable[..., Result]) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("only x86_64 has a second table of system calls")
    assert run("import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 39)").ending == Ending("killed", signal.SIGSYS)


def test_one_uid_can_be_kept_and_has_no_power(place: Path) -> None:
    script = written(
        place,
        REFUSED
        + f"""
    import os
    assert os.getuid() == {os.geteuid()} or {os.geteuid()} != 0
    for path in ("/proc/1/mem", "/proc/1/environ", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/usr/x"):
        refused(lambda: open(path, "r" if "/1/" in path else "w").read(1))
    refused(lambda: os.chmod("/dev/null", 0o600))
    refused(lambda: os.setgid(5))
    """,
    )
    where = {"program": place / "program", "guest": place / "guest", "limits": Limits(wall_s=10)}
    with Sandbox(drop_user=False) as sandbox, sandbox.start(script, **where) as turn:
        assert turn.ending(10) == Ending("exited", 0), turn.output()
        assert {layer.name for layer in sandbox.level.layers if not layer.holds} >= {"user", "threads"}


def test_the_engine_is_covered_where_it_lies_among_the_libraries(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an ordinary installation, here with a package of the standard library in the engine's place."""
    import json

    copied = place / "forkserver.py"
    engine = str(Path(json.__file__).parent)
    text = evo.sandbox.FORKSERVER.read_text()
    copied.write_text(text.replace('configuration["hidden"]', f"[{engine!r}]"))
    monkeypatch.setattr(evo.sandbox, "FORKSERVER", copied)
    script = written(place, f"import os; print(os.listdir({engine!r}))")
    where = {"program": place / "program", "guest": place / "guest", "limits": Limits(wall_s=10)}
    with Sandbox() as sandbox, sandbox.start(script, **where) as turn:
        assert (turn.ending(10), turn.output()) == (Ending("exited", 0), "[]\n")


@guards("unprivileged", "own user")
def test_no_privilege_is_left_and_none_can_be_gained(run: Callable[..., Result]) -> None:
    result = run("""
        import os
        status = dict(map(str.strip, line.split(":", 1)) for line in open("/proc/self/status"))
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[name], 16) == 0, (name, status[name])
        assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
        assert os.getuid() != 0 and os.getgid() != 0 and set(os.getgroups()) <= {os.getgid(), 65534}
        for change in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):
            try:
                change()
            except OSError:  # refused, or no such user in the user namespace
                continue
            raise SystemExit("allowed")
    """)
    assert result.ending == Ending("exited", 0), result.output


WAITS = """
    import ctypes, os, sys
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    futex = {"x86_64": 202, "aarch64": 98}[os.uname().machine]
    place = ctypes.c_void_p(libc.mmap(None, 4096, 1, 1, os.open(os.__file__, os.O_RDONLY), 0))
"""


@guards("unlocked")
def test_no_futex_joins_two_turns(sandbox: Sandbox, place: Path) -> None:
    """One waits on a page of a file that both see; the other would wake it, and be told how many waited."""
    wait = """
    word = ctypes.c_uint32.from_address(place.value).value
    class Time(ctypes.Structure):
        _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]
    os.write(3, b"x")
    libc.syscall(futex, place, 0, word, ctypes.byref(Time(0, 300_000_000)), None, 0)
    print("woken by the clock" if ctypes.get_errno() == 110 else "woken")
    """
    wake = "    print(libc.syscall(futex, place, 1, 9, None, None, 0))\n"
    where = {"program": place / "program", "guest": place / "guest", "limits": Limits(wall_s=10)}
    (place / "guest" / "wake.py").write_text(textwrap.dedent(WAITS + wake))
    with sandbox.start(written(place, WAITS + wait), **where) as one:
        assert one.channel.recv(1) == b"x", one.output()
        with sandbox.start(place / "guest" / "wake.py", **where) as two:
            assert (two.ending(10), two.output()) == (Ending("exited", 0), "-1\n")
        assert (one.ending(10), one.output()) == (Ending("exited", 0), "woken by the clock\n")


@guards("shut")
def test_a_shut_turn_looks_up_no_name(sandbox: Sandbox, place: Path) -> None:
    """What is asked for, there or not, is known faster to whoever asks next: 2,400 bits in 22 ms, 5 of them wrong."""
    script = written(
        place,
        REFUSED
        + """
    import os, socket, threading
    kept = open(os.__file__)
    known, folder = os.fstat(kept.fileno()), os.open("/usr", os.O_RDONLY)
    asking, stop = threading.Event(), threading.Event()
    def ask():
        while not stop.is_set():
            try:
                os.stat("/usr/nowhere")
            except FileNotFoundError:
                asking.set()
            except PermissionError:
                break
    thread = threading.Thread(target=ask)
    thread.start()
    asking.wait()
    os.write(3, b"x"); os.read(3, 1)
    thread.join()
    assert os.fstat(kept.fileno()) == known and kept.read(3)
    for step in (lambda: open("/program/train.py"), lambda: os.stat("/scratch"), lambda: os.listdir("/usr"),
                 lambda: os.listdir(folder), lambda: os.stat("lib", dir_fd=folder), lambda: os.mkdir("/scratch/x"),
                 lambda: os.rename("/a", "/b"), lambda: os.statvfs("/usr"), lambda: os.readlink("/proc/self/exe"),
                 lambda: socket.socket(socket.AF_UNIX).connect("/usr/x"), lambda: os.getxattr("/usr", "user.x"),
                 lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", "/usr/x")):
        refused(step, PermissionError)
    os.write(3, b"y")
    """,
    )
    where = {"program": place / "program", "guest": place / "guest", "limits": Limits(wall_s=10)}
    with sandbox.start(script, **where, shuts=True) as turn:
        assert turn.channel.recv(1) == b"x", turn.output()
        turn.shut()
        turn.channel.sendall(b"x")
        assert turn.ending(10) == Ending("exited", 0), turn.output()
        assert turn.channel.recv(1) == b"y"
        turn.shut()  # twice, and after the end
    with sandbox.start(written(place, "import time; time.sleep(60)"), **where, shuts=True) as turn:
        turn.kill()
        assert turn.ending(10) == Ending("killed", signal.SIGKILL)
        turn.shut()
        assert turn.cpu_seconds() > 0


@pytest.mark.parametrize("ended_by", ["itself", "its judge"])
@guards("shut")
def test_what_a_shut_turn_reads_from_disks_is_forgotten(
    sandbox: Sandbox, place: Path, monkeypatch: pytest.MonkeyPatch, ended_by: str
) -> None:
    """Otherwise which pages of a file lie in memory would tell the next turn something, a bit each."""
    import ctypes
    import mmap

    monkeypatch.setattr(sandbox, "_trees", [])  # a whole system's files take seconds

    def pages_in_memory() -> int:
        with open(cold, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            found, byte = (ctypes.c_ubyte * 1024)(), ctypes.c_char.from_buffer(view)
            assert (
                ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(byte)), ctypes.c_size_t(4 << 20), found) == 0
            )
            del byte
            return sum(page & 1 for page in found)

    cold = place / "program" / "cold"
    with open(cold, "wb") as file:
        file.write(bytes(4 << 20))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if pages_in_memory() or not Path("/proc/self/io").exists():
        pytest.skip("the temporary directory lies in memory, or this kernel does not count what is read")
    script = written(
        place,
        """
        import os, sys
        file = open(sys.path[0] + '/cold', 'rb')
        os.write(3, b'x'); os.read(3, 1)
        file.read()
        os.write(3, b'y'); os.read(3, 1)
        """,
    )
    where = {"program": place / "program", "guest": place / "guest", "limits": Limits(wall_s=10)}
    with sandbox.start(script, **where, shuts=True) as turn:
        assert turn.channel.recv(1) == b"x", turn.output()
        turn.shut()
        turn.channel.sendall(b"x")
        assert turn.channel.recv(1) == b"y"
        assert pages_in_memory() == 1024
        if ended_by == "itself":
            turn.channel.sendall(b"x")
            assert turn.ending(5) == Ending("exited", 0)
    assert pages_in_memory() == 0


@guards("unlocked")
def test_locks_on_shared_files_are_refused(run: Callable[..., Result]) -> None:
    result = run(
        REFUSED
        + """
    import fcntl, os, sys
    file = open(sys.path[0] + "/train.py")
    refused(lambda: fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB))
    refused(lambda: fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB))
    assert fcntl.fcntl(file, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    """
    )
    assert result.ending == Ending("exited", 0), result.output


@guards("unreached")
def test_two_turns_do_not_see_each_other(sandbox: Sandbox, place: Path) -> None:
    script = written(
        place,
        """
        import os, socket
        other = socket.socket(socket.AF_UNIX)
        other.bind("\\0evo-meeting"); other.listen()
        open("/scratch/note", "w").write("x"); open("/dev/shm/note", "w").write("x")
        print(os.listdir("/scratch"), sorted(name for name in os.listdir("/proc") if name.isdigit()))
        os.write(3, b"x"); os.read(3, 1)
        """,
    )
    where = {"program": place / "program", "guest": place / "guest", "limits": Limits(wall_s=10)}
    with sandbox.start(script, **where) as one, sandbox.start(script, **where) as two:
        for turn in (one, two):
            assert turn.channel.recv(1) == b"x", turn.output()
        for turn in (one, two):  # output is complete once a turn has ended
            turn.channel.sendall(b"x")
            assert turn.ending(5) == Ending("exited", 0)
        assert one.output() == two.output() == "['note'] ['1', '2']\n"


def test_a_failed_set_up_is_ours_and_says_why(sandbox: Sandbox, place: Path) -> None:
    script = written(place, "print('never')")
    (place / "program").chmod(0o700)
    if os.geteuid() == 0:
        with pytest.raises(SandboxError, match="chmod 755"):
            sandbox.start(script, program=place / "program", guest=place / "guest", limits=Limits(wall_s=5))
    with pytest.raises(FileNotFoundError):
        sandbox.start(script, program=place / "missing", guest=place / "guest", limits=Limits(wall_s=5))
    with pytest.raises(SandboxError, match="no_such_module"):
        Sandbox(preload=["no_such_module"])


def test_a_dead_fork_server_is_replaced_and_its_turns_are_lost(place: Path) -> None:
    script = written(place, "import time; time.sleep(60)")
    where = {"program": place / "program", "guest": place / "guest", "limits": Limits(wall_s=20)}
    with Sandbox() as sandbox, sandbox.start(script, **where) as turn:
        sandbox._process.kill()
        assert turn.ending(5) == Ending("lost")
        with sandbox.start(script, **where) as another:
            assert another.ending() is None


def test_nothing_is_left_on_the_host(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))

    def state() -> tuple[object, ...]:
        return (
            Path("/proc/self/mountinfo").read_text(),
            sorted(os.listdir(tempfile.gettempdir())),
            sorted(os.listdir("/proc/self/fd")),
            threading.active_count(),
        )

    script = written(place, "open('/scratch/x', 'w').write('x')")
    before = state()
    with Sandbox() as sandbox:
        server = sandbox._process.pid
        for _ in range(3):
            with sandbox.start(
                script, program=place / "program", guest=place / "guest", limits=Limits(wall_s=10)
            ) as turn:
                assert turn.ending(10) == Ending("exited", 0)
    assert state() == before
    assert not Path(f"/proc/{server}").exists()


@guards("orphaned")
def test_the_fork_server_dies_with_its_judge(place: Path) -> None:
    script = written(place, "open('/proc/self/comm', 'w').write('evo-orphan')\nimport time; time.sleep(60)")
    code = f"""
        import os, signal, time
        from pathlib import Path
        from evo.sandbox import Limits, Sandbox
        place = Path({str(place)!r})
        where = dict(program=place / "program", guest=place / "guest", limits=Limits(wall_s=50))
        sandbox = Sandbox()  # a name, because collecting it as garbage would end it
        turn = sandbox.start(Path({str(script)!r}), **where)
        while "evo-orphan" not in Path(f"/proc/{{turn._pid}}/comm").read_text():
            time.sleep(0.01)
        print(turn._pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=20)
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline = time.monotonic() + 5
    while Path(f"/proc/{done.stdout.strip()}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{done.stdout.strip()}").exists()


def test_works_from_another_thread_and_with_many_turns_at_once(sandbox: Sandbox, place: Path) -> None:
    script = written(place, "import os; os.write(3, b'x')")
    endings: list[Ending | None] = []

    def one() -> None:
        with sandbox.start(script, program=place / "program", guest=place / "guest", limits=Limits(wall_s=10)) as turn:
            endings.append(turn.ending(10))

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert endings == [Ending("exited", 0)] * 6


def test_importing_the_module_is_light() -> None:
    code = "import sys, evo.sandbox; print({'ctypes', 'torch', 'numpy', 'tempfile'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


USER = 65534
ORDINARY = """
from pathlib import Path
import os, sys, time
from evo.sandbox import *
place = Path(sys.argv[1])
where = dict(program=place / "program", guest=place / "guest")
with Sandbox() as sandbox:
    print(sandbox.level.describe())
    with sandbox.start(place / "guest" / "script.py", **where, limits=Limits(wall_s=10, threads=16)) as turn:
        print(turn.ending(10), turn.cpu_seconds() > 0, turn.peak_mb() > 1)
        print(turn.output())
    (place / "guest" / "hang.py").write_text("while True: pass")
    with sandbox.start(place / "guest" / "hang.py", **where, limits=Limits(wall_s=0.2)) as turn:
        print(turn.ending(10))
"""


def test_an_ordinary_user_gets_the_same_walls() -> None:
    """In a user namespace; the interpreter may lie in root's home, so a private mount makes its parents passable."""
    if os.geteuid() != 0 or not shutil.which("setpriv") or not shutil.which("unshare"):
        pytest.skip("only root can become an ordinary user, with setpriv and unshare")
    place = Path(tempfile.mkdtemp())
    try:
        for name in ("program", "guest"):
            (place / name).mkdir()
        (place / "program" / "train.py").write_text("WIDTH = 64\n")
        (place / "guest" / "script.py").write_text(
            textwrap.dedent("""
            import os, socket, threading, train
            for step in (os.fork, lambda: socket.socket(socket.AF_INET), lambda: os.kill(1, 0) or 1 / 0,
                         lambda: open("/proc/1/mem"), lambda: open("/program/x", "w"), lambda: os.listdir("/var")):
                try:
                    step()
                except (OSError, ZeroDivisionError):
                    continue
                raise SystemExit(f"allowed: {step}")
            status = dict(map(str.strip, line.split(":", 1)) for line in open("/proc/self/status"))
            assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0 and status["Seccomp"] == "2"
            assert sorted(name for name in os.listdir("/proc") if name.isdigit()) == ["1", "2"]
            open("/scratch/x", "w").write("x")
            stop = threading.Event()
            try:
                for number in range(50):
                    threading.Thread(target=stop.wait).start()
            except RuntimeError:
                print("threads refused after", number)
            stop.set()
            print("held")
            """)
        )
        (place / "run.py").write_text(ORDINARY)
        subprocess.run(["chown", "-R", str(USER), str(place)], check=True)
        become = f"setpriv --reuid={USER} --regid={USER} --clear-groups --bounding-set=-all --inh-caps=-all"
        command = f"{opened_way(place)}{become} {shlex.quote(sys.executable)} {place}/run.py {place}"
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-ec", command],
            capture_output=True, text=True, timeout=30, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)},
        )  # fmt: skip
    finally:
        shutil.rmtree(place)
    if "cannot isolate" in done.stderr:
        pytest.skip(f"ordinary users may not make namespaces here: {done.stderr.splitlines()[-1]}")
    assert "exited with 0 True True" in done.stdout and "held" in done.stdout, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("wall"), done.stdout + done.stderr


# A process that may not make namespaces, as in a container: it filters itself before it starts a sandbox.
CONTAINED = """
import ctypes, importlib.util, struct, sys, os, errno
spec = importlib.util.spec_from_file_location("forkserver", FORKSERVER)
forkserver = importlib.util.module_from_spec(spec)
spec.loader.exec_module(forkserver)
forkserver.prctl(38, 1, "no_new_privs")
forkserver.CHILDLESS = {"fork", "vfork", "execve", "execveat", "flock"}
forkserver.install_filter(forkserver.filter_program(children=True, cuda=True))
from pathlib import Path
from evo.sandbox import *
place = Path(sys.argv[1])
try:
    Sandbox()
except NoIsolation as error:
    print("NoIsolation:", error)
level = probe(allow_unisolated=True)
print(level.name)
with Sandbox(level=level) as sandbox:
    where = dict(program=place / "program", guest=place / "guest")
    with sandbox.start(place / "guest" / "script.py", **where, limits=Limits(wall_s=10, children=True)) as turn:
        print(turn.channel.recv(1), turn.ending(10), turn.cpu_seconds() > 0)
        print(turn.output())
"""


@guards("landlocked")
def test_without_namespaces_it_says_so_and_goes_on_only_by_the_users_word(place: Path) -> None:
    (place / "open").mkdir()
    (place / "open").chmod(0o777)  # so that nothing but Landlock refuses
    written(
        place,
        """
        import ctypes, os, sys, time, train
        open("note", "w").write("x")
        try:
            open(sys.path[0] + "/../open/note", "w")
        except PermissionError:
            print("landlocked")
        print(os.getcwd(), sys.path[0])
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                ctypes.CDLL(None).prctl(15, b"evo-uncaged", 0, 0, 0)  # PR_SET_NAME
                os.write(3, b"x")
                time.sleep(60)
            os._exit(0)
        os.wait()
        """,
    )
    (place / "contained.py").write_text(CONTAINED.replace("FORKSERVER", repr(str(evo.sandbox.FORKSERVER))))
    left = place / "left"  # a temporary directory of its own, since other tests run at the same time
    left.mkdir()
    for parent in [left, place, *place.parents]:  # the candidate walks the host's paths here
        if parent.stat().st_mode & 0o005 != 0o005 and tempfile.gettempdir() in str(parent):
            parent.chmod(0o755)
    done = subprocess.run(
        [sys.executable, str(place / "contained.py"), str(place)],
        capture_output=True, text=True, timeout=30, env={**os.environ, "TMPDIR": str(left)},
    )  # fmt: skip
    assert "NoIsolation: this machine cannot isolate a candidate" in done.stdout, done.stdout + done.stderr
    assert "none" in done.stdout.splitlines(), done.stdout + done.stderr
    assert "b'x' exited with 0 True\nlandlocked" in done.stdout, done.stdout + done.stderr
    assert processes("evo-uncaged") == []
    assert list(left.iterdir()) == []


def test_a_rehearsal_finds_what_only_a_turn_needs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some containers grant every namespace and then refuse a fresh /proc."""
    broken = place / "forkserver.py"
    text = evo.sandbox.FORKSERVER.read_text()
    line = '    mount("proc", "/new/proc"'
    assert line in text
    broken.write_text(text.replace(line, '    raise OSError(1, "mount proc on /new/proc: refused")\n' + line))
    monkeypatch.setattr(evo.sandbox, "FORKSERVER", broken)
    with pytest.raises(NoIsolation, match="mount proc"):
        Sandbox()
    level = probe(allow_unisolated=True)
    assert level.name == "none" and "mount proc" in level.describe()


def test_level_names() -> None:
    assert Level().name == "none"
    assert LEVEL.name in ("full", "partial") and "processes" in LEVEL.describe()
