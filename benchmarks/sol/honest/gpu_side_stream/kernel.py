"""A stream of its own that the current one waits for."""

import torch


def norm(x, residual, weight, y, h):
    torch.add(x, residual, out=h)
    wide = h.float()
    y.copy_(wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight.float())


stream = torch.cuda.Stream() if torch.cuda.is_available() else None


def run(x, residual, weight, y, h):
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        norm(x, residual, weight, y, h)
    torch.cuda.current_stream().wait_stream(stream)
