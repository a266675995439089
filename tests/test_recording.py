"""A recorded search gives the same genomes whoever plays it back, and the same archive where the judge is exact."""

from __future__ import annotations

import importlib.util
import json
import threading
from pathlib import Path

import pytest
from conftest import TableJudge, new_worker
from messages_server import Provider, serving

from evo import benchmark as benchmarks
from evo import genome
from evo import run as evo_run
from evo.benchmark import UserMistake
from evo.events import Proposed, Rejected
from evo.ledger import Caps, Ledger, read_prices
from evo.llm import Models, Prompt, Scripted, Slot, Usage
from evo.operators import written
from evo.recording import Header, Recorder, Recording

HEADER = {"profile": "main", "seed": 3, "threads": 2}


def answer(prompt: Prompt, slot: Slot) -> str:
    """Turns settings, sometimes breaks the program, sometimes forgets what it edits."""
    rate, width = 0.1 + 0.05 * (1 + slot.number), 8 + slot.number + 3 * slot.thread
    old, new = [
        ("RATE = 0.1", f"RATE = {rate:.2f}"),
        ("WIDTH = 8", f"WIDTH = {width}"),
        ("DEPTH = 4", "DEPTH = 64"),
        ("NO = 1", "NO = 2"),
    ][(slot.number + slot.thread + slot.attempt) % 4]
    return f"Hypothesis: {new}\nsolve.py\n<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n"


def played(run, toy, workers, **fields):
    crew = [new_worker(run, toy, TableJudge(), name=f"w{i}", **fields) for i in range(workers)]
    threads = [threading.Thread(target=worker.work) for worker in crew]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for worker in crew:
        worker.close()
    return crew[0].state.extend(crew[0].journals.new_entries())


def found_in(state):
    scores = {task.name: event.outcome.score for task, (_, event) in state.outcomes.items()}
    screens = {name: score for name, score in scores.items() if ".certify" not in name}
    archive = dict(state.archive.elites()), state.archive.front(), list(state.archive.ranking())
    return set(state.proposals), screens, archive, state.champion() and state.champion().genome


@pytest.fixture
def recorded(toy, run_of, tmp_path):
    file = tmp_path / "answers.jsonl"
    Recorder(file).begin(Header(benchmark="toy", base=toy.base_hash, **HEADER))
    run = run_of(toy, seed=3, threads=2)
    models, ledger = Models(((Scripted(answer), 1.0),)), Ledger(run.tickets, Caps(), read_prices())
    state = played(run, toy, 1, models=models, recorder=Recorder(file), ledger=ledger)
    return file, state


def test_a_replay_finds_the_same_with_every_number_of_workers(toy, run_of, recorded):
    file, original = recorded
    recording = Recording(file)
    assert set(original.proposals) == set(recording._names)
    operators = {event.operator for event in recording.proposals.values()}
    assert {"improve", "mutate", "repair"} <= operators and operators & {"crossover", "sweep", "bundle"}
    for workers in (1, 2, 4):
        run = run_of(toy, f"replay{workers}", seed=3, threads=2, model=f"replay:{file}")
        state = played(run, toy, workers, recording=recording)
        assert found_in(state) == found_in(original)
        rejected = [e for _, e in state.slots.values() if isinstance(e, Rejected)]
        assert not any("broken" in event.operator for event in rejected)


def test_a_smaller_budget_replays_the_beginning_whoever_plays(toy, run_of, recorded):
    file, _ = recorded
    names = []
    for workers in (1, 4):
        run = run_of(toy, f"short{workers}", seed=3, threads=2, model=f"replay:{file}", evaluations=54)
        names.append(set(played(run, toy, workers, recording=Recording(file)).proposals))
    events = [e for e in Recording(file).proposals.values() if isinstance(e, Proposed)]
    assert names[0] == names[1] == set(list(dict.fromkeys(e.genome for e in events))[:6])


def test_a_replay_reads_the_recorded_answers(toy, recorded):
    file, _ = recorded
    recording = Recording(file)
    texts = [answer.text for answer in recording.answers.values()]
    assert texts and all(text.startswith("Hypothesis: ") for text in texts)
    lines = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    assert all(line["bytes"][0] > line["bytes"][1] // 20 for line in lines if "slot" in line)


def test_the_shipped_recording_fits_the_base_of_today():
    """What spoils the demonstration (another base, other merging, other reading of edits) is seen without judging."""
    speedrun = benchmarks.load("speedrun")
    recording = Recording(speedrun.root / "recorded" / "inbox-seed-11.jsonl")
    assert recording.header.base == speedrun.base_hash
    proposals = [event for event in recording.proposals.values() if isinstance(event, Proposed)]
    by_model = [event for event in proposals if event.operator in ("improve", "mutate", "repair")]
    assert len(by_model) >= 60
    for event in by_model[::3]:
        parent = recording.program_parent(event.parents[0])
        slots = (Slot(event.thread, event.number, attempt).name for attempt in range(3))
        answer = [recording.answers[slot] for slot in slots if slot in recording.answers][-1]
        program = genome.build(parent, speedrun.base)
        assert written.read(answer, parent, program, speedrun.base, speedrun).name == event.genome


def test_nine_tenths_of_a_real_search_come_from_the_cache(tmp_path, monkeypatch):
    """Fifty prompts of the shipped recording, made anew, by the usage of server and recorder alike."""
    path = Path(__file__).parents[1] / "scripts" / "measure_prompts.py"
    script = importlib.util.module_from_spec(spec := importlib.util.spec_from_file_location("measure_prompts", path))
    spec.loader.exec_module(script)
    recording = Recording(benchmarks.load("speedrun").root / "recorded" / "inbox-seed-11.jsonl")
    provider = Provider()
    with serving(provider) as address:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", address)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "none")
        crew = script.made(tmp_path, "speedrun", 50, None, recording.header.threads)
        script.replayed(crew, provider, recording, 50)
        crew.close()
    rows = [json.loads(line) for line in (tmp_path / "record.jsonl").read_text().splitlines()]
    recorded = [Usage(**row["usage"]) for row in rows]
    assert [usage.cache_read for usage in recorded] == [one["cache_read_input_tokens"] for one in provider.usages]
    sent = sum(usage.input + usage.cache_read + usage.cache_write for usage in recorded)
    assert len(rows) == 50 and sum(usage.cache_read for usage in recorded) > 0.9 * sent


def test_a_torn_last_line_is_left_out(recorded):
    file, _ = recorded
    before = Recording(file).proposals
    with open(file, "a") as out:
        out.write('{"at":0.0,"event":"prop')
    assert Recording(file).proposals == before


@pytest.mark.parametrize("kind", ["answer", "proposal"])
def test_a_damaged_recording_is_refused(recorded, kind):
    """A digit that a disk has turned, and a line whose checksum is gone with it: both would be another search."""
    file, _ = recorded
    lines = file.read_text().splitlines()
    at = next(n for n, line in enumerate(lines) if ('"slot"' in line) == (kind == "answer") and "RATE = 0.1" in line)
    for damage in (
        lambda line: line.replace("RATE = 0.1", "RATE = 0.7", 1),
        lambda line: line.split(',"crc":')[0] + "}",
    ):
        file.write_text("\n".join([*lines[:at], damage(lines[at]), *lines[at + 1 :]]) + "\n")
        with pytest.raises(UserMistake, match=r"not as it was written|no checksum"):
            Recording(file)


def test_what_is_no_recording_is_told(tmp_path):
    (tmp_path / "text").write_text("hello\n")
    for name in ("text", "nowhere"):
        with pytest.raises(UserMistake, match="expected a recording"):
            Recording(tmp_path / name)
    with pytest.raises(UserMistake, match="exists already"):
        Recorder(tmp_path / "text").begin(Header(benchmark="toy", base="b", **HEADER))


def test_a_recording_begins_with_its_run(toy, run_of, tmp_path, capsys):
    run = run_of(toy)
    assert evo_run.main(["--out", str(run.path), "--record", str(tmp_path / "late.jsonl")]) == 2
    assert "a recording begins with its run" in capsys.readouterr().err and not (tmp_path / "late.jsonl").exists()


@pytest.mark.parametrize("setting", [{"model": "command:touch {}/started"}, {"record": "{}/started"}])
def test_what_a_run_directory_starts_or_writes_must_be_named_again(toy, run_of, tmp_path, capsys, setting):
    """Whoever made the directory has chosen it: a line of a recording would be a command in somebody's .bashrc."""
    run = run_of(toy, **{key: value.format(tmp_path) for key, value in setting.items()})
    assert evo_run.main(["--out", str(run.path), "--evaluations", "70"]) == 2
    assert "name it again to go on" in capsys.readouterr().err and not (tmp_path / "started").exists()
