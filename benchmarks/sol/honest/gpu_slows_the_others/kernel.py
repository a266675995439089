"""A thread that waits."""

import threading
import time

import torch


def norm(x, residual, weight, y, h):
    torch.add(x, residual, out=h)
    wide = h.float()
    y.copy_(wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight.float())


threading.Thread(target=time.sleep, args=(60,), daemon=True).start()


def run(x, residual, weight, y, h):
    norm(x, residual, weight, y, h)
