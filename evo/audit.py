"""Looks for cheats that a judge cannot see: what no honest program carries, and results that are too good to be true.

Two severities. The static screen runs before anything is paid for and refuses only what nobody would argue about. What
can be argued about is judged and then put in quarantine: never an elite, and visible until a person releases or
condemns it. Neither is a wall; the sandbox and the judge are.
"""

from __future__ import annotations

import ast
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache

from evo import syntax
from evo.benchmark import Audit, Objective
from evo.genome import Tree
from evo.outcome import Outcome

# What a program that trains or computes has no business with. A word of the base itself is no flag. `ctypes` is none:
# a technique of the library turns the allocator's settings with it.
MODULES = frozenset({"multiprocessing", "ptrace", "socket", "subprocess"})
NAMES = frozenset({"get_objects", "_getframe", "settrace", "fork", "setsid"})
TEXTS = ("/proc/", "LD_PRELOAD", "sitecustomize", ".pth\0")  # a text is compared with a zero at its end
PACKED_TEXT = (
    2048  # characters of a file, in literals of at least PACKED_PIECE: of 9,171 files of libraries four have them
)
PACKED_PIECE = 256
PACKED_BITS = 5.5  # entropy a character: base64 of random bytes has 5.69 and more in such a piece, prose 4.5


def screen(program: Tree, base: Tree, bounds: Audit) -> str:
    """Why a program is refused unjudged, or an empty text: it is far too large, or carries data in its text.

    What it carries is the growth of its compressed size over the base's: spreading data over many literals, numbers or
    names does not make it smaller.
    """
    size = sum(len(text.encode()) for text in program.values()) / 1024
    if size > bounds.program_kb:
        return f"the program has {size:.0f} KB, at most {bounds.program_kb:g} are allowed"
    growth = (_packed(program) - _packed(base)) / 1024
    if growth > bounds.carried_kb:
        return (
            f"the program carries {growth:.1f} KB more than the base after compression, at most {bounds.carried_kb:g} "
            "are allowed: it must learn from the data it is given"
        )
    return ""


def suspicion(
    program: Tree,
    base: Tree,
    outcome: Outcome,
    objective: Objective,
    base_mean: float | None,
    base_measures: Mapping[str, float],
    bounds: Audit,
    expected: float = 0.0,
) -> str:
    """Why a program that passed belongs in quarantine, or an empty text. None: the base was not measured yet.

    `expected` is the gain over the base that the program was built on, its best parent's: a jump counts from there, so
    that a long search whose steps add up is not held.
    """
    assert outcome.score is not None
    found = sorted(flags(program) - flags(base))
    if bounds.flags and found:
        return f"uses {', '.join(found)}"
    step = objective.gain_over(base_mean, outcome.score) - expected if base_mean is not None else 0.0
    if bounds.jump is not None and step > bounds.jump:
        believed = objective.describe(bounds.jump)
        return f"a step of {objective.describe(step)} is above the {believed} that is believed unseen"
    if bounds.bound is not None and objective.gain_over(bounds.bound, outcome.score) > 0:
        return f"score {outcome.score:.6g} is beyond {bounds.bound:.6g}, the best that is thought possible"
    for name, least in sorted(bounds.floor.items()):
        if outcome.measures.get(name, math.inf) < least:
            return f"{name} = {outcome.measures[name]:.4g} is under the {least:g} that the work itself takes"
    if bounds.gap is not None and "gap" in outcome.measures and "gap" in base_measures:
        wider = outcome.measures["gap"] - base_measures["gap"]
        if wider > bounds.gap:
            return (
                f"its loss on the private slice is {wider:.3g} further above its score than the base's, at most "
                f"{bounds.gap:g} is believed: it may know the scored text"
            )
    return ""


def flags(program: Tree) -> frozenset[str]:
    """Modules, names and texts of the short lists above that a program's code mentions, and packed literals."""
    return frozenset().union(*(_flags_of(text) for path, text in program.items() if path.endswith(".py")))


@lru_cache(maxsize=256)
def _flags_of(text: str) -> frozenset[str]:
    if len(_seen) > syntax.REMEMBERED:
        _seen.clear()
    found: set[str] = set()
    packed = 0
    for statement in syntax.statements(text):
        if (own := _seen.get(statement.key)) is None:
            own = _seen[statement.key] = frozenset(_found(statement.node)), _packed_text(statement.node)
        found |= own[0]
        packed += own[1]
    return frozenset(found | {f"{PACKED_TEXT} characters and more of packed text"} if packed >= PACKED_TEXT else found)


# by statement, which programs of a search share
_seen: dict[tuple[str, int, int], tuple[frozenset[str], int]] = {}


def _found(statement: ast.stmt) -> Iterator[str]:
    for node in ast.walk(statement):
        match node:
            case ast.Import(names=names):
                yield from MODULES & {alias.name.partition(".")[0] for alias in names}
            case ast.ImportFrom(module=str(name), names=names):
                yield from MODULES & {name.partition(".")[0]}
                yield from NAMES & {alias.name for alias in names}
            case ast.Attribute(attr=name) | ast.Name(id=name):
                yield from {name} & NAMES
            case ast.Constant(value=str(value)):
                yield from (f"'{word.rstrip(chr(0))}'" for word in TEXTS if word in value + "\0")


def _packed_text(statement: ast.stmt) -> int:
    """Characters in literals of a statement that look like compressed or encrypted data, however short each is."""
    texts = (node.value for node in ast.walk(statement) if isinstance(node, ast.Constant))
    found = (text.decode("latin-1") if isinstance(text, bytes) else text for text in texts)
    return sum(len(t) for t in found if isinstance(t, str) and len(t) >= PACKED_PIECE and _bits(t) > PACKED_BITS)


def _bits(text: str) -> float:
    """Shannon entropy in bits a character, of single characters."""
    total = len(text)
    return -math.fsum(n / total * math.log2(n / total) for n in Counter(text).values())


def _packed(program: Tree) -> int:
    return _compressed("\0".join(program[path] for path in sorted(program)))


@lru_cache(maxsize=64)
def _compressed(text: str) -> int:
    return len(zlib.compress(text.encode("utf-8", "surrogatepass"), 6))
