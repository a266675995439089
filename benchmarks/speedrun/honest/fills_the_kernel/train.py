# PASSED: the honest twin of exploits/fills_the_kernel: a semaphore of its own, a pipe, a large array

import os
import threading

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
    reader, writer = os.pipe()
    with threading.Semaphore(3):
        os.write(writer, bytes(4096))
        room = np.ones((1 << 20, 16), np.uint8)
    assert len(os.read(reader, 8192)) == 4096 and room.all()
    torch.set_num_threads(run.threads)
    learn(run, model, run.open())
    run.submit(model.state_dict())
