"""The last row apart from the others."""

import torch


def norm(x, residual, weight, y, h):
    torch.add(x, residual, out=h)
    wide = h.float()
    y.copy_(wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight.float())


def run(x, residual, weight, y, h):
    norm(x[:-1], residual[:-1], weight, y[:-1], h[:-1])
    norm(x[-1:], residual[-1:], weight, y[-1:], h[-1:])
