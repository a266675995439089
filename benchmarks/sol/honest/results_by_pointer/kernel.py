"""Keeps workspaces by shape."""

import torch


def norm(x, residual, weight, y, h):
    torch.add(x, residual, out=h)
    wide = h.float()
    y.copy_(wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight.float())


workspaces = {}


def run(x, residual, weight, y, h):
    if x.shape not in workspaces:
        workspaces[x.shape] = torch.empty_like(x)
    workspace = workspaces[x.shape]
    workspace.copy_(x)
    norm(workspace, residual, weight, y, h)
