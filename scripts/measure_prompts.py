"""Measures what calls to a model carry and cost: bytes of each prompt, and the share of input from a provider's cache.

    python scripts/measure_prompts.py [--benchmark speedrun] [--calls 50] [--pad-to KB]
    python scripts/measure_prompts.py --recording benchmarks/speedrun/recorded/inbox-seed-11.jsonl [--calls 50]

A search runs with a judge that answers at once with a number which the program's text decides; calls go through the
official SDK to the tests' server, which keeps prefixes as Anthropic's does and counts a token for four bytes. It
answers with patches of the technique library, so that diffs have the size of real ones. With a recording it gives what
was answered then: parents and patches are those of a real search, prompts are made anew, and each is made while the
last four proposals are not judged yet.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evo import benchmark as benchmarks
from evo import chance, worker
from evo.events import Proposed, Reflected, Task
from evo.ledger import read_prices
from evo.llm import Anthropic, Models, Slot, Usage
from evo.operators import written
from evo.outcome import Outcome, Status
from evo.recording import Recorder, Recording
from evo.rundir import RunDir, RunSettings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from messages_server import Provider, serving

LAG = 4  # proposals that were not judged yet when a prompt was made
PRICED = ("claude-sonnet-5-5", "claude-opus-5-5", "claude-sonnet-4-6")


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


def made(place: Path, name: str, calls: int, pad_to: int | None, threads: int) -> worker.Worker:
    root = place / name
    shutil.copytree(benchmarks.load(name).root, root)
    if pad_to is not None:
        lengthen(root / "program", pad_to)
    benchmark = benchmarks.load(str(root))
    run = RunDir(place / "run")
    run.create(
        RunSettings(
            benchmark=str(root), profile=benchmark.default_profile, base=benchmark.base_hash, seed=0, threads=threads,
            novelty=1.0, control=None, evaluations=100_000, minutes=None, reserve=50, base_runs=2, noise_sd=0.05,
            noise_df=30.0, pair_sd=0.07, typical_gain=0.05, calls=calls,
        ),
        benchmark.base,
    )  # fmt: skip
    crew = worker.join(run, role="both", minutes=None, allow_unisolated=True)
    crew.open_judge, crew.recorder = instant, Recorder(place / "record.jsonl")
    return crew


def searched(crew: worker.Worker, provider: Provider) -> None:
    """A search of its own, whose model answers with the library's patches."""
    techniques = [patch.diff for patch in crew.library]

    def answer(body: dict[str, Any]) -> str:
        draw = chance.number(len(provider.usages))
        return f"Hypothesis: patch {draw}\n{techniques[draw % len(techniques)]}"

    provider.answer = answer
    crew.models = Models(((Anthropic("fake", retries=0), 1.0),))
    while not crew.spent and crew.work(limit=1) == "asked to stop":
        pass


def replayed(crew: worker.Worker, provider: Provider, recording: Recording, calls: int) -> None:
    """The prompts of a recorded search, in its order."""
    model = Anthropic("fake", retries=0)
    crew.models = Models(((model, 1.0),))
    crew.work(limit=2)  # the base
    waiting: list[str] = []
    done = 0
    for (thread, number), event in recording.proposals.items():
        if done >= calls:
            return
        for attempt in itertools.count():
            found = recording.answers.get(Slot(thread, number, attempt).name)
            if found is None or done >= calls:
                break
            scene = crew.scene(thread, number)
            trouble = (crew.state.broken() or ("", ""))[1] if event.operator == "repair" else ""
            parents = getattr(event, "parents", (crew.state.base.name,))
            steps = (
                written.reflect(scene, crew.benchmark)
                if isinstance(event, Reflected)
                else written.propose(event.operator, scene, crew.benchmark, parents, trouble)
            )
            prompt = next(steps).prompt
            provider.answer = lambda body, text=found.text: text
            crew.recorder.answer(Slot(thread, number, attempt), prompt, model.complete(prompt, Slot(thread, number)))
            done += 1
        crew.journal.append(event)
        waiting += [event.genome] if isinstance(event, Proposed) else []
        crew.state.extend(crew.journals.new_entries())
        while len(waiting) > LAG:
            genome = waiting.pop(0)
            crew.journal.append(crew.judged(Task(genome, "screen"), crew.state.genome(genome)))
            crew.state.extend(crew.journals.new_entries())


def measure(name: str, calls: int, pad_to: int | None, file: Path | None) -> None:
    recording = Recording(file) if file is not None else None
    provider = Provider()
    with tempfile.TemporaryDirectory() as place, serving(provider) as address:
        os.environ.update(ANTHROPIC_BASE_URL=address, ANTHROPIC_API_KEY="none")
        crew = made(Path(place), name, calls, pad_to, recording.header.threads if recording else 4)
        if recording is not None:
            replayed(crew, provider, recording, calls)
        else:
            searched(crew, provider)
        crew.close()
        rows = [
            row for row in map(json.loads, (Path(place) / "record.jsonl").read_text().splitlines()) if "slot" in row
        ]
    base = sum(len(text.encode()) for text in crew.benchmark.base.values())
    print(f"base program                {base:>9} bytes")
    print(
        f"cached prefix               {rows[0]['bytes'][0]:>9} bytes ({rows[0]['bytes'][0] - base} beside the program)"
    )
    for at, what in ((1, "record"), (2, "request")):
        sizes = sorted(row["bytes"][at] for row in rows)
        print(f"{what}, median of {len(rows):<4}".ljust(28) + f"{statistics.median(sizes):>9.0f} bytes")
        print(f"{what}, 90th percentile".ljust(28) + f"{sizes[int(0.9 * len(sizes))]:>9} bytes")
        print(f"{what}, largest".ljust(28) + f"{sizes[-1]:>9} bytes")
    print(f"calls that were a first try {sum(row['slot'].endswith('-0') for row in rows):>9}")
    used = [Usage(**row["usage"]) for row in rows]  # what the recorder wrote
    read, sent = sum(u.cache_read for u in used), sum(u.input + u.cache_read + u.cache_write for u in used)
    print(f"input from the cache        {100 * read / sent:>9.1f} % by the recorder ({read} of {sent} tokens)")
    theirs = [{**usage} for usage in provider.usages]
    read = sum(u["cache_read_input_tokens"] for u in theirs)
    sent = sum(sum(u.values()) - u["output_tokens"] for u in theirs)
    print(f"                            {100 * read / sent:>9.1f} % by the server ({len(theirs)} calls)")
    for model, price in read_prices().models.items():
        if model in PRICED:
            inputs = sum(price.usd(dataclasses.replace(u, output=0)) for u in used) / len(used)
            outputs = sum(price.usd(Usage(output=u.output)) for u in used) / len(used)
            print(f"a call to {model:<18}{inputs:>9.5f} USD of input, {outputs:.5f} of output")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", default="speedrun")
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument(
        "--pad-to", type=int, metavar="KB", help="lengthen the program by comments to so many kilobytes"
    )
    parser.add_argument("--recording", type=Path, metavar="FILE", help="of a search on the benchmark")
    options = parser.parse_args()
    measure(options.benchmark, options.calls, options.pad_to, options.recording)
