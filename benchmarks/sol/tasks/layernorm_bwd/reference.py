import torch


def run(dy, x, w, mean, rstd):
    shape, mask = [x.shape[1]], [True, True, True]
    if x.is_cuda:
        return torch.ops.aten.native_layer_norm_backward(dy, x, shape, mean[:, None], rstd[:, None], w, w, mask)
    g, n = dy.float() * w.float(), (x.float() - mean[:, None]) * rstd[:, None]
    dx = (g - g.mean(-1, keepdim=True) - n * (g * n).mean(-1, keepdim=True)) * rstd[:, None]
    return dx.to(x.dtype), (dy.float() * n).sum(0).to(x.dtype), dy.float().sum(0).to(x.dtype)
