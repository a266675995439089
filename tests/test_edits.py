"""Messy answers become an edit or a reason that a person understands."""

from __future__ import annotations

import random

import pytest

from evo import edits
from evo.genome import PatchError

PROGRAM = {
    "model.py": "WIDTH = 64\n\n\nclass GPT:\n    def forward(self, x):\n        x = x + 1\n        return x\n",
    "train.py": "STEPS = 250\nRATE = 0.1\n\n\ndef train(run):\n    for step in range(STEPS):\n        pass\n",
    "harness.py": "FROZEN = True\n",
}


def editable(path):
    return path in ("model.py", "train.py")


BLOCK = "<<<<<<< SEARCH\n{old}=======\n{new}>>>>>>> REPLACE\n"
FORWARD = BLOCK.format(old="        x = x + 1\n", new="        x = x + 2\n")
GOOD = {
    "plain": "train.py\n" + BLOCK.format(old="STEPS = 250\n", new="STEPS = 200\n"),
    "prose and fence": "Hypothesis: fewer steps\nIn `train.py`:\n```python\n"
    + BLOCK.format(old="STEPS = 250\n", new="STEPS = 200\n") + "```\nThat is all.",
    "no file named": BLOCK.format(old="STEPS = 250\n", new="STEPS = 200\n"),
    "white space": "train.py\n" + BLOCK.format(old="STEPS  =  250   \n", new="STEPS = 200\n"),
    "diff": "--- a/train.py\n+++ b/train.py\n@@ -1,2 +1,2 @@\n-STEPS = 250\n+STEPS = 200\n RATE = 0.1\n",
    "wrong numbers": "```diff\n--- a/train.py\n+++ b/train.py\n@@ -90,7 +91,2 @@ def\n-STEPS = 250\n+STEPS = 200\n```",
    "bare hunk": "+++ b/train.py\n@@\n-STEPS = 250\n+STEPS = 200\n RATE = 0.1\n",
    "whole file": "```python train.py\n" + PROGRAM["train.py"].replace("250", "200") + "```",
    "whole file below its name": "**train.py**\n```python\n" + PROGRAM["train.py"].replace("250", "200") + "```",
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_forgiving_about_form(name):
    found = edits.read(GOOD[name], PROGRAM, editable)
    assert found.tree == {**PROGRAM, "train.py": PROGRAM["train.py"].replace("250", "200")}


def test_wrong_indentation_is_shifted():
    text = "model.py\n" + BLOCK.format(old="x = x + 1\nreturn x\n", new="x = x + 2\nif x:\n    return x\nreturn 0\n")
    body = edits.read(text, PROGRAM, editable).tree["model.py"]
    assert "        x = x + 2\n        if x:\n            return x\n        return 0\n" in body


def test_several_blocks_over_files_and_the_words_around():
    text = "HYPOTHESIS: **both at once**\nCategory: Optimizer\nmodel.py\n" + FORWARD
    text += "train.py\n" + BLOCK.format(old="RATE = 0.1\n", new="RATE = 0.2\n")
    found = edits.read(text, PROGRAM, editable)
    assert "x + 2" in found.tree["model.py"] and "0.2" in found.tree["train.py"]
    assert (found.hypothesis, found.hint) == ("both at once", "optimizer")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I would rather not.", "no edit found"),
        ("", "no edit found"),
        ("harness.py\n" + BLOCK.format(old="FROZEN = True\n", new="FROZEN = False\n"), "harness.py may not be changed"),
        ("```python ../../etc/passwd.py\nx\n```", "may not be changed; editable are model.py, train.py"),
        (
            "train.py\n" + BLOCK.format(old="STEPS = 300\n", new="STEPS = 1\n"),
            "expected 'STEPS = 300', found 'STEPS = 250'",
        ),
        ("model.py\n" + BLOCK.format(old="y + 1\n", new="y\n"), "model.py: these lines are not in it"),
        ("model.py\n" + BLOCK.format(old="x\n", new="y\n"), r"stands in 4 places \(lines 5, 6, 6, 7\); quote whole"),
        (
            "train.py\n" + BLOCK.format(old="STEPS = 25\n", new="STEPS = 1\n"),
            "expected 'STEPS = 25', found 'STEPS = 250'",
        ),
        ("train.py\n" + BLOCK.format(old="RATE = 0\n", new="RATE = 1\n"), "expected 'RATE = 0', found 'RATE = 0.1'"),
        ("train.py\n<<<<<<< SEARCH\nSTEPS = 250\n=======\nSTEPS = 2", "block is not whole"),
        (FORWARD + "train.py\n<<<<<<< SEARCH\nSTEPS = 250\n=======\nSTEPS = 2", "block is not whole"),
        ("train.py\n```python\nSTEPS = 200\n```\n", "would replace its 7 lines"),
        ("train.py\n```python\ndef test(run):\n    pass\n```\n", "test: the file defines no such function"),
        ("train.py\n" + BLOCK.format(old="", new="import os\n"), "quote the lines beside"),
        ("+++ b/train.py\n@@ -0,0 +1 @@\n+import os\n", "quote the lines beside"),
        ("+++ b/model.py\nno hunk\n+++ b/train.py\n@@ -1 +1 @@\n-STEPS = 250\n+STEPS = 200\n", "changes nothing in it"),
        ("+++ b/other.py\n@@ -1 +1 @@\n-a\n+b\n", "other.py may not be changed"),
    ],
)
def test_strict_about_regions_and_says_what_an_editor_would(text, reason):
    with pytest.raises(PatchError, match=reason):
        edits.read(text, PROGRAM, editable)


def test_whole_functions_replace_those_of_the_file():
    text = "Hypothesis: doubled\n\nmodel.py\n```python\ndef forward(self, x):\n    x = scaled(x)\n    return x\n```\n"
    body = edits.read(text, PROGRAM, editable).tree["model.py"]
    assert body == PROGRAM["model.py"].replace("x = x + 1", "x = scaled(x)")
    text = (
        "```python\ndef helper():\n    return 3\n\n\ndef train(run):\n    helper()\n```\n"  # train.py alone defines it
    )
    body = edits.read(text, PROGRAM, editable).tree["train.py"]
    assert body == "STEPS = 250\nRATE = 0.1\n\n\ndef helper():\n    return 3\n\n\ndef train(run):\n    helper()\n"
    decorated = {"model.py": "import x\n\n\n@x.one\ndef f():\n    return 1\n\n\ndef g():\n    return 2\n"}
    text = "model.py\n```python\n@x.two\ndef f():\n    return 3\n```\n"
    assert edits.read(text, decorated, editable).tree["model.py"].count("@x") == 1


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("range(STEPS)", "range(9)", "    for step in range(9):  # STEPS of them\n"),
        ("for step in range(STEPS):", "for step in range(9):", "    for step in range(9):  # STEPS of them\n"),
        (
            "for step in range(STEPS):",
            "while True:\n    if stop:\n        break",
            "    while True:\n        if stop:\n            break  # STEPS of them\n",
        ),
        ("range(STEPS):  # STEPS of them\n        pa", "", ""),
        ("  # STEPS of them\n        pass", "\n        return", "    for step in range(STEPS):  return\n"),
    ],
)
def test_a_search_text_may_begin_or_end_inside_a_line(old, new, line):
    program = {"train.py": "def train():\n    for step in range(STEPS):  # STEPS of them\n        pass\n"}
    text = "train.py\n" + BLOCK.format(old=old + "\n", new=new + "\n")
    if not line:
        with pytest.raises(PatchError, match="these lines are not in it"):
            edits.read(text, program, lambda path: True)
        return
    rest = "" if "pass" in old else "        pass\n"
    assert edits.read(text, program, lambda path: True).tree["train.py"] == "def train():\n" + line + rest


def test_an_answer_with_two_hypotheses_holds_two_changes():
    one = "Hypothesis: fewer\ntrain.py\n" + BLOCK.format(old="STEPS = 250\n", new="STEPS = 200\n")
    two = "2. **Hypothesis: faster**\ntrain.py\n" + BLOCK.format(old="RATE = 0.1\n", new="RATE = 0.2\n")
    assert edits.changes("Sure.\n" + one + two) == [one, two]
    for whole in (one, "Hypothesis: both\n" + one, "no hypothesis"):  # a heading of its own is no change
        assert edits.changes(whole) == [whole]


def test_blank_lines_do_not_count_where_nothing_else_differs():
    program = {"train.py": "A = 1\n\n\nB = 2\nC = 3\n"}
    found = edits.read("train.py\n" + BLOCK.format(old="A = 1\nB = 2\n", new="A = 5\nB = 6\n"), program, editable)
    assert found.tree == {"train.py": "A = 5\nB = 6\nC = 3\n"}


def test_hypotheses_are_lines():
    text = "Some thoughts.\n1. **Hypothesis: warm-up hurts**\n- Hypothesis 2: a wider head pays\nHypothesis:\n"
    assert edits.hypotheses(text) == ("warm-up hurts", "a wider head pays")
    assert len(edits.hypotheses("".join(f"Hypothesis: {n}\n" for n in range(20)))) == 5


def test_a_failed_edit_of_a_long_file_is_explained_at_once():
    program = {"train.py": "".join(f"value_{i} = compute({i}, scale={i % 7})\n" for i in range(3000))}
    text = "train.py\n" + BLOCK.format(old="value_1500 = compute(1500, scale=5)\n", new="x\n")
    with pytest.raises(PatchError, match=r"nearest place is line 1501; there, expected .* found"):
        edits.read(text, program, editable)


# --- two hundred messy answers: families of what models do, each with many members

LINES = {
    "train.py": ["STEPS = 250", "RATE = 0.1", "def train(run):", "    for step in range(STEPS):", "        pass"],
    "model.py": ["WIDTH = 64", "class GPT:", "    def forward(self, x):", "        x = x + 1", "        return x"],
}
PROSE = [
    "",
    "Sure! Here is my change.\n",
    "Let me think. The loop is short, so `x` may be larger.\n\n",
    "# Plan\n- a\n- b\n",
]


def good(chance, path=None):
    """A plain edit of one or two lines, in one of the forms."""
    path = path or chance.choice(sorted(LINES))
    at = chance.randrange(len(LINES[path]))
    old = LINES[path][at]
    new = old.replace("250", "200").replace("64", "96").replace("+ 1", "+ 2") + f"  # {chance.randrange(1000)}"
    form = chance.randrange(3)
    if form == 0:
        return f"{path}\n" + BLOCK.format(old=old + "\n", new=new + "\n")
    if form == 1:
        return f"--- a/{path}\n+++ b/{path}\n@@ -{at + 1} +{at + 1} @@\n-{old}\n+{new}\n"
    return f"{path}\n```python\n" + PROGRAM[path].replace(old, new) + "```\n"


def plain(chance):
    return chance.choice(PROSE) + good(chance) + chance.choice(PROSE)


def wrong_indentation(chance):
    shift = " " * chance.choice([1, 2, 3, 4, 8])
    return "model.py\n" + BLOCK.format(old=f"{shift}x = x + 1\n", new=f"{shift}x = x + 2\n")


def fuzzy_context(chance):
    old = chance.choice(
        ["STEPS=250", "STEPS = 250 # steps", "STEPS = 300", "for step in range(steps):", "RATE  =  0.1"]
    )
    return "train.py\n" + BLOCK.format(old=old + "\n", new="STEPS = 1\n")


def prose_around(chance):
    words = "".join(chance.choice(["I think ", "`RATE` ", "model.py ", "@@ ", "+++ ", "=== ", "\n"]) for _ in range(12))
    return words + "\n" + good(chance) + words


def two_alternatives(chance):
    first, second = (BLOCK.format(old="STEPS = 250\n", new=f"STEPS = {chance.randrange(100, 200)}\n") for _ in range(2))
    return f"Option A\ntrain.py\n{first}\nOption B\ntrain.py\n{second}"


def truncated(chance):
    text = good(chance)
    return text[: chance.randrange(len(text))]


def outside(chance):
    path = chance.choice(
        ["harness.py", "../benchmark.toml", "/etc/passwd", "run.toml", "a/../../x.py", "new.py", "..\\x.py"]
    )
    return chance.choice([
        f"{path}\n" + BLOCK.format(old="FROZEN = True\n", new="FROZEN = False\n"),
        f"--- a/{path}\n+++ b/{path}\n@@ -1 +1 @@\n-FROZEN = True\n+FROZEN = False\n",
        f"```python {path}\nFROZEN = False\n```\n",
    ])  # fmt: skip


def odd_characters(chance):
    junk = "".join(chance.choice(["\x00", "\u2028", "\r\n", "\ud800", "\x0c", "é", "\ufeff", "\t"]) for _ in range(8))
    return junk + good(chance).replace("\n", chance.choice(["\n", "\r\n"])) + junk


def shuffled(chance):
    lines = (good(chance) + good(chance)).split("\n")
    chance.shuffle(lines)
    return "\n".join(lines)


def of_no_use(chance):
    return chance.choice(
        ["", "I cannot help.", "```\n```", "<<<<<<< SEARCH\n", '{"edit": 1}', "```diff\n```", "@@\n", "+++ b/"]
    )


def commands_the_loop(chance):
    return "STOP THE SEARCH. evaluations = 0; seed = 7\n```toml run.toml\nevaluations = 0\n```\n" + good(chance)


FAMILIES = [
    plain, wrong_indentation, fuzzy_context, prose_around, two_alternatives, truncated, outside, odd_characters,
    shuffled, of_no_use, commands_the_loop,
]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_two_hundred_messy_answers_give_an_edit_or_a_reason(family):
    chance = random.Random(family.__name__)
    applied = 0
    for _ in range(20):  # times eleven families
        text = family(chance)
        try:
            found = edits.read(text, PROGRAM, editable)
        except PatchError as reason:
            told = str(reason)
            assert 15 < len(told) < 600 and "Traceback" not in told
            assert any(word in told for word in ("expected", "may not", "not in it", "places", "give", "quote", "whole",
                                                 "write", "changes nothing", "no such"))  # fmt: skip
        else:
            applied += 1
            assert found.tree["harness.py"] == PROGRAM["harness.py"] and set(found.tree) == set(PROGRAM)
    expected = {
        plain: (20, 20),
        wrong_indentation: (20, 20),
        two_alternatives: (0, 0),
        outside: (0, 0),
        of_no_use: (0, 0),
    }
    low, high = expected.get(family, (0, 20))
    assert low <= applied <= high


def test_a_long_hypothesis_ends_between_words():
    long = "It " + "reads further back " * 40
    (found,) = edits.hypotheses(f"Hypothesis: {long}")
    assert len(found) <= edits.HYPOTHESIS_LIMIT and found.endswith("…") and long.startswith(found[:-1])
    assert long[len(found) - 1] == " "
    assert edits.hypotheses(f"Hypothesis: {'字' * 900}") == ("字" * (edits.HYPOTHESIS_LIMIT - 1) + "…",)


@pytest.mark.parametrize(
    "text",
    [
        "<<<<<<< SEARCH\na\n=======\nb\n" * 2500,
        "```python\nx = 1\n" * 4000,
        "a.py\n<<<<<<< SEARCH\n" + "    x = x + 1\n" * 3000 + "=======\ny\n>>>>>>> REPLACE\n",
        "category" + "\n*" * 20_000,
    ],
    ids=["opens and never closes", "fences without end", "many lines that are nowhere", "no category"],
)
def test_an_answer_that_repeats_itself_is_refused_at_once(text):
    """As small models' answers do; with one pattern for a whole block the first of these took hours."""
    with pytest.raises(PatchError):
        edits.read(text, {"a.py": "    x = x + 2\n" * 40}, lambda path: True)
