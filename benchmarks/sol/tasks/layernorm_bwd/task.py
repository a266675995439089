import torch


def flops(axes):
    return {"fp32": 11 * axes["T"] * axes["D"]}


def min_bytes(axes, inputs=None):
    T, D = axes["T"], axes["D"]
    return 2 * (3 * T * D + 3 * D) + 4 * 2 * T


def inputs(axes, device, distribution):
    T, D = axes["T"], axes["D"]
    dy = torch.randn(T, D, device=device, dtype=torch.bfloat16).add_(0.1)
    x = torch.randn(T, D, device=device, dtype=torch.bfloat16).add_(0.5)
    x *= torch.rand(T, 1, device=device).mul_(2).sub_(1).exp_().to(torch.bfloat16)  # else all rows have one rstd
    w = torch.randn(D, device=device).mul_(0.5).add_(1).to(torch.bfloat16)
    if distribution == "outliers":
        x[:, D // 3] *= 50
        dy[:, D // 5] += 3
    variance, mean = torch.var_mean(x.float(), -1, correction=0)
    return {"dy": dy, "x": x, "w": w, "mean": mean, "rstd": (variance + 1e-5).rsqrt()}


def oracle(dy, x, w, mean, rstd):
    dx = torch.empty(x.shape, dtype=torch.float64, device=x.device)
    dw, db = (torch.zeros(x.shape[1], dtype=torch.float64, device=x.device) for _ in range(2))
    for rows in range(0, x.shape[0], 65536):
        part = slice(rows, rows + 65536)
        wide, r = dy[part].double(), rstd[part, None].double()
        g, n = wide * w.double(), (x[part].double() - mean[part, None].double()) * r
        dx[part] = (g - g.mean(-1, keepdim=True) - n * (g * n).mean(-1, keepdim=True)) * r
        dw += (wide * n).sum(0)
        db += wide.sum(0)
    return dx, dw, db
