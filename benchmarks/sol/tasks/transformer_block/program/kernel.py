"""One pre-norm transformer block with rotary causal attention and SwiGLU: a kernel for each step."""

import torch
import triton
import triton.language as tl

ROWS = 64
COLS = 64
DEPTH = 32
QUERIES = 64
KEYS = 32
WARPS = 4
STAGES = 2
BLOCK = 1024


@triton.jit
def norm(x, weight, y, D, EPS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    squares = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, D, BLOCK):
        at = first + tl.arange(0, BLOCK)
        value = tl.load(x + row * D + at, mask=at < D, other=0.0).to(tl.float32)
        squares += value * value
    scale = 1.0 / tl.sqrt(tl.sum(squares) / D + EPS)
    for first in range(0, D, BLOCK):
        at = first + tl.arange(0, BLOCK)
        value = tl.load(x + row * D + at, mask=at < D, other=0.0).to(tl.float32)
        w = tl.load(weight + at, mask=at < D, other=0.0).to(tl.float32)
        tl.store(y + row * D + at, value * scale * w, mask=at < D)


@triton.jit
def product(
    x, w, carried, y, M, N, K,
    ADD: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
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
    at = rows[:, None] * N + cols[None, :]
    inside = (rows[:, None] < M) & (cols[None, :] < N)
    if ADD:
        total += tl.load(carried + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + at, total, mask=inside)


@triton.jit
def rotate(qkv, cos, sin, S, H, D: tl.constexpr):
    """Rotates the queries and keys of one token in place; a row is [q heads, k heads, v heads]."""
    token = tl.program_id(0).to(tl.int64)
    time = token % S
    half = tl.arange(0, D // 2)
    start = (token * 3 * H + tl.program_id(1)) * D
    a = tl.load(qkv + start + half).to(tl.float32)
    b = tl.load(qkv + start + D // 2 + half).to(tl.float32)
    c = tl.load(cos + time * (D // 2) + half)
    s = tl.load(sin + time * (D // 2) + half)
    tl.store(qkv + start + half, a * c - b * s)
    tl.store(qkv + start + D // 2 + half, b * c + a * s)


@triton.jit
def attention(qkv, o, S, H, scale, D: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, UPCAST: tl.constexpr):
    sample = (tl.program_id(1) // H).to(tl.int64)
    head = tl.program_id(1) % H
    rows = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    ds = tl.arange(0, D)
    of_heads = qkv + sample * S * 3 * H * D + head * D
    of_q = tl.load(of_heads + rows[:, None] * 3 * H * D + ds[None, :], mask=rows[:, None] < S, other=0.0)
    peak = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    out = tl.zeros((QUERIES, D), tl.float32)
    for first in range(0, tl.minimum(S, (tl.program_id(0) + 1) * QUERIES), KEYS):
        cols = first + tl.arange(0, KEYS)
        of_k = tl.load(of_heads + H * D + cols[None, :] * 3 * H * D + ds[:, None], mask=cols[None, :] < S, other=0.0)
        of_v = tl.load(
            of_heads + 2 * H * D + cols[:, None] * 3 * H * D + ds[None, :], mask=cols[:, None] < S, other=0.0
        )
        if UPCAST:
            scores = tl.dot(of_q.to(tl.float32), of_k.to(tl.float32)) * scale
        else:
            scores = tl.dot(of_q, of_k) * scale
        scores = tl.where((cols[None, :] <= rows[:, None]) & (cols[None, :] < S), scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        p = tl.exp(scores - higher[:, None])
        shrink = tl.exp(peak - higher)
        total = total * shrink + tl.sum(p, 1)
        if UPCAST:
            out = out * shrink[:, None] + tl.dot(p, of_v.to(tl.float32))
        else:
            out = out * shrink[:, None] + tl.dot(p.to(tl.bfloat16), of_v)
        peak = higher
    there = o + (sample * S + rows[:, None]) * H * D + head * D + ds[None, :]
    tl.store(there, out / total[:, None], mask=rows[:, None] < S)


@triton.jit
def gated(gate, up, hidden, TOTAL, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(gate + at, mask=at < TOTAL, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=at < TOTAL, other=0.0).to(tl.float32)
    tl.store(hidden + at, g / (1.0 + tl.exp(-g)) * u, mask=at < TOTAL)


def multiply(x, w, y, carried=None):
    M, K = x.shape
    N = w.shape[0]
    grid = (triton.cdiv(M, ROWS), triton.cdiv(N, COLS))
    last = (M, N, K, carried is not None, ROWS, COLS, DEPTH, not x.is_cuda)
    product[grid](x, w, y if carried is None else carried, y, *last, num_warps=WARPS, num_stages=STAGES)


def run(x, norm1, w_qkv, w_out, norm2, w_gate, w_up, w_down, cos, sin, y):
    B, S, D = x.shape
    d = 2 * cos.shape[1]
    H = D // d
    T, F = B * S, w_gate.shape[0]

    def empty(width):
        return torch.empty((T, width), dtype=x.dtype, device=x.device)

    flat, normed, qkv, mixed, middle = x.view(T, D), empty(D), empty(3 * D), empty(D), empty(D)
    norm[(T,)](flat, norm1, normed, D, 1e-6, BLOCK, num_warps=WARPS)
    multiply(normed, w_qkv, qkv)
    rotate[(T, 2 * H)](qkv, cos, sin, S, H, d, num_warps=1)
    grid = (triton.cdiv(S, QUERIES), B * H)
    how = {"num_warps": WARPS, "num_stages": STAGES}
    attention[grid](qkv, mixed, S, H, d**-0.5, d, QUERIES, KEYS, not x.is_cuda, **how)
    multiply(mixed, w_out, middle, flat)
    norm[(T,)](middle, norm2, normed, D, 1e-6, BLOCK, num_warps=WARPS)
    gate, up, hidden = empty(F), empty(F), empty(F)
    multiply(normed, w_gate, gate)
    multiply(normed, w_up, up)
    gated[(triton.cdiv(T * F, BLOCK),)](gate, up, hidden, T * F, BLOCK)
    multiply(hidden, w_down, y.view(T, D), middle)
