"""Opens the corpus that a benchmark's settings name."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from evo.hostlock import turn
from evo.judges import copies, corpus, django, shards, sources
from evo.judges.corpus import DATA, Corpus

VARIABLE = "EVO_CORPUS"  # a path of the user's own text, for benchmarks whose base does not belong to one text


def open(
    spec: str,
    root: Path,
    *,
    vocabulary: int,
    megabytes: float | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Corpus:
    """The corpus `spec` = "django", "python-sources" or a path (from `root`, the benchmark's folder), prepared once.

    `vocabulary` counts the separator, the last id. `megabytes` is how much training text is taken, None for all.
    The variable EVO_CORPUS puts a path in the place of "python-sources".
    """
    if spec == "python-sources":
        spec = environment.get(VARIABLE) or spec
    path = str((root / Path(spec).expanduser()).resolve()) if spec not in ("django", "python-sources") else spec
    return _opened(path, vocabulary, megabytes)


@lru_cache(maxsize=2)  # whoever starts a sandbox asks for the masks, then the judge for the tokens
def _opened(spec: str, vocabulary: int, megabytes: float | None) -> Corpus:
    if spec == "django":
        return django.load()
    prepared = DATA / "prepared" / f"{_key(spec, vocabulary, megabytes)}.npz"
    if (found := corpus.saved(prepared)) is not None:
        return found
    # It takes a minute, all cores and gigabytes: whoever comes second waits for what the first one makes.
    with turn(alone=True, folder=Path(tempfile.gettempdir()) / f"evo-preparing-{os.getuid()}"):
        if (found := corpus.saved(prepared)) is not None:
            return found
        return _prepare(spec, vocabulary, megabytes, prepared)


def _prepare(spec: str, vocabulary: int, megabytes: float | None, prepared: Path) -> Corpus:
    texts = sources.texts(megabytes) if spec == "python-sources" else shards.read(Path(spec), vocabulary, megabytes)
    if isinstance(texts, Corpus):
        return texts  # its shards are as quick to read as a copy of them
    found = corpus.tokenised(texts, vocabulary)
    corpus.save(prepared, found)
    return found


def _key(spec: str, vocabulary: int, megabytes: float | None) -> str:
    """Names the prepared file by what it was made from. Packages that come or go later change nothing that is prepared:
    scores must go on to compare. Delete the file to take up the machine as it is then."""
    content = hashlib.sha256(repr((spec, vocabulary, megabytes)).encode())
    for module in (copies, corpus, shards, sources):
        content.update(Path(str(module.__file__)).read_bytes())
    if spec == "python-sources":
        content.update(f"{sys.prefix} {sys.base_prefix} {sys.version_info}".encode())
        name = spec
    else:
        for path in sorted(p for p in Path(spec).rglob("*") if p.is_file()) or [Path(spec)]:
            if path.is_file():
                about = path.stat()
                content.update(f"{path} {about.st_size} {about.st_mtime_ns}".encode())
        name = "user"
    return f"{name}-{content.hexdigest()[:16]}"
