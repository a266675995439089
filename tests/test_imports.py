"""The module map: imports go downward only, and starting is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

EVO = Path(__file__).resolve().parent.parent / "evo"
LEVELS = [
    {"outcome", "chance", "genome", "benchmark", "syntax", "events", "rundir", "stats", "hostlock", "forkserver",
     "problem", "sol", "chart", "page"},
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
    ("recertify", "record"), ("record", "recertify"), ("select", "archive"),
    ("operators", "prompts"), ("problem", "benchmark"), ("sol", "benchmark"), ("recording", "llm"), ("ledger", "llm"),
    ("chronicle", "cards"), ("page", "benchmark"), ("story", "inspect"), ("comparison", "story"), ("report", "inspect"),
    ("report", "story"),
    ("report", "comparison"), ("run", "report"), ("slurm", "run"), ("suite", "report"),
    ("benchmark", "genome"), ("hostlock", "benchmark"),
}  # fmt: skip
BROAD = ("Exception", "BaseException")


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


def test_broad_excepts_stand_at_two_borders():
    found = []
    for file in sorted(EVO.rglob("*.py")):
        if file.parent.name == "guests" or file.name == "forkserver.py":
            continue  # they stand in for the interpreter around a candidate's code: print the trace, exit with 1
        for node in ast.walk(ast.parse(file.read_text())):
            broad = isinstance(node, ast.ExceptHandler) and (node.type is None or getattr(node.type, "id", "") in BROAD)
            if broad and not (isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None):
                found.append(f"{file.relative_to(EVO)}")
    assert found in (["worker.py"], ["llm.py", "worker.py"])
