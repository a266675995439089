"""Processes of one run, a GPU each: rank 0 is the judge's own process, the others are started by it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch import Tensor

FACTS = ("seed", "vocabulary", "window", "threads", "device", "seconds", "devices", "shards")


class Team:
    """`rank` of `size`; alone, every method does nothing."""

    def __init__(self, rank: int, size: int, device: str) -> None:
        self.rank, self.size = rank, size
        if size == 1:
            return
        os.environ.update(GLOO_SOCKET_IFNAME="lo", NCCL_SOCKET_IFNAME="lo")
        if device == "cuda":
            torch.cuda.set_device(rank)
        meeting = f"file://{os.environ['TMPDIR']}/team"
        dist.init_process_group("nccl" if device == "cuda" else "gloo", meeting, rank=rank, world_size=size)

    def meet(self) -> None:
        if self.size > 1:
            dist.barrier()

    def share(self, tensor: Tensor | None, device: str) -> Tensor:
        """Rank 0's int32 tensor of one dimension, at every rank."""
        if self.size == 1:
            assert tensor is not None
            return tensor
        length = torch.tensor([0 if tensor is None else len(tensor)], device=device)
        dist.broadcast(length, 0)
        if tensor is None:
            tensor = torch.empty(int(length), dtype=torch.int32, device=device)
        dist.broadcast(tensor, 0)
        return tensor

    def add_up(self, tensors: list[Tensor]) -> None:
        """Sums each tensor over all ranks, in place."""
        if self.size > 1:
            for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                work.wait()


def _follow(race: Callable, facts: dict, rank: int) -> None:
    run = SimpleNamespace(**facts)
    torch.set_num_threads(run.threads)
    race(run, Team(rank, run.devices, run.device))


def assembled(run, race: Callable) -> None:
    """Calls race(run, team) in run.devices processes, in this one with the judge's own `run`."""
    facts = {name: getattr(run, name) for name in FACTS}
    start = multiprocessing.get_context("spawn")
    for rank in range(1, run.devices):
        start.Process(target=_follow, args=(race, facts, rank), daemon=True).start()
    race(run, Team(0, run.devices, run.device))
