import torch


def flops(axes):
    return {"bf16": 2 * axes["M"] * axes["N"] * axes["K"]}


def min_bytes(axes, inputs=None):
    M, N, K = axes["M"], axes["N"], axes["K"]
    return 2 * (M * K + N * K + N + M * N)


def inputs(axes, device, distribution):
    M, N, K = axes["M"], axes["N"], axes["K"]
    x = torch.randn(M, K, device=device, dtype=torch.bfloat16).add_(0.1)
    w = torch.randn(N, K, device=device, dtype=torch.bfloat16).add_(0.1).mul_(K**-0.5)
    bias = torch.randn(N, device=device, dtype=torch.bfloat16).add_(0.3)
    if distribution == "outliers":
        x[:, K // 3] *= 20
        bias[N // 3] += 10
    return {"x": x, "w": w, "bias": bias}
