"""Runs a kernel inside the sandbox over buffers that the judge owns; talks to the judge over descriptor 3.

Nothing here is trusted: what a candidate does to this script costs it only its own score. No evo module is imported.
Frames from the judge: B buffers, P prepare the calls of a burst, G go, T trace them. The answers are the small letters.
The judge's own programs also ask for the card while torch's compiler times its choices: w, answered by w, ended by d.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import mmap
import os
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

HEADER = struct.Struct("<cQ")
DRIVER_ERROR = "the driver refused {}: error {}"


class Channel:
    def __init__(self) -> None:
        self._socket = socket.socket(fileno=3)

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        self._socket.sendall(HEADER.pack(kind, len(payload)) + payload)

    def receive(self) -> tuple[bytes, bytes, int | None]:
        header, fds, _, _ = socket.recv_fds(self._socket, HEADER.size, 1)
        header += self._exactly(HEADER.size - len(header))
        kind, length = HEADER.unpack(header)
        return kind, self._exactly(length), fds[0] if fds else None

    def _exactly(self, length: int) -> bytes:
        data = bytearray(length)
        room = memoryview(data)
        while room:
            got = self._socket.recv_into(room)
            if not got:
                os._exit(0)
            room = room[got:]
        return bytes(data)


class Memory:
    """Device memory of another process as torch wants to see it."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}


class Handle(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_ubyte * 64),)


class DeviceBuffers:
    def __init__(self) -> None:
        torch.cuda.synchronize()  # makes the context that the driver calls work in
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._driver.cuIpcOpenMemHandle_v2.argtypes = [ctypes.POINTER(ctypes.c_uint64), Handle, ctypes.c_uint]
        self._driver.cuIpcCloseMemHandle.argtypes = [ctypes.c_uint64]
        self._open: list[int] = []

    def open(self, about: list[dict[str, Any]], fd: int | None) -> list[torch.Tensor]:
        torch.cuda.synchronize()
        for old in self._open:
            self._driver.cuIpcCloseMemHandle(old)
        self._open = []
        torch.cuda.empty_cache()
        found, wholes = [], {}
        for buffer in about:
            name = buffer["handle"]
            if name not in wholes:
                address = ctypes.c_uint64()
                handle = Handle.from_buffer_copy(bytes.fromhex(name))
                error = self._driver.cuIpcOpenMemHandle_v2(ctypes.byref(address), handle, 1)
                if error:
                    raise RuntimeError(DRIVER_ERROR.format("to open shared memory", error))
                self._open.append(address.value)
                wholes[name] = torch.as_tensor(Memory(address.value, buffer["whole"]), device="cuda")
            found.append(wholes[name][buffer["start"] : buffer["start"] + buffer["bytes"]])
        return found


class HostBuffers:
    def open(self, about: list[dict[str, Any]], fd: int | None) -> list[torch.Tensor]:
        if fd is None:
            return []
        whole = torch.frombuffer(mmap.mmap(fd, 0), dtype=torch.uint8)
        os.close(fd)
        found, start = [], 0
        for buffer in about:
            found.append(whole[start : start + buffer["bytes"]])
            start += buffer["bytes"]
        return found


def loaded(file: str) -> Callable[..., Any]:
    folder = Path(sys.path[0])
    spec = importlib.util.spec_from_file_location(Path(file).stem, folder / file)
    assert spec is not None and spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    sys.modules[Path(file).stem] = program
    spec.loader.exec_module(program)
    run: Callable[..., Any] = program.run
    return run


def variant(run: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The judge's own programs: nothing at all, the reference as it stands, and compiled in two ways.

    Without CUDA graphs, which would copy inputs whose addresses change in every call.
    """
    if name == "null":
        return lambda *arguments: None
    if name == "eager":
        return run
    mode = {"compile": None, "max": "max-autotune-no-cudagraphs"}[name]
    return torch.compile(run, dynamic=False, mode=mode)


def take_turns(channel: Channel) -> None:
    """Has torch's compiler time its choices only while nobody else is on the card."""
    from torch._inductor.runtime import benchmarking

    kind: Any = type(getattr(benchmarking, "benchmarker", None))
    timed = getattr(kind, "benchmark_gpu", None)
    if timed is None:  # another version of torch: then it times when it likes
        return

    def benchmark_gpu(self: Any, *arguments: Any, **named: Any) -> Any:
        channel.send(b"w")
        channel.receive()
        try:
            return timed(self, *arguments, **named)
        finally:
            channel.send(b"d")

    kind.benchmark_gpu = benchmark_gpu


def profile(program: Callable[..., Any], calls: list[list[Any]], sync: Callable[[], object], cuda: bool) -> bytes:
    """Where the time of a few calls goes, as JSON: [name, microseconds a call, times a call], the longest first."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    try:
        with profiler(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as found:
            for arguments in calls:
                program(*arguments)
            sync()
        time = "self_device_time_total" if cuda else "self_cpu_time_total"
        rows = [(e.key[:80], getattr(e, time) / len(calls), e.count / len(calls)) for e in found.key_averages()]
        return json.dumps(sorted((r for r in rows if r[1] > 0), key=lambda r: -r[1])[:8]).encode()
    except RuntimeError as error:  # without the driver's permission there is no profile
        return json.dumps(str(error)[:200]).encode()


def tensor(buffers: list[torch.Tensor], about: Any) -> Any:
    if not isinstance(about, list):
        return about
    buffer, offset, dtype, shape = about
    kind = getattr(torch, dtype)
    size = kind.itemsize
    for extent in shape:
        size *= extent
    return buffers[buffer][offset : offset + size].view(kind).view(shape)


def main() -> None:
    file, device = sys.argv[1:3]
    channel = Channel()
    sync = torch.cuda.synchronize if device == "cuda" else lambda: None
    memory = DeviceBuffers() if device == "cuda" else HostBuffers()
    torch.set_num_threads(1)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device == "cuda" else []
    run = loaded(file)
    programs = {"": run}
    buffers: list[torch.Tensor] = []
    calls: list[list[Any]] = []
    results: list[Any] = []
    program, name = run, ""
    spark = torch.zeros(1, device=device)
    channel.send(b"r")
    while True:
        kind, payload, fd = channel.receive()
        if kind == b"G":
            if name == "null":  # the device's change from the judge's process to this one belongs to every burst
                spark.add_(1)
            elif marks:
                marks[0].record()
            for arguments in calls:
                results.append(program(*arguments))
            timed = bool(marks) and name != "null"
            if timed:
                marks[1].record()
            sync()
            channel.send(b"g", struct.pack("<d", 1e3 * marks[0].elapsed_time(marks[1]) if timed else 0.0))
        elif kind == b"P":
            about = json.loads(payload)
            results.clear()
            calls = [[tensor(buffers, argument) for argument in call] for call in about["calls"]]
            name = about["program"]
            if name not in programs:
                if marks and name in ("compile", "max") and not {"compile", "max"} & set(programs):
                    take_turns(channel)
                programs[name] = variant(run, name)
            program = programs[name]
            sync()
            channel.send(b"p")
        elif kind == b"T":
            channel.send(b"t", profile(program, calls, sync, device == "cuda"))
        elif kind == b"B":
            results.clear()
            calls.clear()
            buffers.clear()
            buffers = memory.open(json.loads(payload), fd)
            channel.send(b"b")


if __name__ == "__main__":
    main()
