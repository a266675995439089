import torch
import torch.nn.functional as F


def norm(x, weight):
    wide = x if x.dtype == torch.float64 else x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6) * weight).to(x.dtype)


def rotated(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


def run(x, norm1, w_qkv, w_out, norm2, w_gate, w_up, w_down, cos, sin):
    B, S, D = x.shape
    head = 2 * cos.shape[1]
    q, k, v = F.linear(norm(x, norm1), w_qkv).view(B, S, 3, D // head, head).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(rotated(q, cos, sin), rotated(k, cos, sin), v, is_causal=True)
    h = x + F.linear(mixed.transpose(1, 2).reshape(B, S, D), w_out)
    normed = norm(h, norm2)
    return h + F.linear(F.silu(F.linear(normed, w_gate)) * F.linear(normed, w_up), w_down)
