import torch


def flops(axes):
    return {"fp8": 2 * axes["M"] * axes["N"] * axes["K"]}


def min_bytes(axes, inputs=None):
    M, N, K = axes["M"], axes["N"], axes["K"]
    return M * K + N * K + 4 * (M * axes["KBLOCKS"] + axes["NBLOCKS"] * axes["KBLOCKS"]) + 2 * M * N


def inputs(axes, device, distribution):
    M, N, K = axes["M"], axes["N"], axes["K"]
    a = torch.randn(M, K, device=device).add_(0.1).mul_(60)
    b = torch.randn(N, K, device=device).add_(0.1).mul_(60)
    a_scale = torch.rand(M, axes["KBLOCKS"], device=device).add_(0.5).div_(60)
    b_scale = torch.rand(axes["NBLOCKS"], axes["KBLOCKS"], device=device).add_(0.5).mul_(K**-0.5 / 60)
    if distribution == "outliers":
        a[:, K // 3] = 448
        a_scale[M // 3] *= 30
        b_scale[:, 0] *= 10
    a, b = (x.clamp_(-448, 448).to(torch.float8_e4m3fn) for x in (a, b))
    return {"a": a, "a_scale": a_scale, "b": b, "b_scale": b_scale}


def oracle(a, a_scale, b, b_scale):
    of_a = a_scale.double().repeat_interleave(128, 1)
    of_b = b_scale.double().repeat_interleave(128, 0)[: b.shape[0]].repeat_interleave(128, 1)
    return (a.double() * of_a) @ (b.double() * of_b).T
