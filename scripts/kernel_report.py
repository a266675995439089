"""Measures kernel tasks on this GPU: limit, baselines, the naive kernel, the library's, the judge itself; certifies.

    python scripts/kernel_report.py --out DIR [--tasks a,b] [--shard 0/2] [--seconds 400] [--side-by-side 14] [--check]
                                    [--warmed FILE] [--wait-for FILE] [--certify-until 500] [--anew] [--pairs a,b]
                                    [--device cpu]

First everything is compiled, side by side, and nothing is timed but by torch's compiler, which then has the card for
itself; `--check` runs the task check at full size meanwhile. `--warmed` is written when that is done and `--wait-for`
waited for, so that two of these on one machine do not compile while the other measures. Then, in this order, so that
little time still gives something for every task: baselines where none are frozen (`--anew`: of all), the baseline timed
as a candidate (S must be 0.5), the naive kernel and the library's as the first pair of a certification, other forms of
the library's kernels once, further pairs until tasks are certified, those with the largest gains first (from the
beginning for another form that was better), and the baselines as candidates once more. Writes DIR/report-SHARD.json
after every step.
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
from evo.judges.exactness import objections
from evo.outcome import Outcome
from evo.sandbox import Limits, Sandbox

UNROLLED = ("selective_scan",)  # torch's compiler takes over two minutes for a workload
PRODUCTS = ("gemm", "bmm", "attn", "mlp", "block", "linear")  # where autotuning of matrix products can matter


def variants(judge):
    """Autotuning is tried on the main workload of tasks with matrix products; elsewhere it has nothing to choose."""
    main = judge.workloads[0].uuid
    if judge.problem.name in UNROLLED:
        return lambda workload: ("eager",)
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


def forms(name):
    """The library's kernels of a task as program trees: the first is the one to certify, the others are its rivals."""
    benchmark = benchmarks.load(f"sol:{name}")
    found = [t for t in library.load() if t.benchmark == benchmark.name]
    found.sort(key=lambda t: len(t.name))
    return {t.name: apply_diff(t.patch.diff, benchmark.base) for t in found}


def full_size(judge):
    """What the task check objects to on the main and the odd workload as they are on a GPU."""
    found = {}
    for workload in judge.workloads:
        if workload.uuid in ("main", "odd"):
            with judge.on_card():
                found[workload.uuid] = objections(judge.task, workload, judge.settings.device)
    return found


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
    parser.add_argument("--check", action="store_true", help="the task check at full size, while others compile")
    parser.add_argument("--warmed", type=Path, help="a file to write when nothing compiles any more")
    parser.add_argument("--wait-for", type=Path, help="a file that says that nothing else works on this machine")
    parser.add_argument("--certify-until", type=float, default=0, help="seconds; begin no further pairs later")
    parser.add_argument("--pairs", default="", help="tasks whose kernels are judged, in this order; default: all")
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
        for name, judge in judges.items() if options.check else ():
            if not cuda or not all(thread.done() for thread in warmed.values()):
                report.step(name, "objections", lambda judge=judge: full_size(judge))
        for thread in warmed.values():
            thread.result()
        if options.warmed:
            options.warmed.touch()
        while options.wait_for and not options.wait_for.exists() and report.left() > 0:
            time.sleep(0.2)
        kernels, pairs, verdicts = {}, {name: [] for name in judges}, {}

        def measure(judge):
            found = judge.frozen
            if options.anew or not found:
                with judge.alone():
                    found = judge.measure_baselines(variants(judge)) or {}
            return {
                u: {"limit_us": b.limit_us, "T_b": b.best_us, **b.times_us, "spreads": dict(b.spreads)}
                for u, b in found.items()
            }

        def again(judge):
            with judge.alone():
                return judge.against_itself()

        for name, judge in judges.items():
            report.step(name, "baselines", lambda judge=judge: measure(judge))
        for name, judge in judges.items():
            if judge.frozen and cuda:
                report.step(name, "aa", lambda judge=judge: again(judge), judge)
        others, best = {}, {}
        wanted = [name for name in options.pairs.split(",") if name in judges] if options.pairs else list(judges)
        for name in wanted:
            judge = judges[name]
            trees = report.step(name, "forms", lambda name=name: others.update({name: forms(name)}) or [*others[name]])
            naive = benchmarks.load(f"sol:{name}").base
            kernels[name] = {"naive": naive, **({"better": others[name][trees[0]]} if trees else {})}
            if found := pair(report, name, judge, kernels[name], 0, chance):
                pairs[name].append(found)
        for name in wanted:
            judge = judges[name]
            for form, tree in [*others[name].items()][1:]:
                found = report.step(name, f"other {form}", lambda judge=judge, tree=tree: judged(judge, tree), judge)
                first_score = pairs[name][0].candidate.outcome.score if pairs[name] else None
                if found and (found.get("score") or 0) > max(best.get(name, 0.0), first_score or 0.0):
                    best[name] = found["score"]
                    kernels[name]["better"] = tree
                    report.put(name, "form", form)
        order = (
            wanted
            if options.pairs
            else sorted(judges, key=lambda name: -max(_gain(pairs[name]), best.get(name, 0.0) - _naive(pairs[name])))
        )
        for name in best:  # what chose a form is no proof of it
            pairs[name].clear()
        noise = profile.noise
        spread = certify.Spread(noise.of_pair, noise.df)
        for name in order:
            judge, turn = judges[name], 0
            while name not in verdicts and options.seconds - report.left() < options.certify_until:
                verdict = certify.decide(
                    pairs[name], first.objective, genome=name, round=0, spread=spread, judge=kernel.JUDGE_VERSION,
                    may_go_on=True,
                ) if pairs[name] else None  # fmt: skip
                turn += 1
                if verdict is not None:
                    verdicts[name] = verdict
                    report.put(name, "verdict", {"kind": verdict.kind, **dataclasses.asdict(verdict)})
                elif found := pair(report, name, judge, kernels[name], turn, chance):
                    pairs[name].append(found)
                else:
                    break
        for name, judge in judges.items():
            if judge.frozen and cuda:
                report.step(name, "aa again", lambda judge=judge: again(judge), judge)
        if judges:
            name, judge = next(iter(judges.items()))
            judge.settings = dataclasses.replace(judge.settings, profile=True)
            tree = kernels.get(name, {}).get("better") or {}
            if tree:
                report.step(name, "profiled", lambda: judged(judge, tree))
        for judge in judges.values():
            judge.close()
    table(report.rows)
    return 0


def _gain(pairs) -> float:
    score = pairs[0].candidate.outcome.score if pairs else None
    return -1.0 if score is None else score - _naive(pairs)


def _naive(pairs) -> float:
    return (pairs[0].rival.outcome.score or 0.0) if pairs else 0.0


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
        times = {k: v for k, v in main.items() if k not in ("limit_us", "spreads", "T_b")}
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
            main.get("limit_us"), main.get("T_b"), by, mean["naive"], mean["better"], str(len(scores["better"])), low,
            aa, statistics.median(overheads) if overheads else None, "/".join(s[:4] for s in status),
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
