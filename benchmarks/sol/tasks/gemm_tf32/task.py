import torch

# bfloat16 would have four times the error of rounding to TF32; the tensor cores' own truncation has about 1.5 times.
SLACK = {"c": 3}


def flops(axes):
    return {"tf32": 2 * axes["M"] * axes["N"] * axes["K"]}


def min_bytes(axes, inputs=None):
    M, N, K = axes["M"], axes["N"], axes["K"]
    return 4 * (M * K + K * N + M * N)


def inputs(axes, device, distribution):
    M, N, K = axes["M"], axes["N"], axes["K"]
    a = torch.randn(M, K, device=device).add_(0.05)
    b = torch.randn(K, N, device=device).add_(0.1).mul_(K**-0.5)
    if distribution == "outliers":
        a[:, K // 3] *= 10
        b[:, N // 3] *= 20
    return {"a": a, "b": b}
