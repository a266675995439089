"""The measurements behind benchmarks/speedrun/README.md, made in this process: no sandbox, so nothing here is a score.

    python scripts/tune_speedrun.py sweep --seeds 2          one constant at a time around the base
    python scripts/tune_speedrun.py slope --seeds 6          full schedules at 0.8, 1 and 1.25 of the length
    python scripts/tune_speedrun.py noise --seeds 10         ten seeds, and ten repeats of the first
    python scripts/tune_speedrun.py one train.STEPS=300      the base with these constants

Seconds are CPU seconds of one thread, from the opening of the stream to the checkpoint. Base and seeds are those of the
`cpu` profile; `evo.check` measures the same through the judge.
"""

from __future__ import annotations

import argparse
import ast
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks/speedrun/program")]

import model  # noqa: E402
import train  # noqa: E402

from evo.judges import corpus, django  # noqa: E402

WINDOW = 64
FIRST_SEED = 100  # the judge's screens begin at 0: a base tuned on their seeds would be tuned on their luck
PROGRAM = {"model": model, "train": train}
BASE = {
    f"{name}.{key}": value for name, module in PROGRAM.items() for key, value in vars(module).items() if key.isupper()
}

# Where a choice changes the cost of a step, STEPS keeps the CPU time about equal.
SWEEP: Sequence[Mapping[str, float]] = [
    {},
    {"train.EMBEDDING_RATE": 0.1},
    {"train.EMBEDDING_RATE": 0.4},
    {"train.HEAD_RATE": 0.015},
    {"train.HEAD_RATE": 0.06},
    {"train.MATRIX_RATE": 0.0075},
    {"train.MATRIX_RATE": 0.03},
    {"train.BETA1": 0.9},
    {"train.BETA1": 0.5},
    {"train.BETA2": 0.95},
    {"train.BETA2": 0.99},
    {"train.WEIGHT_DECAY": 0.0},
    {"train.WEIGHT_DECAY": 0.1},
    {"train.WARMUP_SHARE": 0.01},
    {"train.WARMUP_SHARE": 0.12},
    {"model.EMBEDDING_STD": 0.5},
    {"model.WEIGHT_STD": 0.025},
    {"model.WEIGHT_STD": 0.1},
    {"model.HEADS": 4},
    {"model.MLP_RATIO": 4, "train.STEPS": 235},
    {"train.BATCH": 8, "train.STEPS": 430},
    {"model.WIDTH": 32, "train.STEPS": 415},
    {"model.WIDTH": 96, "model.HEADS": 3, "train.STEPS": 175},
    {"model.LAYERS": 2, "train.STEPS": 175},
]


@dataclass
class Run:
    """What the judge gives a program, without the walls."""

    seed: int
    stream: np.ndarray
    vocabulary: int
    window: int = WINDOW
    threads: int = 1
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    opened: float = 0.0
    seconds: float = 0.0

    def open(self) -> np.ndarray:
        self.opened = time.process_time()
        return self.stream

    def submit(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        self.seconds = time.process_time() - self.opened


def bits_per_byte(run: Run, tokens: np.ndarray, windows: int, token_bytes: np.ndarray) -> float:
    predict = model.load(run, run.tensors)
    inputs = torch.from_numpy(tokens[: windows * run.window].astype(np.int64)).view(windows, run.window)
    targets = torch.from_numpy(tokens[1 : windows * run.window + 1].astype(np.int64)).view(windows, run.window)
    counted = torch.from_numpy(token_bytes > 0)
    nats = 0.0
    with torch.inference_mode():
        for rows, truth in zip(inputs.split(64), targets.split(64)):
            found = predict(rows).log_softmax(-1).gather(-1, truth[..., None]).squeeze(-1)
            nats -= float((found * counted[truth]).sum(dtype=torch.float64))
    return nats / math.log(2) / float(token_bytes[targets.numpy()].sum())


def measure(constants: Mapping[str, float], seed: int, windows: int, text: corpus.Corpus) -> tuple[float, float]:
    """Validation bits per byte and CPU seconds of the base with these constants."""
    for key, value in {**BASE, **constants}.items():
        module, name = key.split(".")
        setattr(PROGRAM[module], name, value)
    run = Run(seed, corpus.order(text.train, seed), text.vocabulary)
    train.train(run)
    return bits_per_byte(run, text.validation, windows, text.token_bytes), run.seconds


def row(label: str, found: Sequence[tuple[float, float]]) -> None:
    losses, seconds = np.array(found).T
    spread = f"{losses.std(ddof=1):.4f}" if len(losses) > 1 else "-"
    print(f"| {label} | {len(losses)} | {losses.mean():.4f} | {spread} | {seconds.mean():.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sweep", "slope", "noise", "one"])
    parser.add_argument("constants", nargs="*", help="FILE.NAME=VALUE")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--windows", type=int, default=1024, help="validation windows")
    parser.add_argument("--train-tokens", type=int, help="the first ones; all by default")
    asked = parser.parse_args()
    constants = {key: ast.literal_eval(value) for key, value in (c.split("=") for c in asked.constants)}
    if unknown := [key for key in constants if key not in BASE]:
        parser.error(f"unknown {', '.join(unknown)}; valid are {', '.join(BASE)}")
    torch.set_num_threads(1)
    text = django.load()
    text = replace(text, train=text.train[: asked.train_tokens])
    seeds = range(FIRST_SEED, FIRST_SEED + asked.seeds)

    def runs(changed: Mapping[str, float]) -> list[tuple[float, float]]:
        return [measure({**constants, **changed}, seed, asked.windows, text) for seed in seeds]

    print("| constants | n | L, bits per byte | sd | CPU s |\n|---|---|---|---|---|")
    if asked.what == "one":
        row("base" if not constants else " ".join(asked.constants), runs({}))
    elif asked.what == "sweep":
        for changed in SWEEP:
            row(
                " ".join(f"{key.split('.')[1]}={value:g}" for key, value in changed.items()) or "**base**",
                runs(changed),
            )
    elif asked.what == "slope":
        steps = int(constants.get("train.STEPS", BASE["train.STEPS"]))
        lengths = [0.8, 1.0, 1.25]
        found = [runs({"train.STEPS": round(steps * length)}) for length in lengths]
        for length, one in zip(lengths, found):
            row(f"{length} x {steps} steps", one)
        means = [float(np.mean(one, axis=0)[0]) for one in found]
        print(f"slope -dL/dln t = {-np.polyfit(np.log(lengths), means, 1)[0]:.4f}, target {means[1]:.4f}")
    else:
        row("seeds", found := runs({}))
        print("  ".join(f"{loss:.4f}/{seconds:.2f}" for loss, seconds in found))
        row("repeats", found := [measure(constants, FIRST_SEED, asked.windows, text) for _ in seeds])
        print("  ".join(f"{loss:.4f}/{seconds:.2f}" for loss, seconds in found))


if __name__ == "__main__":
    main()
