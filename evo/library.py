"""The technique library: one patch a file below genomes/<category>/, a few header lines and then the diff."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from evo.benchmark import Benchmark, UserMistake
from evo.genome import Patch, PatchError, apply_diff, parse_diff

SHIPPED = Path(__file__).resolve().parent.parent / "genomes"
HEADERS = ("benchmark", "hypothesis", "source", "effect", "verdict")


@dataclass(frozen=True)
class Technique:
    """A library file. `effect` and `verdict` are for people: no operator ever reads them."""

    file: Path
    benchmark: str
    patch: Patch
    effect: str = ""
    verdict: str = ""

    @property
    def name(self) -> str:
        return self.file.stem


def read(file: Path) -> Technique:
    """One library file; the folder it lies in is the category that its author had in mind."""
    header, separator, diff = file.read_text().partition("\n---\n")
    if not separator:
        raise UserMistake(f"{file}: expected header lines, a line '---' and a diff; found no '---'")
    fields: dict[str, str] = {}
    for line in header.splitlines():
        key, colon, value = line.partition(":")
        if key.startswith(" ") and fields:
            fields[next(reversed(fields))] += " " + line.strip()
        elif not colon or key not in HEADERS:
            raise UserMistake(f"{file}: unknown header line {line!r}; valid keys are {', '.join(HEADERS)}")
        else:
            fields[key] = value.strip()
    if missing := [key for key in ("benchmark", "hypothesis", "source") if key not in fields]:
        raise UserMistake(f"{file}: header lacks {', '.join(missing)}")
    patch = Patch(diff, (), fields["hypothesis"], fields["source"], file.parent.name)
    return Technique(file, fields["benchmark"], patch, fields.get("effect", ""), fields.get("verdict", ""))


def patch_of(file: Path) -> Patch:
    """A patch from a library file or from a plain diff."""
    if not file.is_file():
        raise UserMistake(f"expected a patch file, found {file}")
    text = file.read_text()
    if "\n---\n" in text and not text.startswith(("---", "diff")):
        return read(file).patch
    return Patch(text, (), file.stem, "by hand", "")


def load(folder: Path = SHIPPED) -> list[Technique]:
    return [read(file) for file in sorted(folder.glob("*/*.patch"))]


def fitting(benchmark: Benchmark, folder: Path = SHIPPED) -> list[Patch]:
    """Techniques whose diff applies to this benchmark's base as it is now, in the order of their file names."""
    found = []
    for technique in load(folder):
        try:
            apply_diff(technique.patch.diff, benchmark.base)
        except PatchError:
            continue  # written for another program
        if all(benchmark.is_editable(path) for path in parse_diff(technique.patch.diff)):
            found.append(technique.patch)
    return found


def known(benchmark: Benchmark, shared: Path) -> list[Patch]:
    """The shipped techniques that fit, and what a suite's other tasks have put into the folder that they share."""
    found = {patch.name: patch for patch in fitting(benchmark)}
    if shared.is_dir():
        found |= {patch.name: patch for patch in fitting(benchmark, shared)}
    return list(found.values())


def elsewhere(shared: Path, own: str) -> tuple[str, ...]:
    """What was certified on the other tasks of a suite, a sentence each: for a prompt."""
    notes = shared / "notes.jsonl"
    if not notes.is_file():
        return ()
    found = [json.loads(line) for line in notes.read_text().split("\n")[:-1]]
    return tuple(f"on {note['task']}: {note['idea']}" for note in found if note["task"] != own)
