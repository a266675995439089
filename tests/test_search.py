"""The loop: real search and certification code over a deterministic judge."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

from conftest import TableJudge, library_of, new_worker

from evo import certify, journal, search, stats
from evo.events import Certified, Entry, Evaluated, Lost, Proposed, Task, dump
from evo.judges import on_disk
from evo.outcome import Outcome, Status


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
    assert expected["summary"].items() <= dict(state.summary()).items()
    assert state.archive.front() == expected["front"]


def placed(events, writer="w", start=1):
    return [Entry(writer, start + n, float(n), event) for n, event in enumerate(events)]


def proposal(state, number, thread=0, operator="transplant", parents=None, patch=None):
    own = state.base.with_patch(patch)
    parents = parents or (state.base.name,)
    return Proposed(
        thread, number, operator, parents, own.name, (patch.name,), (patch,), "optimizer", "local", own.name, own.name
    )


def judged_base(state):
    return [
        Evaluated(Task(state.base.name, "base", k), Outcome.passed(5.0), 1.0, "f")
        for k in range(state.settings.base_runs)
    ]


def every_order(toy, run, events):
    """States of the same events in many orders."""
    for seed in range(12):
        entries = placed(events)
        random.Random(seed).shuffle(entries)
        yield search.State(run.settings(), toy).extend(entries)


def test_a_genome_whose_patch_was_not_read_yet_waits_for_it(toy, run_of):
    run = run_of(toy)
    state = search.State(run.settings(), toy)
    writes = proposal(state, 0, patch=library_of(toy)[0])
    borrows = dataclasses.replace(proposal(state, 1, patch=library_of(toy)[0]), new=())
    events = judged_base(state)
    state.extend(placed([*events, borrows]))
    assert not [step for step in state.steps() if isinstance(step, search.Judge)]
    state.extend(placed([*events, borrows, writes])[-1:])
    assert [step.task.genome for step in state.steps() if isinstance(step, search.Judge)] == [writes.genome]


def test_one_genome_from_two_slots_is_the_same_in_any_order(toy, run_of):
    run = run_of(toy)
    state = search.State(run.settings(), toy)
    one, two = library_of(toy)[:2]
    first = proposal(state, 0, patch=one)
    crossed = proposal(state, 1, thread=1, operator="crossover", parents=(first.genome, state.base.name), patch=two)
    alone = proposal(state, 2, thread=0, patch=two)
    scores = [Evaluated(Task(p.genome, "screen"), Outcome.passed(4.0), 1.0, "f") for p in (first, alone)]
    found = {
        (s.archive.posterior(alone.genome), s.archive[alone.genome].parents, s.archive.offspring(state.base.name))
        for s in every_order(toy, run, [*judged_base(state), first, crossed, alone, *scores])
    }
    assert len(found) == 1


def test_a_task_that_was_given_up_stays_so_in_any_order(toy, run_of):
    run = run_of(toy)
    state = search.State(run.settings(), toy)
    lost = proposal(state, 0, patch=library_of(toy)[0])
    events = [*judged_base(state), lost, *[Lost(Task(lost.genome, "screen"), "node")] * search.LOST_LIMIT]
    assert {s.waiting for s in every_order(toy, run, events)} == {0}


def test_a_larger_budget_goes_on_where_the_smaller_ended(toy, run_of):
    run = run_of(toy, evaluations=56)
    small, reason = finished(run, toy)
    assert reason == "budget spent"
    run.rewrite(dataclasses.replace(run.settings(), evaluations=90))
    large, reason = finished(run, toy, name="again")
    assert reason == "budget spent"
    assert large.screened > small.screened + 10
    assert len(large.rounds) == len(small.rounds) + 1


def test_time_that_ran_out_ends_one_call_only(toy, run_of):
    run = run_of(toy)
    first = new_worker(run, toy, TableJudge(), deadline=0.0)
    first.clock = lambda: float(first.state.used > 6)
    assert first.work() == "out of time"
    first.close()
    later, reason = finished(run, toy, name="later")
    assert reason == "budget spent" and later.screened > first.state.screened


def test_a_slow_machine_searches_in_half_of_its_time_rather_than_not_at_all(toy, run_of):
    now = [0.0]

    class Slow(TableJudge):
        def judge(self, program, *, stage, seed):
            now[0] += 40.0  # fourteen of these are longer than the whole call
            return super().judge(program, stage=stage, seed=seed)

    slow = new_worker(run_of(toy), toy, Slow(), deadline=450.0, span=450.0)
    slow.clock = lambda: now[0]
    assert slow.work() == "out of time"
    slow.close()
    assert slow.state.screened >= 2 and slow.state.verdicts
    assert now[0] < 450 + 120


def test_long_runs_validate_on_the_way(toy, run_of):
    state, reason = finished(run_of(toy, evaluations=320, reserve=60), toy)
    opened = [event for _, event in state.rounds.values()]
    assert len(opened) >= 3 or reason == "nothing left to propose"
    assert sum(event.covers > 0 for event in opened) == 1


class Losing(TableJudge):
    """Fails as a host does, whenever the base is judged for a certification."""

    def judge(self, program, *, stage, seed):
        is_base = (program / "solve.py").read_text() == self.base
        if stage.startswith(("certify", "leave")) and is_base:
            return Outcome.failed(Status.LOST, "the node is gone")
        return super().judge(program, stage=stage, seed=seed)


def test_a_certification_whose_base_is_always_lost_ends(toy, run_of):
    judge = Losing()
    judge.base = toy.base["solve.py"]
    state, reason = finished(run_of(toy), toy, judge)
    assert reason == "budget spent"
    assert state.champion() is None and state.lost >= search.LOST_LIMIT


class Harming(TableJudge):
    """Screens flatter every patch, certification finds it harmful: a refutation is an objection, too."""

    def judge(self, program, *, stage, seed):
        changed = (program / "solve.py").read_text() != self.base
        worse = stage.startswith("certify")
        return Outcome.passed((8.0 if worse else 3.0 + seed % 7 / 10) if changed else 5.0, artifact=str(seed))


def test_a_round_certifies_at_most_three(toy, run_of):
    judge = Harming()
    judge.base = toy.base["solve.py"]
    state, _ = finished(run_of(toy, evaluations=120, reserve=90), toy, judge)
    for number in state.rounds:
        assert len([key for key in state.verdicts if key[0] == number]) <= certify.CANDIDATES
    assert len(state.verdicts) == certify.CANDIDATES


class Vanishing(TableJudge):
    def judge(self, program, *, stage, seed):
        return Outcome.passed(5.0 if "RATE = 0.1\n" in (program / "solve.py").read_text() else 0.0)


def test_a_score_that_has_no_logarithm_is_wrong_and_ends_nothing(toy, run_of):
    state, reason = finished(run_of(toy), toy, Vanishing())
    zeros = [e.outcome for _, e in state.outcomes.values() if e.outcome.status is Status.WRONG]
    assert reason == "budget spent" and zeros
    assert "use gain = 'difference'" in zeros[0].detail
    entry = Evaluated(Task(next(iter(state.proposals)), "screen", 5), Outcome.passed(0.0), 1.0, "f")
    state.extend(placed([entry], writer="older"))  # a journal written before the worker looked


def test_few_degrees_of_freedom_give_a_verdict_that_can_be_written(toy, run_of):
    state, _ = finished(run_of(toy, noise_df=1.0, pair_sd=0.05), toy)
    for _, verdict in state.verdicts.values():
        assert "Infinity" not in dump(verdict, 0.0)
    low, high = stats.interval([0.1, 0.2], 0.05, 1.0)
    assert low < 0.1 < 0.2 < high < float("inf")


def test_where_programs_are_compiled_the_first_ones_are_while_the_base_is_judged(toy, run_of):
    class Compiling(TableJudge):
        seen = ()

        def prepare(self, program):
            self.seen = (*self.seen, (program / "solve.py").read_text())

    judge = Compiling()
    crew = new_worker(run_of(toy), toy, judge)
    crew.exclusive, mine = False, crew._is_mine
    crew._is_mine = lambda step: not isinstance(step, search.Judge) and mine(step)  # others judge the base
    assert crew.next_step() is None  # nobody has opened a judge yet
    crew.ready_judge()
    crew.work(limit=2)
    crew.state.extend(crew.journals.new_entries())
    assert not crew.state.outcomes and crew.next_step() is None  # one for each judge
    (name,) = crew.state.proposals
    assert judge.seen == (crew.state.program(crew.state.genome(name))["solve.py"],)
    crew._is_mine = mine
    crew.work(limit=crew.state.settings.base_runs + 1)
    crew.state.extend(crew.journals.new_entries())
    assert search.Task(name, "screen") in crew.state.outcomes
    crew.close()


def test_a_screen_that_shares_its_seed_with_a_base_run_is_compared_with_that(toy, run_of):
    """The toy judge's noise is the seed's alone, as most of a GPU's is: between equal seeds nothing of it is left."""

    def exact(state, own):
        with on_disk(state.program(own)) as place:
            return TableJudge(noise=0.0).judge(place, stage="", seed=0).score

    errors = {}
    for paired in (False, True):
        state, _ = finished(run_of(toy, f"paired-{paired}", paired=paired), toy, TableJudge(noise=0.2))
        base = exact(state, state.base)
        errors[paired] = [
            abs(state.gain_in(task, score) - toy.objective.gain_over(base, exact(state, state.genome(task.genome))))
            for task, (_, event) in state.outcomes.items()
            if task.stage.startswith(("screen", "finalist")) and (score := event.outcome.score) is not None
        ]
    assert max(errors[True]) < 1e-9 < 0.05 < stats.mean(errors[False])
    screens, finalists = ({state.twin(Task(g, stage)) for g in state.proposals} for stage in ("screen", "finalist0"))
    assert screens == finalists == set(range(state.settings.base_runs))
    assert all(state.twin(Task(g, "screen")) != state.twin(Task(g, "finalist0")) for g in state.proposals)
    assert state.twin(Task(state.base.name, "certify0-x")) is None


def test_a_step_that_others_have_done_meanwhile_is_not_done_again(toy, run_of):
    """One reading can tell that several steps are over: the second must not be taken for open as nothing new came."""

    class Two:
        left = (search.Propose(0, 0), search.Propose(1, 0))
        settings = waiting = None

        def steps(self, out_of_time, ahead):
            return iter(self.left)

        def extend(self, news):
            if news:
                self.left = ()

    crew = new_worker(run_of(toy), toy, TableJudge())
    crew.state = Two()
    crew.out_of_time = lambda: False
    readings = iter([["both are done"], []])
    crew.journals.new_entries = lambda: next(readings)
    try:
        assert crew.next_step() is None
    finally:
        crew.close()


def test_what_was_tried_is_told_with_what_its_score_was_made_of(toy, run_of):
    run = run_of(toy)
    crew = new_worker(run, toy, TableJudge())
    crew.work(limit=20)
    task, (place, found) = next(
        (t, v) for t, v in crew.state.outcomes.items() if t.stage == "screen" and v[1].outcome.score is not None
    )
    measured = dataclasses.replace(found.outcome, measures={"seconds": 3.25, "loss": 1.5, "peak_mb": 9.0})
    crew.state.outcomes[task] = place, dataclasses.replace(found, outcome=measured)
    told = next(trial.told for trial in crew.state.history() if trial.genome == task.genome)
    assert told.endswith("in 1 run, seconds 3.25, loss 1.5")
