"""The facts of a run. A run is the set of its events; everything else is a fold over them."""

from __future__ import annotations

import dataclasses
import json
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from evo.genome import Patch
from evo.outcome import Outcome

CHECKSUM = ',"crc":'  # cannot stand inside a string, whose quotes are escaped


@dataclass(frozen=True, order=True, slots=True)
class Task:
    """What is claimed and judged once: a genome at a stage with the stage's seed number `k`."""

    genome: str
    stage: str  # base, screen, finalist, certify
    k: int = 0

    @property
    def name(self) -> str:
        return f"{self.genome}.{self.stage}.{self.k}"


@dataclass(frozen=True, slots=True)
class Call:
    """One call to a model that was answered: tokens as its provider counted them, and what they cost."""

    model: str
    input: int  # neither read from nor written to the provider's cache
    cache_read: int
    cache_write: int
    output: int
    usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Started:
    """A worker opened its journal; the long provenance stands here once instead of in every outcome."""

    kind: ClassVar[str] = "started"
    role: str
    fingerprint: str
    provenance: Mapping[str, str]

    @property
    def device(self) -> str:
        return self.provenance.get("device", "")


@dataclass(frozen=True, slots=True)
class Proposed:
    """A new genome, to be screened. `new` holds the patches that no earlier proposal of this run wrote."""

    kind: ClassVar[str] = "proposed"
    thread: int
    number: int
    operator: str
    parents: tuple[str, ...]
    genome: str
    patches: tuple[str, ...]  # names in order
    new: tuple[Patch, ...]
    category: str
    footprint: str
    identity: str
    seedless: str  # identity with the numbers given to seeds left out
    usd: float = 0.0
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """A proposal that was not worth an evaluation, and why."""

    kind: ClassVar[str] = "rejected"
    thread: int
    number: int
    operator: str
    parents: tuple[str, ...]
    reason: str
    patches: tuple[str, ...] = ()  # what was rejected, so that it is not proposed again
    usd: float = 0.0
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class Reflected:
    """A slot in which a model proposed nothing and wrote down what the attempts so far teach."""

    kind: ClassVar[str] = "reflected"
    operator: ClassVar[str] = "reflect"
    parents: ClassVar[tuple[str, ...]] = ()
    thread: int
    number: int
    hypotheses: tuple[str, ...]
    usd: float = 0.0
    calls: tuple[Call, ...] = ()


Slotted = Proposed | Rejected | Reflected  # what became of one thread's slot of a number


@dataclass(frozen=True, slots=True)
class Evaluated:
    kind: ClassVar[str] = "evaluated"
    task: Task
    outcome: Outcome
    seconds: float  # wall, of the whole task
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Lost:
    """A task that we, not the candidate, failed to judge; it is judged again."""

    kind: ClassVar[str] = "lost"
    task: Task
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a certification found. Gains are in units of gain; the interval is valid at any stopping time."""

    genome: str
    round: int
    pairs: int
    e_value: float
    gain: float
    low: float
    high: float
    reason: str
    fingerprint: str
    judge: str = ""  # version of the judge; empty in journals that did not say
    pair_sd: float = 0.0  # the noise that the evidence was weighed with, and its degrees of freedom
    df: float = 0.0


@dataclass(frozen=True, slots=True)
class Certified(Verdict):
    kind: ClassVar[str] = "certified"

    @property
    def p(self) -> float:
        return min(1.0, 1.0 / self.e_value)


@dataclass(frozen=True, slots=True)
class Refuted(Verdict):
    kind: ClassVar[str] = "refuted"
    spent: bool = False  # the budget ended here, so that the round's other candidates were not tried


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the record rule of a race found: raw loss and seconds over a fixed number of fresh seeds."""

    kind: ClassVar[str] = "recorded"
    genome: str
    source: str  # the certified genome whose schedule was shortened
    round: int
    holds: bool
    reason: str  # why it does not hold
    n: int
    target: float
    loss: float
    loss_sd: float
    p: float  # one-sided, Student's t, that the mean loss is above the target
    seconds: float
    seconds_sd: float
    base_seconds: float
    value: float  # of the declared constant; 0 where the genome has none
    sweeps: int
    judge: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    kind: ClassVar[str] = "quarantined"
    genome: str
    reason: str


@dataclass(frozen=True, slots=True)
class Marked:
    """A person's act on a genome: pin, ban, release or condemn."""

    kind: ClassVar[str] = "marked"
    genome: str
    mark: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Noted:
    kind: ClassVar[str] = "noted"
    text: str


@dataclass(frozen=True, slots=True)
class Budgeted:
    """A round of validation was opened for these finalists, best posterior first."""

    kind: ClassVar[str] = "budgeted"
    round: int
    finalists: tuple[str, ...]
    posteriors: tuple[float, ...]  # in typical gains, frozen here so that halving does not depend on what comes later
    reason: str
    proposals: int = 0  # made until then
    used: int = 0  # evaluations until then
    covers: int = 0  # the budget that this round ends; 0 where it ends none: midway, or out of time


@dataclass(frozen=True, slots=True)
class Stopped:
    """The search ended for good; a resumed run with a larger budget goes on all the same."""

    kind: ClassVar[str] = "stopped"
    reason: str


Event = (
    Started
    | Proposed
    | Rejected
    | Reflected
    | Evaluated
    | Lost
    | Certified
    | Refuted
    | Recorded
    | Quarantined
    | Marked
    | Noted
    | Budgeted
    | Stopped
)
KINDS: dict[str, Any] = {cls.kind: cls for cls in Event.__args__}


@dataclass(frozen=True, slots=True)
class Entry:
    """An event with its place: (writer, line) orders entries the same way for every reader."""

    writer: str
    line: int
    at: float  # seconds since the epoch, the writer's clock: decides in which order things are told, not what is true
    event: Event

    @property
    def place(self) -> tuple[str, int]:
        return self.writer, self.line


ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@cache
def _fields(kind: str) -> Sequence[tuple[str, bool]]:
    """Names of an event's fields, and whether each may be left out."""
    fields, missing = dataclasses.fields(KINDS[kind]), dataclasses.MISSING
    return [(f.name, f.default is not missing or f.default_factory is not missing) for f in fields]


def dump(event: Event, at: float) -> str:
    """One JSON line without its newline; its last key is the checksum of the line without that key.

    Halves of surrogate pairs, which no file can hold, become question marks.
    """
    found: dict[str, Any] = {"at": round(at, 3), "event": event.kind}
    for name, optional in _fields(event.kind):
        value = getattr(event, name)
        if isinstance(value, Outcome):
            value = value.to_dict()
        elif isinstance(value, Task):
            value = [value.genome, value.stage, value.k]
        elif name == "new":
            value = [patch.to_dict() for patch in value]
        elif name == "calls":
            value = [dataclasses.astuple(call) for call in value]
        if not optional or value not in ("", (), [], {}, 0.0):
            found[name] = value
    line = ENCODER.encode(found)
    return with_checksum(line.encode("utf-8", "replace").decode())


def with_checksum(line: str) -> str:
    """A line that holds one JSON object, with its checksum as the last key."""
    return f"{line[:-1]}{CHECKSUM}{zlib.crc32(line.encode())}}}"


def verify(line: str, *, checked: bool) -> None:
    """Raises ValueError for a line that is not as it was written; one without a checksum only if `checked`."""
    text, found_one, checksum = line.rpartition(CHECKSUM)
    if checked and not found_one:
        raise ValueError(f"no checksum where others have one: {line[:80]!r}")
    if found_one and checksum != f"{zlib.crc32((text + '}').encode())}}}":
        raise ValueError(f"not as it was written: {line[:80]!r}")


def load(line: str, *, checked: bool = False) -> tuple[float, Event]:
    """Reads one line; keys that a later version no longer knows are dropped, so old journals keep loading.

    Raises ValueError for anything that is not an event, and for a line that is not what was written: a digit that a
    disk has turned would be another score. Lines of before there were checksums have none; `checked` says that this
    one comes from a file that has them.
    """
    verify(line, checked=checked)
    try:
        found = json.loads(line)
        at, kind = float(found.pop("at")), found.pop("event")
        names = {name for name, _ in _fields(kind)}
        return at, KINDS[kind](**{key: _revived(key, value) for key, value in found.items() if key in names})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"not an event: {line[:80]!r} ({error})") from error


# Texts that stand in many events; identity and seedless mostly are the same.
SHARED = frozenset({"genome", "fingerprint", "operator", "category", "footprint", "identity", "seedless"})


def _revived(key: str, value: Any) -> Any:
    if key == "task":
        return Task(sys.intern(value[0]), sys.intern(value[1]), *value[2:])
    if key == "outcome":
        return Outcome.from_dict(value)
    if key == "new":
        return tuple(Patch.from_dict(item) for item in value)
    if key == "calls":
        return tuple(Call(*item) for item in value)
    if isinstance(value, list):
        # a run of ten thousand names the same patches a hundred thousand times
        return tuple(sys.intern(item) if type(item) is str else item for item in value)
    return sys.intern(value) if key in SHARED else value
