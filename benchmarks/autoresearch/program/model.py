"""The model: a decoder-only transformer with value embeddings, rotary positions and a squared-ReLU MLP."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from kernels import softcapped_cross_entropy
from torch import Tensor, nn

MLP_RATIO = 4
ROTARY_BASE = 10_000.0
SOFTCAP = 15.0
WINDOWS = "L"  # a layer each, repeated; L: the whole past, S: SHORT_WINDOW tokens of it. The last layer is always L
SHORT_WINDOW = 1024
VALUE_LAYERS = 2  # every so many layers, the last one included, has value embeddings
GATE_CHANNELS = 32  # of the layer's input, which open and close the value embeddings
RESIDUAL_INIT = 1.0
EMBEDDING_RESIDUAL_INIT = 0.1
EMBEDDING_STD = 1.0
HEAD_STD = 0.001
WEIGHT_SCALE = 1.0  # times sqrt(3 / width), the bound of the uniform weights


@dataclass(frozen=True)
class Shape:
    depth: int
    width: int
    head_width: int
    dtype: torch.dtype  # of activations and embeddings


def shape_of(run) -> Shape:
    """The benchmark's model on a GPU; without one a tiny model, which shows that everything runs."""
    if run.device == "cuda":
        return Shape(depth=8, width=512, head_width=128, dtype=torch.bfloat16)
    return Shape(depth=2, width=64, head_width=32, dtype=torch.float32)


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),))


def rotary_tables(window: int, head_width: int) -> tuple[Tensor, Tensor]:
    """Cosines, and sines with the sign of each half, each [window, 1, 2, head_width / 2]."""
    frequency = ROTARY_BASE ** (-torch.arange(0, head_width, 2) / head_width)
    angle = torch.arange(window)[:, None, None, None] * frequency
    return angle.cos().expand(-1, -1, 2, -1), torch.cat([angle.sin(), -angle.sin()], dim=-2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the two halves of each head by its position's angles; x is [batch, time, heads, head_width]."""
    halves = x.unflatten(-1, (2, -1))
    return (halves * cos + halves.flip(-2) * sin).flatten(-2)


def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal attention over the last `window` positions; all tensors are [batch, time, heads, head_width].

    The kernel is named by the operator itself. A backend that a context manager chooses is no part of the compiled
    graph's key, so that a cached graph would silently keep another one.
    """
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if window < q.size(2):
        near = torch.ones(q.size(2), q.size(2), dtype=torch.bool, device=q.device).tril().triu(1 - window)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=near)
    elif q.is_cuda and torch.is_grad_enabled():
        mixed = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, True)[0]
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return mixed.transpose(1, 2)


class GPT(nn.Module):
    """The blocks' matrices are stacked by kind, [depth, rows, columns]; the optimizer treats each kind at once."""

    def __init__(self, shape: Shape, vocabulary: int, window: int) -> None:
        super().__init__()
        self.shape, self.heads = shape, shape.width // shape.head_width
        depth, width, dtype = shape.depth, shape.width, shape.dtype
        self.value_layers = [i for i in range(depth) if i % VALUE_LAYERS == (depth - 1) % VALUE_LAYERS]
        pattern = [WINDOWS[i % len(WINDOWS)] for i in range(depth - 1)] + ["L"]
        self.windows = [window if kind == "L" else min(SHORT_WINDOW, window) for kind in pattern]
        self.embedding = nn.Parameter(torch.empty(vocabulary, width, dtype=dtype))
        self.value_embeddings = nn.Parameter(torch.empty(len(self.value_layers), vocabulary, width, dtype=dtype))
        self.value_gates = nn.Parameter(torch.empty(len(self.value_layers), self.heads, GATE_CHANNELS))
        self.qkv = nn.Parameter(torch.empty(depth, 3 * width, width))
        self.out = nn.Parameter(torch.empty(depth, width, width))
        self.up = nn.Parameter(torch.empty(depth, MLP_RATIO * width, width))
        self.down = nn.Parameter(torch.empty(depth, width, MLP_RATIO * width))
        self.head = nn.Parameter(torch.empty(vocabulary, width))
        self.residual = nn.Parameter(torch.empty(depth))
        self.embedding_residual = nn.Parameter(torch.empty(depth))
        cos, sin = rotary_tables(window, shape.head_width)
        self.register_buffer("cos", cos.to(dtype), persistent=False)
        self.register_buffer("sin", sin.to(dtype), persistent=False)

    @torch.no_grad()
    def initialize(self) -> None:
        """Sets every parameter anew, in place: what a warm-up has compiled stays valid, what it has learned is gone."""
        bound = WEIGHT_SCALE * (3 / self.shape.width) ** 0.5
        nn.init.normal_(self.embedding, std=EMBEDDING_STD)
        nn.init.normal_(self.head, std=HEAD_STD)
        for weight in (self.qkv, self.up, self.value_embeddings):
            nn.init.uniform_(weight, -bound, bound)
        for weight in (self.out, self.down, self.value_gates):
            nn.init.zeros_(weight)
        self.residual.fill_(RESIDUAL_INIT)
        self.embedding_residual.fill_(EMBEDDING_RESIDUAL_INIT)

    def attention(self, x: Tensor, layer: int, qkv: Tensor, out: Tensor, value: Tensor | None, gate: Tensor | None):
        batch, time, width = x.shape
        both, v = F.linear(x, qkv).view(batch, time, 3 * self.heads, -1).split((2 * self.heads, self.heads), dim=2)
        if value is not None:
            opening = 2 * torch.sigmoid(F.linear(x[..., :GATE_CHANNELS], gate))
            v = v + opening[..., None] * value.view(v.shape)
        cos, sin = self.cos[:time], self.sin[:time]
        # A rotation keeps the norm, so that it may as well come second; query and key take one pass together.
        q, k = rotate(norm(both), cos, sin).chunk(2, dim=2)
        mixed = attend(q, k, v, self.windows[layer])
        return F.linear(mixed.reshape(batch, time, width), out)

    def mlp(self, x: Tensor, up: Tensor, down: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(x, up)).square(), down)

    def hidden(self, tokens: Tensor) -> Tensor:
        """Tokens [batch, time] to what the head reads, [batch, time, width]."""
        dtype = self.shape.dtype
        # The master weights are float32; one cast a step for each kind of matrix.
        qkv, out, up, down = (w.to(dtype).unbind(0) for w in (self.qkv, self.out, self.up, self.down))
        gates, tables = self.value_gates.to(dtype).unbind(0), self.value_embeddings.unbind(0)
        residual, embedding_residual = self.residual.unbind(0), self.embedding_residual.unbind(0)
        x = first = norm(F.embedding(tokens, self.embedding))
        for i in range(self.shape.depth):
            x = residual[i] * x + embedding_residual[i] * first
            value = gate = None
            if i in self.value_layers:
                at = self.value_layers.index(i)
                value, gate = F.embedding(tokens, tables[at]), gates[at]
            x = x + self.attention(norm(x), i, qkv[i], out[i], value, gate)
            x = x + self.mlp(norm(x), up[i], down[i])
        return norm(x)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [batch, time] to float32 logits [batch, time, vocabulary], for scoring."""
        z = F.linear(self.hidden(tokens).float(), self.head)
        return SOFTCAP * torch.tanh(z / SOFTCAP)


def loss_of(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of the softcapped logits; hidden [batch, time, width], targets [batch, time]."""
    logits = F.linear(hidden.flatten(0, 1), head.to(hidden.dtype))
    return softcapped_cross_entropy(logits, targets.flatten(), SOFTCAP)


def checkpoint(model: GPT) -> dict[str, Tensor]:
    """What is handed over: everything in the activations' dtype, because bytes take time on the clock."""
    return {name: tensor.detach().to(model.shape.dtype) for name, tensor in model.state_dict().items()}


def load(run, tensors: dict[str, Tensor]):
    """What the judge scores: a function from tokens [batch, time <= window] to float32 logits."""
    model = GPT(shape_of(run), run.vocabulary, run.window)
    model.load_state_dict(tensors)
    model.to(run.device).eval()
    at_once = 4

    def predict(tokens: Tensor) -> Tensor:
        # Always as many rows of whole windows: kernels are chosen by shape, and each one rounds in its own way.
        rows, time = tokens.shape
        padded = F.pad(tokens, (0, run.window - time, 0, -rows % at_once)).to(run.device)
        return torch.cat([model(few)[:, :time] for few in padded.split(at_once)])[:rows]

    return predict
