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
        ("model.py\n" + BLOCK.format(old="x\n", new="y\n"), "model.py: these lines are not in it"),
        ("train.py\n<<<<<<< SEARCH\nSTEPS = 250\n=======\nSTEPS = 2", "no edit found"),
        ("train.py\n" + BLOCK.format(old="", new="import os\n"), "quote the lines beside"),
        ("+++ b/train.py\n@@ -0,0 +1 @@\n+import os\n", "quote the lines beside"),
        ("+++ b/model.py\nno hunk\n+++ b/train.py\n@@ -1 +1 @@\n-STEPS = 250\n+STEPS = 200\n", "changes nothing in it"),
        ("+++ b/other.py\n@@ -1 +1 @@\n-a\n+b\n", "other.py may not be changed"),
    ],
)
def test_strict_about_regions_and_says_what_an_editor_would(text, reason):
    with pytest.raises(PatchError, match=reason):
        edits.read(text, PROGRAM, editable)


def test_two_hundred_messy_answers_give_an_edit_or_a_reason():
    chance = random.Random(0)
    pieces = [
        *GOOD.values(),
        FORWARD,
        "prose\n",
        "```\n",
        "=======\n",
        "<<<<<<< SEARCH\n",
        "@@ -1 +1 @@\n",
        "\x00é\u2028",
    ]
    for _ in range(200):
        text = "".join(chance.choice(pieces) for _ in range(chance.randrange(1, 5)))
        if chance.random() < 0.5:
            cut = chance.randrange(len(text) + 1)
            text = text[:cut] + text[cut + chance.randrange(20) :]
        try:
            found = edits.read(text, PROGRAM, editable)
        except PatchError as reason:
            assert len(str(reason)) > 15
        else:
            assert found.tree["harness.py"] == PROGRAM["harness.py"]
            assert set(found.tree) == set(PROGRAM)
