"""Trains autoresearch's base again and again in one process, with other constants, seeds and orders; nothing is judged.

    python scripts/tune_autoresearch.py PLAN [--seconds 20] [--minutes 5] [--out FILE]

A line of the plan: constants, seed of the start, seed of the stream's order. Constants are `base` or
`optimizer.HEAD_RATE=0.006,model.RESIDUAL_INIT=0.9`; what is compiled in (MUON_BETA2, ROTARY_BASE, ...) is none of
them. Nothing is compiled twice, so that nearly all of a run is training, which has the device alone as a judge's timed
sections have it. Losses are those of the profile's own windows.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks" / "autoresearch" / "program")]

import model  # noqa: E402
import optimizer  # noqa: E402
import train  # noqa: E402
import trainer as trainers  # noqa: E402

from evo.hostlock import turn  # noqa: E402
from evo.judges import corpora, corpus, gpu, loss  # noqa: E402

ROWS = 4  # windows that are scored at once


@contextmanager
def constants(spec: str) -> Iterator[None]:
    """The modules with what `spec` says, and as they were afterwards."""
    kept = []
    for change in spec.split(",") if spec != "base" else ():
        name, _, value = change.partition("=")
        module, _, constant = name.partition(".")
        holder = importlib.import_module(module)
        kept.append((holder, constant, getattr(holder, constant)))
        setattr(holder, constant, ast.literal_eval(value))
    yield
    for holder, constant, value in kept:
        setattr(holder, constant, value)


@contextmanager
def alone(device: str) -> Iterator[None]:
    """The turn of a judge's timed section at the first device that this process sees."""
    if device == "cpu":
        yield
        return
    with turn(alone=True, folder=gpu.place() / f"turn-{gpu.on_host()[0]}"):
        yield


def trained(trainer: trainers.Trainer, tokens: np.ndarray, seed: int, seconds: float) -> tuple[dict, int]:
    """The checkpoint after `seconds` from the tokens on, as train.py does it, and the number of steps."""
    run = trainer.run
    compiled = trainer.optimizer.step_of
    trainer.optimizer = optimizer.Optimizer(trainer.model, compiled=False)  # with the constants of now
    trainer.optimizer.step_of = compiled
    trainer.start(seed)
    limit = seconds - train.handover_seconds(trainer.model)
    began, steps = time.monotonic(), 0
    stream = trainers.on_device(tokens, run.device)
    for inputs, targets in trainers.batches(stream, run.window, trainer.rows, seed):
        if (progress := (time.monotonic() - began) / limit) >= 1:
            break
        trainer.step(inputs, targets, progress)
        steps += 1
    return {name: tensor.clone() for name, tensor in model.checkpoint(trainer.model).items()}, steps


def scored(run, tensors: dict, windows: loss.Windows, token_bytes: np.ndarray) -> float:
    """Bits per byte of a checkpoint on some windows."""
    predict = model.load(run, tensors)
    total, size = 0.0, 0
    for first in range(0, len(windows), ROWS):
        inputs, targets = (part[first : first + ROWS].astype(np.int64) for part in (windows.inputs, windows.targets))
        with torch.inference_mode():
            wanted = torch.from_numpy(targets).to(run.device)
            nats = -predict(torch.from_numpy(inputs)).log_softmax(-1).gather(-1, wanted[..., None])[..., 0]
        counted = token_bytes[targets] > 0
        total += float(nats.double().cpu().numpy()[counted].sum())
        size += int(token_bytes[targets].sum())
    return total / (np.log(2) * size)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--minutes", type=float, default=10.0, help="no run is begun that would not end in time")
    parser.add_argument("--out", type=Path, help="one JSON object a line")
    options = parser.parse_args(arguments)
    cuda, late = options.device == "cuda", time.monotonic() + 60 * options.minutes
    run = SimpleNamespace(device=options.device, vocabulary=8192 if cuda else 1024, window=2048 if cuda else 64, seed=0)
    trainer = trainers.Trainer(run)
    trainer.start(0)
    trainer.warm_up()
    print(f"compiled; {time.monotonic() - late + 60 * options.minutes:.0f} s", flush=True)
    text = corpora.open("python-sources" if cuda else "django", ROOT, vocabulary=run.vocabulary)
    print(f"text {text.hash}; {time.monotonic() - late + 60 * options.minutes:.0f} s", flush=True)
    slices = [
        loss.Windows.cut(text.validation, 192 if cuda else 32, run.window),
        loss.Windows.cut(text.private, 128 if cuda else 32, run.window),
    ]
    found: dict[str, list[tuple[float, float]]] = {}
    with open(options.out or "/dev/null", "a") as out:
        for line in options.plan.read_text().split("\n"):
            if not line.strip() or time.monotonic() + options.seconds + 3 > late:
                continue
            spec, seed, ordered = line.split()
            tokens = corpus.order(text.train, int(ordered))
            with constants(spec), alone(options.device):
                began = time.time()
                tensors, steps = trained(trainer, tokens, int(seed), options.seconds)
                ended = time.time()
                public, private = (scored(run, dict(tensors), windows, text.token_bytes) for windows in slices)
            scalars = {name: tensors[name].tolist() for name in ("residual", "embedding_residual")}
            told = {"spec": spec, "seed": int(seed), "order": int(ordered), "steps": steps, "loss": public}
            told.update(began=began, ended=ended)
            print(json.dumps({**told, "private_loss": private, **scalars}), file=out, flush=True)
            shown = "  ".join(f"{name} {[round(x, 2) for x in values]}" for name, values in scalars.items())
            print(
                f"{spec} {seed} {ordered}: {steps} steps, {public:.4f}, unseen packages {private:.4f}  {shown}",
                flush=True,
            )
            found.setdefault(spec, []).append((public, private))
    for spec, losses in found.items():
        means = " ".join(f"{statistics.mean(values):.4f}" for values in zip(*losses))
        sds = " ".join(f"{statistics.stdev(values):.4f}" for values in zip(*losses)) if len(losses) > 1 else "-"
        print(f"{spec}: n = {len(losses)}, mean {means}, sd {sds}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
