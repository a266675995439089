import torch

# The order of summation is free, and the reference's atomic additions change theirs from call to call.
SLACK = {"dw": 16}


def flops(axes):
    """No addition is counted: which rows meet depends on the ids."""
    return {}


def min_bytes(axes, inputs=None):
    R, D, V = axes["R"], axes["D"], axes["V"]
    return 2 * R * D + 8 * R + 4 * V * D


def inputs(axes, device, distribution):
    R, D, V = axes["R"], axes["D"], axes["V"]
    dy = torch.randn(R, D, device=device, dtype=torch.bfloat16).add_(0.1)
    if distribution == "outliers":
        dy[:, D // 3] *= 50
        dy[R // 3] *= 100
    share = torch.arange(1, V + 1, device=device).double() ** (-axes["ZIPF"] / 100)
    share = share.cumsum(0)
    ids = torch.searchsorted(share, torch.rand(R, device=device, dtype=torch.float64) * share[-1]).clamp_(max=V - 1)
    return {"dy": dy, "ids": torch.randperm(V, device=device)[ids], "vocabulary": V}
