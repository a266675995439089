"""The command as a user calls it: mistakes get one sentence, runs resume, a real search improves a real program."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evo import benchmark as benchmarks
from evo import inspect, run
from evo.run import save_best
from evo.rundir import RunDir

RECORDED = benchmarks.SHIPPED / "speedrun" / "recorded" / "inbox-seed-11.jsonl"
PROGRAM = """\
RATE = 0.1
WIDTH = 8


def solve():
    return [RATE, WIDTH]
"""
VERIFY = """\
import math


def verify(answer):
    rate, width = answer
    return 5 * math.exp(0.3 * math.log(rate / 0.4) ** 2 + 0.1 * math.log(width / 16) ** 2)
"""
TOML = """\
name = "valley"
judge = "answer"
editable = ["solve.py"]
[objective]
name = "cost"
unit = "s"
direction = "minimize"
gain = "log-ratio"
[profiles.main.noise]
sd = 0.001
df = 30
typical_gain = 0.02
[profiles.main.budget]
evaluations = 36
reserve = 16
base_runs = 2
"""


@pytest.fixture
def valley(tmp_path: Path) -> Path:
    root = tmp_path / "valley"
    (root / "program").mkdir(parents=True)
    (root / "program" / "solve.py").write_text(PROGRAM)
    (root / "verify.py").write_text(VERIFY)
    (root / "benchmark.toml").write_text(TOML)
    return root


def evo(module: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"evo.{module}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, **options)  # type: ignore[call-overload]


def test_a_search_improves_a_program_and_leaves_a_patch_that_git_applies(valley, tmp_path):
    out = tmp_path / "run"
    found = evo("run", "--benchmark", valley, "--out", out, "--workers", 2)
    assert found.returncode == 0, found.stderr
    summary = json.loads(evo("inspect", out, "summary", "--json").stdout)
    keys = "benchmark profile evaluated rejected lost cells baseline champion gain interval p certified seconds usd"
    assert set(keys.split()) <= set(summary)
    assert summary["p"] <= 0.01 and summary["interval"][0] > 0
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "solve.py").write_text(PROGRAM)
    subprocess.run(["git", "apply", str(out / "best" / "champion.patch")], cwd=checkout, check=True)
    assert (checkout / "solve.py").read_text() == (out / "best" / "program" / "solve.py").read_text() != PROGRAM
    for view in ("cells", "lineage", "genome", "diff", "events"):
        assert evo("inspect", out, view).stdout.strip()
    again = evo("run", "--benchmark", valley, "--out", out, "--workers", 1)
    assert again.returncode == 0
    assert "CERTIFIED" in found.stderr and "CERTIFIED" not in again.stderr  # told once
    assert json.loads(evo("inspect", out, "summary", "--json").stdout)["evaluated"] == summary["evaluated"]


def test_an_interrupted_run_goes_on(valley, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "evo.run", "--benchmark", str(valley), "--out", str(out), "--workers", "1"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not any(b"evaluated" in f.read_bytes() for f in out.glob("events/*")):
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=30) == 130
    before = json.loads(evo("inspect", out, "summary", "--json").stdout)["evaluated"]
    assert 0 < before < 36
    assert evo("run", "--out", out, "--workers", 1).returncode == 0
    after = json.loads(evo("inspect", out, "summary", "--json").stdout)
    assert after["evaluated"] > before and after["champion"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--benchmark", "nowhere"], "no benchmark 'nowhere'"),
        (["--benchmark", "speedrun", "--profile", "tpu"], "no profile 'tpu'; there are"),
        (["--benchmark", "packing", "--workers", "0"], "--workers: expected 1 to 256, found 0"),
        (["--benchmark", "packing", "--out", "/proc/nowhere"], "cannot write the run directory"),
        (["--out", "fresh"], "is not a run yet"),
        (["--certify", "fresh"], "is not a run"),
        (["--benchmark", "packing", "--model", f"inbox:{__file__}"], "expected a folder, found a file"),
        (["--benchmark", "packing", "--model", f"replay:{RECORDED}"], "was recorded on speedrun, not on packing"),
        (["--certify", __file__], "is not a run"),
    ],
)
def test_a_mistake_gets_one_sentence_and_exit_2(arguments, sentence, tmp_path):
    found = evo("run", *arguments, cwd=tmp_path)
    assert found.returncode == 2
    assert sentence in found.stderr
    assert "Traceback" not in found.stderr


def test_a_model_without_a_key_is_refused_before_anything_begins(tmp_path, monkeypatch, capsys):
    for name in [name for name in os.environ if name.startswith("ANTHROPIC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # where a profile would lie
    out = tmp_path / "run"
    arguments = ["--benchmark", "packing", "--out", str(out), "--model", "anthropic:some", "--calls", "1"]
    assert run.main(arguments) == 2
    assert "set ANTHROPIC_API_KEY" in capsys.readouterr().err and not out.exists()
    monkeypatch.setenv("ANTHROPIC_API_KEY", "any word")
    run.prepared(run.options(arguments))
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert run.main(["--out", str(out)]) == 2  # resuming it
    assert "set ANTHROPIC_API_KEY" in capsys.readouterr().err
    run.prepared(run.options(["--out", str(out), "--role", "judge"]))  # a compute node calls no model
    monkeypatch.setenv("ANTHROPIC_PROFILE", "missing")
    assert run.main(["--out", str(out)]) == 2
    assert "expected a key, CredentialsError: " in capsys.readouterr().err


def test_a_folder_with_other_things_in_it_is_no_run_directory(valley, tmp_path, capsys):
    out = tmp_path / "home"
    (out / "events").mkdir(parents=True)  # of another run that begins here now
    (out / "slurm-1.out").write_text("")
    (out / "thesis.tex").write_text("")
    arguments = ["--benchmark", str(valley), "--out", str(out)]
    assert run.main(arguments) == 2
    assert "found one that holds thesis.tex; choose another --out" in capsys.readouterr().err
    assert sorted(os.listdir(out)) == ["events", "slurm-1.out", "thesis.tex"]
    (out / "thesis.tex").unlink()
    assert run.prepared(run.options(arguments))[0].exists()


def test_a_model_that_never_answers_and_a_budget_that_leaves_no_search_are_told(valley, tmp_path):
    out = tmp_path / "run"
    found = evo("run", "--benchmark", valley, "--out", out, "--workers", 1, "--evaluations", 8,
                "--model", "command:sh -c 'echo no quota >&2; exit 1'")  # fmt: skip
    assert found.returncode == 0, found.stderr
    told = "8 evaluations: 2 for the base, 1 for the search, 5 kept for finalists and pairs, which may take 16"
    assert f"{told}: --evaluations 34 leaves room\n" in found.stderr
    assert found.stderr.count("a call to the model failed: sh exited with 1: no quota") == 1
    assert re.search(r"model +0 calls answered, \d+ proposals without an answer: sh exited with 1", found.stdout)
    assert "leaves room" not in run.shares(dataclasses.replace(RunDir(out).settings(), evaluations=100))


def test_a_run_of_another_benchmark_or_base_is_refused(valley, tmp_path):
    out = tmp_path / "run"
    assert evo("run", "--benchmark", valley, "--out", out, "--workers", 1, "--evaluations", 8).returncode == 0
    other = evo("run", "--benchmark", "packing", "--out", out)
    assert other.returncode == 2 and "choose another --out" in other.stderr
    (valley / "program" / "solve.py").write_text(PROGRAM.replace("0.1", "0.2"))
    changed = evo("run", "--benchmark", valley, "--out", out)
    assert changed.returncode == 2 and "was begun with base" in changed.stderr
    settings = out / "run.toml"
    settings.write_text(settings.read_text().replace("format = 1", "format = 99"))
    later = evo("run", "--benchmark", valley, "--out", out)
    assert later.returncode == 2 and "format 99" in later.stderr


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("benchmark.toml", 'judge = "answer"', 'judge = "oracle"', "unknown judge 'oracle'; valid are answer"),
        ("benchmark.toml", "df = 30", "df = 30\ncolour = 1", "unknown key 'colour'; valid are"),
        ("benchmark.toml", 'direction = "minimize"', 'direction = "sideways"', "expected minimize or maximize"),
        ("benchmark.toml", "[profiles.main.noise]", "[profiles.main]\nspeed = 1\n[profiles.main.noise]", "key 'speed'"),
        ("benchmark.toml", 'name = "valley"', "name = ", "is not valid TOML"),
        ("benchmark.toml", '"solve.py"', '"other.py"', "matches no file"),
        ("program/solve.py", "return [RATE, WIDTH]", "return [RATE", "failed its own judge"),
        ("verify.py", "return 5 *", "raise ValueError('never') #", "failed its own judge: WRONG"),
    ],
)
def test_a_broken_benchmark_says_what_is_wrong(valley, tmp_path, file, old, new, sentence):
    text = (valley / file).read_text()
    assert old in text
    (valley / file).write_text(text.replace(old, new))
    found = evo("run", "--benchmark", valley, "--out", tmp_path / "run", "--workers", 1)
    assert found.returncode == 2, found.stdout + found.stderr
    assert sentence in found.stderr
    assert "Traceback" not in found.stderr


def test_judge_and_marks(valley, tmp_path):
    found = evo("judge", "--benchmark", valley, "--seeds", 2, "--json")
    objects = [json.loads(line) for line in found.stdout.splitlines()]
    assert [o["status"] for o in objects] == ["PASSED", "PASSED"]
    assert {"status", "score", "measures", "detail", "trust", "fingerprint"} <= set(objects[0])
    patch = tmp_path / "bad.patch"
    patch.write_text("--- a/solve.py\n+++ b/solve.py\n@@ -1 +1 @@\n-RATE = 0.7\n+RATE = 0.8\n")
    refused = evo("judge", "--benchmark", valley, "--genome", patch)
    assert refused.returncode == 2 and "expected 'RATE = 0.7', found 'RATE = 0.1'" in refused.stderr
    for arguments, sentence in (
        (("--seeds", 0), "--seeds: expected 1 or more, found 0"),
        (("--program", tmp_path / "valley"), "holds no file of valley's program (solve.py)"),
    ):
        refused = evo("judge", "--benchmark", valley, *arguments)
        assert refused.returncode == 2 and sentence in refused.stderr
    out = tmp_path / "run"
    evo("run", "--benchmark", valley, "--out", out, "--workers", 1)
    champion = json.loads(evo("inspect", out, "summary", "--json").stdout)["champion"]
    assert evo("inspect", out, "mark", champion, "ban", "too long").stdout == f"written: {champion} ban, too long\n"
    assert json.loads(evo("inspect", out, "summary", "--json").stdout)["champion"] != champion
    assert evo("inspect", out, "mark", champion, "release").returncode == 0
    assert json.loads(evo("inspect", out, "summary", "--json").stdout)["champion"] == champion
    assert evo("inspect", out, "mark", champion, "praise").returncode == 2
    noted = json.loads(evo("inspect", out, "note", "well done", "--json").stdout)
    assert noted == {"event": "noted", "text": "well done"}
    assert json.loads(evo("inspect", out, "diff", "--json").stdout)["genome"] == champion
    assert evo("run", "--certify", out).returncode == 0  # a second verdict of the same genome is no second candidate
    facts = [json.loads(line) for line in evo("inspect", out, "events", "--json").stdout.splitlines()]
    verdicts = [fact["genome"] for fact in facts if fact["event"] in ("certified", "refuted")]
    for name in set(verdicts):
        assert evo("inspect", out, "mark", name, "ban").returncode == 0
    assert len(verdicts) > len(set(verdicts))
    assert f"none certified; {len(set(verdicts))} candidate(s) reached certification" in evo("inspect", out).stdout
    assert (out / "best" / "champion.patch").exists()
    save_best(inspect.opened(out)[3], RunDir(out), benchmarks.load(str(valley)))
    assert not [path for path in (out / "best").rglob("*") if path.is_file()]


def test_killed_workers_leave_no_process_and_no_gap(valley, tmp_path):
    out = tmp_path / "run"
    evo("run", "--benchmark", valley, "--out", out, "--workers", 1, "--evaluations", 8)
    settings = out / "run.toml"
    settings.write_text(settings.read_text().replace("evaluations = 8", "evaluations = 36"))
    for pause in (0.3, 0.6, 0.9):
        worker = subprocess.Popen([sys.executable, "-m", "evo.worker", str(out)])
        time.sleep(pause)
        children = subprocess.run(["pgrep", "-P", str(worker.pid)], capture_output=True, text=True).stdout.split()
        worker.kill()
        worker.wait()
        deadline = time.monotonic() + 20  # killing is at once, reaping takes what a loaded machine takes
        while (alive := [child for child in children if _is_alive(int(child))]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive
    assert evo("worker", out).returncode == 0
    assert not [name for name in os.listdir(out / "claims") if not name.startswith(".")]


def _is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_role_without_workers_releases_the_others(valley, tmp_path):
    """Judges that cannot open their judge end; the proposer of a model-driven run must not wait for ever."""
    (valley / "verify.py").unlink()
    found = evo("run", "--benchmark", valley, "--out", tmp_path / "run", "--workers", 1, "--model", "command:cat")
    assert found.returncode == 2 and "expected a file with verify(answer)" in found.stderr


def test_a_run_ends_although_its_inbox_is_never_answered(valley, tmp_path):
    inbox = f"inbox:{tmp_path / 'inbox'}"
    found = evo(
        "run", "--benchmark", valley, "--out", tmp_path / "run", "--workers", 1, "--model", inbox, "--minutes", 0.05
    )
    assert found.returncode == 0, found.stderr
    assert "baseline" in found.stdout  # on a busy machine the time is over before the first prompt is written


def test_resuming_with_another_seed_is_refused(valley, tmp_path):
    out = tmp_path / "run"
    assert evo("run", "--benchmark", valley, "--out", out, "--workers", 1, "--evaluations", 8).returncode == 0
    other = evo("run", "--out", out, "--seed", 5)
    assert other.returncode == 2 and "was begun with --seed 0" in other.stderr
    more = evo("run", "--out", out, "--workers", 1, "--evaluations", 40)
    assert more.returncode == 0
    assert json.loads(evo("inspect", out, "summary", "--json").stdout)["evaluated"] > 20
