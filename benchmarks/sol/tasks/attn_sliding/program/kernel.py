"""Attention to the last W tokens: a block of queries a program, which walks the keys in its window."""

import triton
import triton.language as tl

QUERIES = 64
KEYS = 32
WARPS = 4
STAGES = 2


@triton.jit
def attention(
    q, k, v, o, S, W, scale, D: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, UPCAST: tl.constexpr
):
    start = tl.program_id(1).to(tl.int64) * S * D
    rows = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    ds = tl.arange(0, D)
    of_q = tl.load(q + start + rows[:, None] * D + ds[None, :], mask=rows[:, None] < S, other=0.0)
    peak = tl.full((QUERIES,), -1e30, tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    out = tl.zeros((QUERIES, D), tl.float32)
    oldest = tl.maximum(0, tl.program_id(0) * QUERIES - W + 1) // KEYS * KEYS
    for first in range(oldest, tl.minimum(S, (tl.program_id(0) + 1) * QUERIES), KEYS):
        cols = first + tl.arange(0, KEYS)
        of_k = tl.load(k + start + cols[None, :] * D + ds[:, None], mask=cols[None, :] < S, other=0.0)
        of_v = tl.load(v + start + cols[:, None] * D + ds[None, :], mask=cols[:, None] < S, other=0.0)
        if UPCAST:  # Triton's interpreter multiplies the bit patterns of bfloat16
            scores = tl.dot(of_q.to(tl.float32), of_k.to(tl.float32)) * scale
        else:
            scores = tl.dot(of_q, of_k) * scale
        seen = (cols[None, :] <= rows[:, None]) & (cols[None, :] > rows[:, None] - W) & (cols[None, :] < S)
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        p = tl.exp(scores - higher[:, None])
        shrink = tl.exp(peak - higher)
        total = total * shrink + tl.sum(p, 1)
        if UPCAST:
            out = out * shrink[:, None] + tl.dot(p, of_v.to(tl.float32))
        else:
            out = out * shrink[:, None] + tl.dot(p.to(tl.bfloat16), of_v)
        peak = higher
    tl.store(o + start + rows[:, None] * D + ds[None, :], out / total[:, None], mask=rows[:, None] < S)


def run(q, k, v, window, o):
    B, H, S, D = q.shape
    grid = (triton.cdiv(S, QUERIES), B * H)
    last = (D**-0.5, D, QUERIES, KEYS, not q.is_cuda)
    attention[grid](q, k, v, o, S, window, *last, num_warps=WARPS, num_stages=STAGES)
