import torch


def flops(axes):
    return {"fp32": 5 * axes["N"] * axes["C"] * axes["H"] * axes["W"]}


def min_bytes(axes, inputs=None):
    return 2 * (2 * axes["N"] * axes["C"] * axes["H"] * axes["W"] + 2 * axes["C"])


def inputs(axes, device, distribution):
    C = axes["C"]
    x = torch.randn(axes["N"], C, axes["H"], axes["W"], device=device, dtype=torch.bfloat16).add_(0.5)
    weight = torch.randn(C, device=device).mul_(0.5).add_(1).to(torch.bfloat16)
    bias = torch.randn(C, device=device).mul_(0.5).add_(0.2).to(torch.bfloat16)
    if distribution == "outliers":
        x[:, C // 3] *= 20
        x[0] += 5
    return {"x": x, "weight": weight, "bias": bias}
