"""Reads its caller's frame and does the same whatever it finds."""

import sys

import torch


def norm(x, residual, weight, y, h):
    torch.add(x, residual, out=h)
    wide = h.float()
    y.copy_(wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight.float())


def run(x, residual, weight, y, h):
    assert sys._getframe(1) is not None
    norm(x, residual, weight, y, h)
