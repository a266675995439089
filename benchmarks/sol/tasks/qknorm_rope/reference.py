import torch


def rotated(x, weight, cos, sin):
    wide = x.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) * weight.float()
    a, b = wide.chunk(2, -1)
    c, s = cos[:, None], sin[:, None]
    return torch.cat([a * c - b * s, b * c + a * s], -1).to(x.dtype)


def run(q, k, q_weight, k_weight, cos, sin):
    return rotated(q, q_weight, cos, sin), rotated(k, k_weight, cos, sin)
