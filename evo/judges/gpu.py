"""The judge's side of a CUDA device: a buffer that a candidate writes its logits into, and what the device reports.

torch is imported when a device is opened. The buffer is the judge's own allocation, and alone in it: an exported
handle covers a whole allocation. Whatever a candidate has written there is copied before anything is computed from it.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import math
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo.benchmark import UserMistake
from evo.hostlock import meeting_place, turn
from evo.judges.loss import Floats, NotFinite, Tokens
from evo.sandbox import SandboxError

BUFFER_MB = 1100  # 16 windows of 2,048 tokens and 8,192 pieces in float32
CHUNK_BYTES = 1 << 28  # of logits that are worked on at once; with its copies it needs less than four times that
SLACK_MB = 256  # between two readings of free memory that count as equal
CLEAN_S = 10.0  # a killed program's 40 GB were seen to be back after 0.11 s
SAMPLE_MS = 200
FIELDS = ("memory.used", "utilization.gpu", "clocks.sm", "power.draw", "clocks_event_reasons.active")
IDLE_REASONS = 0x1 | 0x2  # of clocks_event_reasons: idle, and clocks set by an application; the others slow work down


def place() -> Path:
    """Where judges of this user on this host meet: seats, locks, compiled code."""
    return meeting_place("gpu")


def on_host() -> list[str]:
    """The devices that this process may use, as CUDA_VISIBLE_DEVICES or else the kernel names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return sorted((path.name[6:] for path in Path("/dev").glob("nvidia[0-9]*")), key=int)


class Seat:
    """Judges sit down at a host's devices one after the other, each at `count` of them, and round again."""

    def __init__(self, devices: list[str], count: int) -> None:
        for number in itertools.count():
            file = open(place() / f"seat{number}-{count}", "w")  # noqa: SIM115  as long as the judge
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            break
        self.file = file
        first = number * count % len(devices)
        self.devices = devices[first : first + count]

    def leave(self) -> None:
        self.file.close()


class Gpu:
    """One or several devices, opened by the judge's process. Logits come through the first one."""

    def __init__(self, most: int = 1) -> None:
        devices = on_host()
        count = next((n for n in (8, 4, 2, 1) if n <= min(most, len(devices)) and most % n == 0), 0)
        if not count:
            raise UserMistake("device = 'cuda': expected a CUDA device, found none; use another --profile")
        self._seat = Seat(devices[: len(devices) // count * count], count)
        self.devices = self._seat.devices
        self.visible = os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(self.devices)
        try:
            import torch
        except ImportError as error:
            raise UserMistake(f"device = 'cuda' needs torch: {error}") from None
        if not torch.cuda.is_available():
            raise UserMistake("device = 'cuda': expected a CUDA device, found none; use another --profile")
        self._torch = torch
        torch.zeros(1, device="cuda")  # makes the context that the driver calls below work in
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(self._address), ctypes.c_size_t(BUFFER_MB << 20))
        handle = (ctypes.c_char * 64)()
        self._call("cuIpcGetMemHandle", ctypes.byref(handle), self._address)
        self.handle = bytes(handle).hex()
        interface = {"shape": (BUFFER_MB << 18,), "typestr": "<f4", "data": (self._address.value, False), "version": 3}
        self._buffer = torch.as_tensor(_Memory(interface), device="cuda")
        self._buffer.fill_(0)
        self.log_probabilities(1, 1, 2, np.zeros((1, 1), np.uint16), np.zeros(1, np.int64))  # loads its kernels

    def _call(self, name: str, *arguments: Any) -> None:
        result = getattr(self._driver, name)(*arguments)
        if result != 0:
            raise SandboxError(f"{name} failed with CUDA error {result}")

    def close(self) -> None:
        self._seat.leave()
        del self._buffer
        self._call("cuMemFree_v2", self._address)

    def fingerprint(self) -> Mapping[str, str]:
        torch = self._torch
        return {
            "device": torch.cuda.get_device_name(),
            "devices": str(len(self.devices)),
            "driver": self._smi("driver_version"),
            "cuda": str(torch.version.cuda),
        }

    # logits

    def wipe(self) -> None:
        """Before a process gets the handle: it must find nothing of an earlier one's answers."""
        self._buffer.fill_(math.nan)
        self._torch.cuda.synchronize()

    def log_probabilities(
        self, rows: int, columns: int, vocabulary: int, targets: Tokens | None, at: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], Floats]:
        """From the logits [rows, columns, vocabulary] that lie in the buffer: nats of `targets` [rows, columns], empty
        without them, and the log-probabilities [rows, vocabulary] at one position `at` [rows] of each row.

        Float32, in chunks, each copied first. Raises `NotFinite`.
        """
        torch = self._torch
        logits = self._buffer[: rows * columns * vocabulary].view(rows * columns, vocabulary)
        wanted = None if targets is None else torch.from_numpy(targets.astype(np.int64)).to("cuda").flatten()
        places = torch.from_numpy(np.arange(rows) * columns + at).to("cuda")
        nats = np.empty(0 if targets is None else rows * columns)
        found = torch.empty(rows, vocabulary, device="cuda")
        step = max(1, CHUNK_BYTES // (4 * vocabulary))
        for first in range(0, rows * columns, step):
            own = logits[first : first + step].clone()
            if not bool(torch.isfinite(own.sum(dim=-1, dtype=torch.float64)).all()):
                raise NotFinite
            own -= torch.logsumexp(own, dim=-1, keepdim=True)
            if wanted is not None:
                taken = own.gather(-1, wanted[first : first + step, None])[:, 0]
                nats[first : first + step] = -taken.double().cpu().numpy()
            inside = (places >= first) & (places < first + len(own))
            found[inside] = own[places[inside] - first]
        return nats.reshape(-1 if targets is None else rows, columns), found.cpu().numpy()

    # memory

    def free_mb(self) -> float:
        """Without what torch keeps for this process's own next allocation."""
        self._torch.cuda.empty_cache()
        return float(self._torch.cuda.mem_get_info()[0]) / 2**20

    @contextmanager
    def tenant(self) -> Iterator[None]:
        """Around one process in the sandbox that uses the device: what it took must be back after it.

        Other workers' programs come and go meanwhile, so memory that is missing convicts only where this one was alone.
        """
        with self._locked("tenants", alone=False):
            before = self.free_mb()
            yield
        late = time.monotonic() + CLEAN_S
        while (missing := before - self.free_mb()) > SLACK_MB:
            if time.monotonic() > late:
                break
            time.sleep(0.02)
        else:
            return
        if all(_empty(place() / f"tenants-{device}") for device in self.devices):
            raise SandboxError(f"{missing:.0f} MB of the GPU's memory did not come back after a program had ended")

    @contextmanager
    def turn(self, *, alone: bool) -> Iterator[None]:
        """Timed sections have the device alone; building and scoring share it with each other, never with those."""
        with self._locked("turn", alone=alone):
            yield

    @contextmanager
    def _locked(self, what: str, *, alone: bool) -> Iterator[None]:
        """Every device's own lock, in their order."""
        with ExitStack() as held:
            for device in self.devices:
                held.enter_context(turn(alone=alone, folder=place() / f"{what}-{device}"))
            yield

    def _smi(self, field: str) -> str:
        if shutil.which("nvidia-smi") is None:
            return "unknown"
        command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader", "-i", self.devices[0]]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    # what it reports

    @contextmanager
    def watched(self, measures: dict[str, float]) -> Iterator[None]:
        """Measures of the device during the block: peak memory (everybody's), busy share, clock, power, throttling."""
        with tempfile.TemporaryFile("w+") as log:
            command = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
            try:
                process = subprocess.Popen([*command, "-i", self.devices[0], "-lms", str(SAMPLE_MS)], stdout=log)
            except OSError:
                yield  # a machine without the tool: no measures, no reason not to judge
                return
            try:
                yield
            finally:
                process.terminate()
                process.wait()
                log.seek(0)
                measures.update(readings(log.read()))


class _Memory:
    """What torch wraps as a tensor without owning it."""

    def __init__(self, interface: dict[str, Any]) -> None:
        self.__cuda_array_interface__ = interface


def readings(text: str) -> dict[str, float]:
    """Measures from the lines of nvidia-smi; the first and the last are dropped, since they lie across an edge."""
    lines = [line.split(", ") for line in text.splitlines()]
    rows = [line for line in lines if len(line) == len(FIELDS) and "N/A" not in " ".join(line)][1:-1]
    if not rows:
        return {}
    memory, busy, clock, power = (np.array([float(row[k]) for row in rows]) for k in range(4))
    slowed = [int(row[4], 16) & ~IDLE_REASONS != 0 for row in rows]
    return {
        "gpu_peak_mb": float(memory.max()),
        "gpu_busy": float(busy.mean()) / 100,
        "gpu_mhz": float(clock.mean()),
        "gpu_watts": float(power.mean()),
        "gpu_slowed": float(np.mean(slowed)),
    }


def _empty(folder: Path) -> bool:
    """Whether nobody holds a shared turn in `folder` right now."""
    with open(folder / "room", "w") as room:
        try:
            fcntl.flock(room, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
