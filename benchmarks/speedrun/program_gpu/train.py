"""The race: a fixed number of steps. A step's batch is cut into shards, which the processes share or one works off."""

from __future__ import annotations

import gc

from model import checkpoint
from team import Team, assembled
from torch import Tensor
from trainer import Trainer, batches, on_device

STEPS = 1400
SHARDED_STEPS = 350  # with 8 shards, whose batch is eight times as large
SMALL_STEPS = 12  # without a GPU


class SharedTrainer(Trainer):
    def __init__(self, run, team: Team) -> None:
        super().__init__(run)
        self.team = team

    def step(self, inputs: Tensor, targets: Tensor, progress: float) -> None:
        """One update on a batch [shards x rows, window] of which every process takes its shards."""
        shards = list(zip(inputs.chunk(self.run.shards), targets.chunk(self.run.shards)))
        for shard in shards[self.team.rank :: self.team.size]:
            self.learn(*shard)
        if len(shards) > 1:
            gradients = [p.grad for p in self.optimizer.parameters]
            self.team.add_up(gradients)
            for gradient in gradients:
                gradient.div_(len(shards))
        self.optimizer.step(progress)
        self.wait()


def steps_of(run) -> int:
    if run.device == "cpu":
        return SMALL_STEPS
    return STEPS if run.shards == 1 else SHARDED_STEPS


def race(run, team: Team) -> None:
    trainer = SharedTrainer(run, team)
    trainer.rows *= run.shards
    trainer.start(0)
    trainer.warm_up()
    trainer.start(run.seed)
    steps = steps_of(run)
    gc.collect()
    gc.freeze()
    gc.disable()
    team.meet()

    stream = on_device(run.open(), run.device) if team.rank == 0 else None  # time begins here
    stream = team.share(stream, run.device)
    for k, (inputs, targets) in zip(range(steps), batches(stream, run.window, trainer.rows, run.seed)):
        trainer.step(inputs, targets, k / steps)
    if team.rank == 0:
        run.submit(checkpoint(trainer.model))


def train(run) -> None:
    assembled(run, race)
