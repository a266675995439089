"""Patches written by a language model: improve a parent, mutate its mechanism, repair what failed."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from evo import cards, edits, prompts
from evo.benchmark import Benchmark
from evo.genome import Genome, PatchError, Tree, diff_trees, patch_between
from evo.llm import Completion, Prompt, Slot
from evo.operators.scene import Draft, Scene

REPAIRS = 2  # further calls when an edit does not apply


class Unusable(Exception):
    """The model answered, but not with an edit that fits; the message is the reason."""


@dataclass(frozen=True)
class Ask:
    """A call that a proposal needs before it can go on."""

    task: str
    prompt: Prompt
    slot: Slot


def propose(
    task: str, scene: Scene, benchmark: Benchmark, parent: str, trouble: str = ""
) -> Generator[Ask, Completion, Draft]:
    """Asks for one edit of the parent's program, and for its correction where it does not apply.

    Yields the calls to be made and takes their answers; who calls, and when, is the caller's business. Raises
    Unusable where no answer fitted; what was answered costs what it costs.
    """
    own = scene.genome(parent)
    program = scene.build(own)
    card = next((c for c in scene.cards if c.genome == parent), None)
    chosen = cards.for_improving(scene.cards, card)
    if task == "mutate":
        chosen = cards.for_mutating(scene.cards, scene.archive[parent].cell) or chosen
    text = prompts.request(
        task,
        diff=prompts.parent_diff(diff_trees(scene.base, program)) if own.patches else "",
        described=card.described if card else "the base",
        chosen=[c for c in chosen if c.genome != parent],
        taste=prompts.TASTES[scene.chance.thread % len(prompts.TASTES)],
        trouble=trouble,
    )
    stable = prompts.prefix(benchmark)
    reason = ""
    for attempt in range(1 + REPAIRS):
        retry = f"\n\nYour last answer could not be applied: {reason}\nAnswer again, in full." if reason else ""
        slot = Slot(scene.chance.thread, scene.chance.number, attempt)
        answer = yield Ask(task, Prompt(stable, text + retry), slot)
        try:
            return Draft((parent,), read(answer, own, program, scene.base, benchmark))
        except PatchError as error:
            reason = str(error)
    raise Unusable(f"no usable edit in {1 + REPAIRS} answers: {reason}")


def read(answer: Completion, own: Genome, program: Tree, base: Tree, benchmark: Benchmark) -> Genome:
    """The genome that an answer makes of its parent. Raises PatchError with what an editor would say."""
    found = edits.read(answer.text, program, benchmark.is_editable)
    words = {"hypothesis": found.hypothesis, "source": answer.model, "hint": found.hint}
    return own.with_patch(patch_between(own, base, found.tree, **words))
