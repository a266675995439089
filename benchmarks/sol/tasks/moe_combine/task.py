import torch


def flops(axes):
    return {"fp32": (2 * axes["K"] - 1) * axes["T"] * axes["D"]}


def min_bytes(axes, inputs=None):
    """Rows that no index names are not needed; without inputs one row is."""
    T, K, D = axes["T"], axes["K"], axes["D"]
    touched = int(inputs["index"].unique().numel()) if inputs else 1
    return 2 * touched * D + 4 * 2 * T * K + 2 * T * D


def inputs(axes, device, distribution):
    T, K, D, R = axes["T"], axes["K"], axes["D"], axes["R"]
    rows = torch.randn(R, D, device=device, dtype=torch.bfloat16).add_(0.2)
    index = torch.randperm(R, device=device, dtype=torch.int32).view(T, K)
    weight = torch.randn(T, K, device=device).softmax(-1)
    if distribution == "outliers":
        rows[:, D // 3] *= 100
        weight[:, 0] *= 3
    return {"rows": rows, "index": index, "weight": weight}


def oracle(rows, index, weight):
    out = torch.empty(index.shape[0], rows.shape[1], dtype=torch.float64, device=rows.device)
    for first in range(0, index.shape[0], 4096):
        part = slice(first, first + 4096)
        out[part] = (rows[index[part]].double() * weight[part, :, None].double()).sum(1)
    return out
