"""Judges kernels: the judge's process owns inputs, oracle, seeds and clock; a worker sees inputs and fills outputs.

A program is `kernel.py` with `run(*inputs, *outputs)`. Time is taken from outside, in bursts of several lengths: from
the moment before the worker is woken to the moment when all outputs lie in the judge's private memory. What a burst
takes beyond a burst of that length by a worker that does nothing, over its calls, is the time of one call: the whole of
it, so that work moved to the beginning or the end of a burst is still work. (The first call of a burst finds cold
caches. All bursts take about as long, a slow program's have fewer calls: so the share of what comes once a burst is the
same in a kernel's time and in the baseline's.) Bursts of the candidate, of a baseline that paces (it says what the card
does at this moment) and of the idle worker alternate in random order, and whoever is not at
work is stopped. Values are drawn, and addresses shifted, anew for every call while the worker is stopped; outputs begin
as NaN between guard bands. Which outputs are checked, the worker cannot know; the last always is. They are checked when
the worker is gone, so that no right answer exists on the device while it could look for one.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import re
import secrets
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from evo import problem as problems
from evo import sol
from evo.benchmark import UserMistake, write_tree
from evo.hostlock import meeting_place, turn
from evo.judges import baselines
from evo.judges.buffers import Pool, pool
from evo.judges.exactness import SLACK, complaint
from evo.judges.turns import Late, Verdict, Watch, how_it_ended, last_output
from evo.judges.wire import Closed, Foreign, Peer, at_most, exactly
from evo.outcome import Outcome, Status
from evo.problem import DISTRIBUTIONS, DTYPES, Task, Workload
from evo.sandbox import Limits, Sandbox, SandboxError, Turn

JUDGE_VERSION = "kernel-3"
GUEST = Path(__file__).resolve().parent.parent / "guests" / "kernel.py"
HAS_GPU = Path("/dev/nvidiactl").exists()
PRELOAD = ("numpy", "torch", *(("triton",) if HAS_GPU and find_spec("triton") else ()))
GUARD = 4096  # bytes before and after every output
SHIFT, SHIFTS = 256, 4096  # a tensor moves by one of so many steps of so many bytes, a buffer's never the same twice
PROBE_MB = 512  # written between fill and burst: empties the L2 and shows whether the device was idle
ROOM_MB = 4096  # that a worker must leave on the device
PROFILE_BYTES = 4096
TRUSTED_S = 24 * 3600.0
ADJUST = (0.8, 1.25)  # the pacer corrects a kernel's time by no more than this
AGREE = 0.25  # by how much of the device's own events the outside clock may differ, for what paces
AGREE_US = 2000.0  # and by how much more a burst
STEADY = 0.015  # a spread above this asks for more bursts
EXTENSIONS = 1  # as many again, at most so many times


@dataclass(frozen=True)
class Settings:
    device: str  # "cuda": scored; "cpu": correctness on small shapes, and a proxy instead of S
    bursts: int = 4  # of the candidate for each workload, as many of the pacer and of the idle worker
    longest: int = 64  # calls in a burst at most
    pool_mb: int = 24576  # shared buffers at most
    burst_ms: float = 8.0  # about how long the longest burst takes
    checks: int = 2  # of the timed calls of each workload, the last besides
    compile_s: float = 120.0  # wall, for a workload's first calls, on other data and before the clock
    call_s: float = 10.0  # wall, for one burst
    profile: bool = False  # adds where the time of the main workload goes, by the program's own profiler, to the detail

    def __post_init__(self) -> None:
        if self.device not in ("cuda", "cpu"):
            raise UserMistake(f"device: expected cuda or cpu, found '{self.device}'")
        for name in ("bursts", "longest", "checks"):
            if getattr(self, name) < 2:
                raise UserMistake(f"{name}: expected at least 2, found {getattr(self, name)}")
        for name in ("pool_mb", "burst_ms", "compile_s", "call_s"):
            if not getattr(self, name) > 0:
                raise UserMistake(f"{name}: expected a number above 0, found {getattr(self, name)}")


def rules(settings: Settings, limits: Limits, root: Path) -> list[str]:
    s, task = settings, problems.load(root)
    definition, shown = task.definition, task.small if settings.device == "cpu" else task.workloads
    sizes = "; ".join(" ".join(f"{k}={n}" for k, n in work.axes.items()) for work in shown if not work.hidden)
    others = "; and others" if any(work.hidden for work in shown) else ""
    found = [
        f"The task: {definition.description or definition.name}. Inputs: {_tensors(definition.inputs)}. Outputs: "
        f"{_tensors(definition.outputs)}. Sizes: {sizes}{others}.",
        "kernel.py has run(*inputs, *outputs), which fills the outputs: every call finds new values at new addresses "
        "and outputs full of NaN. Outputs are compared with an oracle of higher precision, within an error that the "
        "number formats explain.",
        f"A workload's first calls, compiling included, may take {s.compile_s:g} s, a burst of calls {s.call_s:g} s by "
        "the wall clock. A call's time is taken from outside, launches and allocations included.",
        "Python's standard library, numpy, torch and triton are at hand.",
    ]
    if s.device == "cpu":
        found.append(
            "Here kernels run on a CPU, Triton's through its interpreter: correctness counts, times say little."
        )
    return found


def _tensors(specs: Mapping[str, problems.TensorSpec]) -> str:
    return ", ".join(
        f"{name} {'number' if spec.shape is None else '[' + ', '.join(spec.shape) + ']'} {spec.dtype}"
        for name, spec in specs.items()
    )


@dataclass(frozen=True)
class Slot:
    """Where one call finds its tensors: (buffer, offset) for every tensor, inputs then outputs."""

    places: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Burst:
    calls: int
    microseconds: float
    probe_us: float
    device_us: float = 0.0  # by events in the worker's own process: for diagnosis, and a check of the clock


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call, and what stood beside it."""

    us: float
    constant_us: float  # per burst, beyond the idle worker's: included in `us`, for diagnosis
    spread: float  # the relative standard error of `us`
    bursts: tuple[Burst, ...]


@dataclass(frozen=True)
class Kept:
    """One checked call: from which seed its inputs come, and the private copy of its outputs with their guards."""

    seed: int
    distribution: str
    offsets: tuple[int, ...]
    outputs: tuple[Any, ...]


class TrustedFailed(Exception):
    """The judge's own worker failed: the reference in one of its variants, or the card had no room for it."""


@dataclass
class Worker:
    """One process in the sandbox and the judge's end of its channel."""

    turn: Turn
    limits: Limits
    trusted: bool  # the judge's own programs: a failure of theirs is nobody's but the judge's
    card: Callable[[], AbstractContextManager[object]] = nullcontext  # held while a trusted one tunes what it compiles
    stopped: bool = False

    def __post_init__(self) -> None:
        self.peer = Peer(self.turn.channel)

    def ask(
        self, kind: bytes, within_s: float, payload: bytes = b"", fd: int | None = None, answer: int = 0
    ) -> bytearray:
        """Sends a frame and waits for its small letter, with at most `answer` bytes."""
        deadline = time.monotonic() + within_s
        watch = Watch(self.turn, self.limits, time.monotonic, deadline)
        kinds = {kind.lower(): at_most(answer), **({b"w": exactly(0)} if self.trusted else {})}
        try:
            if kind != b"r":
                self.peer.send(kind, watch, payload, fd)
            while (frame := self.peer.receive(kinds, watch)).kind == b"w":
                waited = time.monotonic()
                with self.card():  # other problems compile beside this one: none of them is on the card now
                    deadline += time.monotonic() - waited
                    watch = Watch(self.turn, self.limits, time.monotonic, deadline)
                    self.peer.send(b"w", watch)
                    self.peer.receive({b"d": exactly(0)}, watch)
            return frame.payload
        except Late:
            raise self._ended(Status.TIMEOUT, f"no answer within {within_s:g} s{last_output(self.turn)}") from None
        except Closed:
            how = how_it_ended(self.turn, self.limits, "while it was called")
            raise self._ended(how.status, how.detail) from None
        except Foreign as error:
            raise self._ended(Status.WRONG, str(error)) from None

    def _ended(self, status: Status, detail: str) -> Exception:
        return TrustedFailed(detail) if self.trusted else Verdict(status, detail)

    def stop(self) -> None:
        """Stops every process of the worker's pid namespace; returns when none of them runs."""
        if not self.stopped:
            self.turn.pause()
            self.stopped = True

    def go(self) -> None:
        if self.stopped:
            if self.turn.awake():
                raise self._ended(Status.CHEATED, "ran while it was stopped, when its inputs were being filled")
            self.turn.resume()
            self.stopped = False


@dataclass
class Stage:
    """One workload set up for timing: shared buffers, their private twins, what was kept."""

    workload: Workload
    slots: int
    inputs: Mapping[str, tuple[tuple[int, ...], str]]  # tensors only: shape, dtype
    outputs: Mapping[str, tuple[tuple[int, ...], str]]
    scalars: Mapping[str, Any]
    order: Sequence[str]  # of the definition's inputs
    pool: Pool
    private: list[list[Any]]  # [slot][output]
    filled: dict[int, tuple[int, ...]] = field(default_factory=dict)  # where each slot's values lie
    sums: dict[int, list[Any]] = field(default_factory=dict)  # and what they add up to
    used: set[tuple[int, int]] = field(default_factory=set)  # (buffer, offset) that a call has had
    kept: list[Kept] = field(default_factory=list)

    def buffer(self, slot: int, tensor: int) -> int:
        return slot * (len(self.inputs) + len(self.outputs)) + tensor


def nbytes(shape: Sequence[int], dtype: str) -> int:
    return int(math.prod(shape) * DTYPES[dtype])


def line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Slope and intercept by the medians over all pairs of points (Theil and Sen)."""
    slopes = [(b - d) / (a - c) for k, (a, b) in enumerate(points) for c, d in points[:k] if a != c]
    slope = statistics.median(slopes) if slopes else 0.0
    return slope, statistics.median(t - slope * n for n, t in points)


def timing(bursts: Sequence[Burst], idle: Sequence[Burst]) -> Timing:
    """The time of one call: what a burst takes beyond the idle worker's burst of that length, by its calls.

    The whole of it is charged, so work moved from the calls to the burst's beginning or end gains nothing.
    """
    slope, constant = line([(b.calls, b.microseconds) for b in idle])
    each = [(b.microseconds - constant - slope * b.calls) / b.calls for b in bursts]
    us = statistics.median(each)
    deviation = statistics.median(abs(x - us) for x in each) * 1.4826
    extra = line([(b.calls, b.microseconds) for b in bursts])[1] - constant
    return Timing(us, extra, 1.25 * deviation / math.sqrt(len(each)) / us if us > 0 else math.inf, tuple(bursts))


def spaced(longest: int, bursts: int, idle: bool) -> list[int]:
    """How many calls the bursts of a side have: the same set in every measurement, so that what comes once a burst
    weighs the same in each. An idle worker's give a line, from one call upwards; the others' lie close together."""
    fewest = 1 if idle else max(1, 3 * longest // 4)
    return [round(fewest + (longest - fewest) * k / (bursts - 1)) for k in range(bursts)]


def claimed_us(told: bytes | bytearray) -> float:
    """What a worker says its device took, from eight bytes that may be anything."""
    us = float(struct.unpack("<d", told)[0]) if len(told) == 8 else 0.0
    return us if 0 <= us < 1e9 else 0.0


def device_us(bursts: Sequence[Burst]) -> float:
    return statistics.median(b.device_us / b.calls for b in bursts)


def clocks_agree(workload: Workload, pacer: Timing, idle: Sequence[Burst]) -> None:
    """Raises LOST where the outside clock and events of the judge's own worker differ by more than starting takes."""
    if not all(b.device_us for b in pacer.bursts):  # no events here
        return
    slope, constant = line([(b.calls, b.microseconds) for b in idle])
    off = statistics.median(
        abs(b.microseconds - constant - slope * b.calls - b.device_us) - AGREE * b.device_us for b in pacer.bursts
    )
    if off > AGREE_US:
        raise Verdict(
            Status.LOST,
            f"workload {_public(workload)}: the outside clock and the device's own events differ by {off:.0f} us a "
            f"burst more than {AGREE:.0%}: is the machine busy?",
        )


def card(device: str) -> Path:
    """Where the turns of the card are taken that this process sees."""
    return meeting_place(f"kernel-{device}{os.environ.get('CUDA_VISIBLE_DEVICES', '')}")


@dataclass
class KernelJudge:
    settings: Settings
    limits: Limits
    root: Path
    sandbox: Sandbox
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(16), repr=False)

    def __post_init__(self) -> None:
        import torch

        if self.settings.device == "cuda" and not torch.cuda.is_available():
            raise UserMistake("profile with device = 'cuda': torch sees no CUDA device here; use --profile cpu")
        self._torch = torch
        self.problem = problems.load(self.root)
        self.task: Task = self.problem.task()
        small = self.settings.device == "cpu"
        self.workloads = self.problem.small if small else self.problem.workloads
        if not self.workloads:
            raise UserMistake(f"{self.root}: expected workloads in {'cpu' if small else 'workload'}.jsonl, found none")
        self._chance = random.Random(self.secret)
        self._trusted: Worker | None = None
        self._held = False
        self._warm: set[tuple[str, str]] = set()  # (workload, variant) that the trusted worker has compiled
        self.spent: dict[str, float] = {}  # seconds of the last evaluation by what they went into
        self.profiled = ""
        self.dropped: dict[str, str] = {}  # variants of the baseline that do not run here, and why
        self.seen: dict[str, dict[str, Timing]] = {}  # by workload: the last timings, with their bursts
        self._stack = ExitStack()
        own = baselines.cache() / "devices"
        self.device = sol.device_named(self.device_name, own) if self.settings.device == "cuda" else None
        found = baselines.frozen(self.problem, self.device_name) or {}
        self.frozen = found if all(w.uuid in found for w in self.workloads) else None

    @property
    def device_name(self) -> str:
        return str(self._torch.cuda.get_device_name()) if self.settings.device == "cuda" else "cpu"

    # ------------------------------------------------------------------------------------------------- the judge's face

    def judge(self, program: Path, *, stage: str, seed: int) -> Outcome:
        """S, the mean over all workloads. The seed plays no part: values come from the judge's secret."""
        measures: dict[str, float] = {}
        began = time.monotonic()
        try:
            with self.alone():
                return self._judged(program, measures, began)
        except Verdict as verdict:
            self._let_go()
            return Outcome.failed(verdict.status, verdict.detail, **measures)
        except TrustedFailed as failed:
            self._end_trusted()
            return Outcome.failed(Status.LOST, f"the judge's own worker failed: {failed}", **measures)
        except SandboxError as error:
            return Outcome.failed(Status.LOST, f"the sandbox could not be started: {error}", **measures)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Holds this card for one measurement, and leaves its memory to the judges that wait for it."""
        with turn(alone=True, folder=card(self.settings.device)):
            self._held = True
            try:
                yield
            finally:
                self._held = False
                if self.settings.device == "cuda":
                    self._torch.cuda.empty_cache()

    def on_card(self) -> AbstractContextManager[object]:
        """Nobody else is on the card meanwhile, whether this judge holds it for a measurement or not."""
        return nullcontext() if self._held else turn(alone=True, folder=card(self.settings.device))

    @contextmanager
    def _spending(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.spent[what] = self.spent.get(what, 0.0) + time.monotonic() - began

    def fingerprint(self) -> Mapping[str, str]:
        found = {
            "judge": JUDGE_VERSION,
            "problem": baselines.problem_hash(self.problem),
            "settings": json.dumps(asdict(self.settings), sort_keys=True),
            "device": self.device_name,
            "profile": f"{self.device.name}-{self.device.version}" if self.device else "none",
            "sandbox": self.sandbox.level.name,
            "torch": self._torch.__version__,
        }
        try:
            found["triton"] = version("triton")
        except PackageNotFoundError:
            found["triton"] = "none"
        return found

    def _let_go(self) -> None:
        """What ended in the middle of a workload left its shared memory open in the judge's own worker."""
        try:
            if self._trusted is not None:
                self._returned(self._trusted)
        except TrustedFailed:
            self._end_trusted()

    def close(self) -> None:
        self._end_trusted()

    def _end_trusted(self) -> None:
        if self._trusted is not None:
            self._trusted.go()
        self._stack.close()
        self._trusted = None
        self._warm.clear()

    def _judged(self, program: Path, measures: dict[str, float], began: float) -> Outcome:
        timed: list[tuple[Workload, dict[str, Timing], list[Kept]]] = []
        self.spent = {}
        trusted = self._the_trusted()
        frozen = self.frozen or self.measure_baselines()
        candidate = self._start(program, "kernel.py", self.limits, trusted=False)
        with candidate.turn, self._room_beside():
            candidate.ask(b"r", self.settings.compile_s)
            measures["start_s"] = time.monotonic() - began
            compiling = 0.0
            for workload in self.workloads:
                pacer = frozen[workload.uuid].pacer if frozen else "eager"
                sides = {"kernel": (candidate, ""), "pacer": (trusted, pacer), "idle": (trusted, "null")}
                timings, kept, compile_s = self._interleaved(workload, sides, "kernel")
                compiling += compile_s
                timed.append((workload, timings, kept))
            measures["compile_s"] = compiling
            candidate.go()
        with self._spending("check"):
            for workload, _, kept in timed:
                self._check(workload, kept)
        return self._outcome(timed, frozen, measures, began)

    def _outcome(
        self,
        timed: list[tuple[Workload, dict[str, Timing], list[Kept]]],
        frozen: Mapping[str, baselines.Baseline] | None,
        measures: dict[str, float],
        began: float,
    ) -> Outcome:
        scores, lines, floor = [], [], math.inf
        for workload, timings, kept in timed:
            us, pace = timings["kernel"].us, timings["pacer"].us
            if not us > 0 or not pace > 0:
                raise Verdict(Status.LOST, f"workload {workload.uuid}: no time above the noise of the clock was found")
            name = "hidden" if workload.hidden else workload.uuid
            measures[f"checked_{workload.uuid}"] = float(len(kept))
            if frozen is None:  # the CPU: a proxy, never S
                scores.append(pace / us)
                lines.append(f"{name}: right; {us:.0f} us, the reference {pace:.0f} us on this CPU (no S)")
                continue
            base = frozen[workload.uuid]
            us *= paced(base.pacer_us, pace, math.hypot(base.spreads[base.pacer], timings["pacer"].spread))
            value = sol.score(us, base.limit_us, base.best_us)
            scores.append(value)
            measures[f"us_{workload.uuid}"] = us
            measures[f"S_{workload.uuid}"] = value
            measures[f"pace_{workload.uuid}"] = pace / base.pacer_us
            measures[f"spread_{workload.uuid}"] = timings["kernel"].spread
            measures[f"constant_{workload.uuid}"] = timings["kernel"].constant_us
            measures[f"device_us_{workload.uuid}"] = device_us(timings["kernel"].bursts)
            if base.limit_us > 0:
                floor = min(floor, us / base.limit_us)
            lines.append(
                f"{name}: S {value:.3f}; {us:.1f} us, limit {base.limit_us:.1f}, {base.best} torch {base.best_us:.1f}"
            )
        if math.isfinite(floor):
            measures["over_limit"] = floor
        measures["judge_s"] = time.monotonic() - began
        measures["overhead_s"] = measures["judge_s"] - measures["compile_s"]
        measures.update({f"{what}_s": seconds for what, seconds in self.spent.items()})
        if floor < sol.FLOOR:  # benchmark.toml's [audit] puts it into quarantine by this measure
            lines.append(f"{floor:.3f} of the hardware's limit on some workload: not believed unseen")
        lines += [self.profiled] if self.profiled else []
        return Outcome.passed(statistics.fmean(scores), measures=measures, detail="\n".join(lines))

    # -------------------------------------------------------------------------------------------------------- baselines

    def warm(self, variants: Callable[[Workload], Sequence[str]]) -> None:
        """Compiles what `measure_baselines` will time, so that several problems can compile side by side.

        A variant that fails or takes longer than `compile_s` (a loop that is unrolled four thousand times) is dropped.
        """
        for workload in self.workloads:
            for name in variants(workload):
                if name in self.dropped or (workload.uuid, name) in self._warm:
                    continue
                try:
                    trusted = self._the_trusted()
                    with ExitStack() as stack:
                        with self.on_card():
                            stage = stack.enter_context(self._staged(workload, slots=1))
                        trusted.go()
                        trusted.ask(b"B", self.settings.call_s, json.dumps(stage.pool.about()).encode(), stage.pool.fd)
                        with self.on_card() if name == "eager" else nullcontext():
                            self._burst(stage, trusted, name, 1, fill=False, within_s=self.settings.compile_s)
                        self._returned(trusted)
                    self._warm.add((workload.uuid, name))
                except TrustedFailed as failed:
                    self._end_trusted()
                    if "out of memory" in str(failed):  # nothing against the variant, which runs where there is room
                        raise
                    if name == "eager":
                        raise UserMistake(f"{self.problem.name}: the reference fails: {failed}") from None
                    self.dropped[name] = str(failed)[-300:]

    def measure_baselines(
        self,
        variants: Callable[[Workload], Sequence[str]] = lambda workload: ("eager", "compile", "max"),
        *,
        keep: bool = True,
    ) -> dict[str, baselines.Baseline] | None:
        """T_b of every workload under the judge's own protocol, frozen for this device; None on the CPU."""
        if self.settings.device == "cpu":
            return None
        self.frozen = None  # what it says of lengths of bursts is to be found anew
        self.warm(variants)
        trusted = self._the_trusted()
        found = {}
        for workload in self.workloads:
            chosen = [name for name in variants(workload) if name not in self.dropped]
            sides = {name: (trusted, name) for name in chosen} | {"idle": (trusted, "null")}
            timings, _, _ = self._interleaved(workload, sides, None, rounds=2)  # what is off here is off in all scores
            times = {name: timings[name].us for name in timings}
            drawn = self._draw(workload, 0, "plain")
            moved = self.task.min_bytes(workload.axes, drawn) if self.problem.own else 0
            del drawn
            limit = self.device.limit_us(self.task.flops(workload.axes), moved) if self.device else 0.0
            found[workload.uuid] = baselines.Baseline(
                limit_us=limit,
                times_us=times,
                spreads={name: timings[name].spread for name in timings},
                best_us=min(times.values()),
            )
            if limit >= min(times.values()):
                raise UserMistake(
                    f"{self.problem.name}: workload {workload.uuid}: the limit {limit:.1f} us is not below the "
                    f"measured baseline {min(times.values()):.1f} us; flops() or min_bytes() overstate the work"
                )
        self.frozen = found
        as_candidate = {workload.uuid: self._best_again(workload, rounds=2) for workload in self.workloads}
        self.frozen = found = {u: dataclasses.replace(found[u], best_us=us) for u, us in as_candidate.items()}
        if keep:
            baselines.store(self.problem, self.device_name, found)
        return found

    def against_itself(self) -> dict[str, float]:
        """S of the baseline timed as a candidate, by workload: 0.5 but for noise."""
        assert self.frozen is not None
        return {
            workload.uuid: sol.score(self._best_again(workload), base.limit_us, base.best_us)
            for workload in self.workloads
            for base in (self.frozen[workload.uuid],)
        }

    def _best_again(self, workload: Workload, rounds: int = 1) -> float:
        """Microseconds of the best baseline as those of a candidate are taken: on new values, paced."""
        trusted, base = self._the_trusted(), (self.frozen or {})[workload.uuid]
        sides = {"again": (trusted, base.best), "pacer": (trusted, base.pacer), "idle": (trusted, "null")}
        timings, _, _ = self._interleaved(workload, sides, None, filled="again", rounds=rounds)
        noise = math.hypot(base.spreads[base.pacer], timings["pacer"].spread)
        return timings["again"].us * paced(base.pacer_us, timings["pacer"].us, noise)

    # ----------------------------------------------------------------------------------------------------------- timing

    def _interleaved(
        self,
        workload: Workload,
        sides: Mapping[str, tuple[Worker, str]],
        judged: str | None,
        filled: str | None = None,
        rounds: int = 1,
    ) -> tuple[dict[str, Timing], list[Kept], float]:
        """Bursts of all sides in random order; of `judged`, which writes outputs, some are kept for the check.

        `judged`, or `filled` in its place, gets new values for every call.
        """
        s = self.settings
        filled = judged or filled
        workers = {id(worker): worker for worker, _ in sides.values()}
        with self._staged(workload) as stage:
            for worker in workers.values():
                worker.go()
                worker.ask(b"B", s.call_s, json.dumps(stage.pool.about()).encode(), stage.pool.fd)
                worker.stop()
            longest, compile_s = self._lengths(stage, sides, judged, filled)
            bursts: dict[str, list[Burst]] = {name: [] for name in sides}
            sampled: list[Kept] = []
            last: list[Kept] = []
            unsteady = set(sides)
            for done in range(1, EXTENSIONS + rounds + 1):
                plan = [(n, c) for n in sides if n in unsteady for c in spaced(longest[n], s.bursts, n == "idle")]
                self._chance.shuffle(plan)
                # Every timed call is as likely to be checked as any other, or a kernel could be right where it pays.
                total = sum(calls for name, calls in plan if name == judged)
                wanted = {*self._chance.sample(range(total), min(s.checks, total)), total - 1}
                at = 0
                for name, calls in plan:
                    keep = {k - at for k in wanted if 0 <= k - at < calls} if name == judged else set()
                    worker, program = sides[name]
                    bursts[name].append(self._burst(stage, worker, program, calls, fill=name == filled, keep=keep))
                    at += calls if name == judged else 0
                if total:  # all rounds together have as many checks as one
                    *others, final = stage.kept
                    last, sampled = [final], self._chance.sample(sampled + others, min(s.checks, len(sampled + others)))
                    stage.kept.clear()
                if s.device == "cpu":  # too coarse a clock for differences
                    found = {n: _mean(b) for n, b in bursts.items() if n != "idle"}
                    break
                found = {n: timing(b, bursts["idle"]) for n, b in bursts.items() if n != "idle"}
                unsteady = {n for n, t in found.items() if t.spread >= STEADY or done < rounds}
                if not unsteady:
                    break
                unsteady.add("idle")
            if judged is not None:
                self._was_idle(bursts, judged)
                self._was_left_alone(stage)
                if s.profile and workload is self.workloads[0]:
                    self.profiled = self._profile(stage, *sides[judged])
            for worker in workers.values():
                self._returned(worker)
            if s.device == "cuda" and "pacer" in found:
                clocks_agree(workload, found["pacer"], bursts["idle"])
            self.seen[workload.uuid] = {**found, "idle": Timing(0.0, 0.0, 0.0, tuple(bursts["idle"]))}
            return found, [*sampled, *last], compile_s

    def _lengths(
        self, stage: Stage, sides: Mapping[str, tuple[Worker, str]], judged: str | None, filled: str | None
    ) -> tuple[dict[str, int], float]:
        """How many calls each side's longest burst has, after its first calls; and what those of `judged` took.

        A burst takes `burst_ms` beyond the idle worker's: a baseline's length follows from its frozen time, any other
        is found by trying.
        """
        s, base = self.settings, (self.frozen or {}).get(stage.workload.uuid)
        few, compile_s = min(4, stage.slots), 0.0
        found: dict[str, int] = {}
        idle = (0.0, 0.0)
        for name in sorted(sides, key=lambda side: side != "idle"):
            worker, program = sides[name]
            began = time.monotonic()
            for _ in range(2):  # compiling and tuning, on data that no timed call sees
                self._burst(stage, worker, program, 1, fill=name == filled, within_s=s.compile_s)
            if name == judged:
                compile_s = time.monotonic() - began
                self._has_room()
            if name == "idle":
                found[name] = stage.slots
                tries = [self._burst(stage, worker, program, n, fill=False) for n in (few, stage.slots)]
                idle = line([(b.calls, b.microseconds) for b in tries])
                continue
            known = base.times_us[program] if base is not None and worker.trusted else None
            calls = self._calls(stage, known) if known else few
            for again in range(1 if known else 2 if name == judged else 4):
                took = self._burst(stage, worker, program, calls, fill=name == filled and not again).microseconds
                if not known:
                    calls = self._calls(stage, max(1.0, took - idle[1] - idle[0] * calls) / calls)
            found[name] = calls
        return found, compile_s

    def _calls(self, stage: Stage, us: float) -> int:
        burst_us = 1e3 * self.settings.burst_ms
        return max(3 if us < 4 * burst_us else 1, min(stage.slots, round(burst_us / us)))

    @contextmanager
    def _room_beside(self) -> Iterator[None]:
        """There was room before the candidate began; if the judge's own values find none beside it, it took that."""
        try:
            yield
        except self._torch.OutOfMemoryError as error:
            raise Verdict(Status.CRASHED, f"left the judge too little of the device's memory: {error}"[:300]) from None

    def _has_room(self) -> None:
        """A worker that takes what the card has would have the judge fail in its place."""
        if self.settings.device == "cuda" and (free := self._torch.cuda.mem_get_info()[0] >> 20) < ROOM_MB:
            raise Verdict(Status.CRASHED, f"took the device's memory: {free} MB are left, {ROOM_MB} must be")

    def _profile(self, stage: Stage, worker: Worker, program: str) -> str:
        """Where a kernel's time goes, as its own process says: for the next prompt, never for a score."""
        self._burst(stage, worker, program, min(3, stage.slots), fill=True)
        worker.go()
        told = worker.ask(b"T", self.settings.compile_s, answer=PROFILE_BYTES)
        worker.stop()
        return profile_lines(bytes(told))

    def _returned(self, worker: Worker) -> None:
        """Lets a worker close the shared buffers before they are freed."""
        worker.go()
        worker.ask(b"B", self.settings.call_s, b"[]")
        worker.stop()

    def _was_left_alone(self, stage: Stage) -> None:
        """A kernel that writes where it was not sent, between its calls, could slow what paces it."""
        torch = self._torch
        before = torch.stack([part for slot in range(stage.slots) for part in stage.sums[slot]])
        after = [part for slot in range(stage.slots) for part in self._sums(stage, slot, stage.filled[slot])]
        if bool((before != torch.stack(after)).any()):
            raise Verdict(Status.WRONG, f"workload {_public(stage.workload)}: wrote into inputs of other calls")

    def _was_idle(self, bursts: Mapping[str, list[Burst]], judged: str) -> None:
        """A kernel that goes on while its process is stopped takes its share of the device from the probe."""
        if self.settings.device == "cpu":
            return
        usual = statistics.median(b.probe_us for name, found in bursts.items() if name != judged for b in found)
        after = statistics.median(b.probe_us for b in bursts[judged])
        if after > 1.5 * usual + 200:
            raise Verdict(
                Status.CHEATED,
                f"the device was busy while the worker was stopped: a probe took {after:.0f} us, otherwise {usual:.0f}",
            )

    def _burst(
        self,
        stage: Stage,
        worker: Worker,
        program: str,
        calls: int,
        *,
        fill: bool,
        within_s: float | None = None,
        keep: Collection[int] = (),
    ) -> Burst:
        """One timed burst: addresses to the worker, which is then stopped; values; the clock; the private copy.

        The outputs of the calls in `keep` are kept for the check.
        """
        torch, cuda = self._torch, self.settings.device == "cuda"
        within = within_s or self.settings.call_s
        slots = self._chance.sample(range(stage.slots), calls)
        # Who only paces reads the values that lie there: indices at a shifted address would be other numbers.
        offsets = [self._offsets(stage, slot) if fill else stage.filled[slot] for slot in slots]
        worker.go()
        about = {
            "program": program,
            "calls": [self._arguments(stage, k, o, bool(program)) for k, o in zip(slots, offsets)],
        }
        worker.ask(b"P", within, json.dumps(about).encode())
        worker.stop()
        draws: list[tuple[int, str]] = []
        sums: list[Any] = []
        with self._spending("fill"):
            if fill:
                for slot, offset in zip(slots, offsets):
                    seed, distribution = self._chance.getrandbits(62), self._chance.choice(DISTRIBUTIONS)
                    draws.append((seed, distribution))
                    sums += self._fill(stage, slot, offset, seed, distribution)
                if cuda:
                    torch.cuda.synchronize()
        probe_us = self._probe()
        began = time.perf_counter()
        worker.go()
        told = worker.ask(b"G", within, answer=8)
        for k in slots:
            for t, twin in enumerate(stage.private[k]):
                twin.copy_(stage.pool.tensors[stage.buffer(k, len(stage.inputs) + t)])
        if cuda:
            torch.cuda.synchronize()
        elapsed = 1e6 * (time.perf_counter() - began)
        worker.stop()
        if sums:
            after = [part for slot, offset in zip(slots, offsets) for part in self._sums(stage, slot, offset)]
            changed = torch.stack(sums) != torch.stack(after)
            if bool(changed.any()):
                name = list(stage.inputs)[int(changed.int().argmax()) % len(stage.inputs)]
                raise Verdict(Status.WRONG, f"workload {_public(stage.workload)}: wrote into its input '{name}'")
        for k in sorted(keep):
            copies = tuple(twin.clone() for twin in stage.private[slots[k]])
            stage.kept.append(Kept(*draws[k], offsets[k][len(stage.inputs) :], copies))
        return Burst(calls, elapsed, probe_us, claimed_us(told))

    def _offsets(self, stage: Stage, slot: int) -> tuple[int, ...]:
        """Where a call finds its tensors in the buffers of a slot: at addresses that no call before it had.

        So what a program keeps by address is never asked for again, and not only seldom.
        """
        found = []
        for tensor in range(len(stage.inputs) + len(stage.outputs)):
            buffer = stage.buffer(slot, tensor)
            while True:
                offset = SHIFT * self._chance.randrange(SHIFTS) + (GUARD if tensor >= len(stage.inputs) else 0)
                if (buffer, offset) not in stage.used:
                    break
            stage.used.add((buffer, offset))
            found.append(offset)
        return tuple(found)

    def _arguments(self, stage: Stage, slot: int, offsets: Sequence[int], trusted: bool) -> list[Any]:
        """What one call gets: [buffer, offset, dtype, shape] or a plain number; outputs too, unless `trusted`."""
        tensors = {
            name: [stage.buffer(slot, k), offsets[k], dtype, list(shape)]
            for k, (name, (shape, dtype)) in enumerate({**stage.inputs, **stage.outputs}.items())
        }
        inputs = [tensors[name] if name in stage.inputs else stage.scalars[name] for name in stage.order]
        return inputs if trusted else [*inputs, *(tensors[name] for name in stage.outputs)]

    def _view(self, stage: Stage, slot: int, tensor: int, offset: int, shape: Sequence[int], dtype: str) -> Any:
        raw = stage.pool.tensors[stage.buffer(slot, tensor)][offset : offset + nbytes(shape, dtype)]
        return raw.view(getattr(self._torch, dtype)).view(*shape)

    def _draw(self, workload: Workload, seed: int, distribution: str) -> dict[str, Any]:
        self._torch.manual_seed(seed)
        return self.task.inputs(workload, self.settings.device, distribution)

    def _fill(self, stage: Stage, slot: int, offsets: Sequence[int], seed: int, distribution: str) -> list[Any]:
        """New values for one call; returns the inputs' sums. Outputs become NaN (all bits set) with their guards."""
        drawn = self._draw(stage.workload, seed, distribution)
        for k, (name, (shape, dtype)) in enumerate(stage.inputs.items()):
            self._view(stage, slot, k, offsets[k], shape, dtype).copy_(drawn[name])
        for t in range(len(stage.outputs)):
            stage.pool.tensors[stage.buffer(slot, len(stage.inputs) + t)].fill_(255)
        stage.filled[slot] = tuple(offsets)
        stage.sums[slot] = self._sums(stage, slot, offsets)
        return stage.sums[slot]

    def _fill_all(self, stage: Stage) -> None:
        """Real values everywhere, for what paces and idles: one draw of each distribution, copied."""
        offsets = [0] * len(stage.inputs) + [GUARD] * len(stage.outputs)
        kinds = len(DISTRIBUTIONS)
        for slot in range(stage.slots):
            if slot < kinds:
                self._fill(stage, slot, offsets, slot, DISTRIBUTIONS[slot])
                continue
            for tensor in range(len(offsets)):
                source = stage.pool.tensors[stage.buffer(slot % kinds, tensor)]
                stage.pool.tensors[stage.buffer(slot, tensor)].copy_(source)
            stage.filled[slot], stage.sums[slot] = tuple(offsets), stage.sums[slot % kinds]

    def _sums(self, stage: Stage, slot: int, offsets: Sequence[int]) -> list[Any]:
        """The sum of every input's bytes or words, as tensors on the device: one transfer for a whole burst."""
        found = []
        for k, (shape, dtype) in enumerate(stage.inputs.values()):
            size = nbytes(shape, dtype)
            raw = stage.pool.tensors[stage.buffer(slot, k)][offsets[k] : offsets[k] + size]
            found.append((raw.view(self._torch.int64) if size % 8 == 0 else raw).sum(dtype=self._torch.int64))
        return found

    def _probe(self) -> float:
        if self.settings.device == "cpu":
            return 0.0
        torch = self._torch
        torch.cuda.synchronize()
        began = time.perf_counter()
        self._flush.fill_(self._chance.randrange(256))
        torch.cuda.synchronize()
        return 1e6 * (time.perf_counter() - began)

    # ----------------------------------------------------------------------------------------------------------- set-up

    @contextmanager
    def _staged(self, workload: Workload, slots: int | None = None) -> Iterator[Stage]:
        torch, s = self._torch, self.settings
        if s.device == "cuda" and not hasattr(self, "_flush"):
            self._flush = torch.empty(PROBE_MB << 20, dtype=torch.uint8, device="cuda")
        d = self.problem.definition
        sizes = d.sizes(workload.axes)
        if s.device == "cuda":
            torch.cuda.empty_cache()  # what a check has left must not stand in the way of the next buffers
        drawn = self._draw(workload, 0, "plain")
        inputs = {n: (tuple(v.shape), str(v.dtype)[6:]) for n, v in drawn.items() if hasattr(v, "shape")}
        scalars = {n: v for n, v in drawn.items() if not hasattr(v, "shape")}
        del drawn
        outputs = {n: (d.shape(spec, sizes), spec.dtype) for n, spec in d.outputs.items()}
        room = SHIFT * SHIFTS
        each = [nbytes(*x) + room for x in inputs.values()] + [nbytes(*x) + room + 2 * GUARD for x in outputs.values()]
        each = [-(-size // SHIFT) * SHIFT for size in each]
        room_b = s.pool_mb << 20
        longest = s.longest
        if self.frozen:  # no burst has more calls than one of a kernel at the limit
            longest = min(longest, math.ceil(1e3 * s.burst_ms / max(self.frozen[workload.uuid].limit_us, 1.0)) + 1)
        if s.device == "cuda":
            room_b = min(room_b, torch.cuda.get_device_properties(0).total_memory * 3 // 10)
        slots = slots or max(3, min(longest, room_b // sum(each)))
        try:
            shared = pool(s.device, each * slots)
            own = each[len(inputs) :]
            private = torch.empty(sum(own) * slots, dtype=torch.uint8, device=s.device).split(own * slots)
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise Verdict(Status.LOST, f"workload {workload.uuid}: {str(error)[:200]}") from None
        twins = [list(private[k * len(own) : (k + 1) * len(own)]) for k in range(slots)]
        del private
        stage = Stage(workload, slots, inputs, outputs, scalars, list(d.inputs), shared, twins)
        try:
            with self._spending("stage"):
                self._fill_all(stage)
            yield stage
        finally:
            stage.pool.close()
            stage.private.clear()

    def _the_trusted(self) -> Worker:
        """The judge's own worker, which lives as long as the judge: the idle one, and the reference in its variants."""
        if self._trusted is not None and self._trusted.turn.ending(0) is not None:
            self._end_trusted()
        if self._trusted is None:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="evo-reference-")))
            write_tree({"reference.py": self.problem.definition.reference}, folder)
            limits = dataclasses.replace(self.limits, wall_s=TRUSTED_S)
            self._trusted = self._start(folder, "reference.py", limits, trusted=True)
            self._stack.enter_context(self._trusted.turn)
            self._trusted.ask(b"r", self.settings.compile_s)
        return self._trusted

    def _start(self, program: Path, file: str, limits: Limits, *, trusted: bool) -> Worker:
        environment = {
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            **({"TRITON_INTERPRET": "1"} if self.settings.device == "cpu" else {}),
            **{name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES",) if name in os.environ},
            **_libcuda(),
        }
        started = self.sandbox.start(
            GUEST,
            program=program,
            guest=GUEST.parent,
            arguments=(file, self.settings.device),
            limits=limits,
            environment=environment,
        )
        return Worker(started, limits, trusted, self.on_card)

    # ------------------------------------------------------------------------------------------------------------ check

    def _check(self, workload: Workload, kept: Sequence[Kept]) -> None:
        """Compares kept outputs with the oracle; raises Verdict with the first thing that is wrong."""
        d = self.problem.definition
        sizes = d.sizes(workload.axes)
        for call in kept:
            drawn = self._draw(workload, call.seed, call.distribution)
            exact, reference = self.task.oracle(drawn), self.task.reference(drawn)
            for (name, spec), raw, offset, e, r in zip(d.outputs.items(), call.outputs, call.offsets, exact, reference):
                shape = d.shape(spec, sizes)
                end = offset + nbytes(shape, spec.dtype)
                if not bool((raw[:offset] == 255).all()) or not bool((raw[end:] == 255).all()):
                    raise Verdict(Status.WRONG, f"workload {_public(workload)}: wrote outside of its output '{name}'")
                found = raw[offset:end].view(getattr(self._torch, spec.dtype)).view(*shape)
                wrong = complaint(name, found, e, r, self.task.slack.get(name, SLACK), workload.tolerance)
                if wrong:
                    raise Verdict(Status.WRONG, f"workload {_public(workload)} ({call.distribution} values): {wrong}")


def profile_lines(told: bytes) -> str:
    """A worker's profile as text: names stripped to what names are made of, since they go into a prompt."""
    try:
        rows = json.loads(told)
        if isinstance(rows, str):
            return "no profile: " + re.sub(r"[^\w .:,()-]", "", rows)[:120]
        lines = []
        for name, us, times in rows[:8]:
            if not all(type(x) in (int, float) and 0 <= x < 1e9 for x in (us, times)):
                raise ValueError
            lines.append(f"  {us:9.1f} us in {times:g} of {re.sub(r'[^A-Za-z0-9_:]', '', name)[:60]}")
    except (ValueError, TypeError, RecursionError):
        return "no profile: what came was none"
    return "time of a call of the main workload, as the program's process says:\n" + "\n".join(lines)


def paced(then_us: float, now_us: float, noise: float) -> float:
    """The factor that takes a time measured now to the card's state when the baselines were frozen.

    A drift counts in so far as it is larger than the pacer's own `noise`, a relative standard error: drift^2 of
    drift^2 + noise^2 of it, so that a quiet card adds no scatter and no threshold lets a drift through.
    """
    drift = then_us / now_us - 1
    share = drift * drift / (drift * drift + noise * noise) if drift else 0.0
    return min(ADJUST[1], max(ADJUST[0], 1 + share * drift))


def _mean(bursts: Sequence[Burst]) -> Timing:
    each = [b.microseconds / b.calls for b in bursts]
    return Timing(statistics.median(each), 0.0, 0.0, tuple(bursts))


def _public(workload: Workload) -> str:
    return "hidden" if workload.hidden else workload.uuid


def _libcuda() -> dict[str, str]:
    """Where the driver's library lies: a sandbox cannot ask the loader's cache for it."""
    with open("/proc/self/maps") as maps:
        found = next((line.split()[-1] for line in maps if "libcuda.so" in line), None)
    return {"TRITON_LIBCUDA_PATH": os.path.dirname(found)} if found else {}


def hidden(settings: Settings, root: Path) -> tuple[Path, ...]:
    """Nothing beyond what no sandbox sees: oracles and hidden workloads lie beside the benchmark's program."""
    return ()


def judge_of(settings: Settings, limits: Limits, root: Path, sandbox: Sandbox) -> KernelJudge:
    return KernelJudge(settings, limits, root, sandbox)
