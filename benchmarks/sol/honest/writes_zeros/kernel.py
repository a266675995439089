"""Zeroes a workspace of its own."""

import torch


def norm(x, residual, weight, y, h):
    torch.add(x, residual, out=h)
    wide = h.float()
    y.copy_(wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight.float())


def run(x, residual, weight, y, h):
    workspace = torch.empty_like(x)
    workspace.zero_()
    norm(x + workspace, residual, weight, y, h)
