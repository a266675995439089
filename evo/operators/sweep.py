"""Turns one numeric constant by one step, without a model."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import libcst

from evo.genome import Genome, PatchError, Tree, hunks_between, patch_between
from evo.operators.scene import Draft, Scene

STEPS = (0.5, 0.7, 1.4, 2.0)


@dataclass(frozen=True)
class Constant:
    """A number in a source file: the index among all numbers of the file, its line (1-based) and its value."""

    path: str
    index: int
    line: int
    value: float
    is_integer: bool
    name: str  # of the module-level constant it defines, else empty


@lru_cache(maxsize=8)
def _parsed(text: str) -> libcst.Module:
    return libcst.parse_module(text)


@lru_cache(maxsize=256)
def constants(text: str, path: str) -> Sequence[Constant]:
    """Every numeric literal of a Python file, found by libcst in source order; none where it does not parse."""

    class Finder(libcst.CSTVisitor):
        def __init__(self) -> None:
            self.depth = 0
            self.target = ""
            self.found: list[tuple[float, bool, str]] = []

        def visit_FunctionDef(self, node: libcst.FunctionDef) -> None:
            self.depth += 1

        def leave_FunctionDef(self, original_node: libcst.FunctionDef) -> None:
            self.depth -= 1

        def visit_Assign(self, node: libcst.Assign) -> None:
            target = node.targets[0].target
            self.target = target.value if not self.depth and isinstance(target, libcst.Name) else ""

        def leave_Assign(self, original_node: libcst.Assign) -> None:
            self.target = ""

        def visit_Integer(self, node: libcst.Integer) -> None:
            self.found.append((node.evaluated_value, True, self.target))

        def visit_Float(self, node: libcst.Float) -> None:
            self.found.append((node.evaluated_value, False, self.target))

    try:
        finder = Finder()
        _parsed(text).visit(finder)
        lines = _lines_of_numbers(text)
    except (libcst.ParserSyntaxError, SyntaxError):
        return ()
    if [value for value, _ in lines] != [value for value, _, _ in finder.found]:
        return ()  # numbers inside f-strings, whose places Python 3.11 does not tell: such a file is not swept
    return tuple(
        Constant(path, index, line, value, is_integer, name)
        for index, ((value, is_integer, name), (_, line)) in enumerate(zip(finder.found, lines, strict=True))
    )


def _lines_of_numbers(text: str) -> list[tuple[float, int]]:
    # from `ast`, since libcst's own positions take ten times as long as everything else here
    numbers = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant) and type(n.value) in (int, float)]
    numbers.sort(key=lambda n: (n.lineno, n.col_offset))
    return [(n.value, n.lineno) for n in numbers]  # type: ignore[misc]


def with_constants(text: str, values: dict[int, float]) -> str:
    """The text with the numbers at these indices replaced; everything else keeps its layout."""

    class Turner(libcst.CSTTransformer):
        def __init__(self) -> None:
            self.index = -1

        def leave_Integer(self, original_node: libcst.Integer, updated_node: libcst.Integer) -> libcst.BaseExpression:
            return self._turned(updated_node, True)

        def leave_Float(self, original_node: libcst.Float, updated_node: libcst.Float) -> libcst.BaseExpression:
            return self._turned(updated_node, False)

        def _turned(self, node: libcst.BaseExpression, is_integer: bool) -> libcst.BaseExpression:
            self.index += 1
            if self.index not in values:
                return node
            return libcst.parse_expression(literal(values[self.index], is_integer))

    return _parsed(text).visit(Turner()).code


def literal(value: float, is_integer: bool) -> str:
    """A number as a person writes it: three significant digits."""
    if is_integer:
        return str(round(value))
    text = f"{value:.3g}"
    return text if any(c in text for c in ".e") else text + ".0"


def turned(constant: Constant, factor: float) -> float:
    """One step from a value; integers move by at least 1 and stay positive."""
    if constant.is_integer:
        moved = round(constant.value * factor)
        if moved == constant.value:
            moved += 1 if factor > 1 else -1
        return float(max(1, moved))
    return constant.value * factor


def candidates(before: Tree, after: Tree, paths: Sequence[str]) -> Iterator[Constant]:
    """Numbers that a patch wrote, and those that name a setting of the program; 0, 1 and 2 alone rarely are one."""
    for path in paths:
        text = after.get(path, "")
        written = set()
        shift = 0
        for hunk in hunks_between(before.get(path, ""), text):
            written |= set(range(hunk.start + shift + 1, hunk.start + shift + len(hunk.after) + 1))
            shift += len(hunk.after) - len(hunk.before)
        for constant in constants(text, path):
            if not math.isfinite(constant.value) or constant.value == 0:
                continue
            if (constant.name and constant.name.isupper()) or (
                constant.line in written and not (constant.is_integer and constant.value in (1, 2))
            ):
                yield constant


def propose(scene: Scene, parent: str) -> Draft | None:
    """The parent with one number of its program moved one step: a changed patch where the number is a patch's own."""
    own = scene.genome(parent)
    program = scene.build(own)
    paths = sorted(path for path in program if path.endswith(".py") and scene.editable(path))
    choices = [(c, f) for c in candidates(scene.base, program, paths) for f in STEPS]
    for constant, factor in scene.chance.shuffled("step", choices):
        value = turned(constant, factor)
        move = (parent, constant.path, constant.index, value)
        if value == constant.value or move in scene.tried.spent:
            continue
        text = with_constants(program[constant.path], {constant.index: value})
        child = _child(own, scene, {**program, constant.path: text}, constant, value)
        if child is not None and not scene.tried.has_set([p.name for p in child.patches]):
            return Draft((parent,), child)
        scene.tried.spent.add(move)
    return None


def _child(own: Genome, scene: Scene, wanted: Tree, constant: Constant, value: float) -> Genome | None:
    """The parent with the number changed inside the patch that wrote it, so that genomes stay short."""
    what = f"{constant.name or 'a constant'} at {constant.path}:{constant.line} from {constant.value:g} to {value:g}"
    words = {"hypothesis": f"sweep: {what}", "source": "sweep"}
    try:
        line = "+" + scene.build(own)[constant.path].split("\n")[constant.line - 1]
        for patch in reversed(own.patches):
            if line not in patch.diff.split("\n") or any(patch.name in other.needs for other in own.patches):
                continue
            rest = own.without(patch.name)
            single = patch_between(rest, scene.base, wanted, **words)
            if _differ_in_one_line(patch.diff, single.diff):
                return rest.with_patch(single)
        return own.with_patch(patch_between(own, scene.base, wanted, **words))
    except PatchError:
        return None


def _differ_in_one_line(old: str, new: str) -> bool:
    """True if the new diff adds what the old one adds but for one line: the same patch with another number."""
    added = [line for line in old.splitlines() if line.startswith("+") and not line.startswith("+++")]
    present = set(new.splitlines())
    return sum(line not in present for line in added) == 1
