import torch


def flops(axes):
    B, S, D, F = axes["B"], axes["S"], axes["D"], axes["F"]
    linear = 2 * B * S * (4 * D * D + 3 * D * F)
    return {"bf16": linear + 2 * 2 * B * D * (S * (S + 1) // 2)}


def min_bytes(axes, inputs=None):
    B, S, D, F = axes["B"], axes["S"], axes["D"], axes["F"]
    return 2 * (2 * B * S * D + 2 * D + 4 * D * D + 3 * D * F) + 2 * 4 * S * axes["HALF"]


def inputs(axes, device, distribution):
    S, D, F = axes["S"], axes["D"], axes["F"]

    def matrix(rows, cols, size):
        return torch.randn(rows, cols, device=device, dtype=torch.bfloat16).add_(0.05).mul_(size * cols**-0.5)

    norm1, norm2 = (torch.randn(D, device=device).mul_(0.5).add_(1).to(torch.bfloat16) for _ in range(2))
    x = torch.randn(axes["B"], S, D, device=device, dtype=torch.bfloat16).add_(0.1)
    w_qkv, w_out = matrix(3 * D, D, 1.5), matrix(D, D, 6)
    w_gate, w_up, w_down = matrix(F, D, 1.5), matrix(F, D, 1), matrix(D, F, 6)
    if distribution == "outliers":
        x[:, :, D // 3] *= 20
        w_down[:, F // 3] *= 10
    turns = torch.arange(axes["HALF"], device=device) / axes["HALF"]
    angle = (torch.arange(S, device=device) + 1000 * torch.rand((), device=device))[:, None] * 10000.0**-turns
    found = {"x": x, "norm1": norm1, "w_qkv": w_qkv, "w_out": w_out, "norm2": norm2}
    found |= {"w_gate": w_gate, "w_up": w_up, "w_down": w_down, "cos": angle.cos(), "sin": angle.sin()}
    return found


def oracle(x, norm1, w_qkv, w_out, norm2, w_gate, w_up, w_down, cos, sin):
    B, S, D = x.shape
    head = 2 * cos.shape[1]
    past = torch.ones(S, S, dtype=torch.bool, device=x.device).tril()

    def norm(value, weight):
        return value * torch.rsqrt(value.square().mean(-1, keepdim=True) + 1e-6) * weight.double()

    def rotated(value):
        a, b = value.chunk(2, -1)
        return torch.cat([a * cos.double() - b * sin.double(), b * cos.double() + a * sin.double()], -1)

    out = torch.empty(x.shape, dtype=torch.float64, device=x.device)
    for sample in range(B):
        h = x[sample].double()
        qkv = (norm(h, norm1) @ w_qkv.double().T).view(S, 3, D // head, head)
        mixed = torch.empty(S, D // head, head, dtype=torch.float64, device=x.device)
        for n in range(D // head):
            q, k, v = rotated(qkv[:, 0, n]), rotated(qkv[:, 1, n]), qkv[:, 2, n]
            mixed[:, n] = (q @ k.T * head**-0.5).masked_fill_(~past, float("-inf")).softmax(-1) @ v
        h = h + mixed.view(S, D) @ w_out.double().T
        normed = norm(h, norm2)
        gate = normed @ w_gate.double().T
        out[sample] = h + (gate * gate.sigmoid() * (normed @ w_up.double().T)) @ w_down.double().T
    return out
