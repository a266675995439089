"""`python -m evo.run --certify DIR`: a run's best once more, on fresh seeds, then without each of its patches."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evo import certify, inspect, search, stats, syntax, worker
from evo.benchmark import UserMistake
from evo.events import Certified, Noted, Proposed, Refuted
from evo.genome import Genome, Patch, PatchError
from evo.rundir import RunDir

Say = Callable[[str], None]
CLEAR = 20.0  # E at which a patch has shown its benefit and its pairs may end early


@dataclass(frozen=True)
class Share:
    """What one patch contributes to a genome: the paired gain of the genome over itself without the patch."""

    patch: Patch
    pairs: int
    benefit: float
    low: float
    high: float

    @property
    def pays(self) -> bool:
        return self.benefit > 0


def recertify(crew: worker.Worker, say: Say) -> Certified | Refuted:
    """Certifies the best again, weighs each patch, and certifies the smaller genome if one did not pay."""
    state = crew.state.extend(crew.journals.new_entries())
    crew.ready_judge()  # says which judge this is: certificates of another are stale from here on
    state.extend(crew.journals.new_entries())
    best = state.champion() or max(state.stale().values(), key=lambda v: (v.low, v.genome), default=None)
    name = best.genome if best else next(iter(state.archive.ranking()), None)
    if name is None:
        raise UserMistake(f"{crew.run.path}: nothing to certify, no genome of this run has passed yet")
    verdict = certified_again(crew, name, say)
    own = state.genome(name)
    if isinstance(verdict, Refuted) or len(own.patches) < 2:
        return verdict
    shares = [weigh(crew, own, patch, say) for patch in own.patches]
    smaller = own
    for share in shares:
        if not share.pays and share.patch.name in smaller:
            smaller = smaller.without(share.patch.name)
    if smaller == own or not smaller.patches:
        return verdict
    register(crew, smaller, name)
    say(f"{len(own.patches) - len(smaller.patches)} patch(es) did not pay; certifying {smaller.name} without them")
    return certified_again(crew, smaller.name, say)


def certified_again(crew: worker.Worker, name: str, say: Say) -> Certified | Refuted:
    """Fresh pairs against the base in a round of their own, whose seeds no search has seen."""
    state = crew.state
    number = 1 + max([*state.rounds, *(key[0] for key in state.verdicts), -1])
    while (number, name) not in state.verdicts:
        step = search.Pair(number, name, state.base.name, f"certify{number}-{name}", 0)
        crew.advance(step, left=2 * certify.MAX_PAIRS)
    verdict = state.verdicts[number, name][1]
    say(inspect.verdict_line(state, verdict))
    return verdict


def weigh(crew: worker.Worker, own: Genome, patch: Patch, say: Say) -> Share:
    """Pairs of the genome with and without one patch: at least two, at most LEAVE_OUT_PAIRS."""
    state = crew.state
    rival = own.without(patch.name)
    try:
        state.program(rival)
    except PatchError as error:
        say(f"  {patch.name}: cannot be left out alone ({error}); kept: {patch.hypothesis}")
        return Share(patch, 0, math.inf, math.inf, math.inf)
    if rival.patches:
        register(crew, rival, own.name)
    stage = f"leave{len(state.verdicts)}-{own.name}-{patch.name}"
    number = 1 + max([key[0] for key in state.verdicts], default=-1)
    spread = state.spread(number, own.name)
    differences: list[float] = []
    pairs: list[certify.PairResult] = []
    while len(pairs) < certify.LEAVE_OUT_PAIRS and not state.given_up(stage, len(pairs), own.name, rival.name):
        crew.one_pair(own.name, rival.name, stage, len(pairs))
        pairs = state.pairs(stage, own.name, rival.name)
        differences = certify.differences_of(pairs, state.objective)
        if len(pairs) >= 2 and not differences:
            break  # the genome does not even pass without the patch, or the device changed under us
        if len(differences) >= 2 and stats.e_value(differences, *spread.of(differences)) >= CLEAR:
            break
    if not differences:
        share = Share(patch, 0, math.inf, math.inf, math.inf)
        say(f"  {patch.name}: the genome does not pass without it; kept: {patch.hypothesis}")
        return share
    low, high = stats.interval(differences, *spread.of(differences))
    share = Share(patch, len(differences), stats.mean(differences), low, high)
    described = state.objective.describe
    line = (
        f"{patch.name}: worth {described(share.benefit)} [{described(low)}, {described(high)}] in {share.pairs} pairs"
    )
    say(f"  {line}, {'kept' if share.pays else 'dropped'}: {patch.hypothesis}")
    crew.journal.append(Noted(f"leave-one-out of {own.name}: {line}"))
    return share


def register(crew: worker.Worker, smaller: Genome, parent: str, operator: str = "simplify") -> None:
    """Makes a genome that no search proposed a fact of the run; it is certified or timed, never screened."""
    state = crew.state
    if smaller.name in state.proposals:
        return
    program = state.program(smaller)
    number = 1 + max([key[1] for key in state.slots if key[0] == -1], default=-1)
    crew.journal.append(
        Proposed(
            -1,
            number,
            operator,
            (parent,),
            smaller.name,
            tuple(patch.name for patch in smaller.patches),
            tuple(patch for patch in smaller.patches if patch.name not in state.patches),
            syntax.category(state.base_tree, program, crew.benchmark.regions),
            syntax.footprint(state.base_tree, program).label,
            syntax.identity(program),
            syntax.identity(program, ignore_seeds=True),
        )
    )
    state.extend(crew.journals.new_entries())


def main(directory: Path, allow_unisolated: bool) -> int:
    from evo import record
    from evo.run import save_best

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    run = RunDir(directory.resolve())
    crew = worker.join(run, role="judge", minutes=None, allow_unisolated=allow_unisolated)
    try:
        verdict = recertify(crew, say)
        if isinstance(verdict, Certified):
            record.attempt(crew, verdict, say)
        save_best(crew.state, run, crew.benchmark)
        print(inspect.table(crew.state, crew.benchmark, crew.benchmark.profile(run.settings().profile)))
    finally:
        crew.close()
    return 0
