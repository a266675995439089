"""A kernel problem as files: definition and workloads, and for evo's own tasks the bound, the inputs and the oracle.

The JSON has SOL-ExecBench's fields (docs/definition.md, workload.md and solution.md of NVIDIA/SOL-ExecBench), so a
folder of theirs loads as one of ours does. Unknown keys are refused: their loader ignores them, and 1,299 published
workloads misspell one and are silently judged by its default.

    definition.json   name, axes, inputs, outputs; `reference` as a string, or reference.py beside it
    workload.jsonl    one workload a line; hidden.jsonl the same, never shown to a model; cpu.jsonl small ones
    task.py           ours only: flops(axes), min_bytes(axes, inputs), inputs(axes, device, distribution), oracle(...)
    program/          ours only: kernel.py, the naive kernel that a search begins with
"""

from __future__ import annotations

import ast
import json
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from evo.benchmark import UserMistake, settings

# bytes of an element; of float4_e2m1fn_x2 one element is a packed pair
DTYPES: Mapping[str, float] = MappingProxyType(
    {
        "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1,
        "float4_e2m1": 0.5, "float4_e2m1fn_x2": 1, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
    }
)  # fmt: skip
PYTHON_LANGUAGES = ("pytorch", "triton", "python")  # what a worker runs as it stands
OTHER_LANGUAGES = ("cute_dsl", "cutile", "cudnn_frontend", "cutlass", "cudnn", "cublas", "cuda_cpp", "cuda", "cpp")
INPUT_KINDS = ("random", "scalar", "safetensors", "custom")
DISTRIBUTIONS = ("plain", "outliers")  # every timed call draws one; a kernel must be right under both


class Unsupported(UserMistake):
    """A well-formed problem that cannot run here; the message says what is missing."""


@dataclass(frozen=True)
class Axis:
    type: str
    value: int | None = None
    expression: str | None = None
    description: str | None = None

    def __post_init__(self) -> None:
        if self.type not in ("const", "var", "expr"):
            raise UserMistake(f"axis type: expected const, var or expr, found '{self.type}'")
        if (self.type == "const") != (self.value is not None) or (self.type == "expr") != (self.expression is not None):
            raise UserMistake(
                f"axis of type {self.type}: expected 'value' for const, 'expression' for expr, none for var"
            )


@dataclass(frozen=True)
class TensorSpec:
    """`shape` names axes; () is a 0-d tensor, None a Python number."""

    shape: tuple[str, ...] | None
    dtype: str
    description: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UserMistake(f"dtype: expected one of {', '.join(DTYPES)}, found '{self.dtype}'")


@dataclass(frozen=True)
class Definition:
    name: str
    axes: Mapping[str, Axis]
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    reference: str
    description: str = ""
    op_type: str | None = None
    hf_id: str | None = None
    custom_inputs_entrypoint: str | None = None
    constraints: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def sizes(self, axes: Mapping[str, int]) -> dict[str, int]:
        """Every axis as a number: constants, the workload's variables, then expressions over them."""
        variable = {name for name, axis in self.axes.items() if axis.type == "var"}
        if set(axes) != variable:
            raise UserMistake(f"{self.name}: expected axes {sorted(variable)}, found {sorted(axes)}")
        found = {name: axis.value for name, axis in self.axes.items() if axis.value is not None} | dict(axes)
        open_axes = {name: axis.expression for name, axis in self.axes.items() if axis.type == "expr"}
        while open_axes:
            ready = {n: e for n, e in open_axes.items() if e and names_in(e) <= set(found)}
            if not ready:
                raise UserMistake(f"{self.name}: axes {sorted(open_axes)} refer to each other or to unknown axes")
            for name, expression in ready.items():
                found[name] = evaluate(expression, found)
                del open_axes[name]
        return found

    def shape(self, spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
        assert spec.shape is not None
        for axis in spec.shape:
            if axis not in sizes:
                raise UserMistake(f"{self.name}: shape names the axis '{axis}'; there are {sorted(sizes)}")
        return tuple(sizes[axis] for axis in spec.shape)


@dataclass(frozen=True)
class InputSource:
    type: str
    value: object = None
    path: str | None = None
    tensor_key: str | None = None

    def __post_init__(self) -> None:
        if self.type not in INPUT_KINDS:
            raise UserMistake(f"input type: expected one of {', '.join(INPUT_KINDS)}, found '{self.type}'")
        if self.type == "safetensors" and (self.path is None or self.tensor_key is None):
            raise UserMistake("input of type safetensors: expected 'path' and 'tensor_key'")


@dataclass(frozen=True)
class Tolerance:
    """Of a foreign workload: |x - y| <= max_atol + max_rtol |y| for at least the stated share of the elements."""

    max_atol: float = 1e-2
    max_rtol: float = 1e-2
    required_matched_ratio: float = 0.99
    max_error_cap: float | None = None
    allow_negative_inf: bool = False


@dataclass(frozen=True)
class Workload:
    uuid: str
    axes: Mapping[str, int]
    inputs: Mapping[str, InputSource] = field(default_factory=dict)  # empty: all from task.py
    tolerance: Tolerance | None = None  # None: the error model
    hidden: bool = False


@dataclass(frozen=True)
class Spec:
    languages: tuple[str, ...] = ()
    language: str | None = None  # the older spelling of one language
    target_hardware: tuple[str, ...] = ()
    entry_point: str = "kernel.py::run"
    destination_passing_style: bool = True
    binding: str | None = None
    dependencies: tuple[str, ...] = ()
    compile_options: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Solution:
    name: str
    definition: str
    author: str
    spec: Spec
    sources: Mapping[str, str]  # path -> text
    description: str = ""


@dataclass(frozen=True)
class Problem:
    """A loaded problem; `own` means that task.py states its bound, so that it can have a score S."""

    root: Path
    definition: Definition
    workloads: tuple[Workload, ...]  # public, then hidden
    small: tuple[Workload, ...] = ()  # for the CPU
    own: bool = False

    @property
    def name(self) -> str:
        return self.definition.name

    def task(self) -> Task:
        """Runs the trusted Python of the problem (reference.py, task.py); imports torch."""
        return Task(self)


class Task:
    """The trusted functions of a problem; call from the judge's process only."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        d = problem.definition
        self._reference = _module(f"reference_{d.name}", d.reference, str(problem.root / "reference"))
        self.run: Callable[..., Any] = _function(self._reference, "run", problem.root)
        self._own: ModuleType | None = None
        if problem.own:
            self._own = _module(f"task_{d.name}", (problem.root / "task.py").read_text(), str(problem.root / "task.py"))
            for name in ("flops", "min_bytes", "inputs"):
                _function(self._own, name, problem.root)

    def flops(self, axes: Mapping[str, int]) -> dict[str, float]:
        """Operations that any correct kernel must do, by the dtype whose rate prices them; a multiply-add is two."""
        return dict(self._own.flops(self.problem.definition.sizes(axes))) if self._own else {}

    def min_bytes(self, axes: Mapping[str, int], inputs: Mapping[str, Any] | None = None) -> int:
        """Bytes of device memory that any correct kernel must move: every needed input and every output once.

        Of a foreign problem: all inputs and outputs once, which overstates gathers; so it is for reading, not for S.
        """
        d = self.problem.definition
        sizes = d.sizes(axes)
        if self._own:
            return int(self._own.min_bytes(sizes, inputs))
        specs = [s for s in (*d.inputs.values(), *d.outputs.values()) if s.shape is not None]
        return int(sum(math.prod(d.shape(s, sizes)) * DTYPES[s.dtype] for s in specs))

    @property
    def slack(self) -> dict[str, float]:
        """By output: how many times the error of the reference in the task's own dtypes a kernel's may be."""
        return dict(getattr(self._own, "SLACK", {}))

    def inputs(self, workload: Workload, device: Any, distribution: str) -> dict[str, Any]:
        """Draws every input on `device` from torch's global generators, which the caller has seeded."""
        d = self.problem.definition
        sizes = d.sizes(workload.axes)
        if self._own:
            found = self._own.inputs(sizes, device, distribution)
        elif d.custom_inputs_entrypoint and any(s.type == "custom" for s in workload.inputs.values()):
            scalars = {n: s.value for n, s in workload.inputs.items() if s.type == "scalar"}
            found = getattr(self._reference, d.custom_inputs_entrypoint)({**sizes, **scalars}, device)
        else:
            found = {n: _drawn(d, n, workload, sizes, device, self.problem.root) for n in d.inputs}
        if list(found) != list(d.inputs):
            raise UserMistake(f"{d.name}: inputs: expected {list(d.inputs)} in this order, found {list(found)}")
        return found

    def oracle(self, inputs: Mapping[str, Any]) -> tuple[Any, ...]:
        """The outputs in float64, or float32 where task.py says so: its `oracle`, else the reference on wide inputs."""
        if self._own is not None and hasattr(self._own, "oracle"):
            return _tuple(self._own.oracle(**inputs))
        wide = {n: v.double() if hasattr(v, "double") and v.is_floating_point() else v for n, v in inputs.items()}
        return _tuple(self.run(*wide.values()))

    def reference(self, inputs: Mapping[str, Any]) -> tuple[Any, ...]:
        """The outputs in the task's own dtypes, computed as a user would have written it: the eager baseline."""
        return _tuple(self.run(*inputs.values()))


def load(folder: Path) -> Problem:
    """Reads one problem; raises UserMistake for a malformed one and Unsupported for one that cannot run here."""
    file = folder / "definition.json"
    if not file.is_file():
        raise UserMistake(f"{folder}: expected definition.json, found none")
    table = _json(file.read_text(), file)
    own = (folder / "task.py").is_file()
    if "reference" not in table and (folder / "reference.py").is_file():
        table["reference"] = (folder / "reference.py").read_text()
    where = f"{folder.name}/definition.json"
    for part, cls in (("axes", Axis), ("inputs", TensorSpec), ("outputs", TensorSpec)):
        entries = table.get(part, {})
        if not isinstance(entries, dict):
            raise UserMistake(f"{where}: {part}: expected an object, found {type(entries).__name__}")
        table[part] = {name: settings(cls, entry, f"{where}: {part}.{name}") for name, entry in entries.items()}
    definition = settings(Definition, {k: v for k, v in table.items() if v is not None}, where)
    names = ("workload.jsonl", "hidden.jsonl", "cpu.jsonl")
    public, hidden, small = (_workloads(folder / name, name == "hidden.jsonl") for name in names)
    if not public:
        raise UserMistake(f"{folder}: expected workload.jsonl with at least one workload, found none")
    problem = Problem(folder, definition, public + hidden, small, own)
    for workload in (*problem.workloads, *small):
        definition.sizes(workload.axes)
        unknown = set(workload.inputs) - set(definition.inputs)
        missing = set(definition.inputs) - set(workload.inputs) if workload.inputs or not own else set()
        if unknown or missing:
            raise UserMistake(
                f"{folder.name}: workload {workload.uuid}: unknown inputs {sorted(unknown)}, missing {sorted(missing)}"
            )
    for name, spec in {**definition.inputs, **definition.outputs}.items():
        if spec.dtype.startswith("float4"):
            raise Unsupported(f"'{name}' is {spec.dtype}, which only Blackwell GPUs compute with")
        if name in definition.outputs and spec.shape is None:
            raise Unsupported(f"output '{name}' is a Python number, which a buffer cannot receive")
    return problem


def load_solution(file: Path) -> Solution:
    """Reads solution.json; raises Unsupported for languages that need a compiler here."""
    table = _json(file.read_text(), file)
    spec = settings(Spec, table.get("spec", {}), f"{file.name}: spec")
    sources = {}
    for entry in table.get("sources", []):
        if set(entry) != {"path", "content"}:
            raise UserMistake(f"{file.name}: sources: expected path and content, found {sorted(entry)}")
        sources[entry["path"]] = entry["content"]
    solution = settings(Solution, {**table, "spec": spec, "sources": sources}, file.name)
    languages = (*spec.languages, *([spec.language] if spec.language else []))
    for language in languages:
        if language not in PYTHON_LANGUAGES:
            known = "supported by SOL-ExecBench but not here" if language in OTHER_LANGUAGES else "unknown"
            raise Unsupported(f"language '{language}' is {known}; evo runs {', '.join(PYTHON_LANGUAGES)}")
    return solution


def discover(folder: Path) -> tuple[dict[str, Problem], dict[str, str]]:
    """Every problem below a folder, by name, and by folder name why the others did not load."""
    loaded: dict[str, Problem] = {}
    refused: dict[str, str] = {}
    for file in sorted(folder.rglob("definition.json")):
        try:
            problem = load(file.parent)
        except (UserMistake, Unsupported) as reason:
            refused[file.parent.name] = str(reason)
            continue
        if problem.name in loaded:
            refused[file.parent.name] = f"the name '{problem.name}' stands twice"
        else:
            loaded[problem.name] = problem
    if not loaded and not refused:
        raise UserMistake(f"{folder}: expected folders with definition.json, found none")
    return loaded, refused


def evaluate(expression: str, sizes: Mapping[str, int]) -> int:
    """A whole number from an axis expression: + - * / // % **, parentheses, names of axes. No other Python."""
    operators: dict[type, Callable[[Any, Any], Any]] = {
        ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
        ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: _power,
    }  # fmt: skip

    def value(node: ast.AST) -> Any:
        if isinstance(node, ast.Expression):
            return value(node.body)
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return node.value
        if isinstance(node, ast.Name) and node.id in sizes:
            return sizes[node.id]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            return -value(node.operand) if isinstance(node.op, ast.USub) else value(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in operators:
            return operators[type(node.op)](value(node.left), value(node.right))
        raise UserMistake(f"axis expression '{expression}': expected numbers, axes and + - * / // % ** ( )")

    try:
        found = value(ast.parse(expression.strip(), mode="eval"))
    except (SyntaxError, ZeroDivisionError, OverflowError) as error:
        raise UserMistake(f"axis expression '{expression}': {error}") from error
    if found != int(found):
        raise UserMistake(f"axis expression '{expression}': expected a whole number, found {found}")
    return int(found)


def _power(base: float, exponent: float) -> float:
    if abs(exponent) > 64:
        raise UserMistake(f"axis expression: exponent {exponent} is above 64")
    return base**exponent


def names_in(expression: str) -> set[str]:
    try:
        return {node.id for node in ast.walk(ast.parse(expression.strip(), mode="eval")) if isinstance(node, ast.Name)}
    except SyntaxError as error:
        raise UserMistake(f"axis expression '{expression}': {error}") from error


def _workloads(file: Path, hidden: bool) -> tuple[Workload, ...]:
    if not file.is_file():
        return ()
    found = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if not line.strip():
            continue
        where = f"{file.parent.name}/{file.name} line {number}"
        table = _json(line, Path(where))
        inputs = {n: settings(InputSource, s, f"{where}: inputs.{n}") for n, s in table.get("inputs", {}).items()}
        kinds = {source.type for source in inputs.values()}
        if "custom" in kinds and kinds != {"custom"}:
            raise UserMistake(f"{where}: expected all inputs custom or none, found {', '.join(sorted(kinds))}")
        tolerance = table.get("tolerance")
        if tolerance is not None:
            tolerance = settings(Tolerance, tolerance, f"{where}: tolerance")
        if "hidden" in table:
            raise UserMistake(f"{where}: unknown key 'hidden'; hidden workloads stand in hidden.jsonl")
        found.append(settings(Workload, {**table, "inputs": inputs, "tolerance": tolerance, "hidden": hidden}, where))
    return tuple(found)


def _drawn(d: Definition, name: str, workload: Workload, sizes: Mapping[str, int], device: Any, root: Path) -> Any:
    """One input of a foreign problem by its source: a number, a stored tensor, or unit normal, or small integers."""
    import torch

    spec, source = d.inputs[name], workload.inputs[name]
    if source.type == "scalar" or spec.shape is None:
        return source.value
    dtype = getattr(torch, spec.dtype)
    if source.type == "safetensors":
        from safetensors.torch import load_file

        assert source.path is not None and source.tensor_key is not None
        place = next((p for p in (root / source.path, Path(source.path)) if p.is_file()), None)
        if place is None:
            raise Unsupported(f"input '{name}': no file {source.path}")
        return load_file(place)[source.tensor_key].to(device)
    shape = d.shape(spec, sizes)
    if spec.dtype == "bool":
        return torch.rand(shape, device=device) < 0.5
    if not dtype.is_floating_point:
        return torch.randint(0, 8, shape, device=device, dtype=dtype)
    return torch.randn(shape, device=device, dtype=torch.float32).to(dtype)


def _json(text: str, file: Path) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise UserMistake(f"{file}: a key stands twice in one object")
        return dict(pairs)

    try:
        found = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise UserMistake(f"{file}: not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserMistake(f"{file}: expected an object, found {type(found).__name__}")
    return found


def _module(name: str, source: str, file: str) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = file
    exec(compile(source, file, "exec"), module.__dict__)
    return module


def _function(module: ModuleType, name: str, root: Path) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if not callable(found):
        raise UserMistake(f"{root}: expected a function {name}() in {module.__name__.split('_')[0]}, found none")
    return found


def _tuple(found: Any) -> tuple[Any, ...]:
    if isinstance(found, dict):
        return tuple(found.values())
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)
