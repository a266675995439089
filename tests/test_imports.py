"""The module map: imports go downward only, and starting is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

EVO = Path(__file__).resolve().parent.parent / "evo"
LEVELS = [
    {"outcome", "chance", "genome", "benchmark", "syntax", "events", "rundir", "stats", "hostlock", "forkserver",
     "problem", "sol", "chart", "page", "pagecache", "turn"},
    {"archive", "audit", "journal", "claims", "sandbox", "novelty", "library", "select", "certify", "llm", "edits",
     "cards", "chronicle", "recording", "ledger", "carry"},
    {"operators", "judges", "prompts"},
    {"search"},
    {"worker"},
    {"run", "inspect", "report", "judge", "check", "recertify", "record", "suite", "story", "comparison", "slurm"},
]  # fmt: skip
# inside a level, and only these: the left one may use the right one
WITHIN = {
    ("genome", "outcome"), ("events", "genome"), ("events", "outcome"), ("rundir", "benchmark"), ("syntax", "genome"),
    ("run", "inspect"), ("run", "recertify"), ("run", "suite"), ("recertify", "inspect"), ("recertify", "run"),
    ("recertify", "record"), ("record", "recertify"), ("select", "archive"), ("turn", "pagecache"),
    ("operators", "prompts"), ("problem", "benchmark"), ("sol", "benchmark"), ("recording", "llm"), ("ledger", "llm"),
    ("chronicle", "cards"), ("page", "benchmark"), ("story", "inspect"), ("comparison", "story"), ("report", "inspect"),
    ("report", "story"),
    ("report", "comparison"), ("run", "report"), ("slurm", "run"), ("recertify", "report"), ("suite", "report"),
    ("benchmark", "genome"), ("hostlock", "benchmark"),
}  # fmt: skip
BROAD = {"Exception", "BaseException"}


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "evo":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("evo."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("evo.")}
    return names


def test_imports_go_downward():
    level = {name: number for number, names in enumerate(LEVELS) for name in names}
    for file in sorted(EVO.rglob("*.py")):
        parts = file.relative_to(EVO).with_suffix("").parts
        own = parts[0]
        if own in ("__init__", "guests"):
            assert not imported(file), f"{file.name} runs where evo is not importable"
            continue
        assert own in level, f"{own} has no level: add it to LEVELS"
        for name in imported(file) - {own}:
            allowed = level[name] < level[own] or (own, name) in WITHIN
            assert allowed, f"{file.relative_to(EVO)} (level {level[own]}) imports evo.{name} (level {level[name]})"


def test_starting_is_cheap_and_needs_no_torch():
    code = "import sys, evo.run; print('torch' in sys.modules, 'anthropic' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]


def names_of(node: ast.expr | None) -> set[str]:
    """The exceptions that an `except` or a `suppress` names; a bare one takes everything."""
    if node is None:
        return {"BaseException"}
    parts = node.elts if isinstance(node, ast.Tuple) else [node]
    return {ast.unparse(part).rpartition(".")[2] for part in parts}


def swallows_all(node: ast.AST) -> bool:
    """Whether it takes any exception there is and goes on, or raises another in its place."""
    if isinstance(node, ast.ExceptHandler):
        again = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
        return bool(names_of(node.type) & BROAD) and not again
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "suppress":
        return any(names_of(argument) & BROAD for argument in node.args)
    return False


def test_broad_excepts_stand_at_two_borders():
    found = []
    for file in sorted(EVO.rglob("*.py")):
        if file.parent.name == "guests" or file.name == "forkserver.py":
            continue  # they stand in for the interpreter around a candidate's code: print the trace, exit with 1
        found += [
            f"{file.relative_to(EVO)}:{node.lineno}"  # type: ignore[attr-defined]
            for node in ast.walk(ast.parse(file.read_text()))
            if swallows_all(node)
        ]
    borders = [place.partition(":")[0] for place in found]
    assert borders == ["llm.py", "worker.py"], f"expected one border in llm.py and one in worker.py, found {found}"


@pytest.mark.parametrize(
    "code",
    ["except Exception: x()", "except (OSError, Exception) as e: raise A from e", "except: x()",
     "except builtins.BaseException: x()"],
)  # fmt: skip
def test_what_counts_as_a_broad_except(code):
    tree = ast.parse(f"try:\n    y()\n{code}")
    assert any(map(swallows_all, ast.walk(tree)))
    assert any(map(swallows_all, ast.walk(ast.parse("with contextlib.suppress(KeyError, Exception): y()"))))
    assert not any(map(swallows_all, ast.walk(ast.parse("try:\n    y()\nexcept Exception:\n    z()\n    raise"))))
    assert not any(map(swallows_all, ast.walk(ast.parse("try:\n    y()\nexcept (OSError, ValueError): z()"))))
