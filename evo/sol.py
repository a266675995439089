"""The hardware's limit and the score against it: device profiles, T_SOL, S. Pure; nothing here touches a device.

S = 1 / (1 + (T_k - T_SOL) / (T_b - T_SOL)) is SOL-ExecBench's score: 0.5 at the baseline's time, 1 at the limit. It is
clamped to [0, 1] here (theirs exceeds 1, and has a pole, for times below the limit), and a time under `FLOOR` of the
limit is not a score but a question for a person.
"""

from __future__ import annotations

import statistics
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evo.benchmark import SHIPPED, UserMistake, settings

DEVICES = SHIPPED / "sol" / "devices"
FLOOR = 0.95  # of T_SOL: below it a time is not believed
VACUOUS_US = 5.0  # a limit below this is under what a launch costs
VACUOUS_RATIO = 100.0  # a limit so far under the baseline says nothing about a kernel
RATES = ("fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "int8")


@dataclass(frozen=True)
class Device:
    """One kind of GPU. Datasheet figures (dense, without sparsity) make the limit: no program beats them.

    What was measured on one card is for diagnosis ("92% of what a copy reaches") and never enters a score.
    """

    name: str
    version: int
    matches: tuple[str, ...]  # what torch.cuda.get_device_name() says
    sms: int
    l2_mb: float
    memory_tbs: float  # datasheet, TB/s
    tflops: Mapping[str, float]  # datasheet, dense, by dtype
    source: str
    measured: Mapping[str, float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := set(self.tflops) - set(RATES):
            raise UserMistake(f"device {self.name}: unknown rates {sorted(unknown)}; valid are {', '.join(RATES)}")

    def rate(self, dtype: str) -> float:
        """Operations a second. float32 may also be made of three TF32 products, so a third of that rate bounds it."""
        if dtype not in self.tflops:
            raise UserMistake(f"{self.name} has no {dtype} rate; its profile states {', '.join(self.tflops)}")
        rate = self.tflops[dtype]
        if dtype == "fp32":
            rate = max(rate, self.tflops.get("tf32", 0.0) / 3)
        return rate * 1e12

    def limit_us(self, flops: Mapping[str, float], bytes_moved: float) -> float:
        """T_SOL in microseconds: the larger of arithmetic, units of different dtypes one after another, and memory."""
        arithmetic = sum(count / self.rate(dtype) for dtype, count in flops.items())
        return 1e6 * max(arithmetic, bytes_moved / (self.memory_tbs * 1e12))


def read_device(file: Path) -> Device:
    try:
        return settings(Device, tomllib.loads(file.read_text()), file.name)
    except tomllib.TOMLDecodeError as error:
        raise UserMistake(f"{file} is not valid TOML: {error}") from error


def device_named(name: str, *further: Path) -> Device | None:
    """The profile of a GPU by the name that CUDA gives it, shipped or in a further folder; None for an unknown one."""
    files = [file for folder in (DEVICES, *further) if folder.is_dir() for file in sorted(folder.glob("*.toml"))]
    return next((d for d in map(read_device, files) if name in d.matches), None)


def score(kernel_us: float, limit_us: float, baseline_us: float) -> float:
    """S of one workload, clamped to [0, 1]; the limit must lie below the baseline's time."""
    if not 0 <= limit_us < baseline_us:
        raise ValueError(f"expected 0 <= limit < baseline, found {limit_us} and {baseline_us} us: the task is invalid")
    if not kernel_us > 0:
        raise ValueError(f"expected a time above 0, found {kernel_us} us")
    return min(1.0, max(0.0, 1 / (1 + (max(kernel_us, limit_us) - limit_us) / (baseline_us - limit_us))))


def believable(kernel_us: float, limit_us: float) -> bool:
    return kernel_us >= FLOOR * limit_us


def vacuous(limit_us: float, baseline_us: float) -> bool:
    """Whether the limit is too far from anything that can be reached to say how good a kernel is."""
    return limit_us < VACUOUS_US or baseline_us > VACUOUS_RATIO * limit_us


def suite_mean(scores: Mapping[str, float | None], tasks: Iterable[str]) -> float:
    """Mean S over tasks; one without a score counts 0 here, in a report's last line, and nowhere else."""
    return statistics.fmean(scores.get(task) or 0.0 for task in tasks)
