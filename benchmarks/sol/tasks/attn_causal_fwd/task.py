import torch


def flops(axes):
    pairs = axes["S"] * (axes["S"] + 1) // 2
    return {"bf16": 2 * 2 * axes["B"] * axes["H"] * pairs * axes["D"]}


def min_bytes(axes, inputs=None):
    return 2 * 4 * axes["B"] * axes["H"] * axes["S"] * axes["D"]


def inputs(axes, device, distribution):
    shape = (axes["B"], axes["H"], axes["S"], axes["D"])
    q = torch.randn(shape, device=device, dtype=torch.bfloat16).add_(0.1)
    k = torch.randn(shape, device=device, dtype=torch.bfloat16).add_(-0.1)
    v = torch.randn(shape, device=device, dtype=torch.bfloat16).add_(0.3)
    if distribution == "outliers":
        k[..., axes["D"] // 3] *= 5
        k[:, :, axes["S"] // 3] *= 4
        v[..., axes["D"] // 5] *= 20
    return {"q": q, "k": k, "v": v}


def oracle(q, k, v):
    out = torch.empty(q.shape, dtype=torch.float64, device=q.device)
    S, D = q.shape[2:]
    past = torch.ones(S, S, dtype=torch.bool, device=q.device).tril()
    for sample in range(q.shape[0]):
        for head in range(q.shape[1]):  # all scores of one head at a time: 16384^2 of them are 2 GB
            a, b, c = (x[sample, head].double() for x in (q, k, v))
            out[sample, head] = (a @ b.T * D**-0.5).masked_fill_(~past, float("-inf")).softmax(-1) @ c
    return out
