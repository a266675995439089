# PASSED: the honest twin of exploits/notes_in_names, which asks for names before it is given anything

import os

import torch.nn.functional as F
from torch import nn

WIDTH = 64
FOUND = [name for name in ("/usr/lib/one", "/usr/lib/other") if os.path.exists(name)]


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
    return lambda tokens: model(tokens)
