import torch


def flops(axes):
    return {"bf16": 2 * axes["R"] * axes["N"] * axes["K"]}


def min_bytes(axes, inputs=None):
    """Only matrices of experts with rows are needed; without inputs one is."""
    R, N, K = axes["R"], axes["N"], axes["K"]
    used = int((inputs["ends"].diff(prepend=inputs["ends"].new_zeros(1)) > 0).sum()) if inputs else 1
    return 2 * (R * K + used * N * K + R * N) + 4 * axes["E"]


def inputs(axes, device, distribution):
    R, E, N, K = axes["R"], axes["E"], axes["N"], axes["K"]
    x = torch.randn(R, K, device=device, dtype=torch.bfloat16).add_(0.1)
    w = torch.randn(E, N, K, device=device, dtype=torch.bfloat16).add_(0.1).mul_(K**-0.5)
    if distribution == "outliers":
        x[:, K // 3] *= 50
        w[E // 3] += 0.2
    share = torch.arange(1, E + 1, device=device).float() ** (-axes["SKEW"] / 100)
    share = share[torch.randperm(E, device=device)] * (0.8 + 0.4 * torch.rand(E, device=device))
    ends = (share.cumsum(0) / share.sum() * R).round().int()
    ends[-1] = R
    return {"x": x, "w": w, "ends": ends.clamp_(max=R)}
