import torch


def flops(axes):
    return {"bf16": 2 * axes["T"] * axes["V"] * axes["K"]}


def min_bytes(axes, inputs=None):
    T, V, K = axes["T"], axes["V"], axes["K"]
    return 2 * (T * K + V * K) + (8 + 4) * T


def inputs(axes, device, distribution):
    T, V, K = axes["T"], axes["V"], axes["K"]
    x = torch.randn(T, K, device=device, dtype=torch.bfloat16).add_(0.1)
    w = torch.randn(V, K, device=device, dtype=torch.bfloat16).add_(0.1).mul_(2 * K**-0.5)
    if distribution == "outliers":
        x[:, K // 3] *= 10
        w[V // 3] *= 3
    return {"x": x, "w": w, "target": torch.randint(0, V, (T,), device=device)}


def oracle(x, w, target):
    loss = torch.empty(x.shape[0], dtype=torch.float64, device=x.device)
    wide = w.double()
    for first in range(0, x.shape[0], 512):
        part = slice(first, first + 512)
        loss[part] = torch.nn.functional.cross_entropy(x[part].double() @ wide.T, target[part], reduction="none")
    return loss
