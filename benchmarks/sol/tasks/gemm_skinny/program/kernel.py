"""y = x w^T for few rows of x: a block of outputs a program, which walks all of K."""

import triton
import triton.language as tl

ROWS = 16
COLS = 32
DEPTH = 64
WARPS = 4
STAGES = 2


@triton.jit
def product(x, w, y, M, N, K, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, UPCAST: tl.constexpr):
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    cols = tl.program_id(0).to(tl.int64) * COLS + tl.arange(0, COLS)
    total = tl.zeros((ROWS, COLS), tl.float32)
    for first in range(0, K, DEPTH):
        ks = first + tl.arange(0, DEPTH)
        a = tl.load(x + rows[:, None] * K + ks[None, :], mask=(rows[:, None] < M) & (ks[None, :] < K), other=0.0)
        b = tl.load(w + cols[None, :] * K + ks[:, None], mask=(cols[None, :] < N) & (ks[:, None] < K), other=0.0)
        if UPCAST:  # Triton's interpreter multiplies the bit patterns of bfloat16
            a = a.to(tl.float32)
            b = b.to(tl.float32)
        total += tl.dot(a, b)
    tl.store(y + rows[:, None] * N + cols[None, :], total, mask=(rows[:, None] < M) & (cols[None, :] < N))


def run(x, w, y):
    M, K = x.shape
    N = w.shape[0]
    grid = (triton.cdiv(N, COLS), triton.cdiv(M, ROWS))
    product[grid](x, w, y, M, N, K, ROWS, COLS, DEPTH, not x.is_cuda, num_warps=WARPS, num_stages=STAGES)
