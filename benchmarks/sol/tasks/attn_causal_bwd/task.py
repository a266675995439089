import torch


def flops(axes):
    """Five products of a causal triangle: scores and dP again, dV, dQ, dK."""
    pairs = axes["S"] * (axes["S"] + 1) // 2
    return {"bf16": 5 * 2 * axes["B"] * axes["H"] * pairs * axes["D"]}


def min_bytes(axes, inputs=None):
    rows = axes["B"] * axes["H"] * axes["S"]
    return 2 * 8 * rows * axes["D"] + 4 * rows


def inputs(axes, device, distribution):
    shape = (axes["B"], axes["H"], axes["S"], axes["D"])
    do = torch.randn(shape, device=device, dtype=torch.bfloat16).add_(0.1)
    q = torch.randn(shape, device=device, dtype=torch.bfloat16).add_(0.1)
    k = torch.randn(shape, device=device, dtype=torch.bfloat16).add_(-0.1)
    v = torch.randn(shape, device=device, dtype=torch.bfloat16).add_(0.3)
    if distribution == "outliers":
        k[:, :, axes["S"] // 3] *= 4
        v[..., axes["D"] // 5] *= 10
    if q.is_cuda:
        o, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True, scale=axes["D"] ** -0.5)[:2]
    else:
        future = torch.ones(shape[2], shape[2], dtype=torch.bool, device=device).triu(1)
        scores = (q.float() @ k.float().mT * axes["D"] ** -0.5).masked_fill_(future, float("-inf"))
        o, lse = (scores.softmax(-1) @ v.float()).to(q.dtype), scores.logsumexp(-1)
    return {"do": do, "q": q, "k": k, "v": v, "o": o.contiguous(), "lse": lse.contiguous()}


def oracle(do, q, k, v, o, lse):
    dq, dk, dv = (torch.empty(q.shape, dtype=torch.float64, device=q.device) for _ in range(3))
    S, D = q.shape[2:]
    future = torch.ones(S, S, dtype=torch.bool, device=q.device).triu(1)
    for sample in range(q.shape[0]):
        for head in range(q.shape[1]):  # all scores of one head at a time: 16384^2 of them are 2 GB
            at = (sample, head)
            of_do, of_q, of_k, of_v = (x[at].double() for x in (do, q, k, v))
            p = (of_q @ of_k.T * D**-0.5 - lse[at].double()[:, None]).exp_().masked_fill_(future, 0)
            dv[at] = p.T @ of_do
            p *= of_do @ of_v.T - (of_do * o[at].double()).sum(-1, keepdim=True)
            dq[at], dk[at] = p @ of_k * D**-0.5, p.T @ of_q * D**-0.5
    return dq, dk, dv
