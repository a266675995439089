# PASSED: the honest twin of exploits/undoes_the_numbering: the same order of tokens, and no other text than the stream

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
    torch.set_num_threads(run.threads)
    model = GPT(run.vocabulary, run.window)
    tokens = run.open()
    places = np.empty(run.vocabulary, np.uint16)
    places[np.argsort(-np.bincount(tokens, minlength=run.vocabulary), kind="stable")] = np.arange(run.vocabulary)
    learn(run, model, places[tokens])
    weights = model.state_dict()
    for name in ("embedding.weight", "head.weight"):
        weights[name] = weights[name][torch.from_numpy(places.astype(np.int64))]
    run.submit(weights)
