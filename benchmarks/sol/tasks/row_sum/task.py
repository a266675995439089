import torch

# The order of summation is free; the reference adds along a tree, whose error is far below that of a running sum.
SLACK = {"total": 32}


def flops(axes):
    return {"fp32": 2 * axes["R"] * (axes["C"] - 1)}


def min_bytes(axes, inputs=None):
    return 4 * (axes["R"] * axes["C"] + 2 * axes["R"])


def inputs(axes, device, distribution):
    R, C = axes["R"], axes["C"]
    x = torch.randn(R, C, device=device).add_(0.1)
    if distribution == "outliers":
        x[:, C // 3] *= 100
        x -= 1
    return {"x": x}
