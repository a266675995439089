import torch


def flops(axes):
    return {"fp32": 3 * axes["R"] * axes["C"]}


def min_bytes(axes, inputs=None):
    return 2 * 2 * axes["R"] * axes["C"]


def inputs(axes, device, distribution):
    R, C = axes["R"], axes["C"]
    x = torch.randn(R, C, device=device, dtype=torch.bfloat16).mul_(2).add_(1)
    if distribution == "outliers":
        x[:, C // 3] += 8
        x[R // 3] -= 300
    return {"x": x}
