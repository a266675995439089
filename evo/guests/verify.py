"""Makes plain values of an answer's bytes, in a sandbox of its own, and has the benchmark's verifier score them.

The program that gave the answer is gone, and nothing of it but these bytes comes here. Parsing happens here and not in
the judge: a parser that a hostile answer breaks then breaks a limited process without rights, and its own evaluation
alone. A verifier that raises anything but ValueError ends this process, which the judge reads as WRONG.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import socket
import struct
import sys
from pathlib import Path
from typing import Any

HEADER = struct.Struct("<cQ")
DEPTH = 16  # of lists and dicts within each other
ARRAY_HEADER = re.compile(  # as numpy writes it; anything else, objects and records included, is refused unread
    r"\{'descr': '(?P<dtype>[<|](f[248]|i[1248]|u[1248]|b1|c8|c16))', 'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>(\d{1,12}, ?){0,16}\d{0,12})\),? ?\}"
)
NPY_HEADER = 4096
SENTENCE = 500  # characters of a verifier's sentence


class Refused(Exception):
    """An answer that is not plain finite data; the sentence says what was expected."""


def receive(channel: socket.socket) -> tuple[bytes, bytes]:
    data = bytearray()
    while len(data) < HEADER.size or len(data) < HEADER.size + HEADER.unpack_from(data)[1]:
        got = channel.recv(1 << 20)
        if not got:
            sys.exit(1)
        data += got
    return bytes(data[:1]), bytes(data[HEADER.size :])


def parse_json(payload: bytes) -> Any:
    try:
        answer = json.loads(payload.decode(), parse_constant=refuse_constant)
    except RecursionError:
        raise Refused(f"expected at most {DEPTH} levels of lists and dicts") from None
    except ValueError as error:
        raise Refused(f"expected JSON, found something else: {error}") from None
    check(answer, DEPTH)
    return json.loads(json.dumps(answer))


def refuse_constant(word: str) -> None:
    raise Refused(f"expected finite numbers, found {word}")


def check(value: Any, depth: int) -> None:
    if isinstance(value, (list, dict)):
        if depth == 0:
            raise Refused(f"expected at most {DEPTH} levels of lists and dicts")
        for item in value.values() if isinstance(value, dict) else value:
            check(item, depth - 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise Refused(f"expected finite numbers, found {value}")
    elif isinstance(value, int) and abs(value) > 1 << 1000:
        raise Refused("expected numbers below 2**1000, found a larger one")


def parse_npy(payload: bytes) -> Any:
    """An array from .npy bytes, read without numpy's own reader: the header's claims are compared with the bytes that
    are there before anything is allocated, and only plain numbers are taken."""
    if payload[:6] != b"\x93NUMPY" or len(payload) < 12 or payload[6] not in (1, 2):
        raise Refused("expected .npy of version 1 or 2")
    prefix = "<H" if payload[6] == 1 else "<I"
    (size,) = struct.unpack_from(prefix, payload, 8)
    start = 8 + struct.calcsize(prefix)
    if size > min(NPY_HEADER, len(payload) - start):
        raise Refused(f"expected an .npy header of at most {NPY_HEADER} bytes, found {size}")
    found = ARRAY_HEADER.fullmatch(payload[start : start + size].decode("latin-1").strip())
    if found is None:
        raise Refused("expected an .npy header of plain little-endian numbers and a shape")
    dtype, fortran = found["dtype"], found["fortran"] == "True"
    shape = tuple(int(side) for side in found["shape"].split(",") if side.strip())
    import numpy

    dtype, data = numpy.dtype(dtype), payload[start + size :]
    if math.prod(shape) * dtype.itemsize != len(data):
        raise Refused(f"expected {math.prod(shape) * dtype.itemsize} bytes of array, found {len(data)}")
    answer = numpy.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C").copy(order="C")
    if not numpy.isfinite(answer).all():
        raise Refused("expected finite numbers, found NaN or infinity")
    return answer


def verdict(kind: bytes, payload: bytes, folder: Path, verifier: str) -> dict[str, Any]:
    """What the judge is told: {"wrong": sentence} or {"score": number, "measures": {...}}."""
    try:
        answer = {b"J": parse_json, b"N": parse_npy}[kind](payload)
    except Refused as error:
        return {"wrong": f"answer: {error}"}
    try:
        spec = importlib.util.spec_from_file_location("verify", folder / verifier)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found = module.verify(answer)
        found = found if isinstance(found, dict) else {"score": found}
        score, measures = number(found["score"]), found.get("measures", {})
        if score is None:
            return {"wrong": f"{verifier}: expected a finite score, found {found['score']!r}"[:SENTENCE]}
        kept = {str(name): number(value) for name, value in measures.items()}
        return {"score": score, "measures": {name: value for name, value in kept.items() if value is not None}}
    except ValueError as error:
        return {"wrong": f"{verifier}: {error}"[:SENTENCE]}


def number(value: Any) -> float | None:
    """A finite float, or None; a string or a bool is no number."""
    if isinstance(value, (str, bytes, bool)):
        return None
    try:
        value = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def main() -> None:
    channel = socket.socket(fileno=3)
    kind, payload = receive(channel)
    told = json.dumps(verdict(kind, payload, Path(sys.path[0]), sys.argv[1])).encode()
    channel.sendall(HEADER.pack(b"V", len(told)) + told)
    channel.recv(1)


if __name__ == "__main__":
    main()
