"""The kernel tasks on the CPU: bounds against counters, references against oracles, kernels in Triton's interpreter."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from evo import library
from evo import problem as problems
from evo.benchmark import SHIPPED, read_tree
from evo.carry import constants
from evo.genome import apply_diff

TASKS = SHIPPED / "sol" / "tasks"
NAMES = sorted(folder.name for folder in TASKS.iterdir() if (folder / "definition.json").is_file())
FAR = 10  # times the tolerance that a changed input must move the answer by
torch = pytest.importorskip("torch", reason="the tasks are written in torch")


@pytest.fixture(scope="module", params=NAMES)
def task(request):
    torch.set_num_threads(1)
    return problems.load(TASKS / request.param).task()


def drawn(task, workload, distribution, seed=7):
    torch.manual_seed(seed)
    return task.inputs(workload, torch.device("cpu"), distribution)


def rms(a, b):
    return float((a.double() - b.double()).square().mean().sqrt())


def test_there_are_the_tasks_of_the_suite():
    assert len(NAMES) == 28


def test_a_task_has_three_public_two_hidden_and_small_workloads(task):
    problem = task.problem
    assert problem.own and [w.hidden for w in problem.workloads] == [False] * 3 + [True] * 2
    assert {"odd", "skewed"} == {w.uuid for w in problem.workloads if w.hidden}
    assert {w.uuid for w in problem.small} == {"small", "odd"}


def test_shapes_and_dtypes_are_what_the_definition_says(task):
    d = task.problem.definition
    for workload in task.problem.small:
        sizes = d.sizes(workload.axes)
        inputs = drawn(task, workload, "plain")
        assert sum(x.numel() for x in inputs.values() if hasattr(x, "numel")) < 1e5
        for name, spec in d.inputs.items():
            if spec.shape is not None:
                assert (tuple(inputs[name].shape), inputs[name].dtype) == (
                    d.shape(spec, sizes),
                    getattr(torch, spec.dtype),
                )
                assert inputs[name].is_contiguous()
        for outputs in (task.reference(inputs), task.oracle(inputs)):
            assert [tuple(o.shape) for o in outputs] == [d.shape(s, sizes) for s in d.outputs.values()]
        assert [o.dtype for o in task.reference(inputs)] == [getattr(torch, s.dtype) for s in d.outputs.values()]


def test_inputs_are_the_same_for_one_seed_and_the_reference_repeats_itself(task):
    for distribution in problems.DISTRIBUTIONS:
        first, second = (drawn(task, task.problem.small[0], distribution) for _ in range(2))
        other = drawn(task, task.problem.small[0], distribution, seed=8)
        for name, x in first.items():
            if hasattr(x, "double"):
                assert torch.equal(x.double(), second[name].double())
        assert any(
            hasattr(x, "double") and not torch.equal(x.double(), other[name].double()) for name, x in first.items()
        )
        oracle = task.oracle(first)
        for a, b, exact in zip(task.reference(first), task.reference(second), oracle):
            assert rms(a, b) <= rms(a, exact)


def test_the_reference_is_within_rounding_of_the_oracle(task):
    """What an output's own dtype and bfloat16 products lose; a formula that differs would be far beyond it."""
    for workload in task.problem.small:
        for distribution in problems.DISTRIBUTIONS:
            inputs = drawn(task, workload, distribution)
            for found, exact in zip(task.reference(inputs), task.oracle(inputs)):
                if not found.dtype.is_floating_point:
                    assert torch.equal(found, exact)
                    continue
                scale = float(exact.double().square().mean().sqrt())
                rounding = 0.04 if found.dtype == torch.float8_e4m3fn else 0.02
                assert torch.isfinite(exact).all() and rms(found, exact) <= rounding * scale


def test_every_input_moves_the_answer_far_beyond_the_tolerance(task):
    inputs = drawn(task, task.problem.small[0], "plain")
    other = drawn(task, task.problem.small[0], "plain", seed=8)
    exact, found = task.oracle(inputs), task.reference(inputs)
    slack = task.slack
    for name, x in inputs.items():
        if not hasattr(x, "double"):
            continue
        moved = task.oracle({**inputs, name: other[name]})
        distance = 0.0
        for output, a, b, c in zip(task.problem.definition.outputs, exact, moved, found):
            allowed = slack.get(output, 4) * max(rms(c, a), 1e-12)
            distance = max(distance, rms(a, b) / allowed)
        assert distance > FAR, f"{name} moves the outputs by only {distance:.1f} tolerances"


def test_no_output_is_nearly_a_constant(task):
    for distribution in problems.DISTRIBUTIONS:
        inputs = drawn(task, task.problem.small[0], distribution)
        for name, a, c in zip(task.problem.definition.outputs, task.oracle(inputs), task.reference(inputs)):
            spread = float(a.double().std())
            assert spread > FAR * task.slack.get(name, 4) * rms(c, a) or name == "scale"


def test_min_bytes_is_every_needed_byte_once(task):
    """All inputs and outputs, less what these inputs do not touch, counted here from the tensors themselves."""
    d = task.problem.definition
    for workload in task.problem.small:
        sizes = d.sizes(workload.axes)
        inputs = drawn(task, workload, "plain")
        tensors = {n: x.nbytes for n, x in inputs.items() if hasattr(x, "nbytes")}
        if d.name == "attn_gqa_decode":
            entries = sum(inputs["lengths"].tolist())
            tensors["k"] = tensors["v"] = entries * inputs["k"][0, :, 0].nbytes
        if d.name == "moe_combine":
            tensors["rows"] = len(set(inputs["index"].flatten().tolist())) * inputs["rows"][0].nbytes
        if d.name == "moe_grouped_gemm":
            begins = [0, *inputs["ends"].tolist()]
            tensors["w"] = sum(inputs["w"][0].nbytes for a, b in pairwise(begins) if b > a)
        outputs = sum(torch.empty(d.shape(s, sizes), dtype=getattr(torch, s.dtype)).nbytes for s in d.outputs.values())
        assert task.min_bytes(workload.axes, inputs) == sum(tensors.values()) + outputs
        assert 0 < task.min_bytes(workload.axes) <= task.min_bytes(workload.axes, inputs)


def products(axes, name):
    """Multiply-adds of a causal or windowed attention and of a cache, counted pair by pair; each is two operations."""
    S = axes["S"]
    if name == "attn_gqa_decode":
        return axes["B"] * axes["HQ"] * max(1, S * axes["SHORTEST"] // 100) * axes["D"]
    window = axes.get("WINDOW", S)
    return axes["B"] * axes["H"] * axes["D"] * sum(0 <= i - j < window for i in range(S) for j in range(S))


def test_flops_agree_with_a_counter(task):
    """Matrix products by torch's counter or pair by pair; other arithmetic is at most what the reference does."""
    from torch._decomp import decomposition_table
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    class Elements(TorchDispatchMode):
        """One operation for each element that a call reads or writes, whichever is more."""

        total = 0

        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            if function in decomposition_table:
                with self:
                    return decomposition_table[function](*arguments, **(keywords or {}))
            out = function(*arguments, **(keywords or {}))
            if "view" not in str(function) and "empty" not in str(function):
                found = [x for x in (*arguments, *(out if isinstance(out, tuple) else (out,))) if hasattr(x, "numel")]
                self.total += max((x.numel() for x in found), default=0)
            return out

    name = task.problem.name
    for workload in task.problem.small:
        stated = task.flops(workload.axes)
        inputs = drawn(task, workload, "plain")
        sizes = task.problem.definition.sizes(workload.axes)
        if name.startswith("attn_"):
            assert sum(stated.values()) == {"attn_causal_bwd": 5}.get(name, 2) * 2 * products(sizes, name)
        elif set(stated) & {"bf16", "tf32", "fp8"}:
            wide = {
                n: x.double() if hasattr(x, "double") and x.dtype.is_floating_point else x for n, x in inputs.items()
            }
            with FlopCounterMode(display=False) as counter:
                task.run(*(inputs if name == "fp8_block_gemm" else wide).values())
            counted = counter.get_total_flops()
            if (
                name == "transformer_block"
            ):  # torch counts the upper triangle of the attention too, and on a CPU none of it
                counted = 2 * sizes["B"] * sizes["S"] * (4 * sizes["D"] ** 2 + 3 * sizes["D"] * sizes["F"])
                counted += (
                    2 * 2 * products({"B": sizes["B"], "S": sizes["S"], "H": sizes["H"], "D": sizes["HEAD"]}, name)
                )
            assert sum(stated.values()) == counted
        elif name == "causal_conv1d_silu":
            assert stated["fp32"] == 2 * sum(1 for _ in range(sizes["TAPS"])) * inputs["x"].numel()
        else:
            with Elements() as counter:
                task.run(*inputs.values())
            assert 0 <= sum(stated.values()) <= counter.total


def test_the_scan_by_chunks_is_the_recurrence():
    task = problems.load(TASKS / "selective_scan").task()
    workload = problems.Workload("long", {"B": 2, "L": 131, "D": 3, "N": 4})
    u, delta, a, b, c, skip = (x.double() for x in drawn(task, workload, "outliers").values())
    state, expected = torch.zeros(2, 3, 4, dtype=torch.float64), []
    for time in range(131):
        entered = (delta[:, time] * u[:, time])[..., None] * b[:, time, None]
        state = (delta[:, time, :, None] * a).exp() * state + entered
        expected.append((state * c[:, time, None]).sum(-1) + skip * u[:, time])
    found = task.oracle({"u": u, "delta": delta, "a": a, "b": b, "c": c, "skip": skip})[0]
    torch.testing.assert_close(found, torch.stack(expected, 1), rtol=1e-10, atol=1e-10)


# --- kernels in the interpreter, which must be chosen before torch imports triton: so in a process of its own ---------


def why_not() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    import numpy

    if tuple(int(n) for n in numpy.__version__.split(".")[:2]) >= (2, 4):
        return f"Triton's interpreter fails with numpy {numpy.__version__}; it needs one below 2.4"
    return None


def kernels(name):
    """The naive kernel of a task, and what the library makes of it."""
    base = read_tree(TASKS / name / "program")
    yield "naive", base["kernel.py"]
    for technique in library.load():
        if technique.benchmark == f"sol-{name}":
            yield technique.name, apply_diff(technique.patch.diff, base)["kernel.py"]


def complaints(folder, names):
    """What is wrong with the kernels of some tasks on the small workloads; their sources are written to `folder`."""
    found = {}
    for name in names:
        task = problems.load(TASKS / name).task()
        cases = []
        for workload in task.problem.small:
            for distribution in problems.DISTRIBUTIONS:
                inputs = drawn(task, workload, distribution)
                cases.append((f"{workload.uuid} {distribution}", inputs, task.reference(inputs), task.oracle(inputs)))
        for kernel, source in kernels(name):
            file = Path(folder) / f"{name}_{kernel}.py"
            file.write_text(source)
            spec = importlib.util.spec_from_file_location(file.stem, file)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            for case, inputs, reference, exact in cases:
                outputs = [x.clone().fill_(float("nan") if x.is_floating_point() else -77) for x in reference]
                module.run(*inputs.values(), *outputs)
                for output, x, y, r in zip(task.problem.definition.outputs, outputs, exact, reference):
                    error, allowed = rms(x, y), task.slack.get(output, 4) * rms(r, y)
                    if not error <= allowed:
                        found[f"{file.stem} {case} {output}"] = (error, allowed)
    return found


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_kernels_are_right_in_the_interpreter(tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(SHIPPED.parent)}
    command = [sys.executable, __file__, str(tmp_path), *NAMES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == {}


@pytest.mark.parametrize("name", NAMES)
def test_the_library_applies_to_the_kernels_and_they_are_python(name):
    for kernel, source in kernels(name):
        functions = [node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
        assert "run" in functions, kernel


def test_what_is_tried_on_a_kernel_are_constants_of_it(monkeypatch):
    monkeypatch.syspath_prepend(str(SHIPPED.parent / "scripts"))
    import kernel_tune

    for name, tries in kernel_tune.tries().items():
        source = dict(kernels(name))[f"sol_{name}"]
        for wanted in tries:
            found = constants(kernel_tune.changed(source, wanted))
            assert {key: int(found[key][0]) for key in wanted} == wanted


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(complaints(sys.argv[1], sys.argv[2:])))
