"""Turns one numeric constant by one step, without a model."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from evo.genome import Genome, Patch, PatchError, Tree, diff_trees, hunks_between, patch_between
from evo.operators.scene import Draft, Scene

STEPS = (0.5, 0.7, 1.4, 2.0)


@dataclass(frozen=True)
class Constant:
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


@lru_cache(maxsize=64)
def constants(text: str, path: str) -> Sequence[Constant]:
    """Every numeric literal of a Python file in source order; none where it does not parse.

    Found by `ast` and not by libcst, whose parse and visit of a 1 KB file take 20 times as long as all else here.
    """
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError):
        return ()
    names = {
        id(node): statement.targets[0].id
        for statement in module.body
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
        for node in ast.walk(statement.value)
    }
    quoted = {id(part) for node in ast.walk(module) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    lines = text.split("\n")
    found = []
    for node in ast.walk(module):
        if not isinstance(node, ast.Constant) or type(node.value) not in (int, float) or id(node) in quoted:
            continue  # inside an f-string Python 3.11 gives no true places
        # columns are counted in UTF-8 bytes
        line = lines[node.lineno - 1].encode()
        start, end = len(line[: node.col_offset].decode()), len(line[: node.end_col_offset].decode())
        found.append(Constant(path, node.lineno, start, end, node.value, names.get(id(node), "")))  # type: ignore[arg-type]
    return tuple(sorted(found, key=lambda c: (c.line, c.start)))


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
    scene.tried.spent.add(("sweep", parent))
    return None


def _child(own: Genome, scene: Scene, program: Tree, wanted: Tree, constant: Constant, value: float) -> Genome | None:
    """The parent with the number changed inside the patch that wrote it, so that genomes stay short."""
    what = f"{constant.name or 'a constant'} at {constant.path}:{constant.line} from {constant.value:g} to {value:g}"
    words = {"hypothesis": f"sweep: {what}", "source": "sweep"}
    before, after = (tree[constant.path].split("\n")[constant.line - 1] for tree in (program, wanted))
    try:
        for patch in reversed(own.patches):
            if f"+{before}" not in patch.diff.split("\n") or any(patch.name in other.needs for other in own.patches):
                continue
            ground = Genome(own.base, tuple(other for other in own.patches if other.name in patch.needs))
            single = _one_line(scene, ground, ground.with_patch(patch), constant.path, before, after, words)
            if single is not None:
                return _if_it_makes(own.without(patch.name).with_patch(single), wanted, scene)
        single = _one_line(scene, Genome(own.base), Genome(own.base), constant.path, before, after, words)
        if single is not None and (child := _if_it_makes(own.with_patch(single), wanted, scene)) is not None:
            return child
        return own.with_patch(patch_between(own, scene.base, wanted, **words))
    except PatchError:
        return None


def _one_line(
    scene: Scene, ground: Genome, written: Genome, path: str, before: str, after: str, words: Mapping[str, str]
) -> Patch | None:
    """The patch on `ground` that makes `written` of it but for one line; None where that line is not there once."""
    program = scene.build(written)
    lines = program.get(path, "").split("\n")
    if lines.count(before) != 1:
        return None
    lines[lines.index(before)] = after
    diff = diff_trees(scene.build(ground), {**program, path: "\n".join(lines)})
    return Patch(diff, tuple(patch.name for patch in ground.patches), **words) if diff else None


def _if_it_makes(child: Genome, wanted: Tree, scene: Scene) -> Genome | None:
    try:
        return child if scene.build(child) == wanted else None
    except PatchError:
        return None
