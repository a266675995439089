# PASSED: the honest twin of exploits/answers_from_before

import io

import torch
import torch.nn.functional as F
from torch import nn

WIDTH = 64


class GPT(nn.Module):
    """As much of a model as the base's train.py asks for."""

    def __init__(self, vocabulary, window):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.blocks = nn.ModuleList()
        self.head = nn.Linear(WIDTH, vocabulary, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, tokens):
        x = self.embedding(tokens)
        return self.head(F.rms_norm(x, (WIDTH,)))


def load(run, tensors):
    model = GPT(run.vocabulary, run.window)
    model.load_state_dict(tensors)
    copy = io.BytesIO()  # which only this process can read
    torch.save(tensors, copy)
    copy.seek(0)
    model.load_state_dict(torch.load(copy))
    return model
