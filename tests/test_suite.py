"""Many tasks searched together: who gets the next slice, and what one task's patch is for another."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from evo import carry, library, run, suite
from evo.benchmark import UserMistake
from evo.genome import apply_diff, diff_trees
from evo.suite import Slice

TASKS = [f"t{k}" for k in range(8)]


def searched(gain_of, slices):
    """What a search brings whose slice `k` of a task gains `gain_of(task, k)`, with scores from .3 on."""
    history, scores = [], dict.fromkeys(TASKS, 0.3)
    for _ in range(slices):
        task = suite.choose(TASKS, history)
        k = sum(s.task == task for s in history)
        gain = min(gain_of(task, k), 1 - scores[task])
        scores[task] += gain
        history.append(Slice(task, 28 * (k + 1), scores[task], gain, 1.0))
    return history, scores


def test_every_task_is_tried_before_any_twice():
    history, _ = searched(lambda task, k: 0.1, 8)
    assert sorted(s.task for s in history) == TASKS


def test_slices_go_where_gains_are_and_every_task_keeps_its_floor():
    rich = {"t2", "t5"}
    history, scores = searched(lambda task, k: 0.06 * 0.9**k if task in rich else 0.002, 80)
    counts = {task: sum(s.task == task for s in history) for task in TASKS}
    assert min(counts.values()) >= suite.FLOOR * 80 / 8 - 1
    assert min(counts[task] for task in rich) > max(counts[task] for task in TASKS if task not in rich)
    equal = sum(min(0.7, sum(0.06 * 0.9**k for k in range(10))) if t in rich else 0.02 for t in TASKS)
    assert sum(scores.values()) - 0.3 * 8 > equal


def test_a_task_at_the_limit_gets_its_floor_only():
    history = [Slice("t0", 28, 1.0, 0.7, 1.0)] + [Slice(t, 28, 0.3, 0.01, 1.0) for t in TASKS[1:]]
    assert suite.choose(TASKS, history) != "t0"


def test_choices_depend_on_the_history_alone():
    first, _ = searched(lambda task, k: 0.01 * (k % 3), 30)
    again, _ = searched(lambda task, k: 0.01 * (k % 3), 30)
    assert first == again


def test_a_torn_line_is_as_good_as_none(tmp_path):
    file = tmp_path / "suite.jsonl"
    whole = json.dumps({"task": "a", "evaluations": 28, "score": None, "gain": 0.0, "seconds": 1.0})
    file.write_text(whole + "\n" + whole[:20])
    assert suite.read(file) == [Slice("a", 28, None, 0.0, 1.0)]
    assert suite.read(tmp_path / "none") == []


ONE = {"kernel.py": "BLOCK = 128\nWARPS = 4\n\n\ndef run(x, y):\n    y.copy_(x * 2)\n"}
OTHER = {"kernel.py": "import torch\n\nWARPS = 4\nBLOCK = 64\n\n\ndef run(a, b, c):\n    torch.add(a, b, out=c)\n"}


def test_a_patch_is_carried_as_it_stands_where_it_applies():
    diff = diff_trees(ONE, {"kernel.py": ONE["kernel.py"].replace("x * 2", "x + x")})
    longer = {"kernel.py": ONE["kernel.py"] + "\n\nEND = 1\n"}
    assert "x + x" in apply_diff(carry.over(diff, ONE, longer), longer)["kernel.py"]


def test_else_the_constants_that_it_sets_are_carried_by_name():
    changed = ONE["kernel.py"].replace("BLOCK = 128", "BLOCK = 1024").replace("x * 2", "x + x")
    diff = carry.over(diff_trees(ONE, {"kernel.py": changed}), ONE, OTHER)
    assert apply_diff(diff, OTHER)["kernel.py"] == OTHER["kernel.py"].replace("BLOCK = 64", "BLOCK = 1024")


def test_what_has_nothing_in_common_is_not_carried():
    diff = diff_trees(ONE, {"kernel.py": ONE["kernel.py"].replace("x * 2", "x + x")})
    assert carry.over(diff, ONE, OTHER) is None


def test_tasks_learn_of_each_other_through_their_folder(tmp_path):
    (tmp_path / "notes.jsonl").write_text(
        '{"idea": "one pass", "task": "sol-softmax"}\n{"idea": "wide loads", "task": "sol-cumsum"}\n{"idea'
    )
    assert library.elsewhere(tmp_path, "sol-softmax") == ("on sol-cumsum: wide loads",)
    assert library.elsewhere(tmp_path / "none", "sol-softmax") == ()


def problem(folder: Path, name: str, **more) -> None:
    folder.mkdir(parents=True)
    definition = {
        "name": name,
        "axes": {"n": {"type": "var"}},
        "inputs": {"x": {"shape": ["n"], "dtype": "float32"}},
        "outputs": {"y": {"shape": ["n"], "dtype": "float32"}},
        "reference": "def run(x):\n    return x * 2",
        **more,
    }
    (folder / "definition.json").write_text(json.dumps(definition))
    (folder / "workload.jsonl").write_text('{"uuid": "a", "axes": {"n": 8}, "inputs": {"x": {"type": "random"}}}\n')


def test_a_users_folder_is_a_suite_and_what_does_not_load_is_told(tmp_path, monkeypatch, capsys):
    problem(tmp_path / "all" / "a", "a")
    problem(tmp_path / "all" / "b", "b")
    problem(tmp_path / "all" / "c", "c", extra=1)
    name = f"sol:{tmp_path / 'all'}"
    assert suite.is_suite("sol") and suite.is_suite(name) and not suite.is_suite(f"{name}/a")
    assert not suite.is_suite("speedrun")
    given = []
    monkeypatch.setattr(suite, "best_score", lambda directory: 0.5)
    monkeypatch.setattr(suite, "_state", lambda directory: SimpleNamespace(base_mean=0.4))
    monkeypatch.setattr(suite, "share", lambda *arguments: None)
    found = run.options(["--benchmark", name, "--out", str(tmp_path / "out"), "--evaluations", "84", "--seed", "3"])
    assert suite.main(found, lambda arguments: given.append(arguments) or 0) == 0
    told = capsys.readouterr()
    assert "2 kernel task(s) loaded, 1 not" in told.err and "not c: c/definition.json: unknown key 'extra'" in told.err
    assert "suite mean 0.500 over 2 tasks" in told.out
    assert [a[a.index("--out") + 1] for a in given][:2] == [str(tmp_path / "out" / t) for t in ("a", "b")]
    assert len(given) == 3 and all("--seed" in a for a in given)
    assert suite.main(found, lambda arguments: given.append(arguments) or 0) == 0 and len(given) == 3  # nothing left


def test_a_folder_where_nothing_loads_is_a_mistake(tmp_path):
    problem(tmp_path / "all" / "c", "c", extra=1)
    with pytest.raises(UserMistake, match="none of its 1 problems loads"):
        suite.main(run.options(["--benchmark", f"sol:{tmp_path / 'all'}"]))


def test_what_a_suite_cannot_pass_on_is_refused(tmp_path):
    prices = tmp_path / "prices.toml"
    found = run.options(["--benchmark", "sol", "--prices", str(prices), "--usd", "3"])
    given = suite.arguments(found, "sol:softmax", tmp_path, 28, 60.0)
    assert given[given.index("--prices") + 1] == str(prices)
    with pytest.raises(UserMistake, match="--record is for a run of one task, sol has many"):
        suite.main(run.options(["--benchmark", "sol", "--record", "x.jsonl"]))
