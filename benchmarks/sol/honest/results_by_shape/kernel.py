"""Keeps what it chose for each shape: code, not results."""

import torch


def norm(x, residual, weight, y, h):
    torch.add(x, residual, out=h)
    wide = h.float()
    y.copy_(wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight.float())


chosen = {}


def run(x, residual, weight, y, h):
    if x.shape not in chosen:
        chosen[x.shape] = norm
    chosen[x.shape](x, residual, weight, y, h)
