"""Turns one numeric constant by one step, without a model."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from evo import syntax
from evo.genome import Genome, Patch, PatchError, Tree, diff_trees, hunks_between, patch_between
from evo.operators.scene import Draft, Scene

STEPS = (0.5, 0.7, 1.4, 2.0)


class Constant(NamedTuple):
    """A number in a source file: its line (1-based), the columns it takes there, and its value."""

    path: str
    line: int
    start: int
    end: int
    value: float
    name: str  # of the module-level setting it helps to define, else empty

    @property
    def is_integer(self) -> bool:
        return isinstance(self.value, int)


REMEMBERED = 1024  # statements
_numbers: dict[tuple[str, int, int], Sequence[Constant]] = {}


@lru_cache(maxsize=64)
def constants(text: str, path: str) -> Sequence[Constant]:
    """Every numeric literal of a Python file in source order; none where it does not parse.

    By `ast`, a statement at a time: libcst, which keeps layout, would take 20 times as long as all else here and 13 MB
    a worker, and one number of one line is replaced without touching the layout anyway.
    """
    if len(_numbers) > REMEMBERED:
        _numbers.clear()
    found: list[Constant] = []
    for statement in syntax.statements(text):
        if (own := _numbers.get(statement.key)) is None:
            own = _numbers[statement.key] = _in_statement(statement)
        found += [
            Constant(path, line + statement.first, start, end, value, name) for _, line, start, end, value, name in own
        ]
    return tuple(sorted(found, key=lambda c: (c.line, c.start)))


def _in_statement(statement: syntax.Statement) -> Sequence[Constant]:
    """The numbers of one statement, with lines counted from its first."""
    node = statement.node
    setting = node.targets[0].id if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) else ""
    valued = {id(part) for part in ast.walk(node.value)} if setting and isinstance(node, ast.Assign) else set()
    quoted = {id(part) for one in ast.walk(node) if isinstance(one, ast.JoinedStr) for part in ast.walk(one)}
    lines = statement.key[0].split("\n")
    found = []
    for part in ast.walk(node):
        if not isinstance(part, ast.Constant) or type(part.value) not in (int, float) or id(part) in quoted:
            continue  # inside an f-string Python 3.11 gives no true places
        line = part.lineno - statement.first
        # columns are counted in UTF-8 bytes
        written = lines[line].encode()
        start, end = len(written[: part.col_offset].decode()), len(written[: part.end_col_offset].decode())
        name = setting if id(part) in valued else ""
        found.append(Constant("", line, start, end, part.value, name))  # type: ignore[arg-type]
    return found


def with_constant(text: str, constant: Constant, value: float) -> str:
    """The text with one number replaced; everything else keeps its layout."""
    lines = text.split("\n")
    line = lines[constant.line - 1]
    written = literal(value, constant.is_integer)
    lines[constant.line - 1] = line[: constant.start] + written + line[constant.end :]
    return "\n".join(lines)


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
    if ("sweep", parent) in scene.tried.spent:
        return None
    own = scene.genome(parent)
    program = scene.build(own)
    paths = sorted(path for path in program if path.endswith(".py") and scene.editable(path))
    choices = [(c, f) for c in candidates(scene.base, program, paths) for f in STEPS]
    for constant, factor in scene.chance.shuffled("step", choices):
        value = turned(constant, factor)
        if value == constant.value:
            continue
        text = with_constant(program[constant.path], constant, value)
        child = _child(own, scene, program, {**program, constant.path: text}, constant, value)
        if child is not None and not scene.tried.has_set([p.name for p in child.patches]):
            return Draft((parent,), child)
    scene.tried.spend(("sweep", parent))
    return None


def _child(own: Genome, scene: Scene, program: Tree, wanted: Tree, constant: Constant, value: float) -> Genome | None:
    """The parent with the number changed inside the patch that wrote it, so that genomes stay short."""
    what = f"{constant.name or 'a constant'} at {constant.path}:{constant.line} from {constant.value:g} to {value:g}"
    words = {"hypothesis": f"sweep: {what}", "source": "sweep"}
    before, after = (tree[constant.path].split("\n")[constant.line - 1] for tree in (program, wanted))
    try:
        for patch in reversed(own.patches):
            if f"\n+{before}\n" not in patch.diff or any(patch.name in other.needs for other in own.patches):
                continue
            ground = Genome(own.base, tuple(other for other in own.patches if other.name in patch.needs))
            diff = _one_line(scene, ground, ground.with_patch(patch), constant.path, before, after)
            if diff is not None:
                rest = own.without(patch.name)
                single = Patch(diff, tuple(other.name for other in ground.patches), **words)
                return _if_it_makes(rest.with_patch(single) if diff else rest, wanted, scene)  # else it was undone
        bare = Genome(own.base)
        diff = _one_line(scene, bare, bare, constant.path, before, after)
        child = _if_it_makes(own.with_patch(Patch(diff, (), **words)), wanted, scene) if diff else None
        if child is not None:
            return child
        return own.with_patch(patch_between(own, scene.base, wanted, **words))
    except PatchError:
        return None


def _one_line(scene: Scene, ground: Genome, written: Genome, path: str, before: str, after: str) -> str | None:
    """The diff on `ground` that makes `written` of it but for one line; None where that line is not there once."""
    program = scene.build(written)
    lines = program.get(path, "").split("\n")
    if lines.count(before) != 1:
        return None
    lines[lines.index(before)] = after
    return diff_trees(scene.build(ground), {**program, path: "\n".join(lines)})


def _if_it_makes(child: Genome, wanted: Tree, scene: Scene) -> Genome | None:
    try:
        return child if scene.build(child) == wanted else None
    except PatchError:
        return None
