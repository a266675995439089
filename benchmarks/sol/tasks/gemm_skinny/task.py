import torch


def flops(axes):
    return {"bf16": 2 * axes["M"] * axes["N"] * axes["K"]}


def min_bytes(axes, inputs=None):
    M, N, K = axes["M"], axes["N"], axes["K"]
    return 2 * (M * K + N * K + M * N)


def inputs(axes, device, distribution):
    M, N, K = axes["M"], axes["N"], axes["K"]
    x = torch.randn(M, K, device=device, dtype=torch.bfloat16).add_(0.1)
    w = torch.randn(N, K, device=device, dtype=torch.bfloat16).add_(0.1).mul_(K**-0.5)
    if distribution == "outliers":
        x[:, K // 3] *= 50
        w[N // 3] += 0.5
    return {"x": x, "w": w}
