"""The training run: as many steps as fit into the budget, the schedules driven by the share of it that has passed."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterator

import numpy as np
import torch
from model import GPT, checkpoint, loss_of, shape_of
from optimizer import Optimizer
from torch import Tensor

BATCH_TOKENS = 2**16
SMALL_BATCH_TOKENS = 2**10  # without a GPU
WARM_UP_STEPS = 4
IN_FLIGHT = 2  # steps that may be queued on the GPU: enough to keep it busy, few enough to stop in time
HANDOVER_S = 0.1
HANDOVER_GB_S = 0.5  # what the hand-over of a checkpoint reaches at the least


def batches(stream: Tensor, window: int, rows: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets [rows, window], in the stream's order, which the judge permutes; then again, shuffled anew."""
    columns = torch.arange(window + 1, device=stream.device)
    chance = torch.Generator().manual_seed(seed)
    starts = torch.arange((len(stream) - 1) // window) * window
    while True:
        places = starts.to(stream.device)
        for first in range(0, len(places) - rows + 1, rows):
            found = stream[places[first : first + rows, None] + columns]
            yield found[:, :-1].contiguous(), found[:, 1:].contiguous()
        starts = starts[torch.randperm(len(starts), generator=chance)]


def on_device(stream: np.ndarray, device: str) -> Tensor:
    """uint16 tokens as int32 on the device; two bytes a token cross over."""
    return torch.from_numpy(stream.view(np.int16)).to(device).to(torch.int32).bitwise_and_(0xFFFF)


class Trainer:
    """Model and optimizer, and what is compiled of them; `start` makes both as new."""

    def __init__(self, run) -> None:
        self.run, self.cuda = run, run.device == "cuda"
        self.model = GPT(shape_of(run), run.vocabulary, run.window).to(run.device)
        self.optimizer = Optimizer(self.model, compiled=self.cuda)
        self.hidden = (
            torch.compile(self.model.hidden, dynamic=False, fullgraph=True) if self.cuda else self.model.hidden
        )
        self.rows = max(1, (BATCH_TOKENS if self.cuda else SMALL_BATCH_TOKENS) // run.window)

    def start(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model.initialize()
        self.optimizer.reset()

    def step(self, inputs: Tensor, targets: Tensor, progress: float) -> None:
        loss_of(self.hidden(inputs), self.model.head, targets).backward()
        self.optimizer.step(progress)

    def warm_up(self) -> None:
        """Compiles and runs every code path on random tokens."""
        tokens = np.random.default_rng(0).integers(0, self.run.vocabulary, 8 * self.rows * self.run.window)
        found = batches(on_device(tokens.astype(np.uint16), self.run.device), self.run.window, self.rows, 0)
        for k, (inputs, targets) in zip(range(WARM_UP_STEPS), found):
            self.step(inputs, targets, k / WARM_UP_STEPS)
        sum(tensor.cpu().numel() for tensor in checkpoint(self.model).values() if self.cuda)


def handover_seconds(model: GPT) -> float:
    size = sum(t.numel() for t in model.state_dict().values()) * torch.finfo(model.shape.dtype).bits / 8
    return HANDOVER_S + size / 1e9 / HANDOVER_GB_S


def train(run) -> None:
    trainer = Trainer(run)
    trainer.start(0)
    trainer.warm_up()
    trainer.start(run.seed)
    limit = run.seconds - handover_seconds(trainer.model)
    gc.collect()
    gc.freeze()
    gc.disable()
    if trainer.cuda:
        torch.cuda.synchronize()

    stream = on_device(run.open(), run.device)  # time begins here
    flying: deque = deque()
    for inputs, targets in batches(stream, run.window, trainer.rows, run.seed):
        progress = run.elapsed() / limit
        if progress >= 1:
            break
        trainer.step(inputs, targets, progress)
        if trainer.cuda:
            flying.append(torch.cuda.Event())
            flying[-1].record()
            if len(flying) > IN_FLIGHT:
                flying.popleft().synchronize()
    run.submit(checkpoint(trainer.model))
