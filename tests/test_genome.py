"""Patches: read, applied, inverted, merged and named."""

from __future__ import annotations

import difflib
import random
import subprocess

import pytest

import evo.genome
from evo.genome import (
    Genome,
    Hunk,
    Patch,
    PatchError,
    apply_diff,
    build,
    diff_trees,
    hunks_between,
    invert,
    merge_texts,
    parse_diff,
    patch_between,
    union,
)

BASE = {"a.py": "".join(f"x{i} = {i}\n" for i in range(40)), "b.py": "y = 1\n"}


def edited(tree, path, old, new):
    assert old in tree[path]
    return {**tree, path: tree[path].replace(old, new)}


def random_text(chance: random.Random) -> str:
    lines = [chance.choice(["a", "b", "", "  c", "\x0c", "é", "- d", "+ e", "@@"]) for _ in range(chance.randrange(12))]
    return "\n".join(lines) + chance.choice(["", "\n"])


@pytest.mark.parametrize("seed", range(200))
def test_a_diff_applies_and_inverts(seed):
    chance = random.Random(seed)
    names = ["a.py", "d/b.py", "c.txt"]
    before, after = ({n: t for n in names if chance.random() < 0.7 and (t := random_text(chance))} for _ in range(2))
    diff = diff_trees(before, after)
    if before == after:
        assert diff == ""
        return
    assert apply_diff(diff, before) == after
    assert apply_diff(invert(diff), after) == before


def test_git_applies_what_we_write(tmp_path):
    after = edited({**BASE, "new/c.py": "z = 3"}, "a.py", "x7 = 7\n", "x7 = 8\nx7b = 9\n")
    del after["b.py"]
    for name, text in BASE.items():
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=diff_trees(BASE, after).encode(), check=True)
    found = {p.relative_to(tmp_path).as_posix(): p.read_text() for p in tmp_path.rglob("*") if p.is_file()}
    assert found == after


def test_a_diff_for_another_text_says_what_it_expected():
    diff = diff_trees(BASE, edited(BASE, "a.py", "x7 = 7", "x7 = 8"))
    with pytest.raises(PatchError, match=r"a\.py line 8: expected 'x7 = 7', found 'x7 = 70'"):
        apply_diff(diff, edited(BASE, "a.py", "x7 = 7", "x7 = 70"))


def test_merging_takes_both_sides_or_says_where_they_meet():
    ancestor = "a\nb\nc\nd\n"
    assert merge_texts(ancestor, "A\nb\nc\nd\n", "a\nb\nc\nD\n") == "A\nb\nc\nD\n"
    assert merge_texts(ancestor, "A\nb\nc\nd\n", "a\nB\nc\nd\n") == "A\nB\nc\nd\n"  # neighbours, one side each
    assert merge_texts(ancestor, "A\nb\nc\nd\n", "A\nb\nc\nd\n") == "A\nb\nc\nd\n"
    with pytest.raises(PatchError, match="meet at line 1"):
        merge_texts(ancestor, "A\nb\nc\nd\n", "X\nb\nc\nd\n")
    with pytest.raises(PatchError, match="meet at line 3"):
        merge_texts(ancestor, "a\nb\nnew\nc\nd\n", "a\nb\nother\nc\nd\n")


def test_a_patch_rests_on_as_few_others_as_it_can():
    base = Genome("base")
    first = patch_between(base, BASE, edited(BASE, "a.py", "x5 = 5", "x5 = 50"))
    second = patch_between(base.with_patch(first), BASE, edited(build(base.with_patch(first), BASE), "b.py", "1", "2"))
    both = base.with_patch(first).with_patch(second)
    third = patch_between(both, BASE, edited(build(both, BASE), "a.py", "x5 = 50", "x5 = 500"))
    assert second.needs == ()
    assert third.needs == (first.name,)
    whole = both.with_patch(third)
    assert build(whole, BASE)["a.py"].count("x5 = 500\n") == 1
    assert whole.without(first.name).patches == (second,)
    with pytest.raises(PatchError, match="needs"):
        Genome("base", (third,))


def test_names_depend_on_content_alone():
    base = Genome("base")
    one = patch_between(base, BASE, edited(BASE, "a.py", "x5 = 5", "x5 = 50"), hypothesis="h")
    two = patch_between(base, BASE, edited(BASE, "b.py", "1", "2"))
    assert Patch(one.diff, hypothesis="other words").name == one.name
    forwards, backwards = base.with_patch(one).with_patch(two), base.with_patch(two).with_patch(one)
    assert forwards.name == backwards.name != base.with_patch(one).name
    assert build(forwards, BASE) == build(backwards, BASE)
    assert union(base.with_patch(one), forwards).name == forwards.name
    assert Patch.from_dict(one.to_dict()) == one


def test_a_proposal_without_a_change_is_refused():
    with pytest.raises(PatchError, match="leaves the program as it is"):
        patch_between(Genome("base"), BASE, dict(BASE))


@pytest.mark.parametrize("text", ["", "hello", "--- a/x\n+++ b/x\n@@ -1,9 +1 @@\n-a\n+b\n"])
def test_what_is_no_diff_is_refused(text):
    with pytest.raises(PatchError):
        apply_diff(text, BASE)


@pytest.mark.parametrize(
    "path", ["../x.py", "/x.py", "./a.py", "d//x.py", "d/../a.py", "d\\x.py", "x\x1b[2K.py", "x" * 300]
)
def test_a_patch_names_no_file_outside_the_program_and_none_twice(path):
    """Whoever brings a patch chooses its paths, and a program is written to a disk before anybody runs it."""
    with pytest.raises(PatchError, match="expected the path of a file"):
        apply_diff(f"--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+x\n", BASE)


def test_no_name_is_a_file_and_a_folder():
    new = [Patch(f"--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+x\n") for path in ("a.py/x.py", "c", "c/d.py")]
    for patches in (new[:1], new[1:]):
        with pytest.raises(PatchError, match="found both"):
            build(Genome("base", tuple(patches)), BASE)


def test_an_emptied_file_is_not_a_deleted_one():
    emptied = {**BASE, "b.py": ""}
    patch = patch_between(Genome("base"), BASE, emptied)
    assert build(Genome("base", (patch,)), BASE) == emptied
    assert apply_diff(invert(patch.diff), emptied) == BASE


@pytest.mark.parametrize("seed", range(100))
def test_patches_merged_at_once_give_what_merging_them_one_by_one_gives(seed):
    chance = random.Random(seed)
    base = {"a.py": "".join(f"x{i} = {i}\n" for i in range(20))}
    patches, one_by_one = [], dict(base)
    for number in range(8):
        lines = base["a.py"].splitlines(keepends=True)
        at, kind = chance.randrange(len(lines)), chance.choice(["change", "change", "insert", "delete"])
        new = [] if kind == "delete" else [f"y{number} = {number}\n"]
        lines[at : at + (0 if kind == "insert" else chance.randrange(1, 3))] = new
        child = {"a.py": "".join(lines)}
        try:
            merged = {"a.py": merge_texts(base["a.py"], one_by_one["a.py"], child["a.py"])}
        except PatchError:
            continue  # one by one, neighbouring changes grow into one and meet more than they did apart
        patches.append(Patch(diff_trees(base, child)))
        one_by_one = merged
        chance.shuffle(patches)
        assert build(Genome("base", tuple(patches)), base) == one_by_one


def by_difflib(before: str, after: str) -> list[Hunk]:
    a, b = before.splitlines(keepends=True), after.splitlines(keepends=True)
    found = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag == "replace" and i2 - i1 == j2 - j1:
            found += [Hunk(i1 + n, (a[i1 + n],), (b[j1 + n],)) for n in range(i2 - i1)]
        elif tag != "equal":
            found.append(Hunk(i1, tuple(a[i1:i2]), tuple(b[j1:j2])))
    return found


def test_the_quick_ways_of_comparing_find_what_difflib_finds(monkeypatch):
    chance, plain = random.Random(0), 0
    for _ in range(600):
        lines = [chance.choice("abcdefgh") + "\n" for _ in range(chance.randrange(1, 12))]
        other = list(lines)
        for _ in range(chance.randrange(1, 4)):
            other[chance.randrange(len(other))] = chance.choice("abcxyz") + "\n"
        before, after = "".join(lines), "".join(other)
        assert list(hunks_between(before, after)) == by_difflib(before, after)
        diff = diff_trees({"d/a.py": before}, {"d/a.py": after})
        told = list(difflib.unified_diff(lines, other, "a/d/a.py", "b/d/a.py"))
        assert diff.removeprefix("diff --git a/d/a.py b/d/a.py\n") == "".join(told)
        if diff:
            quick = parse_diff(diff)["d/a.py"]
            plain += evo.genome._read_one_line(diff) is not None
            with monkeypatch.context() as patch:
                patch.setattr(evo.genome, "_read_one_line", lambda diff: None)
                parse_diff.cache_clear()
                slow = parse_diff(diff)["d/a.py"]
            assert vars(quick) == vars(slow)
    assert plain > 100
