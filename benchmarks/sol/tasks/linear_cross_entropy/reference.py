import torch.nn.functional as F


def run(x, w, target):
    return F.cross_entropy(F.linear(x, w).float(), target, reduction="none")
