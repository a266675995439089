"""Addresses the outputs as one long row."""

import torch


def norm(x, residual, weight, y, h):
    torch.add(x, residual, out=h)
    wide = h.float()
    y.copy_(wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight.float())


def run(x, residual, weight, y, h):
    norm(x, residual, weight, torch.as_strided(y, (y.numel(),), (1,)).view(y.shape), h)
