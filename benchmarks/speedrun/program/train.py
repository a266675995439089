"""The training run: AdamW on random windows of the stream, linear warm-up and linear decay to zero."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from model import GPT
from torch import Tensor, nn

STEPS = 250
BATCH = 16  # windows
EMBEDDING_RATE = 0.2
HEAD_RATE = 0.03
MATRIX_RATE = 0.015
WARMUP_SHARE = 0.04  # of the run
BETA1 = 0.7
BETA2 = 0.98
WEIGHT_DECAY = 0.02
ADAM_EPS = 1e-8
SYNTHETIC_STEPS = 5


def make_optimizer(model: GPT) -> torch.optim.Optimizer:
    """AdamW; embedding, head and the blocks' matrices have rates of their own, since their gradients differ in kind."""
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": [model.embedding.weight], "rate": EMBEDDING_RATE, "weight_decay": 0.0},
        {"params": [model.head.weight], "rate": HEAD_RATE, "weight_decay": WEIGHT_DECAY},
        {"params": matrices, "rate": MATRIX_RATE, "weight_decay": WEIGHT_DECAY},
        {"params": vectors, "rate": MATRIX_RATE, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(BETA1, BETA2), eps=ADAM_EPS, fused=True)


def schedule(progress: float) -> float:
    """The rates' factor at a share of the run: up over the warm-up, then straight down to zero at the end."""
    return min(progress / WARMUP_SHARE, (1 - progress) / (1 - WARMUP_SHARE))


def batches(stream: np.ndarray, window: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets [BATCH, window] from random places of the stream, none twice in one pass over it."""
    chance = np.random.default_rng(seed)
    columns = np.arange(window + 1)
    while True:
        starts = chance.permutation((len(stream) - 1) // window) * window
        for first in range(0, len(starts) - BATCH + 1, BATCH):
            rows = torch.from_numpy(stream[starts[first : first + BATCH, None] + columns].astype(np.int64))
            yield rows[:, :-1], rows[:, 1:]


def update(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> None:
    """One step of the optimizer on one batch."""
    logits = model(inputs)
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def warm_up(run) -> None:
    """Runs every code path once on random tokens, with a model of its own that is thrown away."""
    tokens = np.random.default_rng(0).integers(0, run.vocabulary, 4 * BATCH * run.window).astype(np.uint16)
    model = GPT(run.vocabulary, run.window)
    optimizer = make_optimizer(model)
    for _, (inputs, targets) in zip(range(SYNTHETIC_STEPS), batches(tokens, run.window, seed=0)):
        update(model, optimizer, inputs, targets)


def train(run) -> None:
    torch.set_num_threads(run.threads)
    warm_up(run)
    torch.manual_seed(run.seed)
    model = GPT(run.vocabulary, run.window)
    optimizer = make_optimizer(model)

    stream = run.open()  # time begins here
    steps = min(STEPS, len(stream) // (BATCH * run.window))  # a short stream is read once, not again
    for step, (inputs, targets) in zip(range(steps), batches(stream, run.window, run.seed)):
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * schedule((step + 0.5) / steps)
        update(model, optimizer, inputs, targets)
    run.submit(model.state_dict())
