import torch


def flops(axes):
    return {"fp32": 7 * axes["B"] * axes["S"] * (axes["HQ"] + axes["HK"]) * axes["D"]}


def min_bytes(axes, inputs=None):
    S, D = axes["S"], axes["D"]
    return 2 * 2 * axes["B"] * S * (axes["HQ"] + axes["HK"]) * D + 2 * 2 * D + 2 * 4 * S * axes["HALF"]


def inputs(axes, device, distribution):
    B, S, D = axes["B"], axes["S"], axes["D"]
    q = torch.randn(B, S, axes["HQ"], D, device=device, dtype=torch.bfloat16).add_(0.2)
    k = torch.randn(B, S, axes["HK"], D, device=device, dtype=torch.bfloat16).add_(-0.2)
    q_weight, k_weight = (torch.randn(D, device=device).mul_(0.5).add_(1).to(torch.bfloat16) for _ in range(2))
    if distribution == "outliers":
        q[..., D // 3] *= 50
        k[:, S // 3] *= 0.001
    turns = torch.arange(axes["HALF"], device=device) / axes["HALF"]
    # The offset keeps the first token from being left as it is, and the tables from being known.
    angle = (torch.arange(S, device=device) + 1000 * torch.rand((), device=device))[:, None] * 10000.0**-turns
    return {"q": q, "k": k, "q_weight": q_weight, "k_weight": k_weight, "cos": angle.cos(), "sin": angle.sin()}


def oracle(q, k, q_weight, k_weight, cos, sin):
    def rotated(x, weight):
        wide = x.double()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) * weight.double()
        a, b = wide.chunk(2, -1)
        c, s = cos.double()[:, None], sin.double()[:, None]
        return torch.cat([a * c - b * s, b * c + a * s], -1)

    return rotated(q, q_weight), rotated(k, k_weight)
