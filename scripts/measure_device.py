"""Makes a device profile for a GPU that evo does not know: `python scripts/measure_device.py [--out FILE]`.

The rates are measured, not the vendor's, so a kernel may beat them by a little: the limit of such a profile is a
yardstick. Where a datasheet exists, write its dense rates into the file and raise `version`. Without --out the profile
goes where the kernel judge looks for it.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch

from evo import sol
from evo.judges import baselines

HEADROOM = 1.05  # best of several, and a little: a limit should not be beaten by noise
REPEATS = 7


def best_seconds(work: Callable[[], object], sync: Callable[[], None]) -> float:
    work()
    found = []
    for _ in range(REPEATS):
        sync()
        began = time.perf_counter()
        work()
        sync()
        found.append(time.perf_counter() - began)
    return min(found)


def measured(device: str, size: int, megabytes: int) -> dict[str, float]:
    """TFLOP/s of square products by dtype, and TB/s of a copy, read and write together."""
    sync = torch.cuda.synchronize if device == "cuda" else lambda: None
    rates: dict[str, float] = {}
    kinds = {"fp64": torch.float64, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    for name, dtype in kinds.items():
        a = torch.randn(size, size, device=device, dtype=torch.float32).to(dtype)
        rates[name] = 2 * size**3 / best_seconds(lambda a=a: a @ a, sync) / 1e12
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        a = torch.randn(size, size, device=device)
        rates["tf32"] = 2 * size**3 / best_seconds(lambda: a @ a, sync) / 1e12
        if torch.cuda.get_device_capability() >= (8, 9):
            one = torch.ones((), device=device)
            b = a.to(torch.float8_e4m3fn)

            def product() -> object:
                return torch._scaled_mm(b, b.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True)

            rates["fp8"] = 2 * size**3 / best_seconds(product, sync) / 1e12
    source = torch.randint(0, 255, (megabytes << 20,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    rates["copy"] = 2 * source.nbytes / best_seconds(lambda: target.copy_(source), sync) / 1e12
    return rates


def profile(device: str, rates: dict[str, float]) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    about = torch.cuda.get_device_properties(0) if device == "cuda" else None
    lines = [
        f'name = "{re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")}"',
        "version = 1",
        f'matches = ["{name}"]',
        f"sms = {about.multi_processor_count if about else 1}",
        f"l2_mb = {about.L2_cache_size / 2**20 if about else 1.0:g}",
        f"memory_tbs = {rates['copy'] * HEADROOM:.4g}",
        f'source = "measured {date.today()}, torch {torch.__version__}, best of {REPEATS} and {HEADROOM - 1:.0%}"',
        "",
        "[tflops]",
        *(f"{kind} = {rate * HEADROOM:.4g}" for kind, rate in rates.items() if kind != "copy"),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=8192, help="of the matrices")
    parser.add_argument("--megabytes", type=int, default=2048, help="of what is copied")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("measure_device: expected a CUDA device, found none", file=sys.stderr)
        return 2
    text = profile(options.device, measured(options.device, options.size, options.megabytes))
    file = options.out or baselines.cache() / "devices" / f"{text.split(chr(34))[1]}.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    sol.read_device(file)
    print(text + f"# written to {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
