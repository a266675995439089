"""Kernel problems: what loads, what is refused and why, and that the shipped tasks are what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evo import problem
from evo.benchmark import SHIPPED, UserMistake
from evo.problem import Unsupported

TASKS = sorted(p.parent for p in (SHIPPED / "sol" / "tasks").glob("*/definition.json"))
DEFINITION = {
    "name": "scale",
    "axes": {"n": {"type": "var"}, "k": {"type": "const", "value": 4}, "m": {"type": "expr", "expression": "n // k"}},
    "inputs": {"x": {"shape": ["n"], "dtype": "float32"}, "by": {"shape": None, "dtype": "float32"}},
    "outputs": {"y": {"shape": ["m"], "dtype": "float32"}},
    "reference": "def run(x, by):\n    return x[::4] * by",
}
WORKLOAD = {"uuid": "a", "axes": {"n": 8}, "inputs": {"x": {"type": "random"}, "by": {"type": "scalar", "value": 2}}}


def written(folder: Path, definition: object = None, workload: object = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "definition.json").write_text(json.dumps(definition or DEFINITION))
    (folder / "workload.jsonl").write_text(json.dumps(workload or WORKLOAD) + "\n")
    return folder


def test_a_foreign_problem_loads_and_runs(tmp_path):
    torch = pytest.importorskip("torch")
    found = problem.load(written(tmp_path / "scale"))
    task = found.task()
    assert found.definition.sizes({"n": 8}) == {"n": 8, "k": 4, "m": 2}
    assert not found.own and task.min_bytes({"n": 8}) == 8 * 4 + 2 * 4
    torch.manual_seed(0)
    drawn = task.inputs(found.workloads[0], "cpu", "plain")
    assert drawn["by"] == 2 and torch.equal(task.oracle(drawn)[0], drawn["x"].double()[::4] * 2)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"definition": {**DEFINITION, "reference_code": ""}}, "unknown key 'reference_code'"),
        ({"definition": {k: v for k, v in DEFINITION.items() if k != "reference"}}, "'reference' is missing"),
        ({"workload": {**WORKLOAD, "tolerance": {"required_match_ratio": 0.98}}}, "unknown key 'required_match_ratio'"),
        ({"workload": {**WORKLOAD, "axes": {"k": 8}}}, "expected axes ['n']"),
        ({"workload": {**WORKLOAD, "inputs": {"x": {"type": "random"}}}}, "missing ['by']"),
        ({"workload": {**WORKLOAD, "inputs": {"x": {"type": "normal"}}}}, "input type: expected one of"),
        ({"workload": {**WORKLOAD, "hidden": True}}, "hidden.jsonl"),
        (
            {"definition": {**DEFINITION, "axes": {**DEFINITION["axes"], "m": {"type": "expr"}}}},
            "'expression' for expr",
        ),
    ],
)
def test_what_is_malformed_is_named(tmp_path, change, says):
    with pytest.raises(UserMistake, match=says.replace("[", r"\[").replace("]", r"\]")):
        problem.load(written(tmp_path / "p", **change))


def test_what_cannot_run_here_is_told_apart(tmp_path):
    four = {**DEFINITION, "inputs": {**DEFINITION["inputs"], "x": {"shape": ["n"], "dtype": "float4_e2m1fn_x2"}}}
    with pytest.raises(Unsupported, match="Blackwell"):
        problem.load(written(tmp_path / "p", four))


def test_a_folder_of_problems_says_what_loaded_and_why_not(tmp_path):
    written(tmp_path / "good")
    written(tmp_path / "twin")
    written(tmp_path / "bad", {**DEFINITION, "name": "bad", "extra": 1})
    loaded, refused = problem.discover(tmp_path)
    assert list(loaded) == ["scale"]
    assert "twice" in refused["twin"] and "unknown key 'extra'" in refused["bad"]


@pytest.mark.parametrize(
    "expression, value",
    [("n * 2 + 1", 17), ("(n - 1) // 2", 3), ("n ** 2 % 10", 4), ("-n + 10", 2), ("n / 2", 4)],
)
def test_axis_expressions(expression, value):
    assert problem.evaluate(expression, {"n": 8}) == value


@pytest.mark.parametrize(
    "expression", ["n / 3", "n.real", "__import__('os')", "n if n else 1", "2 ** 999", "1 / 0", "("]
)
def test_axis_expressions_are_arithmetic_only(expression):
    with pytest.raises(UserMistake, match="axis expression"):
        problem.evaluate(expression, {"n": 8})


@pytest.mark.parametrize(
    "languages, says", [(["cuda_cpp"], "supported by SOL-ExecBench but not here"), (["basic"], "unknown")]
)
def test_solutions(tmp_path, languages, says):
    solution = {
        "name": "s", "definition": "scale", "author": "a",
        "spec": {"languages": ["triton"], "entry_point": "k.py::run"},
        "sources": [{"path": "k.py", "content": "def run(x, by, y): ..."}],
    }  # fmt: skip
    (tmp_path / "s.json").write_text(json.dumps(solution))
    assert problem.load_solution(tmp_path / "s.json").sources == {"k.py": "def run(x, by, y): ..."}
    solution["spec"] = {"languages": languages}
    (tmp_path / "s.json").write_text(json.dumps(solution))
    with pytest.raises(Unsupported, match=says):
        problem.load_solution(tmp_path / "s.json")


@pytest.mark.parametrize("folder", TASKS, ids=lambda folder: folder.name)
def test_shipped_tasks_are_complete(folder):
    torch = pytest.importorskip("torch")
    found = problem.load(folder)
    assert found.name == folder.name and found.own and (folder / "program" / "kernel.py").is_file()
    assert [w.hidden for w in found.workloads] == [False] * 3 + [True] * 2 and found.small
    task = found.task()
    for workload in found.small:
        torch.manual_seed(1)
        drawn = task.inputs(workload, "cpu", "plain")
        torch.manual_seed(1)
        again = task.inputs(workload, "cpu", "plain")
        sizes = found.definition.sizes(workload.axes)
        moved = 0.0
        for name, spec in found.definition.inputs.items():
            if spec.shape is None:
                continue
            assert tuple(drawn[name].shape) == found.definition.shape(spec, sizes), name
            assert str(drawn[name].dtype) == f"torch.{spec.dtype}" and drawn[name].is_contiguous(), name
            assert torch.equal(drawn[name].view(torch.uint8), again[name].view(torch.uint8)), name
            moved += drawn[name].nbytes
        outputs, exact = task.reference(drawn), task.oracle(drawn)
        assert len(outputs) == len(exact) == len(found.definition.outputs)
        for found_output, precise, (name, spec) in zip(outputs, exact, found.definition.outputs.items()):
            assert tuple(found_output.shape) == found.definition.shape(spec, sizes) == tuple(precise.shape), name
            assert str(found_output.dtype) == f"torch.{spec.dtype}", name
            assert torch.isfinite(precise.double()).all(), name
            moved += found_output.nbytes
        assert 0 < task.min_bytes(workload.axes, drawn) <= moved
        assert set(task.flops(workload.axes)) <= {"fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "int8"}
