"""Helps whoever answers the prompts of `--model inbox:DIR` by hand.

    python scripts/serve_inbox.py INBOX RUN               what is new: parts of the record once, then what is pending
    python scripts/serve_inbox.py INBOX RUN answer SLOT   hands INBOX/SLOT.draft.md over, or says why it does not apply

The whole prompt of a slot stays in SLOT.prompt.md; of it only the beginning that all share is left out here after the
first time. SLOT.program/ holds the program that the prompt names by the numbers of its changes, as files to read.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from evo import chronicle, genome, inspect
from evo.benchmark import write_tree
from evo.genome import Genome, PatchError, diff_trees
from evo.llm import Completion
from evo.operators import written
from evo.outcome import visible
from evo.search import State

SECTION = re.compile(r"\n\n(?=## (?:The base's score|What was tried, part |What was tried last|The current program\n))")


def parent(state: State, prompt: str) -> Genome | None:
    """The genome that a prompt's request calls the current program; None if today's record no longer tells which."""
    section = prompt.rpartition("## The current program\n\n")[2]
    if section.startswith("The base."):
        return state.base
    if change := re.match(r"[^\n]*, the base with this change:\n\n(`{3,})diff\n(.*?)\n\1\n", section, re.S):
        wanted = change[2].rstrip()
        programs = ((own, state.program(own)) for own in map(state.genome, state.proposals))
        return next((own for own, tree in programs if diff_trees(state.base_tree, tree).rstrip() == wanted), None)
    numbers = chronicle.tell(state.history()).genomes
    found = re.match(r"G(\d+)\b", section)
    return next((state.genome(name) for name, number in numbers.items() if found and number == int(found[1])), None)


def pending(inbox: Path) -> list[str]:
    """Slots without an answer, the oldest first."""
    files = sorted(inbox.glob("*.prompt.md"), key=lambda file: (file.stat().st_mtime, file.name))
    slots = [file.name.removesuffix(".prompt.md") for file in files]
    return [slot for slot in slots if not (inbox / f"{slot}.answer.md").exists()]


def show(inbox: Path, state: State) -> None:
    seen = inbox / "shown.txt"
    known = set(seen.read_text().split("\n")) if seen.exists() else set()
    for slot in pending(inbox):
        prompt = (inbox / f"{slot}.prompt.md").read_text()
        shared = [
            part for part in SECTION.split(prompt) if "## What was tried, part" in part or part.startswith("You ")
        ]
        for part in shared:
            if (digest := genome.Patch(part).name) not in known:
                print(visible(part) + "\n")
                known.add(digest)
        own = "\n\n".join(part for part in SECTION.split(prompt) if part not in shared)
        place = "the record was begun anew since: its program stands in no folder"
        if (program := parent(state, prompt)) is not None:
            write_tree(state.program(program), inbox / f"{slot}.program")
            place = f"program in {inbox / f'{slot}.program'}"
        print(f"=================== {slot} ({place})\n\n{visible(own)}\n")
    seen.write_text("\n".join(sorted(known)))
    print(f"pending: {' '.join(pending(inbox)) or 'nothing'}")


def answer(inbox: Path, run: Path, slot: str) -> int:
    _, benchmark, _, state = inspect.opened(run)
    draft, prompt = inbox / f"{slot}.draft.md", (inbox / f"{slot}.prompt.md").read_text()
    own = parent(state, prompt)
    if "Do not change anything now" not in prompt and own is not None:
        try:
            several = "Propose two changes at once" in prompt
            written.read(
                Completion(draft.read_text(), ""), own, state.program(own), state.base_tree, benchmark, several
            )
        except PatchError as error:
            print(f"{slot}: not handed over: {error}")
            return 1
    draft.rename(inbox / f"{slot}.answer.md")
    print(f"{slot}: handed over")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inbox", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("what", nargs="?", choices=["answer"])
    parser.add_argument("slot", nargs="?")
    options = parser.parse_args()
    if options.what:
        sys.exit(answer(options.inbox, options.run, options.slot))
    show(options.inbox, inspect.opened(options.run)[3])
