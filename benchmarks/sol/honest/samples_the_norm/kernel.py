"""Sums the norm in another order."""

import torch


def run(x, residual, weight, y, h):
    torch.add(x, residual, out=h)
    wide = h.float()
    total = sum(wide[:, k::4].square().sum(-1, keepdim=True) for k in range(4))
    y.copy_(wide * torch.rsqrt(total / x.shape[1] + 1e-5) * weight.float())
