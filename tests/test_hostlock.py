"""Turns of one host meet in a folder that is this user's alone."""

from __future__ import annotations

import fcntl
import os
import tempfile

import pytest

from evo.benchmark import UserMistake
from evo.hostlock import meeting_place, turn


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_alone_means_alone():
    with turn(alone=False), turn(alone=False):
        room = os.open(meeting_place("turns") / "room", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(room, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with turn(alone=True), pytest.raises(BlockingIOError):
        fcntl.flock(room, fcntl.LOCK_SH | fcntl.LOCK_NB)
    fcntl.flock(room, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(room)


@pytest.mark.parametrize("trap", ["link", "file", "open to others", "of another user"])
def test_a_place_that_another_user_made_is_refused(tmp_path, trap):
    """The name can be foreseen; behind it could be locks that are never freed, or links to files of ours."""
    place, precious = tmp_path / f"evo-turns-{os.getuid()}", tmp_path / "precious"
    precious.mkdir()
    if trap == "link":
        place.symlink_to(precious)
    elif trap == "file":
        place.write_text("")
    else:
        place.mkdir(mode=0o700)
        if trap == "open to others":
            place.chmod(0o777)
        elif os.getuid() != 0:
            pytest.skip("only root can give a folder to another user")
        else:
            os.chown(place, 65534, 65534)
    with pytest.raises(UserMistake, match="of your own"), turn(alone=False):
        pass
    assert not list(precious.iterdir())


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (meeting_place("turns") / "gate").symlink_to(precious)
    with pytest.raises(OSError), turn(alone=False):
        pass
    assert precious.read_text() == "kept"
