"""Patches written by a language model: one edit of a parent, or hypotheses about what to try."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from evo import cards, edits, prompts
from evo.benchmark import Benchmark
from evo.cards import Card
from evo.chronicle import recipe
from evo.genome import Genome, PatchError, Tree, diff_trees, patch_between
from evo.llm import Completion, Prompt, Slot
from evo.operators.scene import Draft, Scene
from evo.prompts import Shown

TASKS = ("improve", "mutate", "repair", "crossover", "bundle")
REPAIRS = 2  # further calls when an edit does not apply
LOSERS = 3  # patches that lost alone, shown in full where two changes are asked for


class Unusable(Exception):
    """The model answered, but not with something that can be used; the message is the reason."""


@dataclass(frozen=True)
class Ask:
    """A call that a proposal needs before it can go on."""

    task: str
    prompt: Prompt
    slot: Slot


def propose(
    task: str, scene: Scene, benchmark: Benchmark, parents: tuple[str, ...], trouble: str = ""
) -> Generator[Ask, Completion, Draft]:
    """Asks for one edit of the first parent's program, and for its correction where it does not apply.

    Yields the calls to be made and takes their answers; who calls, and when, is the caller's business. Raises
    Unusable where no answer fitted; what was answered costs what it costs.
    """
    own = scene.genome(parents[0])
    program = scene.build(own)
    text = request(task, scene, parents, trouble)
    stable, record = prompts.prefix(benchmark, scene.rules), prompts.record(scene.chronicle, scene.earlier)
    retry = reason = ""
    for attempt in range(1 + REPAIRS):
        slot = Slot(scene.chance.thread, scene.chance.number, attempt)
        answer = yield Ask(task, Prompt(stable, text + retry, record), slot)
        try:
            return Draft(parents, read(answer, own, program, scene.base, benchmark, task == "bundle"))
        except PatchError as error:
            reason = str(error)
            retry = prompts.again(reason, answer.text, _diff(scene, own))
    raise Unusable(f"no usable edit in {1 + REPAIRS} answers: {reason}")


def reflect(scene: Scene, benchmark: Benchmark) -> Generator[Ask, Completion, tuple[str, ...]]:
    """Asks what the attempts so far teach; gives hypotheses, one line each."""
    slot = Slot(scene.chance.thread, scene.chance.number)
    text = request("reflect", scene, (scene.archive.base,), "")
    prompt = Prompt(prompts.prefix(benchmark, scene.rules), text, prompts.record(scene.chronicle, scene.earlier))
    answer = yield Ask("reflect", prompt, slot)
    found = edits.hypotheses(answer.text)
    if not found:
        raise Unusable("no line `Hypothesis: ...` in the answer")
    return found


def request(task: str, scene: Scene, parents: tuple[str, ...], trouble: str) -> str:
    """This proposal's own part of the prompt."""
    own, *mates = (scene.genome(parent) for parent in parents)
    known = {card.genome: card for card in scene.cards}
    mine = [known[parent] for parent in parents if parent in known]
    chosen = cards.chosen(task, scene.cards, mine, scene.chance.thread)
    partners = [("The second change", _shown(scene, mate, known.get(mate.name))) for mate in mates]
    if task == "bundle":
        losers = [card for card in cards.lost_alone(chosen) if not card.patches & own.names][:LOSERS]
        partners = [("A change that lost alone", _shown(scene, scene.genome(card.genome), card)) for card in losers]
    return prompts.request(
        task,
        program=_shown(scene, own, known.get(parents[0])),
        chosen=chosen,
        chronicle=scene.chronicle,
        partners=partners,
        hypotheses=scene.hypotheses,
        leaning=prompts.taste(scene.chance.thread),
        trouble=trouble,
        said="" if trouble else scene.said(parents[0]),
        standing=scene.standing,
    )


def read(
    answer: Completion, own: Genome, program: Tree, base: Tree, benchmark: Benchmark, several: bool = False
) -> Genome:
    """The genome that an answer makes of its parent. Raises PatchError with what an editor would say.

    Of `several` changes, each after a hypothesis of its own, each becomes a patch, so that one may be left out later.
    """
    if answer.cut:
        raise PatchError("the answer reached its limit of tokens and was cut off; answer more briefly")
    for text in edits.changes(answer.text) if several else [answer.text]:
        found = edits.read(text, program, benchmark.is_editable)
        words = {"hypothesis": found.hypothesis, "source": answer.model, "hint": found.hint}
        own, program = own.with_patch(patch_between(own, base, found.tree, **words)), found.tree
    return own


def _diff(scene: Scene, own: Genome) -> str:
    return diff_trees(scene.base, scene.build(own))


def _shown(scene: Scene, own: Genome, card: Card | None) -> Shown:
    """A program by the numbers of its changes; where one of them was not told in full, also as one diff."""
    if not own.patches:
        return Shown("The base.")
    known, number = scene.chronicle, scene.chronicle.genomes.get(own.name)
    gave = card.described if card else "not measured"
    if number is None or not own.names <= known.patches.keys():
        return Shown(f"{'A program' if number is None else f'G{number}'} ({gave})", _diff(scene, own))
    return Shown(f"G{number} = {recipe(own.patches, known.numbers)} ({gave})")
