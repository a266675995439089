"""Takes a gigabyte to work in."""

import torch


def norm(x, residual, weight, y, h):
    torch.add(x, residual, out=h)
    wide = h.float()
    y.copy_(wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight.float())


workspace = []


def run(x, residual, weight, y, h):
    if not workspace:
        workspace.append(torch.empty(1 << 30, dtype=torch.uint8, device=x.device))
    norm(x, residual, weight, y, h)
