"""What is refused unread, what is put in quarantine, and how it comes back."""

from __future__ import annotations

import base64
import dataclasses
import random

import pytest
from conftest import TOML, TableJudge, library_of, new_worker
from test_certify import later, stacked
from test_search import placed

from evo import audit, inspect, operators, search
from evo import benchmark as benchmarks
from evo.benchmark import Audit, UserMistake
from evo.chance import Chance
from evo.events import Marked, Proposed, Quarantined, Rejected, Task
from evo.genome import Genome, build, patch_between
from evo.operators import Draft, Scene
from evo.outcome import Outcome
from evo.recording import Recording

NOISE = random.Random(0).randbytes(40_000)
PIECES = [base64.b64encode(NOISE[at : at + 192]).decode() for at in range(0, 39_936, 192)]


def suspected(toy, bounds, score=4.0, program=None, **measures):
    outcome = Outcome.passed(score, measures=measures)
    return audit.suspicion(program or toy.base, toy.base, outcome, toy.objective, 5.0, {"gap": 0.1}, bounds)


def changed(toy, old, new):
    return {"solve.py": toy.base["solve.py"].replace(old, new)}


@pytest.mark.parametrize(
    "carried",
    [
        f"TABLE = {base64.b64encode(NOISE).decode()!r}",
        f"TABLE = {NOISE!r}",
        "\n".join(f"T{i} = {NOISE[i : i + 20].hex()!r}" for i in range(0, len(NOISE), 20)),
        f"TABLE = {list(NOISE)}",
        "".join(f"# {NOISE[i : i + 40].hex()}\n" for i in range(0, len(NOISE), 40)),
    ],
    ids=["base64", "bytes", "many texts", "numbers", "comments"],
)
def test_a_program_that_carries_data_is_refused_however_it_is_spread(toy, carried):
    program = {"solve.py": carried + "\n" + toy.base["solve.py"]}
    assert "KB more than the base after compression" in audit.screen(program, toy.base, Audit())
    assert audit.screen(program, toy.base, Audit(carried_kb=100)) == ""


def test_a_long_program_that_says_little_is_refused_by_its_size_alone(toy):
    program = {"solve.py": toy.base["solve.py"] + "# again\n" * 40_000}
    assert "at most 256 are allowed" in audit.screen(program, toy.base, Audit())
    assert audit.screen(program, toy.base, Audit(program_kb=400)) == ""
    assert audit.screen(changed(toy, "return x + DEPTH", "return x + DEPTH + 0"), toy.base, Audit()) == ""


def test_what_is_refused_is_never_judged(toy):
    own = Genome(toy.base_hash)
    table = patch_between(own, toy.base, {"solve.py": f"TABLE = {NOISE!r}\n" + toy.base["solve.py"]}, hypothesis="x")
    scene = Scene(
        archive=None, tried=None, genome=None, build=lambda g: g and changed(toy, "RATE = 0.1", f"RATE = {NOISE!r}"),
        known=(), library=(), base=toy.base, editable=toy.is_editable, chance=Chance(0, 0, 0), gain_of=lambda _: None,
        novel=False,
    )  # fmt: skip
    found = operators.settle(scene, toy, "improve", Draft((own.name,), own.with_patch(table)))
    assert isinstance(found, Rejected) and "it must learn" in found.reason
    wide = dataclasses.replace(scene, bounds=Audit(carried_kb=100))
    assert isinstance(operators.settle(wide, toy, "improve", Draft((own.name,), own.with_patch(table))), Proposed)


@pytest.mark.parametrize(
    ("code", "flag"),
    [
        ("import subprocess", "subprocess"),
        ("from multiprocessing import Pool", "multiprocessing"),
        ("import os\nos.fork()", "fork"),
        ("from os import fork", "fork"),
        ("open('/proc/self/mem')", "'/proc/'"),
        ("NAME = 'evil.pth'", "'.pth'"),
        (f"DATA = {base64.b64encode(NOISE[:3000]).decode()!r}", "2048 characters and more of packed text"),
        (f"DATA = {NOISE[:3000]!r}", "2048 characters and more of packed text"),
        ("\n".join(f"D{i} = {PIECES[i]!r}" for i in range(8)), "2048 characters and more of packed text"),
    ],
)
def test_flags_lead_to_quarantine_unless_the_base_has_them(toy, code, flag):
    program = {"solve.py": code + "\n" + toy.base["solve.py"]}
    assert suspected(toy, Audit(), program=program) == f"uses {flag}"
    assert suspected(toy, Audit(flags=False), program=program) == ""
    assert audit.suspicion(program, program, Outcome.passed(4.0), toy.objective, 5.0, {}, Audit()) == ""


def test_long_prose_and_long_settings_are_no_packed_text(toy):
    prose = audit.__doc__ * 8
    program = {"solve.py": f'NOTE = """{prose}"""\n' + toy.base["solve.py"]}
    assert len(prose) > audit.PACKED_TEXT and suspected(toy, Audit(), program=program) == ""


def test_each_bound_has_its_effect(toy):
    assert suspected(toy, Audit(), score=0.01, gap=9.0, seconds=1e-9) == ""
    assert "is above the" in suspected(toy, Audit(jump=0.2), score=4.0)
    assert suspected(toy, Audit(jump=0.3), score=4.0) == ""
    built_on = audit.suspicion(toy.base, toy.base, Outcome.passed(4.0), toy.objective, 5.0, {}, Audit(jump=0.2), 0.1)
    assert built_on == ""  # a step from a parent that gained already
    assert "beyond 4.5" in suspected(toy, Audit(bound=4.5), score=4.0)
    assert suspected(toy, Audit(bound=3.5), score=4.0) == ""
    assert "under the 0.5 that the work itself takes" in suspected(toy, Audit(floor={"seconds": 0.5}), seconds=0.4)
    assert suspected(toy, Audit(floor={"seconds": 0.5}), seconds=0.6) == ""
    assert suspected(toy, Audit(floor={"seconds": 0.5})) == ""
    assert "may know the scored text" in suspected(toy, Audit(gap=0.2), gap=0.35)
    assert suspected(toy, Audit(gap=0.2), gap=0.25) == ""


def test_a_bound_that_means_nothing_is_the_users_mistake(toy):
    for key, value in (("jump", 0), ("gap", -1.0), ("carried_kb", 0), ("floor", {"seconds": "little"})):
        with pytest.raises(UserMistake, match=key):
            Audit(**{key: value})
    file = toy.root / "benchmark.toml"
    file.write_text(TOML + "[profiles.main.audit]\nleap = 1.0\n")
    with pytest.raises(UserMistake, match="unknown key 'leap'; valid are bound, carried_kb"):
        benchmarks.load(str(toy.root))


class Exploited(TableJudge):
    """A hole in the judge: whoever writes DEPTH + 0 gets a score that no honest program reaches."""

    def judge(self, program, *, stage, seed):
        found = super().judge(program, stage=stage, seed=seed)
        hole = "DEPTH + 0" in (program / "solve.py").read_text()
        return dataclasses.replace(found, score=0.05) if hole and found.score else found


def test_an_exploit_is_quarantined_and_its_honest_twin_is_not(toy, run_of):
    file = toy.root / "benchmark.toml"
    file.write_text(TOML + "[profiles.main.audit]\njump = 2.0\n")
    benchmark = benchmarks.load(str(toy.root))
    exploit = next(patch for patch in library_of(benchmark) if patch.hypothesis == "adds nothing")
    twin = next(patch for patch in library_of(benchmark) if patch.hypothesis == "turns a product")
    run = run_of(benchmark)
    crew = new_worker(run, benchmark, Exploited())
    crew.work()
    state = crew.state
    cheats = {name for name in state.proposals if exploit.name in state.genome(name)}
    screened = {name for name in cheats if Task(name, "screen") in state.outcomes}
    assert screened and set(state.quarantined) == screened
    assert not screened & {*state.archive.front(), *state.archive.elites().values()}
    assert state.champion() is not None and state.champion().genome not in cheats
    assert any(twin.name in state.genome(name) for name in state.archive.front() if name != state.base.name)
    assert all(not card.gain for card in state.cards() if exploit.name in card.patches)
    shown = inspect.shown(run.path, "quarantine", [], False)
    assert all(name in shown for name in screened) and "is above the" in shown
    # a person looks, and says that it is sound after all
    name = sorted(screened)[0]
    inspect.shown(run.path, "mark", [name, "release", "a true shortcut"], False)
    state.extend(crew.journals.new_entries())
    assert name in state.archive.front()
    again = crew.judged(Task(name, "finalist9", 0), state.genome(name))
    assert crew.audited(again) == []
    crew.close()


def test_two_writers_of_one_quarantine_agree_in_any_order(toy, run_of):
    state = search.State(run_of(toy).settings(), toy)
    mine, *_, events = stacked(state, toy)
    first = placed([*events, Quarantined(mine.genome, "screen: a")], writer="a")
    second = placed([Quarantined(mine.genome, "finalist: b")], writer="b")
    reasons = {
        search.State(state.settings, toy).extend(order).objection(mine.genome)
        for order in (first + second, second + first)
    }
    assert reasons == {"in quarantine: screen: a"}
    state.extend(first + second + later([Marked(mine.genome, "release")], at=99))
    assert state.objection(mine.genome) == ""


def test_the_shipped_bounds_hold_what_their_readmes_say():
    packing = benchmarks.load("packing")
    bounds = packing.profile("cpu").audit
    for score, held in ((2.6360, False), (2.64, True)):
        found = audit.suspicion(packing.base, packing.base, Outcome.passed(score), packing.objective, 2.56, {}, bounds)
        assert bool(found) == held
    speedrun = benchmarks.load("speedrun")
    bounds = speedrun.profile("cpu").audit
    for score, held in ((6.5 * 0.27, False), (0.15, True)):  # the best champion so far; the slowest counting table
        found = audit.suspicion(
            speedrun.base, speedrun.base, Outcome.passed(score), speedrun.objective, 6.5, {}, bounds
        )
        assert bool(found) == held


def test_weights_that_were_trained_elsewhere_are_not_brought_along():
    """22 KB of them, a bit or two each, gained 0.9 (a log-ratio) through the judge: how often a token occurs tells its
    number. What was tried within 5 KB gained nothing; a genome of 16 patches has 2.5."""
    speedrun = benchmarks.load("speedrun")
    recording = Recording(speedrun.root / "recorded" / "inbox-seed-11.jsonl")
    honest = [build(recording.genome(name), speedrun.base) for name in recording._names]
    train = speedrun.base["train.py"]
    carried = {**speedrun.base, "train.py": "\n".join(f"P{i} = {PIECES[i]!r}" for i in range(27)) + "\n" + train}
    for profile in ("cpu", "smoke"):
        bounds = speedrun.profile(profile).audit
        assert "at most 5 are allowed" in audit.screen(carried, speedrun.base, bounds)
        assert not any(audit.screen(program, speedrun.base, bounds) for program in honest)
    assert audit.flags(carried) - audit.flags(speedrun.base) and len(honest) > 100


def test_no_technique_of_the_library_is_refused_or_flagged():
    from evo import library
    from evo.genome import apply_diff

    speedrun = benchmarks.load("speedrun")
    known = [technique for technique in library.load() if technique.benchmark == "speedrun"]
    assert len(known) > 30
    for technique in known:
        program = apply_diff(technique.patch.diff, speedrun.base)
        assert audit.screen(program, speedrun.base, speedrun.profile("cpu").audit) == "", technique.name
        assert not audit.flags(program) - audit.flags(speedrun.base), technique.name
