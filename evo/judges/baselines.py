"""Frozen baselines: what eager, compiled and autotuned torch take for each workload, by device and problem.

A score is comparable only against the same numbers, so they are measured once under the judge's own protocol and kept:
those that ship in `benchmarks/sol/baselines/`, others in the user's cache.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from evo.benchmark import SHIPPED, settings
from evo.problem import Problem

PROTOCOL = "3"  # a change of how time is taken makes every stored number stale
PACE = 3.0  # eager paces unless it is so much slower than the best


@dataclass(frozen=True)
class Baseline:
    """Of one workload, microseconds: the hardware's limit, each variant's time on values that lie there, and T_b.

    A process that waited while new values were drawn takes some 0.3 ms longer to come to speed. What paces does not
    wait, a candidate does: so T_b, the best variant's time, is taken as a candidate's is.
    """

    limit_us: float
    times_us: Mapping[str, float]
    spreads: Mapping[str, float]
    best_us: float

    @property
    def best(self) -> str:
        return min(self.times_us, key=lambda name: (self.times_us[name], name))

    @property
    def pacer(self) -> str:
        """Eager, which needs no compiling, where it is not far slower; else the best."""
        return "eager" if self.times_us.get("eager", float("inf")) <= PACE * self.times_us[self.best] else self.best

    @property
    def pacer_us(self) -> float:
        return self.times_us[self.pacer]


def problem_hash(problem: Problem) -> str:
    files = ("definition.json", "reference.py", "task.py", "workload.jsonl", "hidden.jsonl")
    digest = sha256(PROTOCOL.encode())
    for name in files:
        if (problem.root / name).is_file():
            digest.update(name.encode() + b"\0" + (problem.root / name).read_bytes())
    return digest.hexdigest()[:16]


def frozen(problem: Problem, device: str) -> dict[str, Baseline] | None:
    """The stored baselines of this very problem on this kind of device, or None."""
    for folder in (SHIPPED / "sol" / "baselines", cache()):
        file = folder / f"{_slug(device)}.json"
        if not file.is_file():
            continue
        entry = json.loads(file.read_text()).get(problem.name)
        if entry is not None and entry["problem"] == problem_hash(problem):
            return {uuid: settings(Baseline, table, file.name) for uuid, table in entry["workloads"].items()}
    return None


def store(problem: Problem, device: str, found: Mapping[str, Baseline], folder: Path | None = None) -> Path:
    """Adds to a device's file, by replacing it whole; the last writer of two at once wins."""
    place = folder or cache()
    place.mkdir(parents=True, exist_ok=True)
    file = place / f"{_slug(device)}.json"
    table = json.loads(file.read_text()) if file.is_file() else {}
    rows = {uuid: _rounded(asdict(baseline)) for uuid, baseline in found.items()}
    table[problem.name] = {"problem": problem_hash(problem), "workloads": rows}
    draft = file.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
    draft.replace(file)
    return file


def _rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def cache() -> Path:
    """Where the user's own measurements are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evo" / "sol"


def _slug(device: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
