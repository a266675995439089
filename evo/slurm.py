"""`python -m evo.slurm DIR --array N`: a run as a Slurm array. Every task of it joins the run as more workers.

    python -m evo.slurm DIR --array N [--sbatch OPTIONS] [--dry-run] [options of evo.run]

The run directory is made here, so that a mistake is said at once and not in N logs. Tasks that come late, or come back,
find what is left of the budget. A task that Slurm warns of its time limit lets its workers finish what they judge and
asks to be queued again.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from evo import benchmark as benchmarks
from evo import run
from evo.benchmark import UserMistake
from evo.rundir import RunDir, write_text

WARNING_S = 180  # before a task's time limit
TASKS = 1000


def script(directory: Path, array: int, sbatch: Sequence[str], command: Sequence[str]) -> str:
    """What sbatch gets. Of two equal options the later one counts, so the user's own come last."""
    mine = [
        f"--job-name={shlex.quote(f'evo-{directory.name}')}",
        f"--array=0-{array - 1}",
        f"--output={shlex.quote(f'{RunDir(directory).logs}/slurm-%A-%a.log')}",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{WARNING_S}",
    ]
    lines = "\n".join(f"#SBATCH {option}" for option in [*mine, *sbatch])
    return f"""#!/bin/bash
# Written by evo.slurm: every task of this array joins the run as more workers.
{lines}
{shlex.join(command)} &
run=$!
trap 'warned=yes; kill -USR1 $run' USR1   # of the time limit: finish what is being judged
trap 'kill -TERM $run' TERM
wait $run; status=$?
while [ $status = 138 ] || [ $status = 143 ]; do wait $run; status=$?; done   # a wait ends when a trap has run
if [ "$warned" ] && [ $status = {run.EXIT_INTERRUPTED} ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $status
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m evo.slurm",
        description="A run as a Slurm array; options that are not listed here are those of evo.run.",
        allow_abbrev=False,
    )
    parser.add_argument("dir", type=Path, help="the run directory, on a file system that all nodes share")
    parser.add_argument("--array", type=int, required=True, metavar="N", help="tasks")
    parser.add_argument("--sbatch", default="", metavar="OPTIONS", help="for sbatch: '--partition=gpu --gres=gpu:1'")
    parser.add_argument("--dry-run", action="store_true", help="print the script, make and submit nothing")
    found, rest = parser.parse_known_args(arguments)
    try:
        print(submitted(found, rest))
    except UserMistake as mistake:
        print(f"evo.slurm: {mistake}", file=sys.stderr)
        return run.EXIT_MISTAKE
    return 0


def submitted(found: argparse.Namespace, rest: Sequence[str]) -> str:
    """The job's number and what to do next; of a dry run the script alone."""
    if not 1 <= found.array <= TASKS:
        raise UserMistake(f"--array: expected 1 to {TASKS}, found {found.array}")
    try:
        own = shlex.split(found.sbatch)
    except ValueError as error:
        raise UserMistake(f"--sbatch: expected options as a shell splits them, found {found.sbatch!r}") from error
    if odd := [option for option in own if not option.startswith("-") or "\n" in option]:
        raise UserMistake(f"--sbatch: expected options that begin with -, values behind =, found '{odd[0]}'")
    directory = found.dir.resolve()
    given = ["--out", str(directory), *rest]
    if any(option.partition("=")[0] == "--out" for option in rest):
        raise UserMistake(f"the run directory is named once, as DIR: expected no --out beside {found.dir}")
    asked = run.options(given)
    if asked.benchmark is None and not RunDir(directory).exists():
        raise UserMistake(f"{found.dir} is not a run yet; name its --benchmark")
    if asked.benchmark is not None:
        benchmarks.load(asked.benchmark, asked.profile)
    if asked.certify or asked.prove:
        raise UserMistake("an array searches; run --certify and --prove as evo.run in a job of their own")
    workers = [] if asked.workers else ["--workers", "1"]
    command = [sys.executable, "-m", "evo.run", *given, *workers]
    text = script(directory, found.array, [shlex.quote(option) for option in own], command)
    if found.dry_run:
        return text.rstrip("\n")
    asked.role = "propose"  # the device is on the nodes, not here
    run.prepared(asked)
    file = directory / "slurm.sbatch"
    write_text(file, text)
    try:
        done = subprocess.run(["sbatch", "--parsable", str(file)], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise UserMistake("expected sbatch on the PATH, found none; --dry-run prints what it would get") from error
    if done.returncode:
        raise UserMistake(f"sbatch refused {file}: {done.stderr.strip()}")
    job = done.stdout.strip().partition(";")[0]
    after = f"python -m evo.inspect {shlex.quote(str(directory))}"
    return f"job {job}, {found.array} task(s); squeue --array -j {job} shows them, {after} what they found"


if __name__ == "__main__":
    sys.exit(main())
