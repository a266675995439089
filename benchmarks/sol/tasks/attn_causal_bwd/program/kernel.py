"""Backward of causal attention from its output and log-sum-exp: one kernel for dq, one for dk and dv."""

import torch
import triton
import triton.language as tl

ROWS = 32
COLS = 32
WARPS = 4
STAGES = 1


@triton.jit
def dot(a, b, UPCAST: tl.constexpr):
    if UPCAST:  # Triton's interpreter multiplies the bit patterns of bfloat16
        return tl.dot(a.to(tl.float32), b.to(tl.float32))
    else:
        return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16))


@triton.jit
def of_rows(do, o, delta, S, D: tl.constexpr, ROWS: tl.constexpr):
    start = tl.program_id(1).to(tl.int64) * S
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    at = (start + rows[:, None]) * D + tl.arange(0, D)[None, :]
    a = tl.load(do + at, mask=rows[:, None] < S, other=0.0).to(tl.float32)
    b = tl.load(o + at, mask=rows[:, None] < S, other=0.0).to(tl.float32)
    tl.store(delta + start + rows, tl.sum(a * b, 1), mask=rows < S)


@triton.jit
def of_queries(
    do, q, k, v, lse, delta, dq, S, scale, D: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, UPCAST: tl.constexpr
):
    start = tl.program_id(1).to(tl.int64) * S
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    ds = tl.arange(0, D)
    at = (start + rows[:, None]) * D + ds[None, :]
    of_q = tl.load(q + at, mask=rows[:, None] < S, other=0.0)
    of_do = tl.load(do + at, mask=rows[:, None] < S, other=0.0)
    of_lse = tl.load(lse + start + rows, mask=rows < S, other=0.0)
    of_delta = tl.load(delta + start + rows, mask=rows < S, other=0.0)
    total = tl.zeros((ROWS, D), tl.float32)
    for first in range(0, tl.minimum(S, (tl.program_id(0) + 1) * ROWS), COLS):
        cols = first + tl.arange(0, COLS)
        there = (start + cols[:, None]) * D + ds[None, :]
        of_k = tl.load(k + there, mask=cols[:, None] < S, other=0.0)
        of_v = tl.load(v + there, mask=cols[:, None] < S, other=0.0)
        p = tl.exp(dot(of_q, tl.trans(of_k), UPCAST) * scale - of_lse[:, None])
        p = tl.where((cols[None, :] <= rows[:, None]) & (cols[None, :] < S), p, 0.0)
        change = p * (dot(of_do, tl.trans(of_v), UPCAST) - of_delta[:, None])
        total += dot(change, of_k, UPCAST)
    tl.store(dq + at, total * scale, mask=rows[:, None] < S)


@triton.jit
def of_keys(
    do, q, k, v, lse, delta, dk, dv, S, scale,
    D: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    start = tl.program_id(1).to(tl.int64) * S
    cols = tl.program_id(0) * COLS + tl.arange(0, COLS)
    ds = tl.arange(0, D)
    there = (start + cols[:, None]) * D + ds[None, :]
    of_k = tl.load(k + there, mask=cols[:, None] < S, other=0.0)
    of_v = tl.load(v + there, mask=cols[:, None] < S, other=0.0)
    of_dk = tl.zeros((COLS, D), tl.float32)
    of_dv = tl.zeros((COLS, D), tl.float32)
    for first in range((tl.program_id(0) * COLS) // ROWS * ROWS, S, ROWS):
        rows = first + tl.arange(0, ROWS)
        at = (start + rows[:, None]) * D + ds[None, :]
        of_q = tl.load(q + at, mask=rows[:, None] < S, other=0.0)
        of_do = tl.load(do + at, mask=rows[:, None] < S, other=0.0)
        of_lse = tl.load(lse + start + rows, mask=rows < S, other=0.0)
        of_delta = tl.load(delta + start + rows, mask=rows < S, other=0.0)
        p = tl.exp(dot(of_q, tl.trans(of_k), UPCAST) * scale - of_lse[:, None])
        p = tl.where((cols[None, :] <= rows[:, None]) & (rows[:, None] < S), p, 0.0)
        change = p * (dot(of_do, tl.trans(of_v), UPCAST) - of_delta[:, None])
        of_dv += dot(tl.trans(p), of_do, UPCAST)
        of_dk += dot(tl.trans(change), of_q, UPCAST)
    tl.store(dk + there, of_dk * scale, mask=cols[:, None] < S)
    tl.store(dv + there, of_dv, mask=cols[:, None] < S)


def run(do, q, k, v, o, lse, dq, dk, dv):
    B, H, S, D = q.shape
    delta = torch.empty_like(lse)
    of_rows[(triton.cdiv(S, ROWS), B * H)](do, o, delta, S, D, ROWS)
    last = (S, D**-0.5, D, ROWS, COLS, not q.is_cuda)
    how = {"num_warps": WARPS, "num_stages": STAGES}
    of_queries[(triton.cdiv(S, ROWS), B * H)](do, q, k, v, lse, delta, dq, *last, **how)
    of_keys[(triton.cdiv(S, COLS), B * H)](do, q, k, v, lse, delta, dk, dv, *last, **how)
