"""`python -m evo.judge`: judges one program by hand, on n seeds."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from evo import benchmark as benchmarks
from evo import library
from evo.benchmark import Benchmark, UserMistake
from evo.chance import number
from evo.genome import PatchError, Tree, apply_diff
from evo.judges import fingerprint_id, on_disk, open_judge
from evo.outcome import Outcome
from evo.sandbox import NoIsolation


def program_of(benchmark: Benchmark, genome: Path | None, program: Path | None) -> Tree:
    """The base, the base with one patch file (a diff, or a technique of the library), or a folder."""
    if genome is not None and program is not None:
        raise UserMistake("expected --genome or --program, found both")
    if program is not None:
        if not program.is_dir():
            raise UserMistake(f"--program: expected a folder, found {program}")
        tree = benchmarks.read_tree(program)
        if not any(path in benchmark.base for path in tree):
            files = ", ".join(sorted(benchmark.base))
            raise UserMistake(f"--program: {program} holds no file of {benchmark.name}'s program ({files})")
        return tree
    if genome is None:
        return benchmark.base
    try:
        return apply_diff(library.patch_of(genome).diff, benchmark.base)
    except PatchError as error:
        raise UserMistake(f"{genome} does not apply to {benchmark.name}: {error}") from error


def line(outcome: Outcome, seed: int, fingerprint: str, as_json: bool) -> str:
    if as_json:
        found = {"status": outcome.status.value, "score": outcome.score, "measures": dict(outcome.measures)}
        rest = {"detail": outcome.detail, "trust": outcome.trust, "fingerprint": fingerprint, "seed": seed}
        return json.dumps({**found, **rest}, ensure_ascii=False)
    measures = "  ".join(f"{name}={value:.4g}" for name, value in outcome.measures.items())
    score = "-" if outcome.score is None else f"{outcome.score:.5g}"
    return f"seed {seed}  {outcome.status.value}  {score}  {measures}" + (
        f"\n{outcome.detail}" if outcome.detail else ""
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m evo.judge", description="Judges one program by hand.")
    parser.add_argument("--benchmark", required=True, metavar="NAME|FOLDER")
    parser.add_argument("--genome", type=Path, metavar="FILE", help="a patch against the base")
    parser.add_argument("--program", type=Path, metavar="FOLDER", help="a whole program")
    parser.add_argument("--profile")
    parser.add_argument("--seeds", type=int, default=1, metavar="N")
    parser.add_argument("--first-seed", type=int, default=1, metavar="K", help="of the seeds K to K + N - 1")
    parser.add_argument("--allow-unisolated", action="store_true")
    parser.add_argument("--json", action="store_true", help="one object a seed")
    options = parser.parse_args(arguments)
    try:
        if options.seeds < 1:
            raise UserMistake(f"--seeds: expected 1 or more, found {options.seeds}")
        benchmark = benchmarks.load(options.benchmark, options.profile, measured=False)
        profile = benchmark.profile(options.profile)
        tree = program_of(benchmark, options.genome, options.program)
        passed = True
        with (
            open_judge(benchmark, profile, allow_unisolated=options.allow_unisolated) as judge,
            on_disk(tree) as folder,
        ):
            fingerprint = fingerprint_id(judge.fingerprint())
            for k in range(options.first_seed, options.first_seed + options.seeds):
                outcome = judge.judge(folder, stage="hand", seed=number("hand", k) % 2**31)
                print(line(outcome, k, fingerprint, options.json), flush=True)
                passed = passed and outcome.score is not None
    except (UserMistake, NoIsolation) as mistake:
        print(f"evo.judge: {mistake}", file=sys.stderr)
        return 3 if isinstance(mistake, NoIsolation) else 2
    except KeyboardInterrupt:
        print("evo.judge: interrupted", file=sys.stderr)
        return 130
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
