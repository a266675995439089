"""Muon for the blocks' stacked matrices, AdamW for embeddings, head and scalars."""

from __future__ import annotations

import torch
from model import GPT
from torch import Tensor

MUON_RATE = 0.04
MUON_BETA2 = 0.95
MOMENTUM_START = 0.85
MOMENTUM_END = 0.95
MOMENTUM_STEPS = 300
WEIGHT_DECAY = 0.2
EMBEDDING_RATE = 0.6
VALUE_RATE = 0.6
HEAD_RATE = 0.004
GATE_RATE = 0.004
RESIDUAL_RATE = 0.005
EMBEDDING_RESIDUAL_RATE = 0.5
BETAS = (0.8, 0.95)
EMBEDDING_RESIDUAL_BETAS = (0.96, 0.95)
ADAM_EPS = 1e-10
REFERENCE_WIDTH = 768  # rates of AdamW are given for this width and grow with its inverse square root
WARMDOWN_SHARE = 0.8  # of the run, at its end
FINAL_RATE = 0.0

# Coefficients of the Polar Express iteration (arXiv 2505.16932) for five steps.
POLAR = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonalized(g: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest orthogonal matrices to a stack [n, rows, columns], roughly: singular values near 1."""
    x = g.to(dtype)
    if tall := x.size(-2) > x.size(-1):
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in POLAR:
        square = x @ x.mT
        x = a * x + (b * square + c * (square @ square)) @ x
    return x.mT if tall else x


def normalized(g: Tensor, second: Tensor, beta2: float) -> Tensor:
    """Divides rows (or columns, the longer side stays) by a running root mean square and keeps the matrices' norms."""
    along = -1 if g.size(-2) >= g.size(-1) else -2
    square = g.float().square().mean(dim=along, keepdim=True)
    second.lerp_(square, 1 - beta2)
    step = second.clamp_min(1e-10).rsqrt()
    before = square.sum(dim=(-2, -1), keepdim=True).sqrt()
    after = (square * step.square()).sum(dim=(-2, -1), keepdim=True).sqrt()
    return g * (step * before / after.clamp_min(1e-10)).to(g.dtype)


def muon_step(
    p: Tensor, grad: Tensor, velocity: Tensor, second: Tensor, dtype: torch.dtype, rate: Tensor, momentum: Tensor,
    decay: Tensor,
) -> None:  # fmt: skip
    """One update of a stack in place; rate, momentum and decay are 0-D tensors, so that no value is compiled in."""
    velocity.lerp_(grad, 1 - momentum)
    g = orthogonalized(grad.lerp(velocity, momentum), dtype)
    g = normalized(g, second, MUON_BETA2).float()
    agrees = (g * p) >= 0
    p.sub_(rate * g + rate * decay * p * agrees)


class Optimizer:
    def __init__(self, model: GPT, compiled: bool) -> None:
        self.dtype = model.shape.dtype
        self.step_of = torch.compile(muon_step, dynamic=False, fullgraph=True) if compiled else muon_step
        # Query, key and value are matrices of their own.
        stacks = [(model.qkv, (-1, model.shape.width, model.shape.width))]
        stacks += [(p, p.shape) for p in (model.out, model.up, model.down)]
        self.stacks = [(p, shape, *self._state(p.view(shape))) for p, shape in stacks]
        scale = (model.shape.width / REFERENCE_WIDTH) ** -0.5
        groups = [
            (model.embedding, EMBEDDING_RATE * scale, BETAS),
            (model.value_embeddings, VALUE_RATE * scale, BETAS),
            (model.head, HEAD_RATE * scale, BETAS),
            (model.value_gates, GATE_RATE, BETAS),
            (model.residual, RESIDUAL_RATE, BETAS),
            (model.embedding_residual, EMBEDDING_RESIDUAL_RATE, EMBEDDING_RESIDUAL_BETAS),
        ]
        tables = [{"params": [p], "rate": rate, "betas": betas} for p, rate, betas in groups]
        self.adam = torch.optim.AdamW(tables, lr=0.0, eps=ADAM_EPS, weight_decay=0.0, fused=True)
        self.parameters = list(model.parameters())
        self.count = 0

    @staticmethod
    def _state(p: Tensor) -> tuple[Tensor, Tensor]:
        rows = p.size(-2) >= p.size(-1)
        return torch.zeros_like(p), p.new_zeros((p.size(0), p.size(1), 1) if rows else (p.size(0), 1, p.size(2)))

    def reset(self) -> None:
        """As new, in place: nothing that a warm-up left, no gradient either, may enter the first timed step."""
        for _, _, velocity, second in self.stacks:
            velocity.zero_()
            second.zero_()
        self.adam.state.clear()
        self.count = 0
        self.clear()

    def clear(self) -> None:
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self, progress: float) -> None:
        """One update; `progress` is the share of the run that has passed."""
        factor = schedule(progress)
        ramp = min(self.count / MOMENTUM_STEPS, 1.0)
        momentum = torch.tensor((1 - ramp) * MOMENTUM_START + ramp * MOMENTUM_END)
        decay = torch.tensor(WEIGHT_DECAY * (1 - progress))
        for p, shape, velocity, second in self.stacks:
            rate = torch.tensor(MUON_RATE * factor * max(1.0, shape[-2] / shape[-1]) ** 0.5)
            self.step_of(p.view(shape), p.grad.view(shape), velocity, second, self.dtype, rate, momentum, decay)
        for group in self.adam.param_groups:
            group["lr"] = group["rate"] * factor
        self.adam.step()
        self.count += 1
        self.clear()


def schedule(progress: float) -> float:
    """The rates' factor: constant, then straight down over the last WARMDOWN_SHARE of the run."""
    return FINAL_RATE + (1 - FINAL_RATE) * min(1.0, (1 - progress) / WARMDOWN_SHARE)
