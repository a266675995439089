"""Runs a command as root on a Linux of its own: QEMU, Debian's kernel, and the files of this machine, read-only.

    scripts/boot_linux.py [--memory MB] [--skip] COMMAND...

For what this machine's kernel does not offer, cgroup version 2 first of all. It has one emulated processor, an empty
disk for temporary files, one to swap to, no network and no init system, and lasts as long as the command, whose exit
code it hands on. It boots in six seconds; what runs in it takes 4 to 18 times as long as here. KVM is not
used: where it opens it need not work. Nobody has to be root here for it, but then root there reads no more than they.
"""

from __future__ import annotations

import argparse
import gzip
import lzma
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
KERNEL = REPOSITORY / ".data" / "kernel"  # Debian's, as scripts/install_kernel unpacks it
DRIVERS = ("virtio_pci", "9pnet_virtio", "9p", "virtio_blk", "crc32c_generic", "ext4")
DISK_MB, SWAP_MB = 4096, 1024  # of empty files, which take only what is written to them
BUSYBOX = Path("/bin/busybox")

# Runs before the machine's files are there.
FIRST = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /bin/busybox insmod "$module" || echo "boot_linux: $module does not load"; done
/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 root /new || exit 1
/bin/busybox mount --move /dev /new/dev
/bin/busybox mount -t tmpfs -o mode=755 run /new/run
/bin/busybox cp /bin/busybox /second /new/run/
exec /bin/busybox switch_root /new /run/second
"""
SECOND = """\
#!/run/busybox sh
set -e
mount() { /run/busybox mount -t "$@"; }
mount proc proc /proc
mount sysfs sys /sys
mount cgroup2 cgroup /sys/fs/cgroup
/run/busybox mkdir /run/disk
/sbin/mke2fs -q /dev/vda
mount ext2 -o noatime /dev/vda /run/disk
/run/busybox chmod 1777 /run/disk
/run/busybox mkswap /dev/vdb >/dev/null
/run/busybox swapon /dev/vdb
/run/busybox mkdir -p /dev/shm /dev/pts
mount tmpfs -o mode=1777 shm /dev/shm
mount devpts pts /dev/pts
/run/busybox ip link set lo up
cd %(folder)s
set +e
/run/busybox env -i %(environment)s %(command)s </dev/null
echo $? >/dev/ttyS1
/run/busybox poweroff -f
"""


def unpacked(module: Path) -> bytes:
    data = module.read_bytes()
    return lzma.decompress(data) if module.suffix == ".xz" else data


def modules(folder: Path, wanted: Sequence[str]) -> dict[str, bytes]:
    """These modules and what they need, by name, in the order in which they load; each says itself what it needs."""
    files = {path.name.partition(".")[0].replace("-", "_"): path for path in folder.rglob("*.ko*")}
    found: dict[str, bytes] = {}
    for name in wanted:
        module = unpacked(files[name])
        needs = re.findall(rb"\0depends=([^\0]+)\0", module)
        found |= modules(folder, needs[0].decode().split(",")) if needs else {}
        found[name] = module
    return found


def archive(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """A cpio archive as the kernel reads it (its Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def entries() -> Iterator[bytes]:
        for number, (name, (mode, data)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))], 1):
            fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
            head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
            yield head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)

    return gzip.compress(b"".join(entries()), 1)


def first_files(second: str) -> bytes:
    program, folder = stat.S_IFREG | 0o755, stat.S_IFDIR | 0o755
    files = {name: (folder, b"") for name in ("bin", "dev", "modules", "new")}
    files |= {"bin/busybox": (program, BUSYBOX.read_bytes())}
    files |= {"init": (program, FIRST.encode()), "second": (program, second.encode())}
    for number, (name, module) in enumerate(modules(KERNEL / "lib" / "modules", DRIVERS).items()):
        files[f"modules/{number:02}-{name}"] = (program, module)
    return archive(files)


def boot(command: Sequence[str], memory_mb: int) -> int:
    """The command's exit code; 125 where the machine stopped before it had one."""
    passed = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "TERM", "HOME") or k.startswith("EVO_")}
    environment = shlex.join(
        [*(f"{k}={v}" for k, v in passed.items()), "TMPDIR=/run/disk", "PYTHONDONTWRITEBYTECODE=1"]
    )
    second = SECOND % {
        "folder": shlex.quote(str(REPOSITORY)),
        "environment": environment,
        "command": shlex.join(command),
    }
    with tempfile.TemporaryDirectory() as place:
        files, code = Path(place, "files"), Path(place, "code")
        files.write_bytes(first_files(second))
        (image,) = (KERNEL / "boot").glob("vmlinuz-*")
        machine = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "1"]
        machine += ["-m", str(memory_mb), "-nodefaults", "-display", "none", "-no-reboot"]
        machine += ["-serial", "stdio", "-serial", f"file:{code}"]
        machine += ["-kernel", str(image), "-initrd", str(files), "-append", "console=ttyS0 loglevel=3 panic=-1"]
        for name, megabytes in (("disk", DISK_MB), ("swap", SWAP_MB)):
            with open(f"{place}/{name}", "wb") as file:
                file.truncate(megabytes << 20)
            machine += ["-drive", f"file={place}/{name},format=raw,if=virtio,cache=unsafe"]
        machine += ["-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"]
        machine += ["-device", "virtio-9p-pci,fsdev=root,mount_tag=root"]
        subprocess.run(machine, stdin=subprocess.DEVNULL, check=True)
        said = code.read_text().strip()
    return int(said) if said.isdigit() else 125


def missing() -> str:
    """What keeps this machine from it, or an empty text."""
    if os.uname().machine != "x86_64":
        return f"it is written for x86_64, this is {os.uname().machine}"
    wanted = ("qemu-system-x86_64", str(BUSYBOX), "apt-get", "dpkg-deb")
    lacking = " and ".join(name for name in wanted if shutil.which(name) is None)
    return f"{lacking} not found; on Debian: apt-get install qemu-system-x86 busybox-static" if lacking else ""


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs a command as root on a Linux of its own.")
    parser.add_argument("--memory", type=int, default=3072, metavar="MB")
    parser.add_argument("--skip", action="store_true", help="exit with 0 and the reason where it cannot be had")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND...")
    found = parser.parse_args()
    if not found.command:
        parser.error("expected a command")
    if reason := missing():
        print(f"{'skipped' if found.skip else 'boot_linux'}: {reason}", file=sys.stderr)
        return 0 if found.skip else 2
    if not (KERNEL / ".ready").exists():
        KERNEL.parent.mkdir(mode=0o700, exist_ok=True)
        subprocess.run([REPOSITORY / "scripts" / "install_kernel", KERNEL], check=True)
    return boot(found.command, found.memory)


if __name__ == "__main__":
    sys.exit(main())
