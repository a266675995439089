import torch


def run(x, residual, weight):
    h = x + residual
    wide = h.float()
    y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight.float()
    return y.to(x.dtype), h
