"""The judge of printed metrics, with stand-ins that print what the published programs print, and with cheats."""

from __future__ import annotations

import re
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from evo import benchmark as benchmarks
from evo import search
from evo.benchmark import Benchmark, UserMistake
from evo.events import Entry, Evaluated, Task
from evo.judges import open_judge, reported
from evo.outcome import Outcome, Status
from evo.rundir import RunDir
from evo.sandbox import Limits, probe

LEVEL = probe()
AUTORESEARCH = """
import pathlib, sys, time
import prepare
began = time.time()
for step in range(3):
    print(f"\\rstep {step:05d} (50.0%) | loss: 1.5 | val_bpb: 0.1", end="", flush=True)
time.sleep(0.05)
print()
print("---")
print("val_bpb:          0.997900")
print(f"training_seconds: {time.time() - began:.3f}")
print("peak_vram_mb:     45060.2")
print("num_steps:        953")
"""
SPEEDRUN = """
import os, time
assert os.environ["DATA_PATH"] == "/fineweb"
began = time.perf_counter()
total = 20
for step in range(0, total + 1, 10):
    ms = 1000 * (time.perf_counter() - began)
    loss, average = 3.9 - step * 0.031, ms / max(step, 1)
    print(f"step:{step}/{total} val_loss:{loss:.4f} train_time:{ms:.0f}ms step_avg:{average:.2f}ms")
    time.sleep(0.06)
print("peak memory allocated: 30220 MiB reserved: 38672 MiB")
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout with a frozen file, an environment, data beside it, and train.py."""
    found = tmp_path / "clone"
    for folder in (found / ".venv" / "lib", found / ".git", tmp_path / "cache"):
        folder.mkdir(parents=True)
    (found / "prepare.py").write_text("TIME_BUDGET = 300\n")
    (found / ".venv" / "lib" / "torch.py").write_text("installed = True\n")
    (found / "train.py").write_text(AUTORESEARCH)
    (tmp_path / "cache" / "tokenizer.bin").write_bytes(b"pieces")
    return found


def of(benchmark: str, profile: str, **changes: object) -> reported.Settings:
    """The settings of a shipped benchmark, with what the stand-ins need in their place."""
    table = benchmarks.load(benchmark).profile(profile).settings
    found = benchmarks.settings(reported.Settings, table, benchmark)
    return replace(found, command=(sys.executable, "train.py"), **changes)  # type: ignore[arg-type]


Judged = Callable[..., Outcome]


@pytest.fixture
def judged(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Judged:
    """Judges a train.py as `upstream-autoresearch` does, with no 300 s to wait for."""
    monkeypatch.setenv("EVO_AUTORESEARCH", str(clone))

    def run(code: str, wall_s: float = 20.0, **changes: object) -> Outcome:
        settings = of("upstream-autoresearch", "5min", least_s=0.01, data=(str(tmp_path / "cache"),), **changes)
        judge = reported.judge_of(settings, Limits(wall_s=wall_s), clone, None)  # type: ignore[arg-type]
        program = tmp_path / "program"
        benchmarks.write_tree({"train.py": textwrap.dedent(code)}, program)
        return judge.judge(program, stage="screen", seed=7)

    return run


def test_the_published_output_is_read(judged: Judged) -> None:
    outcome = judged(AUTORESEARCH)
    assert outcome.status is Status.PASSED and outcome.score == 0.9979 and outcome.trust == "reported", outcome.detail
    assert outcome.measures["peak_mb"] == 45060.2 and outcome.measures["steps"] == 953
    assert 0.05 <= outcome.measures["seconds"] <= outcome.measures["clock_s"] <= outcome.measures["wall_s"]


CHEATS = [
    ("printed twice", 'print("val_bpb:          0.100000")', Status.WRONG, "exactly one line .* found 2"),
    ("absent", 'sys.exit(0)', Status.WRONG, "found 0"),
    ("not a number", 'print("val_bpb: nan")\nsys.exit(0)', Status.WRONG, "found 0"),
    ("failure", 'print("FAIL")', Status.CRASHED, "printed 'FAIL'"),
    ("exit code", 'import atexit, os\natexit.register(os._exit, 3)', Status.CRASHED, "exit code 3"),
    ("more time than passed", "began -= 5", Status.CHEATED, "claims 5.* s of training in"),
    ("frozen file", 'pathlib.Path("prepare.py").write_text("TIME_BUDGET = 900")', Status.CHEATED, "prepare.py"),
    ("frozen file gone", 'pathlib.Path("prepare.py").unlink()', Status.CHEATED, "prepare.py"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "status", "sentence"), [c[1:] for c in CHEATS], ids=[c[0] for c in CHEATS])
def test_what_is_not_as_published_has_no_score(judged: Judged, code: str, status: Status, sentence: str) -> None:
    outcome = judged(AUTORESEARCH.replace("began = time.time()", f"began = time.time()\n{code}"))
    assert outcome.status is status and outcome.score is None and outcome.trust == "reported"
    assert re.search(sentence, outcome.detail), outcome.detail


def test_files_outside_the_copy_are_frozen_too(judged: Judged, clone: Path, tmp_path: Path) -> None:
    for place in (tmp_path / "cache" / "tokenizer.bin", clone / "prepare.py", clone / ".venv" / "lib" / "torch.py"):
        before = place.read_bytes()
        outcome = judged(AUTORESEARCH + f"pathlib.Path({str(place)!r}).write_bytes(b'others')\n")
        assert outcome.status is Status.CHEATED and place.name in outcome.detail
        place.write_bytes(before)


def test_a_time_too_short_or_too_long_beside_the_clock_is_wrong(judged: Judged) -> None:
    slow = AUTORESEARCH.replace("time.sleep(0.05)", "time.sleep(0.4); began += 0.39")
    assert "expected at most 0.2 s beside it" in judged(slow, untimed_s=0.2).detail
    assert "expected at least 0.01 s" in judged(AUTORESEARCH.replace("time.sleep(0.05)", "began = time.time()")).detail


def test_a_hung_program_and_what_it_started_are_ended(judged: Judged, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    child = f"import time, pathlib\nwhile True: time.sleep(.05); pathlib.Path({str(trace)!r}).write_text('x')"
    code = (
        f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)\n"
    )
    outcome = judged(code + "print('waiting'); time.sleep(60)", wall_s=1.0)
    assert outcome.status is Status.TIMEOUT and "waiting" in outcome.detail
    trace.unlink(missing_ok=True)
    time.sleep(0.3)
    assert not trace.exists()


def test_the_environment_is_built_up(judged: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    monkeypatch.setenv("HF_HOME", "/models")
    code = "import os\nprint(sorted(os.environ)); print(os.environ['HF_HOME'], os.environ['EVO_SEED'])"
    detail = judged(code + "\nraise SystemExit(1)").detail
    assert "ANTHROPIC" not in detail and "/models 7" in detail


def test_output_is_limited(judged: Judged) -> None:
    assert "of output" in judged("while True: print('x' * 10000)").detail


def test_speedrun_output_becomes_equivalent_seconds(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVO_SPEEDRUN", str(clone))
    monkeypatch.setenv("EVO_SPEEDRUN_DATA", "/fineweb")
    (clone / "train_gpt.py").write_text(SPEEDRUN)
    settings = of("upstream-speedrun", "8gpu", data=())
    judge = reported.judge_of(settings, Limits(wall_s=20), clone, None)  # type: ignore[arg-type]

    def run(code: str) -> Outcome:
        benchmarks.write_tree({"train.py": code}, tmp_path / "program")
        return judge.judge(tmp_path / "program", stage="screen", seed=1)

    outcome = run(SPEEDRUN)
    assert outcome.status is Status.PASSED, outcome.detail
    assert outcome.measures["loss"] == 3.28 and outcome.score == pytest.approx(outcome.measures["seconds"])
    assert 0.1 <= outcome.measures["seconds"] <= outcome.measures["clock_s"] + 0.5
    assert "above target + band" in run(SPEEDRUN.replace("0.031", "0.029")).detail
    assert "found 0" in run(SPEEDRUN.replace("total + 1, 10", "total, 10")).detail  # the last step is missing
    twice = SPEEDRUN + 'print("step:20/20 val_loss:3.0000 train_time:1ms step_avg:1ms")\n'
    assert "found 2" in run(twice).detail
    assert run(SPEEDRUN.replace("began = time.perf_counter()", "began = -1e6")).status is Status.CHEATED


@pytest.mark.skipif(not LEVEL.isolated, reason="open_judge needs a machine that isolates")
def test_a_benchmark_of_a_checkout_is_opened_by_its_variable(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVO_AUTORESEARCH", raising=False)
    with pytest.raises(UserMistake, match="expected the variable EVO_AUTORESEARCH, found none"):
        benchmarks.load("upstream-autoresearch")
    monkeypatch.setenv("EVO_AUTORESEARCH", str(clone))
    benchmark = benchmarks.load("upstream-autoresearch")
    assert dict(benchmark.base) == {"train.py": AUTORESEARCH} and benchmark.trust == "reported"
    monkeypatch.setenv("HOME", str(clone.parent / "nobody"))
    with (
        pytest.raises(UserMistake, match=r"data: expected .*autoresearch, found none"),
        open_judge(benchmark, benchmark.profile(None)),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"patterns": ("^x (?P<score>.)$",)}, "expected a group 'seconds'"),
        ({"patterns": ("^x (?P<seconds>.)$",)}, "expected a group named 'score'"),
        ({"patterns": ("(",)}, "expected regular expressions"),
        ({"objective": "sun"}, "expected metric or race"),
        ({"objective": "race", "patterns": ("(?P<loss>.)(?P<seconds>.)",)}, "needs target, slope and band"),
    ],
)
def test_settings_say_what_is_wrong(
    clone: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], sentence: str
) -> None:
    monkeypatch.setenv("EVO_AUTORESEARCH", str(clone))
    with pytest.raises(UserMistake, match=sentence):
        of("upstream-autoresearch", "5min", **changes)


def test_a_score_of_another_trust_is_no_part_of_a_run(toy: Benchmark, run_of: Callable[..., RunDir]) -> None:
    state = search.State(run_of(toy).settings(), toy)
    base = Task(state.base.name, "base")
    entries = [
        Entry("w", 1, 1.0, Evaluated(base, Outcome.passed(1.0, trust="reported"), 1.0, "f")),
        Entry("w", 2, 2.0, Evaluated(replace(base, k=1), Outcome.passed(5.0), 1.0, "f")),
    ]
    state.extend(entries)
    assert list(state.base_scores) == [5.0] and state.summary()["trust"] == "isolated"
