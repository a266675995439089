"""What holds a candidate under cgroup version 2: as root, as an ordinary user with a cgroup of its own, and without.

`make test-cgroup` boots a Linux that has it (scripts/boot_linux.py) and runs this there.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import opened_way

REPOSITORY = Path(__file__).resolve().parent.parent
CGROUPS = Path("/sys/fs/cgroup")
HAS_MEMORY = "memory" in (
    (CGROUPS / "cgroup.controllers").read_text().split() if (CGROUPS / "cgroup.controllers").exists() else []
)
USER = 61000
FORBID = Path("/proc/sys/user/max_user_namespaces")
pytestmark = [
    pytest.mark.cgroup,
    pytest.mark.skipif("EVO_CGROUP" not in os.environ, reason="make test-cgroup: it boots a Linux of its own"),
    pytest.mark.skipif(os.geteuid() != 0 or not HAS_MEMORY, reason="needs root and the memory controller of cgroup v2"),
]


@dataclass(frozen=True)
class Situation:
    """Who starts evo, where, and what then holds."""

    user: int
    cgroup: str  # "ours": its processes' parent belongs to the user; "half": without the right to move processes in it
    namespaces: bool
    level: str
    memory: bool


SITUATIONS = {
    "root": Situation(0, "ours", True, "full", True),
    "ordinary-user-with-cgroup": Situation(USER, "ours", True, "full", True),
    "ordinary-user": Situation(USER, "theirs", True, "full", False),
    "ordinary-user-with-half-a-cgroup": Situation(USER, "half", True, "full", False),
    "ordinary-user-without-namespaces": Situation(USER, "theirs", False, "none", False),
}


class Ran:
    """Runs commands in one situation."""

    def __init__(self, situation: Situation, place: Path) -> None:
        self.situation, self.place = situation, place
        self.parent = CGROUPS / f"evo-test-{os.getpid()}"
        self.own = self.parent / "session"

    def __enter__(self) -> Ran:
        (CGROUPS / "cgroup.subtree_control").write_text("+memory")
        self.own.mkdir(parents=True)
        given = {"ours": ["", "cgroup.procs", "cgroup.subtree_control"], "half": ["", "cgroup.subtree_control"]}
        for name in given.get(self.situation.cgroup, []):  # as a service manager delegates one
            os.chown(self.parent / name, self.situation.user, -1)
        self.limit = FORBID.read_text()
        if not self.situation.namespaces:
            FORBID.write_text("0")
        return self

    def __exit__(self, *raised: object) -> None:
        FORBID.write_text(self.limit)
        self.own.rmdir()
        self.parent.rmdir()

    def __call__(self, *command: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        lines = f"echo $$ >{self.own}/cgroup.procs\n"
        become: list[str] = []
        if self.situation.user:
            lines += opened_way(self.place)
            become = ["setpriv", f"--reuid={self.situation.user}", f"--regid={self.situation.user}", "--clear-groups"]
            become += ["--bounding-set=-all", "--inh-caps=-all"]
        lines += "exec " + shlex.join([*become, *command])
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(self.place)}
        return subprocess.run(
            ["unshare", "--mount", "sh", "-ec", lines], capture_output=True, text=True, timeout=timeout,
            cwd=REPOSITORY, env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip


@pytest.fixture(params=SITUATIONS)
def ran(request: pytest.FixtureRequest) -> Iterator[Ran]:
    situation = SITUATIONS[request.param]
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    os.chown(place, situation.user, -1)
    try:
        with Ran(situation, place) as ran:
            yield ran
    finally:
        shutil.rmtree(place)


def test_the_level_is_told(ran: Ran) -> None:
    done = ran(sys.executable, "-m", "evo.check", "--sandbox")
    assert done.stdout.startswith(f"sandbox: {ran.situation.level}\n"), done
    assert bool(re.search(r"holds +memory ", done.stdout)) is ran.situation.memory, done.stdout
    assert bool(re.search(r"kept +memory together ", done.stdout)) is ran.situation.memory, done.stdout
    assert ("systemd-run --user" in done.stdout) is not ran.situation.memory, done.stdout
    assert done.returncode == (1 if ran.situation.level == "none" else 0)
    print(done.stdout)


def test_the_guarantees_are_kept(ran: Ran) -> None:
    """Those that `evo.check --sandbox` says are kept: without isolation, too, there are some."""
    unisolated = ran.situation.level == "none"
    command = [
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--color=no",
        "-rs",
        "-m",
        "guarantee",
        "tests/test_sandbox.py",
    ]
    told = ["env", "EVO_SANDBOX=conftest:Unisolated"] if unisolated else []
    done = ran(*told, sys.executable, *command)
    assert done.returncode == 0, done.stdout
    found = re.search(r"(\d+) passed", done.stdout)
    assert found and int(found[1]) >= (22 if unisolated else 35 - (not ran.situation.memory)), done.stdout
    print(done.stdout)


def test_hostile_neighbours_change_no_score(ran: Ran) -> None:
    """A fork bomb, an allocation of what the machine does not have, a printer and a disk filler."""
    if ran.situation.level == "none":
        pytest.skip("no isolation: nobody promises anything")
    command = ["neighbours", "--rounds", "1", "--benchmark", "packing", "--honest", "2"]
    done = ran(sys.executable, "scripts/measure_walls.py", *command)
    assert "beside - alone on the same seeds: +0.000000 +- 0.000000" in done.stdout, done
    ended = {ending for line in done.stdout.splitlines()[-4:] for ending in re.findall(r"'([^']+)': \d", line)}
    assert ended and ended <= {"wall", "output", "exited with 1", "killed by SIGKILL"}, done.stdout
    print(done.stdout)


# Processes that take more together than the turn may have, each less than its address space allows.
FAMILY = """
from pathlib import Path
import sys
from evo.sandbox import *
place = Path(sys.argv[1])
(place / "script.py").write_text('''
import os, time
for _ in range(16):
    if not os.fork():
        kept = bytearray(b"x") * (100 << 20)
        time.sleep(2)
        os._exit(0)
print(sum(os.waitpid(-1, 0)[1] == 9 for _ in range(16)))
''')
limits = Limits(wall_s=60, memory_mb=256, scratch_mb=1, children=True)
with Sandbox() as sandbox, sandbox.start(place / "script.py", program=place, guest=place, limits=limits) as turn:
    print(turn.ending(60), turn.output())
"""


def test_processes_together_stay_within_the_memory_of_one_turn(ran: Ran) -> None:
    """Swap included, of which the machine has a gigabyte."""
    if not ran.situation.memory:
        pytest.skip("no memory cgroup here, as evo.check says")
    done = ran(sys.executable, "-c", FAMILY, str(ran.place))
    killed = re.search(r"exited with 0 (\d+)", done.stdout)
    assert killed and int(killed[1]) >= 13, done  # three at most fit into 256 + 1 + 64 MB
    assert not list(ran.parent.glob("evo-*")), "a turn's cgroup was left behind"


def test_a_short_search_ends_well(ran: Ran) -> None:
    """Of packing with twelve times its seconds: an emulated processor may need them to import numpy."""
    out, patient = ran.place / "run", ran.place / "packing"
    shutil.copytree(REPOSITORY / "benchmarks" / "packing", patient)
    settings = (patient / "benchmark.toml").read_text()
    for old, new in (("\nseconds = 5\n", "\nseconds = 60\n"), ("wall_s = 10\n", "wall_s = 120\n")):
        assert old in settings
        settings = settings.replace(old, new)
    (patient / "benchmark.toml").write_text(settings)
    command = [sys.executable, "-m", "evo.run", "--benchmark", str(patient), "--evaluations", "12", "--workers", "1"]
    done = ran(*command, "--out", str(out))
    if ran.situation.level == "none":
        assert done.returncode == 3 and "--allow-unisolated" in done.stderr, done
        done = ran(*command, "--out", str(out), "--allow-unisolated")
    assert done.returncode == 0, done
    summary = json.loads(ran(sys.executable, "-m", "evo.inspect", str(out), "summary", "--json").stdout)
    assert summary["evaluated"] >= 4 and summary["lost"] == 0, (summary, done)
    print(done.stdout)
