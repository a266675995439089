"""Identity, footprint and category, read from the syntax tree."""

from __future__ import annotations

import ast
import random

import pytest

from evo import syntax
from evo.syntax import OTHER, Footprint, category, check, footprint, identity

SOURCE = '''\
"""Doc."""
import torch

RATE = 0.1
SEED = 3


def optimizer_step(x, y):
    """Doc."""
    z = x * RATE  # comment
    return z - y


def attention(q):
    return q.softmax(-1)
'''
BASE = {"a.py": SOURCE}
REGIONS = {"optimizer": ["optimizer", "rate"], "attention": ["attention"]}


def with_edit(old, new):
    assert old in SOURCE
    return {"a.py": SOURCE.replace(old, new)}


def test_names_comments_and_layout_do_not_make_a_new_program():
    renamed = SOURCE.replace("RATE", "SPEED").replace("z = ", "w = ").replace("z - y", "w - y")
    renamed = renamed.replace("  # comment", "").replace('"""Doc."""\n', "", 1)
    assert identity({"a.py": renamed}) == identity(BASE)


@pytest.mark.parametrize(
    ("old", "new"), [("0.1", "0.2"), ("z - y", "y - z"), ("softmax", "sigmoid"), ("import torch", "import math")]
)
def test_constants_order_and_what_is_called_do(old, new):
    assert identity(with_edit(old, new)) != identity(BASE)


@pytest.mark.parametrize(
    "first", ["# coding: utf-7", "#!/bin/x\n# -*- coding=latin_1 -*-", "x = 1\r# vim: coding:utf-16"]
)
def test_a_text_that_the_interpreter_would_read_otherwise_is_refused(first):
    """In UTF-7 a comment holds lines of code that no reader of the text sees; no word of it is looked at."""
    with pytest.raises(ValueError, match="expected UTF-8"):
        check(f"{first}\n# +AAo-import socket+AAo-\n", "model.py")
    check("# -*- coding: utf-8 -*-\nx = 1  # coding: ascii\n\n# coding: utf-7\n", "model.py")


def test_a_seed_is_no_idea():
    other = with_edit("SEED = 3", "SEED = 4")
    assert identity(other) != identity(BASE)
    assert identity(other, ignore_seeds=True) == identity(BASE, ignore_seeds=True)
    rate = with_edit("RATE = 0.1", "RATE = 0.2")
    assert identity(rate, ignore_seeds=True) != identity(BASE, ignore_seeds=True)


@pytest.mark.parametrize(
    ("old", "new", "depth"),
    [
        ("0.1", "-0.3", Footprint.CONSTANTS),
        ("0.1", "1e-3", Footprint.CONSTANTS),
        ("0.1", "0x1F", Footprint.CONSTANTS),
        ("softmax(-1)", "softmax(1)", Footprint.CONSTANTS),
        ("x * RATE", "x + RATE", Footprint.LOCAL),
        ("0.1", "0.1 * 2", Footprint.LOCAL),
        ("z - y", "z - 2 * y", Footprint.LOCAL),
        ("def attention", "def extra():\n    pass\n\n\ndef attention", Footprint.STRUCTURAL),
        ("def attention", "@triton.jit\ndef kernel(p):\n    pass\n\n\ndef attention", Footprint.KERNEL),
    ],
)
def test_footprint_is_the_deepest_change(old, new, depth):
    assert footprint(BASE, with_edit(old, new)) is depth


@pytest.mark.parametrize(
    ("old", "new", "cell"),
    [
        ("0.1", "0.3", "optimizer"),
        ("z - y", "z - 2 * y", "optimizer"),
        ("softmax(-1)", "softmax(-1) * 2", "attention"),
        ("q.softmax(-1)", "q.bfloat16().softmax(-1)", "precision"),
        ("SEED = 3", "SEED = 4", OTHER),
    ],
)
def test_category_follows_from_what_a_patch_touches(old, new, cell):
    assert category(BASE, with_edit(old, new), REGIONS) == cell


def test_a_file_that_does_not_parse_still_has_a_cell():
    broken = with_edit("return z - y", "return (z - y")
    assert footprint(BASE, broken) is Footprint.LOCAL
    assert isinstance(category(BASE, broken, REGIONS), str)
    assert identity(broken) != identity(BASE)


TEXTS = [
    SOURCE,
    "a = 1\nb = (\n    2); c = 3\nif a:\n    d = 4\nelse:\n    d = 5\n\n@e\ndef f():\n    return a\n\\\ng = 6\n# h\n",
    'x = """\ny = 1\n"""\nz = 2; w = 3\nclass C: pass\ntry: u = 1\nfinally: v = 2\n',
]
LINES = [
    "a = 7", "b = é", "  c = 1", "", "# a", "d = 1; e = 2", "if a: b", "else: b", "f = (", "g = 1 \\", ")", "@h", '"""',
    "from __future__ import annotations", "def i(): return 1", "j = 1\r", "\x0ck = 1", "l = '\x00'", "class M:",
    "return 3", "n += 1", "print(n)",
]  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_a_text_read_from_its_likeness_to_another_is_what_it_is_alone(seed):
    chance, spliced, sound = random.Random(seed), 0, SOURCE
    for _ in range(500):
        lines = (chance.choice(TEXTS) if chance.random() < 0.3 else sound).split("\n")
        for _ in range(chance.randrange(1, 3)):
            lines[chance.randrange(len(lines))] = chance.choice(LINES[-3:] if chance.random() < 0.6 else LINES)
        text = "\n".join(lines)
        spliced += syntax._spliced(lines) is not None
        try:
            alone = ast.dump(ast.parse(text), include_attributes=True)
            sound = text
        except (SyntaxError, ValueError):
            alone = None
        found = syntax.parsed(text)
        assert (ast.dump(found, include_attributes=True) if found else None) == alone, text
        syntax._read.cache_clear()
    assert spliced > 20, spliced


@pytest.mark.parametrize(
    "text", ["x = " + "-" * 20_000 + "1\n", "x = f" + "()" * 20_000 + "\n", "x = " + "(" * 500 + "\n"]
)
def test_a_text_too_deep_for_the_parser_does_not_parse(text):
    with pytest.raises((SyntaxError, ValueError)):
        check(text, "model.py")
    assert identity({"model.py": text})
