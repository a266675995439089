"""Reads the clock."""

import time

import torch


def norm(x, residual, weight, y, h):
    torch.add(x, residual, out=h)
    wide = h.float()
    y.copy_(wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight.float())


times = []


def run(x, residual, weight, y, h):
    times.append(time.perf_counter())
    norm(x, residual, weight, y, h)
