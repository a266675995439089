"""Cross-entropy of x w^T per row: a block of rows a program, which walks the vocabulary with a running softmax."""

import triton
import triton.language as tl

ROWS = 64
COLS = 64
DEPTH = 32
WARPS = 4
STAGES = 2


@triton.jit
def cross_entropy(
    x, w, target, loss, T, V, K, ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr, UPCAST: tl.constexpr
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    wanted = tl.load(target + rows, mask=rows < T, other=0)
    peak = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    truth = tl.zeros((ROWS,), tl.float32)
    for start in range(0, V, COLS):
        cols = start + tl.arange(0, COLS)
        logits = tl.zeros((ROWS, COLS), tl.float32)
        for first in range(0, K, DEPTH):
            ks = first + tl.arange(0, DEPTH)
            a = tl.load(x + rows[:, None] * K + ks[None, :], mask=(rows[:, None] < T) & (ks[None, :] < K), other=0.0)
            there = w + cols[None, :].to(tl.int64) * K + ks[:, None]
            b = tl.load(there, mask=(cols[None, :] < V) & (ks[:, None] < K), other=0.0)
            if UPCAST:  # Triton's interpreter multiplies the bit patterns of bfloat16
                a = a.to(tl.float32)
                b = b.to(tl.float32)
            logits += tl.dot(a, b)
        logits = tl.where(cols[None, :] < V, logits, float("-inf"))
        truth += tl.sum(tl.where(cols[None, :] == wanted[:, None], logits, 0.0), 1)
        higher = tl.maximum(peak, tl.max(logits, 1))
        total = total * tl.exp(peak - higher) + tl.sum(tl.exp(logits - higher[:, None]), 1)
        peak = higher
    tl.store(loss + rows, peak + tl.log(total) - truth, mask=rows < T)


def run(x, w, target, loss):
    T, K = x.shape
    V = w.shape[0]
    grid = (triton.cdiv(T, ROWS),)
    last = (T, V, K, ROWS, COLS, DEPTH, not x.is_cuda)
    cross_entropy[grid](x, w, target, loss, *last, num_warps=WARPS, num_stages=STAGES)
