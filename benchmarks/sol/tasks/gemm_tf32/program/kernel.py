"""C = A B in float32, products in TF32: one tile of the output a program, in row-major order."""

import triton
import triton.language as tl

ROWS = 64
COLS = 64
DEPTH = 32
WARPS = 4
STAGES = 2


@triton.jit
def product(a, b, c, M, N, K, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    cols = tl.program_id(1).to(tl.int64) * COLS + tl.arange(0, COLS)
    total = tl.zeros((ROWS, COLS), tl.float32)
    for first in range(0, K, DEPTH):
        ks = first + tl.arange(0, DEPTH)
        x = tl.load(a + rows[:, None] * K + ks[None, :], mask=(rows[:, None] < M) & (ks[None, :] < K), other=0.0)
        y = tl.load(
            b + ks[:, None].to(tl.int64) * N + cols[None, :], mask=(ks[:, None] < K) & (cols[None, :] < N), other=0.0
        )
        total += tl.dot(x, y, input_precision="tf32")
    tl.store(c + rows[:, None] * N + cols[None, :], total, mask=(rows[:, None] < M) & (cols[None, :] < N))


def run(a, b, c):
    M, K = a.shape
    N = b.shape[1]
    grid = (triton.cdiv(M, ROWS), triton.cdiv(N, COLS))
    product[grid](a, b, c, M, N, K, ROWS, COLS, DEPTH, num_warps=WARPS, num_stages=STAGES)
