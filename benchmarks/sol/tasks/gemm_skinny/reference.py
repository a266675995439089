import torch.nn.functional as F


def run(x, w):
    return F.linear(x, w)
