"""The k experts with the highest biased sigmoid score and their normalised scores: one token a program, k searches."""

import triton
import triton.language as tl


@triton.jit
def route(logits, bias, weight, expert, E, K: tl.constexpr, WIDTH: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, WIDTH)
    score = tl.sigmoid(tl.load(logits + token * E + at, mask=at < E, other=0.0).to(tl.float32))
    left = score + tl.load(bias + at, mask=at < E, other=0.0)
    left = tl.where(at < E, left, float("-inf"))
    total = 0.0
    for n in tl.static_range(K):
        best = tl.argmax(left, 0)
        chosen = tl.sum(tl.where(at == best, score, 0.0), 0)
        total += chosen
        left = tl.where(at == best, float("-inf"), left)
        tl.store(expert + token * K + n, best)
        tl.store(weight + token * K + n, chosen)
    tl.debug_barrier()  # the weights just stored are read by other threads of this program
    for n in tl.static_range(K):
        tl.store(weight + token * K + n, tl.load(weight + token * K + n) / total)


def run(logits, bias, k, weight, expert):
    T, E = logits.shape
    route[(T,)](logits, bias, weight, expert, E, k, triton.next_power_of_2(E), num_warps=1)
