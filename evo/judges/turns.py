"""How a judge waits for a process in the sandbox, and what each way of not answering is called."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from evo.judges.wire import Closed
from evo.outcome import Status, tail
from evo.turn import Ending, Limits, Turn

OUTPUT_LIMIT = 2000  # characters of a candidate's last output that reach a detail
SETTLING_S = 1.0  # between the end of a channel and the end of its process, on a busy machine


class Verdict(Exception):
    """Ends an evaluation with a status from wherever it became clear."""

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class Late(Exception):
    """A limit on a clock has been passed."""


@dataclass(frozen=True)
class Watch:
    """Gives up with `Late` when the judge's own clock passes the turn's wall limit, or `clock`, if any, its `limit`.

    A process that has simply ended is no reason to give up: what it sent may still lie in the socket, whose end says
    when all has been read. One that the sandbox killed is: whatever it sent last is not worth reading.
    """

    turn: Turn
    limits: Limits
    clock: Callable[[], float] | None = None
    limit: float = math.inf
    began: float = field(default_factory=time.monotonic)

    def __call__(self) -> None:
        ending = self.turn.ending(0)
        if ending is not None and ending.kind in ("output", "wall"):
            raise Closed
        if (self.clock is not None and self.clock() > self.limit) or time.monotonic() - self.began > self.limits.wall_s:
            raise Late


def how_it_ended(turn: Turn, limits: Limits, without: str, *, quiet: bool = False) -> Verdict:
    """The verdict on a process whose channel ended `without` what was expected; `quiet`: without its output."""
    ending = turn.ending(SETTLING_S)
    if ending is None:
        return Verdict(Status.CRASHED, f"closed its channel {without} and went on running{last_output(turn)}")
    return _verdict(ending, limits, without, "" if quiet else last_output(turn))


def _verdict(ending: Ending, limits: Limits, without: str, said: str) -> Verdict:
    if ending.kind == "wall":
        return Verdict(Status.TIMEOUT, f"killed {without}: still running after {limits.wall_s:g} s{said}")
    if ending.kind == "output":
        return Verdict(Status.CRASHED, f"killed {without}: wrote more than {limits.output_kb} KB of output{said}")
    if ending.kind == "lost":
        return Verdict(Status.LOST, f"the sandbox was ended from outside {without}, which no candidate can do")
    return Verdict(Status.CRASHED, f"ended {without}: {ending}{said}")


def last_output(turn: Turn) -> str:
    said = tail(turn.output().strip(), OUTPUT_LIMIT)
    return f"; its last output:\n{said}" if said else "; it wrote nothing"
