"""Patches and genomes: what is searched over, as plain data that can be applied, inverted and named."""

from __future__ import annotations

import difflib
import hashlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

Tree = Mapping[str, str]  # path -> text

CONTEXT = 3  # lines around a change, as git writes them


PATH_BYTES = 200  # of one path; a file system takes 255 of each part


class PatchError(ValueError):
    """A patch that cannot be read or does not fit; the message is meant for whoever wrote it."""


def is_plain(path: str) -> bool:
    """True for a path that names one file below the program's folder, and is the only name for it.

    Whoever writes a patch chooses its paths: `../x` would lie outside, `./x` beside `x` in a tree and on it on a disk.
    """
    parts = path.split("/")
    printable = path.isprintable() and "\\" not in path and len(path.encode("utf-8", "replace")) <= PATH_BYTES
    return printable and not any(part in ("", ".", "..") for part in parts)


@dataclass(frozen=True)
class Hunk:
    """Lines `before` at 0-based position `start` of a file become `after`; both keep their line ends."""

    start: int
    before: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def end(self) -> int:
        return self.start + len(self.before)


@dataclass(frozen=True, slots=True)
class Patch:
    """One idea: a unified diff against the base with the patches it `needs` applied, and what it is for.

    The name is a hash of the diff and of what it needs; the words around it do not change it.
    """

    diff: str
    needs: tuple[str, ...] = ()
    hypothesis: str = ""
    source: str = ""  # where the idea comes from: a library file, an operator, a model
    hint: str = ""  # the category its author declared: journaled, never used as a cell
    name: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        text = "\0".join([self.diff, *self.needs])
        object.__setattr__(self, "name", hashlib.sha256(text.encode()).hexdigest()[:10])

    def __hash__(self) -> int:
        return hash(self.name)  # of all fields it would take longer than building a program

    def to_dict(self) -> dict[str, Any]:
        found = {"diff": self.diff, "needs": list(self.needs), "hypothesis": self.hypothesis}
        found |= {"source": self.source, "hint": self.hint}
        return {key: value for key, value in found.items() if value}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Patch:
        source = sys.intern(found.get("source", ""))  # one of a few, in ten thousand patches
        return cls(**{**found, "needs": tuple(found.get("needs", ())), "source": source})


@dataclass(frozen=True)
class Genome:
    """A base and an ordered list of patches; two genomes with the same set of patches are the same genome."""

    base: str  # hash of the base program
    patches: tuple[Patch, ...] = ()
    name: str = field(init=False)
    names: frozenset[str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", frozenset(patch.name for patch in self.patches))
        text = "\0".join([self.base, *sorted(self.names)])
        object.__setattr__(self, "name", hashlib.sha256(text.encode()).hexdigest()[:12])
        have: set[str] = set()
        for patch in self.patches:
            if patch.needs and (missing := [need for need in patch.needs if need not in have]):
                raise PatchError(f"patch {patch.name} needs {', '.join(missing)}, which must come before it")
            have.add(patch.name)

    def __hash__(self) -> int:
        return hash(self.name)

    def __contains__(self, patch: str) -> bool:
        return patch in self.names

    def with_patch(self, patch: Patch) -> Genome:
        return Genome(self.base, (*self.patches, patch))

    def without(self, name: str) -> Genome:
        """The genome without one patch and without everything that needs it."""
        gone, kept = {name}, []
        for patch in self.patches:
            if patch.name in gone or gone & set(patch.needs):
                gone.add(patch.name)
            else:
                kept.append(patch)
        return Genome(self.base, tuple(kept))


def union(*genomes: Genome) -> Genome:
    """All patches of several genomes, in order of first appearance."""
    patches = {patch.name: patch for genome in genomes for patch in genome.patches}
    return Genome(genomes[0].base, tuple(patches.values()))


# --- diffs ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=128)
def hunks_between(before: str, after: str) -> tuple[Hunk, ...]:
    """The changes from one text to another; kept, because a search compares the same few texts over and over."""
    a, b = _lines(before), _lines(after)
    if (changed := _in_place(a, b)) is not None:
        return tuple(Hunk(n, (a[n],), (b[n],)) for n in changed)
    found = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag == "replace" and i2 - i1 == j2 - j1:
            # line by line, so that settings in neighbouring lines stay separate changes
            found += [Hunk(i1 + n, (a[i1 + n],), (b[j1 + n],)) for n in range(i2 - i1)]
        elif tag != "equal":
            found.append(Hunk(i1, tuple(a[i1:i2]), tuple(b[j1:j2])))
    return tuple(found)


def _in_place(a: Sequence[str], b: Sequence[str]) -> list[int] | None:
    """The lines that changed where every one of them only took another's place; None where lines moved, came or went.

    What is changed on one side is nowhere on the other, so that only what did not change can match, and the longest
    matches lie side by side: this is what difflib finds, which takes twenty times as long.
    """
    if len(a) != len(b):
        return None
    changed = [n for n, line in enumerate(a) if line != b[n]]
    moved = changed and not ({a[n] for n in changed}.isdisjoint(b) and {b[n] for n in changed}.isdisjoint(a))
    return None if moved else changed


def diff_trees(before: Tree, after: Tree) -> str:
    """A unified diff that `git apply` and `patch -p1` accept; new and deleted files included."""
    parts = []
    for path in sorted(set(before) | set(after)):
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        parts.append(f"diff --git a/{path} b/{path}\n")
        if old is None:
            parts.append("new file mode 100644\n")
        if new is None:
            parts.append("deleted file mode 100644\n")
        names = ("/dev/null" if old is None else f"a/{path}", "/dev/null" if new is None else f"b/{path}")
        a, b = _lines(old or ""), _lines(new or "")
        changed = _in_place(a, b) if old and new and old[-1] == new[-1] == "\n" else None
        if changed is not None and len(changed) == 1:
            parts.append(_one_line(a, b[changed[0]], changed[0], *names))
            continue
        for line in difflib.unified_diff(a, b, *names, n=CONTEXT):
            # difflib leaves a last line without its newline unmarked, which git reads as a corrupt patch
            parts.append(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n")
    return "".join(parts)


def _one_line(lines: Sequence[str], new: str, at: int, before: str, after: str) -> str:
    """The unified diff of a file in which one line, at 0-based `at`, becomes another."""
    first, last = max(0, at - CONTEXT), min(len(lines), at + CONTEXT + 1)
    span = f"{first + 1},{last - first}" if last - first > 1 else f"{first + 1}"
    context = [" " + line for line in lines[first:last]]
    context[at - first] = f"-{lines[at]}+{new}"
    return f"--- {before}\n+++ {after}\n@@ -{span} +{span} @@\n{''.join(context)}"


ONE_LINE = re.compile(
    r"diff --git a/(?P<path>[\w./-]+) b/(?P=path)\n--- a/(?P=path)\n\+\+\+ b/(?P=path)\n"
    r"@@ -(?P<start>\d+),(?P<length>\d+) \+(?P=start),(?P=length) @@\n"
    r"(?P<above>(?: [^\n]*\n)*)-(?P<old>[^\n]*\n)\+(?P<new>[^\n]*\n)(?P<below>(?: [^\n]*\n)*)"
)


def _read_one_line(diff: str) -> dict[str, FileDiff] | None:
    """What a diff as `_one_line` writes it does; None for any other. Most patches of a sweep are of this kind."""
    found = ONE_LINE.fullmatch(diff)
    if found is None:
        return None
    above, below = (tuple(line[1:] for line in _lines(found[side])) for side in ("above", "below"))
    old, new, start = found["old"], found["new"], int(found["start"]) - 1
    lines = (*above, old, *below)
    if len(lines) != int(found["length"]) or start < 0 or new in lines or old in above + below:
        return None
    hunk = Hunk(start + len(above), (old,), (new,))
    return {found["path"]: FileDiff(False, False, ((start, lines),), (hunk,))}


@dataclass(frozen=True, eq=False)
class FileDiff:
    """What a unified diff does to one file: its changes, and the lines it expects to find around and in them.

    Compared by identity: `parse_diff` remembers what it has read, and hashing all lines costs more than reading them.
    """

    creates: bool
    deletes: bool
    expected: tuple[tuple[int, tuple[str, ...]], ...]  # 0-based position, lines
    hunks: tuple[Hunk, ...]


@lru_cache(maxsize=512)
def parse_diff(diff: str) -> Mapping[str, FileDiff]:
    """Reads a strict unified diff. Raises PatchError; forgiving readings of what a model wrote are not made here."""
    if (plain := _read_one_line(diff)) is not None and all(map(is_plain, plain)):
        return plain
    from unidiff import PatchSet
    from unidiff.errors import UnidiffParseError

    try:
        files = PatchSet.from_string(diff)
    except UnidiffParseError as error:
        raise PatchError(f"not a valid unified diff: {error}") from error
    found: dict[str, FileDiff] = {}
    for file in files:
        if not is_plain(file.path):
            raise PatchError(f"{file.path!r}: expected the path of a file in the program's folder, as in train.py")
        if file.is_rename or file.is_binary_file:
            raise PatchError(f"{file.path}: renames and binary files cannot be patched; delete and add text instead")
        expected, hunks = [], []
        for part in file:
            start = part.source_start - (1 if part.source_length else 0)
            old = _side(part, " -")
            expected.append((start, tuple(old)))
            hunks += [
                replace(h, start=h.start + start) for h in hunks_between("".join(old), "".join(_side(part, " +")))
            ]
        # by name, since unidiff takes a file that was empty or becomes so for a new or removed one
        creates, deletes = file.source_file == "/dev/null", file.target_file == "/dev/null"
        found[file.path] = FileDiff(creates, deletes, tuple(expected), tuple(hunks))
    if not found:
        raise PatchError("expected a unified diff with at least one file, found none")
    return found


def _side(part: Any, kinds: str) -> list[str]:
    """The lines of one side of a hunk; a line that ends its file without a newline keeps that."""
    lines: list[str] = []
    last = ""
    for line in part:
        if line.line_type == "\\" and last in kinds and lines:
            lines[-1] = lines[-1].removesuffix("\n")
        elif line.line_type in kinds:
            lines.append(line.value)
        last = line.line_type
    return lines


def _lines(text: str) -> list[str]:
    # only \n ends a line: str.splitlines would also cut at form feeds, which source files contain
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def apply_hunks(text: str, hunks: Sequence[Hunk], path: str = "") -> str:
    """Applies hunks at exactly their positions; PatchError where the text differs from what they expect."""
    lines = _lines(text)
    parts: list[str] = []
    at = 0
    for hunk in sorted(hunks, key=lambda h: h.start):
        found = tuple(lines[hunk.start : hunk.end])
        if found != hunk.before:
            where = f"{path or 'text'} line {hunk.start + 1}"
            raise PatchError(f"{where}: expected {_shown(hunk.before)}, found {_shown(found)}; make the diff anew")
        parts += lines[at : hunk.start]
        parts += hunk.after
        at = hunk.end
    return "".join([*parts, *lines[at:]])


@lru_cache(maxsize=512)
def _fitting(text: str, change: FileDiff, path: str) -> tuple[Hunk, ...]:
    """The changes of a diff to one file, once every line that it expects was found in the text."""
    lines = _lines(text)
    for start, expected in change.expected:
        found = tuple(lines[start : start + len(expected)])
        for offset, line in enumerate(expected):
            if offset >= len(found) or found[offset] != line:
                at = f"{path} line {start + offset + 1}"
                raise PatchError(
                    f"{at}: expected {_shown((line,))}, found {_shown(found[offset:])}; make the diff anew"
                )
    return change.hunks


def _shown(lines: Sequence[str]) -> str:
    return repr(lines[0].rstrip("\n")) if lines else "nothing"


def apply_diff(diff: str, tree: Tree) -> dict[str, str]:
    """The tree after a diff that was written against exactly this tree."""
    result = dict(tree)
    for path, change in parse_diff(diff).items():
        if change.creates == (path in tree):
            expected = "no such file" if change.creates else "the file"
            raise PatchError(f"{path}: expected {expected}, found {'one' if change.creates else 'none'}")
        text = apply_hunks(tree.get(path, ""), _fitting(tree.get(path, ""), change, path), path)
        if change.deletes:
            del result[path]
        else:
            result[path] = text
    _require_a_disk(result)
    return result


def _require_a_disk(tree: Tree) -> None:
    """Raises PatchError where one name would be a file and a folder."""
    for path in tree:
        above = path.rpartition("/")[0]
        while above:
            if above in tree:
                raise PatchError(f"{above}: expected a file or a folder, found both, for {path} lies in it")
            above = above.rpartition("/")[0]


def invert(diff: str) -> str:
    """The diff that undoes a diff."""
    parts: list[str] = []
    for line in diff.splitlines(keepends=True):
        if line.startswith("--- "):
            parts.append("+++ " + _swapped(line[4:]))
        elif line.startswith("+++ "):
            parts.insert(len(parts) - 1, "--- " + _swapped(line[4:]))
        elif header := re.match(r"@@ -(\S+) \+(\S+) @@(.*)", line, re.DOTALL):
            parts.append(f"@@ -{header[2]} +{header[1]} @@{header[3]}")
        elif line.startswith("new file"):
            parts.append(line.replace("new", "deleted", 1))
        elif line.startswith("deleted file"):
            parts.append(line.replace("deleted", "new", 1))
        elif line[:1] in "+-":
            parts.append({"+": "-", "-": "+"}[line[0]] + line[1:])
        else:
            parts.append(line)
    return "".join(parts)


def _swapped(name: str) -> str:
    return {"a/": "b/", "b/": "a/"}.get(name[:2], name[:2]) + name[2:]


# --- merging -------------------------------------------------------------------------------------------------------


def merge_texts(ancestor: str, ours: str, theirs: str, path: str = "") -> str:
    """Three-way merge by lines; PatchError where both sides changed the same lines differently.

    Neighbouring lines may be changed by one side each, unlike in git: settings often stand in a row. An insertion
    next to a change stays a conflict, since nothing says which comes first. An own dozen of lines instead of merge3,
    whose licence (GPL) would bind everybody who imports evo.
    """
    if ours in (ancestor, theirs):
        return theirs
    return apply_hunks(ancestor, _joined([hunks_between(ancestor, ours), hunks_between(ancestor, theirs)], path), path)


def _joined(sides: Sequence[Sequence[Hunk]], path: str) -> list[Hunk]:
    """The changes of several sides to one text, in order; one that two sides make alike counts once."""
    ordered = [(hunk.start, len(hunk.before), side, hunk) for side, hunks in enumerate(sides) for hunk in hunks]
    ordered.sort(key=lambda found: found[:3])
    taken: list[Hunk] = []
    last = -1  # the side that the last change came from
    for _, _, side, hunk in ordered:  # what has been taken does not overlap, so that only its last can meet the next
        if taken and side != last and taken[-1].end >= hunk.start and _meet(taken[-1], hunk):
            if taken[-1] == hunk:
                continue
            raise PatchError(f"{path or 'text'}: two changes meet at line {hunk.start + 1} of the common text")
        taken.append(hunk)
        last = side
    return taken


def _meet(one: Hunk, other: Hunk) -> bool:
    if one.before and other.before:
        return one.start < other.end and other.start < one.end
    return one.start <= other.end and other.start <= one.end


def merge_trees(ancestor: Tree, ours: Tree, theirs: Tree) -> dict[str, str]:
    result = dict(ours)
    for path in set(ancestor) | set(theirs):
        if theirs.get(path) == ancestor.get(path):
            continue
        if path in theirs:
            result[path] = merge_texts(ancestor.get(path, ""), ours.get(path, ""), theirs[path], path)
        elif ours.get(path) == ancestor.get(path):
            result.pop(path, None)
        else:
            raise PatchError(f"{path}: one side deletes the file, the other changes it")
    return result


def clashing(ones: Iterable[Patch], others: Sequence[Patch], base: Tree) -> bool:
    """True if no genome holds all these patches, since one and another change the same lines of the base differently.

    Remembered for each pair, so that a search need not build a child to learn that its parents cannot be joined. False
    tells nothing: patches that need others or create or delete files are compared when they are built.
    """
    known = _clashes(tuple(sorted(base.items())))
    if len(known) > CLASHING:
        known.clear()
    names = {other.name for other in others}
    for one in ones:
        met, free = known.setdefault(one.name, (set(), set()))
        if not met.isdisjoint(names):
            return True
        if names <= free:
            continue
        for other in others:
            if other.name not in free:
                if _clash(base, one, other):
                    met.add(other.name)
                    return True
                free.add(other.name)
    return False


CLASHING = 1 << 8  # patches whose clashes are remembered


@lru_cache(maxsize=4)
def _clashes(base: tuple[tuple[str, str], ...]) -> dict[str, tuple[set[str], set[str]]]:
    """By a patch's name, the names of those that it meets and of those that it does not."""
    return {}


def _clash(texts: Tree, one: Patch, other: Patch) -> bool:
    if one.needs or other.needs:
        return False
    first, second = parse_diff(one.diff), parse_diff(other.diff)
    for path in first.keys() & second.keys():
        sides = first[path], second[path]
        if all(len(side.hunks) == 1 and not side.creates and not side.deletes for side in sides):
            (one_hunk,), (other_hunk,) = sides[0].hunks, sides[1].hunks
            if one_hunk.end < other_hunk.start or other_hunk.end < one_hunk.start:
                continue  # the usual case
        if path not in texts or any(side.creates or side.deletes for side in sides):
            return False
        try:
            _joined([_fitting(texts[path], side, path) for side in sides], path)
        except PatchError:
            return True
    return False


def build(genome: Genome, base: Tree) -> dict[str, str]:
    """The program of a genome: its patches merged into the base."""
    return dict(_built(tuple(sorted(base.items())), genome))


@lru_cache(maxsize=128)
def _built(base: tuple[tuple[str, str], ...], genome: Genome) -> Tree:
    patches = genome.patches
    # patches that need no other are merged at once, from their own hunks: one by one, each would be compared with
    # everything before it, and a genome of thirty patches would cost thirty comparisons of whole files
    free = [patch for patch in patches if not patch.needs]
    result = _side_by_side(dict(base), free)
    for patch in patches:
        if patch.needs:
            needed = tuple(other for other in patches if other.name in patch.needs)
            ancestor = _built(base, Genome(genome.base, needed))
            result = merge_trees(ancestor, result, apply_diff(patch.diff, ancestor))
    _require_a_disk(result)
    return result


def _side_by_side(base: Tree, patches: Sequence[Patch]) -> Tree:
    """The base with patches that were all written against it."""
    sides: dict[str, list[tuple[Hunk, ...]]] = {}
    whole: list[Patch] = []  # they create or delete files, so that they are merged as trees
    for patch in patches:
        changes = parse_diff(patch.diff)
        if len(changes) == 1:  # the usual patch
            ((path, change),) = changes.items()
            if path in base and not change.creates and not change.deletes:
                sides.setdefault(path, []).append(_fitting(base[path], change, path))
                continue
        elif all(path in base and not change.creates and not change.deletes for path, change in changes.items()):
            for path, change in changes.items():
                sides.setdefault(path, []).append(_fitting(base[path], change, path))
            continue
        whole.append(patch)
    result = {**base, **{path: apply_hunks(base[path], _joined(s, path), path) for path, s in sides.items()}}
    for patch in whole:
        result = merge_trees(base, result, apply_diff(patch.diff, base))
    return result


def patch_between(parent: Genome, base: Tree, child: Tree, **words: str) -> Patch:
    """The patch that turns a parent's program into `child`, resting on as few of its parent's patches as it can.

    A patch that can be moved to the bare base is, so that it can be combined and left out freely later.
    """
    program = build(parent, base)
    if all(program.get(path) == child.get(path) for path in {*program, *child}):
        raise PatchError("the proposal leaves the program as it is")
    kept = parent
    patch = Patch(diff_trees(program, child), tuple(own.name for own in parent.patches), **words)
    for fewer in (lambda _: Genome(parent.base), *((lambda g, n=own.name: g.without(n)) for own in parent.patches)):
        candidate = fewer(kept)
        try:
            ancestor = build(candidate, base)
            moved = merge_trees(program, ancestor, child)
            trial = Patch(diff_trees(ancestor, moved), tuple(own.name for own in candidate.patches), **words)
            if moved == ancestor or build(parent.with_patch(trial), base) != dict(child):
                continue
        except PatchError:
            continue  # it touches lines that the patch left out wrote
        patch, kept = trial, candidate
        if not candidate.patches:
            break
    if build(parent.with_patch(patch), base) != dict(child):
        raise PatchError("the proposal cannot be written as a diff of text files")
    return patch
