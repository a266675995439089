"""y = gelu(x w^T + bias): one kernel stores the product in float32, a second adds the bias and applies GELU."""

import torch
import triton
import triton.language as tl

ROWS = 64
COLS = 64
DEPTH = 32
WARPS = 4
STAGES = 2
BLOCK = 1024


@triton.jit
def product(x, w, z, M, N, K, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, UPCAST: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    cols = tl.program_id(1).to(tl.int64) * COLS + tl.arange(0, COLS)
    total = tl.zeros((ROWS, COLS), tl.float32)
    for first in range(0, K, DEPTH):
        ks = first + tl.arange(0, DEPTH)
        a = tl.load(x + rows[:, None] * K + ks[None, :], mask=(rows[:, None] < M) & (ks[None, :] < K), other=0.0)
        b = tl.load(w + cols[None, :] * K + ks[:, None], mask=(cols[None, :] < N) & (ks[:, None] < K), other=0.0)
        if UPCAST:  # Triton's interpreter multiplies the bit patterns of bfloat16
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        total += tl.dot(a, b)
    tl.store(z + rows[:, None] * N + cols[None, :], total, mask=(rows[:, None] < M) & (cols[None, :] < N))


@triton.jit
def bias_gelu(z, bias, y, N, TOTAL, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < TOTAL
    value = tl.load(z + at, mask=inside, other=0.0) + tl.load(bias + at % N, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476)), mask=inside)


def run(x, w, bias, y):
    M, K = x.shape
    N = w.shape[0]
    z = torch.empty((M, N), dtype=torch.float32, device=x.device)
    grid = (triton.cdiv(M, ROWS), triton.cdiv(N, COLS))
    product[grid](x, w, z, M, N, K, ROWS, COLS, DEPTH, not x.is_cuda, num_warps=WARPS, num_stages=STAGES)
    bias_gelu[(triton.cdiv(M * N, BLOCK),)](z, bias, y, N, M * N, BLOCK)
