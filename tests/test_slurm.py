"""A Slurm array is more workers of one run: on a controller and a node of one's own, started for this test."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "srun")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif("EVO_SLURM" not in os.environ, reason="make test-slurm: a controller and a node are started"),
    pytest.mark.skipif(bool(MISSING) or os.geteuid() != 0, reason=f"needs root and {', '.join(MISSING) or 'Slurm'}"),
]
CONFIGURATION = """\
ClusterName=evo
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
CredType=cred/munge
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=4
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands reach a cluster of this machine alone."""
    place = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (place / name).mkdir()
    place.chmod(0o755)
    (place / "munge.key").write_bytes(os.urandom(128))
    (place / "munge.key").chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    ports = {"controller": free_port(), "node": free_port()}
    (place / "slurm.conf").write_text(CONFIGURATION.format(host=host, place=place, **ports))
    environment = {**os.environ, "SLURM_CONF": str(place / "slurm.conf")}
    kept = [f"--{kind}-file={place}/munge.{kind}" for kind in ("key", "pid", "seed", "log")]
    commands = (
        ["munged", "--foreground", "--force", f"--socket={place}/munge.socket", *kept],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", host],
    )
    running = []
    try:
        for command in commands:
            with open(place / f"{command[0]}.out", "w") as out:
                running.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
            time.sleep(0.5)
        until = time.monotonic() + 30
        while (state := told(environment, "sinfo", "-h", "-o", "%T")) != "idle":
            assert time.monotonic() < until, f"the node is '{state}' and not idle; logs in {place}"
            time.sleep(0.2)
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(timeout=20)


def told(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=REPOSITORY, timeout=120)
    return (done.stdout + done.stderr if done.returncode else done.stdout).strip()


def test_an_array_of_two_joins_one_run(slurm: dict[str, str], tmp_path: Path) -> None:
    out, log = tmp_path / "run", tmp_path / "task-%a.log"
    task = ("scripts/slurm_array.sbatch", "packing", str(out), "--evaluations", "40", "--seed", "1")
    job = told(slurm, "sbatch", "--parsable", "--array=0-1", f"--output={log}", *task)
    assert job.isdigit(), job
    until = time.monotonic() + 300
    while told(slurm, "squeue", "-h", "-j", job):
        assert time.monotonic() < until, f"job {job} did not end"
        time.sleep(0.5)
    logs = "\n".join(file.read_text() for file in tmp_path.glob("task-*.log"))
    judged = [
        {json.loads(line)["task"][0] for line in file.read_text().splitlines() if '"event":"evaluated"' in line}
        for file in (out / "events").glob("*.jsonl")
    ]
    assert sum(bool(genomes) for genomes in judged) >= 2, logs  # two workers judged
    summary = json.loads(told(slurm, sys.executable, "-m", "evo.inspect", str(out), "summary", "--json"))
    assert summary["evaluated"] <= 44 and summary["lost"] == 0 and summary["cells"] > 1, (summary, logs)


def test_a_step_is_isolated_as_any_process_is(slurm: dict[str, str]) -> None:
    said = told(slurm, "srun", "-n1", sys.executable, "-m", "evo.check", "--sandbox")
    assert said.startswith(("sandbox: full", "sandbox: partial")), said
