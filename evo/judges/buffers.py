"""Memory that a judge shares with workers: CUDA allocations by IPC handle, or on the CPU one memory file.

All shared buffers of a workload are one allocation, each in whole 2 MiB pages of it: an IPC handle covers the
allocation it was made from, so nothing but what is shared may lie in it, and hundreds of handles take long to open.
What is secret (kept outputs, oracles) is torch's own memory.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from typing import Any, Protocol

PAGE = 2 << 20
HANDLE_BYTES = 64


class Pool(Protocol):
    """Byte tensors of the judge, `tensors`, and what a worker needs to open the same memory."""

    tensors: list[Any]
    fd: int | None

    def about(self) -> list[dict[str, Any]]: ...

    def close(self) -> None: ...


class _Handle(ctypes.Structure):
    _fields_ = (("reserved", ctypes.c_ubyte * HANDLE_BYTES),)


class _Memory:
    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 3}


class DevicePool:
    """`sizes` in bytes; raises MemoryError when the device has no room."""

    fd: int | None = None

    def __init__(self, sizes: Sequence[int]) -> None:
        import torch

        torch.cuda.synchronize()  # makes the context that the driver calls work in
        driver = ctypes.CDLL("libcuda.so.1")
        driver.cuMemAlloc_v2.argtypes = [ctypes.POINTER(ctypes.c_uint64), ctypes.c_size_t]
        driver.cuMemFree_v2.argtypes = [ctypes.c_uint64]
        driver.cuIpcGetMemHandle.argtypes = [ctypes.POINTER(_Handle), ctypes.c_uint64]
        self._driver = driver
        self.tensors: list[Any] = []
        starts, total = [], 0
        for size in sizes:
            starts.append(total)
            total += -(-size // PAGE) * PAGE
        address = ctypes.c_uint64()
        if error := driver.cuMemAlloc_v2(ctypes.byref(address), total):
            raise MemoryError(f"the device has no room for {total >> 20} MB of shared buffers (error {error})")
        self._address: int | None = address.value
        handle = _Handle()
        if error := driver.cuIpcGetMemHandle(ctypes.byref(handle), address.value):
            self.close()
            raise OSError(f"the driver exports no memory to other processes here (error {error})")
        whole = torch.as_tensor(_Memory(address.value, total), device="cuda")
        self.tensors = [whole[start : start + size] for start, size in zip(starts, sizes)]
        name = bytes(handle.reserved).hex()
        self._about = [
            {"handle": name, "whole": total, "start": start, "bytes": size} for start, size in zip(starts, sizes)
        ]

    def about(self) -> list[dict[str, Any]]:
        return self._about

    def close(self) -> None:
        import torch

        torch.cuda.synchronize()
        self.tensors = []
        if self._address is not None:
            self._driver.cuMemFree_v2(self._address)
            self._address = None


class HostPool:
    def __init__(self, sizes: Sequence[int]) -> None:
        import torch

        self._sizes = list(sizes)
        self.fd: int | None = os.memfd_create("evo-kernel", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, sum(sizes))
        whole = torch.frombuffer(mmap.mmap(self.fd, sum(sizes)), dtype=torch.uint8)
        self.tensors: list[Any] = list(whole.split(self._sizes))

    def about(self) -> list[dict[str, Any]]:
        return [{"bytes": size} for size in self._sizes]

    def close(self) -> None:
        self.tensors = []
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def pool(device: str, sizes: Sequence[int]) -> Pool:
    return DevicePool(sizes) if device == "cuda" else HostPool(sizes)
