"""What crosses between a judge and a process in the sandbox: framed bytes, checked before anything is believed.

A frame is one type byte, the payload's length as eight bytes (little-endian), and the payload. Everything that comes
from the other side is hostile: lengths are bounded before memory is taken, nothing is unpickled, file descriptors that
a candidate may try to pass are never asked for (plain `recv` makes the kernel close them). Big things go to the
candidate as sealed memory files, which cost no copy through the socket and cannot be changed under the judge's hand.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from safetensors import SafetensorError, deserialize

HEADER = struct.Struct("<cQ")
TICK = 0.05  # seconds between two looks at the clocks while nothing arrives
CHUNK = 1 << 20
AHEAD = 1 << 12  # bytes that are asked for together with a header

CHECKPOINT_HEADER = 1 << 18  # bytes of JSON; some thousand tensors
CHECKPOINT_TENSORS = 4096
CHECKPOINT_NAME = 200
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "U16": 2, "U32": 4, "U64": 8, "BOOL": 1,
}  # fmt: skip


class Closed(Exception):
    """The other side has ended, or has closed its end."""


class Foreign(Exception):
    """The other side sent something that is not part of the protocol; the sentence is the judge's own."""


class Malformed(Exception):
    """A checkpoint that is not a plain, consistent tensor container; the sentence is the judge's own."""


@dataclass(frozen=True)
class Frame:
    kind: bytes
    payload: bytearray


class Peer:
    """The judge's end of one channel. `watch` is called at least every `TICK` seconds of waiting or transfer and raises
    to give up; so a sender of one byte a second, or one that never reads, costs no more than a silent one. `wait` says
    whether the channel is ready for events of `poll` within so many seconds; it may see to other things meanwhile."""

    def __init__(self, channel: socket.socket, wait: Callable[[int, float], bool] | None = None) -> None:
        self._channel = channel
        self._wait = wait or self._ready
        self._poller = select.poll()
        self._ahead = bytearray()  # what came together with an earlier frame
        self._looked = 0.0  # when `watch` was called last
        channel.setblocking(False)

    def receive(self, sizes: Mapping[bytes, range], watch: Callable[[], None]) -> Frame:
        """One frame of a kind in `sizes` whose length lies in that kind's range."""
        self._looked = time.monotonic()
        while len(self._ahead) < HEADER.size:
            more = bytearray(AHEAD)
            got = self._some(memoryview(more), watch)
            self._ahead += more[:got]
        kind, length = HEADER.unpack_from(self._ahead)
        if kind not in sizes:
            raise Foreign(f"expected a message of type {_names(sizes)}, found {bytes(kind)!r}")
        if length not in sizes[kind]:
            raise Foreign(f"message {kind.decode()}: expected {_span(sizes[kind])} bytes, found {length}")
        come = min(len(self._ahead) - HEADER.size, length)
        payload = bytearray(length)
        payload[:come] = self._ahead[HEADER.size : HEADER.size + come]
        del self._ahead[: HEADER.size + come]
        with memoryview(payload) as room:
            while come < length:
                come += self._some(room[come : come + CHUNK], watch)
        return Frame(kind, payload)

    def expect_silence(self) -> None:
        """Raises `Foreign` if something has arrived that was not asked for yet; consumes nothing."""
        if self._ahead or (self._ready(select.POLLIN, 0) and self._channel.recv(1, socket.MSG_PEEK)):
            raise Foreign("expected nothing before the data opens, found a message")

    def send(self, kind: bytes, watch: Callable[[], None], payload: bytes = b"", fd: int | None = None) -> None:
        self._looked = time.monotonic()
        header = HEADER.pack(kind, len(payload))
        if fd is not None:
            sent = self._when(select.POLLOUT, watch, partial(socket.send_fds, self._channel, [header], [fd]))
            header = header[sent:]
        data = memoryview(header + payload)
        while data:
            data = data[self._when(select.POLLOUT, watch, partial(self._channel.send, data[:CHUNK])) :]

    def _some(self, room: memoryview, watch: Callable[[], None]) -> int:
        """Receives at least one byte into `room`; gives how many."""
        got = self._when(select.POLLIN, watch, partial(self._channel.recv_into, room))
        if got == 0:
            raise Closed
        return got

    def _when(self, events: int, watch: Callable[[], None], action: Callable[[], int]) -> int:
        """Does what the channel must be ready for, and looks at the clocks now and then."""
        while True:
            ready = self._wait(events, TICK)
            now = time.monotonic()
            if not ready or now - self._looked >= TICK:
                watch()
                self._looked = now
            if ready:
                try:
                    return action()
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise Closed from error

    def _ready(self, events: int, timeout: float) -> bool:
        self._poller.register(self._channel, events)
        return bool(self._poller.poll(1000 * timeout))


def _names(kinds: Mapping[bytes, range]) -> str:
    return " or ".join(kind.decode() for kind in kinds)


def _span(sizes: range) -> str:
    return f"{sizes.start}" if len(sizes) == 1 else f"{sizes.start} to {sizes.stop - 1}"


def exactly(size: int) -> range:
    return range(size, size + 1)


def at_most(size: int) -> range:
    return range(size + 1)


@contextmanager
def sealed(data: bytes | bytearray | memoryview) -> Iterator[int]:
    """A memory file that nobody can change any more, to be passed by its descriptor."""
    fd = os.memfd_create("evo", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data).cast("B")
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
        fcntl.fcntl(
            fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        )
        yield fd
    finally:
        os.close(fd)


def inspect_checkpoint(data: bytes) -> str:
    """Accepts a plain safetensors container and returns the hash of its tensor bytes; `Malformed` says what is wrong.

    Written out although the library checks much of it: the bytes are a candidate's, and what is accepted here (types,
    names, no gaps in which something could travel, no metadata) is the benchmark's rule and not the library's.
    """
    if len(data) < 8:
        raise Malformed(f"expected a safetensors container, found {len(data)} bytes")
    (header_size,) = struct.unpack_from("<Q", data)
    if header_size > min(CHECKPOINT_HEADER, len(data) - 8):
        raise Malformed(
            f"expected a header of at most {min(CHECKPOINT_HEADER, len(data) - 8)} bytes, found {header_size}"
        )
    try:
        header = json.loads(data[8 : 8 + header_size].decode(), object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise Malformed("expected a safetensors header of JSON with every name once") from error
    if not isinstance(header, dict) or not 0 < len(header) <= CHECKPOINT_TENSORS:
        raise Malformed(f"expected 1 to {CHECKPOINT_TENSORS} tensors in the header")
    spans = sorted(_tensor_span(name, entry) for name, entry in header.items())
    end = 0
    for begin, stop in spans:
        if begin != end:
            raise Malformed(
                f"expected tensors without gaps or overlaps, found one that starts at {begin} instead of {end}"
            )
        end = stop
    if end != len(data) - 8 - header_size:
        raise Malformed(f"expected {end} tensor bytes, found {len(data) - 8 - header_size}")
    try:
        deserialize(data)
    except SafetensorError as error:
        raise Malformed("expected a container that safetensors reads, found one that it refuses") from error
    return hashlib.sha256(memoryview(data)[8 + header_size :]).hexdigest()


def _tensor_span(name: str, entry: object) -> tuple[int, int]:
    if len(name) > CHECKPOINT_NAME or not name.isprintable():
        raise Malformed(f"expected printable tensor names of at most {CHECKPOINT_NAME} characters")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise Malformed("expected dtype, shape and data_offsets for every tensor, and no metadata")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise Malformed(f"expected a tensor type of {', '.join(ITEM_BYTES)}")
    if not _whole(shape) or len(shape) > 16 or not _whole(offsets) or len(offsets) != 2:
        raise Malformed("expected shapes and offsets as lists of whole numbers of at least 0")
    begin, stop = offsets
    if stop - begin != math.prod(shape) * ITEM_BYTES[dtype]:
        raise Malformed(f"expected {math.prod(shape) * ITEM_BYTES[dtype]} bytes for a tensor, found {stop - begin}")
    return begin, stop


def _whole(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not a number")
