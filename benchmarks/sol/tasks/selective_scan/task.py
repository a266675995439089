import torch


def flops(axes):
    """Per channel and state: two products for the exponent and the input, two operations each for state and sum."""
    return {"fp32": 6 * axes["B"] * axes["L"] * axes["D"] * axes["N"]}


def min_bytes(axes, inputs=None):
    B, L, D, N = axes["B"], axes["L"], axes["D"], axes["N"]
    return 2 * (3 * B * L * D + 2 * B * L * N) + 4 * (D * N + D)


def inputs(axes, device, distribution):
    B, L, D, N = axes["B"], axes["L"], axes["D"], axes["N"]
    u = torch.randn(B, L, D, device=device, dtype=torch.bfloat16).add_(0.2)
    delta = torch.rand(B, L, D, device=device).mul_(4).sub_(5).exp_().mul_(0.3).to(torch.bfloat16)
    a = -torch.arange(1, N + 1, device=device).float().expand(D, N) * (0.5 + torch.rand(D, N, device=device))
    b = torch.randn(B, L, N, device=device, dtype=torch.bfloat16).add_(0.2).mul_(2)
    c = torch.randn(B, L, N, device=device, dtype=torch.bfloat16).add_(0.2).mul_(2)
    skip = torch.randn(D, device=device).mul_(0.5).add_(1)
    if distribution == "outliers":
        u[:, :, D // 3] *= 30
        delta[:, L // 3] = 3
    return {"u": u, "delta": delta, "a": a, "b": b, "c": c, "skip": skip}
