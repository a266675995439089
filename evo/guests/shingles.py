"""Runs in a sandbox: reads every file it can see and says which hold one of the pieces given as arguments."""

from __future__ import annotations

import os
import socket
import stat
import sys
import zlib

SKIPPED = ("/proc", "/sys")  # the kernel's, not a disk's
PACKED = (".gz", ".zip", ".whl", ".egg")


def contents(path: str) -> bytes:
    with open(path, "rb") as file:
        data = file.read()
    if path.endswith(".gz"):
        data += zlib.decompress(data, 47)
    return data


def main() -> None:
    pieces = [bytes.fromhex(argument) for argument in sys.argv[1:]]
    with socket.socket(fileno=os.dup(3)) as channel:
        files = size = 0
        for folder, _, names in os.walk("/"):
            if folder.startswith(SKIPPED):
                continue
            for name in names:
                path = os.path.join(folder, name)
                try:
                    if not stat.S_ISREG(os.lstat(path).st_mode):
                        continue
                    data = contents(path)
                except (OSError, zlib.error, MemoryError):
                    continue
                files, size = files + 1, size + len(data)
                if any(piece in data for piece in pieces):
                    channel.sendall(f"found {path}\n".encode(errors="replace"))
        channel.sendall(f"searched {files} files, {size / 2**20:.0f} MB\n".encode())


main()
