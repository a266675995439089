"""Depthwise causal convolution over four tokens and SiLU: a block of one channel's tokens a program."""

import triton
import triton.language as tl

BLOCK = 512
WARPS = 4


@triton.jit
def convolve(x, w, bias, y, D, L, TAPS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    channel = row % D
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32) + tl.load(bias + channel).to(tl.float32)
    for tap in tl.static_range(TAPS):
        past = at - (TAPS - 1) + tap
        value = tl.load(x + row * L + past, mask=(past >= 0) & (past < L), other=0.0).to(tl.float32)
        total += value * tl.load(w + channel * TAPS + tap).to(tl.float32)
    tl.store(y + row * L + at, total / (1.0 + tl.exp(-total)), mask=at < L)


def run(x, w, bias, y):
    B, D, L = x.shape
    convolve[(B * D, triton.cdiv(L, BLOCK))](x, w, bias, y, D, L, w.shape[1], BLOCK, num_warps=WARPS)
