"""Operators: from parents and context to a proposal. Each is one file; the mix and the registry are here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from deap import base as deap_base

from evo import audit, cards, select, syntax
from evo.archive import Archive
from evo.benchmark import Audit, Benchmark
from evo.chance import Chance
from evo.events import Call, Proposed, Reflected, Rejected, Slotted
from evo.genome import Genome, PatchError, Tree, parse_diff
from evo.llm import Completion, Slot
from evo.operators import bundle, crossover, polish, sweep, transplant, written
from evo.operators.scene import Draft, Scene
from evo.operators.written import Ask, Unusable
from evo.recording import Recording

# shares of proposals without a model: transplant takes improve's and mutate's part (.52 + .16)
MIX: Mapping[str, float] = {"transplant": 0.68, "crossover": 0.14, "sweep": 0.11, "bundle": 0.07}
# what a model does of transplant's part where there is one
WRITTEN: Mapping[str, float] = {"improve": 0.52 / 0.68, "mutate": 0.16 / 0.68}
REFLECT_EVERY = 12  # slots of a thread; the last of them asks what the attempts teach
REFLECT_AFTER = 6  # evaluated genomes
OPERATORS: Mapping[str, Callable[[Scene, str], Draft | None]] = {
    "transplant": transplant.propose,
    "crossover": crossover.propose,
    "sweep": sweep.propose,
    "bundle": bundle.propose,
    "polish": polish.propose,
}


@dataclass(frozen=True)
class Control:
    """A comparison run shares every line with the search but the one choice that names it."""

    mix: Mapping[str, float]
    parents: str = "front"  # or base, best, latest, uniform
    library: bool = True


CONTROLS: Mapping[str, Control] = {
    "best-of-n": Control({"transplant": 0.75, "bundle": 0.25}, parents="base"),
    "greedy": Control(MIX, parents="best"),
    "latest": Control(MIX, parents="latest"),
    "uniform": Control(MIX, parents="uniform"),
    "sweep-only": Control({"polish": 1.0}, parents="base"),
    "no-crossover": Control({k: v for k, v in MIX.items() if k != "crossover"}),
    "no-library": Control({"sweep": 0.8, "crossover": 0.2}, library=False),
    "no-novelty": Control(MIX),
    "aa": Control(MIX),
}


def mix_of(control: str | None, writes: bool = False) -> Mapping[str, float]:
    """The operators' shares. Where a model `writes`, it takes transplant's; the library serves bundles alone then."""
    mix = CONTROLS[control].mix if control else MIX
    if not writes or "polish" in mix:
        return mix
    if "transplant" not in mix:
        mix = MIX  # the control without a library; with a model its mix is the search's own
    written_by_model = {name: share * mix["transplant"] for name, share in WRITTEN.items()}
    return {**written_by_model, **{name: share for name, share in mix.items() if name != "transplant"}}


@lru_cache
def toolbox(control: str | None) -> deap_base.Toolbox:
    """DEAP's registry: what a step of the search calls by name, so that a control replaces one entry."""
    box = deap_base.Toolbox()
    choice = CONTROLS[control] if control else Control(MIX)
    for name, operator in OPERATORS.items():
        box.register(name, operator)
    box.register("select", PARENTS[choice.parents])
    return box


def _base(archive: Archive, chance: Chance, novelty: float) -> Iterator[str]:
    yield archive.base


def _best(archive: Archive, chance: Chance, novelty: float) -> Iterator[str]:
    yield from archive.front()


def _latest(archive: Archive, chance: Chance, novelty: float) -> Iterator[str]:
    yield from reversed([m.name for m in archive.members() if (m.scores or m.name == archive.base) and not m.barred])


def _uniform(archive: Archive, chance: Chance, novelty: float) -> Iterator[str]:
    names = [archive.base, *archive.elites().values()]
    while names:
        name = chance.pick("parent", names)
        names.remove(name)
        yield name


PARENTS: Mapping[str, Callable[[Archive, Chance, float], Iterator[str]]] = {
    "front": select.parents,
    "base": _base,
    "best": _best,
    "latest": _latest,
    "uniform": _uniform,
}


@dataclass
class Writing:
    """A slot that waits for a model's answer to `ask`."""

    operator: str
    parents: tuple[str, ...]
    slot: tuple[int, int]  # thread, number
    steps: Generator[Ask, Completion, Draft | tuple[str, ...]]
    ask: Ask
    calls: list[Call] = field(default_factory=list)

    def answered(self, answer: Completion) -> Ask | Draft | tuple[str, ...]:
        """Takes an answer; gives the next call, the draft, or hypotheses. Raises Unusable after the last try."""
        try:
            self.ask = self.steps.send(answer)
        except StopIteration as end:
            found: Draft | tuple[str, ...] = end.value
            return found
        return self.ask


def propose(
    scene: Scene, benchmark: Benchmark, box: deap_base.Toolbox, mix: Mapping[str, float], writes: bool = False
) -> Proposed | Rejected | Writing:
    """One proposal: an operator by its share, a parent, a draft; other operators where the first has nothing left.

    Where a model `writes`, it is also asked for crossovers that meet in the same lines, and for bundles.
    """
    for operator in _ordered(scene.chance, mix):
        parents: Iterator[str] = box.select(scene.archive, scene.chance, scene.novelty)
        if writes and (first := next(parents, None)) is not None:
            parents = itertools.chain([first], parents)
            mate = crossover.conflict(scene, first) if operator == "crossover" else None
            if mate is not None:
                return write(scene, benchmark, operator, first, mate)
            if operator in ("improve", "mutate") or (operator == "bundle" and cards.lost_alone(scene.cards)):
                return write(scene, benchmark, operator, first)
        if operator in ("improve", "mutate"):
            continue
        if operator in ("transplant", "bundle") and not scene.library:
            continue
        for parent in parents:
            draft = getattr(box, operator)(scene, parent)
            if draft is not None:
                return settle(scene, benchmark, operator, draft)
    return Rejected(scene.chance.thread, scene.chance.number, "none", (), "nothing left to propose")


def write(scene: Scene, benchmark: Benchmark, task: str, *parents: str, trouble: str = "") -> Writing:
    """Begins a proposal by a model."""
    steps = written.propose(task, scene, benchmark, parents, trouble)
    return Writing(task, parents, (scene.chance.thread, scene.chance.number), steps, next(steps))


def reflects(scene: Scene) -> bool:
    """True for the slots in which a thread looks back instead of proposing."""
    return scene.chance.number % REFLECT_EVERY == REFLECT_EVERY - 1 and len(scene.cards) >= REFLECT_AFTER


def reflect(scene: Scene, benchmark: Benchmark) -> Writing:
    steps = written.reflect(scene, benchmark)
    return Writing("reflect", (), (scene.chance.thread, scene.chance.number), steps, next(steps))


def replay(scene: Scene, benchmark: Benchmark, recording: Recording) -> Slotted:
    """What a recorded search proposed in this slot: with the recorded parents, and the answers read anew.

    Where this version reads an answer as another edit than the one that recorded it, the recorded patch counts.
    """
    slot = scene.chance.thread, scene.chance.number
    event = recording.proposals.get(slot)
    if event is None:
        return Rejected(*slot, "none", (), "the recording holds no further proposal")
    if isinstance(event, Reflected):
        return replace(event, usd=0.0, calls=_free(event.calls))
    if isinstance(event, Rejected):
        # a slot that found nothing must not end the replay, which goes on where the recorded search went on
        operator = "pause" if event.operator == "none" else event.operator
        return replace(event, operator=operator, usd=0.0, calls=_free(event.calls))
    own = _reread(scene, benchmark, recording, event) or recording.genome(event.genome)
    found = settle(replace(scene, novel=False), benchmark, event.operator, Draft(event.parents, own))
    return replace(found, calls=_free(event.calls))


def _free(calls: tuple[Call, ...]) -> tuple[Call, ...]:
    """Recorded calls with their tokens; played back they cost nothing."""
    return tuple(replace(call, usd=0.0) for call in calls)


def _reread(scene: Scene, benchmark: Benchmark, recording: Recording, event: Proposed) -> Genome | None:
    """The recorded genome as the recorded answers give it; None where they give another one now."""
    parent = recording.program_parent(event.parents[0])
    program = scene.build(parent)
    attempt = 0
    while (answer := recording.answers.get(Slot(event.thread, event.number, attempt).name)) is not None:
        try:
            found = written.read(answer, parent, program, scene.base, benchmark, event.operator == "bundle")
        except PatchError:
            attempt += 1
            continue
        return found if found.name == event.genome else None
    return None


def settle(scene: Scene, benchmark: Benchmark, operator: str, draft: Draft) -> Proposed | Rejected:
    """Turns a draft into an event: it is built, looked at and compared with everything tried before."""
    slot = scene.chance.thread, scene.chance.number
    patches = tuple(patch.name for patch in draft.genome.patches)
    try:
        program = admitted(draft.genome, benchmark, scene.build, scene.bounds)
    except PatchError as error:
        return Rejected(*slot, operator, draft.parents, str(error), patches)
    identity, seedless = syntax.identity(program), syntax.identity(program, ignore_seeds=True)
    if scene.novel and (objection := scene.tried.objection(patches, identity, seedless)):
        return Rejected(*slot, operator, draft.parents, objection, patches)
    return Proposed(
        *slot,
        operator,
        draft.parents,
        draft.genome.name,
        patches,
        tuple(patch for patch in draft.genome.patches if patch.name not in scene.known),
        syntax.category(benchmark.base, program, benchmark.regions),
        syntax.footprint(benchmark.base, program).label,
        identity,
        seedless,
    )


def admitted(genome: Genome, benchmark: Benchmark, build: Callable[[Genome], Tree], bounds: Audit) -> Tree:
    """A genome's program, whoever brought its patches; PatchError with the reason where it is refused unjudged."""
    for path in dict.fromkeys(path for patch in genome.patches for path in parse_diff(patch.diff)):
        if not benchmark.is_editable(path):
            raise PatchError(f"{path} may not be changed; editable are {', '.join(benchmark.editable)}")
    program = build(genome)
    try:
        for path, text in program.items():
            if path.endswith(".py"):
                syntax.check(text, path)
    except (SyntaxError, ValueError) as error:
        raise PatchError(f"does not parse: {error}") from error
    if refused := audit.screen(program, benchmark.base, bounds):
        raise PatchError(refused)
    return program


def _ordered(chance: Chance, mix: Mapping[str, float]) -> Iterator[str]:
    """All operators, the first drawn by its share and then the next from the rest."""
    left = dict(sorted(mix.items()))
    while left:
        name = chance.pick(("operator", len(mix) - len(left)), list(left), list(left.values()))
        del left[name]
        yield name


__all__ = [
    "CONTROLS", "Ask", "Control", "Draft", "Scene", "Tree", "Unusable", "Writing", "admitted", "mix_of", "propose",
    "reflect", "reflects", "replay", "settle", "toolbox", "write",
]  # fmt: skip
