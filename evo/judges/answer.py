"""Judges answers: the program returns one, the benchmark's `verify.py` scores it in a process of its own.

`solve.py` has `solve() -> answer` (what JSON can hold, or one numpy array). `verify.py` has `verify(answer)`, which
returns the score, or {"score": ..., "measures": {...}}, or raises ValueError with a sentence. Nothing but bytes goes
from the one process to the other, through the judge, who parses only the verifier's short reply.
"""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from evo.benchmark import UserMistake
from evo.judges.turns import Late, Verdict, Watch, how_it_ended, last_output
from evo.judges.wire import Closed, Foreign, Frame, Peer, at_most
from evo.outcome import Outcome, Status, tail
from evo.sandbox import Limits, Sandbox, SandboxError, Turn

JUDGE_VERSION = "answer-2"
PRELOAD = ("numpy",)
GUESTS = Path(__file__).resolve().parent.parent / "guests"
SOLVER, VERIFIER = GUESTS / "answer.py", GUESTS / "verify.py"
REPLY = 1 << 16  # bytes of a verifier's reply
MEASURES = 64
OPEN_SHARE = 0.2  # of its seconds, on its CPU clock, while a program may look up names: what could be noted for later


@dataclass(frozen=True)
class Settings:
    entry: str = "solve.py"  # in the program
    verify: str = "verify.py"  # in the benchmark's folder, where no candidate can write
    seconds: float = 10.0  # wall, until the answer has arrived
    verify_s: float = 10.0  # wall; an answer that takes longer to verify is WRONG
    answer_kb: float = 256.0

    def __post_init__(self) -> None:
        for name in ("seconds", "verify_s", "answer_kb"):
            if not getattr(self, name) > 0:
                raise UserMistake(f"{name}: expected a number above 0, found {getattr(self, name)}")


def rules(settings: Settings, limits: Limits, root: Path) -> list[str]:
    s = settings
    return [
        f"{s.entry} has solve(); what it returns must arrive within {min(s.seconds, limits.wall_s):g} s by the wall "
        f"clock, imports included, and hold at most {s.answer_kb:g} KB; verifying it may take {s.verify_s:g} s.",
        "Python's standard library and numpy are at hand."
        + (
            ""
            if limits.children
            else f" After {OPEN_SHARE * s.seconds:g} s of CPU time nothing can be imported or opened."
        ),
    ]


@dataclass
class AnswerJudge:
    settings: Settings
    limits: Limits
    root: Path
    sandbox: Sandbox

    def __post_init__(self) -> None:
        self._verifier = self.root / self.settings.verify
        if not self._verifier.is_file():
            raise UserMistake(f"{self._verifier}: expected a file with verify(answer), found none; write it")
        s = self.settings
        self._solving = dataclasses.replace(self.limits, wall_s=min(s.seconds, self.limits.wall_s))
        self._verifying = dataclasses.replace(self.limits, wall_s=s.verify_s)

    def judge(self, program: Path, *, stage: str, seed: int) -> Outcome:
        """An answer does not depend on chance that the judge holds, so neither stage nor seed plays a part."""
        measures: dict[str, float] = {}
        try:
            answer = self._answer(program, measures)
            score, found = self._verified(answer)
        except Verdict as verdict:
            return Outcome.failed(verdict.status, verdict.detail, **measures)
        except SandboxError as error:
            return Outcome.failed(Status.LOST, f"the sandbox could not be started: {error}", **measures)
        # No artifact: equal ones on different seeds betray a fixed result where chance is part of the task, not here.
        return Outcome.passed(score, measures={**found, **measures})

    def fingerprint(self) -> Mapping[str, str]:
        return {
            "judge": JUDGE_VERSION,
            "verifier": sha256(self._verifier.read_bytes()).hexdigest()[:16],
            "settings": json.dumps(asdict(self.settings), sort_keys=True),
            "limits": json.dumps(asdict(self.limits), sort_keys=True),
            "sandbox": self.sandbox.level.name,
            "python": platform.python_version(),
        }

    def close(self) -> None:
        """Nothing is held between evaluations; the sandbox belongs to whoever made it."""

    def _answer(self, program: Path, measures: dict[str, float]) -> Frame:
        s, limits = self.settings, self._solving
        size = at_most(int(s.answer_kb * 1024))
        began = time.monotonic()
        with self._start(SOLVER, program, s.entry, limits, shuts=not limits.children) as turn:
            watch = Watch(turn, limits)

            def look() -> None:
                watch()
                if turn.cpu_seconds() > OPEN_SHARE * limits.wall_s:
                    turn.shut()  # what is found after this cannot be carried to the next evaluation

            try:
                return Peer(turn.channel, turn.wait).receive({b"J": size, b"N": size}, look)
            except Late:
                raise Verdict(Status.TIMEOUT, f"no answer within {limits.wall_s:g} s{last_output(turn)}") from None
            except Closed:
                raise how_it_ended(turn, limits, "without an answer") from None
            except Foreign as error:
                raise Verdict(Status.WRONG, f"answer: {error}") from None
            finally:
                measures.update(seconds=time.monotonic() - began, cpu_s=turn.cpu_seconds())

    def _verified(self, answer: Frame) -> tuple[float, dict[str, float]]:
        name, limits = self.settings.verify, self._verifying
        with self._start(VERIFIER, self._verifier.parent, self._verifier.name, limits) as turn:
            watch = Watch(turn, limits)
            try:
                peer = Peer(turn.channel, turn.wait)
                peer.send(answer.kind, watch, bytes(answer.payload))
                reply = peer.receive({b"V": at_most(REPLY)}, watch)
            except Late:
                raise Verdict(
                    Status.WRONG, f"{name} did not finish within {limits.wall_s:g} s on this answer"
                ) from None
            except Closed:
                ended = how_it_ended(turn, limits, "on this answer")
                raise Verdict(Status.WRONG, f"{name} {ended.detail}") from None
            except Foreign as error:
                raise Verdict(Status.WRONG, f"{name}: {error}") from None
        return _read(bytes(reply.payload), name)

    def _start(self, guest: Path, program: Path, argument: str, limits: Limits, *, shuts: bool = False) -> Turn:
        return self.sandbox.start(
            guest,
            program=program,
            guest=GUESTS,
            arguments=(argument,),
            limits=limits,
            shuts=shuts,
            attended=True,
        )


def _read(reply: bytes, name: str) -> tuple[float, dict[str, float]]:
    """Score and measures of a verifier's reply, which is read strictly: it worked on a hostile answer."""
    try:
        told: Any = json.loads(reply)
        if isinstance(sentence := told.get("wrong"), str):
            raise Verdict(Status.WRONG, sentence)
        score, measures = told["score"], told["measures"]
        if not _finite(score) or len(measures) > MEASURES:
            raise ValueError(f"expected a finite score and at most {MEASURES} measures")
        return float(score), {tail(key[:64]): float(value) for key, value in measures.items() if _finite(value)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Verdict(Status.WRONG, f"{name}: its reply could not be read: {type(error).__name__}") from None


def _finite(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def hidden(settings: Settings, root: Path) -> tuple[Path, ...]:
    return ()  # a verifier lies in the benchmark's folder, which no sandbox sees


def judge_of(settings: Settings, limits: Limits, root: Path, sandbox: Sandbox) -> AnswerJudge:
    return AnswerJudge(settings, limits, root, sandbox)
