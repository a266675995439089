"""Rounds to bfloat16 once more on the way, as plain code in that type does."""

import torch


def run(x, residual, weight, y, h):
    torch.add(x, residual, out=h)
    wide = h.float()
    scaled = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype)
    y.copy_(scaled * weight)
