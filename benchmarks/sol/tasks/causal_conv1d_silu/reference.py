import torch.nn.functional as F


def run(x, w, bias):
    return F.silu(F.conv1d(F.pad(x, (w.shape[1] - 1, 0)), w[:, None], bias, groups=w.shape[0]))
