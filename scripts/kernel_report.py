"""Measures kernel tasks on this GPU: limit, baselines, the naive kernel, the better ones, and the judge itself.

    python scripts/kernel_report.py --out DIR [--tasks a,b] [--shard 0/2] [--seconds 400] [--side-by-side 8]

In this order, so that little time still gives something for every task: baselines and the naive kernel of all tasks,
then every kernel that the library has for them, then the baseline timed as a candidate (S must be 0.5) and the naive
kernel again.
Writes DIR/report-SHARD.json after every step, and the baselines as the judge keeps them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evo import benchmark as benchmarks
from evo import library
from evo.benchmark import settings, write_tree
from evo.genome import apply_diff
from evo.judges import baselines, kernel
from evo.sandbox import Limits, Sandbox

PRODUCTS = ("gemm", "bmm", "attn", "mlp", "block", "linear")  # where autotuning of matrix products can matter


def variants(judge):
    """Autotuning is tried on the main workload of tasks with matrix products; elsewhere it has nothing to choose."""
    main = judge.workloads[0].uuid
    product = any(word in judge.problem.name for word in PRODUCTS)
    return lambda workload: ("eager", "compile", "max") if product and workload.uuid == main else ("eager", "compile")


def judged(judge, tree):
    with tempfile.TemporaryDirectory(prefix="evo-program-") as folder:
        write_tree(tree, Path(folder))
        began = time.monotonic()
        found = judge.judge(Path(folder), stage="hand", seed=0).to_dict()
        return {**found, "wall_s": time.monotonic() - began}


class Report:
    def __init__(self, out, shard, seconds):
        self.file, self.began, self.seconds = out / f"report-{shard}.json", time.monotonic(), seconds
        self.rows = {}

    def left(self):
        return self.seconds - (time.monotonic() - self.began)

    def put(self, task, key, value):
        self.rows.setdefault(task, {})[key] = value
        self.file.write_text(json.dumps(self.rows, indent=1))
        said = value if isinstance(value, str) else json.dumps(value)
        print(f"{time.monotonic() - self.began:6.1f} {task:22} {key:18} {said[:250]}", flush=True)

    def raw(self, task, key, judge):
        """Every burst of the last measurement, to see what the noise is made of."""
        bursts = {
            uuid: {
                name: [(b.calls, round(b.microseconds), round(b.probe_us)) for b in t.bursts] for name, t in s.items()
            }
            for uuid, s in judge.seen.items()
        }
        with open(self.file.with_name(f"bursts-{self.file.stem}.jsonl"), "a") as file:
            file.write(json.dumps({"task": task, "key": key, "bursts": bursts}) + "\n")

    def step(self, task, key, action, judge=None):
        """One measurement; what goes wrong with one task must not end the others."""
        if self.left() < 0:
            return None
        try:
            value = action()
        except Exception as error:  # noqa: BLE001
            self.put(task, f"{key} failed", f"{type(error).__name__}: {error} {traceback.format_exc()[-1500:]}")
            return None
        self.put(task, key, value)
        if judge is not None:
            self.raw(task, key, judge)
        return value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", default="")
    parser.add_argument("--shard", default="0/1")
    parser.add_argument("--seconds", type=float, default=400)
    parser.add_argument("--side-by-side", type=int, default=8)
    parser.add_argument("--bursts", type=int, default=4)
    parser.add_argument("--again", type=int, default=1, help="repeats of the naive kernel at the end")
    options = parser.parse_args()
    names = sorted(p.parent.name for p in benchmarks.SHIPPED.glob("sol/tasks/*/definition.json"))
    names = options.tasks.split(",") if options.tasks else names
    shard, of = map(int, options.shard.split("/"))
    names = names[shard::of]
    report = Report(options.out, shard, options.seconds)
    first = benchmarks.load(f"sol:{names[0]}").profile("gpu")
    chosen = settings(kernel.Settings, {**first.settings, "bursts": options.bursts}, "gpu")
    limits = settings(Limits, {**first.limits, "memory_mb": None}, "gpu.limits")
    judges, techniques = {}, library.load()
    with Sandbox(preload=kernel.PRELOAD, drop_user=False, cuda=True) as sandbox:
        print(f"{time.monotonic() - report.began:6.1f} sandbox {sandbox.level.name}", flush=True)
        for name in names:
            report.step(name, "loaded", lambda name=name: judges.update(
                {name: kernel.KernelJudge(chosen, limits, benchmarks.SHIPPED / "sol" / "tasks" / name, sandbox)}
            ) or "")  # fmt: skip
        for start in range(0, len(judges), options.side_by_side):
            group = list(judges.items())[start : start + options.side_by_side]

            def warm(entry):
                name, judge = entry
                began = time.monotonic()
                return report.step(name, "warm_s", lambda: judge.warm(variants(judge)) or time.monotonic() - began)

            with ThreadPoolExecutor(len(group)) as threads:
                list(threads.map(warm, group))
            for name, judge in group:

                def measure(judge=judge):
                    found = judge.measure_baselines(variants(judge))
                    return {
                        u: {"limit_us": b.limit_us, **b.times_us, "spreads": dict(b.spreads)} for u, b in found.items()
                    }

                report.step(name, "baselines", measure, judge)
                base = benchmarks.load(f"sol:{name}").base
                report.step(name, "seed", lambda judge=judge, base=base: judged(judge, base), judge)
        for name, judge in judges.items():
            benchmark = benchmarks.load(f"sol:{name}")
            for technique in techniques:
                if technique.benchmark == benchmark.name:
                    tree = apply_diff(technique.patch.diff, benchmark.base)
                    key = f"better/{technique.name}"
                    report.step(name, key, lambda judge=judge, tree=tree: judged(judge, tree), judge)
        for name, judge in judges.items():
            report.step(name, "aa", judge.against_itself, judge)
            for k in range(options.again):
                base = benchmarks.load(f"sol:{name}").base
                report.step(name, f"seed again {k}", lambda judge=judge, base=base: judged(judge, base))
        for judge in judges.values():
            judge.close()
    table(report.rows)
    return 0


def table(rows) -> None:
    heads = ("T_SOL us", "T_b us", "by", "naive S", "best S", "A/A", "again", "overhead", "status")
    print(f"\n{'task':22}" + "".join(f"{head:>10}" for head in heads))
    naive, best = [], []
    for name, row in rows.items():
        seed = row.get("seed") or {}
        better = [v.get("score") for k, v in row.items() if k.startswith("better/") and isinstance(v, dict)]
        top = max((x for x in (seed.get("score"), *better) if x is not None), default=None)
        main = next(iter(row.get("baselines", {}).values()), {})
        times = {k: v for k, v in main.items() if k not in ("limit_us", "spreads")}
        by = min(times, key=times.get) if times else None
        naive.append(seed.get("score") or 0.0)
        best.append(top or 0.0)
        aa = statistics.fmean(row["aa"].values()) if row.get("aa") else None
        again = (row.get("seed again 0") or {}).get("score")
        overhead = (seed.get("measures") or {}).get("overhead_s")
        cells = (
            main.get("limit_us"),
            times.get(by),
            by,
            seed.get("score"),
            top,
            aa,
            again,
            overhead,
            seed.get("status"),
        )
        print(f"{name:22}" + "".join(f"{cell(value):>10}" for value in cells))
    if rows:
        print(f"mean over {len(rows)} tasks: naive {statistics.fmean(naive):.3f}, best {statistics.fmean(best):.3f}")
    print("baselines:", baselines.cache())


def cell(value) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:.{1 if value >= 10 else 3}f}"


if __name__ == "__main__":
    sys.exit(main())
