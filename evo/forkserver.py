"""The process that forks candidates: a script of its own, which imports nothing of evo and runs nothing of a candidate.

Processes, outermost first. The *waiter* is what the judge started; it only enters the namespaces and waits. The
*server* is process 1 of a pid namespace, so that the kernel ends every sandbox with it; it imports the preload modules,
builds the read-only root once and forks. Each turn has an *init*, process 1 of a nested pid namespace, which mounts
what belongs to the turn, forks the *candidate*, reports how it ended and leaves it unreaped, so that the judge can
still read its clock.

Talk with the judge, one JSON object a message: configuration -> layers; then a request with its descriptors and no
answer; the init answers on the turn's own control socket: ready with two pidfds (init, candidate) or error; then exit.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import errno
import faulthandler
import fcntl
import gc
import importlib
import itertools
import json
import os
import resource
import runpy  # noqa: F401  candidates that use it pay no import
import select
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

LIBC = ctypes.CDLL(None, use_errno=True)
MACHINE = os.uname().machine

# linux/sched.h, linux/mount.h, linux/prctl.h
CLONE_THREAD, CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x10000, 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
CLONE_NEW_ANY = 0x7E020000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 36, 38
STATVFS_TO_MOUNT = {1: 1, 2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}  # ST_* of statvfs to MS_* of mount

# name: (x86_64, aarch64); None where the machine has no such call. From asm/unistd_64.h and asm-generic/unistd.h.
SYSCALLS: dict[str, tuple[int | None, int | None]] = {
    # other processes' memory and control
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "kcmp": (312, 272),
    "migrate_pages": (256, 238), "move_pages": (279, 239),
    # wide doors into the kernel
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "add_key": (248, 217), "request_key": (249, 218),
    "keyctl": (250, 219), "seccomp": (317, 277), "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None),
    "personality": (135, 92), "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105),
    "finit_module": (313, 273), "delete_module": (176, 106), "uselib": (134, None), "nfsservctl": (180, 42),
    "lookup_dcookie": (212, 18), "vhangup": (153, 58), "syslog": (103, 116), "acct": (163, 89),
    # mounts and namespaces
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442), "statmount": (457, 457), "listmount": (458, 458), "open_tree_attr": (467, 467),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "unshare": (272, 97), "setns": (308, 268), "sethostname": (170, 161), "setdomainname": (171, 162),
    "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    # clocks and priorities: the score is a time
    "clock_settime": (227, 112), "clock_adjtime": (305, 266), "settimeofday": (164, 170), "adjtimex": (159, 171),
    "sched_setscheduler": (144, 119), "sched_setattr": (314, 274), "sched_setparam": (142, 118),
    "ioprio_set": (251, 30), "setpriority": (141, 140),
    # two sandboxes share read-only files: what lets one see the other's use of them
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263), "inotify_init": (253, None), "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27), "cachestat": (451, 451),
    # the page cache of those files, one page a bit: dropping pages, and asking which are there
    "fadvise64": (221, 223), "readahead": (187, 213), "preadv2": (327, 286), "mincore": (27, 232), "madvise": (28, 233),
    # notes left on an inode that another sandbox gets to see
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    # memory that no limit counts: kernel tables of gigabytes, and huge pages that a pipe keeps alive
    "shmget": (29, 194), "memfd_secret": (447, 447), "memfd_create": (319, 279), "semget": (64, 190),
    "msgget": (68, 186), "io_setup": (206, 0), "io_submit": (209, 2), "vmsplice": (278, 75),
    # looked at by argument, or only without children
    "fork": (57, None), "vfork": (58, None), "clone": (56, 220), "clone3": (435, 435), "execve": (59, 221),
    "execveat": (322, 281), "socket": (41, 198), "flock": (73, 32), "fcntl": (72, 25), "ioctl": (16, 29),
    "prlimit64": (302, 261), "prctl": (157, 167),
    # shared futexes work through a page of a file that two sandboxes map; these have no argument to tell them by
    "futex_wake": (454, 454), "futex_wait": (455, 455), "futex_requeue": (456, 456), "futex_waitv": (449, 449),
    "futex": (202, 98),
    # what makes the whole machine write to its disks
    "sync": (162, 81), "syncfs": (306, 267), "sync_file_range": (277, 84),
    # used here
    "waitid": (247, 95), "capset": (126, 91), "pidfd_getfd": (438, 438), "fstat": (5, 80),
    "landlock_create_ruleset": (444, 444), "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446),
}  # fmt: skip
BY_ARGUMENT = {
    "clone", "clone3", "socket", "fcntl", "ioctl", "memfd_create", "madvise", "prlimit64", "prctl", "futex",
    "futex_wake", "futex_wait", "futex_requeue",
}  # fmt: skip
CHILDLESS = {"fork", "vfork", "execve", "execveat", "flock"}
USED_HERE = {"waitid", "capset", "fstat", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"}

# Every call that looks up a name, and those that can name an address in the file system. A name that was looked up,
# there or not, is found faster the next time, by every process that sees the directory.
BY_NAME: dict[str, tuple[int | None, int | None]] = {
    "open": (2, None), "creat": (85, None), "openat": (257, 56), "openat2": (437, 437), "stat": (4, None),
    "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291), "access": (21, None), "faccessat": (269, 48),
    "faccessat2": (439, 439), "readlink": (89, None), "readlinkat": (267, 78), "getdents": (78, None),
    "getdents64": (217, 61), "chdir": (80, 49), "statfs": (137, 43), "truncate": (76, 45), "rename": (82, None),
    "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None),
    "link": (86, None), "linkat": (265, 37), "unlink": (87, None), "unlinkat": (263, 35), "symlink": (88, None),
    "symlinkat": (266, 36), "mknod": (133, None), "mknodat": (259, 33), "chmod": (90, None), "fchmodat": (268, 53),
    "fchmodat2": (452, 452), "chown": (92, None), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None),
    "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88), "getxattr": (191, 8),
    "lgetxattr": (192, 9), "listxattr": (194, 11), "llistxattr": (195, 12), "removexattr": (197, 14),
    "lremovexattr": (198, 15), "getxattrat": (464, 464), "listxattrat": (465, 465), "removexattrat": (466, 466),
    "file_getattr": (468, 468), "file_setattr": (469, 469), "bind": (49, 200), "connect": (42, 203),
    "sendmsg": (46, 211), "sendmmsg": (307, 269), "sendto": (44, 206),
}  # fmt: skip
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

MACHINE_FILES = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache",
                 "/etc/alternatives", "/sys/devices/system/cpu", "/sys/devices/system/node"]  # fmt: skip
COVERED = "raise ImportError('this file is covered in every sandbox: it holds validation text')\n"
# What a turn may read of /proc and /sys beside what is its own. The rest counts what all processes do, page by page and
# interrupt by interrupt; some of these counters nothing moves but who wants to, and the next turn could read them.
UNCOUNTED = ["/proc/cpuinfo", "/proc/filesystems", "/proc/version", "/proc/sys/vm/overcommit_memory",
             "/sys/devices/system/cpu"]  # fmt: skip
DEVICES = ["null", "zero", "full", "random", "urandom"]
# CUDA finds its device through more of /sys than the two directories above.
CUDA_FILES = ["/sys/bus", "/sys/class", "/sys/devices", "/sys/module"]
# A uid of its own for each turn, because RLIMIT_NPROC counts by uid.
USER_BASE, TURNS_AT_ONCE, NOBODY = 0x70000000, 64, 65534

# Each layer: name, what it stops. In the order in which a turn puts them on.
LAYERS = {
    "processes": "seeing, signalling or outliving: own pid namespace, killed as a whole",
    "files": "reading any file but the interpreter, its libraries and the program: own mount namespace and root",
    "network": "every connection: own empty network namespace",
    "ipc": "shared memory and message queues of the host: own ipc namespace",
    "hostname": "reading the host's name: own uts namespace",
    "limits": "exhausting memory, files and descriptors: resource limits",
    "memory": "exhausting memory by many processes together: a memory cgroup for each turn",
    "user": "using the judge's uid: a uid of its own, or a user namespace inside the user's",
    "threads": "a flood of threads or processes: RLIMIT_NPROC on a count of its own",
    "capabilities": "any privilege, also through set-uid programs: no capability, no_new_privs",
    "landlock": "writing outside the scratch directory, TCP: a second wall behind the mounts; reading kernel counters",
    "syscalls": "new processes, ptrace, io_uring, clocks, sockets other than local ones: seccomp filter",
    "names": "notes in the kernel's memory of names: nothing is looked up once a turn is shut, by seccomp's listener",
}
REQUIRED = ("processes", "files")


class SetupError(Exception):
    """A sandbox could not be built; the message names the step."""


def words(error: Exception) -> str:
    """An error without its number: the calls below put the step's name into the text."""
    return str(error.strerror) if isinstance(error, OSError) and error.filename is None else str(error)


def checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def number(name: str) -> int:
    found = SYSCALLS[name][0 if MACHINE == "x86_64" else 1]
    assert found is not None, f"{name} does not exist on {MACHINE}"
    return found


def syscall(name: str, *arguments: Any) -> int:
    return checked(LIBC.syscall(ctypes.c_long(number(name)), *arguments), name)


def prctl(option: int, value: int, what: str) -> None:
    zero = ctypes.c_ulong(0)
    checked(LIBC.prctl(option, ctypes.c_ulong(value), zero, zero, zero), what)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    encoded = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())
    checked(LIBC.mount(*encoded), f"mount {kind or 'bind'} on {target}")


def sealed(target: str, extra: int = MS_NODEV) -> None:
    """Makes one mount read-only, keeping the flags that a user namespace may not clear."""
    kept = sum(flag for bit, flag in STATVFS_TO_MOUNT.items() if os.statvfs(target).f_flag & bit)
    mount("", target, "", kept | MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | extra)


def unshare(flags: int, what: str) -> None:
    result = LIBC.unshare(flags)
    if result < 0 and ctypes.get_errno() == errno.ENOSPC:
        raise OSError(errno.ENOSPC, f"unshare {what}: the number set in /proc/sys/user does not allow it")
    checked(result, f"unshare {what}")


def pivot(old: str) -> None:
    checked(LIBC.syscall(ctypes.c_long(number("pivot_root")), b".", old.encode()), "pivot_root")


def write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)  # the kernel wants these files written in one call
    os.write(fd, text.encode())
    os.close(fd)


def map_one_user(inside: int, user: int, group: int) -> None:
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"{inside} {user} 1")
    write("/proc/self/gid_map", f"{inside} {group} 1")


# --------------------------------------------------------------------------------------------------- system call filter


def filter_program(children: bool, cuda: bool, loopback: bool = False) -> bytes:
    """A BPF program that refuses (EPERM) what is listed and allows the rest.

    A list of refusals, not of permissions: numerical libraries and CUDA use an open set of calls, and the walls are the
    namespaces; the filter takes away what would bend the clock or open a wide door into the kernel.
    """
    load, equal, greater, bits, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, missing, kill = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS, 0x80000000

    def one(code: int, operand: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("=HBBI", code, yes, no, operand)

    def argument(index: int) -> bytes:
        return one(load, 16 + 8 * index)  # low half; both machines are little-endian and the tested ones are ints

    program = [one(load, 4), one(equal, AUDIT_ARCH[MACHINE], 1), one(give, kill), one(load, 0)]
    if MACHINE == "x86_64":
        program += [one(greater, 0x40000000, 0, 1), one(give, kill)]  # the x32 table would go round the numbers below

    def block(name: str, *body: bytes) -> None:
        index = SYSCALLS[name][0 if MACHINE == "x86_64" else 1]
        if index is not None:
            program.extend([one(equal, index, 0, len(body)), *body])

    for name in SYSCALLS:
        if name not in BY_ARGUMENT | USED_HERE and (name not in CHILDLESS or not children):
            block(name, one(give, refuse))
    block("clone3", one(give, missing))  # its flags lie in memory, where no filter sees them; glibc falls back to clone
    spawn = [one(give, allow)] if children else [one(bits, CLONE_THREAD, 0, 1), one(give, allow), one(give, refuse)]
    block("clone", argument(0), one(bits, CLONE_NEW_ANY, 0, 1), one(give, refuse), *spawn)
    # AF_NETLINK: how a program finds its interfaces. The network namespace is its own either way.
    families = [socket.AF_UNIX, *([socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK] if loopback else [])]
    tests = [part for family in families for part in (one(equal, family, 0, 1), one(give, allow))]
    block("socket", argument(0), *tests, one(give, refuse))
    if children or cuda:
        block("ioctl", argument(1), one(equal, 0x5412, 0, 1), one(give, refuse), one(give, allow))  # TIOCSTI
    else:
        # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX; others ask or tell a file system things of its own.
        asked = [part for call in (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
                 for part in (one(equal, call, 0, 1), one(give, allow))]  # fmt: skip
        block("ioctl", argument(1), *asked, one(give, 0x00050000 | errno.ENOTTY))
    # What belongs to a descriptor, a pipe or a memory file. Locks, leases and hints about a file's future reach through
    # read-only mounts to what another sandbox sees too. Programs with children may compile, and compilers lock their
    # caches: F_GETLK, F_SETLK, F_SETLKW and their OFD_ siblings.
    commands = [0, 1, 2, 3, 4, 1030, 1031, 1032, 1033, 1034, *((5, 6, 7, 36, 37, 38) if children else ())]
    tests = [part for command in commands for part in (one(equal, command, 0, 1), one(give, allow))]
    block("fcntl", argument(1), *tests, one(give, refuse))
    # MADV_RANDOM, SEQUENTIAL, WILLNEED, COLD, PAGEOUT, POPULATE_READ: the page cache again. MERGEABLE: pages that equal
    # another sandbox's. Allocators use the others.
    advice = [part for value in (1, 2, 3, 12, 20, 21, 22) for part in (one(equal, value, 0, 1), one(give, refuse))]
    block("madvise", argument(2), *advice, one(give, allow))
    # Limits of itself only: as an ordinary user, the init has the candidate's uid and could be starved.
    block("prlimit64", argument(0), one(equal, 0, 0, 1), one(give, allow), one(give, refuse))
    # PR_SET_MEMORY_MERGE; PR_SET_DUMPABLE, after which a judge without privileges cannot see what a shut turn has read.
    options = [
        part for option in ((67,) if children else (67, 4)) for part in (one(equal, option, 0, 1), one(give, refuse))
    ]
    block("prctl", argument(0), *options, one(give, allow))
    for name in ("futex_wake", "futex_wait", "futex_requeue"):
        block(name, one(give, missing))  # new; a library falls back to the old call
    if not children:
        # WAKE, REQUEUE, CMP_REQUEUE, WAKE_OP, WAKE_BITSET, of what is not marked as private (128). Waiting stays: it is
        # how a thread is joined, and the kernel wakes then.
        wakes = [part for op in (1, 3, 4, 5, 10) for part in (one(equal, op, 0, 1), one(give, refuse))]
        block("futex", argument(1), one(0x54, 0xFF), *wakes, one(give, allow))
    if not cuda:
        block("memfd_create", one(give, refuse))  # neither RLIMIT_AS nor a tmpfs size counts it
    program.append(one(give, allow))
    return b"".join(program)


def listened_program() -> bytes:
    """A BPF program that asks a listener about every call of BY_NAME and allows the rest.

    Beside the other filter, not in its place: of two answers the kernel takes the harder one.
    """
    load, equal, give, allow, ask = 0x20, 0x15, 0x06, 0x7FFF0000, 0x7FC00000

    def one(code: int, operand: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("=HBBI", code, yes, no, operand)

    program = [one(load, 0)]
    for name, numbers in BY_NAME.items():
        index = numbers[0 if MACHINE == "x86_64" else 1]
        if index is None:
            continue
        if name == "sendto":  # without an address, which lies in argument 4, it is an ordinary write to a socket
            test = [one(load, 48), one(equal, 0, 0, 3), one(load, 52), one(equal, 0, 0, 1), one(give, allow)]
            program += [one(equal, index, 0, len(test) + 1), *test, one(give, ask)]
        else:
            program += [one(equal, index, 0, 1), one(give, ask)]
    return b"".join([*program, one(give, allow)])


def install_filter(program: bytes, listener: bool = False) -> int:
    """0, or with `listener` a descriptor by which another process answers for the calls that are asked about."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer)))
    # The flag 4 (SPEC_ALLOW) leaves speculation as it is; kernels before 5.16 would slow filtered processes, only them.
    return checked(LIBC.syscall(ctypes.c_long(number("seccomp")), 1, 12 if listener else 4, header), "seccomp")


RECEIVE, SEND, LET_PASS = 0xC0502100, 0xC0182101, 1  # linux/seccomp.h
STOP_S = 3.0  # below what the judge waits for a turn to be shut
STAT_BYTES = {"x86_64": 144, "aarch64": 128}


class Names:
    """Answers for a candidate's look-ups of names: lets them pass until it is shut, refuses all of them afterwards.

    No argument is looked at, because what it points to may change under this process's hand. The one call that glibc
    makes by name without meaning one, fstat, is done here in the candidate's stead.
    """

    def __init__(self, listener: int, candidate: int, pidfd: int):
        self.listener, self.candidate, self.pidfd, self.closed = listener, candidate, pidfd, False
        self.memory = os.open(f"/proc/{candidate}/mem", os.O_RDWR | os.O_CLOEXEC)

    def answer(self) -> None:
        """One call; whoever made it may be gone by now."""
        request = bytearray(80)
        try:
            fcntl.ioctl(self.listener, RECEIVE, request)
            (mark,) = struct.unpack_from("=Q", request)
            error, flags = (0, LET_PASS) if not self.closed else (self.stat(request), 0)
            fcntl.ioctl(self.listener, SEND, struct.pack("=QqiI", mark, 0, error, flags))
        except OSError:
            return

    def stat(self, request: bytearray) -> int:
        """The error of a refused call, or 0 where it was an fstat of an open file."""
        called, *arguments = struct.unpack_from("=i12x6Q", request, 16)
        empty_path = 0x1000
        if called != BY_NAME["newfstatat"][0 if MACHINE == "x86_64" else 1] or not arguments[3] & empty_path:
            return -errno.EPERM
        found = ctypes.create_string_buffer(STAT_BYTES[MACHINE])
        try:
            fd = syscall("pidfd_getfd", self.pidfd, ctypes.c_int(arguments[0] & 0xFFFFFFFF), 0)
            try:
                syscall("fstat", fd, found)
            finally:
                os.close(fd)
            os.pwrite(self.memory, found.raw, arguments[2])
        except OSError as error:
            return -(error.errno or errno.EPERM)
        return 0

    def shut(self) -> None:
        """From now on nothing passes, what was let through before included: a thread that is stopped has left its call.

        A call that waits for an answer is broken off by the stop, and asks again when the candidate goes on.
        """
        self.closed = True
        until = time.monotonic() + STOP_S
        os.kill(self.candidate, signal.SIGSTOP)
        while any(state not in "TtZXx" for state in self.states()):
            if time.monotonic() > until:  # its own threads wake it: its failure, not ours
                os.kill(self.candidate, signal.SIGKILL)
                return
            time.sleep(0.0002)
            os.kill(self.candidate, signal.SIGSTOP)
        os.kill(self.candidate, signal.SIGCONT)

    def states(self) -> list[str]:
        found = []
        for thread in os.listdir(f"/proc/{self.candidate}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{self.candidate}/task/{thread}/stat") as stat:
                found.append(stat.read().rpartition(")")[2].split()[0])
        return found

    def keep(self, control: socket.socket) -> None:
        """Answers until the candidate has ended; `shut` on the control socket shuts and is confirmed."""
        poller = select.poll()
        for fd in (self.listener, control.fileno(), self.pidfd):
            poller.register(fd, select.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self.pidfd in ready:
                return
            if event := ready.get(self.listener):
                if event & select.POLLIN:
                    self.answer()
                else:
                    poller.unregister(self.listener)  # the last thread is on its way out
            if control.fileno() in ready:
                if control.recv(16) == SHUT:
                    self.shut()
                    control.send(SHUT)
                else:
                    poller.unregister(control)  # the judge has left, and kills


SHUT = b"shut"


# ------------------------------------------------------------------------------------------------------------- landlock

LISTING = 1 << 3  # of a directory
READING = 1 << 0 | 1 << 2 | LISTING  # execute, read a file


def landlock_abi() -> int:
    return syscall("landlock_create_ruleset", None, ctypes.c_size_t(0), 1)


def install_landlock(
    abi: int, readable: Iterable[str], writable: Iterable[str], listed: Iterable[str] = (), loopback: bool = False
) -> None:
    everything = (1 << (13 + (abi >= 2) + (abi >= 3))) - 1 | (1 << 15 if abi >= 5 else 0)
    of_files = READING & ~LISTING | 1 << 1 | (1 << 14 if abi >= 3 else 0) | (1 << 15 if abi >= 5 else 0)
    # Files; TCP bind and connect; abstract sockets and signals.
    attributes = [everything] + [0 if loopback else 3] * (abi >= 4) + [3] * (abi >= 6)
    ruleset = syscall(
        "landlock_create_ruleset",
        struct.pack(f"={len(attributes)}Q", *attributes),
        ctypes.c_size_t(8 * len(attributes)),
        0,
    )
    for paths, rights in ((readable, READING), (writable, everything), (listed, LISTING)):
        for path in paths:
            try:
                beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            granted = rights if os.path.isdir(path) else rights & of_files
            syscall("landlock_add_rule", ruleset, 1, struct.pack("=Qi", granted, beneath), 0)
            os.close(beneath)
    syscall("landlock_restrict_self", ruleset, 0)
    os.close(ruleset)


# ----------------------------------------------------------------------------------------------------------------- root


def present_prefixes() -> list[str]:
    """The parts of the interpreter's installation that a program needs; never the whole prefix, which may be a home."""
    parts = ("bin", "include", "lib", "lib64", "libexec", "pyvenv.cfg")
    prefixes = dict.fromkeys([sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix])
    found: dict[str, None] = {}
    for prefix in prefixes:
        for part in parts:
            path = os.path.join(prefix, part)
            if os.path.exists(path):
                found[path] = found[os.path.realpath(path)] = None
    return [path for path in found if not any(path.startswith(tree + "/") for tree in ("/usr", "/lib", "/bin"))]


def attach(source: str, target: str) -> None:
    """Binds one file or directory of the host, with what is mounted in it, to the same place in the new root."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not os.path.exists(target):
            Path(target).touch()
    mount(source, target, "", MS_BIND | MS_REC)


def visible_at(path: str, trees: dict[str, str]) -> list[str]:
    """Every place of the new root where a path of the host is seen: a tree may lie in it under several names."""
    target = os.path.realpath(path)
    return [tree + target[len(real) :] for tree, real in trees.items() if f"{target}/".startswith(f"{real}/")]


def visible_trees(cuda: bool, compiler: str) -> list[str]:
    """What of the host's tree sandboxes see, program and guest left out."""
    machine = [path for path in MACHINE_FILES if not path.startswith("/sys")] + CUDA_FILES if cuda else MACHINE_FILES
    if compiler and not any(f"{compiler}/".startswith(f"{tree}/") for tree in machine):
        machine = [*machine, compiler]
    return [path for path in machine + present_prefixes() if os.path.exists(path)]


def build_root(trees: list[str], hidden: list[str], cuda: bool) -> None:
    """Enters a root with two directories: /old, the host's tree, and /new, what sandboxes will see of it, read-only.

    Built once, because a new mount namespace copies it for a few microseconds. The root goes through a pivot, not only
    a chroot, so that the directory it was mounted over (any existing one will do) is not covered in /old.
    """
    real = {path: os.path.realpath(path) for path in trees}
    links = {path: os.readlink(path) for path in trees if os.path.islink(path) and "/" not in path.strip("/")}
    mount("", "/", "", MS_REC | MS_PRIVATE)
    base = "/tmp" if os.path.isdir("/tmp") else "/usr"
    mount("root", base, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    os.makedirs(f"{base}/old")
    os.makedirs(f"{base}/new")
    os.chdir(base)
    pivot("old")
    os.chdir("/")
    mount("root", "/new", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    for directory in ("dev/shm", "etc", "proc", "program", "guest", "scratch"):
        os.makedirs(f"/new/{directory}")
    for path in trees:
        if path in links:
            os.symlink(links[path], f"/new{path}")
        else:
            attach(f"/old{real[path]}", f"/new{path}")
    accelerators = [name for name in os.listdir("/old/dev") if name.startswith("nvidia")] if cuda else []
    for device in DEVICES + [name for name in accelerators if not os.path.isdir(f"/old/dev/{name}")]:
        attach(f"/old/dev/{device}", f"/new/dev/{device}")
    for name, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        os.symlink(f"/proc/self/{target}", f"/new/dev/{name}")
    Path("/new/etc/passwd").write_text("candidate:x:65534:65534::/scratch:/bin/false\n")
    Path("/new/etc/group").write_text("candidate:x:65534:\n")
    Path("/new/etc/covered").write_text(COVERED)
    bound = {path: real[path] for path in trees if path not in links}
    for place in dict.fromkeys(place for path in hidden for place in visible_at(path, bound)):
        if os.path.isdir(f"/new{place}"):
            mount("hidden", f"/new{place}", "tmpfs", MS_NOSUID | MS_NODEV | MS_RDONLY, "mode=755,size=4k")
        elif os.path.isfile(f"/new{place}"):
            mount("/new/etc/covered", f"/new{place}", "", MS_BIND)
    mounts = [line.split()[4] for line in Path("/old/proc/self/mountinfo").read_text().splitlines()]
    for target in mounts:
        plain = target.replace("\\040", " ").replace("\\134", "\\")  # mountinfo writes these two in octal
        if plain == "/new" or plain.startswith("/new/"):
            sealed(plain, MS_NOEXEC if plain.startswith("/new/dev/") else MS_NODEV)


def enter_root(program: str, guest: str, scratch_mb: int, owner: int, group: int) -> None:
    """What one turn adds to its copy of the root; afterwards nothing of the host's tree can be reached."""
    for source, target in ((program, "/new/program"), (guest, "/new/guest")):
        mount("/old" + source, target, "", MS_BIND)
        sealed(target)
    mount("proc", "/new/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    # A process that keeps uid 0 could write here even without capabilities.
    for control in ("sys", "irq", "bus", "sysrq-trigger"):
        target = f"/new/proc/{control}"
        if os.path.exists(target):
            mount(target, target, "", MS_BIND)
            sealed(target, MS_NODEV | MS_NOEXEC)
    owned = f"mode=700,uid={owner},gid={group},nr_inodes=16384"
    mount("scratch", "/new/scratch", "tmpfs", MS_NOSUID | MS_NODEV, f"{owned},size={scratch_mb}m")
    mount("shm", "/new/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, f"{owned},size={max(16, scratch_mb // 4)}m")
    os.chdir("/new")
    pivot(".")
    checked(LIBC.umount2(b".", MNT_DETACH), "detach the host's tree")
    os.chdir("/scratch")


# -------------------------------------------------------------------------------------------------------------- cgroups

# A limit on memory, and what keeps its processes from going on in swap: version 2 counts that apart, version 1 the sum.
CGROUP_LIMITS = {"memory.max": "memory.swap.max", "memory.limit_in_bytes": "memory.memsw.limit_in_bytes"}


def cgroup_place(server: int) -> tuple[str, str]:
    """A directory in which memory cgroups can be made, and the name of their limit; tried by entering one.

    Version 2 first, in this process's own cgroup or beside it (one that holds processes cannot have limited children),
    then version 1.
    """
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    places = []
    for number_, controllers, path in lines:
        if number_ == "0":
            for mounted in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
                own = os.path.normpath(mounted + path)
                beside = (place for place in (own, os.path.dirname(own)) if place.startswith(mounted))
                places += [(place, "memory.max") for place in beside if os.path.isdir(place)]
        elif "memory" in controllers.split(","):
            places.append((os.path.normpath(f"/sys/fs/cgroup/memory{path}"), "memory.limit_in_bytes"))
    places.sort(key=lambda found: found[1] != "memory.max")
    reason = "no memory cgroup is mounted"
    for place, name in places:
        trial = f"{place}/evo-{server}-trial"
        try:
            if name == "memory.max" and "memory" not in Path(place, "cgroup.subtree_control").read_text():
                write(f"{place}/cgroup.subtree_control", "+memory")
            os.mkdir(trial)
            try:
                limit_cgroup(trial, name, 1 << 30)
                swapless(trial, name)
                # Who may open this file may not yet enter: the cgroup above both must be writable, too.
                in_child(lambda trial=trial: write(f"{trial}/cgroup.procs", "0"))  # type: ignore[misc]
            finally:
                remove_cgroup(trial)
            return place, name
        except (OSError, SetupError) as error:
            said = error.strerror if isinstance(error, OSError) else error
            reason = f"none can be made in {place}: {said}"
            if os.strerror(errno.EACCES) in str(said) and name == "memory.max":
                reason += "; started by systemd-run --user --scope -p Delegate=yes, an ordinary user has one"
    raise SetupError(reason)


def limit_cgroup(path: str, name: str, size: int) -> None:
    """Memory and swap together; where the kernel does not count what is in swap, there must be none (`swapless`)."""
    write(f"{path}/{name}", str(size))
    swap = f"{path}/{CGROUP_LIMITS[name]}"
    if os.path.exists(swap):
        write(swap, str(0 if name == "memory.max" else size))


def swapless(path: str, name: str) -> None:
    if not os.path.exists(f"{path}/{CGROUP_LIMITS[name]}") and Path("/proc/swaps").read_text().count("\n") > 1:
        raise SetupError(f"this machine swaps, and without {CGROUP_LIMITS[name]} the limit does not hold")


def remove_cgroup(path: str) -> None:
    """Its process has ended, but version 1 takes its time to notice; what stays the next server sweeps away."""
    for _ in range(20):
        with contextlib.suppress(OSError):
            os.rmdir(path)
            return
        time.sleep(0.001)


def sweep_cgroups(place: str) -> None:
    """Removes what a server that was killed has left; those in use are named after a process that is there."""
    for left in Path(place).glob("evo-*-*"):
        if not os.path.exists(f"/proc/{left.name.split('-')[1]}"):
            with contextlib.suppress(OSError):
                left.rmdir()


def make_cgroup(facts: dict[str, Any], megabytes: int) -> tuple[str, int]:
    """A cgroup for one turn, and the descriptor by which a process enters it."""
    place, name = facts["cgroups"]
    path = f"{place}/evo-{facts['server']}-{facts['turn']}"
    os.mkdir(facts["host"] + path)
    limit_cgroup(facts["host"] + path, name, megabytes << 20)
    return path, os.open(f"{facts['host']}{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)


# ------------------------------------------------------------------------------------------------------------ candidate


def limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def forget_capabilities(last: int) -> None:
    for capability in range(last + 1):
        prctl(PR_CAPBSET_DROP, capability, "drop a capability")


class Candidate:
    """Puts the layers on one process, in one fixed order, but for those that the server has found missing."""

    def __init__(self, request: dict[str, Any], holding: set[str], facts: dict[str, Any]):
        self.request, self.holding, self.facts = request, holding, facts
        self.limits = request["limits"]
        self.cgroup: tuple[str, int] | None = None

    def steps(self) -> list[tuple[str, Callable[[], None]]]:
        layers = [
            ("limits", self.resources),
            ("user", self.another_user),
            ("threads", self.count),
            ("capabilities", self.no_privilege),
            ("landlock", self.landlock),
            ("names", self.names),
            ("syscalls", self.syscalls),
        ]
        return [(name, step) for name, step in layers if name in self.holding]

    def resources(self) -> None:
        write("/proc/self/oom_score_adj", "1000")  # short of memory, the kernel takes the candidate, not the judge
        limit(resource.RLIMIT_CORE, 0)
        limit(resource.RLIMIT_NOFILE, 512)
        limit(resource.RLIMIT_MEMLOCK, 1 << 16)
        limit(resource.RLIMIT_MSGQUEUE, 0)
        limit(resource.RLIMIT_FSIZE, self.limits["file_mb"] << 20)

    def another_user(self) -> None:
        user, group = self.facts["candidate"]
        if self.facts["root"]:
            os.setgroups([])
            os.setresgid(group, group, group)
            os.setresuid(user, user, user)
            prctl(PR_SET_DUMPABLE, 1, "own /proc/self again")  # a change of uid gives it to root
        else:
            unshare(CLONE_NEWUSER, "user namespace of the candidate")
            map_one_user(user, user, group)

    def count(self) -> None:
        limit(resource.RLIMIT_NPROC, self.limits["threads"])

    def no_privilege(self) -> None:
        if not self.facts["root"] or "user" not in self.holding:
            with contextlib.suppress(PermissionError):  # an ordinary user outside a namespace has none to drop
                forget_capabilities(self.facts["last_capability"])
        syscall("capset", struct.pack("=II", 0x20080522, 0), bytes(24))
        prctl(PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")

    def landlock(self) -> None:
        counted = self.limits["children"] or self.limits["memory_mb"] is None  # CUDA looks for its device there
        if "files" in self.holding:
            shown = [f"/{name}" for name in os.listdir("/") if name not in ("proc", "sys")]
            readable = ["/"] if counted else shown + UNCOUNTED
            writable, listed = ["/scratch", "/dev", "/proc" if counted else "/proc/self"], ["/"]
        else:
            shown = [*MACHINE_FILES, *present_prefixes(), self.request["program"], self.request["guest"]]
            readable = [tree for tree in shown if counted or not tree.startswith("/sys/")]
            readable += ["/proc"] if counted else UNCOUNTED
            writable, listed = [self.request["scratch"], "/dev/null", "/dev/zero", "/proc/self"], []
        install_landlock(self.facts["landlock"], readable, writable, listed, self.limits["loopback"])

    def syscalls(self) -> None:
        cuda = self.limits["memory_mb"] is None
        install_filter(self.facts["filters"][self.limits["children"], cuda, self.limits["loopback"]])

    def names(self) -> None:
        """Hands the listener to the init, which fetches it before it answers for the look-up made here."""
        if not self.request["shuts"]:
            return
        listener = install_filter(self.facts["listened"], listener=True)
        os.write(4, bytes([0, listener]))
        os.access("/", os.R_OK)
        os.close(listener)

    def put_on(self) -> None:
        for name, step in self.steps():
            try:
                step()
            except OSError as error:
                raise SetupError(f"{name}: {words(error)}") from None
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, "die with the init")  # a change of uid clears an earlier one
        for place in self.places()[:2]:
            if not os.access(place, os.R_OK | os.X_OK):
                raise SetupError(
                    f"{place} is not readable by uid {os.getuid()}, which the candidate runs as; "
                    f"chmod 755 {self.request[place.strip('/')] if 'files' in self.holding else place} and its contents"
                )
        if self.limits["memory_mb"] is not None:  # last: it may lie below what the preloaded modules take
            limit(resource.RLIMIT_AS, self.limits["memory_mb"] << 20)

    def places(self) -> tuple[str, str, str]:
        """Program, guest and scratch as the candidate names them: the host's paths where it has no root of its own."""
        if "files" in self.holding:
            return "/program", "/guest", "/scratch"
        return self.request["program"], self.request["guest"], self.request["scratch"]

    def run(self) -> NoReturn:
        """Runs the script as __main__ and ends as the interpreter does: threads, atexit, flush, exit code.

        Without its teardown, which visits, and so copies, every page of the preloaded modules: 0.2 s after torch.
        """
        code = 1
        try:
            atexit._clear()  # what the preloaded modules registered belongs to the server: 40 ms after torch
            code = self.script()
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
        finally:
            os._exit(code)

    def script(self) -> int:
        program, guest, scratch = self.places()
        script = os.path.join(guest, self.request["script"])
        os.environ.clear()
        os.environ.update(self.request["environment"])
        if "files" not in self.holding:
            os.environ.update(HOME=scratch, TMPDIR=scratch)
        tempfile.tempdir = None  # a preloaded module may have asked for the server's, which no sandbox has
        sys.argv = [script, *self.request["arguments"]]
        sys.path[:0] = [program, guest]
        # New objects, because those of the server believe that they can seek.
        for fd, name in ((1, "stdout"), (2, "stderr")):
            stream = open(fd, "w", 1, "utf-8", "backslashreplace", closefd=False)  # noqa: SIM115  as long as the process
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        faulthandler.enable()  # a crash in native code says where
        module = types.ModuleType("__main__")
        module.__dict__.update(__file__=script, __builtins__=__builtins__)
        sys.modules["__main__"] = module
        try:
            exec(compile(Path(script).read_bytes(), script, "exec"), module.__dict__)
        except SystemExit as request:
            if request.code is None or isinstance(request.code, int):
                return (request.code or 0) & 0xFF
            print(request.code, file=sys.stderr)
            return 1
        except BaseException as error:  # noqa: BLE001  the candidate's border: what the interpreter itself would print
            trace = error.__traceback__
            traceback.print_exception(type(error), error, trace.tb_next if trace else None)
            return 1
        return 0


# ----------------------------------------------------------------------------------------------------------------- init


def redirect(output: int | None, channel: int) -> None:
    """Leaves the descriptors 0 (nothing), 1 and 2 (output), 3 (channel) and no other one but those passed later."""
    empty = os.open("/dev/null", os.O_RDWR)
    channel = os.dup(channel) if channel <= 3 else channel
    os.dup2(empty, 0)
    os.dup2(output if output is not None else empty, 1)
    os.dup2(1, 2)
    os.dup2(channel, 3)


def namespaces(holding: set[str]) -> int:
    flags = {"files": CLONE_NEWNS, "network": CLONE_NEWNET, "ipc": CLONE_NEWIPC, "hostname": CLONE_NEWUTS}
    return sum(flag for name, flag in flags.items() if name in holding)


def init(request: dict[str, Any], fds: list[int], holding: set[str], facts: dict[str, Any]) -> NoReturn:
    channel, control_fd, *output = fds
    control = socket.socket(fileno=control_fd)
    try:
        candidate = prepare(request, holding, facts)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            control.detach()  # its descriptor is closed or reused below; the object must not close it once more
            become(candidate, channel, output[0] if output else None, writer)
            raise Run(candidate.run)
    except (SetupError, OSError) as error:
        control.send(json.dumps({"error": words(error)}).encode())
        os._exit(1)
    os.close(writer)
    try:
        verdict, names = heard(reader, pid)
    except OSError as error:
        verdict, names = f"names: {words(error)}".encode(), None
    os.close(reader)
    if verdict != b"ok":
        message = verdict.decode() or "the candidate's process ended before its set-up was complete"
        control.send(json.dumps({"error": message}).encode())
        os._exit(1)
    pidfds = [os.pidfd_open(os.getpid()), os.pidfd_open(pid)]
    entry = [candidate.cgroup[1]] if candidate.cgroup else []
    ready = {"ready": True, "cgroup": candidate.cgroup[0] if candidate.cgroup else None}
    socket.send_fds(control, [json.dumps(ready).encode()], pidfds)
    for fd in [channel, *output, *pidfds, *entry]:
        os.close(fd)
    attend(control, pid, names, inside="processes" in holding)
    os._exit(0)


def heard(reader: int, candidate: int) -> tuple[bytes, Names | None]:
    """What a candidate's set-up says at its end, and who answers for its look-ups, if it is to be shut."""
    said, names = b"", None
    poller = select.poll()
    poller.register(reader, select.POLLIN)
    while True:
        ready = dict(poller.poll())
        if names is not None and names.listener in ready:
            if ready[names.listener] & select.POLLIN:
                names.answer()
            else:
                poller.unregister(names.listener)
        if reader in ready:
            part = os.read(reader, 65536)
            if not part:
                return said, names
            if part[0] == 0 and names is None:
                pidfd = os.pidfd_open(candidate)
                names = Names(syscall("pidfd_getfd", pidfd, part[1], 0), candidate, pidfd)
                poller.register(names.listener, select.POLLIN)
                part = part[2:]
            said += part


def raise_loopback() -> None:
    """Switches on the one interface of a new network namespace, through which processes of one turn meet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        name, up = b"lo", 0x1 | 0x40  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh22x", name, up))  # SIOCSIFFLAGS


class Run(Exception):
    """Carries the candidate's start out of the server's frames, so that nothing of them is left on its stack."""

    def __init__(self, start: Callable[[], NoReturn]):
        super().__init__()
        self.start = start


def prepare(request: dict[str, Any], holding: set[str], facts: dict[str, Any]) -> Candidate:
    """In the init: the namespaces and mounts of one turn."""
    for number_ in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number_, signal.SIG_DFL)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL, "die with the server")
    prctl(PR_SET_CHILD_SUBREAPER, 1, "adopt orphans")
    prctl(PR_SET_DUMPABLE, 0, "be closed to the candidate")
    if namespaces(holding):
        unshare(namespaces(holding), "namespaces of a turn")
    if request["limits"]["loopback"] and "network" in holding:
        raise_loopback()
    if facts["root"] and "threads" in holding:
        user = facts["users"] + facts["turn"] % TURNS_AT_ONCE
        facts = {**facts, "candidate": (user, user)}
    megabytes, cgroup = request["limits"]["memory_mb"], None
    if "memory" in holding and megabytes is not None:
        # The files in its two places, which count here, and what the kernel keeps for it.
        cgroup = make_cgroup(facts, megabytes + request["limits"]["scratch_mb"] + 64)
    if "hostname" in holding:
        checked(LIBC.sethostname(b"sandbox", 7), "sethostname")
    if "files" in holding:
        user, group = facts["candidate"] if "user" in holding else (os.getuid(), os.getgid())
        enter_root(request["program"], request["guest"], request["limits"]["scratch_mb"], user, group)
    else:
        if "user" in holding:
            os.chown(request["scratch"], *facts["candidate"])
        os.chdir(request["scratch"])
    candidate = Candidate(request, holding, facts)
    candidate.cgroup = cgroup
    return candidate


def become(candidate: Candidate, channel: int, output: int | None, writer: int) -> None:
    """In the candidate's process, before any code of its own: descriptors, layers, and the word that all of it held."""
    try:
        if candidate.cgroup is not None:
            os.write(candidate.cgroup[1], b"0")  # itself
        os.setsid()
        prctl(PR_SET_DUMPABLE, 1, "own /proc/self")
        writer = fcntl.fcntl(writer, fcntl.F_DUPFD_CLOEXEC, 64)  # out of the way of the four descriptors set here
        redirect(output, channel)
        os.dup2(writer, 4, inheritable=False)
        os.closerange(5, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        candidate.put_on()
    except (SetupError, OSError) as error:
        os.write(4, words(error).encode())
        os._exit(1)
    os.write(4, b"ok")
    os.close(4)


def attend(control: socket.socket, candidate: int, names: Names | None, *, inside: bool) -> None:
    """Waits until the candidate has ended, ends what it left running, reports, and holds its corpse until told to go.

    The corpse keeps the process id and its CPU clock; waitid gives the resources it used without burying it.
    """
    if names is not None:
        names.keep(control)
    while True:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        if ended.si_pid == candidate:
            break
        os.waitpid(ended.si_pid, 0)
    if inside:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
    usage = ctypes.create_string_buffer(256)
    syscall("waitid", os.P_PID, candidate, None, os.WEXITED | os.WNOWAIT, usage)
    peak_kb, read_blocks = struct.unpack_from("@l48xl", usage, 32)  # ru_maxrss and ru_inblock, of 512 bytes
    how = "exited" if ended.si_code == os.CLD_EXITED else "killed"
    report = {"how": how, "code": ended.si_status, "peak_kb": peak_kb, "read_kb": read_blocks / 2}
    control.send(json.dumps(report).encode())
    while control.recv(16) == SHUT:
        pass  # it ended before it could be shut
    if not inside:
        bury_all()


def bury_all() -> None:
    """Without a pid namespace: ends every descendant; as their subreaper this process inherits whatever they forked."""
    while True:
        for task in Path("/proc/self/task").iterdir():
            for child in (task / "children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


# --------------------------------------------------------------------------------------------------------------- server


def attempt(layer: str, step: Callable[[], object], holding: set[str], reasons: dict[str, str]) -> bool:
    try:
        step()
    except (OSError, SetupError, KeyError) as error:
        reasons[layer] = words(error)
        return False
    holding.add(layer)
    return True


def in_child(step: Callable[[], object]) -> None:
    """Tries in a process that is thrown away what cannot be undone; raises what it raised."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            step()
            os.write(writer, b"ok")
        except (OSError, SetupError) as error:
            os.write(writer, words(error).encode())
        os._exit(0)
    os.close(writer)
    said = os.read(reader, 4096).decode()
    os.close(reader)
    os.waitpid(pid, 0)
    if said != "ok":
        raise SetupError(said or "the trial process died")


def enter_namespaces(holding: set[str], reasons: dict[str, str]) -> bool:
    """The pid and mount namespaces of the server, as root or else inside a user namespace; True if as root."""
    os.close(os.pidfd_open(os.getpid()))  # Linux 5.3; the judge waits on them
    root = os.geteuid() == 0
    flags = CLONE_NEWPID | CLONE_NEWNS
    if root:
        try:
            unshare(flags, "pid and mount namespaces")
            holding |= {"processes", "files"}
            return True
        except OSError as error:
            reasons["processes"] = reasons["files"] = words(error)
    user, group = os.geteuid(), os.getegid()
    try:
        unshare(CLONE_NEWUSER | flags, "user, pid and mount namespaces")
        map_one_user(1000, user, group)
        mount("", "/", "", MS_REC | MS_PRIVATE)  # some systems grant the namespace and then no right in it
        holding |= {"processes", "files"}
        return False
    except OSError as error:
        reasons["processes"] = reasons["files"] = words(error)
    return root


def highest_mapped_user() -> int:
    ranges = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
    return max(int(first) + int(length) - 1 for first, _, length in ranges)


def kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])


def survey(holding: set[str], reasons: dict[str, str], facts: dict[str, Any], drop_user: bool) -> None:
    """Tries every layer that a turn will put on, each once, before any candidate exists."""
    for layer, flag in (("network", CLONE_NEWNET), ("ipc", CLONE_NEWIPC), ("hostname", CLONE_NEWUTS)):
        attempt(layer, lambda flag=flag, layer=layer: in_child(lambda: unshare(flag, layer)), holding, reasons)  # type: ignore[misc]
    holding.add("limits")

    def cgroups() -> None:
        facts["cgroups"] = cgroup_place(facts["server"])
        sweep_cgroups(facts["cgroups"][0])

    attempt("memory", cgroups, holding, reasons)
    if not drop_user:
        reasons["user"] = reasons["threads"] = "switched off: the candidate keeps the judge's uid"
    elif facts["root"]:
        mapped = highest_mapped_user()

        def another() -> None:
            os.setresuid(NOBODY, NOBODY, NOBODY)
            if "files" not in holding and not os.access(os.__file__, os.R_OK):
                raise SetupError("the interpreter lies in a directory that only the judge's uid may enter")

        if not attempt("user", lambda: in_child(another), holding, reasons):
            reasons["threads"] = "no uid of its own to count by"
        elif mapped < USER_BASE + (1 << 22) * TURNS_AT_ONCE:
            reasons["threads"] = f"no range of uids to count by: this user namespace ends at {mapped}"
        else:
            holding.add("threads")
    elif "files" in holding:
        user, group = facts["candidate"]

        def nested() -> None:
            unshare(CLONE_NEWUSER, "nested user namespace")
            map_one_user(user, user, group)

        if attempt("user", lambda: in_child(nested), holding, reasons):
            if kernel() >= (5, 14):
                holding.add("threads")
            else:
                reasons["threads"] = "before Linux 5.14 the limit counts all processes of the user"
    else:
        reasons["user"] = reasons["threads"] = "neither root nor a user namespace"
    attempt("capabilities", lambda: in_child(lambda: prctl(PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")), holding, reasons)

    def confined() -> None:
        prctl(PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")
        install_landlock(facts["landlock"], ["/"], ["/dev"])

    if attempt("landlock", lambda: facts.update(landlock=landlock_abi()), holding, reasons):
        holding.discard("landlock")
        attempt("landlock", lambda: in_child(confined), holding, reasons)

    def filtered() -> None:
        prctl(PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")
        install_filter(facts["filters"][False, False, False])
        if LIBC.syscall(ctypes.c_long(number("ptrace")), 0, 0, 0, 0) != -1 or ctypes.get_errno() != errno.EPERM:
            raise SetupError("the filter was accepted but ptrace was not refused")

    def listened() -> None:
        if kernel() < (5, 6):
            raise SetupError("it needs Linux 5.6")
        prctl(PR_SET_NO_NEW_PRIVS, 1, "no_new_privs")
        install_filter(facts["listened"], listener=True)

    if MACHINE in AUDIT_ARCH:
        facts["filters"] = {choice: filter_program(*choice) for choice in itertools.product((False, True), repeat=3)}
        attempt("syscalls", lambda: in_child(filtered), holding, reasons)
        facts["listened"] = listened_program()
        attempt("names", lambda: in_child(listened), holding, reasons)
    else:
        reasons["syscalls"] = reasons["names"] = f"no table of system calls for {MACHINE}"


def forget_editable_installs() -> None:
    """Takes out import hooks of packages under development: they name directories that no sandbox sees."""
    sys.path[:] = [entry for entry in sys.path if not entry.startswith("__editable__")]
    sys.path_hooks[:] = [hook for hook in sys.path_hooks if "__editable__" not in getattr(hook, "__module__", "")]
    sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]


class Server:
    """Forks an init for every request until the judge is gone."""

    def __init__(self, judge: socket.socket, holding: set[str], facts: dict[str, Any]):
        self.judge, self.holding, self.facts = judge, holding, facts
        self.turns = 0
        place = "/old/proc/self/ns/pid" if "files" in holding else "/proc/self/ns/pid"
        self.namespace = os.open(place, os.O_RDONLY | os.O_CLOEXEC)

    def fork(self, request: bytes, fds: list[int]) -> int:
        """A new pid namespace counts for the next fork only; then the server steps back into its own, to make more."""
        self.turns += 1
        if "processes" in self.holding:
            unshare(CLONE_NEWPID, "pid namespace of a turn")
        pid = os.fork()
        if pid == 0:
            self.judge.close()
            os.close(self.namespace)
            init(json.loads(request), fds, self.holding, {**self.facts, "turn": self.turns})
        if "processes" in self.holding:
            checked(LIBC.setns(self.namespace, CLONE_NEWPID), "setns to the server's pid namespace")
        for fd in fds:
            os.close(fd)
        return pid

    def rehearse(self) -> None:
        """One whole turn with a harmless module of the standard library, before any candidate; raises what failed."""
        channel, channel_inside = socket.socketpair()
        control, control_inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control.settimeout(60)
        library = os.path.dirname(os.path.realpath(os.__file__))
        limits: dict[str, Any] = {"wall_s": 60, "memory_mb": None, "scratch_mb": 1, "file_mb": 1, "threads": 8}
        limits.update(children=False, loopback=False)
        request: dict[str, Any] = {
            "script": "keyword.py",
            "program": library,
            "guest": library,
            "arguments": [],
            "limits": limits,
        }
        request["shuts"] = "names" in self.holding
        message = json.dumps({**request, "environment": dict(os.environ)}).encode()
        pid = self.fork(message, [channel_inside.detach(), control_inside.detach()])
        said = [json.loads(control.recv(1 << 16) or "{}")]
        if "error" not in said[0]:
            said.append(json.loads(control.recv(1 << 16) or "{}"))
        os.kill(pid, signal.SIGKILL)  # it inherited this end of its control too, so closing it would tell it nothing
        os.waitpid(pid, 0)
        control.close()
        channel.close()
        if said[-1].get("how") != "exited" or said[-1]["code"] != 0:
            raise SetupError(said[0].get("error") or f"the rehearsal ended as {said[-1]}")

    def serve(self) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps; the judge waits on a pidfd
        while True:
            message, fds, _, _ = socket.recv_fds(self.judge, 1 << 18, 3)
            if not message:
                return
            self.fork(message, fds)


def start(judge: socket.socket) -> None:
    configuration = json.loads(judge.recv(1 << 18))
    plain = configuration["plain"]  # why there are no namespaces, where an earlier server has found that out
    holding: set[str] = set()
    reasons: dict[str, str] = dict(plain or {})
    root = os.geteuid() == 0 if plain else enter_namespaces(holding, reasons)
    if not plain and not holding.issuperset(REQUIRED):
        answer(judge, holding, reasons)
        return
    parent = os.getpid()
    if not plain:
        pid = os.fork()
        if pid:
            judge.close()
            _, status = os.waitpid(pid, 0)
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL, "die with the waiter or the judge")
    facts: dict[str, Any] = {
        "root": root,
        "candidate": (NOBODY, NOBODY) if root else (1000, 1000),
        "users": USER_BASE + parent % (1 << 22) * TURNS_AT_ONCE,  # apart from the turns of this host's other workers
        "server": parent,  # as the host's own process table names it
        "host": "",  # where its tree lies
        "last_capability": int(Path("/proc/sys/kernel/cap_last_cap").read_text()),
    }
    forget_editable_installs()
    for name in configuration["preload"]:
        importlib.import_module(name)
    libraries = mapped_files()
    survey(holding, reasons, facts, configuration["drop_user"])
    trees = visible_trees(configuration["cuda"], configuration["compiler"])
    if not plain:
        build_root(trees, configuration["hidden"], configuration["cuda"])
        facts["host"] = "/old"
    if "capabilities" in holding and root:
        forget_capabilities(facts["last_capability"])  # of later programs; what is held stays until the uid changes
    sys.stdout.flush()
    exec(compile("import os", "warm", "exec"), {})  # the compiler's first use takes 2 ms, here once
    gc.collect()
    gc.freeze()  # a collection in a candidate must not touch, and so copy, the pages that all of them share
    server = Server(judge, holding, facts)
    if not plain and "names" in holding and not attempt("names", server.rehearse, holding, reasons):
        holding.discard("names")
    if not plain and not attempt("rehearsal", server.rehearse, holding, reasons):
        holding -= set(REQUIRED)
        reasons.update(dict.fromkeys(REQUIRED, reasons["rehearsal"]))
        answer(judge, holding, reasons)
        return
    answer(judge, holding, reasons, [path for path in trees if not path.startswith("/sys")], libraries)
    server.serve()


def mapped_files() -> list[str]:
    """Libraries and the like that this process, and so every turn, has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sorted({path for line in lines if os.path.isfile(path := line.partition("/")[1] + line.partition("/")[2])})


def answer(
    judge: socket.socket,
    holding: set[str],
    reasons: dict[str, str],
    trees: Iterable[str] = (),
    libraries: Iterable[str] = (),
) -> None:
    layers = [[name, name in holding, stops, reasons.get(name, "")] for name, stops in LAYERS.items()]
    judge.send(json.dumps({"layers": layers, "trees": list(trees), "libraries": list(libraries)}).encode())


def main() -> None:
    judge = socket.socket(fileno=int(sys.argv[1]))
    judge.set_inheritable(False)
    if sys.argv[2] == "main":
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL, "die with the judge")
    try:
        start(judge)
        return
    except Run as run:
        begin = run.start
    except (OSError, ImportError, SetupError) as error:
        judge.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        sys.exit(1)
    begin()


if __name__ == "__main__":
    main()
