"""The record rule: surplus loss becomes a shorter schedule; the rule holds on raw seconds over fixed seeds, or not."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from conftest import TableJudge, new_worker, settings_for

from evo import benchmark as benchmarks
from evo import chance, inspect, recertify, record
from evo.benchmark import Record, UserMistake
from evo.events import Certified, Recorded, dump, load
from evo.genome import Genome, patch_between
from evo.outcome import Outcome, Status
from evo.record import Schedule
from evo.rundir import RunDir

PROGRAM = "STEPS = 250\nLEVEL = 0.0\n\n\ndef solve():\n    return STEPS + LEVEL\n"
TOML = """\
name = "race"
judge = "answer"
editable = ["solve.py"]
[objective]
name = "equivalent seconds"
unit = "s"
direction = "minimize"
gain = "log-ratio"
[profiles.main]
slope = 0.15
[profiles.main.noise]
sd = 0.03
df = 30
typical_gain = 0.1
[profiles.main.budget]
base_runs = 2
[profiles.main.record]
target = 1.7
constant = "STEPS"
n = 8
"""
SLOPE, TARGET = 0.15, 1.7


class RaceJudge(TableJudge):
    """Loss falls by 0.15 a factor e of STEPS and by LEVEL; seconds are steps; loss scatters with the seed."""

    floor = 0  # fewer steps than this do not pass

    def judge(self, program, *, stage, seed):
        self.judged += 1
        space: dict[str, float] = {}
        exec((program / "solve.py").read_text(), space)
        if space["STEPS"] < self.floor:
            return Outcome.failed(Status.WRONG, "not trained far enough")
        noise = (chance.number("loss", seed, space["LEVEL"]) / 2**63 - 0.5) * math.sqrt(12) * self.noise
        loss = TARGET - SLOPE * math.log(space["STEPS"] / 250) - space["LEVEL"] + noise
        seconds = space["STEPS"] / 50
        score = seconds * math.exp((loss - TARGET) / SLOPE)
        return Outcome.passed(score, measures={"loss": loss, "seconds": seconds}, artifact=f"{seed} {loss}")


@pytest.fixture
def race(tmp_path):
    root = tmp_path / "race"
    (root / "program").mkdir(parents=True)
    (root / "program" / "solve.py").write_text(PROGRAM)
    (root / "benchmark.toml").write_text(TOML)
    return benchmarks.load(str(root))


def raced(race, tmp_path, old, new, judge, name="run"):
    """A certified genome of one patch, and what the record rule says of it."""
    run = RunDir(tmp_path / name)
    run.create(settings_for(race), race.base)
    crew = new_worker(run, race, judge, library=[None])
    while len(crew.state.base_scores) < 2:
        crew.work(limit=1)
    base = Genome(race.base_hash)
    text = race.base["solve.py"]
    patch = patch_between(base, race.base, {"solve.py": text.replace(old, new)}, hypothesis="better")
    own = base.with_patch(patch)
    recertify.register(crew, own, base.name, "by hand")
    verdict = recertify.certified_again(crew, own.name, lambda _: None)
    assert isinstance(verdict, Certified)
    said: list[str] = []
    before = judge.judged
    found = record.attempt(crew, verdict, said.append)
    crew.close()
    return crew.state, found, said, judge.judged - before


def test_surplus_loss_becomes_a_shorter_schedule_that_still_holds(race, tmp_path):
    state, found, said, judged = raced(race, tmp_path, "LEVEL = 0.0", "LEVEL = 0.05", RaceJudge(noise=0.004))
    assert isinstance(found, Recorded) and found.holds and found.p < 0.01
    # 0.05 of surplus is worth exp(-0.05 / 0.15) = 0.717 of the schedule, less what the test needs as margin
    assert 0.717 * 250 < found.value < 0.85 * 250
    assert found.seconds == pytest.approx(found.value / 50) and found.base_seconds == 5.0
    assert found.loss <= TARGET and found.n == 8
    assert 1 <= found.sweeps <= record.SWEEPS and judged == found.sweeps + 2 * 8
    assert "holds" in said[-1] and found.genome in state.proposals
    assert inspect.record_line(found) in inspect.table(state, race, race.profile(None))
    assert load(dump(found, 1.0))[1] == found


def test_without_surplus_the_schedule_stays_and_the_rule_fails(race, tmp_path):
    class Faster(RaceJudge):
        """What a better kernel does: the same loss in half the time."""

        def judge(self, program, *, stage, seed):
            found = super().judge(program, stage=stage, seed=seed)
            patched = "LEVEL = 0.0001" in (program / "solve.py").read_text()
            return replace(found, score=found.score / 2) if patched else found

    _, found, said, _ = raced(race, tmp_path, "LEVEL = 0.0", "LEVEL = 0.0001", Faster(noise=0.004))
    assert not found.holds and found.value == 250 and "is not under 0.01" in found.reason
    assert "does not hold" in said[-1]


def test_a_schedule_that_fails_when_shortened_stays_as_it_was(race, tmp_path):
    judge = RaceJudge(noise=0.004)
    judge.floor = 240
    _, found, _, _ = raced(race, tmp_path, "LEVEL = 0.0", "LEVEL = 0.05", judge)
    assert found.value == 250 and found.sweeps == 1 and found.holds


def test_a_run_that_fails_among_the_fixed_seeds_fails_the_rule(race, tmp_path):
    class Flaky(RaceJudge):
        recorded = 0

        def judge(self, program, *, stage, seed):
            found = super().judge(program, stage=stage, seed=seed)
            unlucky = stage.startswith("record") and "LEVEL = 0.05" in (program / "solve.py").read_text()
            self.recorded += unlucky
            return Outcome.failed(Status.CRASHED, "oops") if unlucky and self.recorded == 3 else found

    _, found, _, _ = raced(race, tmp_path, "LEVEL = 0.0", "LEVEL = 0.05", Flaky(noise=0.004))
    assert not found.holds and found.reason == "1 of 8 seeds gave no result"


def test_a_host_that_is_gone_fails_the_rule_and_ends(race, tmp_path):
    class Gone(RaceJudge):
        def judge(self, program, *, stage, seed):
            lost = Outcome.failed(Status.LOST, "the node is gone")
            return lost if stage.startswith("record") else super().judge(program, stage=stage, seed=seed)

    _, found, _, _ = raced(race, tmp_path, "LEVEL = 0.0", "LEVEL = 0.05", Gone(noise=0.004))
    assert not found.holds and found.n == 0 and found.reason == "8 of 8 seeds gave no result"


def test_a_genome_without_the_constant_is_tested_as_it_is(race, tmp_path):
    change = ("STEPS = 250\nLEVEL = 0.0", "STEPS = int('250')\nLEVEL = 0.05")
    _, found, said, _ = raced(race, tmp_path, *change, RaceJudge(noise=0.004))
    assert found.holds and found.value == 0 and found.sweeps == 0
    assert "has no single setting STEPS any more" in said[0]


def test_no_rule_no_record(race, tmp_path):
    plain = replace(race, profiles={"main": replace(race.profile(None), record=None)})
    assert raced(plain, tmp_path, "LEVEL = 0.0", "LEVEL = 0.05", RaceJudge(noise=0.004))[1] is None


def test_a_wrong_measure_or_slope_is_the_users_mistake(race, tmp_path):
    profile = race.profile(None)
    wrong = replace(race, profiles={"main": replace(profile, record=Record(1.7, "STEPS", loss="bpb"))})
    with pytest.raises(UserMistake, match="has loss, seconds"):
        raced(wrong, tmp_path, "LEVEL = 0.0", "LEVEL = 0.05", RaceJudge(noise=0.004), "one")
    flat = replace(race, profiles={"main": replace(profile, settings={})})
    with pytest.raises(UserMistake, match="slope"):
        raced(flat, tmp_path, "LEVEL = 0.0", "LEVEL = 0.05", RaceJudge(noise=0.004), "two")
    with pytest.raises(UserMistake, match="3 seeds or more"):
        Record(1.7, "STEPS", n=2)


def test_a_line_of_known_slope_gives_the_shortest_schedule():
    assert Schedule(0.15, ((250.0, 1.65),)).shortest(1.70) == pytest.approx(250 * math.exp(-1 / 3))
    assert record.margin(0.01, 10, 3) == pytest.approx((2.821 + 0.883) * 0.01 * math.sqrt(1 / 10 + 1 / 3), rel=1e-3)
