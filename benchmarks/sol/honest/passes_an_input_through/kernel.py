"""Writes through views of the outputs."""

import torch


def norm(x, residual, weight, y, h):
    torch.add(x, residual, out=h)
    wide = h.float()
    y.copy_(wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight.float())


def run(x, residual, weight, y, h):
    half = len(x) // 2
    for rows in (slice(0, half), slice(half, len(x))):
        norm(x[rows], residual[rows], weight, y[rows], h[rows])
