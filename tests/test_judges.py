"""What all judges share: program directories, and what of a candidate's words reaches a person."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from evo import judges
from evo.benchmark import write_tree
from evo.judges import PROGRAMS, YOUNG_S, on_disk, sweep
from evo.outcome import Outcome, Status


def test_a_killed_workers_program_directory_is_swept_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "import time, evo.judges as j\nwith j.on_disk({'a.py': ''}) as p: print(p, flush=True); time.sleep(60)"
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent.parent)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    theirs = Path(process.stdout.readline().strip())
    old = time.time() - YOUNG_S - 1
    with on_disk({"a.py": "x = 1\n", "in/b.py": ""}) as ours:
        young = Path(tempfile.mkdtemp(prefix=PROGRAMS))
        other = tmp_path / "evo-other"
        other.mkdir()
        for place in (theirs, ours, other):
            os.utime(place, (old, old))
        sweep()
        assert theirs.exists() and ours.exists() and young.exists() and other.exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        sweep()
        assert not theirs.exists()
        assert (ours / "a.py").read_text() == "x = 1\n" and young.exists() and other.exists()
    assert not ours.exists()


def test_a_program_for_which_memory_has_no_room_lies_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def full(program: Mapping[str, str], folder: Path) -> None:
        tried.append(folder)
        if folder.parent == tmp_path:
            raise OSError(errno.ENOSPC, "no space left")
        write_tree(program, folder)

    monkeypatch.setattr(judges, "MEMORY", str(tmp_path))
    monkeypatch.setattr(judges, "write_tree", full)
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    with on_disk({"a.py": "x = 1\n"}) as place:
        assert place.parent == Path("/tmp") and (place / "a.py").read_text() == "x = 1\n"
        assert len(tried) == 2 and not tried[0].exists()
    assert not place.exists()
    make = os.mkdir

    def crowded(path: str, *mode: int) -> None:
        if str(path).startswith(str(tmp_path)):
            raise OSError(errno.ENOSPC, "no space left")
        make(path, *mode)

    monkeypatch.setattr(os, "mkdir", crowded)
    with on_disk({"a.py": "x = 1\n"}) as place:
        assert place.parent == Path("/tmp") and len(tried) == 3


def test_a_detail_cannot_rewrite_a_terminal_or_break_a_file() -> None:
    said = "loss 3.1\rPASSED\x1b[2K\x1b]0;title\x07\u202egnorw\ud800\ttab\nend"
    shown = Outcome.failed(Status.CRASHED, said).detail
    assert shown.encode() and not set(shown) & set("\r\x1b\x07\u202e\ud800")
    assert shown.startswith("loss 3.1\nPASSED") and shown.endswith("\ttab\nend")
