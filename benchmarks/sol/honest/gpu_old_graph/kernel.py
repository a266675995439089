"""A CUDA graph over buffers of its own, filled and read in every call."""

import torch


def norm(x, residual, weight, y, h):
    torch.add(x, residual, out=h)
    wide = h.float()
    y.copy_(wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight.float())


graphs = {}


def run(*arguments):
    shape = arguments[0].shape
    if shape not in graphs:
        own = [torch.empty_like(a) for a in arguments]
        norm(*arguments)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            norm(*own)
        graphs[shape] = graph, own
    graph, own = graphs[shape]
    for mine, given in zip(own[:3], arguments[:3]):
        mine.copy_(given)
    graph.replay()
    arguments[3].copy_(own[3])
    arguments[4].copy_(own[4])
