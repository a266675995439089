"""Sum and largest value of each row: one row a program, a block of columns at a time."""

import triton
import triton.language as tl

BLOCK = 256
WARPS = 4


@triton.jit
def reduce(x, total, peak, C, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    sums = tl.zeros((BLOCK,), tl.float32)
    peaks = tl.full((BLOCK,), float("-inf"), tl.float32)
    for first in range(0, C, BLOCK):
        at = first + tl.arange(0, BLOCK)
        sums += tl.load(x + row * C + at, mask=at < C, other=0.0)
        peaks = tl.maximum(peaks, tl.load(x + row * C + at, mask=at < C, other=float("-inf")))
    tl.store(total + row, tl.sum(sums))
    tl.store(peak + row, tl.max(peaks))


def run(x, total, peak):
    R, C = x.shape
    reduce[(R,)](x, total, peak, C, BLOCK, num_warps=WARPS)
