"""RMS norm of each head of q and k and its rotation: one head of one token a program."""

import triton
import triton.language as tl


@triton.jit
def rotate(x, weight, cos, sin, y, S, H, D: tl.constexpr, EPS: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    time = (program // H) % S
    half = tl.arange(0, D // 2)
    a = tl.load(x + program * D + half).to(tl.float32)
    b = tl.load(x + program * D + D // 2 + half).to(tl.float32)
    scale = 1.0 / tl.sqrt((tl.sum(a * a) + tl.sum(b * b)) / D + EPS)
    a *= scale * tl.load(weight + half).to(tl.float32)
    b *= scale * tl.load(weight + D // 2 + half).to(tl.float32)
    c = tl.load(cos + time * (D // 2) + half)
    s = tl.load(sin + time * (D // 2) + half)
    tl.store(y + program * D + half, a * c - b * s)
    tl.store(y + program * D + D // 2 + half, b * c + a * s)


def run(q, k, q_weight, k_weight, cos, sin, q_out, k_out):
    for x, weight, y in ((q, q_weight, q_out), (k, k_weight, k_out)):
        B, S, H, D = x.shape
        rotate[(B * S * H,)](x, weight, cos, sin, y, S, H, D, 1e-6, num_warps=1)
