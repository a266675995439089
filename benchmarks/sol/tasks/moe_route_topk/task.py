import torch


def flops(axes):
    return {"fp32": 3 * axes["T"] * axes["E"]}


def min_bytes(axes, inputs=None):
    T, E, K = axes["T"], axes["E"], axes["K"]
    return 2 * T * E + 4 * E + (4 + 4) * T * K


def inputs(axes, device, distribution):
    """Biased scores are a shuffled grid with jitter, so that the order of the experts is beyond any rounding."""
    T, E = axes["T"], axes["E"]
    bias = torch.rand(E, device=device).mul_(0.19).sub_(0.09)
    if distribution == "outliers":
        bias[E // 3] = 0.1
        bias[E // 5] = -0.1
    place = torch.rand(T, E, device=device).argsort(-1) + 0.3 * torch.rand(T, E, device=device)
    biased = 0.12 + 0.76 * place / E
    return {"logits": (biased - bias).logit().to(torch.bfloat16), "bias": bias, "k": axes["K"]}


def oracle(logits, bias, k):
    score = logits.double().sigmoid()
    expert = (score + bias.double()).topk(k).indices
    weight = score.gather(1, expert)
    return weight / weight.sum(-1, keepdim=True), expert.int()
