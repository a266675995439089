import torch


def flops(axes):
    return {"tf32": 2 * axes["M"] * axes["N"] * axes["K"]}


def min_bytes(axes, inputs=None):
    M, N, K = axes["M"], axes["N"], axes["K"]
    return 4 * (M * K + K * N + M * N)


def inputs(axes, device, distribution):
    M, N, K = axes["M"], axes["N"], axes["K"]
    a = torch.randn(M, K, device=device).add_(0.1)
    b = torch.randn(K, N, device=device).add_(0.1).mul_(K**-0.5)
    if distribution == "outliers":
        a[:, K // 3] *= 50
        b[:, N // 3] += 1
    return {"a": a, "b": b}
