import torch


def flops(axes):
    return {"bf16": 2 * axes["M"] * axes["N"] * axes["K"]}


def min_bytes(axes, inputs=None):
    M, N, K = axes["M"], axes["N"], axes["K"]
    return 2 * M * K + N * (K // 2) + 2 * 2 * N * (K // 128) + 2 * M * N


def inputs(axes, device, distribution):
    M, N, K = axes["M"], axes["N"], axes["K"]
    x = torch.randn(M, K, device=device, dtype=torch.bfloat16).add_(0.1)
    q = torch.randint(0, 256, (N, K // 2), device=device, dtype=torch.uint8)
    scale = torch.rand(N, K // 128, device=device).add_(0.5).mul_(0.2 * K**-0.5)
    zero = torch.randint(5, 11, (N, K // 128), device=device)
    if distribution == "outliers":
        x[:, K // 3] *= 50
        scale[N // 3] *= 20
        zero[:, 0] = 0
    return {"x": x, "q": q, "scale": scale.to(torch.bfloat16), "zero": zero.to(torch.bfloat16)}
