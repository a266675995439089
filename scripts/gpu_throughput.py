"""Tokens a second, MFU and where a step's time goes, for a training program on this machine's GPU, on random tokens.

    python scripts/gpu_throughput.py [benchmarks/autoresearch/program] [--set model.WINDOWS='"SSSL"']

In one process without a judge. MFU counts 2.39e8 floating-point operations a token, whatever attention really does,
against 989e12 a second (bfloat16, H100 and H200). Several of these may compile side by side: a lock lets one measure.
"""

from __future__ import annotations

import argparse
import ast
import fcntl
import importlib
import statistics
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

FLOP_PER_TOKEN, PEAK = 2.39e8, 989e12
ROOT = Path(__file__).resolve().parent.parent
KINDS = {
    "attention": ("cudnn", "sdpa", "flash", "fmha", "attention"),
    "matrix products": ("gemm", "nvjet", "cutlass", "cublas", "splitk"),
    "loss": ("softcapped",),
    "generated": ("triton",),
    "copies": ("memcpy", "memset"),
}


def kind(name: str) -> str:
    return next((k for k, words in KINDS.items() if any(word in name.lower() for word in words)), "other")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("program", nargs="?", type=Path, default=ROOT / "benchmarks" / "autoresearch" / "program")
    parser.add_argument("--set", action="append", default=[], metavar="MODULE.NAME=VALUE")
    parser.add_argument("--inductor", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--kernels", type=int, default=0, help="how many kernels to list")
    options = parser.parse_args()
    sys.path.insert(0, str(options.program))
    import numpy as np
    import torch
    import torch._inductor.config as inductor

    for change in options.inductor:
        name, _, value = change.partition("=")
        setattr(inductor, name, ast.literal_eval(value))
    for change in options.set:
        name, _, value = change.partition("=")
        module, _, constant = name.partition(".")
        setattr(importlib.import_module(module), constant, ast.literal_eval(value))
    trainer_module = importlib.import_module("trainer")
    run = SimpleNamespace(seed=1, vocabulary=8192, window=2048, threads=4, device="cuda", seconds=60.0)
    trainer = trainer_module.Trainer(run)
    trainer.start(0)
    began = time.monotonic()
    trainer.warm_up()
    torch.cuda.synchronize()
    compiled_s = time.monotonic() - began
    trainer.start(1)
    rng = np.random.default_rng(0)
    tokens = trainer_module.on_device(rng.integers(0, 8192, 40 * trainer.rows * run.window).astype(np.uint16), "cuda")
    batches = trainer_module.batches(tokens, run.window, trainer.rows, 0)
    with open("/tmp/gpu_throughput.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        events = [torch.cuda.Event(enable_timing=True) for _ in range(options.steps + 1)]
        for _ in range(10):
            trainer.step(*next(batches), 0.1)
        for k, event in enumerate(events):
            event.record()
            if k < options.steps:
                trainer.step(*next(batches), 0.1)
        torch.cuda.synchronize()
        times = [a.elapsed_time(b) for a, b in pairwise(events)]
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
            began = time.monotonic()
            for _ in range(3):
                trainer.step(*next(batches), 0.1)
            torch.cuda.synchronize()
            wall = (time.monotonic() - began) / 3 * 1e3
    spent, names, counts = Counter(), Counter(), Counter()
    for event in found.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            spent[kind(event.name)] += event.device_time / 3e3
            names[event.name] += event.device_time / 3e3
            counts[event.name] += 1
    tokens_a_step = trainer.rows * run.window
    middle = statistics.median(times)
    rate = tokens_a_step / middle * 1e3
    title = " ".join([*options.set, *options.inductor]) or "base"
    print(
        f"{title}: {middle:.2f} ms a step (sd {statistics.stdev(times):.2f}), {rate / 1e6:.3f} M tokens/s, "
        f"MFU {rate * FLOP_PER_TOKEN / PEAK:.1%}, warm-up {compiled_s:.0f} s, "
        f"peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GB, {torch.cuda.get_device_name()}"
    )
    kernels = ", ".join(f"{name} {ms:.2f}" for name, ms in spent.most_common())
    print(f"  profiled: {wall:.1f} ms a step, kernels {sum(spent.values()):.2f} ms: {kernels}")
    for name, ms in names.most_common(options.kernels):
        print(f"    {ms:7.3f} ms {counts[name] / 3:5.1f}x  {name[:110]}")


if __name__ == "__main__":
    main()
