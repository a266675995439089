"""Carries a patch from one program to another: as it stands where it applies, else the named constants it sets."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from evo.genome import PatchError, apply_diff, diff_trees

Tree = Mapping[str, str]


def over(diff: str, base: Tree, other: Tree) -> str | None:
    """`diff`, which is against `base`, as a diff against `other`; None where nothing of it can be carried over.

    A kernel's text fits no other kernel, but tile sizes, warps and stages stand under the same names in many: what the
    patch did to them is tried there.
    """
    changed: Tree | None
    try:
        changed = apply_diff(diff, other)
    except PatchError:
        changed = _constants(diff, base, other)
    found = diff_trees(other, changed) if changed is not None and dict(changed) != dict(other) else ""
    return found or None


def _constants(diff: str, base: Tree, other: Tree) -> dict[str, str] | None:
    try:
        changed = apply_diff(diff, base)
    except PatchError:
        return None
    wanted: dict[str, str] = {}
    for path, text in changed.items():
        before, after = constants(base.get(path, "")), constants(text)
        wanted |= {n: value for n, (value, _) in after.items() if n in before and before[n][0] != value}
    found = dict(other)
    for path, text in other.items():
        lines = text.splitlines(keepends=True)
        for name, (value, at) in constants(text).items():
            if name in wanted and wanted[name] != value:
                lines[at] = lines[at].replace(value, wanted[name], 1)
        found[path] = "".join(lines)
    return found


def constants(text: str) -> dict[str, tuple[str, int]]:
    """NAME -> (its number as written, its line) of the assignments at a module's top that fit one line."""
    try:
        module = ast.parse(text)
    except SyntaxError:
        return {}
    found = {}
    for node in module.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            value = node.value
            if isinstance(value, ast.Constant) and type(value.value) in (int, float) and node.lineno == node.end_lineno:
                line = text.splitlines()[node.lineno - 1].encode()
                word = line[value.col_offset : value.end_col_offset].decode()
                found[node.targets[0].id] = (word, node.lineno - 1)
    return found
