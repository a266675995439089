"""C = (A scaled) (B scaled)^T in float8: a tile a program; each block of 128 along K is scaled into a float32 sum."""

import triton
import triton.language as tl

ROWS = 64
COLS = 64
WARPS = 4
STAGES = 2


@triton.jit
def product(a, sa, b, sb, c, M, N, K, ROWS: tl.constexpr, COLS: tl.constexpr, UPCAST: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    cols = tl.program_id(1).to(tl.int64) * COLS + tl.arange(0, COLS)
    ks = tl.arange(0, 128)
    blocks = K // 128
    total = tl.zeros((ROWS, COLS), tl.float32)
    for block in range(0, blocks):
        x = tl.load(a + rows[:, None] * K + block * 128 + ks[None, :], mask=rows[:, None] < M, other=0.0)
        y = tl.load(b + cols[None, :] * K + block * 128 + ks[:, None], mask=cols[None, :] < N, other=0.0)
        of_row = tl.load(sa + rows * blocks + block, mask=rows < M, other=0.0)
        of_col = tl.load(sb + (cols // 128) * blocks + block, mask=cols < N, other=0.0)
        if UPCAST:  # Triton's interpreter has no product of float8
            x = x.to(tl.float32)
            y = y.to(tl.float32)
        total += tl.dot(x, y) * of_row[:, None] * of_col[None, :]
    tl.store(c + rows[:, None] * N + cols[None, :], total, mask=(rows[:, None] < M) & (cols[None, :] < N))


def run(a, sa, b, sb, c):
    M, K = a.shape
    N = b.shape[0]
    grid = (triton.cdiv(M, ROWS), triton.cdiv(N, COLS))
    product[grid](a, sa, b, sb, c, M, N, K, ROWS, COLS, not a.is_cuda, num_warps=WARPS, num_stages=STAGES)
