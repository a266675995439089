"""Operators without a model: what they change, and that they never repeat themselves."""

from __future__ import annotations

import pytest

from evo.operators import sweep

SOURCE = """\
RATE = 0.1  # é
SIZES = (3, -4, 1e-3)


def f(x, n=2):
    é = f"{x * 7} {n}"
    return x * 0.5 + n, é
"""


def test_numbers_are_found_with_their_places():
    found = sweep.constants(SOURCE, "a.py")
    assert [(c.value, c.name) for c in found] == [
        (0.1, "RATE"), (3, "SIZES"), (4, "SIZES"), (1e-3, "SIZES"), (2, ""), (0.5, ""),
    ]  # fmt: skip
    for constant in found:
        line = SOURCE.split("\n")[constant.line - 1]
        assert float(line[constant.start : constant.end]) == constant.value


@pytest.mark.parametrize("factor", sweep.STEPS)
def test_a_step_changes_one_number_and_nothing_else(factor):
    for constant in sweep.constants(SOURCE, "a.py"):
        value = sweep.turned(constant, factor)
        changed = sweep.with_constant(SOURCE, constant, value)
        before, after = sweep.constants(SOURCE, "a.py"), sweep.constants(changed, "a.py")
        different = [(b.value, a.value) for b, a in zip(before, after, strict=True) if a.value != b.value]
        assert len(different) == (value != constant.value)
        assert len(changed.splitlines()) == len(SOURCE.splitlines())


def test_integers_stay_positive_integers():
    (three, *_) = [c for c in sweep.constants("N = 1\n", "a.py")]
    assert sweep.turned(three, 0.5) == 1.0
    assert sweep.turned(three, 1.4) == 2.0
    assert sweep.literal(2.0, True) == "2"
    assert sweep.literal(100000.0, False) == "1e+05"
    assert sweep.literal(3.0, False) == "3.0"


def test_a_file_that_does_not_parse_has_no_numbers():
    assert sweep.constants("x = (", "a.py") == ()
