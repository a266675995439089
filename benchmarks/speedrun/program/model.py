"""The model: a small decoder-only transformer with rotary positions, RMSNorm and a GELU MLP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYERS = 1
WIDTH = 64
HEADS = 2
MLP_RATIO = 2
ROTARY_BASE = 10_000.0
NORM_EPS = 1e-5
EMBEDDING_STD = 1.0
WEIGHT_STD = 0.05


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),), weight, NORM_EPS)


def rotary_tables(window: int, head_width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [window, head_width / 2]."""
    frequency = ROTARY_BASE ** (-torch.arange(0, head_width, 2) / head_width)
    angle = torch.arange(window)[:, None] * frequency[None, :]
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the two halves of each head by its position's angles; x is [batch, heads, time, head_width]."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, time, width = x.shape
        q, k, v = self.qkv(x).view(batch, time, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, time, width))


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, MLP_RATIO * WIDTH, bias=False)
        self.down = nn.Linear(MLP_RATIO * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_norm = nn.Parameter(torch.ones(WIDTH))
        self.attention = Attention()
        self.mlp_norm = nn.Parameter(torch.ones(WIDTH))
        self.mlp = MLP()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(norm(x, self.attention_norm), cos, sin)
        return x + self.mlp(norm(x, self.mlp_norm))


class GPT(nn.Module):
    def __init__(self, vocabulary: int, window: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.final_norm = nn.Parameter(torch.ones(WIDTH))
        self.head = nn.Linear(WIDTH, vocabulary, bias=False)
        cos, sin = rotary_tables(window, WIDTH // HEADS)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.initialize()

    def initialize(self) -> None:
        """Normal weights; as in GPT-2, what writes into the residual stream is scaled down by the number of writers."""
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        nn.init.zeros_(self.head.weight)
        for block in self.blocks:
            for reader in (block.attention.qkv, block.mlp.up):
                nn.init.normal_(reader.weight, std=WEIGHT_STD)
            for writer in (block.attention.out, block.mlp.down):
                nn.init.normal_(writer.weight, std=WEIGHT_STD / (2 * LAYERS) ** 0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [batch, time] to logits [batch, time, vocabulary]."""
        time = tokens.size(1)
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos[:time], self.sin[:time])
        return self.head(norm(x, self.final_norm))


def load(run, tensors: dict[str, Tensor]):
    """What the judge scores: a function from tokens [batch, time <= window] to float32 logits."""
    model = GPT(run.vocabulary, run.window)
    model.load_state_dict(tensors)
    model.eval()
    return lambda tokens: model(tokens).float()
