"""Runs a training program inside the sandbox, as `train` or as `score`, and talks to the judge over descriptor 3.

Nothing here is trusted and nothing is kept from the program, which may replace every line of it: whatever matters is
checked on the other side. No evo module is imported, so that a sandbox holds none of the judge's code.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import struct
import sys

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

HEADER = struct.Struct("<cQ")


class Channel:
    def __init__(self) -> None:
        self._socket = socket.socket(fileno=3)

    def send(self, kind: bytes, payload: bytes | memoryview = b"") -> None:
        self._socket.sendall(HEADER.pack(kind, len(payload)))
        self._socket.sendall(payload)

    def receive(self) -> tuple[bytes, bytes, mmap.mmap | None]:
        """The type of the next message, its payload, and what it carries as a memory file or None."""
        header, fds, _, _ = socket.recv_fds(self._socket, HEADER.size, 1)
        header += self._exactly(HEADER.size - len(header))
        kind, length = HEADER.unpack(header)
        payload = self._exactly(length)
        if not fds:
            return kind, payload, None
        with os.fdopen(fds[0], "rb") as file:
            return kind, payload, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _exactly(self, length: int) -> bytes:
        data = bytearray(length)
        room = memoryview(data)
        while room:
            got = self._socket.recv_into(room)
            if not got:
                sys.exit("the judge has closed the channel")
            room = room[got:]
        return bytes(data)


class Run:
    """What a program knows: `seed`, `vocabulary`, `window` (tokens in a window), `threads`."""

    def __init__(self, channel: Channel, seed: int, vocabulary: int, window: int, threads: int) -> None:
        self._channel = channel
        self.seed, self.vocabulary, self.window, self.threads = seed, vocabulary, window, threads


class TrainingRun(Run):
    def open(self) -> NDArray[np.uint16]:
        """The training tokens, read-only uint16; time begins here, and it can be called once."""
        self._channel.send(b"R")
        _, _, data = self._channel.receive()
        assert data is not None
        return np.frombuffer(data, dtype="<u2")

    def submit(self, tensors: dict[str, torch.Tensor]) -> None:
        """Hands over a checkpoint, a dict of names and tensors; of several the last in time counts."""
        plain = {name: t.detach().to("cpu").clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
        self._channel.send(b"K", safetensors.torch.save(plain))


def train(channel: Channel, about: dict[str, int]) -> None:
    import train as program

    program.train(TrainingRun(channel, **about))
    channel.send(b"F")
    channel.receive()  # until the judge ends this process: tearing it down would only cost time


def score(channel: Channel, about: dict[str, int]) -> None:
    import model

    channel.send(b"R")
    _, _, checkpoint = channel.receive()
    assert checkpoint is not None
    predict = model.load(Run(channel, **about), safetensors.torch.load(checkpoint[:]))
    while True:
        _, payload, _ = channel.receive()
        only_last, rows, columns = struct.unpack_from("<?II", payload)
        tokens = np.frombuffer(payload, "<u2", offset=9).reshape(rows, columns).astype(np.int64)
        with torch.inference_mode():
            logits = predict(torch.from_numpy(tokens))
            if only_last:
                logits = logits[:, -1]
            answer = logits.detach().to("cpu", torch.float32).contiguous().numpy()
        channel.send(b"L", memoryview(answer).cast("B"))


def main() -> None:
    role, about = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(about["threads"])
    {"train": train, "score": score}[role](Channel(), about)


if __name__ == "__main__":
    main()
