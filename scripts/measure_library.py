"""Measures the technique library and writes what it found into the patches' headers.

    python scripts/measure_library.py measure --pairs 3            every technique that has fewer than 3 pairs
    python scripts/measure_library.py measure --pairs 6 muon       more pairs for one
    python scripts/measure_library.py with bigram_residual muon    every technique once on top of each of these
    python scripts/measure_library.py take RESULTS --benchmark autoresearch --where "H100, driver 580"
    python scripts/measure_library.py write                        the header lines anew, from the results so far
    python scripts/measure_library.py show                         tables: effects, combinations, conflicts
    python scripts/measure_library.py headers      published beside measured, as the patches say it
    python scripts/measure_library.py rebase OLD_PROGRAM_FOLDER    moves the patches to a base that has changed

A pair is the technique and the base on one seed. In a race one runs shortly after the other, because CPU seconds drift
with what else the machine does: two techniques share the base runs around them, base, first, second, base, and each is
compared with the geometric mean of both. What runs for a fixed time on a GPU is judged by measure_gpu.py and taken from
its results. Results are JSON lines, appended; a patch whose diff has changed starts again at none.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from evo import benchmark as benchmarks  # noqa: E402
from evo import library  # noqa: E402
from evo.benchmark import Benchmark  # noqa: E402
from evo.chance import number  # noqa: E402
from evo.genome import Genome, Patch, PatchError, Tree, apply_diff, build, diff_trees, merge_trees  # noqa: E402
from evo.judges import Judge, open_judge  # noqa: E402
from evo.library import Technique  # noqa: E402
from evo.outcome import Outcome  # noqa: E402

BASE = "base"
MEASURED = ("gain", "d_loss", "d_time", "d_private")
CLEAR = 2.0  # standard errors; a mean nearer to 0 than that is called no effect


@dataclass(frozen=True)
class Pair:
    """One seed: how much better than the base beside it; times as log-ratios, L as a difference."""

    patches: tuple[str, ...]  # names of patches, that is hashes of their diffs
    seed: int
    gain: float | None = None  # None: the program did not pass
    d_loss: float = 0.0
    d_time: float = 0.0
    detail: str = ""
    d_private: float = 0.0  # L on the private slice, which for the sources of a machine is of packages never trained on
    where: str = ""  # profile and device


@dataclass(frozen=True)
class Effect:
    pairs: Sequence[Pair]

    def mean(self, name: str) -> float:
        return statistics.fmean(getattr(pair, name) for pair in self.pairs)

    def error(self, name: str, sd: float) -> float:
        """Of the mean. `sd` is pooled over all techniques: three pairs say little about their own spread."""
        own = statistics.stdev(getattr(p, name) for p in self.pairs) if len(self.pairs) > 1 else sd
        return max(sd, own) / math.sqrt(len(self.pairs))


# --- results -------------------------------------------------------------------------------------------------------


def read(file: Path) -> list[Pair]:
    if not file.is_file():
        return []
    rows = (json.loads(line) for line in file.read_text().splitlines())
    return [Pair(**{**row, "patches": tuple(row["patches"])}) for row in rows]


def append(file: Path, pair: Pair) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as out:
        out.write(json.dumps(asdict(pair)) + "\n")


def effects(pairs: Sequence[Pair]) -> dict[tuple[str, ...], Effect]:
    found = defaultdict(list)
    for pair in pairs:
        found[pair.patches].append(pair)
    return {key: Effect(own) for key, own in found.items()}


def pooled(found: Mapping[tuple[str, ...], Effect], name: str) -> float:
    """The sd of one pair around its technique's mean, over all techniques with two pairs or more."""
    squares, freedom = 0.0, 0
    for effect in found.values():
        values = [getattr(p, name) for p in effect.pairs if p.gain is not None]
        if len(values) > 1:
            squares += statistics.variance(values) * (len(values) - 1)
            freedom += len(values) - 1
    return math.sqrt(squares / freedom) if freedom else math.nan


# --- measuring -----------------------------------------------------------------------------------------------------


def compared(benchmark: Benchmark, patches: tuple[str, ...], seed: int, own: Outcome, bases: Sequence[Outcome]) -> Pair:
    if own.score is None:
        return Pair(patches, seed, None, detail=f"{own.status.value}: {own.detail}")
    if any(base.score is None for base in bases):
        sys.exit(f"the base does not pass: {bases[0].detail or bases[-1].detail}; nothing can be compared with it")

    def against_base(measure: str) -> float:
        return math.log(own.measures[measure]) - statistics.fmean(math.log(b.measures[measure]) for b in bases)

    gain = statistics.fmean(benchmark.objective.gain_over(base.score or 0.0, own.score) for base in bases)
    d_loss, d_private = (own.measures[name] - bases[0].measures[name] for name in ("loss", "private_loss"))
    return Pair(patches, seed, gain, d_loss, against_base("seconds"), d_private=d_private)


def measure(
    benchmark: Benchmark, judge: Judge, wanted: Sequence[tuple[Genome, int]], results: Path, label: Mapping[str, str]
) -> None:
    """Judges every (genome, number of the seed), two of one seed between runs of the base."""
    base = Genome(benchmark.base_hash)

    def judged(genome: Genome, seed: int) -> Outcome:
        return judged_by(judge, benchmark, genome, seed)

    for seed, group in itertools.groupby(sorted(wanted, key=lambda pair: pair[1]), key=lambda pair: pair[1]):
        before = judged(base, seed)
        for two in batched([genome for genome, _ in group], 2):
            outcomes = [judged(genome, seed) for genome in two]
            after = judged(base, seed)
            for genome, outcome in zip(two, outcomes):
                names = tuple(patch.name for patch in genome.patches)
                pair = compared(benchmark, names, seed, outcome, (before, after))
                append(results, pair)
                tell(pair, label)
            before = after


def judged_by(judge: Judge, benchmark: Benchmark, genome: Genome, seed: int) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="evo-program-") as folder:
        benchmarks.write_tree(build(genome, benchmark.base), Path(folder))
        return judge.judge(Path(folder), stage="library", seed=number("library", seed) % 2**31)


def tell(pair: Pair, label: Mapping[str, str]) -> None:
    title = " + ".join(label[name] for name in pair.patches)
    what = pair.detail[-300:] if pair.gain is None else f"gain {pair.gain:+.4f}  dL {pair.d_loss:+.4f}"
    rest = f"private {pair.d_private:+.4f}  dt {100 * math.expm1(pair.d_time):+.1f}%"
    print(f"seed {pair.seed}  {title:50} {what}  {rest}", flush=True)


def taken(benchmark: Benchmark, file: Path, where: str) -> Iterator[Pair]:
    """Pairs from what `scripts/measure_gpu.py --out` wrote: every technique with the base of its seed and profile."""
    label = {t.name: t.patch.name for t in library.load() if t.benchmark == benchmark.name}
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows = [row for row in rows if row["benchmark"] == benchmark.name and "score" in row]
    judged = {(row["profile"], row["seed"], row["what"]): row for row in rows}
    for (profile, seed, what), row in judged.items():
        base = judged.get((profile, seed, BASE))
        if what in label and base is not None:
            kept = ("status", "score", "measures", "detail")
            own, other = (Outcome.from_dict({key: r[key] for key in kept}) for r in (row, base))
            pair = compared(benchmark, (label[what],), seed, own, [other])
            yield replace(pair, where=f"profile {profile}, {where}")


def batched(items: Sequence[Genome], size: int) -> Iterator[Sequence[Genome]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def missing(pairs: Sequence[Pair], genomes: Sequence[Genome], count: int) -> list[tuple[Genome, int]]:
    have = {(pair.patches, pair.seed) for pair in pairs}
    return [
        (genome, seed)
        for seed in range(1, count + 1)
        for genome in genomes
        if (tuple(patch.name for patch in genome.patches), seed) not in have
    ]


def combines(benchmark: Benchmark, *patches: Patch) -> bool:
    try:
        build(Genome(benchmark.base_hash, patches), benchmark.base)
    except PatchError:
        return False
    return True


# --- writing -------------------------------------------------------------------------------------------------------


def device() -> str:
    return f"{os.cpu_count()}-core {platform.machine()} VM, one thread, other work beside it"


def words(effect: Effect, sd: Mapping[str, float]) -> tuple[str, str]:
    """The two header lines' texts; what they say follows from the numbers alone."""
    n = len(effect.pairs)
    if where := effect.pairs[0].where:
        return words_within_a_time(effect, sd, where)
    if failed := [pair for pair in effect.pairs if pair.gain is None]:
        return f"does not pass, n = {n}: {' '.join(failed[0].detail.split())[:160]}", "fails"
    gain, gain_error = effect.mean("gain"), effect.error("gain", sd["gain"])
    time, time_error = effect.mean("d_time"), effect.error("d_time", sd["d_time"])
    text = (
        f"log gain {gain:+.3f} +- {gain_error:.3f} in equivalent seconds ({100 * math.expm1(-gain):+.0f}% of them), "
        f"dL {effect.mean('d_loss'):+.4f} +- {effect.error('d_loss', sd['d_loss']):.4f} bits per byte, "
        f"dt {100 * math.expm1(time):+.1f}% +- {100 * time_error:.1f}%; "
        f"n = {n} pairs, mean and standard error; {device()}"
    )
    if abs(gain) < CLEAR * gain_error:
        return text, "no effect beyond the noise"
    return text, "helps" if gain > 0 else "harmful"


def words_within_a_time(effect: Effect, sd: Mapping[str, float], where: str) -> tuple[str, str]:
    n = len(effect.pairs)
    if failed := [pair for pair in effect.pairs if pair.gain is None]:
        return f"does not pass, n = {n}: {' '.join(failed[0].detail.split())[:160]}; {where}", "fails"
    gain, error = effect.mean("gain"), effect.error("gain", sd["gain"])
    private = f"{effect.mean('d_private'):+.4f} +- {effect.error('d_private', sd['d_private']):.4f}"
    if math.isnan(error):
        text = f"dL {-gain:+.4f} bits per byte, unseen packages {effect.mean('d_private'):+.4f}; n = 1 pair; {where}"
        return text, "undecided: one pair"
    text = f"dL {-gain:+.4f} +- {error:.4f} bits per byte, unseen packages {private}; n = {n} pairs; {where}"
    if abs(gain) < CLEAR * error:
        return text, "no effect beyond the noise"
    return text, "helps" if gain > 0 else "harmful"


def rewrite(technique: Technique, effect: str, verdict: str, diff: str | None = None) -> None:
    header, _, old_diff = technique.file.read_text().partition("\n---\n")
    kept = [line for line in header.splitlines() if not line.startswith(("effect:", "verdict:", " "))]
    kept += [f"effect: {effect}", f"verdict: {verdict}"] if effect else []
    technique.file.write_text("\n".join(kept) + "\n---\n" + (old_diff if diff is None else diff))


def write(pairs: Sequence[Pair]) -> None:
    found = effects(pairs)
    sd = {name: pooled(singles(found), name) for name in MEASURED}
    for technique in library.load():
        if effect := found.get((technique.patch.name,)):
            rewrite(technique, *words(effect, sd))


def singles(found: Mapping[tuple[str, ...], Effect]) -> dict[tuple[str, ...], Effect]:
    return {key: effect for key, effect in found.items() if len(key) == 1}


def show(benchmark: Benchmark, pairs: Sequence[Pair]) -> None:
    techniques = [t for t in library.load() if t.benchmark == benchmark.name]
    found = effects(pairs)
    alone = {key[0]: e for key, e in singles(found).items() if all(p.gain is not None for p in e.pairs)}
    sd = {name: pooled(singles(found), name) for name in MEASURED}
    print(f"sd of one pair: gain {sd['gain']:.3f}, dL {sd['d_loss']:.4f}, log t {sd['d_time']:.3f}\n")
    print("| technique | category | n | log gain | dL | dt | verdict |\n|---|---|---|---|---|---|---|")
    order = sorted(techniques, key=lambda t: -alone[t.patch.name].mean("gain") if t.patch.name in alone else math.inf)
    for t in order:
        if (e := alone.get(t.patch.name)) is None:
            print(f"| {t.name} | {t.patch.hint} | | | | | {t.verdict} |")
            continue
        dt = f"{100 * math.expm1(e.mean('d_time')):+.1f}%"
        gain = f"{e.mean('gain'):+.3f} +- {e.error('gain', sd['gain']):.3f}"
        numbers = f"{len(e.pairs)} | {gain} | {e.mean('d_loss'):+.4f} | {dt}"
        print(f"| {t.name} | {t.patch.hint} | {numbers} | {words(e, sd)[1]} |")
    label = {t.patch.name: t.name for t in techniques}
    print("\n| combination | n | log gain | sum of both alone | dL | sum |\n|---|---|---|---|---|---|")
    for key, effect in found.items():
        if len(key) > 1 and all(name in alone for name in key):
            title = " + ".join(label[name] for name in key)
            if any(pair.gain is None for pair in effect.pairs):
                print(f"| {title} | {len(effect.pairs)} | {effect.pairs[0].detail} | | | |")
                continue
            sums = [sum(alone[name].mean(what) for name in key) for what in ("gain", "d_loss")]
            numbers = f"{effect.mean('gain'):+.3f} | {sums[0]:+.3f} | {effect.mean('d_loss'):+.4f} | {sums[1]:+.4f}"
            print(f"| {title} | {len(effect.pairs)} | {numbers} |")
    both = list(itertools.combinations(techniques, 2))
    conflicts = [f"{a.name}/{b.name}" for a, b in both if not combines(benchmark, a.patch, b.patch)]
    print(f"\n{len(conflicts)} of {len(both)} pairs conflict: {', '.join(conflicts)}")


def headers(benchmark: Benchmark) -> None:
    """What the sources say beside what was measured, from the patches' own headers."""
    print("| technique | category | published | measured here | verdict |\n|---|---|---|---|---|")
    for t in sorted((t for t in library.load() if t.benchmark == benchmark.name), key=lambda t: (t.patch.hint, t.name)):
        before, said, published = t.patch.source.partition("published: ")
        said = published if said else before.rpartition(")")[2].strip(" ;,") or before
        name = t.name.removeprefix(f"{benchmark.name}_")
        print(f"| {name} | {t.patch.hint} | {said} | {t.effect} | {t.verdict} |")


def rebase(benchmark: Benchmark, old: Tree) -> None:
    """Three-way: what the base has changed and what a patch has changed, each against the old base."""
    for technique in (t for t in library.load() if t.benchmark == benchmark.name):
        try:
            moved = merge_trees(old, apply_diff(technique.patch.diff, old), benchmark.base)
        except PatchError as error:
            print(f"{technique.name}: {error}; write it anew")
            continue
        # measured on another base: the lines would be untrue
        rewrite(technique, "", "", diff_trees(benchmark.base, moved))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "with", "take", "write", "show", "headers", "rebase"])
    parser.add_argument("names", nargs="*", help="techniques; for take a file, for rebase the old program's folder")
    parser.add_argument("--benchmark", default="speedrun")
    parser.add_argument("--profile")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--results", type=Path, help="runs/library.jsonl, for other benchmarks with their name")
    parser.add_argument("--where", default="", help="the device, for what is taken")
    asked = parser.parse_intermixed_args()
    benchmark = benchmarks.load(asked.benchmark, asked.profile)
    own = "" if benchmark.name == "speedrun" else f"-{benchmark.name}"
    asked.results = asked.results or ROOT / "runs" / f"library{own}.jsonl"
    if asked.what == "rebase":
        return rebase(benchmark, benchmarks.read_tree(Path(asked.names[0])))
    if asked.what == "headers":
        return headers(benchmark)
    if asked.what == "take":
        known = set(read(asked.results))
        for pair in taken(benchmark, Path(asked.names[0]), asked.where):
            if pair not in known:
                append(asked.results, pair)
        return write(read(asked.results))
    techniques = {t.name.removeprefix(f"{benchmark.name}_"): t for t in library.load() if t.benchmark == benchmark.name}
    if unknown := [name for name in asked.names if name not in techniques]:
        parser.error(f"unknown {', '.join(unknown)}; valid are {', '.join(techniques)}")
    pairs = read(asked.results)
    if asked.what == "show":
        return show(benchmark, pairs)
    if asked.what != "write":
        base = Genome(benchmark.base_hash)
        everything = list(techniques.values())
        chosen = [techniques[name] for name in asked.names] or everything
        if asked.what == "measure":
            wanted = missing(pairs, [base.with_patch(t.patch) for t in chosen], asked.pairs)
        else:
            sets = {
                tuple(sorted((one, two), key=lambda t: t.name)) for one in chosen for two in everything if one != two
            }
            patches = [tuple(t.patch for t in two) for two in sorted(sets, key=lambda two: (two[0].name, two[1].name))]
            genomes = [Genome(base.base, two) for two in patches if combines(benchmark, *two)]
            wanted = missing(pairs, genomes, 1)
        label = {t.patch.name: name for name, t in techniques.items()}
        with open_judge(benchmark, benchmark.profile(asked.profile)) as judge:
            measure(benchmark, judge, wanted, asked.results, label)
    write(read(asked.results))


if __name__ == "__main__":
    main()
