"""The text that every machine has: the Python sources of its standard library and of its installed packages.

Held out are files that no training program imports, because every sandbox covers them: `validation` has files of
packages whose other files are trained on, `private` whole packages. What torch and its like may import stays.
"""

from __future__ import annotations

import hashlib
import os
import re
import site
import stat
import sys
import sysconfig
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

from evo.benchmark import UserMistake
from evo.judges.copies import Signature, Wanted, groups, signature, telling_lines
from evo.judges.corpus import Texts

SMALLEST, LARGEST = 64, 1 << 20  # bytes of a file; larger ones are tables of data
HELD_OUT_FILE = range(2048, 128 * 1024)  # bytes of a file that may be validation text
VALIDATION_SHARE, PRIVATE_SHARE = 0.0125, 0.04  # of all bytes
LEAST = 400_000  # bytes of a slice, however small the whole is
STANDARD = "python"  # the package that standard library files count to
# What training programs may import; all that these require or name in an import is trained on and never held out.
IMPORTED = (
    "torch",
    "triton",
    "numpy",
    "safetensors",
    "setuptools",
    "packaging",
    "pip",
    "wheel",
    "functorch",
    "torchgen",
)
VISIBLE = ("/usr",)  # what a sandbox sees beside the interpreter: other programs there may carry packages of their own
ARCHIVES = ("/usr/share/python-wheels",)  # beside ensurepip's: sources in zip files, which nothing can cover one by one

_IMPORT = re.compile(rb"^[ \t]*(?:import|from)[ \t]+([A-Za-z_]\w*)", re.MULTILINE)


@dataclass(frozen=True)
class Place:
    """A source file: where it is, the package it belongs to, its path inside, its bytes on the disk."""

    path: str  # pathlib would take longer than the disk
    package: str
    inside: str
    size: int

    @property
    def key(self) -> bytes:
        """Orders files alike wherever the environment lies; as good as chance."""
        return hashlib.sha256(f"{self.package} {self.inside}".encode()).digest()


@dataclass(frozen=True)
class _Read:
    text: str
    signature: Signature


def texts(megabytes: float | None = None, *, library: Path | None = None, sites: Sequence[Path] | None = None) -> Texts:
    """Reads, drops copies and splits; `megabytes` of training text, None for all that there is.

    `library` and `sites` are the standard library and the folders of packages, those of this interpreter if not given.
    """
    library = Path(os.__file__).resolve().parent if library is None else library
    trees = VISIBLE if sites is None else ()
    own = site_folders() if sites is None else sites
    places = sorted({p.path: p for p in _walked(library, own)}.values(), key=lambda place: place.key)
    protected = _protected(places)
    total = sum(place.size for place in places)
    wanted = total if megabytes is None else min(total, int(megabytes * 1e6))
    unseen = _unseen_packages(places, protected, max(LEAST, int(PRIVATE_SHARE * wanted)))
    private = [place for place in places if place.package in unseen]
    free = [p for p in places if p.package not in protected | unseen and p.size in HELD_OUT_FILE]
    candidates = _first(free, 2 * max(LEAST, int(VALIDATION_SHARE * wanted)))
    aside = {place.path for place in candidates}
    # A path decides which files are held out, so that a small corpus's validation text is no large one's training text.
    rest = [p for p in places if p.package not in unseen and p.path not in aside]
    train = _first(rest, wanted)
    return _split(train, candidates, private, places, max(LEAST, int(VALIDATION_SHARE * wanted)), library, trees)


def _split(
    train: Sequence[Place],
    candidates: Sequence[Place],
    private: Sequence[Place],
    places: Sequence[Place],
    wanted: int,
    library: Path,
    trees: Sequence[str],
) -> Texts:
    """Drops copies; a text is held out only if there is none of it, because a copy elsewhere would be readable."""
    taken = [*train, *candidates, *private]
    first_candidate, first_private = len(train), len(train) + len(candidates)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        read = list(pool.map(_read, taken))
    present = [i for i, found in enumerate(read) if found is not None]
    group = dict(zip(present, groups([found.signature for found in read if found is not None]), strict=True))
    members = Counter(group.values())
    alone = [i for i in present if i >= first_candidate and members[group[i]] == 1]
    covered = {place.package for place in private}
    visible = {place.path: None for place in places if place.package not in covered}
    hidden = {place.path for place in places if place.package in covered}
    visible |= {path: None for tree in trees for path in _sources_below(tree) if path not in hidden}
    fit = _without_copies({i: taken[i] for i in alone}, visible, library)
    validation: list[int] = []
    for i in (i for i in fit if i < first_private):
        if sum(taken[k].size for k in validation) < wanted:
            validation.append(i)
    seen: set[int] = set()
    training = []
    for i in present:
        if i < first_private and i not in validation and group[i] not in seen:
            seen.add(group[i])
            training.append(i)
    folders = {Path(place.path).parents[place.inside.count("/") - 1] for place in private}
    masks = [*sorted(folders), *(file for i in validation for file in compiled(Path(taken[i].path)))]

    def of(numbers: Iterable[int]) -> list[str]:
        return [found.text for i in sorted(numbers, key=lambda i: taken[i].key) if (found := read[i]) is not None]

    result = Texts(of(training), of(validation), of(i for i in fit if i >= first_private), tuple(masks))
    if not (result.train and result.validation and result.private):
        raise UserMistake(
            f"corpus: expected some megabytes of packages beside what torch needs, found {len(result.train)} files to "
            f"train on, {len(result.validation)} to hold out and {len(result.private)} of whole packages; install "
            "some packages, or name a folder of texts"
        )
    return result


def _without_copies(held: Mapping[int, Place], visible: Iterable[str], library: Path) -> list[int]:
    """Those of `held` with lines to be known by, and no other visible file that has half of them.

    MinHash has not seen the files that a small corpus leaves out, nor those that belong to no package, and a file may
    hold a much smaller one.
    """
    lines = {i: found for i, place in held.items() if (found := telling_lines(Path(place.path).read_bytes()))}
    numbers = list(lines)
    wanted = Wanted(list(lines.values()))
    copied: set[int] = set()
    for path in visible:
        with suppress(OSError):
            holders = {numbers[k] for k in wanted.copied_in(Path(path).read_bytes())}
            copied |= {i for i in holders if held[i].path != path}
    for folder in (library / "ensurepip" / "_bundled", *map(Path, ARCHIVES)):
        for archive in sorted(folder.glob("*.whl")):
            with zipfile.ZipFile(archive) as files:
                for name in files.namelist():
                    copied |= {numbers[k] for k in wanted.copied_in(files.read(name))}
    return [i for i in numbers if i not in copied]


def compiled(path: Path) -> list[Path]:
    """A source file and what the interpreters have compiled it to."""
    return [path, *sorted((path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"))]


def _sources_below(tree: str) -> Iterator[str]:
    for folder, _, names in os.walk(tree):
        yield from (os.path.join(folder, name) for name in names if name.endswith(".py"))


def site_folders() -> list[Path]:
    """Folders of packages that a sandbox of this interpreter can see, those of its base and of the system included."""
    base = Path(sys.base_prefix) / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    folders = [*site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    folders += [str(base / "site-packages"), str(base / "dist-packages")]
    folders += ["/usr/lib/python3/dist-packages", "/usr/local/lib/python3/dist-packages"]
    return [folder for folder in dict.fromkeys(Path(f).resolve() for f in folders) if folder.is_dir()]


def _walked(library: Path, sites: Sequence[Path]) -> list[Place]:
    found = []
    for root in (library, *sites):
        for folder, below, names in os.walk(root):
            below[:] = sorted(d for d in below if d not in ("__pycache__", "site-packages", "dist-packages"))
            for name in names:
                if not name.endswith(".py"):
                    continue
                path = os.path.join(folder, name)
                about = os.lstat(path)
                if stat.S_ISREG(about.st_mode) and SMALLEST <= about.st_size <= LARGEST:
                    inside = path[len(str(root)) + 1 :]
                    package = STANDARD if root == library else inside.partition("/")[0].removesuffix(".py")
                    found.append(Place(path, package, inside, about.st_size))
    return found


def _protected(places: Sequence[Place]) -> set[str]:
    """What a training program may import: `IMPORTED`, what these name in an import, and all that it requires."""
    named = {*IMPORTED, STANDARD}
    for place in places:
        if place.package in IMPORTED:
            named |= {word.decode() for word in _IMPORT.findall(Path(place.path).read_bytes())}
    owners = packages_distributions()
    required: dict[str, None] = {}
    waiting = [owner for name in named for owner in owners.get(name, [name])]
    while waiting:
        if (name := _plain(waiting.pop())) in required:
            continue
        required[name] = None
        try:
            found: Distribution = distribution(name)
        except PackageNotFoundError:
            continue
        waiting += [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in found.requires or ()]
    return named | {package for package, own in owners.items() if any(_plain(owner) in required for owner in own)}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _unseen_packages(places: Sequence[Place], protected: set[str], wanted: int) -> set[str]:
    """Packages of `wanted` bytes together, in the order of their names' hashes; none that is larger alone."""
    sizes: dict[str, int] = {}
    modules = {place.package for place in places if "/" not in place.inside}
    for place in places:
        sizes[place.package] = sizes.get(place.package, 0) + place.size
    found: set[str] = set()
    size = 0
    for package in sorted(sizes.keys() - protected - modules, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if size < wanted and sizes[package] <= wanted and sizes[package] >= wanted / 200:
            found.add(package)
            size += sizes[package]
    return found


def _first(places: Sequence[Place], wanted: int) -> list[Place]:
    found, size = [], 0
    for place in places:
        if size >= wanted:
            break
        found.append(place)
        size += place.size
    return found


def _read(place: Place) -> _Read | None:
    """None where the file is gone or not UTF-8."""
    try:
        data = Path(place.path).read_bytes()
        text = data.decode()
    except (OSError, UnicodeDecodeError):
        return None
    return _Read(text, signature(data)) if data else None
