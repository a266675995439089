"""A Slurm array is more workers of one run: on a controller and a node of one's own, started for this test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evo import slurm as array
from evo.rundir import RunDir

DATA = Path(__file__).parent / "data"
REPOSITORY = Path(__file__).resolve().parent.parent
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "srun")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
MARKS = [
    pytest.mark.slurm,
    pytest.mark.skipif("EVO_SLURM" not in os.environ, reason="make test-slurm: a controller and a node are started"),
    pytest.mark.skipif(bool(MISSING) or os.geteuid() != 0, reason=f"needs root and {', '.join(MISSING) or 'Slurm'}"),
]


def real(test: Callable) -> Callable:
    """A test on a cluster of this machine's own."""
    for mark in MARKS:
        test = mark(test)
    return test


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


@real
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


@real
def test_a_step_is_isolated_as_any_process_is(slurm: dict[str, str]) -> None:
    said = told(slurm, "srun", "-n1", sys.executable, "-m", "evo.check", "--sandbox")
    assert said.startswith(("sandbox: full", "sandbox: partial")), said


@real
def test_a_warned_task_comes_back_and_ends_the_run(slurm: dict[str, str], tmp_path: Path) -> None:
    """`evo.slurm` submits; the batch shell is sent what Slurm sends before a time limit."""
    out = tmp_path / "run"
    command = ("-m", "evo.slurm", str(out), "--array", "1", "--benchmark", "packing", "--evaluations", "120")
    job = told(slurm, sys.executable, *command, "--sbatch=--job-name=mine").split()[1].rstrip(",")
    assert job.isdigit(), job
    until = time.monotonic() + 300

    def judged() -> int:
        return sum(file.read_text().count('"event":"evaluated"') for file in (out / "events").glob("*.jsonl"))

    assert told(slurm, "squeue", "-h", "-o", "%j") == "mine"  # the user's option counts
    while judged() < 5:
        assert time.monotonic() < until, "nothing was judged"
        time.sleep(0.1)
    told(slurm, "scancel", "--batch", "--signal=USR1", f"{job}_0")
    while "Restarts=1" not in told(slurm, "scontrol", "show", "job", job):
        assert time.monotonic() < until, told(slurm, "scontrol", "show", "job", job)
        time.sleep(0.2)
    before = judged()
    assert before < 100
    told(slurm, "scontrol", "update", f"jobid={job}", "starttime=now")  # a job that is queued again waits two minutes
    while told(slurm, "squeue", "-h", "-j", job):
        assert time.monotonic() < until, f"job {job} did not end"
        time.sleep(0.5)
    log = (out / "logs").glob("slurm-*.log")
    assert judged() > before and len(list((out / "events").glob("*.jsonl"))) >= 2, "".join(f.read_text() for f in log)


def test_golden_script(monkeypatch: pytest.MonkeyPatch) -> None:
    own = ["--partition=gpu", "--time=8:00:00"]
    command = ["python", "-m", "evo.run", "--out", "/shared/a run", "--benchmark", "speedrun"]
    assert array.script(Path("/shared/a run"), 8, own, command) == (DATA / "slurm.sbatch").read_text()


@pytest.mark.parametrize(
    "code, signals, requeued",
    [(130, "USR1", True), (130, "TERM", False), (0, "USR1", False), (2, "", False), (0, "", False)],
)
def test_a_task_asks_to_come_back_only_if_it_was_warned_and_not_done(
    tmp_path: Path, code: int, signals: str, requeued: bool
) -> None:
    program = f"trap 'exit {code}' USR1 TERM; touch begun; " + ("while :; do sleep 0.02; done" if signals else ":")
    text = array.script(tmp_path, 1, [], ["bash", "-c", f"{program}; exit {code}"])
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho $@ > asked\n")
    (tmp_path / "scontrol").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
    with subprocess.Popen(["bash", "-c", text], cwd=tmp_path, env=environment) as batch:
        while signals and not (tmp_path / "begun").exists():
            time.sleep(0.01)
        if signals:
            batch.send_signal(signal.Signals[f"SIG{signals}"])
        assert batch.wait(20) == code
    assert (tmp_path / "asked").exists() == requeued
    assert not requeued or (tmp_path / "asked").read_text() == "requeue 77\n"


def test_a_dry_run_makes_nothing_and_a_mistake_is_said_before_anything_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert array.main([str(out), "--array", "3", "--benchmark", "packing", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "#SBATCH --array=0-2\n" in printed and "--benchmark packing --workers 1 &" in printed and not out.exists()
    for wrong, said in (
        (["--array", "0", "--benchmark", "packing"], "expected 1 to 1000, found 0"),
        (["--array", "2", "--benchmark", "pakcing"], "pakcing"),
        (["--array", "2", "--benchmark", "packing", "--sbatch", "gpu"], "options that begin with -"),
        (["--array", "2", "--benchmark", "packing", "--control", "aa", "--prove", "x"], "an array searches"),
    ):
        assert array.main([str(out), *wrong]) == 2
        assert said in capsys.readouterr().err and not out.exists()
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert array.main([str(out), "--array", "2", "--benchmark", "packing"]) == 2
    assert "expected sbatch on the PATH" in capsys.readouterr().err
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho '4711;cluster'\n")
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    assert array.main([str(out), "--array", "2", "--benchmark", "packing"]) == 0
    assert capsys.readouterr().out.startswith("job 4711, 2 task(s)")
    assert RunDir(out).settings().benchmark == "packing" and "--array=0-1" in (out / "slurm.sbatch").read_text()


def test_a_script_that_could_not_run_is_refused_dry_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, said in (
        (["--benchmark", "nope"], "nope"),
        ([], "name its --benchmark"),
        (["--benchmark", "packing", "--out", "elsewhere"], "expected no --out"),
    ):
        assert array.main([str(tmp_path / "run"), "--array", "2", "--dry-run", *wrong]) == 2
        told = capsys.readouterr()
        assert said in told.err and not told.out
