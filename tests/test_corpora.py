"""Corpora of a user's own text and of the Python sources on a machine, on small files that the tests make."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from evo import check
from evo.benchmark import UserMistake
from evo.judges import copies, corpora, corpus, shards, sources
from evo.sandbox import Limits, Sandbox, probe

LEVEL = probe()
isolated = pytest.mark.skipif(not LEVEL.isolated, reason=f"this machine cannot isolate:\n{LEVEL.describe()}")


def source(name: str, lines: int = 90) -> str:
    """A file that looks like a program and is no copy of one of another name."""
    chance = random.Random(name)
    words = ["".join(chance.choices("abcdefghijklmnop", k=6)) for _ in range(40)]
    body = [f"    {chance.choice(words)} = {chance.choice(words)}({chance.random():.6f})" for _ in range(lines)]
    return "\n".join([f"def {words[0]}():", *body, f"# {name}: naïve – ✓", ""])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(corpora, "DATA", tmp_path / "data")
    corpora._opened.cache_clear()
    yield tmp_path / "data"
    corpora._opened.cache_clear()


# --- a user's folder -----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    own = tmp_path / "own"
    own.mkdir()
    for k in range(60):
        (own / f"{k}.py").write_text(source(str(k)))
    (own / "copy.py").write_text((own / "7.py").read_text())
    (own / "binary.dat").write_bytes(b"\xff\xfe\x00" * 50)
    return own


def test_a_folder_of_text_is_split_by_file_without_copies(folder: Path, cache: Path) -> None:
    found = corpora.open("own", folder.parent, vocabulary=400)
    parts = {part: getattr(found, part) for part in ("train", "validation", "private")}
    files = {part: int((stream == 399).sum()) for part, stream in parts.items()}
    assert sum(files.values()) == 60 and all(files.values()) and files["train"] > 40
    assert sum(int(found.token_bytes[stream].sum()) for stream in parts.values()) == sum(
        len(source(str(k)).encode()) for k in range(60)
    )
    assert {source(str(k)).encode() for k in range(60)} > set(found.held_out())
    assert len(found.held_out()) == files["validation"] + files["private"]
    assert found.masked == (folder,)


def test_byte_counts_are_of_the_pieces_and_not_of_what_they_decode_to(folder: Path, cache: Path) -> None:
    found = corpora.open(str(folder), folder, vocabulary=300)
    halves = [t for t, piece in enumerate(found.pieces) if piece and piece.decode(errors="replace") == "\ufffd"]
    assert len(halves) >= 128 and all(found.token_bytes[t] == len(found.pieces[t]) for t in halves)
    assert found.token_bytes[299] == 0


def test_prepared_once_then_read_and_again_when_a_file_changes(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = corpora.open(str(folder), folder, vocabulary=300)
    corpora._opened.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "tokenised", lambda *_: pytest.fail("prepared twice"))
        again = corpora.open(str(folder), folder, vocabulary=300)
    assert again.hash == first.hash and again.pieces == first.pieces and again.masked == first.masked
    corpora._opened.cache_clear()
    (folder / "0.py").write_text(source("another"))
    assert corpora.open(str(folder), folder, vocabulary=300).hash != first.hash


def test_less_training_text_leaves_what_is_held_out(folder: Path, cache: Path) -> None:
    whole = shards.read(folder, 300)
    small = shards.read(folder, 300, 0.05)
    assert isinstance(whole, corpus.Texts) and isinstance(small, corpus.Texts)
    assert small.validation == whole.validation and small.private == whole.private
    assert 0.05e6 <= sum(map(len, small.train)) < 0.06e6 < sum(map(len, whole.train))


def test_the_variable_replaces_the_default_text_only(folder: Path, cache: Path) -> None:
    environment = {"EVO_CORPUS": str(folder)}
    assert corpora.open("python-sources", folder, vocabulary=300, environment=environment).masked == (folder,)
    assert corpora.open("django", folder, vocabulary=1024, environment=environment).masked == ()


def test_what_is_no_corpus_is_told(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(UserMistake, match=r"expected 'django', 'python-sources' or a folder .* found '.*absent'"):
        corpora.open("absent", tmp_path, vocabulary=300)
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "one.txt").write_text("some text")
    with pytest.raises(UserMistake, match=r"for the part '.*', found none"):
        corpora.open("few", tmp_path, vocabulary=300)
    texts = corpus.Texts(["ab"] * 9, ["ab"], ["ab"])
    with pytest.raises(UserMistake, match="a smaller vocabulary"):
        corpus.tokenised(texts, 500)


# --- token shards --------------------------------------------------------------------------------------------------


def shard(path: Path, tokens: np.ndarray, **changes: int) -> Path:
    header = np.zeros(256, "<i4")
    header[:3] = changes.get("magic", 20240520), changes.get("version", 1), changes.get("count", len(tokens))
    path.write_bytes(header.tobytes() + tokens.astype("<u2").tobytes())
    return path


def test_token_shards(tmp_path: Path, cache: Path) -> None:
    stream = np.random.default_rng(0).integers(0, 50257, 5000)
    shard(tmp_path / "fineweb_train_000001.bin", stream[:2000])
    shard(tmp_path / "fineweb_train_000002.bin", stream[2000:4000])
    shard(tmp_path / "fineweb_val_000000.bin", stream[4000:])
    found = corpora.open(str(tmp_path), tmp_path, vocabulary=50304)
    assert found.train.tolist() == stream[:4000].tolist()
    assert found.validation.tolist() + found.private.tolist() == stream[4000:].tolist()
    assert found.token_bytes[50255] == 1 and found.token_bytes[50256] == 0  # no table: bits per token
    assert found.vocabulary == 50304 and found.masked == (tmp_path,)
    small = corpora.open(str(tmp_path), tmp_path, vocabulary=50304, megabytes=0.005)
    assert small.train.tolist() == stream[:2500].tolist()
    with pytest.raises(UserMistake, match=r"vocabulary: expected more than 50\d\d\d"):
        corpora.open(str(tmp_path), tmp_path, vocabulary=1024)


def test_bytes_of_gpt2_pieces_come_from_its_merges(tmp_path: Path, cache: Path) -> None:
    # In the file, U+0120 stands for a space and U+00C3 for the byte C3.
    merges = "#version: 0.2\nĠ t\nh e\nĠt he\nÃ ©\n"
    pieces = shards.gpt2_pieces(merges, "vocab.bpe")
    assert len(pieces) == 256 + 4 + 1 and sorted(pieces[:256]) == [bytes([b]) for b in range(256)]
    assert pieces[0] == b"!" and pieces[220] == b" " and pieces[198] == b"\n"  # as every user of GPT-2 knows them
    assert pieces[256:] == (b" t", b"he", b" the", b"\xc3\xa9", b"")
    (tmp_path / "vocab.bpe").write_text(merges, encoding="utf-8")
    for name in ("a_train.bin", "b_val.bin"):
        shard(tmp_path / name, np.array([258, 259, 0, 260]))
    found = corpora.open(str(tmp_path), tmp_path, vocabulary=262)
    assert found.token_bytes[found.train].tolist() == [4, 2, 1, 0]
    with pytest.raises(UserMistake, match="line 2: expected two pieces"):
        shards.gpt2_pieces("a b\nabc\n", "vocab.bpe")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"magic": 7}, "begins with 20240520 and 1"), ({"version": 2}, "begins"), ({"count": 9}, "expected 9 tokens")],
)
def test_a_shard_that_is_none_is_refused(tmp_path: Path, changes: dict[str, int], sentence: str) -> None:
    with pytest.raises(UserMistake, match=sentence):
        shards.tokens_of(shard(tmp_path / "x.bin", np.arange(8), **changes))
    (tmp_path / "short.bin").write_bytes(b"abc")
    with pytest.raises(UserMistake, match="expected a header"):
        shards.tokens_of(tmp_path / "short.bin")


def test_a_shard_alone_cannot_be_split(tmp_path: Path) -> None:
    shard(tmp_path / "only.bin", np.arange(8))
    with pytest.raises(UserMistake, match="one to hold out"):
        shards.read(tmp_path, 300)


def test_parquet_shards(tmp_path: Path, cache: Path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="parquet shards need the extra 'parquet'")
    parquet = pytest.importorskip("pyarrow.parquet")
    for number in range(3):
        texts = [source(f"{number} {k}") for k in range(20)]
        parquet.write_table(
            arrow.table({"text": texts, "id": list(range(20))}), tmp_path / f"shard_{number:05}.parquet"
        )
    found = shards.read(tmp_path, 300)
    assert isinstance(found, corpus.Texts)
    assert list(found.train) == [source(f"{number} {k}") for number in (0, 1) for k in range(20)]
    assert list(found.validation) == [source(f"2 {k}") for k in range(0, 20, 2)] and len(found.private) == 10
    parquet.write_table(arrow.table({"words": ["a"]}), tmp_path / "shard_00000.parquet")
    with pytest.raises(UserMistake, match="expected a column 'text', found words"):
        shards.read(tmp_path, 300)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserMistake, match=r"need pyarrow.*evo-search\[parquet\]"):
        shards.read(tmp_path, 300)


# --- copies --------------------------------------------------------------------------------------------------------


def test_copies_exact_and_near_are_grouped_and_others_are_not() -> None:
    texts = [source(str(k)) for k in range(30)]
    near = texts[3].replace("def ", "async def ") + "x = 1  # one line more than there\n"
    shifted = "# a comment of another project, of one line\n" + texts[5]
    half = "\n".join(texts[8].splitlines()[:30] + texts[9].splitlines()[:60])
    found = copies.groups([copies.signature(t.encode()) for t in [*texts, texts[2], near, shifted, half, "", "short"]])
    assert found[:30] == list(range(30))
    assert found[30:33] == [2, 3, 5] and found[34] == 34 and found[35] == 35


def test_share_of_equal_minima_is_the_share_of_common_lines() -> None:
    lines = source("a", 1000).splitlines()
    one, two = "\n".join(lines[:800]), "\n".join(lines[200:])
    share = np.mean([copies.signature(one.encode()) == copies.signature(two.encode())])
    assert abs(share - 600 / 1000) < 0.2  # 64 minima: standard error 0.06


# --- Python sources ------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A standard library and a folder of packages; `torch` names `used` in an import, which is not to be held out."""
    library, packages = tmp_path / "python", tmp_path / "site"
    monkeypatch.setattr(sources, "LEAST", 40_000)
    files = {"python/json.py": source("json"), "site/torch/__init__.py": "import used\n" + source("torch")}
    for package in ("used", *(f"p{k}" for k in range(12))):
        for k in range(8):
            files[f"site/{package}/m{k}.py"] = source(f"{package} {k}")
    files["site/p1/vendored.py"] = files["site/p2/m0.py"]
    files["site/p3/__pycache__/m0.cpython-311.pyc"] = "compiled"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return library, packages


def test_sources_are_held_out_by_package_and_by_file(machine: tuple[Path, Path]) -> None:
    library, packages = machine
    found = sources.texts(library=library, sites=[packages])
    names = {path.read_text(): path for path in packages.rglob("*.py")}
    held = {text: names[text] for text in (*found.validation, *found.private)}
    covered = set(found.masked)
    assert all(path in covered or packages / path.relative_to(packages).parts[0] in covered for path in held.values())
    private = {names[text].parent.name for text in found.private}
    validation = {names[text].parent.name for text in found.validation}
    train = {names[text].parent.name for text in found.train if text in names}
    assert private and validation and not private & train and validation < train
    assert not {"torch", "used"} & (private | validation) and {"torch", "used", "python"} <= train | {"python"}
    assert not set(found.train) & set(held)
    assert (library / "json.py").read_text() in found.train
    copy = (packages / "p2" / "m0.py").read_text()
    assert copy not in held and found.train.count(copy) <= 1  # a covered copy would be readable in its other place


def test_compiled_files_are_covered_too(machine: tuple[Path, Path]) -> None:
    path = machine[1] / "p3" / "m0.py"
    assert sources.compiled(path) == [path, path.parent / "__pycache__" / "m0.cpython-311.pyc"]


def test_a_small_corpus_holds_out_what_a_large_one_does_not_train_on(machine: tuple[Path, Path]) -> None:
    library, packages = machine
    small = sources.texts(0.05, library=library, sites=[packages])
    large = sources.texts(library=library, sites=[packages])
    assert sum(map(len, small.train)) < sum(map(len, large.train))
    assert sources.texts(0.05, library=library, sites=[packages]) == small


def test_a_machine_without_packages_says_so(tmp_path: Path) -> None:
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "json.py").write_text(source("json"))
    with pytest.raises(UserMistake, match="some megabytes of packages"):
        sources.texts(library=tmp_path / "python", sites=[])


# --- what a sandbox sees -------------------------------------------------------------------------------------------


@isolated
def test_a_copy_in_sight_is_found_and_others_are_not(tmp_path: Path) -> None:
    said: list[str] = []
    documents = [source(str(k)).encode() for k in range(3)]

    def visible(**program: str) -> bool:
        tree = {f"{name}.py": text for name, text in program.items()}
        return check.check_visibility(documents, (), said.append, roots=["/program"], program=tree)

    assert visible(other=source("other"))
    assert not visible(other=source("other"), copy="\n".join(source("1").splitlines()[:60]))
    assert "copies in 1" in said[-2] and said[-1] == "  found 1 in /program/copy.py"


@isolated
def test_hidden_files_and_folders_cannot_be_read_or_imported(tmp_path: Path) -> None:
    import wave
    import xmlrpc

    code = """
import pathlib, sys
for name in ("wave", "xmlrpc.client"):
    try:
        __import__(name)
        print("imported")
    except ImportError as error:
        print(type(error).__name__)
print(len(pathlib.Path(sys.argv[1]).read_text()), list(pathlib.Path(sys.argv[2]).iterdir()))
print(all(b"wave" not in p.read_bytes() for p in map(pathlib.Path, sys.argv[3:])))
"""
    for name in ("program", "guest"):
        (tmp_path / name).mkdir(mode=0o755)
    script = tmp_path / "guest" / "script.py"
    script.write_text(code)
    folder, files = Path(xmlrpc.__file__).parent, sources.compiled(Path(wave.__file__))
    with Sandbox(hidden=[folder, *files]) as sandbox:
        arguments = [str(path) for path in (files[0], folder, *files[1:])]
        with sandbox.start(
            script,
            program=tmp_path / "program",
            guest=tmp_path / "guest",
            arguments=arguments,
            limits=Limits(wall_s=20),
        ) as turn:
            ending = turn.ending(20)
            output = turn.output()
    assert ending is not None and ending.code == 0, output
    lines = output.split("\n")
    assert lines[:2] == ["ImportError", "ModuleNotFoundError"] and lines[2].endswith(" []") and lines[3] == "True"
    assert int(lines[2].split()[0]) < 200
