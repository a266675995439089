"""Judges training programs: trained in one sandbox, scored in a second, checked for looking ahead in a third.

On a GPU a sandbox without data compiles first. What it leaves behind is a lump of bytes to the judge, handed to later
sandboxes of the same program and to no other's, and nothing that has seen data can add to it.

The judge owns the clock, the data, the targets, the byte table, the row order, the log-softmax and the seeds. A program
is two files. `train.py` has `train(run)`: it builds what it likes, calls `run.open()` once, which returns the training
tokens and starts the clock, and `run.submit(tensors)` at least once. `model.py` has `load(run, tensors)`, which returns
`predict(tokens [B, t]) -> logits [B, t, vocabulary]`. evo/guests/training.py is the other end.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import random
import secrets
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from enum import Enum, auto
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evo.benchmark import UserMistake, read_tree, tree_hash
from evo.hostlock import turn as held_turn
from evo.judges import corpora
from evo.judges.corpus import Corpus, order, secret
from evo.judges.gpu import BUFFER_MB, Gpu, place
from evo.judges.loss import (
    Cuts,
    Floats,
    NotFinite,
    Windows,
    bits_per_byte,
    disagreement,
    equivalent_seconds,
    log_probabilities,
    nats_of,
)
from evo.judges.turns import SETTLING_S, Late, Verdict, Watch, how_it_ended, last_output
from evo.judges.wire import Closed, Foreign, Malformed, Peer, at_most, exactly, inspect_checkpoint, sealed
from evo.outcome import Outcome, Status
from evo.sandbox import Level, Limits, Sandbox, SandboxError, Turn

JUDGE_VERSION = "training-4"
# The first optimizer of a process imports torch._dynamo, a second that every evaluation would pay. The others
# are what torch and numpy import when they are first used for something: once the data is open it would be too late.
PRELOAD = ("numpy", "numpy.ctypeslib", "torch", "torch._dynamo", "torch.utils.serialization", "safetensors.torch")
PROOF = ("certify", "leave", "record")  # stages whose pairs and runs each get a fork server of their own
GUEST = Path(__file__).resolve().parent.parent / "guests" / "training.py"
SUBMITS = 256  # checkpoints of one run; more is flooding
TRUNCATED_SHARE = 8  # times the free scoring time; many small batches cost more than the few large ones
COMPILED_KEPT = 64  # programs whose compiled code is kept
COMPILERS = {"TORCHINDUCTOR_CACHE_DIR": "/scratch/compiled", "TRITON_CACHE_DIR": "/scratch/compiled/triton"}
NOT_FINITE = "scoring: expected finite logits, found NaN or infinity"
QUESTION = struct.Struct("<?II")  # only the last position is wanted, rows, columns; then the tokens


@dataclass(frozen=True)
class Settings:
    clock: str  # "cpu": CPU time of the program's process, all threads; "wall": the judge's monotonic clock
    objective: str  # "race": equivalent seconds; "budget": bits per byte
    window: int  # tokens in a window
    windows: int  # validation windows of one evaluation
    cap_s: float  # on the clock; a checkpoint that arrives later does not count
    checkpoint_kb: float
    score_s: float  # what scoring costs the base, private windows included, on the same clock
    device: str = "cpu"  # or "cuda": compiling ahead, logits through the device's memory, timed sections alone on it
    devices: int = 1  # that a race is meant for; on a host with fewer the largest of 1, 2, 4 that there is
    batch: int = 16  # windows that are answered at once
    score_slack: float = 1.5  # free scoring time is score_s x score_slack; what exceeds it is added, twice it is WRONG
    load_s: float | None = None  # free before the first answer, beyond an ordinary one; what exceeds it is added
    load_gb_s: float | None = None  # free beyond that for each GB of the checkpoint
    build_free_s: float | None = None  # on the clock, before the data opens; the rest is added; None: all is free
    gap: float | None = None  # bits per byte by which the private slice's loss may exceed the public one's
    private_windows: int = 64
    train_tokens: int | None = None  # None: the whole training part
    vocabulary: int = 1024
    corpus: str = "django"  # or "python-sources", or a path: evo/judges/corpora.py
    corpus_mb: float | None = None  # of training text that is prepared; None: all there is
    build_s: float = 60.0  # wall seconds for what happens before the data opens
    compile_s: float = 300.0  # wall seconds for compiling ahead, on a GPU
    compiled_mb: float = 512.0  # that it may leave behind
    threads: int = 1
    tolerance: float = 0.15  # nats, between log-probabilities of a truncated and of the whole window; bfloat16: 0.07
    target: float | None = None  # bits per byte, for a race
    slope: float | None = None  # -dL / d ln t of the base
    band: float | None = None

    def __post_init__(self) -> None:
        if self.clock not in ("cpu", "wall"):
            raise UserMistake(f"clock: expected cpu or wall, found '{self.clock}'")
        if self.device not in ("cpu", "cuda"):
            raise UserMistake(f"device: expected cpu or cuda, found '{self.device}'")
        if self.device == "cuda" and self.clock == "cpu":
            raise UserMistake("clock: expected wall with device = 'cuda', whose work takes no CPU time; found cpu")
        if self.device == "cuda" and self.batch * self.window * self.vocabulary * 4 > BUFFER_MB << 20:
            raise UserMistake(
                f"batch: expected logits of at most {BUFFER_MB} MB at once, found {self.batch} windows x {self.window} "
                f"tokens x {self.vocabulary} pieces x 4 bytes; take a smaller batch"
            )
        if self.objective not in ("race", "budget"):
            raise UserMistake(f"objective: expected race or budget, found '{self.objective}'")
        race = {"target": self.target, "slope": self.slope, "band": self.band}
        if self.objective == "race" and (missing := [name for name, value in race.items() if value is None]):
            raise UserMistake(f"objective race needs target, slope and band; missing: {', '.join(missing)}")
        if self.objective == "budget" and (extra := [name for name, value in race.items() if value is not None]):
            raise UserMistake(f"objective budget scores bits per byte alone; remove {', '.join(extra)}")
        if self.devices not in (1, 2, 4, 8):
            raise UserMistake(f"devices: expected 1, 2, 4 or 8, found {self.devices}")
        counts = ("window", "windows", "batch", "private_windows", "threads", "vocabulary")
        sizes = ("checkpoint_kb", "compiled_mb", "corpus_mb")
        times = ("cap_s", "score_s", "load_s", "load_gb_s", "score_slack", "build_s", "build_free_s", "compile_s")
        for name in (*counts, *sizes, *times, "tolerance", "slope"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserMistake(f"{name}: expected a number above 0, found {value}")

    @property
    def free_score_s(self) -> float:
        return self.score_s * self.score_slack

    def free_load_s(self, checkpoint_bytes: int) -> float:
        if self.load_s is None:
            return math.inf
        return self.load_s + (self.load_gb_s or 0.0) * checkpoint_bytes / 1e9


def rules(settings: Settings, limits: Limits, root: Path) -> list[str]:
    s = settings
    clock = "CPU time of the program's process, all threads" if s.clock == "cpu" else "wall time"
    found = [
        f"Time t is {clock}, in seconds from run.open() to the last byte of the checkpoint; a checkpoint that arrives "
        f"after {s.cap_s:g} s does not count. Checkpoint: at most {s.checkpoint_kb:,.0f} KB (of 1024 bytes) of named "
        "tensors: float64, 32, 16 and bfloat16, float8 (e4m3fn, e5m2), integers and bool.",
    ]
    if s.objective == "race":
        assert s.target is not None and s.slope is not None and s.band is not None
        found.append(
            f"Score: t * exp((L - {s.target:g}) / {s.slope:g}), L the validation loss in bits per byte. L above "
            f"{s.target + s.band:g} is WRONG; L below {s.target - s.band:g} counts as {s.target - s.band:g}, so that "
            "what it could still gain is time."
        )
    else:
        found.append(
            "Score: the validation loss in bits per byte, of the last checkpoint that arrived in time. With what is "
            f"added to t below, {s.cap_s:g} s is the limit, too; more is WRONG."
        )
    build = "free" if s.build_free_s is None else f"free for {s.build_free_s:g} s on that clock, beyond it added to t"
    large = "" if s.load_gb_s is None else f", and {s.load_gb_s:g} s for each GB of the checkpoint"
    load = "" if s.load_s is None else f" (its first answer: free for {s.load_s:g} s more{large})"
    found += [
        f"Before run.open(): building and compiling, {build}; at most {s.build_s:g} s by the wall clock."
        + (" From it on, and in load and predict, nothing can be imported or opened." if s.device == "cpu" else ""),
        f"The scored model answers {s.windows + s.private_windows} windows of at most {s.window} tokens over "
        f"{s.vocabulary} pieces, {s.batch} at once: free for {s.free_score_s:g} s{load}, beyond it added to t; twice "
        f"as much is WRONG. Logits at a position must not depend on later tokens nor on other rows (within "
        f"{s.tolerance:g} nats), and must be finite.",
        f"Threads: {s.threads} (run.threads). Python's standard library, numpy and torch are at hand"
        f"{', triton too' if s.device == 'cuda' else ''}.",
    ]
    if s.device == "cuda":
        found.append(
            f"Compiling ahead has a process of its own without data, {s.compile_s:g} s by the wall clock, and what it "
            f"leaves in the compilers' folders ({s.compiled_mb:g} MB) is at hand later."
        )
    if s.devices > 1:
        found.append(f"Devices: the largest of 1, 2, 4 and 8 that the host has, up to {s.devices}.")
    return found


@dataclass(frozen=True)
class _Submitted:
    """A checkpoint's bytes, and the clocks when the last of them had arrived, counted from the opening of the data."""

    data: bytearray
    cpu_s: float
    wall_s: float


class _Stop(Enum):
    """Why no further checkpoint is waited for."""

    RETURNED = auto()  # train(run) is done
    CLOSED = auto()  # the process has ended, or soon will have
    LATE = auto()


@dataclass
class TrainingJudge:
    """`secret` keeps row orders, cuts and the tokens' numbers from the candidate, who knows the seed."""

    settings: Settings
    limits: Limits
    root: Path
    sandbox: Sandbox
    corpus: Corpus
    gpu: Gpu | None = None
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(16), repr=False)

    def __post_init__(self) -> None:
        s = self.settings
        if s.clock == "cpu" and (self.limits.children or not _refuses_processes(self.sandbox.level)):
            raise UserMistake(
                "clock = 'cpu' needs new processes to be refused, because their time would go uncounted: expected "
                "children = false and a sandbox with seccomp; use that or a profile with clock = 'wall'"
            )
        if s.vocabulary != self.corpus.vocabulary:
            raise UserMistake(f"vocabulary: expected {self.corpus.vocabulary} as in the corpus, found {s.vocabulary}")
        try:
            public = Windows.cut(self.corpus.validation, s.windows, s.window)
            private = Windows.cut(self.corpus.private, s.private_windows, s.window)
        except ValueError as error:
            raise UserMistake(f"windows: {error}; ask for fewer or shorter ones") from error
        # Both slices go through the same pass in one shuffled order, so that a program cannot treat them differently.
        self._windows = Windows.join(public, private)
        self._writes = _write_speed() if s.clock == "cpu" else 0.0
        self._proving = "", 0  # the stage and seed that the fork server was started for
        self._device_name = dict(self.gpu.fingerprint()) if self.gpu is not None else {"device": _processor()}

    def judge(self, program: Path, *, stage: str, seed: int) -> Outcome:
        """Every stage is judged alike: a cheaper first look would be a second, luckier chance."""
        measures: dict[str, float] = {}
        try:
            if stage.startswith(PROOF) and self._proving != (stage, seed):
                self.sandbox.renew()  # for both sides of a pair: what memory layout adds is noise then, not a bias
                self._proving = stage, seed  # only now: a server that did not start is tried again with the task
            return self._judge(program, self._unforeseen(stage, seed), measures)
        except Verdict as verdict:
            return Outcome.failed(verdict.status, verdict.detail, **measures)
        except SandboxError as error:
            return Outcome.failed(Status.LOST, f"the sandbox could not be started: {error}", **measures)

    def _unforeseen(self, stage: str, seed: int) -> int:
        """The seed that a proof goes by, equal for both sides of a pair as the given one is.

        A run's seeds follow from its own and a genome's name: whoever writes a patch could change a comment until the
        seeds of its certification are lucky ones. The secret is not known to him.
        """
        if not stage.startswith(PROOF):
            return seed
        return int.from_bytes(hashlib.sha256(self.secret + f"proof {seed}".encode()).digest()[:4]) >> 1

    def fingerprint(self) -> Mapping[str, str]:
        return {
            "judge": JUDGE_VERSION,
            "corpus": self.corpus.hash,
            "settings": json.dumps(asdict(self.settings), sort_keys=True),
            "limits": json.dumps(asdict(self.limits), sort_keys=True),
            "sandbox": self.sandbox.level.name,
            **self._device_name,
            **{name: version(name) for name in ("torch", "numpy", "safetensors")},
        }

    def close(self) -> None:
        """The sandbox belongs to whoever made it."""
        if self.gpu is not None:
            self.gpu.close()

    def _judge(self, program: Path, seed: int, measures: dict[str, float]) -> Outcome:
        s = self.settings
        compiled = self._compiled(program, measures)
        began = time.monotonic()
        checkpoint, open_s = self._train(program, seed, compiled, measures)
        try:
            artifact = inspect_checkpoint(checkpoint)
        except Malformed as error:
            raise Verdict(Status.WRONG, f"checkpoint: {error}") from error
        passes_s = self._score(program, seed, checkpoint, measures)
        # Beyond the data phase and the scoring passes: starting, building, reaping, checking, arithmetic.
        measures["overhead_s"] = time.monotonic() - began - open_s - passes_s
        loss = measures["loss"]
        if s.objective == "budget":
            return Outcome.passed(loss, measures=measures, artifact=artifact)
        assert s.target is not None and s.slope is not None and s.band is not None
        score = equivalent_seconds(measures["seconds"], loss, target=s.target, slope=s.slope, band=s.band)
        if score is None:
            edge = f"target + band = {s.target:g} + {s.band:g}"
            raise Verdict(Status.WRONG, f"loss {loss:.4f} bits per byte is above {edge}: not trained far enough")
        return Outcome.passed(score, measures=measures, artifact=artifact)

    # Compiling ahead.

    def prepare(self, program: Path) -> None:
        """Compiles what will be judged. A failure is no verdict: `judge` meets it again and says so."""
        with contextlib.suppress(Verdict, SandboxError):
            self._compiled(program, {})

    def _compiled(self, program: Path, measures: dict[str, float]) -> bytes | None:
        """What compilers have made of this very program, kept for its next evaluations; None without a GPU."""
        if self.gpu is None:
            return None
        s = self.settings
        key = json.dumps([tree_hash(read_tree(program)), s.window, s.vocabulary, version("torch"), self._device_name])
        kept = place() / "compiled" / hashlib.sha256(key.encode()).hexdigest()
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        began = time.monotonic()
        # Whoever comes second waits for what the first one makes.
        with held_turn(alone=True, folder=place() / f"compiling-{kept.name[:16]}"):
            with contextlib.suppress(FileNotFoundError):
                made = kept.read_bytes()
                os.utime(kept)
                return made
            return self._keep(self._compile(program), kept, measures, began)

    def _keep(self, made: bytes, kept: Path, measures: dict[str, float], began: float) -> bytes:
        measures["compile_s"] = time.monotonic() - began
        with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as file:
            file.write(made)
        os.replace(file.name, kept)
        for old in sorted(kept.parent.iterdir(), key=lambda path: path.stat().st_mtime)[:-COMPILED_KEPT]:
            old.unlink(missing_ok=True)
        return made

    def _compile(self, program: Path) -> bytes:
        s = self.settings
        with self._start(program, "compile", 0, keep_output=True) as turn:
            began = time.monotonic()
            watch = Watch(turn, self.limits, lambda: time.monotonic() - began, s.compile_s)
            try:
                return bytes(Peer(turn.channel).receive({b"B": at_most(int(s.compiled_mb * 2**20))}, watch).payload)
            except Late:
                raise Verdict(
                    Status.TIMEOUT, f"compiling took more than {s.compile_s:g} s{last_output(turn)}"
                ) from None
            except Closed:
                raise how_it_ended(turn, self.limits, "while compiling, before run.open() was called") from None
            except Foreign as error:
                raise Verdict(Status.WRONG, f"while compiling: {error}") from None

    # The first sandbox with data.

    def _train(
        self, program: Path, seed: int, compiled: bytes | None, measures: dict[str, float]
    ) -> tuple[bytes, float]:
        """The checkpoint that counts, and how long the data was open on the wall."""
        s = self.settings
        with contextlib.ExitStack() as held:
            with self._device(alone=False):
                turn = held.enter_context(self._start(program, "train", seed, keep_output=True))
                held.callback(lambda: measures.update(peak_mb=turn.peak_mb()))
                peer = Peer(turn.channel)
                stream = self._ready(turn, peer, seed, compiled, measures)
                extra_s = self._built(turn, measures)
                turn.shut()  # nothing learned from here on can be noted in the kernel's memory for another run
            with sealed(stream.data) as fd, self._device(alone=True), self._watched(measures):
                began = time.monotonic()
                last, stop = self._collect(turn, peer, fd, measures)
                open_s = time.monotonic() - began
            ending = turn.ending(SETTLING_S if stop is _Stop.CLOSED else 0)
            if ending is not None and ending.kind == "output":
                raise how_it_ended(turn, self.limits, "while training")
            if last is None:
                raise self._without_checkpoint(turn, stop)
        measures.update(cpu_s=last.cpu_s, wall_s=last.wall_s, checkpoint_mb=len(last.data) / 2**20)
        measures["seconds"] = extra_s + (last.cpu_s if s.clock == "cpu" else last.wall_s)
        return bytes(last.data), open_s

    def _device(self, *, alone: bool) -> AbstractContextManager[None]:
        return self.gpu.turn(alone=alone) if self.gpu is not None else contextlib.nullcontext()

    def _watched(self, measures: dict[str, float]) -> AbstractContextManager[None]:
        return self.gpu.watched(measures) if self.gpu is not None else contextlib.nullcontext()

    def _without_checkpoint(self, turn: Turn, stop: _Stop) -> Verdict:
        if stop is _Stop.CLOSED:
            return how_it_ended(turn, self.limits, "without a checkpoint")
        if stop is _Stop.RETURNED:
            return Verdict(Status.CRASHED, f"train(run) returned without a checkpoint{last_output(turn)}")
        limit = f"{self.settings.cap_s:g} s of {self.settings.clock} time or {self.limits.wall_s:g} s in all"
        return Verdict(Status.TIMEOUT, f"no checkpoint within {limit}{last_output(turn)}")

    def _ready(
        self, turn: Turn, peer: Peer, seed: int, compiled: bytes | None, measures: dict[str, float]
    ) -> NDArray[np.uint16]:
        """Waits until the program asks for the data, and prepares its order meanwhile."""
        s = self.settings
        began = time.monotonic()
        stream = self._numbers(seed)[order(self.corpus.train[: s.train_tokens], seed)]
        watch = Watch(turn, self.limits, lambda: time.monotonic() - began, s.build_s)
        try:
            if compiled is not None:
                with sealed(compiled) as fd:
                    peer.send(b"C", watch, fd=fd)
            peer.receive({b"R": exactly(0)}, watch)
        except Late:
            raise Verdict(
                Status.TIMEOUT, f"run.open() was not called within {s.build_s:g} s{last_output(turn)}"
            ) from None
        except Closed:
            raise how_it_ended(turn, self.limits, "before run.open() was called") from None
        except Foreign as error:
            raise Verdict(Status.WRONG, f"before run.open(): {error}") from None
        measures["build_s"] = time.monotonic() - began
        return stream

    def _built(self, turn: Turn, measures: dict[str, float]) -> float:
        """What is to be added for building. Without the data it buys little, but a processor's minute of it would buy a
        model of whatever other text the program carries or finds."""
        s = self.settings
        if s.clock == "cpu":
            measures["build_s"] = turn.cpu_seconds()
        return max(0.0, measures["build_s"] - s.build_free_s) if s.build_free_s is not None else 0.0

    def _numbers(self, seed: int) -> NDArray[np.uint16]:
        """The number of each token in this evaluation: a program that knows the text, or a table of it, from elsewhere
        would first have to find out which token is which. The separator, the last one, keeps its place."""
        chance = random.Random(hashlib.sha256(self.secret + f"numbers {seed}".encode()).digest())
        last = self.settings.vocabulary - 1
        return np.array([*chance.sample(range(last), last), last], "<u2")

    def _collect(self, turn: Turn, peer: Peer, fd: int, measures: dict[str, float]) -> tuple[_Submitted | None, _Stop]:
        """Opens the data and keeps the last checkpoint that came in time; nothing is told back."""
        s = self.settings
        last, count = None, 0
        sizes = {b"K": at_most(int(s.checkpoint_kb * 1024)), b"F": exactly(0)}
        cpu_began, wall_began = turn.cpu_seconds(), time.monotonic()

        def stamp() -> tuple[float, float]:
            return turn.cpu_seconds() - cpu_began, time.monotonic() - wall_began

        def clock() -> float:
            return stamp()[s.clock == "wall"]

        watch = Watch(turn, self.limits, clock, s.cap_s)
        try:
            peer.expect_silence()  # a checkpoint that was on its way already would take no time at all
            peer.send(b"D", watch, fd=fd)
            while (frame := peer.receive(sizes, watch)).kind == b"K":
                cpu_s, wall_s = stamp()
                if (wall_s if s.clock == "wall" else cpu_s) > s.cap_s:
                    return last, _Stop.LATE
                last, count = _Submitted(frame.payload, cpu_s, wall_s), count + 1
                measures["submits"] = float(count)
                if count > SUBMITS:
                    raise Verdict(Status.WRONG, f"expected at most {SUBMITS} checkpoints, found more")
        except Foreign as error:
            raise Verdict(Status.WRONG, f"checkpoint: {error}") from None
        except Late:
            return last, _Stop.LATE
        except Closed:
            return last, _Stop.CLOSED
        return last, _Stop.RETURNED

    # The second and the third, which see neither training data nor each other.

    def _score(self, program: Path, seed: int, checkpoint: bytes, measures: dict[str, float]) -> float:
        """Measures the losses and adds excess time in scoring to `seconds`; returns the wall time of both passes."""
        s = self.settings
        chance = random.Random(hashlib.sha256(self.secret + str(seed).encode()).digest())
        cuts = Cuts.draw(len(self._windows), s.window, chance)
        numbers = self._numbers(seed)
        windows = self._windows.renumbered(numbers)
        token_bytes = np.empty_like(self.corpus.token_bytes)
        token_bytes[numbers] = self.corpus.token_bytes
        # One after the other, although both could build at once: two that run together can signal through the load.
        # Each has a file of its own: attributes and offset of a shared one would carry windows from one to the other.
        with self._device(alone=False), sealed(checkpoint) as fd, self._scoring(program, seed) as turn:
            first = _Scorer(s, self.limits, turn, self.gpu)
            nats, whole = self._whole_windows(first, fd, windows, cuts, chance)
        with self._device(alone=False), sealed(checkpoint) as fd, self._scoring(program, seed) as turn:
            second = _Scorer(s, self.limits, turn, self.gpu)
            truncated = self._truncated_windows(second, fd, windows, cuts, chance)
        loads_s = [first.load_s]
        if s.clock == "wall":
            # What must be done before the first answer is done in both processes, since all answers must agree; a
            # device that was busy with another's is not.
            loads_s.append(second.load_s)
        measures.update(score_s=first.used_s, load_s=min(loads_s))
        if self._writes:
            # Tokens per second against the machine's peak: logits cannot take less than writing them once takes.
            measures["answer_peaks"] = first.used_s * self._writes / (windows.inputs.size * s.vocabulary * 4)
        targets = windows.targets
        loss = bits_per_byte(nats[: s.windows], targets[: s.windows], token_bytes)
        private = bits_per_byte(nats[s.windows :], targets[s.windows :], token_bytes)
        if not math.isfinite(loss + private):
            raise Verdict(Status.WRONG, "the loss is not finite: a token that occurs has probability 0")
        at_cuts = targets[np.arange(len(targets)), cuts.last_shown]
        if complaint := disagreement(whole, truncated, at_cuts, s.tolerance):
            raise Verdict(Status.WRONG, complaint)
        measures.update(loss=loss, private_loss=private, gap=private - loss)
        if s.gap is not None and private - loss > s.gap:
            raise Verdict(
                Status.WRONG,
                f"gap test: loss on the private text is {private - loss:+.4f} bits per byte from that on the "
                f"validation text, expected at most {s.gap:+g}: the program knows that one by heart",
            )
        measures["seconds"] += first.extra_s(len(checkpoint), min(loads_s))
        if s.objective == "budget" and measures["seconds"] > s.cap_s:
            raise Verdict(
                Status.WRONG,
                f"{measures['seconds']:.3g} s of {s.cap_s:g} s, with building and scoring beyond the free part: "
                "over the budget; hand over earlier, or do less before the data opens and before the first answer",
            )
        return first.wall_s + second.wall_s

    def _whole_windows(
        self, scorer: _Scorer, fd: int, windows: Windows, cuts: Cuts, chance: random.Random
    ) -> tuple[NDArray[np.float64], Floats]:
        """Nats per target [N, T], and the log-probabilities [N, V] at every window's cut."""
        s = self.settings
        inputs, targets = windows.inputs, windows.targets
        rows = np.array(chance.sample(range(len(inputs)), len(inputs)))
        batches = [(rows[i : i + s.batch], s.window) for i in range(0, len(rows), s.batch)]
        nats = np.empty(targets.shape)
        at_cuts = np.empty((len(inputs), s.vocabulary), np.float32)
        answers = scorer.answers(fd, inputs, batches, targets, cuts.last_shown, limit=2 * s.free_score_s)
        for batch, nats_there, log_p in answers:
            nats[batch], at_cuts[batch] = nats_there, log_p
        return nats, at_cuts

    def _truncated_windows(
        self, scorer: _Scorer, fd: int, windows: Windows, cuts: Cuts, chance: random.Random
    ) -> Floats:
        """The log-probabilities [N, V] at every window's cut, from windows that end there."""
        s = self.settings
        groups = chance.sample(cuts.groups, len(cuts.groups))
        found = np.empty((len(windows), s.vocabulary), np.float32)
        limit = TRUNCATED_SHARE * s.free_score_s
        for rows, _, log_p in scorer.answers(fd, windows.inputs, groups, None, None, limit=limit):
            found[rows] = log_p
        return found

    def _scoring(self, program: Path, seed: int) -> AbstractContextManager[Turn]:
        if self.gpu is not None:
            self.gpu.wipe()
        return self._start(program, "score", seed, keep_output=False)

    @contextmanager
    def _start(self, program: Path, role: str, seed: int, *, keep_output: bool) -> Iterator[Turn]:
        s, gpu = self.settings, self.gpu
        about: dict[str, object] = {"seed": seed, "vocabulary": s.vocabulary, "window": s.window, "threads": s.threads}
        about.update(device=s.device, clock=s.clock, seconds=s.cap_s, compiled=gpu is not None)
        about.update(shards=s.devices, devices=s.devices if gpu is None else len(gpu.devices))
        environment: dict[str, str] = {}
        if gpu is not None:
            environment = {**COMPILERS, "CUDA_VISIBLE_DEVICES": gpu.visible}
            if role == "score":
                about.update(handle=gpu.handle, buffer=BUFFER_MB << 18)
        with gpu.tenant() if gpu is not None else contextlib.nullcontext():
            started = self.sandbox.start(
                GUEST,
                program=program,
                guest=GUEST.parent,
                arguments=(role, json.dumps(about)),
                limits=self.limits,
                keep_output=keep_output,
                environment=environment,
                shuts=gpu is None,  # CUDA loads its kernels when they are first called
            )
            with started as turn:
                yield turn


@dataclass
class _Scorer:
    """One scoring process.

    It has seen validation text, so what it does wrong is told in sentences of a closed list: no word of its own may
    reach a journal or a prompt.
    """

    settings: Settings
    limits: Limits
    turn: Turn
    gpu: Gpu | None = None
    built_s: float = 0.0  # on the profile's clock, until it asked for the checkpoint
    used_s: float = 0.0  # from the hand-over of the checkpoint to the last answer
    load_s: float = 0.0  # of this what the first answer took longer than the median of the others
    wall_s: float = 0.0  # the same on the wall

    def answers(
        self,
        fd: int,
        inputs: NDArray[np.uint16],
        batches: Sequence[tuple[NDArray[np.int64], int]],
        targets: NDArray[np.uint16] | None,
        at: NDArray[np.int64] | None,
        *,
        limit: float,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], Floats]]:
        """Hands over the checkpoint and yields (rows, nats, log-probabilities) for every (rows, t) of `batches`.

        With `targets` and `at` [N] the nats of all targets, [rows, t], and the log-probabilities [rows, V] at each
        row's position `at`. Without them the last positions are asked for alone: no nats, and their log-probabilities.

        Where answers come through the channel, the next question is sent before one is worked on, so that both
        processes work, but after it has been read, so that neither can wait for the other to read first. In a GPU's
        memory the next answer takes the place of the last, and what the judge computes meanwhile is not counted.
        """
        s, peer, only_last = self.settings, Peer(self.turn.channel), targets is None
        began = time.monotonic()
        building = Watch(self.turn, self.limits, lambda: time.monotonic() - began, s.build_s)
        with self._sentences("importing model.py", Status.TIMEOUT, f"{s.build_s:g} s"):
            peer.receive({b"R": exactly(0)}, building)
        self.turn.shut()
        self.built_s = self.turn.cpu_seconds() if s.clock == "cpu" else time.monotonic() - began
        clock, opened, own_s = self._clock(), time.monotonic(), 0.0
        answered: list[float] = []
        watch = Watch(self.turn, self.limits, clock, limit)
        sizes = [len(rows) * (1 if only_last else columns) * s.vocabulary * 4 for rows, columns in batches]
        with self._sentences("answering", Status.WRONG, f"{limit:.3g} s, twice what is free"):
            peer.send(b"C", watch, fd=fd)
            peer.send(b"W", watch, _question(inputs, batches[0], only_last))
            for number, (rows, _) in enumerate(batches):
                frame = peer.receive({b"L": exactly(0 if self.gpu else sizes[number])}, watch)
                self.used_s, self.wall_s = clock() - own_s, time.monotonic() - opened
                if self.used_s > limit:
                    raise Late
                answered.append(self.used_s)
                following = _question(inputs, batches[number + 1], only_last) if number + 1 < len(batches) else b""
                if following and self.gpu is None:
                    peer.send(b"W", watch, following)
                shown = None if targets is None else targets[rows]
                places = np.zeros(len(rows), np.int64) if at is None else at[rows]
                paused = time.monotonic()
                if self.gpu is None:
                    logits = np.frombuffer(frame.payload, "<f4").reshape(len(rows), -1, s.vocabulary)
                    log_p = _checked(logits)
                    nats = np.empty((0, 0)) if shown is None else nats_of(log_p, shown)
                    yield rows, nats, log_p[np.arange(len(rows)), places]
                else:
                    columns = 1 if shown is None else shown.shape[1]
                    yield rows, *self._on_device(self.gpu, len(rows), columns, shown, places)
                    own_s += time.monotonic() - paused
                    if following:
                        peer.send(b"W", watch, following)
        self.load_s = max(0.0, answered[0] - float(np.median(np.diff(answered)))) if len(answered) > 1 else 0.0

    def extra_s(self, checkpoint_bytes: int, load_s: float) -> float:
        """What is added to the time of training. Training that is moved here must be over before the first answer,
        since all answers have to agree with those of the other process: so the first one is looked at by itself.
        A larger checkpoint may take longer, but its bytes have cost more than that on the clock already."""
        s = self.settings
        built = max(0.0, self.built_s - s.build_free_s) if s.build_free_s is not None else 0.0
        if s.load_s is None:
            return built + max(0.0, self.used_s - s.free_score_s)
        late = max(0.0, load_s - s.free_load_s(checkpoint_bytes))
        return built + late + max(0.0, self.used_s - self.load_s - s.free_score_s)

    def _on_device(
        self, gpu: Gpu, rows: int, columns: int, targets: NDArray[np.uint16] | None, at: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], Floats]:
        try:
            return gpu.log_probabilities(rows, columns, self.settings.vocabulary, targets, at)
        except NotFinite:
            raise Verdict(Status.WRONG, NOT_FINITE) from None

    def _clock(self) -> Callable[[], float]:
        if self.settings.clock == "wall":
            began = time.monotonic()
            return lambda: time.monotonic() - began
        cpu_began = self.turn.cpu_seconds()
        return lambda: self.turn.cpu_seconds() - cpu_began

    @contextmanager
    def _sentences(self, doing: str, late: Status, limit: str) -> Iterator[None]:
        try:
            yield
        except Late:
            raise Verdict(late, f"scoring: took more than {limit} for {doing}") from None
        except Closed:
            ending = self.turn.ending(SETTLING_S)
            if ending is not None and ending.kind in ("wall", "lost"):
                raise how_it_ended(self.turn, self.limits, f"while {doing}", quiet=True) from None
            raise Verdict(Status.CRASHED, f"scoring: the process ended while {doing}") from None
        except Foreign:
            raise Verdict(
                Status.WRONG,
                f"scoring: expected logits [B, t, {self.settings.vocabulary}] while {doing}, found another size",
            ) from None


def _refuses_processes(level: Level) -> bool:
    return any(layer.name == "syscalls" and layer.holds for layer in level.layers)


def _question(inputs: NDArray[np.uint16], batch: tuple[NDArray[np.int64], int], only_last: bool) -> bytes:
    rows, columns = batch
    return QUESTION.pack(only_last, len(rows), columns) + inputs[rows, :columns].tobytes()


def _checked(logits: Floats) -> Floats:
    try:
        return log_probabilities(logits)
    except NotFinite:
        raise Verdict(Status.WRONG, NOT_FINITE) from None


def _write_speed() -> float:
    """Bytes that one thread of this machine writes a second at its best, into memory that no core caches."""
    room = np.empty(1 << 23, np.float32)
    took = []
    for value in range(6):
        began = time.thread_time()
        room.fill(value)
        took.append(time.thread_time() - began)
    return room.nbytes / min(took[1:])


def _processor() -> str:
    """The processor's name as the kernel gives it: CPU seconds of different models do not compare."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def opened(settings: Settings, root: Path) -> Corpus:
    return corpora.open(settings.corpus, root, vocabulary=settings.vocabulary, megabytes=settings.corpus_mb)


def hidden(settings: Settings, root: Path) -> tuple[Path, ...]:
    """What no sandbox may see: the files that hold validation text."""
    return opened(settings, root).masked


def judge_of(settings: Settings, limits: Limits, root: Path, sandbox: Sandbox) -> TrainingJudge:
    gpu = Gpu(settings.devices) if settings.device == "cuda" else None
    return TrainingJudge(settings, limits, root, sandbox, opened(settings, root), gpu, secret())
