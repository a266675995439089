"""Judges: a program directory, a stage and a seed in, an outcome out. Trusted; the candidate never reaches them."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from evo import audit
from evo.benchmark import Benchmark, Profile, UserMistake, settings, write_tree
from evo.genome import Tree
from evo.outcome import Outcome

if TYPE_CHECKING:
    from evo.sandbox import Limits

KINDS = ("answer", "training", "kernel", "reported")  # a module of this package each
PROGRAMS = "evo-program-"  # and something random: the names of program directories
MEMORY = "/dev/shm"
YOUNG_S = 60.0  # after this long a program's directory is locked, or nobody's
WALL_S = 60.0  # a turn's limit where the profile names none


class Judge(Protocol):
    def judge(self, program: Path, *, stage: str, seed: int) -> Outcome: ...

    def fingerprint(self) -> Mapping[str, str]:
        """Whatever must be equal for two scores to compare: device, versions, data, limits, judge."""
        ...

    def close(self) -> None: ...


def require_device(benchmark: Benchmark, profile: Profile) -> None:
    """Raises UserMistake where a profile needs a GPU and this host has none, before anything is prepared for it."""
    if profile.settings.get("device") == "cuda":
        from evo.judges.gpu import on_host

        if not on_host():
            raise UserMistake(
                f"{benchmark.name} --profile {profile.name}: expected a CUDA device, found none; use another profile"
            )


@contextmanager
def open_judge(benchmark: Benchmark, profile: Profile, *, allow_unisolated: bool = False) -> Iterator[Judge]:
    """The judge that a benchmark names, with a sandbox of its own; raises UserMistake or NoIsolation."""
    from evo.sandbox import Level, Limits, Sandbox

    if benchmark.judge not in KINDS:
        raise UserMistake(f"{benchmark.name}: unknown judge '{benchmark.judge}'; valid are {', '.join(KINDS)}")
    require_device(benchmark, profile)
    sweep()
    module = import_module(f"evo.judges.{benchmark.judge}")
    where = f"{benchmark.name} [profiles.{profile.name}]"
    chosen = settings(module.Settings, profile.settings, where)
    limits = settings(Limits, {"wall_s": WALL_S, **profile.limits}, f"{where}.limits")
    level = Level(allow_unisolated=allow_unisolated)
    hidden = module.hidden(chosen, benchmark.root)
    cuda = getattr(chosen, "device", "cpu") == "cuda"  # one uid for CUDA IPC, no cap on a reserved address space
    limits = replace(limits, memory_mb=None) if cuda else limits
    with Sandbox(preload=module.PRELOAD, level=level, drop_user=not cuda, cuda=cuda, hidden=hidden) as sandbox:
        judge = module.judge_of(chosen, limits, benchmark.root, sandbox)
        try:
            yield judge
        finally:
            judge.close()


def rules(benchmark: Benchmark, profile: Profile) -> tuple[str, ...]:
    """What a program may use and what its score is made of, in sentences for whoever writes one.

    What puts a result in quarantine is left out but for the words that do: a bound that is told is a bound to aim at.
    """
    from evo.sandbox import Limits

    if benchmark.judge not in KINDS:
        return ()  # open_judge says what is wrong
    module = import_module(f"evo.judges.{benchmark.judge}")
    where = f"{benchmark.name} [profiles.{profile.name}]"
    chosen = settings(module.Settings, profile.settings, where)
    limits = settings(Limits, {"wall_s": WALL_S, **profile.limits}, f"{where}.limits")
    found = list(module.rules(chosen, limits, benchmark.root))
    if benchmark.judge != "reported":
        found.append(_walls(limits, getattr(chosen, "device", "cpu") == "cuda"))
    bounds = profile.audit
    found.append(
        f"Refused unjudged: more than {bounds.program_kb:g} KB of program text, or text that compresses to more than "
        f"{bounds.carried_kb:g} KB beyond the base's; a program learns from the data it is given and brings none along."
    )
    if bounds.flags:
        names = ", ".join(sorted(audit.MODULES | audit.NAMES))
        found.append(
            f"Set aside until a person has looked, unless the base has it too: {names}, paths into /proc, literals of "
            f"{audit.PACKED_TEXT} packed characters or more."
        )
    return tuple(found)


def _walls(limits: Limits, cuda: bool) -> str:
    processes = f"at most {limits.threads} {'processes and threads' if limits.children else 'threads'}"
    memory = "" if cuda or limits.memory_mb is None else f"{limits.memory_mb} MB of memory, "
    return (
        f"It runs without a network, {'with' if limits.children else 'without'} child processes, with {memory}"
        f"{processes}, {limits.scratch_mb} MB in one scratch folder, and is ended after {limits.wall_s:g} s by "
        "the wall clock."
    )


@contextmanager
def on_disk(program: Tree) -> Iterator[Path]:
    """A program as a fresh directory that is gone afterwards; locked meanwhile, so that it is known to be in use."""
    folders = _folders()
    for folder in folders:
        try:
            name, lock = _placed(program, folder)
            break
        except OSError:
            if folder == folders[-1]:  # else memory has no room
                raise
    try:
        yield Path(name)
    finally:
        _remove(name, program)
        os.close(lock)


def _placed(program: Tree, folder: str) -> tuple[str, int]:
    """The directory that holds a program now, and its lock; nothing of either is left where it cannot be written."""
    name = f"{folder}/{PROGRAMS}{os.urandom(8).hex()}"
    os.mkdir(name, 0o700)
    lock = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    written = False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH)
        write_tree(program, Path(name))
        written = True
    finally:
        if not written:
            _remove(name, program)
            os.close(lock)
    return name, lock


def _folders() -> Sequence[str]:
    """Where program directories are made: in memory, where that costs a seventh, unless a folder was named for it."""
    folder = tempfile.gettempdir()
    return (MEMORY, folder) if folder == "/tmp" and os.access(MEMORY, os.W_OK | os.X_OK) else (folder,)


def _remove(folder: str, program: Tree) -> None:
    try:
        for path in program:
            os.unlink(f"{folder}/{path}")
        os.rmdir(folder)
    except OSError:  # there are folders in it, or it was not written to the end
        shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Removes the program directories of this user's processes that were killed. The kernel frees a lock with its
    process, on whatever side of a container; a name or a process id would not tell."""
    for place in itertools.chain(*(Path(folder).glob(f"{PROGRAMS}*") for folder in _folders())):
        with suppress(OSError):
            about = place.lstat()
            if about.st_uid != os.getuid() or time.time() - about.st_mtime < YOUNG_S:
                continue
            lock = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(place, ignore_errors=True)
            finally:
                os.close(lock)


def fingerprint_id(found: Mapping[str, str]) -> str:
    return hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:10]
