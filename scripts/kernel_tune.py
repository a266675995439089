"""Tries constants of a task's library kernel on this GPU, timed by device events, and keeps the best.

    python scripts/kernel_tune.py --out DIR [--tasks a,b] [--shard 0/2] [--side-by-side 6] [--seconds 60] [--device cpu]

What is tried stands in kernel_tries.txt: block sizes, warps, stages. Each task in a process of its own: compiling runs
side by side, timing in turns (the judge's own, so that a judge may work meanwhile). Writes DIR/TASK.jsonl, a line a try
with microseconds by workload, and DIR/TASK.json: the best, its constants and its text. What is kept is judged
elsewhere: nothing here is a score.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from evo import benchmark as benchmarks
from evo import library, problem, sol
from evo.carry import constants
from evo.genome import apply_diff
from evo.hostlock import turn
from evo.judges import baselines, kernel

REPEATS = 9
FLUSH_MB = 256
WORTH = 1.005  # a change that gains less is left out of combinations


def tries() -> dict[str, list[dict[str, int]]]:
    """By task what is tried, as constants and their values, from kernel_tries.txt."""
    found: dict[str, list[dict[str, int]]] = {}
    for line in Path(__file__).with_name("kernel_tries.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            task, _, rest = line.partition(": ")
            names, _, values = rest.partition(" = ")
            rows = [dict(zip(names.split(), map(int, row.split()), strict=True)) for row in values.split(" | ")]
            found.setdefault(task, []).extend(rows)
    return found


def changed(source: str, wanted: dict) -> str:
    """The source with these of its constants set; every one must be there."""
    lines, found = source.splitlines(keepends=True), constants(source)
    for name, value in wanted.items():
        before, at = found[name]
        lines[at] = lines[at].replace(before, str(value), 1)
    return "".join(lines)


class Bench:
    """One task: its workloads, how long a kernel takes on them by device events, and what that would score."""

    def __init__(self, name: str, device: str) -> None:
        import torch

        self.torch, self.device = torch, device
        self.problem = problem.load(benchmarks.SHIPPED / "sol" / "tasks" / name)
        self.task = self.problem.task()
        self.workloads = self.problem.small if device == "cpu" else self.problem.workloads
        card = "cpu" if device == "cpu" else torch.cuda.get_device_name()
        self.frozen = baselines.frozen(self.problem, card) if device == "cuda" else None
        self.flush = torch.empty(FLUSH_MB << 20, dtype=torch.uint8, device=device)
        self.right: list = []

    def drawn(self, workload):
        self.torch.manual_seed(1)
        return self.task.inputs(workload, self.device, "plain")

    def outputs(self, workload):
        d = self.problem.definition
        sizes = d.sizes(workload.axes)
        return [
            self.torch.zeros(d.shape(spec, sizes), dtype=getattr(self.torch, spec.dtype), device=self.device)
            for spec in d.outputs.values()
        ]

    def once(self, run) -> None:
        """Compiles for every workload; raises ValueError where the main one's outputs are far from the first try's."""
        for n, workload in enumerate(self.workloads):
            inputs, outputs = self.drawn(workload), self.outputs(workload)
            run(*inputs.values(), *outputs)
            if n == 0:
                for x, y in zip(outputs, self.right):
                    x, y = x.double(), y.double()
                    off = float((x - y).square().mean().sqrt() / y.square().mean().sqrt())
                    if not off < 0.05:
                        raise ValueError(f"off by {off:.3g} of the output's size")
                self.right = self.right or outputs
            del inputs, outputs
        if self.device == "cuda":
            self.torch.cuda.synchronize()
            self.torch.cuda.empty_cache()

    def time(self, run) -> dict:
        """Median microseconds by workload, caches cold; all runs of a try in one turn of the card."""
        torch, found = self.torch, {}
        with turn(alone=True, folder=kernel.card(self.device)):
            for workload in self.workloads:
                inputs, outputs = [*self.drawn(workload).values()], self.outputs(workload)
                if self.device == "cpu":
                    began = time.perf_counter()
                    run(*inputs, *outputs)
                    found[workload.uuid] = 1e6 * (time.perf_counter() - began)
                    continue
                run(*inputs, *outputs)
                marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(REPEATS)]
                for begin, end in marks:
                    self.flush.zero_()
                    begin.record()
                    run(*inputs, *outputs)
                    end.record()
                torch.cuda.synchronize()
                found[workload.uuid] = 1e3 * statistics.median(b.elapsed_time(e) for b, e in marks)
            if self.device == "cuda":
                torch.cuda.empty_cache()
        return found

    def worth(self, us: dict, first: dict) -> float:
        """Mean S where baselines are known, else how much faster than the first try: larger is better."""
        if self.frozen:
            rows = [(us[u], b.limit_us, b.best_us) for u, b in self.frozen.items()]
            return statistics.fmean(sol.score(*row) for row in rows)
        return statistics.geometric_mean(first[u] / us[u] for u in us)


def loaded(source: str, folder: Path, number: int):
    file = folder / f"try_{number}.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run


def tune(name: str, out: Path, device: str, seconds: float, alternatives: Path | None) -> None:
    file = alternatives / f"{name}.py" if alternatives else None
    alternative = file.read_text() if file is not None and file.is_file() else None
    began = time.monotonic()
    base = benchmarks.load(f"sol:{name}").base
    technique = next(t for t in library.load() if t.benchmark == f"sol-{name}")
    source = apply_diff(technique.patch.diff, base)["kernel.py"]
    bench = Bench(name, device)

    def say(wanted, **found):
        line = json.dumps({"task": name, "set": wanted, "at": round(time.monotonic() - began, 1), **found})
        with open(out / f"{name}.jsonl", "a") as log:
            log.write(line + "\n")

    results, number = [], itertools.count()
    with tempfile.TemporaryDirectory() as folder:

        def tried(wanted, text=source, other=False):
            text = changed(text, wanted)
            wanted = {**wanted, "ALTERNATIVE": 1} if other else wanted
            try:
                run = loaded(text, Path(folder), next(number))
                bench.once(run)
                us = bench.time(run)
            except Exception as error:  # noqa: BLE001
                say(wanted, failed=f"{type(error).__name__}: {error}"[:200])
                return
            results.append((bench.worth(us, results[0][2] if results else us), wanted, us, text))
            say(wanted, worth=results[-1][0], us=us)
            best = max(results, key=lambda r: r[0])
            (out / f"{name}.json").write_text(
                json.dumps({"set": best[1], "worth": best[0], "us": best[2], "source": best[3]})
            )

        tried({})
        if alternative is not None:
            for wanted in [{}, *tries()[name]]:
                if time.monotonic() - began < 0.6 * seconds:
                    tried(wanted, alternative, other=True)
        for wanted in tries()[name]:
            if time.monotonic() - began < seconds:
                tried(wanted)
        joined: dict = {}
        for worth, wanted, *_ in sorted(results[1:], key=lambda r: -r[0]):
            if worth > WORTH * results[0][0] and not set(wanted) & set(joined) and "ALTERNATIVE" not in wanted:
                joined |= wanted
        if time.monotonic() - began < seconds and joined and all(joined != r[1] for r in results):
            tried(joined)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", default="")
    parser.add_argument("--shard", default="0/1")
    parser.add_argument("--side-by-side", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument(
        "--alternatives", type=Path, help="a folder of other kernels, TASK.py, tried with the same values"
    )
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.one:
        tune(options.tasks, options.out, options.device, options.seconds, options.alternatives)
        return 0
    shard, of = map(int, options.shard.split("/"))
    waiting = options.tasks.split(",") if options.tasks else sorted(tries())[shard::of]
    began, running = time.monotonic(), []
    environment = {**os.environ, **({"TRITON_INTERPRET": "1"} if options.device == "cpu" else {})}
    while waiting or running:
        left = options.seconds - (time.monotonic() - began)
        while waiting and len(running) < options.side_by_side and left > 0:
            share = left / (1 + (len(waiting) - 1) // options.side_by_side)
            given = ["--one", "--out", str(options.out), "--tasks", waiting.pop(0), "--device", options.device]
            given += ["--alternatives", str(options.alternatives)] if options.alternatives else []
            command = [sys.executable, __file__, *given, "--seconds", f"{share:.1f}"]
            running.append(subprocess.Popen(command, env=environment))
        for process in [p for p in running if p.poll() is not None or left < -10]:
            process.kill()  # one that hangs while it compiles keeps what it found so far
            process.wait()
            running.remove(process)
        if left < -10:
            break
        time.sleep(0.2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
