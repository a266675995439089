"""Tries two ways in its first calls and keeps the faster."""

import time

import torch


def one(x, residual, weight, y, h):
    torch.add(x, residual, out=h)
    wide = h.float()
    y.copy_(wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight.float())


def other(x, residual, weight, y, h):
    h.copy_(x + residual)
    y.copy_(torch.nn.functional.rms_norm(h.float(), (h.shape[1],), weight.float(), 1e-5))


best = {}


def seconds(way, arguments):
    began = time.perf_counter()
    way(*arguments)
    if arguments[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def run(*arguments):
    shape = arguments[0].shape
    if shape not in best:
        best[shape] = min((one, other), key=lambda way: seconds(way, arguments))
    best[shape](*arguments)
