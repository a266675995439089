"""The text that CPU training programs learn from: Django's Python sources, split by file and cut into byte-pair tokens.

Only the judge reads it. The archive is pinned and nothing in the environment imports it; the validation text and the
vocabulary's pieces are never given to a candidate. Base, target and slope belong to the same tokens on every machine.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evo.benchmark import UserMistake

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = ROOT / ".data"
PIN = ROOT / "scripts" / "corpus.sha256"

VOCABULARY = 1024
SEPARATOR = VOCABULARY - 1  # opens every file; the pieces are 0 ... 1022
BLOCK = 2048  # tokens that stay together when a seed permutes the training stream: some 6 KB, half a source file
HELD_OUT = 26  # of 256 values of a path's last hash byte, for validation and again for the private slice: 10% each

# The same formats are spelled out once per language there: the splits would share whole files but for a few letters.
EXCLUDED = ("django/conf/locale/",)

# What those sources become. A platform or a rustbpe whose merges differ is refused, not scored on other tokens.
HASH = "c48876e7467af4ed"

Tokens = NDArray[np.uint16]


@dataclass(frozen=True)
class Corpus:
    """Three streams of tokens; `token_bytes[id]` is how many UTF-8 bytes a token stands for, 0 for the separator.

    Bits per byte are summed over targets with `token_bytes` > 0 and divided by the sum of those bytes.
    """

    train: Tokens
    validation: Tokens
    private: Tokens
    token_bytes: NDArray[np.int64]
    vocabulary: int
    hash: str


def load(data: Path = DATA) -> Corpus:
    """The corpus of the archive in `data`: built once in some seconds, then read from a private file."""
    archive = _archive(data)
    code = hashlib.sha256(Path(__file__).read_bytes() + PIN.read_bytes()).hexdigest()
    prepared = data / "prepared" / f"corpus-{code[:16]}.npz"
    try:
        with np.load(io.BytesIO(prepared.read_bytes()), allow_pickle=False) as found:
            corpus = _corpus(found["train"], found["validation"], found["private"], found["token_bytes"])
        if corpus.hash == HASH:
            return corpus
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        pass  # absent or torn: built again, as when its content is not what it should be
    corpus = build(archive)
    _save(prepared, corpus)
    return corpus


def build(archive: bytes) -> Corpus:
    """Splits, learns the vocabulary from the training files alone, and encodes."""
    import rustbpe  # here, because a prepared corpus needs none

    texts = _texts(archive)
    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(iter(texts["train"]), VOCABULARY - 1)
    # From the pieces themselves: decoding one by one would turn half a character into U+FFFD and count three bytes.
    token_bytes = np.zeros(VOCABULARY, np.int64)
    for piece, token in tokenizer.get_mergeable_ranks():
        token_bytes[token] = len(piece)

    def encoded(part: str) -> Tokens:
        return np.array([t for text in texts[part] for t in [SEPARATOR, *tokenizer.encode(text)]], np.uint16)

    corpus = _corpus(encoded("train"), encoded("validation"), encoded("private"), token_bytes)
    if corpus.hash != HASH:
        raise UserMistake(
            f"corpus: expected tokens with hash {HASH}, found {corpus.hash}; install the pinned rustbpe with `make env`"
        )
    return corpus


def held_out_text(data: Path = DATA) -> list[bytes]:
    """The files of validation and private slice, for a search for them in what a sandbox can see."""
    texts = _texts(_archive(data))
    return [text.encode() for part in ("validation", "private") for text in texts[part]]


def split(name: str) -> str:
    """Which part a file belongs to: a function of its path alone, so that adding a file moves no other."""
    first = _path_hash(name)[-1]  # the last byte, because files are ordered by the first ones
    return "validation" if first < HELD_OUT else "private" if first < 2 * HELD_OUT else "train"


def order(tokens: Tokens, seed: int) -> Tokens:
    """The training stream in the judge's order for one seed: blocks of `BLOCK` tokens, permuted.

    Blocks and not files: some files are forty times as long as others, and a program that reads a tenth of the stream
    would see very different amounts of the text by luck. Sorted by a hash and not shuffled by a generator, so that the
    order is the same under every version of numpy.
    """
    count = -(-len(tokens) // BLOCK)
    keys = [hashlib.sha256(f"order {seed} {block}".encode()).digest() for block in range(count)]
    blocks = sorted(range(count), key=keys.__getitem__)
    return np.concatenate([tokens[block * BLOCK : (block + 1) * BLOCK] for block in blocks])


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


def _corpus(train: Tokens, validation: Tokens, private: Tokens, token_bytes: NDArray[np.int64]) -> Corpus:
    content = hashlib.sha256()
    for stream in (train, validation, private):
        content.update(f"{len(stream)} ".encode() + stream.astype("<u2").tobytes())
    content.update(token_bytes.astype("<i8").tobytes())
    for array in (train, validation, private, token_bytes):
        array.setflags(write=False)  # one loaded corpus serves every evaluation of a worker
    return Corpus(train, validation, private, token_bytes, VOCABULARY, content.hexdigest()[:16])


def _save(path: Path, corpus: Corpus) -> None:
    """Written whole or not at all: several workers may prepare at once."""
    arrays = {part: getattr(corpus, part) for part in ("train", "validation", "private", "token_bytes")}
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:  # created with mode 0600
            np.savez(file, **arrays)
        os.replace(file.name, path)
    except OSError as error:
        raise UserMistake(
            f"corpus: expected to write {path}, found {error.strerror}; make {path.parent} writable"
        ) from None
