"""The limit and the score against it."""

from __future__ import annotations

import math

import pytest

from evo import sol
from evo.benchmark import UserMistake

H100 = sol.device_named("NVIDIA H100 80GB HBM3")


def test_shipped_profiles_are_found_by_the_name_that_cuda_gives():
    assert H100 is not None and H100.name == "h100-sxm"
    assert sol.device_named("NVIDIA H200").memory_tbs > H100.memory_tbs
    assert sol.device_named("NVIDIA GeForce GT 710") is None
    names = [name for file in sol.DEVICES.glob("*.toml") for name in sol.read_device(file).matches]
    assert len(names) == len(set(names)) >= 5


def test_a_measured_profile_is_found_beside_the_shipped_ones(tmp_path):
    text = (sol.DEVICES / "h200.toml").read_text().replace('["NVIDIA H200"]', '["NVIDIA Z1"]')
    (tmp_path / "z1.toml").write_text(text)
    assert sol.device_named("NVIDIA Z1") is None and sol.device_named("NVIDIA Z1", tmp_path).memory_tbs == 4.8


def test_limits_of_two_tasks_by_hand():
    # 4096^3 multiply-adds at 989.4 TFLOP/s; 16384 x 4096 bfloat16, two in and two out, at 3.35 TB/s
    assert math.isclose(H100.limit_us({"bf16": 2 * 4096**3}, 3 * 2 * 4096**2), 138.9, rel_tol=1e-3)
    assert math.isclose(H100.limit_us({"fp32": 1e6}, 4 * 2 * 16384 * 4096), 160.3, rel_tol=1e-3)
    assert H100.rate("fp32") == H100.rate("tf32") / 3  # three TF32 products make a float32 one


def test_units_of_different_dtypes_work_one_after_another():
    one, two = H100.limit_us({"bf16": 1e12}, 0), H100.limit_us({"bf16": 1e12, "fp8": 1e12}, 0)
    assert math.isclose(two, one * 1.5, rel_tol=1e-3)


def test_a_rate_that_a_device_lacks_is_named():
    with pytest.raises(UserMistake, match="has no fp8 rate"):
        sol.device_named("NVIDIA A100-SXM4-80GB").rate("fp8")


@pytest.mark.parametrize("kernel, value", [(200, 0.5), (100, 1.0), (300, 1 / 3), (90, 1.0), (1e9, 0.0)])
def test_score(kernel, value):
    assert math.isclose(sol.score(kernel, 100, 200), value, abs_tol=1e-6)


def test_a_limit_above_the_baseline_is_refused():
    with pytest.raises(ValueError, match="the task is invalid"):
        sol.score(100, 200, 150)


def test_times_below_the_limit_are_not_believed_and_far_limits_say_nothing():
    assert sol.believable(96, 100) and not sol.believable(94, 100)
    assert sol.vacuous(3, 50) and sol.vacuous(10, 2000) and not sol.vacuous(50, 100)


def test_only_the_suite_counts_a_failure_as_nothing():
    assert sol.suite_mean({"a": 0.5, "b": None}, ["a", "b", "c"]) == pytest.approx(0.5 / 3)
