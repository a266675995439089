"""What a run has tried, told once: text that only grows, so that a provider keeps it between calls."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from evo.cards import one_line, tokens
from evo.genome import Patch

CHUNK = 1000  # bytes; a part that has so many is closed and never changes again
BUDGET = 16_000  # tokens of one telling; then it begins anew with the best
BEST = 4_000  # tokens of the best, where it begins anew
PATCH_LIMIT = 6000  # characters of one diff
AROUND = 1  # lines around a change: the base stands in full before all this


@dataclass(frozen=True)
class Trial:
    """One evaluated genome: what its screen gave, which nothing later changes; no `gain` where it failed.

    What was `set_aside` for suspicion shows neither figure nor diff.
    """

    genome: str
    patches: tuple[Patch, ...]
    cell: tuple[str, str]
    told: str
    gain: float | None
    set_aside: bool = False


@dataclass(frozen=True)
class Lesson:
    """Hypotheses that a line of research wrote down when it looked back."""

    thread: int
    hypotheses: tuple[str, ...]


@dataclass(frozen=True)
class Chronicle:
    """Everything told so far: closed parts, and the beginning of the next one, which belongs to a call's own text."""

    parts: tuple[str, ...] = ()
    latest: str = ""
    genomes: Mapping[str, int] = field(default_factory=dict)  # that are told: their numbers
    patches: Mapping[str, int] = field(default_factory=dict)  # whose diffs are told in full
    hypotheses: Mapping[str, int] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)  # of all patches, told or not


def tell(entries: Sequence[Trial | Lesson], budget: int = BUDGET, best: int = BEST) -> Chronicle:
    """The chronicle of entries in the order in which they became known; more entries only ever add to it.

    It is a function of the entries alone, so that parallel workers share its beginning. Numbers count from the run's
    first entry. Once `budget` tokens are told it begins anew with the best trials so far, within `best` tokens.
    """
    telling = _Telling(_numbered([e for e in entries if isinstance(e, Trial)]))
    told: list[Trial] = []
    for entry in entries:
        text = telling.text(entry)
        if telling.spent + tokens(text) > budget and telling.spent:
            telling = _Telling(telling.numbers, telling.trials, telling.lessons)
            telling.begin_anew(told, best)
            text = telling.text(entry)
        telling.add(entry, text)
        if isinstance(entry, Trial):
            told.append(entry)
    return telling.chronicle()


def _numbered(trials: Sequence[Trial]) -> dict[str, int]:
    names = dict.fromkeys(patch.name for trial in trials for patch in trial.patches)
    return {name: number for number, name in enumerate(names, 1)}


class _Telling:
    """A chronicle in the making."""

    def __init__(self, numbers: Mapping[str, int], trials: int = 0, lessons: int = 0) -> None:
        self.numbers = numbers
        self.trials, self.lessons = trials, lessons  # so many were told, those of earlier tellings included
        self.spent = 0
        self._parts: list[str] = []
        self._open = ""
        self._genomes: dict[str, int] = {}
        self._patches: dict[str, int] = {}
        self._hypotheses: dict[str, int] = {}
        self._shown: set[str] = set()  # patches, the cut ones included

    def text(self, entry: Trial | Lesson, number: int | None = None) -> str:
        if isinstance(entry, Lesson):
            lines = [f"H{self.lessons + n}: {text}" for n, text in enumerate(entry.hypotheses, 1)]
            return f"Line of research {entry.thread} looked back:\n" + "\n".join(lines) + "\n"
        number = number or self.trials + 1
        result = "set aside" if entry.set_aside else entry.told
        lines = [f"G{number} = {recipe(entry.patches, self.numbers)} [{', '.join(entry.cell)}]: {result}"]
        for patch in entry.patches:
            if patch.name not in self._shown:
                on = f"the base{''.join(f' + P{self.numbers[need]}' for need in patch.needs)}"
                lines.append(f"P{self.numbers[patch.name]}, a change of {on}: {one_line(patch.hypothesis)}")
                if not entry.set_aside:
                    lines.append(short(patch.diff))
        return "\n".join(line.rstrip("\n") for line in lines) + "\n"

    def add(self, entry: Trial | Lesson, text: str, number: int | None = None) -> None:
        if isinstance(entry, Lesson):
            self._hypotheses |= {told: self.lessons + n for n, told in enumerate(entry.hypotheses, 1)}
            self.lessons += len(entry.hypotheses)
        else:
            if number is None:
                self.trials += 1
            self._genomes[entry.genome] = number or self.trials
            if not entry.set_aside:
                self._shown |= {patch.name for patch in entry.patches}
                whole = (patch.name for patch in entry.patches if len(short(patch.diff)) <= PATCH_LIMIT)
                self._patches |= {name: self.numbers[name] for name in whole}
        self.spent += tokens(text)
        self._open += ("\n" if self._open else "") + text
        if len(self._open.encode()) >= CHUNK:
            self._parts.append(self._open)
            self._open = ""

    def begin_anew(self, told: Sequence[Trial], budget: int) -> None:
        ranked = sorted(
            ((-trial.gain, number, trial) for number, trial in enumerate(told, 1) if trial.gain and _gained(trial)),
            key=lambda item: item[:2],
        )
        self._open = f"{len(told)} attempts were made before; of them the best are told again.\n"
        for _, number, trial in ranked:
            text = self.text(trial, number)
            if self.spent + tokens(text) > budget:
                break
            self.add(trial, text, number)

    def chronicle(self) -> Chronicle:
        return Chronicle(tuple(self._parts), self._open, self._genomes, self._patches, self._hypotheses, self.numbers)


def _gained(trial: Trial) -> bool:
    return trial.gain is not None and trial.gain > 0 and not trial.set_aside


def recipe(patches: Sequence[Patch], numbers: Mapping[str, int]) -> str:
    """What a program is made of, as `base + P3 + P9`."""
    return "base" + "".join(f" + P{numbers[patch.name]}" for patch in patches)


@lru_cache(maxsize=4096)
def short(diff: str) -> str:
    """A unified diff with less around its changes and without git's own lines; bounded."""
    found: list[str] = []
    for part in re.split(r"^(?=@@ |diff --git )", diff, flags=re.M):
        lines = part.split("\n")
        if not part.startswith("@@ "):
            found += [line for line in lines if line.startswith(("--- ", "+++ ", "new file", "deleted file"))]
            continue
        body = lines[1:-1] if lines[-1] == "" else lines[1:]
        changed = [at for at, line in enumerate(body) if line[:1] in ("+", "-")]
        first, last = max(0, changed[0] - AROUND), changed[-1] + 1 + AROUND
        left = int(re.match(r"@@ -(\d+)", part)[1]) + first  # type: ignore[index]
        found += [f"@@ line {left} @@", *body[first:last]]
    text = "\n".join(found)
    return text if len(text) <= PATCH_LIMIT else text[:PATCH_LIMIT] + "\n[cut]"
