"""Works in place on a copy."""

import torch


def run(x, residual, weight, y, h):
    own = x.clone()
    own.add_(residual)
    h.copy_(own)
    wide = own.float()
    y.copy_(wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight.float())
