"""Rows sorted by expert times the expert's matrix: one tile a program, for each expert the tiles that all rows need."""

import triton
import triton.language as tl

ROWS = 64
COLS = 64
DEPTH = 32
WARPS = 4
STAGES = 2


@triton.jit
def product(x, w, ends, y, N, K, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, UPCAST: tl.constexpr):
    expert = tl.program_id(2).to(tl.int64)
    end = tl.load(ends + expert)
    begin = 0
    if expert > 0:
        begin = tl.load(ends + expert - 1)
    rows = begin + tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    if begin + tl.program_id(0) * ROWS < end:
        cols = tl.program_id(1) * COLS + tl.arange(0, COLS)
        total = tl.zeros((ROWS, COLS), tl.float32)
        of_rows = x + rows[:, None].to(tl.int64) * K
        of_cols = w + expert * N * K + cols[None, :].to(tl.int64) * K
        for first in range(0, K, DEPTH):
            ks = first + tl.arange(0, DEPTH)
            a = tl.load(of_rows + ks[None, :], mask=(rows[:, None] < end) & (ks[None, :] < K), other=0.0)
            b = tl.load(of_cols + ks[:, None], mask=(cols[None, :] < N) & (ks[:, None] < K), other=0.0)
            if UPCAST:  # Triton's interpreter multiplies the bit patterns of bfloat16
                a = a.to(tl.float32)
                b = b.to(tl.float32)
            total += tl.dot(a, b)
        there = y + rows[:, None].to(tl.int64) * N + cols[None, :]
        tl.store(there, total, mask=(rows[:, None] < end) & (cols[None, :] < N))


def run(x, w, ends, y):
    R, K = x.shape
    E, N, _ = w.shape
    grid = (triton.cdiv(R, ROWS), triton.cdiv(N, COLS), E)
    product[grid](x, w, ends, y, N, K, ROWS, COLS, DEPTH, not x.is_cuda, num_warps=WARPS, num_stages=STAGES)
