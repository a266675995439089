"""Journals and claims: nothing is lost, nothing is read half, one task has one holder."""

from __future__ import annotations

import json
import multiprocessing
import os
import random

import pytest

from evo import events, journal
from evo.claims import Claims, Holder, start_time
from evo.events import (
    Budgeted,
    Certified,
    Evaluated,
    Lost,
    Marked,
    Noted,
    Proposed,
    Quarantined,
    Recorded,
    Rejected,
    Started,
    Stopped,
    Task,
)
from evo.genome import Patch
from evo.outcome import Outcome, Status

TASK = Task("g", "screen")
EXAMPLES = [
    Started("both", "f", {"device": "d"}),
    Proposed(0, 1, "sweep", ("p",), "g", ("a",), (Patch("diff", ("n",), "why"),), "optimizer", "local", "i", "s"),
    Rejected(0, 2, "sweep", ("p",), "reason\nwith a line"),
    Rejected(0, 3, "improve", ("p",), "no edit", usd=0.5, calls=(events.Call("m", 1, 2, 3, 4, 0.5),)),
    events.Reflected(1, 11, ("one", "two"), 0.25, (events.Call("m", 1, 2, 3, 4, 0.25),)),
    Evaluated(TASK, Outcome.passed(1.5, measures={"loss": 2.0}, artifact="x"), 3.0, "f"),
    Evaluated(TASK, Outcome.failed(Status.TIMEOUT, "é \u2028 {}"), 3.0, "f"),
    Lost(TASK, "node"),
    Quarantined("g", "screen: too good"),
    Recorded("h", "g", 0, False, "p = 0.2", 8, 1.7, 1.69, 0.01, 0.2, 3.0, 0.1, 4.0, 190.0, 3, "v", "f"),
    Budgeted(0, ("g",), (1.5,), "budget spent"),
    Certified("g", 0, 5, 123.0, 0.1, 0.05, 0.15, "E", "f"),
    events.Refuted("g", 0, 5, 0.1, 0.1, 0.05, 0.15, "E", "f", {"p": 0.5}),
    events.Quarantined("g", "too good"),
    Marked("g", "ban", "why"),
    Noted("text"),
    Stopped("done"),
]


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda e: e.kind)
def test_events_survive_a_round_trip(event):
    line = events.dump(event, 12.3456)
    assert "\n" not in line
    assert events.load(line) == (12.346, event)


def test_every_kind_has_an_example():
    assert {event.kind for event in EXAMPLES} == set(events.KINDS)


def test_a_journal_cut_at_any_byte_still_loads(tmp_path):
    own = journal.Journal(tmp_path, "w-0", lambda: 1.0)
    own.append(*EXAMPLES)
    data = (tmp_path / "w-0.jsonl").read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for cut in [*range(0, len(data), 7), *ends, len(data)]:
        (tmp_path / "w-0.jsonl").write_bytes(data[:cut])
        found = journal.Journals(tmp_path).new_entries()
        assert [entry.event for entry in found] == EXAMPLES[: sum(end <= cut for end in ends)]


def test_flips_and_cuts_lose_events_and_never_change_one(tmp_path):
    own = journal.Journal(tmp_path, "w-0", lambda: 1.0)
    own.append(*EXAMPLES)
    data = (tmp_path / "w-0.jsonl").read_bytes()
    chance = random.Random(0)
    for _ in range(120):
        broken = bytearray(data)
        if chance.random() < 0.3:
            first = chance.randrange(len(data))
            del broken[first : first + chance.randrange(200)]
        else:
            broken[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (tmp_path / "w-0.jsonl").write_bytes(broken)
        found = [entry.event for entry in journal.Journals(tmp_path).new_entries()]
        assert all(event in EXAMPLES for event in found)
        assert len(found) >= len(EXAMPLES) - 8


def test_a_line_that_lost_its_checksum_is_lost(tmp_path):
    """One of 1,000 random cuts took a checksum away and left JSON. Whole files of before there were any still load."""
    own = journal.Journal(tmp_path, "w-0", lambda: 1.0)
    own.append(Noted("1"), Noted("2"))
    lines = (tmp_path / "w-0.jsonl").read_text().splitlines()
    bare = [line[: line.index(events.CHECKSUM)] + "}" for line in lines]
    for text, left in ((bare, ["1", "2"]), ([bare[0], lines[1]], ["2"]), ([lines[0], bare[1]], ["1"])):
        (tmp_path / "w-0.jsonl").write_text("\n".join(text) + "\n")
        assert [entry.event.text for entry in journal.Journals(tmp_path).new_entries()] == left
    reader = journal.Journals(tmp_path)
    (tmp_path / "w-0.jsonl").write_text(lines[0] + "\n")
    assert len(reader.new_entries()) == 1
    with open(tmp_path / "w-0.jsonl", "a") as file:
        file.write(bare[1] + "\n")
    assert reader.new_entries() == []


def test_a_reader_follows_growing_files(tmp_path):
    one, two = (journal.Journal(tmp_path, name, lambda: 1.0) for name in ("a-0", "b-0"))
    reader = journal.Journals(tmp_path)
    one.append(Noted("1"))
    two.append(Noted("2"))
    assert [(e.place, e.event.text) for e in reader.new_entries()] == [(("a-0", 1), "1"), (("b-0", 1), "2")]
    with open(tmp_path / "a-0.jsonl", "ab") as torn:
        torn.write(events.dump(Noted("half"), 1.0).encode()[:-3])
    assert reader.new_entries() == []
    two.append(Noted("3"))
    assert [e.place for e in reader.new_entries()] == [("b-0", 2)]


def test_a_writer_never_continues_a_file(tmp_path):
    journal.Journal(tmp_path, journal.writer_name("host", 1, []), lambda: 1.0)
    assert journal.writer_name("host", 1, ["host-1-0"]) == "host-1-1"
    with pytest.raises(FileExistsError):
        journal.Journal(tmp_path, "host-1-0", lambda: 1.0)


def test_keys_of_a_later_version_are_dropped():
    line = json.loads(events.dump(Noted("x"), 1.0)) | {"colour": "red"}
    assert events.load(json.dumps(line))[1] == Noted("x")
    with pytest.raises(ValueError, match="not an event"):
        events.load('{"at":1,"event":"unheard"}')


def holder(name="host", process=None):
    process = process or os.getpid()
    return Holder(name, process, start_time(process) or 0)


def test_one_task_has_one_holder(tmp_path):
    first, second = Claims(tmp_path, holder()), Claims(tmp_path, holder("elsewhere"))
    assert first.take("g.screen.1")
    assert not second.take("g.screen.1")
    assert second.take("g.screen.10")  # a longer number is another task
    first.release("g.screen.1")
    assert second.take("g.screen.1")
    first.close()
    second.close()
    assert not [name for name in os.listdir(tmp_path) if not name.startswith(".")]


def test_a_dead_process_of_this_host_is_succeeded_at_once(tmp_path):
    child = multiprocessing.get_context("fork").Process(target=os.getpid)
    child.start()
    ghost = holder(process=child.pid)
    child.join()
    dead, living = Claims(tmp_path, ghost), Claims(tmp_path, holder())
    assert dead.take("t")
    dead._closed.set()
    assert living.take("t")
    assert sorted(name for name in os.listdir(tmp_path) if name.startswith("t.")) == ["t.0", "t.1"]
    living.close()


def test_an_expired_lease_is_taken_over_by_the_next_number(tmp_path):
    away, here = Claims(tmp_path, holder("away")), Claims(tmp_path, holder(), lease_s=5.0)
    assert away.take("t")
    assert not here.take("t")
    old = os.stat(tmp_path / "t.0").st_mtime - 10
    os.utime(tmp_path / "t.0", (old, old))
    assert here.take("t")
    assert (tmp_path / "t.0").exists() and (tmp_path / "t.1").exists()
    away.close()
    here.close()


def _race(folder, ready, wins):
    claims = Claims(folder, holder())
    ready.wait()
    wins.put(sum(claims.take(f"t{i}") for i in range(50)))
    claims._closed.set()


def test_racing_workers_share_without_overlap(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, wins = context.Event(), context.Queue()
    racers = [context.Process(target=_race, args=(tmp_path, ready, wins)) for _ in range(4)]
    for racer in racers:
        racer.start()
    ready.set()
    # a claim of a racer that has ended is free again, so nobody may end before all have counted
    total = sum(wins.get(timeout=30) for _ in racers)
    for racer in racers:
        racer.join()
    assert total >= 50
    assert len({name.rpartition(".")[0] for name in os.listdir(tmp_path) if name.startswith("t")}) == 50


def test_a_line_that_a_full_disk_cut_off_swallows_no_other(tmp_path, monkeypatch):
    own = journal.Journal(tmp_path, "w-0", lambda: 1.0)
    own.append(Noted("first"))
    write = os.write

    def full(handle, data):
        if len(data) < 10:
            raise OSError(28, "No space left on device")
        return write(handle, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        own.append(Noted("second"))
    monkeypatch.setattr(os, "write", write)
    own.append(Noted("third"))
    own.append(Noted("fourth"))
    texts = [entry.event.text for entry in journal.Journals(tmp_path).new_entries()]
    assert texts == ["first", "third", "fourth"]


def test_half_a_surrogate_pair_costs_no_event(tmp_path):
    own = journal.Journal(tmp_path, "a-1-0", lambda: 1.0)
    outcome = Outcome.passed(1.0, detail="a\udfff")
    own.append(Noted("x\ud800y"), Marked("g", "ban", "\udc80"), Evaluated(Task("g", "screen"), outcome, 1.0, "f"))
    own.close()
    found = [entry.event for entry in journal.Journals(tmp_path).new_entries()]
    assert found[0] == Noted("x?y") and found[1].reason == "?" and found[2].outcome.detail == "a?"
