"""The noise model that `evo.check` measures, and what it tells of it."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
from conftest import TOML, TableJudge

from evo import benchmark as benchmarks
from evo import certify, check
from evo.benchmark import Noise, UserMistake
from evo.check import NoiseModel
from evo.outcome import Outcome
from evo.run import reserve_of


def scattered(seeds, seed_sd, host_sd, order=0.0, chance=None):
    chance = chance or random.Random(1)
    found = []
    for _ in range(seeds):
        own = chance.gauss(0, seed_sd)
        found.append((own + chance.gauss(0, host_sd), own + order + chance.gauss(0, host_sd)))
    return NoiseModel.of(found)


def test_the_parts_of_the_noise_are_told_apart():
    model = scattered(4000, 0.03, 0.02)
    assert model.seed == pytest.approx(0.03, rel=0.05)
    assert model.host == pytest.approx(0.02, rel=0.05)
    assert model.sd == pytest.approx(math.hypot(0.03, 0.02), rel=0.05)
    assert model.pair_sd == pytest.approx(math.sqrt(2) * 0.02, rel=0.05)
    assert model.order_p > 0.01 and model.df == 3999


def test_a_place_that_is_better_is_seen():
    model = scattered(40, 0.03, 0.02, order=0.02)
    assert model.order == pytest.approx(0.02, abs=0.01) and model.order_p < 0.01


def test_no_noise_has_no_parts():
    model = NoiseModel.of([(0.0, 0.0)] * 5)
    assert (model.seed, model.host, model.order, model.order_p) == (0.0, 0.0, 0.0, 1.0)


def checked(benchmark, judge, runs=6):
    said: list[str] = []
    profile = benchmark.profile(None)
    sound = check.check_benchmark(benchmark, profile, judge, runs=runs, patches=False, variants=True, say=said.append)
    return sound, "\n".join(said)


def test_check_prints_a_table_that_can_be_pasted(toy):
    sound, text = checked(toy, TableJudge(noise=0.05))
    assert sound and "WIDER than shipped: sd" in text and "5 degrees of freedom are few, 20 are wanted" in text
    pasted = text.partition("to paste into benchmark.toml:\n")[2]
    file = toy.root / "benchmark.toml"
    file.write_text(TOML.partition("[profiles.main.noise]")[0] + pasted + "\n")
    noise = benchmarks.load(str(toy.root)).profile(None).noise
    assert noise.df == 5 and noise.sd > 0.03 and 0 < noise.of_pair < 1e-3  # a pair shares its seed, so all its noise


def test_a_deterministic_base_gets_a_table_that_loads(toy):
    _, text = checked(toy, TableJudge(noise=0.0))
    assert "sd = 2e-05\npair_sd = 2e-05\ndf = 5\ntypical_gain = 0.02" in text
    assert "takes more than the 20 pairs there are to certify" in text  # by the shipped sd, which is wider


def test_a_benchmark_without_a_noise_table_is_measured(toy):
    file = toy.root / "benchmark.toml"
    head, _, rest = TOML.partition("[profiles.main.noise]")
    file.write_text(head + rest[rest.index("[profiles.main.budget]") :])
    with pytest.raises(UserMistake, match=r"noise\] is missing; `python -m evo.check FOLDER --profile main` measures"):
        benchmarks.load(str(toy.root))
    sound, text = checked(benchmarks.load(str(toy.root), measured=False), TableJudge(noise=0.05))
    assert sound and "WIDER" not in text and "to certify" not in text
    table = text.partition("to paste into benchmark.toml:\n")[2].partition("\neverything")[0]
    assert "# typical_gain is yours to fill in" in table
    file.write_text(f"{file.read_text()}{table}\ntypical_gain = 0.02\n")
    noise = benchmarks.load(str(toy.root)).profile(None).noise
    assert noise.sd > 0.03 and noise.typical_gain == 0.02


def test_stage_sizes_follow_the_noise():
    sizes = [certify.pairs_needed(effect, 1.0, 25) for effect in (4.0, 2.0, 1.0, 0.1)]
    assert sizes[0] == 3 and sizes == [*sorted(sizes[:-1]), None]
    assert 9 <= sizes[2] <= 15
    wide, narrow = (Noise(sd=sd, df=20, typical_gain=0.1) for sd in (0.1, 0.001))
    assert certify.reserve(wide) == certify.FINALISTS + 2 * certify.MAX_PAIRS
    assert certify.reserve(narrow) == certify.LEAST_RESERVE
    assert (
        reserve_of(benchmarks.load("speedrun").profile("cpu")) == 46
        and reserve_of(benchmarks.load("speedrun").profile("smoke")) == 20
    )


def test_a_base_that_fails_is_told(toy):
    class Broken(TableJudge):
        def judge(self, program, *, stage, seed):
            return dataclasses.replace(super().judge(program, stage=stage, seed=seed), score=0.0)

    sound, text = checked(toy, Broken())
    assert not sound and "use gain = 'difference'" in text


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, "wide", True])
def test_a_noise_that_is_no_positive_number_is_refused(value):
    table = {"sd": 0.1, "df": 20, "typical_gain": 0.1, "pair_sd": value}
    with pytest.raises(UserMistake, match="pair_sd"):
        benchmarks.settings(Noise, table, "benchmark.toml [noise]")


def test_a_floor_that_bounds_nothing_is_told(toy):
    class Measured(TableJudge):
        def judge(self, program, *, stage, seed):
            found = super().judge(program, stage=stage, seed=seed)
            return Outcome.passed(found.score, measures={"seconds": 2.0})

    def with_floor(floor):
        (toy.root / "benchmark.toml").write_text(TOML + f"[profiles.main.audit]\nfloor = {floor}\n")
        return checked(benchmarks.load(str(toy.root)), Measured())

    sound, text = with_floor("{ secnods = 1 }")
    assert not sound and "the judge measures no 'secnods'; of the base seconds" in text
    sound, text = with_floor("{ seconds = 3 }")
    assert not sound and "seconds = 3, the base itself has 2" in text
    assert with_floor("{ seconds = 1 }")[0]
