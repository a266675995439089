"""Talks, but to standard output."""

import os

import torch


def norm(x, residual, weight, y, h):
    torch.add(x, residual, out=h)
    wide = h.float()
    y.copy_(wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight.float())


def run(x, residual, weight, y, h):
    os.write(1, b"one call\n")
    norm(x, residual, weight, y, h)
