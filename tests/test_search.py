"""The loop: real search and certification code over a deterministic judge."""

from __future__ import annotations

import json
import random
from pathlib import Path

from conftest import TableJudge, new_worker

from evo import journal, search
from evo.events import Certified, dump


def finished(run, benchmark, judge=None, **fields):
    worker = new_worker(run, benchmark, judge or TableJudge(), **fields)
    try:
        reason = worker.work()
    finally:
        worker.close()
    return worker.state, reason


def test_a_search_certifies_a_real_gain(toy, run_of):
    state, _ = finished(run_of(toy), toy)
    champion = state.champion()
    assert champion is not None and champion.p <= 0.01
    assert champion.low > 0.1
    assert state.used <= state.settings.evaluations


def test_same_seed_writes_identical_events(toy, run_of):
    texts = []
    for name in ("one", "two"):
        run = run_of(toy, name)
        finished(run, toy)
        (file,) = run.events.glob("*.jsonl")
        texts.append(file.read_text())
    assert texts[0] == texts[1]
    assert texts[0].count("\n") > 30


def test_another_seed_searches_elsewhere(toy, run_of):
    genomes = [set(finished(run_of(toy, f"s{seed}", seed=seed), toy)[0].proposals) for seed in (0, 1)]
    assert genomes[0] != genomes[1]


def test_the_fold_does_not_depend_on_order(toy, run_of):
    run = run_of(toy)
    reference, _ = finished(run, toy)
    entries = journal.Journals(run.events).new_entries()
    for seed in range(5):
        shuffled = list(entries)
        random.Random(seed).shuffle(shuffled)
        state = search.State(run.settings(), toy).extend(shuffled)
        assert state.summary() == reference.summary()
        assert state.archive.elites() == reference.archive.elites()
        assert state.archive.front() == reference.archive.front()
        assert list(state.steps()) == list(reference.steps())


def test_a_task_judged_twice_counts_once(toy, run_of):
    run = run_of(toy)
    reference, _ = finished(run, toy)
    source = next(run.events.glob("*.jsonl"))
    doubled = [line.replace('"score":', '"score":9') for line in source.read_text().splitlines() if '"screen"' in line]
    run.journal("zz-later-0").write_text("\n".join(doubled) + "\n")
    state = search.State(run.settings(), toy).extend(journal.Journals(run.events).new_entries())
    assert state.summary() | {"seconds": 0} == dict(reference.summary()) | {"seconds": 0}
    assert state.archive.front() == reference.archive.front()


def test_a_killed_worker_loses_nothing(toy, run_of):
    undisturbed, _ = finished(run_of(toy, "undisturbed"), toy)
    run = run_of(toy, "killed")
    chance = random.Random(3)
    for attempt in range(200):
        worker = new_worker(run, toy, TableJudge(), name=f"h{attempt}")
        reason = worker.work(limit=chance.randint(1, 6))
        worker.claims._closed.set()  # as kill -9 leaves it: claims stay on disk, nothing is said
        held = list(run.claims.glob("*"))
        for claim in held:
            claim.unlink()
        if reason != "asked to stop":
            break
        file = run.journal(worker.journal.writer)
        if chance.random() < 0.5 and file.stat().st_size:
            with open(file, "ab") as torn:
                torn.write(b'{"at":1,"event":"evalu')  # a write that the power cut interrupted
    assert worker.state.archive.elites() == undisturbed.archive.elites()
    assert worker.state.archive.front() == undisturbed.archive.front()
    assert worker.state.champion() == undisturbed.champion()


def test_controls_make_the_choice_that_names_them(toy, run_of):
    for control, check in {
        "best-of-n": lambda s: all(p.parents == (s.base.name,) for p in s.proposals.values()),
        "no-crossover": lambda s: all(p.operator != "crossover" for p in s.proposals.values()),
        "sweep-only": lambda s: {p.operator for p in s.proposals.values()} == {"polish"},
        "no-library": lambda s: all(p.operator in ("sweep", "crossover") for p in s.proposals.values()),
    }.items():
        state, _ = finished(run_of(toy, control, control=control), toy)
        assert state.proposals and check(state), control


def test_aa_judges_the_base_and_certifies_nothing(toy, run_of):
    state, _ = finished(run_of(toy, control="aa"), toy)
    assert state.proposals
    assert state.champion() is None


def test_failures_are_never_elites(toy, run_of):
    state, _ = finished(run_of(toy), toy)
    failed = [task.genome for task, (_, e) in state.outcomes.items() if e.outcome.score is None]
    assert failed
    assert not set(failed) & (set(state.archive.front()) | set(state.archive.elites().values()))


def test_certificates_come_from_fresh_pairs_only(toy, run_of):
    run = run_of(toy)
    state, _ = finished(run, toy)
    champion = state.champion()
    searched = [e.outcome.score for t, (_, e) in state.outcomes.items() if not t.stage.startswith("certify")]
    pairs = state.pairs(f"certify{0}-{champion.genome}", champion.genome, state.base.name)
    assert len(pairs) == champion.pairs
    assert not {p.candidate.outcome.score for p in pairs} & set(searched)
    assert isinstance(champion, Certified) and '"event":"certified"' in dump(champion, 0)


def test_leave_one_out_drops_what_does_not_pay(toy, run_of):
    from evo import recertify

    run = run_of(toy, evaluations=90)
    finished(run, toy)
    crew = new_worker(run, toy, TableJudge(noise=0.0), name="again")
    crew.state.extend(crew.journals.new_entries())
    # a champion with a patch that adds nothing, as a lucky search may leave it
    own = crew.state.genome(crew.state.champion().genome)
    idle = next(patch for patch in crew.library if patch.hypothesis == "adds nothing")
    stacked = own.with_patch(idle) if idle.name not in own else own
    recertify.register(crew, stacked, own.name)
    said: list[str] = []
    share = recertify.weigh(crew, stacked, idle, said.append)
    assert not share.pays and "dropped" in said[-1]
    verdict = recertify.recertify(crew, said.append)
    crew.close()
    assert isinstance(verdict, Certified)
    assert all(patch.name != idle.name for patch in crew.state.genome(verdict.genome).patches)


def test_cma_es_finds_the_valley_by_numbers_alone(toy, run_of):
    state, _ = finished(run_of(toy, control="sweep-only", evaluations=150), toy)
    champion = state.champion()
    assert champion is not None and champion.low > 0.2
    first, last = ([state.gain_of(0, n) or -1.0 for n in numbers] for numbers in (range(8), range(72, 80)))
    assert sum(last) > sum(first)


def test_an_old_journal_still_gives_its_archive(toy, run_of):
    """Journals of format 1, written once and kept: a later evo must fold them into what they said then."""
    old = Path(__file__).parent / "data" / "format-1"
    run = run_of(toy)
    (run.events / "old-1-0.jsonl").write_text((old / "events.jsonl").read_text())
    state = search.State(run.settings(), toy).extend(journal.Journals(run.events).new_entries())
    expected = json.loads((old / "summary.json").read_text())
    assert dict(state.summary()) == expected["summary"]
    assert state.archive.front() == expected["front"]
