"""Measures what calls to a model carry: bytes of each prompt, and the share of input that a provider's cache serves.

    python scripts/measure_prompts.py [--benchmark speedrun] [--calls 50] [--pad-to KB]

A search runs with a judge that answers at once with a number which the program's text decides. The model is a script
that answers with patches of the technique library, so that diffs have the size of real ones. Tokens are taken as a
quarter of the bytes; a prefix that came before counts as read from the cache, as with a provider that caches it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from evo import benchmark as benchmarks
from evo import chance, prompts, worker
from evo.llm import Completion, Models, Prompt, Slot, Usage
from evo.outcome import Outcome, Status
from evo.recording import Recorder
from evo.rundir import RunDir, RunSettings


class Instant:
    """Answers at once: a tenth of all programs crash, the others get a number from a hash of their text."""

    def judge(self, program: Path, *, stage: str, seed: int) -> Outcome:
        text = "".join(file.read_text() for file in sorted(program.glob("*.py")))
        draw = chance.number(text) / 2**63
        if stage == "screen" and draw < 0.1:
            return Outcome.failed(Status.CRASHED, "Traceback\nValueError: shapes do not match")
        return Outcome.passed(4.0 + draw, artifact=str(seed))

    def fingerprint(self) -> Mapping[str, str]:
        return {"judge": "instant"}

    def close(self) -> None:
        pass


@dataclasses.dataclass
class Librarian:
    """A provider with a cache of prefixes, whose answers are patches of the library."""

    patches: list[str]
    name: str = "librarian"
    answer_tokens: None = None
    known: set[str] = dataclasses.field(default_factory=set)

    def complete(self, prompt: Prompt, slot: Slot) -> Completion:
        cached, request = len(prompt.prefix.encode()) // 4, len(prompt.request.encode()) // 4
        read = cached if prompt.prefix in self.known else 0
        self.known.add(prompt.prefix)
        diff = self.patches[chance.number(slot.name) % len(self.patches)]
        text = f"Hypothesis: {slot.name}\n{diff}"
        return Completion(text, self.name, Usage(request, read, cached - read, len(text) // 4))


@contextmanager
def instant() -> Iterator[Instant]:
    yield Instant()


def lengthen(program: Path, kilobytes: int) -> None:
    """Comments at the end of the longest file, so that the library's patches still apply."""
    files = sorted((file for file in program.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    missing = 1000 * kilobytes - sum(file.stat().st_size for file in files)
    with open(files[-1], "a") as file:
        for number in itertools.count():
            if missing <= 0:
                break
            missing -= file.write(f"# padding, line {number}: the rest of a long program\n")


def measure(name: str, calls: int, pad_to: int | None) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / name
        shutil.copytree(benchmarks.load(name).root, root)
        if pad_to is not None:
            lengthen(root / "program", pad_to)
        benchmark = benchmarks.load(str(root))
        run = RunDir(Path(place) / "run")
        run.create(
            RunSettings(
                benchmark=str(root), profile=benchmark.default_profile, base=benchmark.base_hash, seed=0, threads=4,
                novelty=1.0, control=None, evaluations=100_000, minutes=None, reserve=50, base_runs=2, noise_sd=0.05,
                noise_df=30.0, pair_sd=0.07, typical_gain=0.05, calls=calls,
            ),
            benchmark.base,
        )  # fmt: skip
        record = Path(place) / "record.jsonl"
        crew = worker.join(run, role="both", minutes=None, allow_unisolated=True)
        techniques = [patch.diff for patch in crew.library]
        crew.open_judge, crew.recorder = instant, Recorder(record)
        crew.models = Models(((Librarian(techniques), 1.0),))
        while not crew.spent and crew.work(limit=1) == "asked to stop":
            pass
        crew.close()
        rows = [row for row in map(json.loads, record.read_text().splitlines()) if "slot" in row]
    base = sum(len(text.encode()) for text in benchmark.base.values())
    prefix, requests = rows[0]["bytes"][0], sorted(row["bytes"][1] for row in rows)
    used = [row["usage"] for row in rows]
    read, sent = sum(u["cache_read"] for u in used), sum(u["input"] + u["cache_read"] + u["cache_write"] for u in used)
    first = sum(row["slot"].endswith("-0") for row in rows)
    print(f"base program                {base:>9} bytes")
    print(f"cached prefix               {prefix:>9} bytes ({prefix - base} beside the program)")
    print(f"request, median of {len(rows):>4}     {statistics.median(requests):>9.0f} bytes")
    print(f"request, 90th percentile    {requests[int(0.9 * len(requests))]:>9} bytes")
    print(f"request, largest            {requests[-1]:>9} bytes")
    print(f"calls that were a first try {first:>9}")
    print(f"input from the cache        {100 * read / sent:>9.1f} %")
    assert prefix == len(prompts.prefix(benchmark).encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", default="speedrun")
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument(
        "--pad-to", type=int, metavar="KB", help="lengthen the program by comments to so many kilobytes"
    )
    options = parser.parse_args()
    measure(options.benchmark, options.calls, options.pad_to)
