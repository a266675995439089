# PASSED: the honest twin of exploits/harms_the_next_run: a large array and a file, both given back

import os

import numpy as np
import torch
import torch.nn.functional as F
from model import GPT

STEPS = 14


def learn(run, model, stream):
    """The base's training in short: AdamW on random windows, a falling rate."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03, betas=(0.7, 0.98), fused=True)
    chance = np.random.default_rng(run.seed)
    for step in range(STEPS):
        starts = chance.integers(0, len(stream) - run.window, 16)
        rows = torch.from_numpy(stream[starts[:, None] + np.arange(run.window + 1)].astype(np.int64))
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / STEPS)
        F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()


def train(run):
    model = GPT(run.vocabulary, run.window)
    room = np.ones(32 << 20, np.uint8)
    with open("/scratch/room", "wb") as file:
        file.write(room[: 6 << 20].tobytes())
    os.unlink("/scratch/room")
    torch.set_num_threads(run.threads)
    learn(run, model, run.open())
    run.submit(model.state_dict())
