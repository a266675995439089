"""Three streams of tokens that a training judge owns, the order in which a seed reads them, and their private cache.

Only the judge reads a corpus. The validation text and the vocabulary's pieces are never given to a candidate.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import secrets
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evo.benchmark import UserMistake

ROOT = Path(__file__).resolve().parent.parent.parent
DATA = ROOT / ".data"
BLOCK = 2048  # tokens that stay together when a seed permutes the training stream: some 6 KB, half a source file
SAMPLE = 30_000_000  # characters of training text that a vocabulary is learned from
TEXTS_AT_ONCE = 512  # encoded side by side on all cores; as Python integers they take 40 times their final size

Tokens = NDArray[np.uint16]


@dataclass(frozen=True)
class Corpus:
    """Three streams of tokens; `token_bytes[id]` is how many UTF-8 bytes a token stands for, 0 for the separator.

    Bits per byte are summed over targets with `token_bytes` > 0 and divided by the sum of those bytes.
    `masked` are the files and folders that hold `validation` or `private` text and that no sandbox may see. `pieces`
    are the tokens' bytes, where they are known.
    """

    train: Tokens
    validation: Tokens
    private: Tokens
    token_bytes: NDArray[np.int64]
    vocabulary: int
    hash: str
    masked: tuple[Path, ...] = ()
    pieces: tuple[bytes, ...] = ()

    def held_out(self) -> list[bytes]:
        """The documents of validation and private slice, for a search for them in what a sandbox can see.

        Where the pieces are unknown, the streams as they lie on a disk.
        """
        if not self.pieces:
            return [stream.astype("<u2").tobytes() for stream in (self.validation, self.private)]
        found: list[bytes] = []
        for stream in (self.validation, self.private):
            starts = [*np.flatnonzero(self.token_bytes[stream] == 0).tolist(), len(stream)]
            found += [b"".join(self.pieces[t] for t in stream[a:b].tolist()) for a, b in pairwise(starts)]
        return [document for document in found if document]


@dataclass(frozen=True)
class Texts:
    """Documents before they are tokens."""

    train: Sequence[str]
    validation: Sequence[str]
    private: Sequence[str]
    masked: tuple[Path, ...] = ()


def secret(data: Path = DATA) -> bytes:
    """Sixteen bytes that this machine's judges share and no sandbox sees, made once: what they choose is the same for
    one seed in every process, and no program can foresee it."""
    path = data / "prepared" / "secret"
    if path.exists():
        return path.read_bytes()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent) as file:
            file.write(secrets.token_bytes(16))
            file.flush()
            with contextlib.suppress(FileExistsError):
                os.link(file.name, path)  # whole or not at all, and the first one stays
        return path.read_bytes()
    except OSError as error:
        raise UserMistake(
            f"corpus: expected to write {path}, found {error.strerror}; make {path.parent} writable"
        ) from None


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


def tokenised(texts: Texts, vocabulary: int) -> Corpus:
    """Learns `vocabulary` - 1 pieces from a sample of the training texts and encodes all; the last id opens a text."""
    import rustbpe  # here, because a prepared corpus needs none

    separator = vocabulary - 1
    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(_sample(texts.train), vocabulary - 1)
    pieces = [b""] * vocabulary
    for piece, token in tokenizer.get_mergeable_ranks():
        pieces[token] = bytes(piece)
    if not all(pieces[:separator]):
        raise UserMistake(
            f"corpus: expected text enough for {separator} pieces, found {sum(map(bool, pieces))}; give more text or "
            "a smaller vocabulary"
        )

    def encoded(documents: Sequence[str]) -> Tokens:
        parts = [np.empty(0, np.uint16)]
        for first in range(0, len(documents), TEXTS_AT_ONCE):
            for tokens in tokenizer.batch_encode(list(documents[first : first + TEXTS_AT_ONCE])):
                parts.append(np.array([separator, *tokens], np.uint16))
        return np.concatenate(parts)

    # From the pieces themselves: decoding one by one would turn half a character into U+FFFD and count three bytes.
    sizes = np.array([len(piece) for piece in pieces], np.int64)
    streams = encoded(texts.train), encoded(texts.validation), encoded(texts.private)
    return assembled(*streams, sizes, masked=texts.masked, pieces=tuple(pieces))


def _sample(texts: Sequence[str]) -> Iterator[str]:
    size = 0
    for text in texts:
        yield text
        if (size := size + len(text)) > SAMPLE:
            return


def assembled(
    train: Tokens,
    validation: Tokens,
    private: Tokens,
    token_bytes: NDArray[np.int64],
    *,
    masked: tuple[Path, ...] = (),
    pieces: tuple[bytes, ...] = (),
) -> Corpus:
    """A corpus with its hash; masks and pieces do not enter it, because scores do not depend on them."""
    content = hashlib.sha256()
    for stream in (train, validation, private):
        content.update(f"{len(stream)} ".encode() + stream.astype("<u2").tobytes())
    content.update(token_bytes.astype("<i8").tobytes())
    for array in (train, validation, private, token_bytes):
        array.setflags(write=False)  # one loaded corpus serves every evaluation of a worker
    digest = content.hexdigest()[:16]
    return Corpus(train, validation, private, token_bytes, len(token_bytes), digest, masked, pieces)


def save(path: Path, corpus: Corpus) -> None:
    """Written whole or not at all: several workers may prepare at once."""
    about = {
        "masked": [str(masked) for masked in corpus.masked],
        "pieces": [piece.hex() for piece in corpus.pieces],
    }
    arrays = {part: getattr(corpus, part) for part in ("train", "validation", "private", "token_bytes")}
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True, parents=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:  # created with mode 0600
            np.savez(file, **arrays)
        os.replace(file.name, path)
    except OSError as error:
        raise UserMistake(
            f"corpus: expected to write {path}, found {error.strerror}; make {path.parent} writable"
        ) from None


def saved(path: Path) -> Corpus | None:
    """What `save` wrote; None where it is absent or torn, to be built again."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
            about = json.loads(found["about"].tobytes())
            return assembled(
                found["train"],
                found["validation"],
                found["private"],
                found["token_bytes"],
                masked=tuple(Path(masked) for masked in about["masked"]),
                pieces=tuple(bytes.fromhex(piece) for piece in about["pieces"]),
            )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
