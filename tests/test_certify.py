"""Certification: what it weighs, when it goes stale, what falls with a failed one."""

from __future__ import annotations

import dataclasses
import math
import os
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from conftest import TableJudge, library_of, new_worker
from test_search import finished, judged_base, placed, proposal

from evo import certify, inspect, journal, recertify, run, rundir, search, stats
from evo.certify import PairResult, Spread
from evo.events import Certified, Evaluated, Marked, Noted, Quarantined, Refuted, Started, Task
from evo.outcome import Outcome, Status


def later(events, at):
    """Entries of another writer, after everything else."""
    return [dataclasses.replace(entry, at=entry.at + at) for entry in placed(events, writer="x")]


def pair(toy, gain, k=0, fingerprint="f", status=None):
    ours = Outcome.failed(status, "x") if status else Outcome.passed(math.exp(-gain), artifact=f"{k}-{gain}")
    sides = [(ours, "g"), (Outcome.passed(1.0), "base")]
    return PairResult(*(Evaluated(Task(name, "certify0-g", k), o, 1.0, fingerprint) for o, name in sides))


TABLE = Spread(1.0, 25)


def decided(toy, gains, spread=TABLE, **fields):
    pairs = [pair(toy, gain, k) for k, gain in enumerate(gains)]
    known = {"genome": "g", "round": 0, "spread": spread, "judge": "v1", "may_go_on": True}
    return certify.decide(fields.pop("pairs", pairs), toy.objective, **{**known, **fields})


def test_a_verdict_says_by_which_judge_and_noise(toy):
    found = decided(toy, [3.0, 3.1, 2.9, 3.2])
    assert isinstance(found, Certified)
    assert (found.judge, found.fingerprint, found.df, found.pair_sd) == ("v1", "f", certify.TABLE_DF, 1.0)


def test_a_hopeless_candidate_ends_early_and_a_doubtful_one_does_not(toy):
    assert decided(toy, [0.0] * 7) is None
    assert isinstance(decided(toy, [-0.1] * 8), Refuted)
    assert decided(toy, [0.5] * 8) is None


def test_pairs_of_another_device_do_not_count(toy):
    here = [pair(toy, 3.0 + k / 100, k) for k in range(4)]
    there = [pair(toy, -50.0, 4, fingerprint="other")]
    found = decided(toy, [], pairs=here + there)
    assert isinstance(found, Certified) and found.pairs == 4 and found.fingerprint == "f"


def test_replicates_that_scatter_more_than_the_table_widen_the_noise():
    table, df = Spread(1.0, 25), certify.TABLE_DF
    assert table.of([0.1, 0.2]) == (1.0, df) and Spread(1.0, 2).of([]) == (1.0, 2)
    assert table.with_replicates(0.0, 5).of([])[0] == pytest.approx(math.sqrt(df / (df + 5)))
    assert table.with_replicates(20.0, 5) == Spread(1.0, 25, 20.0, 5)
    assert table.with_replicates(20.0, 5).of([]) == (2.0, df + 5)
    wild = [4.0, -4.0, 4.0, -4.0]
    assert table.of(wild)[0] == pytest.approx(stats.sample_sd(wild)) and table.of(wild)[1] == df


def test_a_noisier_host_than_the_table_knows_makes_few_false_certificates(toy):
    """At twice the table's sd 5.5% of empty candidates passed before the pairs' own scatter counted."""
    chance = random.Random(4)
    wrong, candidates = 0, 100
    for _ in range(candidates):
        gains: list[float] = []
        while (verdict := decided(toy, gains)) is None:
            gains.append(chance.gauss(0, 2))
            if len(gains) >= 12 and not isinstance(verdict, Certified):
                break
        wrong += isinstance(verdict, Certified)
    assert stats.wilson(wrong, candidates)[0] < 0.015


def test_no_seed_of_a_search_is_one_of_a_certification(toy, run_of):
    run = run_of(toy)
    finished(run, toy)
    crew = new_worker(run, toy, TableJudge(), name="again")
    crew.state.extend(crew.journals.new_entries())
    recertify.recertify(crew, lambda _: None)
    crew.close()
    seeds = {True: set(), False: set()}
    for task in crew.state.outcomes:
        seeds[task.stage.startswith(("certify", "leave"))].add(crew.seed(task))
    assert len(seeds[True]) > 5 and len(seeds[False]) > 10
    assert not seeds[True] & seeds[False]


def test_pairs_are_interleaved_and_take_turns(toy, run_of):
    run = run_of(toy)
    state, _ = finished(run, toy)
    champion = state.champion()
    stage = f"certify{champion.round}-{champion.genome}"
    order = [task for task, _ in sorted(state.outcomes.items(), key=lambda item: item[1][0]) if task.stage == stage]
    assert [task.k for task in order] == [k for k in range(champion.pairs) for _ in range(2)]
    first = [task.genome == state.base.name for task in order[::2]]
    assert first == [k % 2 == 0 for k in range(champion.pairs)]


def test_no_verdict_comes_before_the_third_pair_so_three_may_be_judged_side_by_side(toy, run_of):
    crew = new_worker(run_of(toy), toy, TableJudge())
    while not isinstance(next(crew.state.steps(), None), search.Pair):
        crew.work(limit=1)
        crew.state.extend(crew.journals.new_entries())

    def offered() -> list[int]:
        return [step.k for step in crew.state.steps()]

    first = next(crew.state.steps())
    assert offered() == [0, 1, 2]
    for k, left in ((1, [0, 2]), (0, [2]), (2, [3])):
        crew.one_pair(first.candidate, first.rival, first.stage, k)
        assert offered() == left
    assert [step.k for step in crew.state.steps(ahead=True)] == [3, 4, 5]
    crew.one_pair(first.candidate, first.rival, first.stage, 4)
    assert [step.k for step in crew.state.steps(ahead=True)] == [3, 5]
    assert len(crew.state.certification(first.round, first.candidate)) == 3  # what is behind a gap waits
    crew.close()


def test_workers_that_judge_side_by_side_keep_less_time_for_the_proof(toy, run_of):
    crew = new_worker(run_of(toy), toy, TableJudge())
    outcomes = {k: ((f"writer{k % 4}", k), None) for k in range(10)}
    crew.state = SimpleNamespace(seconds=100.0, used=10, outcomes=outcomes, settings=SimpleNamespace(reserve=20))
    crew.clock, crew.span, crew.deadline = lambda: 0.0, 1000.0, 100.0  # 14 evaluations of 10 s, or of 2.5 s
    for crew.exclusive, late in ((True, True), (False, False)):
        assert crew.out_of_time() is late
    crew.close()


def test_a_base_that_drifts_is_told(toy, run_of):
    class Slowing(TableJudge):
        def judge(self, program, *, stage, seed):
            found = super().judge(program, stage=stage, seed=seed)
            slower = 1.3 if stage.startswith("certify") else 1.0
            return dataclasses.replace(found, score=found.score * slower) if found.score else found

    steady, _ = finished(run_of(toy, "steady"), toy)
    slowing, _ = finished(run_of(toy, "slowing"), toy, Slowing())
    for state, drifted in ((steady, False), (slowing, True)):
        assert any("drift" in text for _, _, text in state.notes) == drifted
        assert any("DRIFTED" in line for line in inspect.drifts(state)) == drifted
    assert slowing.drift(0)[0] == pytest.approx(-math.log(1.3), abs=0.05)


def test_a_changed_judge_makes_certificates_stale_and_certify_makes_them_anew(toy, run_of):
    class Newer(TableJudge):
        def fingerprint(self):
            return {"device": "table", "judge": "v2"}

    run = run_of(toy)
    before, _ = finished(run, toy)
    old = before.champion()
    crew = new_worker(run, toy, Newer(), name="newer")
    crew.journal = journal.Journal(run.events, "tomorrow-1-0", lambda: 1e6)
    crew.ready_judge()
    state = crew.state.extend(crew.journals.new_entries())
    assert state.champion() is None and state.stale() == {old.genome: old}
    assert "judge none, now v2" in state.staleness(old)
    assert "--certify makes it anew" in inspect.table(state, toy, toy.profile(None))
    verdict = recertify.recertify(crew, lambda _: None)
    crew.close()
    assert isinstance(verdict, Certified) and verdict.judge == "v2"
    assert verdict.genome in state.certified()


def test_a_second_device_makes_nothing_stale_and_a_newer_judge_elsewhere_does(toy, run_of):
    state = search.State(run_of(toy).settings(), toy)
    mine = proposal(state, 0, patch=library_of(toy)[0])
    given = Certified(mine.genome, 0, 3, 200.0, 0.2, 0.1, 0.3, "", "one", judge="v1")
    start = Started("both", "one", {"device": "a", "judge": "v1"})
    events = [start, *judged_base(state), mine, given, Started("both", "two", {"device": "b", "judge": "v1"})]
    state.extend(placed(events))
    assert mine.genome in state.certified()
    state.extend(later([Started("both", "three", {"device": "b", "judge": "v2"})], at=90))
    assert state.champion() is None and "the judge is v2 now" in state.staleness(given)


def stacked(state, toy):
    """A certified genome, one built on it, and one that holds its patch without descending from it."""
    one, two, three = library_of(toy)[:3]
    mine = proposal(state, 0, patch=one)
    both = state.base.with_patch(one).with_patch(two)
    other = state.base.with_patch(one).with_patch(three)
    child, cousin = (
        dataclasses.replace(
            proposal(state, number, patch=patch, parents=parents),
            genome=own.name,
            patches=tuple(p.name for p in own.patches),
            identity=own.name,
            seedless=own.name,
        )
        for number, patch, parents, own in ((1, two, (mine.genome,), both), (2, three, (state.base.name,), other))
    )
    screens = [Evaluated(Task(p.genome, "screen"), Outcome.passed(4.0), 1.0, "f") for p in (mine, child, cousin)]
    return mine, child, cousin, [*judged_base(state), mine, child, cousin, *screens]


def test_a_certificate_that_is_not_confirmed_demotes_and_marks_what_was_built_on_it(toy, run_of):
    state = search.State(run_of(toy).settings(), toy)
    mine, child, cousin, events = stacked(state, toy)
    state.extend(placed([*events, Certified(mine.genome, 0, 3, 200.0, 0.2, 0.1, 0.3, "", "f")]))
    assert mine.genome in state.archive.front() and not state.doubts(child.genome)
    failed = Refuted(mine.genome, 1, 20, 0.4, 0.01, -0.1, 0.1, "not shown", "f")
    state.extend(later([failed], at=50))
    assert state.champion() is None
    assert mine.genome not in {*state.archive.elites().values(), *state.archive.front()}
    for name in (child.genome, cousin.genome):
        assert state.doubts(name) == [f"built on {mine.genome}: its certificate was not confirmed"]
        assert not state.objection(name)
    rows = inspect.lineage(state, child.genome)
    assert rows[-1]["doubts"] and rows[-2]["barred"] == "its certificate was not confirmed"


def test_a_verdict_that_the_budget_cut_short_demotes_nothing(toy, run_of):
    state = search.State(run_of(toy).settings(), toy)
    mine, *_, events = stacked(state, toy)
    given = [
        Certified(mine.genome, 0, 3, 200.0, 0.2, 0.1, 0.3, "", "f"),
        Refuted(mine.genome, 1, 1, 1.1, 0.1, -0.1, 0.3, "", "f", spent=True),
    ]
    state.extend(placed([*events, *given]))
    assert not state.objection(mine.genome) and not state.doubts(mine.genome)


def test_quarantine_is_seen_never_elite_and_ends_by_a_persons_mark(toy, run_of):
    state = search.State(run_of(toy).settings(), toy)
    mine, child, _, events = stacked(state, toy)
    state.extend(placed([*events, Quarantined(mine.genome, "too good")]))
    assert mine.genome not in {*state.archive.elites().values(), *state.archive.front()}
    assert inspect.quarantine(state)[0]["held"] and state.summary()["quarantined"] == 1
    assert "quarantine" in inspect.table(state, toy, toy.profile(None))
    assert state.doubts(child.genome) == [f"built on {mine.genome}: in quarantine: too good"]
    state.extend(later([Marked(mine.genome, "release")], at=60))
    assert mine.genome in state.archive.front() and not state.doubts(child.genome)
    state.extend(later([Marked(mine.genome, "condemn")], at=90))
    assert mine.genome not in state.archive.front()


def test_the_table_shows_what_the_search_believed_beside_what_was_certified(toy, run_of):
    state, _ = finished(run_of(toy), toy)
    champion = state.champion()
    searched = state.searched(champion.genome)
    assert searched == pytest.approx(state.archive.posterior(champion.genome) * 0.02)
    shown = inspect.table(state, toy, toy.profile(None))
    assert f"searched     {toy.objective.describe(searched)}" in shown
    assert inspect.describe_genome(state, champion.genome)["searched_gain"] == searched


def test_leave_one_out_never_decides_on_one_pair_and_stops_at_eight(toy, run_of):
    run = run_of(toy, evaluations=90)
    finished(run, toy)
    crew = new_worker(run, toy, TableJudge(noise=0.3), name="again")
    state = crew.state.extend(crew.journals.new_entries())
    own = state.genome(state.champion().genome)
    idle = next(patch for patch in crew.library if patch.hypothesis == "adds nothing")
    whole = own.with_patch(idle) if idle.name not in own else own
    recertify.register(crew, whole, own.name)
    shares = [recertify.weigh(crew, whole, patch, lambda _: None) for patch in whole.patches]
    crew.close()
    assert all(2 <= share.pairs <= certify.LEAVE_OUT_PAIRS for share in shares)
    assert next(share for share in shares if share.patch == idle).benefit == 0.0


def test_a_crash_in_a_certification_refutes(toy):
    pairs = [pair(toy, 1.0), pair(toy, 1.0, 1, status=Status.CRASHED)]
    found = decided(toy, [], pairs=pairs)
    assert isinstance(found, Refuted) and "CRASHED inside certification" in found.reason


def test_notes_of_drift_are_events_like_others(toy, run_of):
    state = search.State(run_of(toy).settings(), toy)
    state.extend(placed([Noted("drift: x")]))
    assert state.notes[0][2] == "drift: x"


def test_screens_of_another_device_than_the_base_runs_are_told(toy, run_of):
    state = search.State(run_of(toy).settings(), toy)
    *_, events = stacked(state, toy)
    state.extend(placed(events))
    assert state.mixed() == 0 and "mixed" not in inspect.table(state, toy, toy.profile(None))
    moved = [dataclasses.replace(e, fingerprint="g") if isinstance(e, Evaluated) else e for e in events[:-1]]
    other = search.State(state.settings, toy).extend(placed([*moved, events[-1]]))
    assert other.mixed() == 1
    assert "1 of 3 screens are of another device" in inspect.table(other, toy, toy.profile(None))


def test_any_part_of_a_run_can_be_looked_at(toy, run_of):
    """Journals of other hosts arrive late: no view may rest on what is not there yet."""
    run = run_of(toy)
    finished(run, toy)
    entries = journal.Journals(run.events).new_entries()
    verdicts = [entry for entry in entries if isinstance(entry.event, Certified | Refuted)]
    assert verdicts
    for cut in range(0, len(entries), 3):
        for part in (entries[:cut], [*entries[:cut], *verdicts]):
            state = search.State(run.settings(), toy).extend(part)
            if all(verdict.event.genome in state.proposals for verdict in verdicts if verdict in part):
                inspect.table(state, toy, toy.profile(None))
                inspect.drifts(state)
                state.spread(9, "x")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_patches_that_somebody_brings_are_certified_and_weighed_without_a_search(
    toy, tmp_path, monkeypatch, capsys, elsewhere
):
    """The same verdict from this process and from those of a pool, here a thread that stands in for one."""
    monkeypatch.setattr("evo.worker.open_judge", lambda *_, **__: nullcontext(TableJudge()))
    monkeypatch.setattr(recertify, "_here", [])
    if elsewhere:
        monkeypatch.setattr(recertify, "ProcessPoolExecutor", lambda count, mp_context: ThreadPoolExecutor(1))
    files = []
    for patch in (library_of(toy)[0], library_of(toy)[3]):
        files.append(tmp_path / f"{patch.name}.patch")
        files[-1].write_text(patch.diff)
    out = tmp_path / "run"
    asked = ["--benchmark", str(toy.root), "--out", str(out), "--prove", *map(str, files)]
    assert run.main([*asked, "--workers", "3" if elsewhere else "1"]) == 0
    state = search.State(rundir.RunDir(out).settings(), toy).extend(journal.Journals(out / "events").new_entries())
    assert {len(state.genome(name).patches) for name in state.certified()} == {1, 2}  # one of them does nothing
    assert state.champion().pairs >= certify.MIN_PAIRS and not state.base_scores
    told = capsys.readouterr()
    assert "twice the rate" not in told.out and "worth" in told.err and "dropped" in told.err
    assert "champion" in told.out and (out / "best" / "champion.patch").exists() and (out / "report.html").exists()
    assert run.main([*asked[:-2], str(files[1])]) == 0  # the one that does nothing, in the same directory
    assert "the table tells of the champion of" in capsys.readouterr().err
    other = ["--benchmark", str(toy.root), "--out", str(tmp_path / "other"), "--prove", str(tmp_path / "nowhere.patch")]
    assert run.main(other) == 2 and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("diff", "why"),
    [
        ("--- /dev/null\n+++ b/../elsewhere.py\n@@ -0,0 +1 @@\n+x\n", "expected the path of a file"),
        ("--- /dev/null\n+++ b/helper.py\n@@ -0,0 +1 @@\n+x\n", "may not be changed"),
        ("--- a/solve.py\n+++ b/solve.py\n@@ -1 +1 @@\n-RATE = 0.1\n+RATE =\n", "does not parse"),
    ],
)
def test_a_patch_that_somebody_brings_is_looked_at_as_a_proposal_is(toy, tmp_path, capsys, diff, why):
    (tmp_path / "x.patch").write_text(diff)
    asked = ["--benchmark", str(toy.root), "--out", str(tmp_path / "run"), "--prove", str(tmp_path / "x.patch")]
    assert run.main(asked) == 2
    assert why in capsys.readouterr().err and not list(tmp_path.glob("**/elsewhere.py"))


@pytest.mark.parametrize(("line", "why"), [("import socket", "uses socket"), ("TWICE = 1", "a step of")])
def test_what_is_proved_is_audited_and_told_to_be_no_champion(toy, tmp_path, monkeypatch, capsys, line, why):
    """A run that proves patches has no base runs: steps count from the base's sides of pairs."""
    monkeypatch.setattr("evo.worker.open_judge", lambda *_, **__: nullcontext(TableJudge()))
    file = toy.root / "benchmark.toml"
    file.write_text(file.read_text() + "[profiles.main.audit]\njump = 0.3\n")
    (tmp_path / "x.patch").write_text(
        f"--- a/solve.py\n+++ b/solve.py\n@@ -1 +1,2 @@\n-RATE = 0.1\n+RATE = 0.2\n+{line}\n"
    )
    asked = ["--benchmark", str(toy.root), "--out", str(tmp_path / "run"), "--prove", str(tmp_path / "x.patch")]
    assert run.main(asked) == 0
    told = capsys.readouterr()
    assert "(but no champion: in quarantine:" in told.err and why in told.err
    assert "none certified" in told.out and not (tmp_path / "run" / "best").exists()


def test_what_a_stranger_wrote_moves_no_cursor(toy, run_of, capsys):
    """A hypothesis, a reason and a note come from models, or with somebody's run directory."""
    path = run_of(toy).path
    assert inspect.main([str(path), "note", "\x1b[2Kall is well\u202e"]) == 0
    assert inspect.main([str(path), "events"]) == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told and "\u202e" not in told and told.count("\\u001b[2Kall is well\\u202e") == 2


@pytest.mark.parametrize("name", ["claims", "best/program"])
def test_a_run_whose_folders_lead_elsewhere_is_refused(toy, run_of, tmp_path, capsys, name):
    """Old claims and the program of an earlier champion are deleted: in somebody else's run they could be any files."""
    path, precious = run_of(toy).path, tmp_path / "precious"
    precious.mkdir()
    (precious / "libc.so.6").write_text("kept")
    os.utime(precious / "libc.so.6", (0, 0))
    (path / name).parent.mkdir(exist_ok=True)
    if (path / name).exists():
        (path / name).rmdir()
    (path / name).symlink_to(precious)
    assert run.main(["--certify", str(path)]) == 2 and inspect.main([str(path)]) == 2
    assert "found a link" in capsys.readouterr().err and list(precious.iterdir())


def test_an_interrupted_certification_says_so(toy, run_of, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(recertify, "recertify", interrupted)
    path = run_of(toy).path
    assert recertify.main(path, run.options(["--certify", str(path)])) == 130
    assert "interrupted; what was judged is kept" in capsys.readouterr().err
