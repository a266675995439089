"""y = x w^T with 4-bit weights: a block of outputs a program, which unpacks and scales its weights and walks all of K.

Byte j of a group of 128 holds weight j in its low four bits and weight j + 64 in its high ones.
"""

import triton
import triton.language as tl

ROWS = 16
COLS = 32
WARPS = 4
STAGES = 2


@triton.jit
def product(x, q, scale, zero, y, M, N, K, ROWS: tl.constexpr, COLS: tl.constexpr, UPCAST: tl.constexpr):
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    cols = tl.program_id(0).to(tl.int64) * COLS + tl.arange(0, COLS)
    half = tl.arange(0, 64)
    total = tl.zeros((ROWS, COLS), tl.float32)
    for group in range(0, K // 128):
        at = cols[None, :] * (K // 2) + group * 64 + half[:, None]
        packed = tl.load(q + at, mask=cols[None, :] < N, other=0)
        s = tl.load(scale + cols * (K // 128) + group, mask=cols < N, other=0.0).to(tl.float32)
        z = tl.load(zero + cols * (K // 128) + group, mask=cols < N, other=0.0).to(tl.float32)
        low = ((packed & 15).to(tl.float32) - z[None, :]) * s[None, :]
        high = ((packed >> 4).to(tl.float32) - z[None, :]) * s[None, :]
        of_x = x + rows[:, None] * K + group * 128 + half[None, :]
        first = tl.load(of_x, mask=rows[:, None] < M, other=0.0)
        second = tl.load(of_x + 64, mask=rows[:, None] < M, other=0.0)
        if UPCAST:  # Triton's interpreter multiplies the bit patterns of bfloat16
            total += tl.dot(first.to(tl.float32), low) + tl.dot(second.to(tl.float32), high)
        else:
            total += tl.dot(first, low.to(tl.bfloat16)) + tl.dot(second, high.to(tl.bfloat16))
    tl.store(y + rows[:, None] * N + cols[None, :], total, mask=(rows[:, None] < M) & (cols[None, :] < N))


def run(x, q, scale, zero, y):
    M, K = x.shape
    N = q.shape[0]
    grid = (triton.cdiv(N, COLS), triton.cdiv(M, ROWS))
    product[grid](x, q, scale, zero, y, M, N, K, ROWS, COLS, not x.is_cuda, num_warps=WARPS, num_stages=STAGES)
