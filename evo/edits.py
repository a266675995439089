"""What a model wrote, read as an edit of a program: forgiving about fences and white space, strict about regions."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass

from evo.genome import PatchError, Tree

SEARCH = re.compile(
    r"^[ \t]*<{5,9} ?SEARCH[^\n]*\n(?P<old>.*?)^[ \t]*={5,9}[^\n]*\n(?P<new>.*?)^[ \t]*>{5,9} ?REPLACE", re.M | re.S
)
FENCE = re.compile(r"^```[\w+-]*[ \t]*(?P<path>[\w./-]+\.\w+)?[^\n]*\n(?P<body>.*?)^```[ \t]*$", re.M | re.S)
HUNK = re.compile(r"^@@[^\n]*\n(?P<body>(?:[ +\-\\].*\n?|\n)*)", re.M)
PATH = re.compile(r"(?:^|[\s`*#(\[])(?P<path>[\w-]+(?:/[\w.-]+)*\.\w+)")
HYPOTHESIS = re.compile(r"^\W*hypothesis\W*[:=]\W*(?P<text>.+)$", re.I | re.M)
CATEGORY = re.compile(r"^\W*category\W*[:=]\W*(?P<text>\w+)", re.I | re.M)


@dataclass(frozen=True)
class Answer:
    """The program after the edit, and the words that came with it."""

    tree: Tree
    hypothesis: str
    hint: str


@dataclass(frozen=True)
class _Edit:
    path: str
    old: str
    new: str
    whole: bool = False  # the whole file becomes `new`


def read(text: str, program: Tree, editable: Callable[[str], bool]) -> Answer:
    """Applies what a model wrote to the program it was shown. Raises PatchError with what an editor would say."""
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate fits no file
    edits = _search_replace(text, program) or _unified(text) or _whole_files(text, program)
    if not edits:
        raise PatchError(
            "no edit found: expected SEARCH/REPLACE blocks, a unified diff, or a whole file in a fence that names it"
        )
    tree = dict(program)
    for edit in edits:
        if not editable(edit.path):
            names = ", ".join(path for path in program if editable(path))
            raise PatchError(f"{edit.path} may not be changed; editable are {names}")
        if edit.path not in tree and edit.old.strip():
            raise PatchError(f"{edit.path}: no such file; there are {', '.join(tree)}")
        if edit.whole or edit.path not in tree:
            tree[edit.path] = _ended(edit.new)
        elif edit.old.strip():
            tree[edit.path] = _replaced(tree[edit.path], edit)
        else:
            raise PatchError(f"{edit.path}: nothing says where to insert; quote the lines beside the new ones")
    found = HYPOTHESIS.search(text)
    hint = CATEGORY.search(text)
    return Answer(tree, found["text"].strip(" *`_")[:200] if found else "", hint["text"].lower()[:20] if hint else "")


def _search_replace(text: str, program: Tree) -> list[_Edit]:
    edits = []
    position = 0
    path = ""
    for match in SEARCH.finditer(text):
        path = _path_before(text[position : match.start()], program) or path or _only(program, match["old"])
        edits.append(_Edit(path, match["old"], match["new"]))
        position = match.end()
    return edits


def _unified(text: str) -> list[_Edit]:
    edits: list[_Edit] = []
    parts = re.split(r"^\+\+\+ (?:b/)?(\S+)[^\n]*\n", text, flags=re.M)
    for path, body in zip(parts[1::2], parts[2::2], strict=True):
        before = len(edits)
        for match in HUNK.finditer(body):
            lines = [line if line else " " for line in match["body"].rstrip("\n").split("\n")]
            lines = [line for line in lines if not line.startswith(("\\", "--- ", "diff "))]
            old = "".join(line[1:] + "\n" for line in lines if line[0] in " -")
            new = "".join(line[1:] + "\n" for line in lines if line[0] in " +")
            if old != new:
                edits.append(_Edit(path, old, new))
        if len(edits) == before:
            raise PatchError(f"{path}: the diff changes nothing in it; write its hunks with @@ lines, or leave it out")
    return edits


def _whole_files(text: str, program: Tree) -> list[_Edit]:
    edits = []
    position = 0
    for match in FENCE.finditer(text):
        path = match["path"] or _path_before(text[position : match.start()], program)
        if path:
            edits.append(_Edit(path, "", match["body"], whole=True))
        position = match.end()
    return edits


def _path_before(text: str, program: Tree) -> str:
    """The last file name in the few lines before a block."""
    near = "\n".join(text.strip().split("\n")[-3:])
    found = [match["path"] for match in PATH.finditer(near)]
    known = [path for path in found if path in program]
    return (known or found or [""])[-1]


def _only(program: Tree, old: str) -> str:
    """The one file that holds a text, where the model did not say which."""
    holders = [path for path, text in program.items() if old.strip() and old.strip() in text]
    return holders[0] if len(holders) == 1 else next(iter(program))


def _ended(text: str) -> str:
    return text if text.endswith("\n") or not text else text + "\n"


def _replaced(text: str, edit: _Edit) -> str:
    """The text with the one place that matches replaced: exactly, else by lines that differ in white space alone."""
    old, lines = edit.old.strip("\n").split("\n"), text.split("\n")
    ends = range(len(lines) - len(old) + 1)
    places = [at for at in ends if lines[at : at + len(old)] == old]
    places = places or [at for at in ends if list(map(_bare, lines[at : at + len(old)])) == list(map(_bare, old))]
    if len(places) > 1:
        raise PatchError(f"{edit.path}: the lines to replace stand in {len(places)} places; quote more of them")
    if not places:
        raise PatchError(_nearest(edit, old, lines))
    shift = _indent(lines[places[0]]) - _indent(old[0])
    new = [_shifted(line, shift) for line in edit.new.strip("\n").split("\n")] if edit.new.strip() else []
    return "\n".join([*lines[: places[0]], *new, *lines[places[0] + len(old) :]])


def _bare(line: str) -> str:
    return " ".join(line.split())


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _shifted(line: str, by: int) -> str:
    if not line.strip():
        return ""
    return " " * by + line if by >= 0 else line[min(-by, _indent(line)) :]


def _nearest(edit: _Edit, old: list[str], lines: list[str]) -> str:
    """What an editor would say: where the nearest match is, and which line differs."""
    size = len(old)
    windows = ("\n".join(lines[at : at + size]) for at in range(len(lines)))
    _, at = max((difflib.SequenceMatcher(None, edit.old, window).ratio(), at) for at, window in enumerate(windows))
    for ours, theirs in zip(old, lines[at : at + size], strict=False):
        if _bare(ours) != _bare(theirs):
            return (
                f"{edit.path}: these lines are not in it. The nearest place is line {at + 1}; there, expected "
                f"{ours.strip()!r}, found {theirs.strip()!r}"
            )
    return f"{edit.path}: these lines are not in it; the nearest place is line {at + 1}: {lines[at].strip()!r}"
