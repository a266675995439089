"""Backward of LayerNorm: rows of dx by one kernel, the columns of dw and db by a second that walks all rows."""

import triton
import triton.language as tl

BLOCK = 512
ROWS = 32
COLS = 32
WARPS = 4


@triton.jit
def of_input(dy, x, w, mean, rstd, dx, D, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    m = tl.load(mean + row)
    r = tl.load(rstd + row)
    plain = tl.zeros((BLOCK,), tl.float32)
    along = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, D, BLOCK):
        at = first + tl.arange(0, BLOCK)
        g = tl.load(dy + row * D + at, mask=at < D, other=0.0).to(tl.float32)
        g *= tl.load(w + at, mask=at < D, other=0.0).to(tl.float32)
        n = (tl.load(x + row * D + at, mask=at < D, other=0.0).to(tl.float32) - m) * r
        plain += g
        along += g * n
    a = tl.sum(plain) / D
    b = tl.sum(along) / D
    for first in range(0, D, BLOCK):
        at = first + tl.arange(0, BLOCK)
        g = tl.load(dy + row * D + at, mask=at < D, other=0.0).to(tl.float32)
        g *= tl.load(w + at, mask=at < D, other=0.0).to(tl.float32)
        n = (tl.load(x + row * D + at, mask=at < D, other=0.0).to(tl.float32) - m) * r
        tl.store(dx + row * D + at, (g - a - n * b) * r, mask=at < D)


@triton.jit
def of_affine(dy, x, mean, rstd, dw, db, T, D, ROWS: tl.constexpr, COLS: tl.constexpr):
    cols = tl.program_id(0) * COLS + tl.arange(0, COLS)
    of_w = tl.zeros((ROWS, COLS), tl.float32)
    of_b = tl.zeros((ROWS, COLS), tl.float32)
    for first in range(0, T, ROWS):
        rows = first + tl.arange(0, ROWS)
        at = rows[:, None].to(tl.int64) * D + cols[None, :]
        inside = (rows[:, None] < T) & (cols[None, :] < D)
        g = tl.load(dy + at, mask=inside, other=0.0).to(tl.float32)
        m = tl.load(mean + rows, mask=rows < T, other=0.0)
        r = tl.load(rstd + rows, mask=rows < T, other=0.0)
        of_w += g * (tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - m[:, None]) * r[:, None]
        of_b += g
    tl.store(dw + cols, tl.sum(of_w, 0), mask=cols < D)
    tl.store(db + cols, tl.sum(of_b, 0), mask=cols < D)


def run(dy, x, w, mean, rstd, dx, dw, db):
    T, D = x.shape
    of_input[(T,)](dy, x, w, mean, rstd, dx, D, BLOCK, num_warps=WARPS)
    of_affine[(triton.cdiv(D, COLS),)](dy, x, mean, rstd, dw, db, T, D, ROWS, COLS, num_warps=WARPS)
