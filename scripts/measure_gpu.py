"""Judges what a plan lists, several at once on this host's GPUs, and prints paired differences to the base.

    python scripts/measure_gpu.py PLAN [--workers 4] [--minutes 10] [--out FILE]

A line of the plan: benchmark, profile, what, seed. `what` is base, a technique of genomes/ or a folder with a program.
Lines are taken in order; none is begun that would not end in time. The first line must pass, or nothing more is tried.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import queue
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from evo import benchmark as benchmarks  # noqa: E402
from evo import library  # noqa: E402
from evo.chance import number  # noqa: E402
from evo.genome import PatchError, Tree, apply_diff  # noqa: E402
from evo.judges import open_judge  # noqa: E402
from evo.sandbox import NoIsolation  # noqa: E402

AROUND_S = 18.0  # building, scoring and compiling from a warm cache, beside the timed section


def tree_of(benchmark: benchmarks.Benchmark, what: str) -> Tree:
    if what == "base":
        return benchmark.base
    if Path(what).is_dir():
        return benchmarks.read_tree(Path(what))
    technique = next(t for t in library.load() if t.name == what)
    return apply_diff(technique.patch.diff, benchmark.base)


def work(tasks, results, deadline: float) -> None:
    """One process: takes tasks until none is left or the time is up; a judge for each benchmark that it meets."""
    with contextlib.ExitStack() as held:
        judges: dict = {}
        while True:
            try:
                name, profile_name, what, seed = tasks.get_nowait()
            except queue.Empty:
                return
            told = {"benchmark": name, "profile": profile_name, "what": what, "seed": seed}
            try:
                benchmark = benchmarks.load(name, profile_name)
                profile = benchmark.profile(profile_name)
                if time.time() + profile.settings["cap_s"] * 0.75 + AROUND_S > deadline:
                    continue
                tree = tree_of(benchmark, what)
                if (name, profile_name) not in judges:
                    judges[name, profile_name] = held.enter_context(open_judge(benchmark, profile))
                began = time.time()
                with tempfile.TemporaryDirectory() as folder:
                    benchmarks.write_tree(tree, Path(folder))
                    outcome = judges[name, profile_name].judge(
                        Path(folder), stage="measure", seed=number("measure", seed) % 2**31
                    )
            except (PatchError, StopIteration, benchmarks.UserMistake, NoIsolation, OSError) as error:
                results.put({**told, "status": "not judged", "detail": f"{type(error).__name__}: {error}"})
                continue
            results.put(
                {**told, "status": outcome.status.value, "score": outcome.score, "measures": dict(outcome.measures),
                 "detail": outcome.detail[-600:], "began": began, "ended": time.time()}
            )  # fmt: skip


def differences(found: list[dict]) -> list[str]:
    """A line for everything that was judged: mean difference to the base at equal seeds, for loss and private loss."""
    passed = {(r["benchmark"], r["profile"], r["what"], r["seed"]): r["measures"] for r in found if r.get("score")}
    lines = []
    for key in dict.fromkeys(k[:3] for k in passed):
        own = {seed: m for (*k, seed), m in passed.items() if tuple(k) == key}
        text = f"{key[0]} {key[1]} {key[2]:<32} n={len(own)}"
        for name in ("loss", "private_loss"):
            if key[2] == "base":
                values = [m[name] for m in own.values()]
            else:
                pairs = [(m, passed.get((*key[:2], "base", seed))) for seed, m in own.items()]
                values = [m[name] - base[name] for m, base in pairs if base is not None]
            if values:
                sd = f" sd {statistics.stdev(values):.4f}" if len(values) > 1 else ""
                text += f"  {name} {statistics.mean(values):+.4f}{sd}"
        lines.append(text)
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--workers", type=int, default=2, help="two for each GPU keep it busy")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, help="one JSON object a line")
    options = parser.parse_args(arguments)
    context = multiprocessing.get_context("spawn")
    tasks, results = context.Queue(), context.Queue()
    lines = [line.split() for line in options.plan.read_text().splitlines() if line.strip()]
    for name, profile, what, seed in lines:
        tasks.put((name, profile, what, int(seed)))
    began = time.time()
    deadline = began + 60 * options.minutes
    time.sleep(0.5)  # a queue fills in the background; an empty one means that all is done
    crew = [context.Process(target=work, args=(tasks, results, deadline), daemon=True) for _ in range(options.workers)]
    for process in crew:
        process.start()
    found: list[dict] = []
    with open(options.out or "/dev/null", "a") as out:
        while time.time() < deadline + 30 and (any(p.is_alive() for p in crew) or not results.empty()):
            try:
                result = results.get(timeout=0.5)
            except queue.Empty:
                continue
            found.append(result)
            print(json.dumps(result), file=out, flush=True)
            measures = "  ".join(f"{k} {v:.4g}" for k, v in result.get("measures", {}).items())
            label = " ".join(str(result[key]) for key in ("benchmark", "profile", "what", "seed", "status"))
            print(
                f"[{time.time() - began:.0f}s] {label} {result.get('score')}  {measures} {result['detail']}", flush=True
            )
            first = [r for r in found if list(r.values())[:4] == [*lines[0][:3], int(lines[0][3])]]
            if first and first[0]["status"] != "PASSED":
                print("the first line of the plan did not pass: stopped")
                break
    for process in crew:
        process.terminate()
    timed = sum(r["measures"].get("wall_s", 0) for r in found if "measures" in r)
    spans = [(r["began"], r["ended"]) for r in found if "began" in r]
    if spans:
        span = max(e for _, e in spans) - min(b for b, _ in spans)
        print(f"{timed:.0f} s timed in {span:.0f} s of {options.workers} workers")
    print("\n".join(differences(found)))
    return 0 if found and all(r["status"] == "PASSED" for r in found) else 1


if __name__ == "__main__":
    sys.exit(main())
