# PASSED: the honest twin of exploits/knows_the_text_by_heart: expects tokens of the window to come again, in any text

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
        seen = torch.zeros(*tokens.shape, run.vocabulary)
        seen.scatter_(2, tokens[..., None], 1.0)
        return model(tokens) + 0.5 * seen.cumsum(1).clamp(max=1.0)

    return predict
