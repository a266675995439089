import torch


def flops(axes):
    return {"bf16": 2 * axes["M"] * axes["N"] * axes["K"]}


def min_bytes(axes, inputs=None):
    M, N, K = axes["M"], axes["N"], axes["K"]
    return 2 * (M * K + K * N + M * N)


def inputs(axes, device, distribution):
    M, N, K = axes["M"], axes["N"], axes["K"]
    a = torch.randn(M, K, device=device, dtype=torch.bfloat16).add_(0.1)
    b = torch.randn(K, N, device=device, dtype=torch.bfloat16).add_(0.1).mul_(K**-0.5)
    if distribution == "outliers":
        a[:, K // 3] *= 50
        b[:, N // 3] += 1
    return {"a": a, "b": b}
