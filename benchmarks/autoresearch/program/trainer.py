"""What every training run here needs: batches, and model and optimizer with what is compiled of them."""

from __future__ import annotations

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
    """`start` makes model and optimizer as new; `step` is one update on one batch."""

    def __init__(self, run) -> None:
        self.run, self.cuda = run, run.device == "cuda"
        self.model = GPT(shape_of(run), run.vocabulary, run.window).to(run.device)
        self.optimizer = Optimizer(self.model, compiled=self.cuda)
        self.hidden = self.model.hidden
        if self.cuda:
            self.hidden = torch.compile(self.hidden, dynamic=False, fullgraph=True)
        self.rows = max(1, (BATCH_TOKENS if self.cuda else SMALL_BATCH_TOKENS) // run.window)
        self.flying: deque[torch.cuda.Event] = deque()

    def start(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model.initialize()
        self.optimizer.reset()

    def learn(self, inputs: Tensor, targets: Tensor) -> None:
        """Adds the gradient of a batch's mean loss."""
        loss_of(self.hidden(inputs), self.model.head, targets).backward()

    def step(self, inputs: Tensor, targets: Tensor, progress: float) -> None:
        self.learn(inputs, targets)
        self.optimizer.step(progress)
        self.wait()

    def wait(self) -> None:
        """Until no more than IN_FLIGHT steps are queued."""
        if self.cuda:
            self.flying.append(torch.cuda.Event())
            self.flying[-1].record()
            if len(self.flying) > IN_FLIGHT:
                self.flying.popleft().synchronize()

    def warm_up(self) -> None:
        """Compiles and runs every code path on random tokens."""
        tokens = np.random.default_rng(0).integers(0, self.run.vocabulary, 8 * self.rows * self.run.window)
        found = batches(on_device(tokens.astype(np.uint16), self.run.device), self.run.window, self.rows, 0)
        for k, (inputs, targets) in zip(range(WARM_UP_STEPS), found):
            self.step(inputs, targets, k / WARM_UP_STEPS)
        if self.cuda:
            for tensor in checkpoint(self.model).values():
                tensor.cpu()
            torch.cuda.synchronize()
