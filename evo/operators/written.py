"""Patches written by a language model: improve a parent, mutate its mechanism, repair what failed."""

from __future__ import annotations

from evo import cards, edits, prompts
from evo.benchmark import Benchmark
from evo.genome import PatchError, diff_trees, patch_between
from evo.llm import Model, ModelError, Prompt, Slot, ask
from evo.operators.scene import Draft, Scene

REPAIRS = 2  # further calls when an edit does not apply


class Unusable(Exception):
    """The model answered, but not with an edit that fits; the message is the reason."""


def propose(task: str, scene: Scene, benchmark: Benchmark, model: Model, parent: str, trouble: str = "") -> Draft:
    """Asks for one edit of the parent's program, and for its correction where it does not apply.

    Raises ModelError where no answer came and Unusable where none fitted; both cost what they cost.
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
        if not scene.ticket():
            raise ModelError("the cap on calls is reached")
        answer = ask(model, Prompt(stable, text + retry), Slot(scene.chance.thread, scene.chance.number, attempt))
        try:
            found = edits.read(answer.text, program, benchmark.is_editable)
            words = {"hypothesis": found.hypothesis, "source": answer.model, "hint": found.hint}
            patch = patch_between(own, scene.base, found.tree, **words)
        except PatchError as error:
            reason = str(error)
            continue
        return Draft((parent,), own.with_patch(patch))
    raise Unusable(f"no usable edit in {1 + REPAIRS} answers: {reason}")
