"""`python -m evo.check`: whether a benchmark, this machine's sandbox or a file system keeps what evo promises."""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from evo import benchmark as benchmarks
from evo import library, stats
from evo.benchmark import Benchmark, Profile, UserMistake
from evo.chance import number
from evo.genome import Tree, apply_diff
from evo.judges import Judge, open_judge
from evo.outcome import Outcome, Status
from evo.sandbox import Limits, NoIsolation, Sandbox, probe

Say = Callable[[str], None]


# --- a benchmark folder --------------------------------------------------------------------------------------------


def check_benchmark(
    benchmark: Benchmark, profile: Profile, judge: Judge, *, runs: int, patches: bool, say: Say
) -> bool:
    """Base, spread, exploits and honest twins; True if everything is as it must be."""
    base = [_judged(judge, benchmark.base, k) for k in range(runs)]
    for k, outcome in enumerate(base):
        if outcome.score is None:
            say(f"base       FAILED on seed {k}: {outcome.status.value}: {outcome.detail}")
            return False
    scores = [outcome.score for outcome in base if outcome.score is not None]
    middle = stats.mean(scores)
    gains = [benchmark.objective.gain_over(middle, score) for score in scores]
    repeats = [_judged(judge, benchmark.base, 0) for _ in range(runs)]
    same = [benchmark.objective.gain_over(middle, o.score) for o in repeats if o.score is not None]
    sd = stats.sample_sd(gains) if len(gains) > 1 else 0.0
    sd_same = stats.sample_sd(same) if len(same) > 1 else 0.0
    say(f"base       {middle:.5g} {benchmark.objective.unit} over {runs} seeds; sd of gains {sd:.4f}")
    say(f"           one seed {runs} times: sd of gains {sd_same:.4f}")
    for name in sorted({key for outcome in base for key in outcome.measures}):
        values = [outcome.measures[name] for outcome in base if name in outcome.measures]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        say(f"  {name:<14}{stats.mean(values):.5g}  sd {spread:.2g}")
    shipped = profile.noise.sd
    if sd > 1.5 * shipped and len(gains) >= 5:
        say(f"noise      WIDER than shipped: sd {sd:.4f} here, {shipped:.4f} in benchmark.toml; put the new one there")
    typical = _typical_gain(benchmark, judge, middle, say) if patches else profile.noise.typical_gain
    say(
        f"  [profiles.{profile.name}.noise] measured now:  sd = {sd:.4g}  df = {runs - 1}  typical_gain = {typical:.4g}"
    )
    sound = True
    bar = max(gains) + 3 * max(sd, shipped)
    for folder, must_pass in (("exploits", False), ("honest", True)):
        for name, tree, allowed in _variants(benchmark, folder):
            sound &= _variant(benchmark, judge, name, tree, allowed, middle, bar, must_pass, say)
    return sound


def _judged(judge: Judge, program: Tree, seed: int) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="evo-program-") as folder:
        benchmarks.write_tree(program, Path(folder))
        return judge.judge(Path(folder), stage="check", seed=number("check", seed) % 2**31)


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
    parser.add_argument("--runs", type=int, default=5, help="base runs: so many seeds, and one seed so many times")
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
            sound &= level.isolated
        if options.filesystem:
            if not options.filesystem.is_dir():
                raise UserMistake(f"--filesystem: expected a directory, found {options.filesystem}")
            sound &= check_filesystem(options.filesystem, say)
        if options.folder:
            benchmark = benchmarks.load(options.folder, options.profile)
            profile = benchmark.profile(options.profile)
            with open_judge(benchmark, profile) as judge:
                sound &= check_benchmark(
                    benchmark, profile, judge, runs=max(2, options.runs), patches=options.patches, say=say
                )
            if benchmark.judge == "training":
                sound &= _held_out_is_hidden(benchmark, profile, say)
    except (UserMistake, NoIsolation) as mistake:
        print(f"evo.check: {mistake}", file=sys.stderr)
        return 3 if isinstance(mistake, NoIsolation) else 2
    say("everything holds" if sound else "NOT everything holds: see the lines marked BAD, FAILED or MISSING")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
