"""A recorded search: every answer of its models and every proposal, one JSON line each; it can be played back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evo import events
from evo.benchmark import UserMistake
from evo.events import Proposed, Slotted
from evo.genome import Genome, Patch
from evo.llm import Completion, Prompt, Slot, Usage

FORMAT = 1


@dataclass(frozen=True)
class Header:
    """The first line: which search this was. A replay takes benchmark, seed and threads from it."""

    benchmark: str
    profile: str
    base: str  # hash of the base program
    seed: int
    threads: int


class Recorder:
    """Appends lines; several workers may share a file, since a line is one write at its end."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def begin(self, header: Header) -> None:
        """Writes the header; raises UserMistake where a file of that name exists."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with open(self._file, "x") as file:
                file.write(_line({"recording": FORMAT, **dataclasses.asdict(header)}))
        except FileExistsError as error:
            raise UserMistake(
                f"--record {self._file}: it exists already; name a new file, or resume the run that wrote it"
            ) from error
        except OSError as error:
            raise UserMistake(f"--record {self._file}: cannot be written ({error.strerror})") from error

    def answer(self, slot: Slot, prompt: Prompt, found: Completion) -> None:
        """Keeps an answer with the prompt's hash and the bytes of its parts: prefix, record, this call's own."""
        sizes = [len(text.encode()) for text in (prompt.prefix, "".join(prompt.record), prompt.request)]
        digest = hashlib.sha256(prompt.text.encode()).hexdigest()[:16]
        self._append(_line({"slot": slot.name, "prompt": digest, "bytes": sizes, **dataclasses.asdict(found)}))

    def proposal(self, event: Slotted) -> None:
        """Keeps what became of a slot. Called before the journal has it, so that parents come before children."""
        self._append(events.dump(event, 0.0) + "\n")

    def _append(self, line: str) -> None:
        handle = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)


class Recording:
    """What a recording holds. Every slot's proposal stands in it, the mechanical ones too.

    So a replay of a slot is a function of this file alone: which worker plays it, and what the others have done by
    then, changes nothing.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.answers: dict[str, Completion] = {}
        self.proposals: dict[tuple[int, int], Slotted] = {}
        self._patches: dict[str, Patch] = {}
        self._names: dict[str, tuple[str, ...]] = {}  # genome -> its patches
        try:
            text = file.read_text()
            first, *rest = text[: text.rfind("\n")].split("\n")  # a last line that was cut off is not read
            events.verify(first, checked=False)
            table = json.loads(first)
            if table.pop("recording") != FORMAT:
                raise ValueError("another format")
            self._checked = table.pop("crc", None) is not None  # else of before answers had checksums
            self.header = Header(**table)
            for line in rest:
                self._take(line)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserMistake(
                f"--model replay:{file}: expected a recording that --record wrote, found none ({error})"
            ) from error

    def _take(self, line: str) -> None:
        events.verify(line, checked=self._checked)
        found = json.loads(line)
        if "slot" in found:  # asked twice after a crash: what was written down last was also proposed last
            usage = Usage(**found["usage"])
            self.answers[found["slot"]] = Completion(found["text"], found["model"], usage, found.get("cut", False))
            return
        _, event = events.load(line)
        if not isinstance(event, Slotted):
            raise ValueError(f"a line of kind {event.kind}")
        self.proposals[event.thread, event.number] = event
        if isinstance(event, Proposed):
            self._names[event.genome] = event.patches
            for patch in event.new:
                self._patches[patch.name] = patch

    def genome(self, name: str) -> Genome:
        """A genome that the recorded search proposed, or its base; raises KeyError for any other."""
        if name not in self._names:
            raise KeyError(name)
        return Genome(self.header.base, tuple(self._patches[patch] for patch in self._names[name]))

    def program_parent(self, name: str) -> Genome:
        """Like `genome`, the base where nobody proposed the name."""
        return self.genome(name) if name in self._names else Genome(self.header.base)

    def within(self, count: int) -> set[tuple[int, int]]:
        """The slots up to the `count`-th new genome, in the order of the recording."""
        kept: set[tuple[int, int]] = set()
        genomes: set[str] = set()
        for slot, event in self.proposals.items():
            if isinstance(event, Proposed):
                if len(genomes) == count and event.genome not in genomes:
                    break
                genomes.add(event.genome)
            kept.add(slot)
        return kept

    @property
    def genomes(self) -> int:
        return len(self._names)


def _line(record: dict[str, Any]) -> str:
    line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace").decode()
    return events.with_checksum(line) + "\n"
