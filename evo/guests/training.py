"""Runs a training program in the sandbox, as `compile`, `train` or `score`; talks to the judge over descriptor 3.

Nothing here is trusted and nothing is kept from the program, which may replace every line of it: whatever matters is
checked on the other side. No evo module is imported, so that a sandbox holds none of the judge's code.
"""

from __future__ import annotations

import ctypes
import io
import json
import mmap
import os
import socket
import struct
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

HEADER = struct.Struct("<cQ")
KINDS = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int64: "I64", torch.int32: "I32",
    torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.uint16: "U16", torch.uint32: "U32",
    torch.uint64: "U64", torch.bool: "BOOL",
}  # fmt: skip
COMPILED = "/scratch/compiled"  # where the judge's environment tells compilers to keep what they made


class Channel:
    def __init__(self) -> None:
        self._socket = socket.socket(fileno=3)

    def send(self, kind: bytes, payload: bytes | memoryview = b"") -> None:
        self._socket.sendall(HEADER.pack(kind, len(payload)))
        self._socket.sendall(payload)

    def send_parts(self, kind: bytes, length: int, parts: Iterable[bytes | memoryview]) -> None:
        """One message whose payload comes in parts of `length` bytes together."""
        self._socket.sendall(HEADER.pack(kind, length))
        for part in parts:
            self._socket.sendall(part)

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


class Late:
    """Finds no module: it is asked last, and says why."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> NoReturn:
        raise ImportError(
            f"no module {name} can be loaded any more: expected every import before run.open() in train.py, and at the "
            "top of model.py, because the judge lets nothing be opened by name once it has handed over data"
        )


def close_imports(device: str) -> None:
    if device == "cpu":
        sys.meta_path.append(Late)


class Run:
    """What a program knows: `seed`, `vocabulary`, `window` (tokens in a window), `threads`, `device` ("cpu" or "cuda"),
    `seconds` (a checkpoint that arrives later on the judge's clock does not count), `devices` (how many there are), and
    `shards` (how many a race is meant for: what fewer devices have to work off one after the other)."""

    def __init__(self, channel: Channel, about: dict[str, Any]) -> None:
        self._channel, self._clock = channel, {"cpu": time.process_time, "wall": time.monotonic}[about["clock"]]
        self._opened = 0.0
        self.seed, self.vocabulary, self.window = about["seed"], about["vocabulary"], about["window"]
        self.threads, self.device, self.seconds = about["threads"], about["device"], about["seconds"]
        self.devices, self.shards = about["devices"], about["shards"]


class TrainingRun(Run):
    def open(self) -> NDArray[np.uint16]:
        """The training tokens, read-only uint16; time begins here, and it can be called once.

        On a CPU nothing can be opened, imported or looked up by name from here on.
        """
        close_imports(self.device)
        self._channel.send(b"R")
        _, _, data = self._channel.receive()
        assert data is not None
        self._opened = self._clock()
        return np.frombuffer(data, dtype="<u2")

    def elapsed(self) -> float:
        """Seconds since open(), on the kind of clock that the judge keeps; its own reading is what counts."""
        return self._clock() - self._opened

    def submit(self, tensors: dict[str, torch.Tensor]) -> None:
        """Hands over a checkpoint, a dict of names and tensors; of several the last in time counts."""
        self._channel.send_parts(b"K", *_container({name: t.detach() for name, t in tensors.items()}))


def _container(tensors: dict[str, torch.Tensor]) -> tuple[int, Iterator[bytes | memoryview]]:
    """The length of a safetensors container and its parts, one tensor after the other: a large one is never whole in
    this process's memory, and what a GPU has to copy is copied while the judge reads."""
    # The library's own order, widest numbers first, so that all of them lie where their kind must lie.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, end = {}, 0
    for name in order:
        begin, end = end, end + tensors[name].numel() * tensors[name].element_size()
        kind, shape = KINDS[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)

    def parts() -> Iterator[bytes | memoryview]:
        yield struct.pack("<Q", len(head)) + head
        for name in order:
            plain = tensors[name].to("cpu").contiguous().flatten()
            yield plain.view(torch.uint8).numpy().data

    return 8 + len(head) + end, parts()


class Compiled(BaseException):
    """The program has asked for the data, so what it compiles before is compiled."""


class CompilingRun(TrainingRun):
    def open(self) -> NoReturn:
        raise Compiled


def compile_ahead(channel: Channel, about: dict[str, Any]) -> None:
    """Without data: hands over what compilers have left behind, which comes back in the runs that have data."""
    import train as program

    try:
        program.train(CompilingRun(channel, about))
    except Compiled:
        pass
    else:
        sys.exit("train(run) returned without run.open()")
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        if os.path.isdir(COMPILED):
            archive.add(COMPILED, ".")
    channel.send(b"B", made.getbuffer())
    channel.receive()


def _unpack(channel: Channel) -> None:
    _, _, archive = channel.receive()
    assert archive is not None
    with tarfile.open(fileobj=io.BytesIO(archive[:])) as files:
        files.extractall(COMPILED, filter="fully_trusted")


def train(channel: Channel, about: dict[str, Any]) -> None:
    if about["compiled"]:
        _unpack(channel)
    import train as program

    program.train(TrainingRun(channel, about))
    channel.send(b"F")
    channel.receive()  # until the judge ends this process: tearing it down would only cost time


def score(channel: Channel, about: dict[str, Any]) -> None:
    import model

    run = Run(channel, about)
    shared = _opened(about["handle"], about["buffer"]) if about["device"] == "cuda" else None
    if hasattr(model, "warm_up"):
        model.warm_up(run)  # a model's chance to compile and load kernels before the clock
    close_imports(run.device)
    channel.send(b"R")
    _, _, checkpoint = channel.receive()
    assert checkpoint is not None
    predict = model.load(run, safetensors.torch.load(checkpoint[:]))
    while True:
        _, payload, _ = channel.receive()
        only_last, rows, columns = struct.unpack_from("<?II", payload)
        tokens = np.frombuffer(payload, "<u2", offset=9).reshape(rows, columns).astype(np.int64)
        with torch.inference_mode():
            logits = predict(torch.from_numpy(tokens))
            if only_last:
                logits = logits[:, -1]
            if shared is None:
                answer = logits.detach().to("cpu", torch.float32).contiguous().numpy()
            else:
                expected = (rows, run.vocabulary) if only_last else (rows, columns, run.vocabulary)
                assert logits.shape == expected, f"expected logits {expected}, found {tuple(logits.shape)}"
                shared[: logits.numel()].view(logits.shape).copy_(logits)
                torch.cuda.synchronize()
                answer = np.empty(0, np.float32)
        channel.send(b"L", memoryview(answer).cast("B"))


class _Handle(ctypes.Structure):
    _fields_ = (("bytes", ctypes.c_ubyte * 64),)


class _Memory:
    """What torch wraps as a tensor without owning it."""

    def __init__(self, address: int, length: int) -> None:
        shape, data = (length,), (address, False)
        self.__cuda_array_interface__ = {"shape": shape, "typestr": "<f4", "data": data, "version": 3}


def _opened(handle: str, length: int) -> torch.Tensor:
    """The judge's buffer on the device, float32 [length]."""
    torch.zeros(1, device="cuda")  # makes the context that the driver call works in
    holder = _Handle.from_buffer_copy(bytes.fromhex(handle))
    address = ctypes.c_uint64()
    open_handle = ctypes.CDLL("libcuda.so.1").cuIpcOpenMemHandle_v2
    if (result := open_handle(ctypes.byref(address), holder, ctypes.c_uint(1))) != 0:
        sys.exit(f"the judge's buffer could not be opened: CUDA error {result}")
    return torch.as_tensor(_Memory(address.value, length), device="cuda")


def main() -> None:
    role, about = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(about["threads"])
    torch.empty(2).copy_(torch.ones(2))  # reads what processor this is, which a program that is shut could not
    {"compile": compile_ahead, "train": train, "score": score}[role](Channel(), about)


if __name__ == "__main__":
    main()
