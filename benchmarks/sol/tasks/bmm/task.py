import torch


def flops(axes):
    return {"bf16": 2 * axes["B"] * axes["M"] * axes["N"] * axes["K"]}


def min_bytes(axes, inputs=None):
    B, M, N, K = axes["B"], axes["M"], axes["N"], axes["K"]
    return 2 * B * (M * K + K * N + M * N)


def inputs(axes, device, distribution):
    B, M, N, K = axes["B"], axes["M"], axes["N"], axes["K"]
    a = torch.randn(B, M, K, device=device, dtype=torch.bfloat16).add_(0.1)
    b = torch.randn(B, K, N, device=device, dtype=torch.bfloat16).add_(0.1).mul_(K**-0.5)
    if distribution == "outliers":
        a[:, :, K // 3] *= 50
        b[B // 3] += 0.3
    return {"a": a, "b": b}
