"""Takes another way for odd sizes, and a right one."""

import torch


def norm(x, residual, weight, y, h):
    torch.add(x, residual, out=h)
    wide = h.float()
    y.copy_(wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight.float())


def run(x, residual, weight, y, h):
    if x.shape[1] % 64 == 0:
        norm(x, residual, weight, y, h)
    else:
        norm(x.contiguous(), residual.contiguous(), weight, y, h)
