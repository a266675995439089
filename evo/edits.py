"""What a model wrote, read as an edit of a program: forgiving about fences and white space, strict about regions."""

from __future__ import annotations

import ast
import difflib
import itertools
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from evo.genome import PatchError, Tree

# One pattern for a whole block would take hours for an answer that opens a thousand and closes none.
OPENING, DIVIDER = re.compile(r"^[ \t]*<{5,9} ?SEARCH", re.M), re.compile(r"^[ \t]*={5,9}", re.M)
CLOSING = re.compile(r"^[ \t]*>{5,9} ?REPLACE", re.M)
FENCE = re.compile(r"^```[\w+-]*[ \t]*(?P<path>[\w./-]+\.\w+)?[^\n]*\n", re.M)
FENCE_END = re.compile(r"^```[ \t]*$", re.M)
HUNK = re.compile(r"^@@[^\n]*\n(?P<body>(?:[ +\-\\].*\n?|\n)*)", re.M)
PATH = re.compile(r"(?:^|[\s`*#(\[])(?P<path>[\w-]+(?:/[\w.-]+)*\.\w+)")
HYPOTHESIS = re.compile(
    r"^(?:\d+\.)?[^\w\n]*hypothesis(?:[^\w\n]*\d+)?[^\w\n]*[:=][^\w\n]*(?P<text>\w.*)$", re.I | re.M
)
CATEGORY = re.compile(r"^\W*category\W*[:=]\W*(?P<text>\w+)", re.I | re.M)


HYPOTHESIS_LIMIT = 300  # characters
LOOKED_AT = 8  # places that are compared closely with what was not found
COMPARED = 300  # characters of it: of 200 lines the comparison would take a minute


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
    text = text.replace("\r\n", "\n").encode("utf-8", "replace").decode()  # a lone surrogate fits no file
    edits = _search_replace(text, program) or _unified(text) or _whole(text, program)
    if not edits:
        raise PatchError(
            "no edit found: expected SEARCH/REPLACE blocks, a unified diff, or whole functions in a fence after the "
            "name of their file"
        )
    tree = dict(program)
    for number, edit in enumerate(edits):
        if not editable(edit.path):
            names = ", ".join(path for path in program if editable(path))
            raise PatchError(f"{edit.path or 'a file without a name'} may not be changed; editable are {names}")
        if edit.path not in tree and edit.old.strip():
            raise PatchError(f"{edit.path}: no such file; there are {', '.join(tree)}")
        if edit.old.strip() and any(edit.path == e.path and edit.old == e.old for e in edits[:number]):
            raise PatchError(f"{edit.path}: two edits of the same lines; give one change, not alternatives")
        if edit.whole or edit.path not in tree:
            tree[edit.path] = _ended(edit.new)
        elif edit.old.strip():
            tree[edit.path] = _replaced(tree[edit.path], edit)
        else:
            raise PatchError(f"{edit.path}: nothing says where to insert; quote the lines beside the new ones")
    found = HYPOTHESIS.search(text)
    hint = CATEGORY.search(text)
    return Answer(tree, _stripped(found["text"]) if found else "", hint["text"].lower()[:20] if hint else "")


def changes(text: str) -> list[str]:
    """The parts of an answer that hold a change each and begin with a hypothesis each; else the whole answer."""
    text = text.replace("\r\n", "\n")
    starts = [match.start() for match in HYPOTHESIS.finditer(text)]
    parts = [text[start:end] for start, end in itertools.pairwise([*starts, len(text)])]
    whole = all(OPENING.search(part) or HUNK.search(part) or next(_fences(part), None) for part in parts)
    return parts if len(parts) > 1 and whole else [text]


def hypotheses(text: str, limit: int = 5) -> tuple[str, ...]:
    """The statements that a model wrote down, one a line `Hypothesis: ...`."""
    found = (_stripped(match["text"]) for match in HYPOTHESIS.finditer(text.replace("\r\n", "\n")))
    return tuple(dict.fromkeys(one for one in found if one))[:limit]


def _stripped(text: str) -> str:
    """One line, cut between words where it is too long: half a word misleads whoever reads it later."""
    line = " ".join(text.strip(" *`_").split())
    if len(line) <= HYPOTHESIS_LIMIT:
        return line
    head = line[: HYPOTHESIS_LIMIT - 1]
    return (head.rpartition(" ")[0] or head) + "…"


def _search_replace(text: str, program: Tree) -> list[_Edit]:
    edits = []
    position = 0
    path = ""
    while opening := OPENING.search(text, position):
        begin = _after_line(text, opening.end())
        if not (divider := DIVIDER.search(text, begin)):
            break
        middle = _after_line(text, divider.end())
        if not (closing := CLOSING.search(text, middle)):
            break
        old, new = text[begin : divider.start()], text[middle : closing.start()]
        path = _path_before(text[position : opening.start()], program) or path or _only(program, old)
        edits.append(_Edit(path, old, new))
        position = closing.end()
    if len(OPENING.findall(text)) != len(edits) or len(CLOSING.findall(text)) != len(edits):
        raise PatchError("a SEARCH/REPLACE block is not whole: each needs SEARCH, ======= and REPLACE lines")
    return edits


def _after_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end + 1


def _fences(text: str) -> Iterator[tuple[int, int, str, str]]:
    """Begin and end of each fence, the path on its first line, and what is in it."""
    position = 0
    while (first := FENCE.search(text, position)) and (last := FENCE_END.search(text, first.end())):
        yield first.start(), last.end(), first["path"] or "", text[first.end() : last.start()]
        position = last.end()


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


def _whole(text: str, program: Tree) -> list[_Edit]:
    """Fences after the name of a file: the whole file, or functions and classes of it."""
    edits: list[_Edit] = []
    position = 0
    for begin, end, named, body in _fences(text):
        path = named or _path_before(text[position:begin], program)
        path = path or _defining(body, program)
        parts = _definitions(body, program.get(path, ""))
        if parts is not None:
            edits += [_Edit(path, old, new) for old, new in parts]
        elif path:
            lines, before = body.count("\n"), program.get(path, "").count("\n")
            if 2 * lines < before:  # an excerpt that is shown for orientation would replace everything
                raise PatchError(
                    f"{path}: a fence of {lines} lines after its name would replace its {before} lines; write a "
                    "SEARCH/REPLACE block, or whole functions"
                )
            edits.append(_Edit(path, "", body, whole=True))
        position = end
    return edits


def _defining(body: str, program: Tree) -> str:
    """The one file that defines something of what a fence without a file name defines; else an empty text."""
    names = re.findall(r"^[ \t]*(?:async )?(?:def|class) (\w+)", body, re.M)
    if not names:
        return ""
    pattern = re.compile(rf"^[ \t]*(?:async )?(?:def|class) (?:{'|'.join(names)})\b", re.M)
    holders = [path for path, text in program.items() if pattern.search(text)]
    return holders[0] if len(holders) == 1 else ""


def _definitions(body: str, text: str) -> list[tuple[str, str]] | None:
    """What replaces what, where a fence holds functions or classes of a file and not all of the file; else None.

    A method may stand without its class if its name is unique. A definition that the file lacks goes before the first
    that it has.
    """
    body = textwrap.dedent(body)
    try:
        wanted, have = ast.parse(body), ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    given = [node for node in wanted.body if isinstance(node, kinds)]
    top = {node.name for node in have.body if isinstance(node, kinds)}
    rest = [node for node in have.body if not isinstance(node, kinds)]
    if not given or len(given) != len(wanted.body) or not (rest or top - {node.name for node in given}):
        return None
    places: dict[str, list[ast.stmt]] = {}
    for node in ast.walk(have):
        if isinstance(node, kinds):
            places.setdefault(node.name, []).append(node)
    found: list[tuple[str, str]] = []
    new = ""
    for node in given:
        own = [other for other in have.body if isinstance(other, kinds) and other.name == node.name]
        known = own or places.get(node.name, [])
        if len(known) > 1:
            raise PatchError(f"{node.name} is defined in {len(known)} places; write a SEARCH/REPLACE block instead")
        if not known:
            new += _source(body, node) + "\n\n\n"
            continue
        old = _source(text, known[0])
        shift = _indent(old)
        lines = (new + _source(body, node)).split("\n")
        new = ""
        found.append((old + "\n", "\n".join(_shifted(line, shift) for line in lines) + "\n"))
    if new and found:
        found[-1] = (found[-1][0], found[-1][1].rstrip("\n") + "\n\n\n" + new.rstrip("\n") + "\n")
    if not found:
        names = ", ".join(sorted(top)) or "none"
        raise PatchError(f"{given[0].name}: the file defines no such function; it defines {names}")
    return found


def _source(text: str, node: ast.stmt) -> str:
    """The lines of a definition, its decorators included."""
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(one.lineno for one in decorators)])
    return "\n".join(text.split("\n")[first - 1 : node.end_lineno])


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
    length = len(old)
    if not places:
        places, length = _without_blanks(lines, old)
    if not places and (within := _within(text, edit)) is not None:
        return within
    if len(places) > 1:
        raise PatchError(f"{edit.path}: the lines to replace stand in {len(places)} places; quote more of them")
    if not places:
        raise PatchError(_nearest(edit, old, lines))
    shift = _indent(lines[places[0]]) - _indent(old[0])
    new = [_shifted(line, shift) for line in edit.new.strip("\n").split("\n")] if edit.new.strip() else []
    return "\n".join([*lines[: places[0]], *new, *lines[places[0] + length :]])


def _within(text: str, edit: _Edit) -> str | None:
    """The text with the one place replaced that begins or ends inside a line; None where there is none.

    A name or a number is never cut in two: `STEPS = 25` does not stand in `STEPS = 250`.
    """
    old = edit.old.strip()
    starts = [match.start() for match in re.finditer(f"(?={re.escape(old)})", text)]
    starts = [at for at in starts if not (_cuts(text[:at][-1:], old) or _cuts(text[at + len(old) :][:1], old[::-1]))]
    if len(starts) > 1:
        lines = ", ".join(str(text.count("\n", 0, at) + 1) for at in starts[:5])
        raise PatchError(
            f"{edit.path}: the text to replace stands in {len(starts)} places (lines {lines}); quote whole lines"
        )
    if not starts:
        return None
    at = starts[0]
    before = text[text.rfind("\n", 0, at) + 1 : at]
    first = edit.old.strip("\n").split("\n")[0]
    shift = 0 if before.strip() else len(before) - _indent(first)
    new = [_shifted(line, shift) for line in edit.new.strip("\n").rstrip().split("\n")]
    return text[:at] + "\n".join([new[0].lstrip(), *new[1:]]) + text[at + len(old) :]


def _cuts(beside: str, old: str) -> bool:
    """True if the character beside a match belongs to the same name or number as its first."""
    word = bool(beside) and (beside.isalnum() or beside == "_") and (old[0].isalnum() or old[0] == "_")
    return word or (beside == "." and old[0].isdigit())


def _without_blanks(lines: list[str], old: list[str]) -> tuple[list[int], int]:
    """Where the lines stand if blank ones do not count, and how many lines of the text they take."""
    wanted = [_bare(line) for line in old if line.strip()]
    filled = [at for at, line in enumerate(lines) if line.strip()]
    for start in range(len(filled) - len(wanted) + 1):
        span = filled[start : start + len(wanted)]
        if [_bare(lines[at]) for at in span] == wanted:
            again, _ = _without_blanks(lines[span[0] + 1 :], old)
            return [span[0], *again], span[-1] - span[0] + 1
    return [], 0


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
    wanted = "\n".join(old)[:COMPARED]
    matcher = difflib.SequenceMatcher(None, "", wanted, autojunk=False)

    def alike(at: int, measure: Callable[[], float]) -> float:
        matcher.set_seq1("\n".join(lines[at : at + size])[: len(wanted)])
        return measure()

    # the true ratio of every place of a long file would take minutes
    best = sorted(range(len(lines)), key=lambda at: (-alike(at, matcher.quick_ratio), at))[:LOOKED_AT]
    at = max(best, key=lambda at: (alike(at, matcher.ratio), -at))
    for ours, theirs in zip(old, lines[at : at + size], strict=False):
        if _bare(ours) != _bare(theirs):
            return (
                f"{edit.path}: these lines are not in it. The nearest place is line {at + 1}; there, expected "
                f"{ours.strip()!r}, found {theirs.strip()!r}"
            )
    return f"{edit.path}: these lines are not in it; the nearest place is line {at + 1}: {lines[at].strip()!r}"
