import torch

# The order of summation is free; a CPU's reference carries float64, a GPU's adds along a tree.
SLACK = {"y": 32}


def flops(axes):
    return {"fp32": axes["R"] * (axes["C"] - 1)}


def min_bytes(axes, inputs=None):
    return 4 * 2 * axes["R"] * axes["C"]


def inputs(axes, device, distribution):
    R, C = axes["R"], axes["C"]
    x = torch.randn(R, C, device=device).add_(0.1)
    if distribution == "outliers":
        x[:, C // 3] *= 100
        x -= 0.3
    return {"x": x}
