"""What a change is, read from the syntax tree: its identity, its footprint and its category."""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from functools import lru_cache

from evo.genome import Tree, hunks_between

OTHER = "other"  # the category of a change that no word of the region map describes
DTYPE_WORDS = (
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "float8",
    "half",
    "double",
    "autocast",
    "fp8",
    "bf16",
    "fp16",
)
JIT = re.compile(r"\bjit\b")


class Footprint(IntEnum):
    """How deep a change goes."""

    CONSTANTS = 0
    LOCAL = 1
    STRUCTURAL = 2  # a new function or class
    KERNEL = 3  # a new function compiled for the device

    @property
    def label(self) -> str:
        return self.name.lower()


# --- identity ------------------------------------------------------------------------------------------------------


def identity(tree: Tree, *, ignore_seeds: bool = False) -> str:
    """A hash equal for programs that differ only in names, comments and layout; constants count.

    With `ignore_seeds`, numbers that are given to something called seed do not count either.
    """
    digest = hashlib.sha256()
    for path in sorted(tree):
        digest.update(f"{path}\0{_file_identity(tree[path], path.endswith('.py'), ignore_seeds)}\0".encode())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=4096)
def _file_identity(text: str, is_python: bool, ignore_seeds: bool) -> str:
    if ignore_seeds and "seed" not in text.lower():
        return _file_identity(text, is_python, False)
    module = _parsed(text) if is_python else None
    return text if module is None else _normal_form(module, ignore_seeds)


@lru_cache(maxsize=64)
def _parsed(text: str) -> ast.Module | None:
    """The syntax tree, to be read only; None for a text that does not parse."""
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return None


def _normal_form(module: ast.Module, ignore_seeds: bool) -> str:
    """A text of the syntax tree in which local names are numbered by first appearance and docstrings are gone."""
    bound = set(_bound_names(module))
    numbers: dict[str, str] = {}

    def name(text: str) -> str:
        return numbers.setdefault(text, f"v{len(numbers)}") if text in bound else text

    parts: list[str] = []

    def walk(node: ast.AST, seed: bool) -> None:
        parts.append(type(node).__name__)
        if isinstance(node, ast.Constant):
            parts.append("seed" if seed and isinstance(node.value, int) else repr(node.value))
            return
        seed = ignore_seeds and (seed or _names_a_seed(node))
        for field, value in ast.iter_fields(node):
            if field in ("ctx", "type_comment", "kind"):
                continue
            values = value if isinstance(value, list) else [value]
            if field == "body" and _has_docstring(node):
                values = values[1:]
            parts.append(f"{field}:{len(values)}")
            for item in values:
                if isinstance(item, ast.AST):
                    walk(item, seed and not isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef))
                elif isinstance(item, str) and field in ("id", "arg", "name"):
                    parts.append(name(item))
                else:
                    parts.append(repr(item))

    walk(module, False)
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _bound_names(module: ast.Module) -> Iterator[str]:
    """Names that the program itself gives; what it imports or reaches by attribute keeps its name."""
    for node in ast.walk(module):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg


def _has_docstring(node: ast.AST) -> bool:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or not node.body:
        return False
    first = node.body[0]
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def _names_a_seed(node: ast.AST) -> bool:
    if isinstance(node, ast.Assign):
        return any("seed" in ast.unparse(target).lower() for target in node.targets)
    if isinstance(node, ast.AnnAssign | ast.AugAssign):
        return "seed" in ast.unparse(node.target).lower()
    if isinstance(node, ast.keyword):
        return "seed" in (node.arg or "").lower()
    return isinstance(node, ast.Call) and "seed" in ast.unparse(node.func).lower()


# --- footprint -----------------------------------------------------------------------------------------------------


def footprint(before: Tree, after: Tree) -> Footprint:
    """The deepest change over all files; a file that is not Python counts as local."""
    deepest = Footprint.CONSTANTS
    for path in changed_paths(before, after):
        deepest = max(deepest, _file_footprint(before.get(path, ""), after.get(path, ""), path.endswith(".py")))
    return deepest


def changed_paths(before: Tree, after: Tree) -> list[str]:
    return sorted(path for path in {*before, *after} if before.get(path) != after.get(path))


def _file_footprint(before: str, after: str, is_python: bool) -> Footprint:
    if not is_python:
        return Footprint.LOCAL
    old, new = _parsed(before), _parsed(after)
    if old is None or new is None:
        return Footprint.LOCAL
    had = _definitions(old)
    added = {name: node for name, node in _definitions(new).items() if name not in had}
    if any(JIT.search(ast.unparse(d)) for node in added.values() for d in node.decorator_list):
        return Footprint.KERNEL
    if added:
        return Footprint.STRUCTURAL
    return Footprint.CONSTANTS if _only_numbers_differ(before, after) else Footprint.LOCAL


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _definitions(module: ast.Module) -> dict[str, Definition]:
    found: dict[str, Definition] = {}

    def walk(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Definition):
                found[prefix + child.name] = child
                walk(child, f"{prefix}{child.name}.")
            elif not isinstance(child, ast.expr):  # no expression holds a definition
                walk(child, prefix)

    walk(module, "")
    return found


NUMBER = re.compile(r"(?<![\w.])(?:- ?)?\d[\w.]*(?:(?<=[eE])[+-]?\d+)?")


def _only_numbers_differ(before: str, after: str) -> bool:
    # on the changed lines alone: blanking numbers in two syntax trees took a third of all syntax work
    for hunk in hunks_between(before, after):
        old, new = ("".join(lines) for lines in (hunk.before, hunk.after))
        if NUMBER.sub("0", old) != NUMBER.sub("0", new):
            return False
    return True


# --- category ------------------------------------------------------------------------------------------------------


def category(before: Tree, after: Tree, regions: Mapping[str, Sequence[str]]) -> str:
    """The category whose words describe most of the changed syntax nodes; ties go to the earlier in the region map.

    Nodes count that one side has and the other has not, by identifier or value; where a change only moves them, all
    of its lines' nodes count. A node's own identifier decides before the function or class around it: a dtype inside
    attention is precision.
    """
    words = {"precision": DTYPE_WORDS, "kernel": ("triton", "jit", "autograd"), **regions}
    votes: Counter[str] = Counter()
    for path in changed_paths(before, after):
        old, new = before.get(path, ""), after.get(path, "")
        shift = 0
        lines_old: set[int] = set()
        lines_new: set[int] = set()
        for hunk in hunks_between(old, new):
            lines_old.update(range(hunk.start + 1, hunk.end + 1))
            lines_new.update(range(hunk.start + shift + 1, hunk.start + shift + len(hunk.after) + 1))
            shift += len(hunk.after) - len(hunk.before)
        was, now = Counter(_leaves(old, lines_old)), Counter(_leaves(new, lines_new))
        for leaf, count in ((was - now) + (now - was) or was + now).items():
            if chosen := _matching(leaf[:1], words) or _matching(leaf[1], words):
                votes[chosen] += count
    order = [*regions, *(key for key in words if key not in regions)]
    return min(votes, key=lambda c: (-votes[c], order.index(c))) if votes else OTHER


Leaf = tuple[str, tuple[str, ...]]  # identifier or value, and the names of the scopes around it, innermost first


def _leaves(text: str, lines: set[int]) -> Iterator[Leaf]:
    return (leaf for line, leaf in _all_leaves(text) if line in lines)


@lru_cache(maxsize=16)
def _all_leaves(text: str) -> Sequence[tuple[int, Leaf]]:
    module = _parsed(text)
    if module is None:
        return ()
    found: list[tuple[int, Leaf]] = []
    pending: list[tuple[ast.AST, tuple[str, ...]]] = [(module, ())]
    while pending:
        node, scopes = pending.pop()
        if isinstance(node, ast.Assign) and not scopes:
            scopes = tuple(t.id for t in node.targets if isinstance(t, ast.Name))  # a setting's name is its scope
        here = (node.name, *scopes) if isinstance(node, Definition) else scopes
        if (line := getattr(node, "lineno", None)) is not None:
            found += [(line, (name, here)) for name in _identifiers(node)]
            if isinstance(node, ast.Constant):
                found.append((line, (repr(node.value), here)))
        pending.extend((child, here) for child in ast.iter_child_nodes(node))
    return found


def _identifiers(node: ast.AST) -> tuple[str, ...]:
    names = (getattr(node, field, None) for field in ("id", "attr", "arg", "name"))
    return tuple(name for name in names if isinstance(name, str))


def _matching(names: Iterable[str], words: Mapping[str, Sequence[str]]) -> str | None:
    for name in names:
        lowered = name.lower()
        for category_name, own in words.items():
            if any(word.lower() in lowered for word in own):
                return category_name
    return None
