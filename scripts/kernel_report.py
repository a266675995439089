"""Measures kernel tasks on this GPU: limit, baselines, the naive kernel, the library's, the judge itself; certifies.

    python scripts/kernel_report.py --out DIR [--tasks a,b] [--shard 0/2] [--seconds 400] [--side-by-side 8]
                                    [--tuned DIR] [--certify-until 500] [--anew] [--device cpu]

In this order, so that little time still gives something for every task: baselines where none are frozen (`--anew`: of
all), then the naive kernel and the library's as the first pair of a certification, then the baseline timed as a
candidate (S must be 0.5), then further pairs until a task is certified. `--tuned DIR` is what kernel_tune.py found; its
constants are set in the library's kernel. Writes DIR/report-SHARD.json after every step.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evo import benchmark as benchmarks
from evo import certify, library
from evo.benchmark import settings, write_tree
from evo.events import Evaluated, Task
from evo.genome import apply_diff
from evo.judges import baselines, fingerprint_id, kernel
from evo.outcome import Outcome
from evo.sandbox import Limits, Sandbox

PRODUCTS = ("gemm", "bmm", "attn", "mlp", "block", "linear")  # where autotuning of matrix products can matter


def variants(judge):
    """Autotuning is tried on the main workload of tasks with matrix products; elsewhere it has nothing to choose."""
    main = judge.workloads[0].uuid
    product = any(word in judge.problem.name for word in PRODUCTS)
    return lambda workload: ("eager", "compile", "max") if product and workload.uuid == main else ("eager", "compile")


def needed(judge):
    """What must be compiled to judge against frozen baselines: what paces, and what is timed as a candidate."""
    frozen = judge.frozen
    return lambda workload: sorted({frozen[workload.uuid].pacer, frozen[workload.uuid].best})


def judged(judge, tree):
    with tempfile.TemporaryDirectory(prefix="evo-program-") as folder:
        write_tree(tree, Path(folder))
        Path(folder).chmod(0o755)
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


def better(name, tuned):
    """The library's kernel of a task, with the constants that tuning found."""
    benchmark = benchmarks.load(f"sol:{name}")
    technique = next((t for t in library.load() if t.benchmark == benchmark.name), None)
    if technique is None:
        return None
    tree = apply_diff(technique.patch.diff, benchmark.base)
    file = tuned / f"{name}.json" if tuned else None
    if file is not None and file.is_file():
        tree = {**tree, "kernel.py": json.loads(file.read_text())["source"]}
    return tree


def pair(report, name, judge, trees, k, chance):
    """Both sides of pair k in random order, as a certification judges them; None where a side failed to run."""
    sides, prints = {}, fingerprint_id(judge.fingerprint())
    for side in chance.sample(sorted(trees), len(trees)):
        found = report.step(name, f"{side} {k}", lambda side=side: judged(judge, trees[side]), judge)
        if found is None:
            return None
        outcome = Outcome.from_dict({key: found[key] for key in found if key != "wall_s"})
        sides[side] = Evaluated(Task(side, f"certify0-{name}", k), outcome, found["wall_s"], prints)
    return certify.PairResult(sides["better"], sides["naive"]) if len(sides) == 2 else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", default="")
    parser.add_argument("--shard", default="0/1")
    parser.add_argument("--seconds", type=float, default=400)
    parser.add_argument("--side-by-side", type=int, default=8)
    parser.add_argument("--tuned", type=Path)
    parser.add_argument("--wait-for", type=Path, help="a file that says that nothing else uses this GPU any more")
    parser.add_argument("--certify-until", type=float, default=0, help="seconds; begin no further pairs later")
    parser.add_argument("--anew", action="store_true", help="measure baselines that are frozen, too")
    parser.add_argument("--device", default="gpu", choices=("gpu", "cpu"), help="cpu: tries the script itself")
    options = parser.parse_args()
    names = sorted(p.parent.name for p in benchmarks.SHIPPED.glob("sol/tasks/*/definition.json"))
    shard, of = map(int, options.shard.split("/"))
    names = options.tasks.split(",") if options.tasks else names[shard::of]
    report = Report(options.out, shard, options.seconds)
    first = benchmarks.load(f"sol:{names[0]}")
    profile = first.profile(options.device)
    chosen = settings(kernel.Settings, profile.settings, options.device)
    limits = settings(Limits, {**profile.limits, "memory_mb": None}, "limits")
    cuda, judges, chance = options.device == "gpu", {}, random.Random(shard)
    with Sandbox(preload=kernel.PRELOAD, drop_user=False, cuda=cuda) as sandbox:
        print(f"{time.monotonic() - report.began:6.1f} sandbox {sandbox.level.name}", flush=True)
        for name in names:
            report.step(name, "loaded", lambda name=name: judges.update(
                {name: kernel.KernelJudge(chosen, limits, benchmarks.SHIPPED / "sol" / "tasks" / name, sandbox)}
            ) or "")  # fmt: skip

        def warm(entry):
            name, judge = entry
            began = time.monotonic()
            which = needed(judge) if judge.frozen and not options.anew else variants(judge)
            return report.step(name, "warm_s", lambda: judge.warm(which) or round(time.monotonic() - began, 1))

        # Those without baselines compile longest: they begin first and are waited for last.
        slowest_first = sorted(judges.items(), key=lambda entry: entry[1].frozen is not None)
        threads = ThreadPoolExecutor(options.side_by_side)
        warmed = {entry[0]: threads.submit(warm, entry) for entry in slowest_first} if cuda else {}
        while options.wait_for and not options.wait_for.exists() and report.left() > 0:
            time.sleep(0.2)
        kernels, pairs, verdicts = {}, {name: [] for name in judges}, {}
        for name, judge in reversed(slowest_first):
            if name in warmed:
                warmed[name].result()

            def measure(judge=judge):
                found = judge.frozen
                if options.anew or not found:
                    with judge.alone():
                        found = judge.measure_baselines(variants(judge)) or {}
                return {u: {"limit_us": b.limit_us, **b.times_us, "spreads": dict(b.spreads)} for u, b in found.items()}

            report.step(name, "baselines", measure)
            naive = benchmarks.load(f"sol:{name}").base
            tree = report.step(name, "constants", lambda name=name: better(name, options.tuned) is not None)
            kernels[name] = {"naive": naive, **({"better": better(name, options.tuned)} if tree else {})}
            if found := pair(report, name, judge, kernels[name], 0, chance):
                pairs[name].append(found)
        for name, judge in judges.items():
            if cuda and judge.frozen:

                def again(judge=judge):
                    with judge.alone():
                        return judge.against_itself()

                report.step(name, "aa", again, judge)
        noise = profile.noise
        spread = certify.Spread(noise.of_pair, noise.df)
        for name, judge in sorted(judges.items(), key=lambda e: -_first_gain(pairs[e[0]])):
            while pairs[name] and name not in verdicts and options.seconds - report.left() < options.certify_until:
                verdict = certify.decide(
                    pairs[name], first.objective, genome=name, round=0, spread=spread, judge=kernel.JUDGE_VERSION,
                    may_go_on=True,
                )  # fmt: skip
                if verdict is not None:
                    verdicts[name] = verdict
                    report.put(name, "verdict", {"kind": verdict.kind, **dataclasses.asdict(verdict)})
                elif found := pair(report, name, judge, kernels[name], len(pairs[name]), chance):
                    pairs[name].append(found)
                else:
                    break
        if judges:  # last, since no other session has run a profiler in this sandbox
            name, judge = next(iter(judges.items()))
            judge.settings = dataclasses.replace(judge.settings, profile=True)
            tree = kernels.get(name, {}).get("better") or {}
            if tree:
                report.step(name, "profiled", lambda: judged(judge, tree))
        for judge in judges.values():
            judge.close()
    table(report.rows)
    return 0


def _first_gain(pairs) -> float:
    first = pairs[0] if pairs else None
    if first is None or first.candidate.outcome.score is None or first.rival.outcome.score is None:
        return -1.0
    return first.candidate.outcome.score - first.rival.outcome.score


def table(rows) -> None:
    heads = ("T_SOL us", "T_b us", "by", "naive S", "better S", "n", "gain low", "A/A", "overhead", "status")
    print(f"\n{'task':22}" + "".join(f"{head:>10}" for head in heads))
    means = {"naive": [], "better": []}
    for name, row in rows.items():
        sides = {s: [v for k, v in row.items() if k.startswith(f"{s} ") and isinstance(v, dict)] for s in means}
        scores = {s: [v["score"] for v in found if v.get("score") is not None] for s, found in sides.items()}
        mean = {s: statistics.fmean(found) if found else None for s, found in scores.items()}
        for side, found in means.items():
            found.append(max(mean["naive"] or 0.0, mean[side] or 0.0))
        measured = row.get("baselines") or {}
        main = measured.get("main") or next(iter(measured.values()), {})
        times = {k: v for k, v in main.items() if k not in ("limit_us", "spreads")}
        by = min(times, key=times.get) if times else None
        aa = statistics.fmean(row["aa"].values()) if row.get("aa") else None
        overheads = [
            v["measures"]["overhead_s"]
            for found in sides.values()
            for v in found
            if "overhead_s" in v.get("measures", {})
        ]
        status = [v["status"] for v in (*sides["naive"][:1], *sides["better"][:1])]
        low = row["verdict"]["low"] if row.get("verdict", {}).get("kind") == "certified" else None
        cells = (
            main.get("limit_us"), times.get(by), by, mean["naive"], mean["better"], str(len(scores["better"])), low, aa,
            statistics.median(overheads) if overheads else None, "/".join(s[:4] for s in status),
        )  # fmt: skip
        print(f"{name:22}" + "".join(f"{cell(value):>10}" for value in cells))
    if rows:
        said = ", ".join(f"{side} {statistics.fmean(found):.3f}" for side, found in means.items())
        print(f"mean over {len(rows)} tasks, a failed one as 0: {said}")
    print("baselines:", baselines.cache())


def cell(value) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:.{1 if value >= 10 else 3}f}"


if __name__ == "__main__":
    sys.exit(main())
