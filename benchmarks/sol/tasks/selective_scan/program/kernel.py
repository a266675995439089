"""h = exp(delta a) h + delta u b, y = c h + skip u: a block of channels a program, token after token."""

import triton
import triton.language as tl

CHANNELS = 32
WARPS = 1


@triton.jit
def scan(u, delta, a, b, c, skip, y, L, D, N: tl.constexpr, CHANNELS: tl.constexpr):
    sample = tl.program_id(1).to(tl.int64)
    ds = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    ns = tl.arange(0, N)
    rate = tl.load(a + ds[:, None] * N + ns[None, :], mask=ds[:, None] < D, other=0.0)
    straight = tl.load(skip + ds, mask=ds < D, other=0.0)
    state = tl.zeros((CHANNELS, N), tl.float32)
    for time in range(0, L):
        at = (sample * L + time) * D + ds
        of_u = tl.load(u + at, mask=ds < D, other=0.0).to(tl.float32)
        step = tl.load(delta + at, mask=ds < D, other=0.0).to(tl.float32)
        of_b = tl.load(b + (sample * L + time) * N + ns).to(tl.float32)
        of_c = tl.load(c + (sample * L + time) * N + ns).to(tl.float32)
        state = tl.exp(step[:, None] * rate) * state + (step * of_u)[:, None] * of_b[None, :]
        tl.store(y + at, tl.sum(state * of_c[None, :], 1) + straight * of_u, mask=ds < D)


def run(u, delta, a, b, c, skip, y):
    B, L, D = u.shape
    N = a.shape[1]
    scan[(triton.cdiv(D, CHANNELS), B)](u, delta, a, b, c, skip, y, L, D, N, CHANNELS, num_warps=WARPS)
