"""Works in a thread and waits for it."""

import threading

import torch


def norm(x, residual, weight, y, h):
    torch.add(x, residual, out=h)
    wide = h.float()
    y.copy_(wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight.float())


def run(*arguments):
    thread = threading.Thread(target=norm, args=arguments)
    thread.start()
    thread.join()
