from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from evo.benchmark import UserMistake
from evo.judges import corpus, django


@pytest.fixture(scope="module")
def text() -> corpus.Corpus:
    return django.load()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder of the test's own, with the archive and nothing prepared."""
    archive = django.PIN.read_text().split()[1]
    shutil.copy(django.DATA / archive, tmp_path / archive)
    return tmp_path


def test_the_content_is_pinned_and_building_it_again_gives_the_same(text: corpus.Corpus, data: Path) -> None:
    again = django.load(data)
    assert again.hash == text.hash == django.HASH
    assert np.array_equal(again.train, text.train) and np.array_equal(again.validation, text.validation)


def test_bytes_of_tokens_add_up_to_the_bytes_of_the_files(text: corpus.Corpus) -> None:
    archive = django.DATA / django.PIN.read_text().split()[1]
    sizes = {"train": 0, "validation": 0, "private": 0}
    files = dict.fromkeys(sizes, 0)
    with zipfile.ZipFile(archive) as found:
        for info in found.infolist():
            if info.filename.endswith(".py") and not info.filename.startswith(django.EXCLUDED) and info.file_size:
                sizes[django.split(info.filename)] += info.file_size
                files[django.split(info.filename)] += 1
    for part, size in sizes.items():
        stream = getattr(text, part)
        assert int(text.token_bytes[stream].sum()) == size
        assert int((stream == django.SEPARATOR).sum()) == files[part]


def test_every_id_is_used_and_only_the_separator_has_no_bytes(text: corpus.Corpus) -> None:
    assert text.vocabulary == len(text.token_bytes) == django.VOCABULARY
    assert text.token_bytes[django.SEPARATOR] == 0 and (text.token_bytes[: django.SEPARATOR] > 0).all()
    assert max(int(stream.max()) for stream in (text.train, text.validation, text.private)) == django.SEPARATOR


def test_prepared_text_is_private_and_built_once(data: Path) -> None:
    django.load(data)
    (prepared,) = (data / "prepared").iterdir()
    assert stat.S_IMODE(prepared.stat().st_mode) == 0o600
    assert stat.S_IMODE(prepared.parent.stat().st_mode) == 0o700
    prepared.chmod(0o400)
    before = prepared.stat().st_mtime_ns
    django.load(data)
    assert prepared.stat().st_mtime_ns == before  # read, not built again


def test_a_torn_prepared_file_is_built_again(data: Path) -> None:
    django.load(data)
    (prepared,) = (data / "prepared").iterdir()
    prepared.write_bytes(prepared.read_bytes()[:1000])
    assert django.load(data).hash == django.HASH


def test_order_permutes_blocks_by_the_seed_alone(text: corpus.Corpus) -> None:
    first, second = corpus.order(text.train, 1), corpus.order(text.train, 2)
    assert np.array_equal(first, corpus.order(text.train, 1)) and not np.array_equal(first, second)
    assert first.dtype == np.uint16 and np.array_equal(np.sort(first), np.sort(text.train))
    # Pinned: another order on another machine would be another benchmark.
    assert corpus.order(np.arange(4 * corpus.BLOCK, dtype=np.uint16), 7)[:: corpus.BLOCK].tolist() == [
        2048,
        4096,
        6144,
        0,
    ]


def test_streams_cannot_be_written(text: corpus.Corpus) -> None:
    with pytest.raises(ValueError, match="read-only"):
        text.train[0] = 0


def test_a_missing_or_another_archive_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserMistake, match=r"found none .*run `make env`"):
        django.load(tmp_path)
    (tmp_path / django.PIN.read_text().split()[1]).write_bytes(b"another")
    with pytest.raises(UserMistake, match="delete it and run `make env`"):
        django.load(tmp_path)
