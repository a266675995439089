"""Calls a library's function."""

import torch


def run(x, residual, weight, y, h):
    torch.add(x, residual, out=h)
    y.copy_(torch.nn.functional.rms_norm(h.float(), (h.shape[1],), weight.float(), 1e-5))
