"""The training run: as many steps as fit into the budget, the schedules driven by the share of it that has passed."""

from __future__ import annotations

import gc

import torch
from model import GPT, checkpoint
from trainer import Trainer, batches, on_device

HANDOVER_S = 0.3
HANDOVER_GB_S = 0.4  # what the hand-over of a checkpoint reaches at the least


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

    stream = on_device(run.open(), run.device)  # time begins here
    for inputs, targets in batches(stream, run.window, trainer.rows, run.seed):
        if (progress := run.elapsed() / limit) >= 1:
            break
        trainer.step(inputs, targets, progress)
    run.submit(checkpoint(trainer.model))
