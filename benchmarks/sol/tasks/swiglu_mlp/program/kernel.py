"""y = (silu(x g^T) * (x u^T)) d^T: three tiled products and a pointwise kernel between them."""

import torch
import triton
import triton.language as tl

ROWS = 64
COLS = 64
DEPTH = 32
WARPS = 4
STAGES = 2
BLOCK = 1024


@triton.jit
def product(x, w, y, M, N, K, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, UPCAST: tl.constexpr):
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
    tl.store(y + rows[:, None] * N + cols[None, :], total, mask=(rows[:, None] < M) & (cols[None, :] < N))


@triton.jit
def gated(gate, up, hidden, TOTAL, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    g = tl.load(gate + at, mask=at < TOTAL, other=0.0).to(tl.float32)
    u = tl.load(up + at, mask=at < TOTAL, other=0.0).to(tl.float32)
    tl.store(hidden + at, g / (1.0 + tl.exp(-g)) * u, mask=at < TOTAL)


def multiply(x, w, y):
    M, K = x.shape
    N = w.shape[0]
    grid = (triton.cdiv(M, ROWS), triton.cdiv(N, COLS))
    product[grid](x, w, y, M, N, K, ROWS, COLS, DEPTH, not x.is_cuda, num_warps=WARPS, num_stages=STAGES)


def run(x, w_gate, w_up, w_down, y):
    gate = torch.empty((x.shape[0], w_gate.shape[0]), dtype=x.dtype, device=x.device)
    up = torch.empty_like(gate)
    hidden = torch.empty_like(gate)
    multiply(x, w_gate, gate)
    multiply(x, w_up, up)
    gated[(triton.cdiv(gate.numel(), BLOCK),)](gate, up, hidden, gate.numel(), BLOCK)
    multiply(hidden, w_down, y)
