"""Sum of the gradient rows of each token id: zeros, then one row a program by atomic additions."""

import triton
import triton.language as tl

BLOCK = 1024
WARPS = 4


@triton.jit
def clear(dw, TOTAL, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(dw + at, tl.zeros((BLOCK,), tl.float32), mask=at < TOTAL)


@triton.jit
def scatter(dy, ids, dw, D, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    token = tl.load(ids + row).to(tl.int64)
    for first in range(0, D, BLOCK):
        at = first + tl.arange(0, BLOCK)
        value = tl.load(dy + row * D + at, mask=at < D, other=0.0).to(tl.float32)
        tl.atomic_add(dw + token * D + at, value, mask=at < D)


def run(dy, ids, vocabulary, dw):
    R, D = dy.shape
    clear[(triton.cdiv(dw.numel(), BLOCK),)](dw, dw.numel(), BLOCK, num_warps=WARPS)
    scatter[(R,)](dy, ids, dw, D, BLOCK, num_warps=WARPS)
