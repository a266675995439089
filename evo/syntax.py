"""What a change is, read from the syntax tree: its identity, its footprint and its category."""

from __future__ import annotations

import ast
import bisect
import hashlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
TOO_DEEP = (RecursionError, MemoryError)  # what the parser raises for ten thousand calls or minus signs in a row
JIT = re.compile(r"\bjit\b")
# PEP 263. Under another encoding the interpreter reads another program than the one that is looked at here.
COOKIE = re.compile(r"[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")

Leaf = tuple[str, tuple[str, ...]]  # identifier or value, and the names of the scopes around it, innermost first
Words = tuple[tuple[str, tuple[str, ...]], ...]  # category and what its names contain, in order


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


@lru_cache(maxsize=64)
def _file_identity(text: str, is_python: bool, ignore_seeds: bool) -> str:
    if ignore_seeds and "seed" not in text.lower():
        return _file_identity(text, is_python, False)
    module = parsed(text) if is_python else None
    return text if module is None else _normal_form(module, text, ignore_seeds)


def parsed(text: str) -> ast.Module | None:
    """The syntax tree, to be read only; None for a text that does not parse."""
    found = _read(text)
    return found[0] if found is not None else None


def check(text: str, path: str) -> None:
    """Compiles a Python text, without running it; raises SyntaxError or ValueError as `compile` does.

    Statement by statement, since nearly all of them were compiled as part of an earlier program.
    """
    for line in re.split("\r\n|\r|\n", text, maxsplit=2)[:2]:
        if (cookie := COOKIE.match(line)) and cookie[1].lower().replace("_", "-") not in ("utf-8", "utf8"):
            raise ValueError(f"{path}: expected UTF-8, found the encoding {cookie[1]}; remove that line")
    if parsed(text) is None or "__future__" in text:  # whose place in the file counts
        try:
            compile(text, path, "exec", dont_inherit=True)
        except TOO_DEEP:
            raise ValueError(f"{path}: an expression is nested too deep for the parser") from None
        return
    if len(_compiled) > REMEMBERED:
        _compiled.clear()
    for statement in statements(text):
        if statement.key not in _compiled:
            compile(ast.Module([statement.node], []), path, "exec", dont_inherit=True)
            _compiled.add(statement.key)


@dataclass(frozen=True, slots=True)
class _Form:
    """A statement in normal form: at odd places stand names, to be numbered if the program itself gives them."""

    parts: tuple[str, ...]
    bound: frozenset[str]


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of a module: its lines (1-based), and a key that equal ones share wherever they stand.

    Programs of one search have nearly all of their statements in common, so what is read from one is remembered.
    """

    first: int
    last: int
    node: ast.stmt
    key: tuple[str, int, int]


def statements(text: str) -> Sequence[Statement]:
    """The statements of a module, in order; none where it does not parse."""
    found = _read(text)
    return found[1] if found is not None else ()


@lru_cache(maxsize=64)
def _read(text: str) -> tuple[ast.Module, Sequence[Statement]] | None:
    lines = text.split("\n")
    found = _spliced(lines)
    if found is None:
        try:
            module = ast.parse(text)
        except (SyntaxError, ValueError, *TOO_DEEP):
            return None
        found = [_statement(node, lines) for node in module.body]
    else:
        module = ast.Module([statement.node for statement in found], [])
    if "\r" not in text:  # which ends a line of Python and none of these
        if len(_last_read) >= LENGTHS:
            _last_read.clear()
        _last_read[len(lines)] = lines, found
    return module, found


def _statement(node: ast.stmt, lines: Sequence[str]) -> Statement:
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    last = node.end_lineno or node.lineno
    return Statement(first, last, node, ("\n".join(lines[first - 1 : last]), node.col_offset, node.end_col_offset or 0))


LENGTHS = 8
_last_read: dict[int, tuple[Sequence[str], Sequence[Statement]]] = {}  # by number of lines


def _spliced(lines: Sequence[str]) -> list[Statement] | None:
    """The statements of a text that differs from the last one of its length in whole statements of a line each.

    Only those are parsed, alone; None where that is not all that differs. A program of a search mostly differs so from
    another one, and parsing all of it would take longer than what else is read from it.
    """
    before, known = _last_read.get(len(lines), ((), ()))
    changed = {n + 1 for n, line in enumerate(before) if line != lines[n]}
    if not before or any("__future__" in lines[n - 1] or "\r" in lines[n - 1] for n in changed):
        return None
    found: list[Statement] = []
    for at, statement in enumerate(known):
        if changed.isdisjoint(range(statement.first, statement.last + 1)):
            found.append(statement)
            continue
        line = statement.first
        alone = (not at or known[at - 1].last < line) and (at + 1 == len(known) or known[at + 1].first > line)
        text = lines[line - 1]
        if statement.last != line or not alone or statement.node.col_offset or not text[:1].isidentifier():
            return None
        try:
            (node,) = ast.parse(text).body
        except (SyntaxError, ValueError, *TOO_DEEP):
            return None
        found.append(_statement(ast.increment_lineno(node, line - 1), lines))
        changed.remove(line)
    return None if changed else found


REMEMBERED = 1024  # statements
_forms: dict[tuple[tuple[str, int, int], bool], _Form] = {}
_compiled: set[tuple[str, int, int]] = set()
_leaves_of: dict[tuple[str, int, int], Sequence[tuple[int, Leaf]]] = {}


def _normal_form(module: ast.Module, text: str, ignore_seeds: bool) -> str:
    """A hash of the syntax tree in which local names are numbered by first appearance and docstrings are gone."""
    if len(_forms) > REMEMBERED:
        _forms.clear()
    forms = []
    for statement in statements(text)[1 if _has_docstring(module) else 0 :]:
        key = statement.key, ignore_seeds
        if (form := _forms.get(key)) is None:
            form = _forms[key] = _form(statement.node, ignore_seeds)
        forms.append(form)
    bound = frozenset().union(*(form.bound for form in forms))
    numbers: dict[str, str] = {}
    parts: list[str] = []
    for form in forms:
        parts.append(form.parts[0])
        for at in range(1, len(form.parts), 2):
            name = form.parts[at]
            parts.append(numbers.setdefault(name, f"v{len(numbers)}") if name in bound else name)
            parts.append(form.parts[at + 1])
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _form(statement: ast.stmt, ignore_seeds: bool) -> _Form:
    parts: list[str] = []
    text: list[str] = []

    def walk(node: ast.AST, seed: bool) -> None:
        text.append(type(node).__name__)
        if isinstance(node, ast.Constant):
            text.append("seed" if seed and isinstance(node.value, int) else repr(node.value))
            return
        seed = ignore_seeds and (seed or _names_a_seed(node))
        for field, value in ast.iter_fields(node):
            if field in ("ctx", "type_comment", "kind"):
                continue
            values = value if isinstance(value, list) else [value]
            if field == "body" and _has_docstring(node):
                values = values[1:]
            text.append(f"{field}:{len(values)}")
            for item in values:
                if isinstance(item, ast.AST):
                    walk(item, seed and not isinstance(node, ast.FunctionDef | ast.ClassDef))
                elif isinstance(item, str) and field in ("id", "arg", "name"):
                    parts.extend((" ".join(text), item))
                    text.clear()
                else:
                    text.append(repr(item))

    walk(statement, False)
    return _Form((*parts, " ".join(text)), frozenset(_bound_names(statement)))


def _bound_names(statement: ast.stmt) -> Iterator[str]:
    """Names that the program itself gives; what it imports or reaches by attribute keeps its name."""
    for node in ast.walk(statement):
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
    if not is_python or parsed(before) is None or parsed(after) is None:
        return Footprint.LOCAL
    had = _definitions(before)
    added = {name: node for name, node in _definitions(after).items() if name not in had}
    if any(JIT.search(ast.unparse(d)) for node in added.values() for d in node.decorator_list):
        return Footprint.KERNEL
    if added:
        return Footprint.STRUCTURAL
    return Footprint.CONSTANTS if _only_numbers_differ(before, after) else Footprint.LOCAL


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_definitions_in: dict[tuple[str, int, int], Mapping[str, Definition]] = {}


def _definitions(text: str) -> dict[str, Definition]:
    found: dict[str, Definition] = {}
    if len(_definitions_in) > REMEMBERED:
        _definitions_in.clear()
    for statement in statements(text):
        if (own := _definitions_in.get(statement.key)) is None:
            own = _definitions_in[statement.key] = _all_definitions(statement.node)
        found.update(own)
    return found


def _all_definitions(statement: ast.stmt) -> Mapping[str, Definition]:
    found: dict[str, Definition] = {}

    def walk(node: ast.AST, prefix: str) -> None:
        if isinstance(node, Definition):
            found[prefix + node.name] = node
            prefix = f"{prefix}{node.name}."
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.expr):  # no expression holds a definition
                walk(child, prefix)

    walk(statement, "")
    return found


NUMBER = re.compile(r"(?<![\w.])(?:- ?)?\d[\w.]*(?:(?<=[eE])[+-]?\d+)?")


def _only_numbers_differ(before: str, after: str) -> bool:
    # on the changed lines alone: blanking numbers in two syntax trees took a third of all syntax work
    return all(_blanked(hunk.before) == _blanked(hunk.after) for hunk in hunks_between(before, after))


@lru_cache(maxsize=512)
def _blanked(lines: Sequence[str]) -> str:
    return NUMBER.sub("0", "".join(lines))


# --- category ------------------------------------------------------------------------------------------------------


def category(before: Tree, after: Tree, regions: Mapping[str, Sequence[str]]) -> str:
    """The category whose words describe most of the changed syntax nodes; ties go to the earlier in the region map.

    Nodes count that one side has and the other has not, by identifier or value; where a change only moves them, all
    of its lines' nodes count. A node's own identifier decides before the function or class around it: a dtype inside
    attention is precision.
    """
    own = {"precision": DTYPE_WORDS, "kernel": ("triton", "jit", "autograd"), **regions}
    words = tuple((name, tuple(word.lower() for word in found)) for name, found in own.items())
    matcher = _matcher(words)
    votes: Counter[str] = Counter()
    for path in changed_paths(before, after):
        old, new = before.get(path, ""), after.get(path, "")
        for (identifier, scopes), count in _differing(old, new).items():
            if count and (chosen := matcher[identifier] or matcher.first(scopes)):
                votes[chosen] += abs(count)
    order = [*regions, *(key for key in own if key not in regions)]
    return min(votes, key=lambda c: (-votes[c], order.index(c))) if votes else OTHER


def _differing(old: str, new: str) -> Mapping[Leaf, int]:
    """How often each leaf came (or went, below 0); if none did on the whole, how often it stands in what changed."""
    shift = 0
    found: dict[Leaf, int] = {}
    lines_old: list[int] = []  # those that are no statement of their own, and all of them
    lines_new: list[int] = []
    all_old: list[int] = []
    all_new: list[int] = []
    own_old, own_new = _own_lines(old), _own_lines(new)
    for hunk in hunks_between(old, new):
        before = range(hunk.start + 1, hunk.end + 1)
        after = range(hunk.start + shift + 1, hunk.start + shift + len(hunk.after) + 1)
        shift += len(hunk.after) - len(hunk.before)
        all_old += before
        all_new += after
        if len(before) == len(after) == 1 and before[0] in own_old and after[0] in own_new:
            # such pairs come up in one program after the other: the lines of patches that their genomes share
            if len(_pairs) > REMEMBERED:
                _pairs.clear()
            pair = hunk.before[0], hunk.after[0]
            if (known := _pairs.get(pair)) is None:
                known = _pairs[pair] = _difference(_leaves(old, before), _leaves(new, after))
            for leaf, count in known:
                found[leaf] = found.get(leaf, 0) + count
        else:
            lines_old += before
            lines_new += after
    if lines_old or lines_new:
        for leaf, count in _difference(_leaves(old, lines_old), _leaves(new, lines_new)):
            found[leaf] = found.get(leaf, 0) + count
    if any(found.values()):
        return found
    return Counter(itertools.chain(_leaves(old, all_old), _leaves(new, all_new)))


_pairs: dict[tuple[str, str], Sequence[tuple[Leaf, int]]] = {}


def _difference(was: Iterable[Leaf], now: Iterable[Leaf]) -> Sequence[tuple[Leaf, int]]:
    counts: dict[Leaf, int] = {}  # no Counter, which takes longer to make than these few take to count
    for leaf in now:
        counts[leaf] = counts.get(leaf, 0) + 1
    for leaf in was:
        counts[leaf] = counts.get(leaf, 0) - 1
    return [(leaf, count) for leaf, count in counts.items() if count]


@lru_cache(maxsize=64)
def _own_lines(text: str) -> frozenset[int]:
    """Lines (1-based) that hold one whole statement of the module and nothing else."""
    found = statements(text)
    ends = [0, *(statement.last for statement in found)]
    begins = [*(statement.first for statement in found[1:]), math.inf]
    return frozenset(
        statement.first
        for statement, end, begin in zip(found, ends, begins)
        if end < statement.first == statement.last < begin
    )


def _leaves(text: str, lines: Sequence[int]) -> Iterator[Leaf]:
    """Identifiers and values on the given lines, which are in order; only statements that hold one are visited."""
    if len(_leaves_of) > REMEMBERED:
        _leaves_of.clear()
    for statement in statements(text) if lines else ():
        at = bisect.bisect_left(lines, statement.first)
        if at == len(lines) or lines[at] > statement.last:
            continue
        if (found := _leaves_of.get(statement.key)) is None:
            found = _leaves_of[statement.key] = list(_all_leaves(statement))
        wanted = {line - statement.first for line in lines[at:] if line <= statement.last}
        for line, leaf in found:
            if line in wanted:
                yield leaf


def _all_leaves(statement: Statement) -> Iterator[tuple[int, Leaf]]:
    """Leaves of a statement with their lines, counted from its first."""
    pending: list[tuple[ast.AST, tuple[str, ...]]] = [(statement.node, ())]
    while pending:
        node, scopes = pending.pop()
        if isinstance(node, ast.Assign) and not scopes:
            scopes = tuple(t.id for t in node.targets if isinstance(t, ast.Name))  # a setting's name is its scope
        here = (node.name, *scopes) if isinstance(node, Definition) else scopes
        if (line := getattr(node, "lineno", None)) is not None:
            for name in _identifiers(node):
                yield line - statement.first, (name, here)
            if isinstance(node, ast.Constant):
                yield line - statement.first, (repr(node.value), here)
        pending.extend((child, here) for child in ast.iter_child_nodes(node))


def _identifiers(node: ast.AST) -> tuple[str, ...]:
    names = (getattr(node, field, None) for field in ("id", "attr", "arg", "name"))
    return tuple(name for name in names if isinstance(name, str))


class _Matcher(dict[str, str | None]):
    """Category by name, filled as names are met."""

    def __init__(self, words: Words) -> None:
        self._words = words

    def __missing__(self, name: str) -> str | None:
        lowered = name.lower()
        found = (category for category, own in self._words if any(word in lowered for word in own))
        self[name] = next(found, None)
        return self[name]

    def first(self, names: Sequence[str]) -> str | None:
        return next((chosen for name in names if (chosen := self[name])), None)


@lru_cache(maxsize=8)
def _matcher(words: Words) -> _Matcher:
    return _Matcher(words)
