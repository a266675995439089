"""`python -m evo.check`: whether a benchmark, this machine's sandbox or a file system keeps what evo promises."""

from __future__ import annotations

import argparse
import base64
import dataclasses
import json
import math
import os
import re
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evo import benchmark as benchmarks
from evo import certify, library, stats
from evo.benchmark import Benchmark, Noise, Profile, UserMistake
from evo.chance import number
from evo.genome import Tree, apply_diff
from evo.judges import Judge, on_disk, open_judge
from evo.outcome import Outcome, Status
from evo.sandbox import Limits, NoIsolation, Sandbox, probe

LEAST_DF = 20  # degrees of freedom that a noise table should rest on

Say = Callable[[str], None]


# --- a benchmark folder --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NoiseModel:
    """How a base scatters, in units of gain: n seeds, each judged twice in a row, as the two sides of a pair are.

    `seed` is what changes with the seed (weights, stream order, batches: the judge derives them from one number),
    `host` what changes when nothing does. One-way analysis of variance: host^2 = mean square within seeds, seed^2 =
    (mean square between seeds - host^2) / 2, not below 0. `order` is how much better the second of two runs scores.
    """

    seeds: int
    seed: float
    host: float
    order: float
    order_p: float  # two-sided, Student's t over the seeds

    @classmethod
    def of(cls, twice: Sequence[tuple[float, float]]) -> NoiseModel:
        n = len(twice)
        within = math.fsum((second - first) ** 2 for first, second in twice) / 2 / n
        between = 2 * stats.squares([(first + second) / 2 for first, second in twice]) / (n - 1)
        steps = [second - first for first, second in twice]
        error = stats.sample_sd(steps) / math.sqrt(n)
        order = stats.mean(steps)
        p = 2 * stats.student_tail(abs(order) / error, n - 1) if error else float(order == 0)
        return cls(n, math.sqrt(max(0.0, (between - within) / 2)), math.sqrt(within), order, p)

    @property
    def sd(self) -> float:
        """Of one evaluation."""
        return math.hypot(self.seed, self.host)

    @property
    def pair_sd(self) -> float:
        """Of a difference of two runs with one seed."""
        return math.sqrt(2) * self.host

    @property
    def df(self) -> int:
        """The fewer of the two parts': n - 1 between seeds, n within them."""
        return self.seeds - 1


def measured_noise(benchmark: Benchmark, judge: Judge, runs: int, say: Say) -> tuple[NoiseModel, list[Outcome]] | None:
    """Judges the base on so many seeds, twice each; None where it does not pass."""
    twice: list[tuple[float, float]] = []
    outcomes: list[Outcome] = []
    middle: float | None = None
    for k in range(runs):
        gains = []
        for _ in range(2):
            outcome = _judged(judge, benchmark.base, k)
            if outcome.score is None:
                say(f"base       FAILED on seed {k}: {outcome.status.value}: {outcome.detail}")
                return None
            if complaint := benchmark.objective.complaint(outcome.score):
                say(f"base       FAILED on seed {k}: {complaint}")
                return None
            middle = outcome.score if middle is None else middle
            outcomes.append(outcome)
            gains.append(benchmark.objective.gain_over(middle, outcome.score))
        twice.append((gains[0], gains[1]))
    return NoiseModel.of(twice), outcomes


def tell_noise(benchmark: Benchmark, profile: Profile, model: NoiseModel, typical: float | None, say: Say) -> None:
    """The parts of the spread, what stage sizes follow, and the table to paste.

    Of a profile without a noise table nobody may know the typical gain: then sizes are not told.
    """
    # noise of 0 is no noise for a test: the smallest difference worth a word stands in for it
    least = max(1e-6, 1e-3 * (typical or 0.0))
    sd, pair_sd = max(model.sd, least), max(model.pair_sd, least)
    unmeasured = profile.noise is benchmarks.UNMEASURED
    shipped = Noise(sd, model.df, typical or least, pair_sd) if unmeasured else profile.noise
    say(f"noise      in units of gain, {model.seeds} seeds twice each")
    for name, value in (("seed", model.seed), ("host", model.host), ("one run", model.sd), ("a pair", model.pair_sd)):
        say(f"  {name:<14}sd {value:.4g}")
    place = f"second of a pair {benchmark.objective.describe(model.order)}, p = {model.order_p:.2g}"
    say(f"  order         {place}{': NOT the same in both places' if model.order_p < 0.01 else ''}")
    if model.seeds >= 5:
        for name, here, there in (("sd", model.sd, shipped.sd), ("pair_sd", model.pair_sd, shipped.of_pair)):
            if here > 1.5 * there:
                both = f"{here:.4g} here, {there:.4g} in benchmark.toml"
                say(f"  WIDER than shipped: {name} {both}; put the new one there")
    if model.df < LEAST_DF:
        say(f"  {model.df} degrees of freedom are few, {LEAST_DF} are wanted: --runs {LEAST_DF + 1}")
    if typical is not None:
        wide = max(model.pair_sd, shipped.of_pair)
        pairs = certify.pairs_needed(typical, wide, max(model.df, shipped.df))
        told = f"about {pairs} pairs" if pairs else f"more than the {certify.MAX_PAIRS} pairs there are"
        say(f"  a typical gain of {typical:.3g} is {typical / wide:.2g} sd of a pair and takes {told} to certify")
        kept = certify.reserve(dataclasses.replace(shipped, pair_sd=wide, typical_gain=typical))
        say(f"  so a run that names no reserve should keep {kept} evaluations for finalists and certification")
    say("  measured now, to paste into benchmark.toml:")
    say(f"[profiles.{profile.name}.noise]\nsd = {sd:.4g}\npair_sd = {pair_sd:.4g}\ndf = {model.df}")
    if typical is not None:
        say(f"typical_gain = {typical:.4g}")
    else:
        say("# typical_gain is yours to fill in: what one good patch may gain; a guess will do")


def check_benchmark(
    benchmark: Benchmark, profile: Profile, judge: Judge, *, runs: int, patches: bool, variants: bool, say: Say
) -> bool:
    """Base, spread, exploits and honest twins; True if everything is as it must be."""
    found = measured_noise(benchmark, judge, runs, say)
    if found is None:
        return False
    model, base = found
    scores = [outcome.score for outcome in base if outcome.score is not None]
    middle = stats.mean(scores)
    say(f"base       {middle:.5g} {benchmark.objective.unit} over {runs} seeds, twice each")
    for name in sorted({key for outcome in base for key in outcome.measures}):
        values = [outcome.measures[name] for outcome in base if name in outcome.measures]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        say(f"  {name:<14}{stats.mean(values):.5g}  sd {spread:.2g}")
    known = None if profile.noise is benchmarks.UNMEASURED else profile.noise.typical_gain
    found_gain = _typical_gain(benchmark, judge, middle, say) if patches else None
    tell_noise(benchmark, profile, model, found_gain or known, say)
    sound = floors_hold(benchmark, profile, base, say)
    gains = [benchmark.objective.gain_over(middle, score) for score in scores]
    bar = max(gains) + 3 * max(model.sd, profile.noise.sd)
    for folder, must_pass in (("exploits", False), ("honest", True)) if variants else ():
        for name, tree, allowed in _variants(benchmark, folder):
            sound &= _variant(benchmark, judge, name, tree, allowed, middle, bar, must_pass, say)
    return sound


def floors_hold(benchmark: Benchmark, profile: Profile, base: Sequence[Outcome], say: Say) -> bool:
    """Whether each [audit] floor names what the judge measures, and the base keeps it: a misspelt one bounds none."""
    sound = True
    for name, least in profile.audit.floor.items():
        values = [outcome.measures[name] for outcome in base if name in outcome.measures]
        if not values and benchmark.judge != "kernel":  # whose measures depend on the device
            known = ", ".join(sorted({key for outcome in base for key in outcome.measures})) or "none"
            say(f"BAD  [profiles.{profile.name}.audit] floor: the judge measures no '{name}'; of the base {known}")
            sound = False
        elif values and min(values) < least:
            say(f"BAD  [profiles.{profile.name}.audit] floor: {name} = {least:g}, the base itself has {min(values):g}")
            sound = False
    return sound


def _judged(judge: Judge, program: Tree, seed: int) -> Outcome:
    with on_disk(program) as folder:
        return judge.judge(folder, stage="check", seed=number("check", seed) % 2**31)


def _typical_gain(benchmark: Benchmark, judge: Judge, middle: float, say: Say) -> float:
    """The median absolute gain of single patches of the library on the base, one evaluation each."""
    gains = []
    for k, technique in enumerate(library.load()):
        if technique.benchmark != benchmark.name:
            continue
        outcome = _judged(judge, apply_diff(technique.patch.diff, benchmark.base), 1000 + k)
        if outcome.score is None:
            say(f"  {technique.name:<32}{outcome.status.value}: {outcome.detail[:100]}")
            continue
        gains.append(benchmark.objective.gain_over(middle, outcome.score))
        say(f"  {technique.name:<32}{benchmark.objective.describe(gains[-1])}")
    return statistics.median(abs(gain) for gain in gains) if gains else 0.0


def _variants(benchmark: Benchmark, folder: str) -> list[tuple[str, Tree, frozenset[str]]]:
    """Programs of exploits/ or honest/: a file replaces the first editable file, a folder is laid over the base.

    An exploit's first line names the statuses it may end with: `# WRONG or CRASHED: what it tries`.
    """
    found: list[tuple[str, Tree, frozenset[str]]] = []
    entry = next(path for path in benchmark.base if benchmark.is_editable(path))
    for path in sorted((benchmark.root / folder).glob("*")):
        if path.is_dir() and path.name != "__pycache__":
            tree = {**benchmark.base, **benchmarks.read_tree(path)}
            first = next(iter(benchmarks.read_tree(path).values()), "")
        elif path.suffix == ".py":
            first = path.read_text()
            tree = {**benchmark.base, entry: first}
        else:
            continue
        name = path.stem
        head = first.partition("\n")[0].partition(":")[0]
        found.append((f"{folder}/{name}", tree, frozenset(re.findall(r"[A-Z]{4,}", head))))
    return found


def _variant(
    benchmark: Benchmark,
    judge: Judge,
    name: str,
    tree: Tree,
    allowed: frozenset[str],
    middle: float,
    bar: float,
    must_pass: bool,
    say: Say,
) -> bool:
    outcome = _judged(judge, tree, 1)
    gain = benchmark.objective.gain_over(middle, outcome.score) if outcome.score is not None else None
    if must_pass:
        good = outcome.status is Status.PASSED
    elif gain is not None:
        good = gain <= bar and "PASSED" in allowed
    else:
        good = not allowed or outcome.status.value in allowed
    shown = outcome.status.value + (f" {benchmark.objective.describe(gain)}" if gain is not None else "")
    detail = outcome.detail.strip().splitlines()[0][:90] if outcome.detail.strip() else ""
    say(f"{'ok  ' if good else 'BAD '} {name:<36}{shown:<16}{detail}")
    return good


def check_visibility(
    documents: Sequence[bytes], hidden: Sequence[Path], say: Say, *, roots: Sequence[str], program: Tree
) -> bool:
    """Searches what a sandbox can read below `roots` for copies of held-out documents: files with half their lines."""
    from evo.judges.copies import FEWEST, telling_lines

    chosen = [lines for document in documents if (lines := telling_lines(document))]
    guest = Path(__file__).resolve().parent / "guests" / "shingles.py"
    limits = Limits(wall_s=1200.0, memory_mb=4096)
    with Sandbox(preload=("numpy",), hidden=hidden) as sandbox, tempfile.TemporaryDirectory() as folder:
        benchmarks.write_tree(program, Path(folder))
        with sandbox.start(
            guest, program=Path(folder), guest=guest.parent, arguments=tuple(roots), limits=limits
        ) as turn:
            turn.channel.settimeout(limits.wall_s)
            told = [[base64.b64encode(line).decode() for line in lines] for lines in chosen]
            text = b""
            try:
                turn.channel.sendall(json.dumps(told).encode())
                turn.channel.shutdown(socket.SHUT_WR)
                while chunk := turn.channel.recv(1 << 16):
                    text += chunk
            except (OSError, TimeoutError):
                pass  # what it has said so far does not end as it must
    said = text.decode(errors="replace").splitlines()
    if not said or not said[-1].startswith("searched "):
        say("visibility FAILED: the search inside the sandbox did not finish")
        return False
    hits = [line for line in said if line.startswith("found ")]
    say(f"visibility {said[-1]}; {len(chosen)} held-out documents of {FEWEST} lines or more, copies in {len(hits)}")
    for hit in hits[:10]:
        say(f"  {hit}")
    return not hits


def _inputs_matter(benchmark: Benchmark, profile: Profile, say: Say) -> bool:
    """Whether a kernel task may be used: its reference is exact and every input moves it beyond the tolerance."""
    from evo import problem
    from evo.judges.exactness import objections

    found = problem.load(benchmark.root)
    device = str(profile.settings["device"])
    sound = True
    for workload in found.small if device == "cpu" else found.workloads:
        said = objections(found.task(), workload, device)
        sound &= not said
        say(f"  workload {workload.uuid}: " + ("every input matters, the reference is exact" if not said else ""))
        for sentence in said:
            say(f"    BAD {sentence}")
    return sound


def _held_out_is_hidden(benchmark: Benchmark, profile: Profile, say: Say) -> bool:
    from evo.judges import training

    chosen = benchmarks.settings(training.Settings, profile.settings, f"{benchmark.name} [profiles.{profile.name}]")
    corpus = training.opened(chosen, benchmark.root)
    return check_visibility(corpus.held_out(), corpus.masked, say, roots=["/"], program=benchmark.base)


# --- a file system -------------------------------------------------------------------------------------------------


def check_filesystem(folder: Path, say: Say) -> bool:
    """Whether a directory keeps what claims and journals rest on; run it on two hosts at once for a shared one."""
    place = Path(tempfile.mkdtemp(prefix=".evo-check-", dir=folder))
    sound = True

    def expect(what: str, holds: bool) -> None:
        nonlocal sound
        sound &= holds
        say(f"{'ok  ' if holds else 'BAD '} {what}")

    try:
        claim = place / "claim"
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            expect("a file can be created exclusively", False)
        except FileExistsError:
            expect("a file can be created exclusively", True)
        before = claim.stat().st_mtime
        time.sleep(1.1)
        os.utime(claim)
        expect("a touched file gets a later time", claim.stat().st_mtime > before)
        expect(
            "the file system's clock agrees with this host's within 5 s", abs(claim.stat().st_mtime - time.time()) < 5
        )
        target = place / "linked"
        os.link(claim, target)
        expect("hard links work", target.exists())
        journal = place / "journal"
        handle = os.open(journal, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        began = time.monotonic()
        for _ in range(20):
            os.write(handle, b"x" * 200 + b"\n")
            os.fdatasync(handle)
        cost = (time.monotonic() - began) / 20
        os.close(handle)
        expect(f"appended lines are read back ({1e3 * cost:.1f} ms a synced line)", journal.stat().st_size == 20 * 201)
    finally:
        for file in place.iterdir():
            file.unlink()
        place.rmdir()
    return sound


# --- the command ---------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m evo.check", description="Checks a benchmark, the sandbox or a disk."
    )
    parser.add_argument("folder", nargs="?", help="a shipped benchmark or a folder with benchmark.toml")
    parser.add_argument("--profile")
    parser.add_argument("--runs", type=int, default=5, help="seeds on which the base is judged, twice each")
    parser.add_argument("--noise", action="store_true", help="measure the base's noise and nothing else")
    parser.add_argument(
        "--patches", action="store_true", help="also screen the library's techniques for the typical gain"
    )
    parser.add_argument("--sandbox", action="store_true", help="print which walls hold on this machine")
    parser.add_argument("--filesystem", type=Path, metavar="DIR", help="test what claims and journals need")
    options = parser.parse_args(arguments)
    if not (options.folder or options.sandbox or options.filesystem):
        parser.error("expected a benchmark, --sandbox or --filesystem DIR")

    def say(text: str) -> None:
        print(text, flush=True)

    try:
        sound = True
        if options.sandbox:
            level = probe()
            say(level.describe())
            say(level.guarantees())
            sound &= level.isolated
        if options.filesystem:
            if not options.filesystem.is_dir():
                raise UserMistake(f"--filesystem: expected a directory, found {options.filesystem}")
            sound &= check_filesystem(options.filesystem, say)
        if options.folder:
            benchmark = benchmarks.load(options.folder, options.profile, measured=False)
            profile = benchmark.profile(options.profile)
            with open_judge(benchmark, profile) as judge:
                runs, variants = max(2, options.runs), not options.noise
                sound &= check_benchmark(
                    benchmark, profile, judge, runs=runs, patches=options.patches, variants=variants, say=say
                )
            if benchmark.judge == "kernel":
                sound &= _inputs_matter(benchmark, profile, say)
            if benchmark.judge == "training" and not options.noise:
                sound &= _held_out_is_hidden(benchmark, profile, say)
    except (UserMistake, NoIsolation) as mistake:
        print(f"evo.check: {mistake}", file=sys.stderr)
        return 3 if isinstance(mistake, NoIsolation) else 2
    except KeyboardInterrupt:
        print("evo.check: interrupted", file=sys.stderr)
        return 130
    say("everything holds" if sound else "NOT everything holds: see the lines marked BAD, FAILED or MISSING")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
