"""Judges: a program directory, a stage and a seed in, an outcome out. Trusted; the candidate never reaches them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from evo.benchmark import Benchmark, Profile, UserMistake
from evo.outcome import Outcome


class Judge(Protocol):
    def judge(self, program: Path, *, stage: str, seed: int) -> Outcome: ...

    def fingerprint(self) -> Mapping[str, str]:
        """Whatever must be equal for two scores to compare: device, versions, data, limits, judge."""
        ...

    def close(self) -> None: ...


def open_judge(benchmark: Benchmark, profile: Profile, *, allow_unisolated: bool = False) -> Judge:
    """The judge that a benchmark names, ready to work; raises UserMistake or NoIsolation."""
    if benchmark.judge == "training":
        from evo.judges import training

        return training.open_judge(benchmark.root, profile, allow_unisolated)
    if benchmark.judge == "answer":
        from evo.judges import answer

        return answer.open_judge(benchmark.root, profile, allow_unisolated)
    raise UserMistake(f"{benchmark.name}: unknown judge '{benchmark.judge}'; valid are training, answer")


def fingerprint_id(found: Mapping[str, str]) -> str:
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:10]


