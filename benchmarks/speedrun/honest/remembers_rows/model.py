# PASSED: the honest twin of exploits/remembers_rows

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

    def predict(tokens):
        """Looks up what followed this token earlier in the same row."""
        earlier = torch.ones(tokens.size(1), tokens.size(1)).tril(-1)
        same = (tokens[:, :, None] == tokens[:, None, :]) * earlier
        following = F.one_hot(tokens.roll(-1, 1), run.vocabulary).float()
        return model(tokens) + (same @ following).log1p()

    return predict
