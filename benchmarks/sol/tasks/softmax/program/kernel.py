"""Softmax of each row in three passes: the maximum, the sum, the quotient."""

import triton
import triton.language as tl

BLOCK = 512
WARPS = 4


@triton.jit
def softmax(x, y, C, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    peaks = tl.full((BLOCK,), float("-inf"), tl.float32)
    for first in range(0, C, BLOCK):
        at = first + tl.arange(0, BLOCK)
        peaks = tl.maximum(peaks, tl.load(x + row * C + at, mask=at < C, other=float("-inf")).to(tl.float32))
    peak = tl.max(peaks)
    sums = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, C, BLOCK):
        at = first + tl.arange(0, BLOCK)
        sums += tl.exp(tl.load(x + row * C + at, mask=at < C, other=float("-inf")).to(tl.float32) - peak)
    total = tl.sum(sums)
    for first in range(0, C, BLOCK):
        at = first + tl.arange(0, BLOCK)
        value = tl.exp(tl.load(x + row * C + at, mask=at < C, other=float("-inf")).to(tl.float32) - peak)
        tl.store(y + row * C + at, value / total, mask=at < C)


def run(x, y):
    R, C = x.shape
    softmax[(R,)](x, y, C, BLOCK, num_warps=WARPS)
