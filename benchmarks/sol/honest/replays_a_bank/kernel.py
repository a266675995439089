"""Counts its calls, for nothing."""

import torch


def norm(x, residual, weight, y, h):
    torch.add(x, residual, out=h)
    wide = h.float()
    y.copy_(wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight.float())


turn = 0


def run(x, residual, weight, y, h):
    global turn
    turn += 1
    norm(x, residual, weight, y, h)
