"""One token's attention over a cache that groups of heads share: one query head a program, which walks its cache."""

import triton
import triton.language as tl

KEYS = 32
WARPS = 4


@triton.jit
def decode(q, k, v, lengths, o, S, HQ, HKV, scale, D: tl.constexpr, KEYS: tl.constexpr):
    head = tl.program_id(0)
    sample = tl.program_id(1).to(tl.int64)
    length = tl.load(lengths + sample)
    ds = tl.arange(0, D)
    of_q = tl.load(q + (sample * HQ + head) * D + ds).to(tl.float32) * scale
    start = (sample * HKV + head // (HQ // HKV)) * S * D
    peak = float("-inf")
    total = 0.0
    out = tl.zeros((D,), tl.float32)
    for first in range(0, length, KEYS):
        at = first + tl.arange(0, KEYS)
        there = start + at[:, None] * D + ds[None, :]
        of_k = tl.load(k + there, mask=at[:, None] < length, other=0.0).to(tl.float32)
        of_v = tl.load(v + there, mask=at[:, None] < length, other=0.0).to(tl.float32)
        scores = tl.where(at < length, tl.sum(of_k * of_q[None, :], 1), float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 0))
        p = tl.exp(scores - higher)
        shrink = tl.exp(peak - higher)
        total = total * shrink + tl.sum(p, 0)
        out = out * shrink + tl.sum(p[:, None] * of_v, 0)
        peak = higher
    tl.store(o + (sample * HQ + head) * D + ds, out / total)


def run(q, k, v, lengths, o):
    B, HQ, D = q.shape
    HKV, S = k.shape[1:3]
    decode[(HQ, B)](q, k, v, lengths, o, S, HQ, HKV, D**-0.5, D, KEYS, num_warps=WARPS)
