"""Kills a run's worker with SIGKILL at random moments and compares what is left with an undisturbed run.

    python scripts/kill_workers.py [--kills 50] [--evaluations 150]

The benchmark is a deterministic `answer` program, so that the resumed run must end in the same archive, to the last
digit. After every kill the facts that were synced before are looked for; none may be missing.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure_engine import PROGRAM, TOML, VERIFY

from evo import inspect, journal, search
from evo.rundir import RunDir


def begin(root: Path, out: Path, evaluations: int) -> None:
    """Writes the run directory by interrupting an `evo.run` before its first evaluation is over."""
    command = [sys.executable, "-m", "evo.run", "--benchmark", str(root), "--out", str(out), "--workers", "1"]
    run = subprocess.Popen([*command, "--evaluations", str(evaluations)], stderr=subprocess.DEVNULL)
    while not RunDir(out).exists():
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    run.wait()


def worker(out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "evo.worker", str(out)])


def facts(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes().rpartition(b"\n")[0] for file in RunDir(out).events.glob("*.jsonl")}


def state_of(out: Path) -> search.State:
    return inspect.opened(out)[3]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--evaluations", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "trivial"
        (root / "program").mkdir(parents=True)
        (root / "program" / "solve.py").write_text(PROGRAM)
        (root / "verify.py").write_text(VERIFY)
        (root / "benchmark.toml").write_text(TOML)
        calm, killed = Path(place) / "calm", Path(place) / "killed"
        for out in (calm, killed):
            begin(root, out, options.evaluations)
        worker(calm).wait()
        missing = kills = 0
        while kills < options.kills:
            process = worker(killed)
            time.sleep(chance.uniform(0.15, 0.15 + 0.12 * options.evaluations / options.kills + 0.6))
            if process.poll() is not None:
                break
            before = facts(killed)
            process.kill()
            process.wait()
            kills += 1
            after = facts(killed)
            missing += sum(not after[name].startswith(text) for name, text in before.items())
        worker(killed).wait()
        one, two = state_of(calm), state_of(killed)
        same = {
            "evaluated": one.used == two.used,
            "elites": one.archive.elites() == two.archive.elites(),
            "front": one.archive.front() == two.archive.front(),
            "proposals": set(one.proposals) == set(two.proposals),
            "champion": (c1 := one.champion()) == (c2 := two.champion()) or (c1 and c2 and c1.genome == c2.genome),
        }
        files = len(list(RunDir(killed).events.glob("*.jsonl")))
        tasks = [
            e.event.task for e in journal.Journals(RunDir(killed).events).new_entries() if e.event.kind == "evaluated"
        ]
        print(f"{kills} kills, {files} journals, {two.used} evaluations, {missing} synced facts missing")
        print(f"judged twice: {len(tasks) - len(set(tasks))}; same as undisturbed: {same}")
        return 0 if all(same.values()) and not missing else 1


if __name__ == "__main__":
    sys.exit(main())
