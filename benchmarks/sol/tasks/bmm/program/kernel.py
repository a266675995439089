"""C_i = A_i B_i in bfloat16: one tile of one product a program."""

import triton
import triton.language as tl

ROWS = 64
COLS = 64
DEPTH = 32
WARPS = 4
STAGES = 2


@triton.jit
def product(a, b, c, M, N, K, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, UPCAST: tl.constexpr):
    batch = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    cols = tl.program_id(1).to(tl.int64) * COLS + tl.arange(0, COLS)
    a += batch * M * K
    b += batch * K * N
    c += batch * M * N
    total = tl.zeros((ROWS, COLS), tl.float32)
    for first in range(0, K, DEPTH):
        ks = first + tl.arange(0, DEPTH)
        x = tl.load(a + rows[:, None] * K + ks[None, :], mask=(rows[:, None] < M) & (ks[None, :] < K), other=0.0)
        y = tl.load(b + ks[:, None] * N + cols[None, :], mask=(ks[:, None] < K) & (cols[None, :] < N), other=0.0)
        if UPCAST:  # Triton's interpreter multiplies the bit patterns of bfloat16
            x = x.to(tl.float32)
            y = y.to(tl.float32)
        total += tl.dot(x, y)
    tl.store(c + rows[:, None] * N + cols[None, :], total, mask=(rows[:, None] < M) & (cols[None, :] < N))


def run(a, b, c):
    B, M, K = a.shape
    N = b.shape[2]
    grid = (triton.cdiv(M, ROWS), triton.cdiv(N, COLS), B)
    product[grid](a, b, c, M, N, K, ROWS, COLS, DEPTH, not a.is_cuda, num_warps=WARPS, num_stages=STAGES)
