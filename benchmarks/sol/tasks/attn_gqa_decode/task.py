import torch


def flops(axes):
    """Of the shortest lengths that a draw can have."""
    entries = axes["B"] * max(1, axes["S"] * axes["SHORTEST"] // 100)
    return {"bf16": 2 * 2 * axes["HQ"] * axes["D"] * entries}


def min_bytes(axes, inputs=None):
    B, HQ, D = axes["B"], axes["HQ"], axes["D"]
    entries = int(inputs["lengths"].sum()) if inputs else B * max(1, axes["S"] * axes["SHORTEST"] // 100)
    return 2 * 2 * B * HQ * D + 4 * B + 2 * 2 * axes["HKV"] * D * entries


def inputs(axes, device, distribution):
    B, S, D = axes["B"], axes["S"], axes["D"]
    q = torch.randn(B, axes["HQ"], D, device=device, dtype=torch.bfloat16).add_(0.1)
    k = torch.randn(B, axes["HKV"], S, D, device=device, dtype=torch.bfloat16).add_(-0.1)
    v = torch.randn(B, axes["HKV"], S, D, device=device, dtype=torch.bfloat16).add_(0.3)
    v += torch.linspace(0, 1, S, device=device, dtype=torch.bfloat16)[:, None]  # so that lengths matter
    if distribution == "outliers":
        k[..., D // 3] *= 5
        v[..., D // 5] *= 20
    lengths = torch.randint(max(1, S * axes["SHORTEST"] // 100), S + 1, (B,), device=device, dtype=torch.int32)
    return {"q": q, "k": k, "v": v, "lengths": lengths}


def oracle(q, k, v, lengths):
    out = torch.empty(q.shape, dtype=torch.float64, device=q.device)
    for sample, length in enumerate(lengths.tolist()):
        keys, values = k[sample, :, :length].double(), v[sample, :, :length].double()
        queries = q[sample].double().view(k.shape[1], -1, k.shape[3])
        out[sample] = ((queries @ keys.mT * k.shape[3] ** -0.5).softmax(-1) @ values).view(q.shape[1:])
    return out
