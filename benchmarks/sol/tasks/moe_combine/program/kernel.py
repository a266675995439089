"""Weighted sum of the k expert rows of each token: one token and a block of columns a program."""

import triton
import triton.language as tl

BLOCK = 256
WARPS = 4


@triton.jit
def combine(rows, index, weight, out, D, K: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for n in range(0, K):
        row = tl.load(index + token * K + n).to(tl.int64)
        total += tl.load(weight + token * K + n) * tl.load(rows + row * D + at, mask=at < D, other=0.0).to(tl.float32)
    tl.store(out + token * D + at, total, mask=at < D)


def run(rows, index, weight, out):
    T, K = index.shape
    D = rows.shape[1]
    combine[(T, triton.cdiv(D, BLOCK))](rows, index, weight, out, D, K, BLOCK, num_warps=WARPS)
