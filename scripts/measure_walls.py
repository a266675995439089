"""Measures the walls: what a sandbox costs, what a hostile neighbour changes, what a damaged message does.

    python scripts/measure_walls.py start [--runs 100]
    python scripts/measure_walls.py neighbours [--rounds 4] [--benchmark packing] [--honest 4]
    python scripts/measure_walls.py messages [--runs 1000] [--seed 0]

`neighbours`: four honest programs at once, alone and beside a fork bomb, an allocation of 10 GB, a printer of
100 MB/s and one that fills its disk. `messages`: one random bit of what a candidate's process sends is flipped, or the
message ends there; the real judges, real sandboxes, one evaluation each. Four fifths of the runs go to packing, the
rest to speedrun; `--seed` draws other bits, so that a thousand can be had in pieces.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import math
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evo import benchmark as benchmarks
from evo.judges import on_disk, open_judge
from evo.outcome import Outcome, Status
from evo.sandbox import Limits, Sandbox, Turn, probe

HOSTILE = {
    "fork bomb": "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n",
    "10 GB": "kept = []\nfor _ in range(160):\n    kept.append(bytearray(b'x') * (64 << 20))\n",
    "printer": "import os\nwhile True:\n    os.write(1, b'x' * 65536)\n",
    "disk": "for n in range(10**6):\n    open(f'/scratch/{n % 4}', 'ab').write(bytes(1 << 20))\n",
}


def spread(values: list[float]) -> str:
    return (
        f"median {statistics.median(values):.1f}, 5 to 95% {quantile(values, 0.05):.1f} to {quantile(values, 0.95):.1f}"
    )


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def start(runs: int) -> None:
    """A plain interpreter and a sandbox, alternately, each from the request to its first byte."""
    print(probe().describe())
    with tempfile.TemporaryDirectory() as place, Sandbox() as plain, Sandbox(preload=("numpy", "torch")) as torch:
        folder = Path(place)
        folder.chmod(0o755)
        (folder / "byte.py").write_text("import os\nos.write(3, b'x')\n")
        times: dict[str, list[float]] = collections.defaultdict(list)
        for _ in range(runs):
            began = time.perf_counter()
            with subprocess.Popen([sys.executable, "-I", "-c", "print()"], stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                process.stdout.read(1)
                times["interpreter alone"].append(1e3 * (time.perf_counter() - began))
            for name, sandbox in (("sandbox", plain), ("sandbox, torch preloaded", torch)):
                began = time.perf_counter()
                with sandbox.start(
                    folder / "byte.py", program=folder, guest=folder, limits=Limits(wall_s=60, memory_mb=4096)
                ) as turn:
                    turn.channel.recv(1)
                    times[name].append(1e3 * (time.perf_counter() - began))
    for name, found in times.items():
        print(f"{name}: ms to the first byte: {spread(found)} (n = {runs})")


def neighbours(rounds: int, name: str, honest_ones: int) -> None:
    benchmark = benchmarks.load(name)
    profile = benchmark.profile("smoke" if name == "speedrun" else None)
    if benchmark.judge == "answer":  # a deadline on the wall clock is missed beside others: the score is looked at
        limits = {**profile.limits, "wall_s": 120.0}
        settings = {**profile.settings, "seconds": 120.0, "verify_s": 120.0}
        profile = dataclasses.replace(profile, settings=settings, limits=limits)
    scores: dict[str, list[float]] = {"alone": [], "beside": []}
    ends: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in HOSTILE}
    ended = threading.Event()

    with tempfile.TemporaryDirectory() as place, open_judge(benchmark, profile) as judge, Sandbox() as hostile:
        folder = Path(place)
        folder.chmod(0o755)
        for name, code in HOSTILE.items():
            (folder / f"{name.split()[0]}.py").write_text(code)

        def harm(name: str) -> None:
            while not ended.is_set():
                limits = Limits(wall_s=3, children=name == "fork bomb")
                script = folder / f"{name.split()[0]}.py"
                with hostile.start(script, program=folder, guest=folder, limits=limits) as turn:
                    ends[name][str(turn.ending(None))] += 1

        def honest(seed: int) -> float:
            with on_disk(benchmark.base) as program:
                outcome = judge.judge(program, stage="check", seed=seed)
            assert outcome.score is not None, outcome
            return math.log(outcome.score) if benchmark.objective.gain == "log-ratio" else outcome.score

        for number in range(rounds):
            for kind in ("alone", "beside") if number % 2 == 0 else ("beside", "alone"):
                ended.clear()
                threads = [threading.Thread(target=harm, args=(name,)) for name in HOSTILE if kind == "beside"]
                for thread in threads:
                    thread.start()
                with ThreadPoolExecutor(honest_ones) as pool:
                    scores[kind] += pool.map(honest, range(honest_ones * number, honest_ones * (number + 1)))
                ended.set()
                for thread in threads:
                    thread.join()
    for kind, found in scores.items():
        mean, sd = statistics.mean(found), statistics.stdev(found)
        what = f"{'log of ' if benchmark.objective.gain == 'log-ratio' else ''}{benchmark.objective.name}"
        print(f"{kind}: {what} {mean:+.3f}, sd {sd:.3f} (n = {len(found)})")
    pairs = [b - a for a, b in zip(scores["alone"], scores["beside"])]
    error = statistics.stdev(pairs) / math.sqrt(len(pairs))
    print(f"beside - alone on the same seeds: {statistics.mean(pairs):+.6f} +- {error:.6f} (standard error)")
    for name, counts in ends.items():
        print(f"{name}: {dict(counts)}")


class Damage(threading.Thread):
    """Stands between a candidate and its judge; one bit of one turn's stream is flipped, or the stream ends there."""

    def __init__(self, turn: Turn, at: int | None, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self.theirs, self.at, self.chance, self.passed = turn.channel, at, chance, 0
        turn.channel, self.ours = socket.socketpair()
        threading.Thread(target=self.forward, daemon=True).start()
        self.start()

    def forward(self) -> None:
        """What the judge says goes on as it is, descriptors included."""
        try:
            while True:
                data, fds, _, _ = socket.recv_fds(self.ours, 1 << 16, 1)
                if not data:
                    return
                if fds:
                    socket.send_fds(self.theirs, [data], fds)
                    socket.close(fds[0])
                else:
                    self.theirs.sendall(data)
        except OSError:
            return

    def run(self) -> None:
        try:
            while data := bytearray(self.theirs.recv(1 << 16)):
                place = -1 if self.at is None else self.at - self.passed
                self.passed += len(data)
                if 0 <= place < len(data):
                    if self.chance.random() < 0.3:
                        self.ours.sendall(data[:place])
                        break
                    data[place] ^= 1 << self.chance.randrange(8)
                self.ours.sendall(data)
        except OSError:
            pass
        self.ours.close()


@contextmanager
def damaged(sandbox: Any, role: str | None, at: int | None, chance: random.Random) -> Iterator[list[Damage]]:
    """The sandbox's turns go through `Damage`; `at` applies to the first turn whose arguments hold `role`."""
    begin = sandbox.start
    made: list[Damage] = []

    def start(*words: Any, **more: Any) -> Turn:
        turn: Turn = begin(*words, **more)
        hit = not any(d.at is not None for d in made) and (role is None or role in more.get("arguments", ()))
        made.append(Damage(turn, at if hit else None, chance))
        close = turn.close

        def closing() -> None:
            made[-1].theirs.close()
            close()

        turn.close = closing  # type: ignore[method-assign]
        return turn

    sandbox.start = start
    try:
        yield made
    finally:
        sandbox.start = begin


def measured(outcome: Outcome) -> float:
    """What has no noise: the loss of a trained model, the score of an answer."""
    assert outcome.score is not None
    return outcome.measures.get("loss", outcome.score)


def messages(runs: int, seed: int) -> None:
    chance = random.Random(seed)
    small = {"windows": 32, "private_windows": 32, "train_tokens": 12_288, "band": 0.6, "cap_s": 0.8}
    cases: tuple[tuple[str, str, dict[str, Any], tuple[str | None, ...], int], ...] = (
        ("packing", "cpu", {"seconds": 0.7, "verify_s": 0.7}, (None,), runs - runs // 5),
        ("speedrun", "smoke", small, ("train", "score"), runs // 5),
    )
    for name, profile_name, changes, roles, count in cases:
        benchmark = benchmarks.load(name)
        profile = benchmark.profile(profile_name)
        limits = {**profile.limits, "wall_s": 6.0}  # a message that claims to be longer is waited for
        profile = dataclasses.replace(profile, settings={**profile.settings, **changes}, limits=limits)
        found: collections.Counter[str] = collections.Counter()
        moved: list[float] = []
        with open_judge(benchmark, profile) as opened, on_disk(benchmark.base) as program:
            judge: Any = opened
            judge.secret = b"fixed"
            sizes: dict[str | None, int] = {}
            for role in roles:
                with damaged(judge.sandbox, role, None, chance) as made:
                    honest = judge.judge(program, stage="check", seed=1)
                assert honest.score is not None, honest
                sizes[role] = made[0 if role != "score" else 1].passed
            for number in range(count):
                role = roles[number % len(roles)]
                # Half of the places in the first hundred bytes, where headers are.
                at = chance.randrange(100 if chance.random() < 0.5 else sizes[role])
                with damaged(judge.sandbox, role, at, chance):
                    outcome = judge.judge(program, stage="check", seed=1)
                found[outcome.status.value] += 1
                if outcome.status is Status.PASSED:
                    moved.append(measured(outcome) - measured(honest))
        what = "loss" if name == "speedrun" else "score"
        print(f"{name}: {count} damaged messages: {dict(found)}")
        if moved:
            print(f"  of those that passed: {what} moved by {min(moved):+.6f} to {max(moved):+.6f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("start", "neighbours", "messages"))
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--benchmark", default="speedrun", help="of the honest neighbours")
    parser.add_argument("--honest", type=int, default=4, metavar="N", help="at once")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="evo-walls-"))
    place.chmod(0o755)
    tempfile.tempdir = str(place)
    try:
        {
            "start": lambda: start(options.runs or 100),
            "neighbours": lambda: neighbours(options.rounds, options.benchmark, options.honest),
            "messages": lambda: messages(options.runs or 1000, options.seed),
        }[options.what]()
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
