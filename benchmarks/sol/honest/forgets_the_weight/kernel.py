"""Multiplies by the weight first."""

import torch


def run(x, residual, weight, y, h):
    torch.add(x, residual, out=h)
    wide = h.float()
    y.copy_(wide * weight.float() * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5))
