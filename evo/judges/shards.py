"""A user's own text: a folder of text files, parquet shards with a column `text`, or token shards of FineWeb's format.

Of shards the last in the order of their names is held out (or those with `val` in the name), as both published
training benchmarks do; of text files one in ten is validation and one in ten private, by the hash of the path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evo.benchmark import UserMistake
from evo.judges.copies import groups, signature
from evo.judges.corpus import Corpus, Texts, Tokens, assembled

MAGIC, VERSION, HEADER = 20240520, 1, 256  # of a token shard: three of 256 int32, then uint16 tokens
HELD_OUT = 26  # of 256 values of a hash: 10%
GPT2_END = 50256  # the token that opens a document in GPT-2's vocabulary


def read(folder: Path, vocabulary: int, megabytes: float | None = None) -> Texts | Corpus:
    """Texts to be tokenised, or a corpus where the shards hold tokens already; `megabytes` of it to train on."""
    if folder.is_file():
        files, held = [folder], folder.parent
    elif folder.is_dir():
        files, held = sorted(path for path in folder.rglob("*") if path.is_file()), folder
    else:
        raise UserMistake(
            f"corpus: expected 'django', 'python-sources' or a folder of text, parquet or .bin files, found '{folder}'"
        )
    held = held.resolve()
    if shards := [path for path in files if path.suffix == ".bin"]:
        return _of_tokens(shards, folder, vocabulary, megabytes, held)
    if shards := [path for path in files if path.suffix == ".parquet"]:
        return _of_parquet(shards, megabytes, held)
    return _of_files(files, folder, megabytes, held)


# --- text ----------------------------------------------------------------------------------------------------------


def _of_files(files: Sequence[Path], folder: Path, megabytes: float | None, held: Path) -> Texts:
    texts: dict[str, list[str]] = {"train": [], "validation": [], "private": []}
    places: list[tuple[str, str]] = []
    for path in files:
        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError:
            continue
        if text:
            name = path.relative_to(folder).as_posix() if folder.is_dir() else path.name
            places.append((name, text))
    places.sort(key=lambda place: hashlib.sha256(place[0].encode()).digest())
    first = groups([signature(text.encode()) for _, text in places])
    room = float("inf") if megabytes is None else megabytes * 1e6
    for i, (name, text) in enumerate(places):
        part = _part(name)
        if first[i] != i or (part == "train" and room <= 0):
            continue  # a copy of a text before it, or more than was asked for
        texts[part].append(text)
        room -= len(text) if part == "train" else 0
    return _complete(texts, held, "files of text")


def _of_parquet(shards: Sequence[Path], megabytes: float | None, held: Path) -> Texts:
    training, validation = _split(shards)
    texts: dict[str, list[str]] = {"train": [], "validation": [], "private": []}
    room = float("inf") if megabytes is None else megabytes * 1e6
    for text in _documents(training):
        if room <= 0:
            break
        room -= len(text)
        texts["train"].append(text)
    for number, text in enumerate(_documents(validation)):
        texts["private" if number % 2 else "validation"].append(text)
    return _complete(texts, held, "documents")


def _documents(shards: Sequence[Path]) -> Iterator[str]:
    try:
        pyarrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise UserMistake(
            "corpus: parquet shards need pyarrow, which is not installed; `pip install 'evo-search[parquet]'`"
        ) from None
    for shard in shards:
        try:
            with parquet.ParquetFile(shard) as file:
                if "text" not in file.schema_arrow.names:
                    columns = ", ".join(file.schema_arrow.names)
                    raise UserMistake(f"{shard}: expected a column 'text', found {columns}")
                for group in range(file.num_row_groups):
                    for text in file.read_row_group(group, columns=["text"]).column("text").to_pylist():
                        if text:
                            yield text
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise UserMistake(f"{shard}: expected a parquet file, found none that can be read: {error}") from None


def _split(shards: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    held_out = [path for path in shards if "val" in path.stem] or [shards[-1]]
    training = [path for path in shards if path not in held_out]
    if not training:
        raise UserMistake(
            f"corpus: expected shards to train on and one to hold out, found {len(shards)}: {shards[0]}; add one"
        )
    return training, held_out


def _part(name: str) -> str:
    last = hashlib.sha256(name.encode()).digest()[-1]
    return "validation" if last < HELD_OUT else "private" if last < 2 * HELD_OUT else "train"


def _complete(texts: dict[str, list[str]], held: Path, what: str) -> Texts:
    for part, found in texts.items():
        if not found:
            raise UserMistake(f"corpus: expected {what} for the part '{part}', found none in {held}; give more")
    return Texts(texts["train"], texts["validation"], texts["private"], (held,))


# --- tokens --------------------------------------------------------------------------------------------------------


def _of_tokens(shards: Sequence[Path], folder: Path, vocabulary: int, megabytes: float | None, held: Path) -> Corpus:
    training, validation = _split(shards)
    parts = []
    room = None if megabytes is None else int(megabytes * 1e6 / 2)
    for shard in training:
        tokens = tokens_of(shard)
        parts.append(tokens if room is None else tokens[:room])
        room = None if room is None else room - len(parts[-1])
        if room == 0:
            break
    held_out = np.concatenate([tokens_of(shard) for shard in validation])
    train, half = np.concatenate(parts), len(held_out) // 2
    largest = int(max(train.max(initial=0), held_out.max(initial=0)))
    if largest >= vocabulary:
        raise UserMistake(
            f"vocabulary: expected more than {largest}, the largest token of the shards, found {vocabulary}"
        )
    table = folder / "vocab.bpe"
    pieces = gpt2_pieces(table.read_text(encoding="utf-8"), str(table)) if table.is_file() else ()
    if len(pieces) > vocabulary:
        raise UserMistake(f"vocabulary: expected at least {len(pieces)}, the pieces of {table}, found {vocabulary}")
    pieces = (*pieces, *[b""] * (vocabulary - len(pieces))) if pieces else ()
    sizes = np.array([len(piece) for piece in pieces] if pieces else np.ones(vocabulary), np.int64)
    if not pieces:  # then a loss is in bits per token
        sizes[GPT2_END:] = 0
    return assembled(train, held_out[:half], held_out[half:], sizes, masked=(held,), pieces=pieces)


def tokens_of(shard: Path) -> Tokens:
    """The tokens of one shard, whose header must say what it is and how many they are."""
    try:
        with shard.open("rb") as file:
            header: NDArray[np.int32] = np.fromfile(file, "<i4", HEADER)
            tokens = np.fromfile(file, "<u2")
    except OSError as error:
        raise UserMistake(f"{shard}: expected a token shard, found {error.strerror}") from None
    if len(header) < HEADER or (header[0], header[1]) != (MAGIC, VERSION):
        raise UserMistake(
            f"{shard}: expected a header of {HEADER} int32 that begins with {MAGIC} and {VERSION}, "
            f"found {header[:2].tolist()}"
        )
    if len(tokens) != header[2]:
        raise UserMistake(f"{shard}: expected {header[2]} tokens as its header says, found {len(tokens)}")
    return tokens


def gpt2_pieces(merges: str, name: str) -> tuple[bytes, ...]:
    """The bytes of every token of GPT-2's vocabulary, from its file of merges; the end of text has none.

    That vocabulary numbers the 256 bytes first, the printable ones of Latin-1 before the rest, then a token for each
    line of merges; the file writes bytes that cannot be printed as the letters from U+0100 on, in their order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(rest)}
    pieces = [bytes([byte]) for byte in (*printable, *rest)]
    for number, line in enumerate(merges.splitlines()):
        if line and not line.startswith("#version"):
            try:
                first, second = line.split(" ")
                pieces.append(bytes(letters[letter] for letter in first + second))
            except (ValueError, KeyError):
                raise UserMistake(f"{name}, line {number + 1}: expected two pieces, found {line!r}") from None
    return (*pieces, b"")
