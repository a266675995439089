"""The text that CPU training programs learn from: Django's Python sources, split by file and cut into byte-pair tokens.

The archive is pinned and nothing in the environment imports it. Base, target and slope belong to the same tokens on
every machine.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

from evo.benchmark import UserMistake
from evo.judges.corpus import DATA, ROOT, Corpus, Texts, save, saved, tokenised

PIN = ROOT / "scripts" / "corpus.sha256"

VOCABULARY = 1024
SEPARATOR = VOCABULARY - 1  # opens every file; the pieces are 0 ... 1022
HELD_OUT = 26  # of 256 values of a path's last hash byte, for validation and again for the private slice: 10% each

# The same formats are spelled out once per language there: the splits would share whole files but for a few letters.
EXCLUDED = ("django/conf/locale/",)

# What those sources become. A platform or a rustbpe whose merges differ is refused, not scored on other tokens.
HASH = "c48876e7467af4ed"


def load(data: Path = DATA) -> Corpus:
    """The corpus of the archive in `data`: built once in some seconds, then read from a private file."""
    archive = _archive(data)
    code = hashlib.sha256(Path(__file__).read_bytes() + PIN.read_bytes()).hexdigest()
    prepared = data / "prepared" / f"django-{code[:16]}.npz"
    found = saved(prepared)
    if found is None or found.hash != HASH:
        found = build(archive)
        save(prepared, found)
    return found


def build(archive: bytes) -> Corpus:
    """Splits, learns the vocabulary from the training files alone, and encodes."""
    texts = _texts(archive)
    found = tokenised(Texts(texts["train"], texts["validation"], texts["private"]), VOCABULARY)
    if found.hash != HASH:
        raise UserMistake(
            f"corpus: expected tokens with hash {HASH}, found {found.hash}; install the pinned rustbpe with `make env`"
        )
    return found


def split(name: str) -> str:
    """Which part a file belongs to: a function of its path alone, so that adding a file moves no other."""
    first = _path_hash(name)[-1]  # the last byte, because files are ordered by the first ones
    return "validation" if first < HELD_OUT else "private" if first < 2 * HELD_OUT else "train"


def _texts(archive: bytes) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {"train": [], "validation": [], "private": []}
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        # In the order of the paths' hashes, so that a profile's first windows are of files from everywhere.
        for name in sorted(files.namelist(), key=_path_hash):
            if name.endswith(".py") and not name.startswith(EXCLUDED) and (text := files.read(name).decode()):
                texts[split(name)].append(text)
    return texts


def _path_hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _archive(data: Path) -> bytes:
    digest, name = PIN.read_text().split()
    path = data / name
    try:
        archive = path.read_bytes()
    except OSError as error:
        raise UserMistake(f"corpus: expected {path}, found none ({error.strerror}); run `make env`") from None
    if (found := hashlib.sha256(archive).hexdigest()) != digest:
        raise UserMistake(f"corpus: expected {path} with sha256 {digest}, found {found}; delete it and run `make env`")
    return archive
