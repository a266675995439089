"""What a judge says of one program: a status, and a score if and only if the program passed."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

DETAIL_LIMIT = 4000  # characters; a detail goes into journals and prompts, so a candidate must not choose its size
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # but tabs and newlines


class Status(StrEnum):
    PASSED = "PASSED"
    INVALID = "INVALID"  # refused before it ran: does not parse, does not apply, screened out
    WRONG = "WRONG"  # ran, but what it handed over is not acceptable
    CRASHED = "CRASHED"
    TIMEOUT = "TIMEOUT"
    CHEATED = "CHEATED"
    LOST = "LOST"  # our fault; the task is judged again and the genome does not pay for it


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one task; `score` and every measure are finite numbers in the units that the benchmark states."""

    status: Status
    score: float | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    detail: str = ""
    trust: str = "isolated"
    artifact: str = ""  # hash of what was handed over; equal ones on different seeds betray a fixed result

    def __post_init__(self) -> None:
        passed = self.status is Status.PASSED
        if passed != (self.score is not None):
            raise ValueError(
                f"a score exists if and only if the status is PASSED; found {self.status} with {self.score}"
            )
        for name, value in [("score", self.score), *self.measures.items()]:
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, found {value}; report a failure as a status")

    @classmethod
    def passed(cls, score: float, **fields: Any) -> Outcome:
        return cls(Status.PASSED, float(score), **fields)

    @classmethod
    def failed(cls, status: Status, detail: str, **measures: float) -> Outcome:
        return cls(status, None, measures, tail(detail))

    def to_dict(self) -> dict[str, Any]:
        found = {
            "status": self.status.value,
            "score": self.score,
            "measures": {name: round_to_digits(value) for name, value in self.measures.items()},
            "detail": self.detail,
            "trust": self.trust,
            "artifact": self.artifact,
        }
        return {name: value for name, value in found.items() if value not in (None, "", {}, "isolated")}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Outcome:
        measures = {sys.intern(name): value for name, value in found.get("measures", {}).items()}
        return cls(**{**found, "status": Status(found["status"]), "measures": measures})


def tail(text: str, limit: int = DETAIL_LIMIT) -> str:
    """The end of a text, since the reason for a crash stands last.

    Without surrogates, which no file can hold, and without control characters: what a candidate prints is shown on a
    person's terminal, where they could hide a line and write another.
    """
    text = CONTROL.sub("\ufffd", text.encode("utf-8", "replace").decode().replace("\r", "\n"))
    return text if len(text) <= limit else "[...]" + text[-(limit - 5) :]


def visible(text: str) -> str:
    """A text for a terminal: control characters, which could hide a line and write another, by their numbers instead.

    Patches and what was said about them come from models, or in a run's directory from strangers.
    """
    return CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def round_to_digits(value: float, digits: int = 6) -> float:
    """Measures are kept to six significant digits: more is noise, and journals are read by people."""
    return float(f"{value:.{digits}g}")
