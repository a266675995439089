"""The answer judge: every trick of benchmarks/packing and its honest twin, and what may cross to the verifier."""

from __future__ import annotations

import importlib.util
import io
import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from evo.benchmark import SHIPPED, UserMistake, load, settings
from evo.judges import answer as answers
from evo.judges import open_judge
from evo.judges.answer import GUESTS, PRELOAD, AnswerJudge, Settings
from evo.outcome import Outcome, Status
from evo.sandbox import Limits, Sandbox, probe

PACKING = SHIPPED / "packing"
TWINS = sorted([*PACKING.glob("exploits/*.py"), *PACKING.glob("honest/*.py")])
LIMITS = Limits(wall_s=20.0, memory_mb=512, output_kb=512)
SETTINGS = Settings(seconds=5.0, verify_s=3.0, answer_kb=64)  # as packing has it


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(preload=PRELOAD) as found:
        yield found


class Bench:
    """Judges programs and verifiers that are written on the spot."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self.folder, self.sandbox = folder, sandbox

    def judge(self, solve: str, verify: str | None = None, limits: Limits = LIMITS, **changes: object) -> Outcome:
        program, root = self.folder / "program", PACKING
        program.mkdir(exist_ok=True)
        (program / "solve.py").write_text(solve)
        if verify is not None:
            root = self.folder / "benchmark"
            root.mkdir(exist_ok=True)
            (root / "verify.py").write_text(verify)
        judge = AnswerJudge(replace(SETTINGS, **changes), limits, root, self.sandbox)  # type: ignore[arg-type]
        return judge.judge(program, stage="screen", seed=1)


@pytest.fixture
def bench(tmp_path: Path, sandbox: Sandbox) -> Bench:
    tmp_path.chmod(0o755)
    return Bench(tmp_path, sandbox)


BASE_SCORE = 2.5631  # of packing's program, the same to the last digit in every run


@pytest.mark.parametrize("file", TWINS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_trick_gets_its_status_and_its_twin_passes(bench: Bench, exploit_table: Any, file: Path) -> None:
    text = file.read_text()
    statuses, _, tries = text.partition("\n")[0].removeprefix("# ").partition(":")
    hangs = statuses == Status.TIMEOUT
    found = bench.judge(text, seconds=1.0 if hangs else 5.0)
    gain = None if found.score is None else found.score - BASE_SCORE
    exploit_table.add("packing", file.parent.name, file.stem, tries.strip(), found, gain)
    assert found.status == statuses, found
    if found.score is not None:
        assert 0 <= found.score < (BASE_SCORE if file.parent.name == "exploits" else 2.636)


def test_the_folder_is_a_benchmark() -> None:
    packing = load("packing")
    profile = packing.profile(None)
    assert settings(Settings, profile.settings, "packing").entry == "solve.py"
    assert settings(Limits, profile.limits, "packing").children is False
    assert packing.is_editable("solve.py") and list(packing.base) == ["solve.py"]


def test_a_benchmarks_judge_is_opened_by_name(tmp_path: Path) -> None:
    packing = load("packing")
    tmp_path.chmod(0o755)
    (tmp_path / "solve.py").write_text(packing.base["solve.py"])
    with open_judge(packing, packing.profile(None)) as judge:
        assert judge.judge(tmp_path, stage="screen", seed=1).status is Status.PASSED
        assert judge.fingerprint()["judge"] == "answer-2"


@pytest.mark.skipif(not any(w.name == "names" and w.holds for w in probe().layers), reason="names can be noted here")
def test_what_is_found_late_is_not_noted_for_the_next_evaluation(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of the time may go into what a later run could find again by timing names; what comes then is lost."""
    monkeypatch.setattr(answers, "OPEN_SHARE", 0.05)  # a busy machine gives a fifth of CPU time too late
    solve = """
import os, time
def solve():
    began, found = time.monotonic(), [os.path.exists("/usr")]
    while time.monotonic() < began + 4.0 and found[-1]:
        found.append(os.path.exists("/usr"))
    return [found[0], found[-1], time.monotonic() - began]
"""
    verify = "def verify(answer):\n    assert answer[:2] == [True, False], answer\n    return answer[2]\n"
    found = bench.judge(solve, verify, seconds=5.0)
    assert found.score is not None, found


def test_every_trick_has_a_twin() -> None:
    assert {f.name for f in PACKING.glob("exploits/*.py")} == {f.name for f in PACKING.glob("honest/*.py")}
    assert len(TWINS) >= 40


def test_the_base_passes_and_can_be_improved(bench: Bench) -> None:
    base = (PACKING / "program" / "solve.py").read_text()
    found = bench.judge(base)
    assert found.score == pytest.approx(2.563, abs=0.01)
    assert set(found.measures) == {"seconds", "cpu_s"} and found.measures["seconds"] < 2
    assert bench.judge(base).score == found.score and found.artifact == ""  # equal answers are no sign of a trick here
    better = bench.judge(base.replace("PENALTY = 5.0", "PENALTY = 20.0"))
    assert better.score is not None and found.score is not None and better.score > found.score + 0.02


SUM = "def verify(answer): return sum(answer)\n"


@pytest.mark.parametrize(
    ("verify", "status", "sentence"),
    [
        ("def verify(answer): raise ValueError('not good enough')", Status.WRONG, "verify.py: not good enough"),
        ("def verify(answer): return answer['nothing']", Status.WRONG, "TypeError"),
        ("def verify(answer): import os; os._exit(0)", Status.WRONG, "exited with 0"),
        ("def verify(answer):\n  while True: pass", Status.WRONG, "1 s"),
        ("def verify(answer): return float('nan')", Status.WRONG, "expected a finite score, found nan"),
        ("def verify(answer): return float('-inf')", Status.WRONG, "expected a finite score, found -inf"),
        ("def verify(answer): return '12'", Status.WRONG, "expected a finite score, found '12'"),
        ("def verify(answer): return True", Status.WRONG, "expected a finite score, found True"),
        ("def verify(answer): return None", Status.WRONG, "expected a finite score, found None"),
        ("def verify(answer: return 1", Status.WRONG, "SyntaxError"),
    ],
)
def test_a_verifier_that_does_not_score_makes_the_answer_wrong(
    bench: Bench, verify: str, status: Status, sentence: str
) -> None:
    found = bench.judge("def solve(): return [1, 2]", verify, verify_s=1.0)
    assert (found.status, sentence in found.detail) == (status, True), found


def test_measures_of_a_verifier_are_kept_and_ours_cannot_be_replaced(bench: Bench) -> None:
    verify = "def verify(answer): return {'score': 3, 'measures': {'worst': 0.5, 'seconds': -1, 'bad': float('inf')}}"
    found = bench.judge("def solve(): return []", verify)
    assert found.score == 3.0
    assert found.measures["worst"] == 0.5 and found.measures["seconds"] > 0 and "bad" not in found.measures


def test_arrays_cross_as_arrays(bench: Bench) -> None:
    verify = "def verify(answer): return float(answer[1, 2]) + answer.shape[0] * 100"
    solve = "import numpy\ndef solve(): return numpy.asfortranarray(numpy.arange(6.0).reshape(2, 3))"
    assert bench.judge(solve, verify).score == 205.0
    found = bench.judge(solve.replace("6.0", "6.0") + " / 0", verify)
    assert found.status is Status.WRONG and "found NaN or infinity" in found.detail


def test_what_a_program_cannot_send(bench: Bench) -> None:
    found = bench.judge("def solve(): return object()", SUM)
    assert found.status is Status.CRASHED and "found object" in found.detail
    found = bench.judge("def solve(): return [1.0] * 10_000", SUM, answer_kb=1)
    assert found.status is Status.WRONG and "0 to 1024 bytes" in found.detail


def test_a_missing_verifier_is_the_users_mistake(sandbox: Sandbox, tmp_path: Path) -> None:
    with pytest.raises(UserMistake, match=r"verify.py: expected a file with verify\(answer\)"):
        AnswerJudge(SETTINGS, LIMITS, tmp_path, sandbox)


# The parser that meets hostile bytes, tried here without a sandbox around it.


@pytest.fixture(scope="module")
def guest() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verify_guest", GUESTS / "verify.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<i8", "|u1", "|b1", "<c16"])
def test_arrays_are_read_as_numpy_wrote_them(guest: ModuleType, dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    for order in (array, np.asfortranarray(array), array[0, 0, 0], array[:0]):
        assert np.array_equal(guest.parse_npy(npy(order)), order)


NO_ARRAYS = [
    np.array([{}]), np.array(["a"]), np.zeros(2, "M8[s]"), np.zeros(2, "f8,i4"), np.zeros(2, ">f8"), np.array([np.nan]),
]  # fmt: skip


@pytest.mark.parametrize("array", NO_ARRAYS, ids=lambda array: str(array.dtype))
def test_arrays_of_anything_but_finite_numbers_are_refused(guest: ModuleType, array: np.ndarray) -> None:
    with pytest.raises(guest.Refused):
        guest.parse_npy(npy(array))


@pytest.mark.parametrize(
    "text",
    ["", "{", "NaN", "[Infinity]", "1e999", "[" * 100_000, "[" * 17 + "]" * 17, '{"a": 1e400}', "9" * 400, "'a'"],
)
def test_text_of_anything_but_finite_data_is_refused(guest: ModuleType, text: str) -> None:
    with pytest.raises(guest.Refused):
        guest.parse_json(text.encode())


def test_random_bytes_are_refused_or_plain(guest: ModuleType) -> None:
    chance = random.Random(7)
    good = [npy(np.arange(6.0).reshape(2, 3)), json.dumps([{"a": [1, 2.5, "x", None, True]}]).encode()]
    for _ in range(3000):
        data = bytearray(chance.choice(good))
        for _ in range(chance.randrange(1, 5)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        for parse in (guest.parse_npy, guest.parse_json):
            try:
                parse(bytes(data[: chance.choice((None, chance.randrange(len(data))))]))
            except guest.Refused as error:
                assert re.match("expected", str(error))
