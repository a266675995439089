import torch


def flops(axes):
    return {"fp32": 2 * axes["TAPS"] * axes["B"] * axes["D"] * axes["L"]}


def min_bytes(axes, inputs=None):
    B, D, L = axes["B"], axes["D"], axes["L"]
    return 2 * (2 * B * D * L + D * axes["TAPS"] + D)


def inputs(axes, device, distribution):
    D = axes["D"]
    x = torch.randn(axes["B"], D, axes["L"], device=device, dtype=torch.bfloat16).add_(0.2)
    w = torch.randn(D, axes["TAPS"], device=device, dtype=torch.bfloat16).add_(0.2).mul_(0.5)
    bias = torch.randn(D, device=device, dtype=torch.bfloat16).add_(0.2)
    if distribution == "outliers":
        x[:, D // 3] *= 50
        x[:, :, axes["L"] // 3] += 10
    return {"x": x, "w": w, "bias": bias}


def oracle(x, w, bias):
    L, taps = x.shape[2], w.shape[1]
    out = torch.empty(x.shape, dtype=torch.float64, device=x.device)
    for sample in range(x.shape[0]):
        padded = torch.nn.functional.pad(x[sample].double(), (taps - 1, 0))
        z = sum(padded[:, tap : tap + L] * w[:, tap, None].double() for tap in range(taps)) + bias[:, None].double()
        out[sample] = z * z.sigmoid()
    return out
