import torch

# By calculation for these inputs: truncating to TF32, as the tensor cores do, has 2.7 times the error of rounding, and
# bfloat16 has four times.
SLACK = {"c": 3.5}


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
