"""Evidence and posteriors: the numbers that decide."""

from __future__ import annotations

import math
import random

import pytest

from evo import stats


def test_evidence_against_the_closed_form_of_a_single_effect(monkeypatch):
    """With many degrees of freedom and one effect the ratio is exp(delta sum - n delta^2 / 2) of a Gaussian test."""
    import numpy as np

    monkeypatch.setattr(stats, "_effects", lambda: np.array([0.7]))
    differences = [0.2, 1.4, 0.9, -0.3]
    expected = math.exp(0.7 * sum(differences) - 4 * 0.7**2 / 2)
    assert stats.e_value(differences, 1.0, 50_000) == pytest.approx(expected, rel=0.01)


def test_evidence_is_scale_free_and_grows_with_the_effect():
    chance = random.Random(0)
    noise = [chance.gauss(0, 1) for _ in range(8)]
    values = [stats.e_value([n + effect for n in noise], 1.0, 20) for effect in (-1, 0, 1, 2)]
    assert values == sorted(values)
    assert stats.e_value([1000 * (n + 1) for n in noise], 1000.0, 20) == pytest.approx(values[2], rel=1e-9)
    assert stats.e_value([], 1.0, 20) == 1.0


def test_false_certificates_stay_under_one_percent_though_every_pair_is_peeked_at():
    chance = random.Random(1)
    wrong, runs = 0, 400
    for _ in range(runs):
        sd = math.sqrt(sum(chance.gauss(0, 1) ** 2 for _ in range(20)) / 20)
        differences: list[float] = []
        for _ in range(12):
            differences.append(chance.gauss(0, 1))
            if stats.e_value(differences, sd, 20) >= stats.CERTAIN:
                wrong += 1
                break
    assert stats.wilson(wrong, runs)[0] < 0.01


def test_a_gain_of_one_sd_takes_about_ten_pairs():
    chance = random.Random(2)
    needed = []
    for _ in range(60):
        differences: list[float] = []
        while stats.e_value(differences, 1.0, 20) < stats.CERTAIN and len(differences) < 60:
            differences.append(chance.gauss(1, 1))
        needed.append(len(differences))
    assert 7 <= sorted(needed)[30] <= 14


def test_the_interval_holds_the_truth_and_shrinks():
    chance = random.Random(3)
    covered = 0
    for _ in range(40):
        differences = [chance.gauss(0.5, 1) for _ in range(10)]
        low, high = stats.interval(differences, 1.0, 20)
        assert low < stats.mean(differences) < high
        covered += low < 0.5 < high
    assert covered >= 36
    wide, narrow = stats.interval([0.4, 0.6], 1.0, 20), stats.interval([0.4, 0.6] * 8, 1.0, 20)
    assert narrow[1] - narrow[0] < wide[1] - wide[0]


def test_posterior_shrinks_towards_its_prior():
    assert stats.posterior(-0.3, [], 4.0) == -0.3
    assert stats.posterior(0.0, [3.0], 4.0) == pytest.approx(1.0)  # t = 2: (2 x 0 + 3) / 3
    assert stats.posterior(0.0, [3.0, 3.0], 4.0) == pytest.approx(1.5)
    assert stats.posterior(-0.3, [2.0], 0.0) == 2.0


def test_sample_sd_and_wilson():
    assert stats.sample_sd([1.0, 3.0]) == pytest.approx(math.sqrt(2))
    low, high = stats.wilson(0, 1000)
    assert low == 0.0 and 0.003 < high < 0.005


def test_students_tail_against_printed_tables():
    for t, df, p in ((2.821, 9, 0.01), (3.143, 6, 0.01), (1.812, 10, 0.05), (6.314, 1, 0.05), (2.326, 1e5, 0.01)):
        assert stats.student_tail(t, df) == pytest.approx(p, rel=2e-3)
    assert stats.student_tail(0.0, 5) == pytest.approx(0.5)
    assert stats.student_tail(-2.821, 9) == pytest.approx(0.99, rel=1e-3)


def test_a_shift_of_the_mean_is_told_by_its_p():
    assert stats.shift([1.0, 1.0], [0.0, 0.0], 0.1, 30)[0] == 1.0
    assert stats.shift([1.0, 1.0], [0.0, 0.0], 0.1, 30)[1] < 1e-6
    assert stats.shift([0.05, -0.05], [0.0, 0.0], 0.1, 30)[1] == pytest.approx(1.0)


def test_replicates_extend_the_noise_and_wilder_ones_replace_it():
    assert stats.pooled(1.0, 20, 0.0, 0) == (1.0, 20)
    assert stats.pooled(1.0, 20, 5.0, 5) == (1.0, 25)
    assert stats.pooled(1.0, 20, 20.0, 5) == (2.0, 25)
