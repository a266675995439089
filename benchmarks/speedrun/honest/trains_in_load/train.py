# The same training of the same model, on the clock.

import torch
import torch.nn.functional as F
from model import GPT

STEPS = 10


def train(run):
    torch.manual_seed(run.seed)
    model = GPT(run.vocabulary, run.window)
    optimizer = torch.optim.AdamW(
        [{"params": [model.embedding.weight], "lr": 0.2}, {"params": [model.head.weight], "lr": 0.04}],
        betas=(0.7, 0.98),
        fused=True,
    )
    stream = torch.from_numpy(run.open()[:12_288].astype("int64"))
    rows = stream[: len(stream) // 65 * 65].view(-1, 65)
    for batch in rows.split(len(rows) // STEPS):
        F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    run.submit(model.state_dict())
