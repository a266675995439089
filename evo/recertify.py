"""`python -m evo.run --certify DIR`: a run's best once more, on fresh seeds, then without each of its patches.

`--prove FILE...` does the same for patches that somebody brings: a run without a search. That is also how what one
profile found is tried on another.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.util import Finalize
from pathlib import Path

from evo import certify, inspect, library, operators, search, stats, worker
from evo.benchmark import UserMistake
from evo.events import Certified, Noted, Refuted
from evo.genome import Genome, Patch, PatchError
from evo.outcome import visible
from evo.rundir import RunDir

Say = Callable[[str], None]
Pair = tuple[str, str, str, int]  # candidate, rival, stage, number
CLEAR = 20.0  # E at which a patch has shown its benefit and its pairs may end early


@dataclass(frozen=True)
class Bench:
    """Who judges pairs: this process, or `count` others, each with a judge of its own and so with a seat at a GPU.

    Both sides of a pair are judged by one process, on one device. Evidence is looked at after each batch of `count`.
    """

    crew: worker.Worker
    count: int = 1
    pool: ProcessPoolExecutor | None = None
    allow_unisolated: bool = False

    def ready(self) -> None:
        """Opens a judge, so that the run knows which one it is: certificates of another are stale from here on."""
        if self.pool is None:
            self.crew.ready_judge()
        else:
            self.pool.submit(_joined, self.crew.run.path, self.allow_unisolated).result()
        self._look()

    def judge(self, pairs: Sequence[Pair]) -> None:
        if self.pool is None:
            for pair in pairs:
                self.crew.one_pair(*pair)
        else:
            path, allow = self.crew.run.path, self.allow_unisolated
            for waiting in [self.pool.submit(_judge_elsewhere, path, allow, pair) for pair in pairs]:
                waiting.result()
        self._look()

    def _look(self) -> None:
        self.crew.state.extend(self.crew.journals.new_entries())


_here: list[worker.Worker] = []  # the worker that this process of a pool is


def _joined(path: Path, allow_unisolated: bool) -> None:
    if not _here:
        _here.append(worker.join(RunDir(path), role="judge", minutes=None, allow_unisolated=allow_unisolated))
        Finalize(None, _here[0].close, exitpriority=10)  # processes of a pool leave without `atexit`
    _here[0].ready_judge()


def _judge_elsewhere(path: Path, allow_unisolated: bool, pair: Pair) -> None:
    _joined(path, allow_unisolated)
    _here[0].state.extend(_here[0].journals.new_entries())
    _here[0].one_pair(*pair)


@contextmanager
def bench(crew: worker.Worker, count: int, allow_unisolated: bool) -> Iterator[Bench]:
    if count < 2:
        yield Bench(crew)
        return
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        yield Bench(crew, count, pool, allow_unisolated)


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


def recertify(crew: worker.Worker, say: Say, hands: Bench | None = None) -> Certified | Refuted:
    """Certifies the best again, weighs each patch, and certifies the smaller genome if one did not pay."""
    hands = hands or Bench(crew)
    state = crew.state.extend(crew.journals.new_entries())
    hands.ready()
    best = state.champion() or max(state.stale().values(), key=lambda v: (v.low, v.genome), default=None)
    name = best.genome if best else next(iter(state.archive.ranking()), None)
    if name is None:
        raise UserMistake(f"{crew.run.path}: nothing to certify, no genome of this run has passed yet")
    return proved(crew, name, say, hands)


def proved(crew: worker.Worker, name: str, say: Say, hands: Bench) -> Certified | Refuted:
    state = crew.state
    verdict = certified_again(crew, name, say, hands)
    own = state.genome(name)
    if isinstance(verdict, Refuted) or len(own.patches) < 2:
        return verdict
    shares = [weigh(crew, own, patch, say, hands) for patch in own.patches]
    smaller = own
    for share in shares:
        if not share.pays and share.patch.name in smaller:
            smaller = smaller.without(share.patch.name)
    if smaller == own or not smaller.patches:
        return verdict
    register(crew, smaller, name)
    say(f"{len(own.patches) - len(smaller.patches)} patch(es) did not pay; certifying {smaller.name} without them")
    return certified_again(crew, smaller.name, say, hands)


def certified_again(crew: worker.Worker, name: str, say: Say, hands: Bench | None = None) -> Certified | Refuted:
    """Fresh pairs against the base in a round of their own, whose seeds no search has seen."""
    state, hands = crew.state, hands or Bench(crew)
    number = 1 + max([*state.rounds, *(key[0] for key in state.verdicts), -1])
    stage, rival = f"certify{number}-{name}", state.base.name
    while (number, name) not in state.verdicts:
        done = len(state.pairs(stage, name, rival))
        if facts := crew.decided(search.Pair(number, name, rival, stage, done), left=2 * certify.MAX_PAIRS):
            crew.journal.append(*facts)
            state.extend(crew.journals.new_entries())
        else:
            hands.judge([(name, rival, stage, k) for k in range(done, min(done + hands.count, certify.MAX_PAIRS))])
    verdict = state.verdicts[number, name][1]
    say(inspect.verdict_line(state, verdict))
    return verdict


def weigh(crew: worker.Worker, own: Genome, patch: Patch, say: Say, hands: Bench | None = None) -> Share:
    """Pairs of the genome with and without one patch: at least two, at most LEAVE_OUT_PAIRS."""
    state, hands = crew.state, hands or Bench(crew)
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
        if crew.clock() >= crew.deadline:
            break
        ahead = range(len(pairs), min(len(pairs) + hands.count, certify.LEAVE_OUT_PAIRS))
        hands.judge([(own.name, rival.name, stage, k) for k in ahead])
        pairs = state.pairs(stage, own.name, rival.name)
        differences = certify.differences_of(pairs, state.objective)
        if len(pairs) >= 2 and not differences:
            break  # the genome does not even pass without the patch, or the device changed under us
        if len(differences) >= 2 and stats.e_value(differences, *spread.of(differences)) >= CLEAR:
            break
    if len(pairs) < 2 and crew.clock() >= crew.deadline:
        say(f"  {patch.name}: not weighed, the time is up; kept: {patch.hypothesis}")
        return Share(patch, len(pairs), math.inf, -math.inf, math.inf)
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
    regions = crew.benchmark.regions
    crew.journal.append(search.introduced(state, smaller, program, regions, (-1, number), operator, parent))
    state.extend(crew.journals.new_entries())


def main(directory: Path, found: argparse.Namespace) -> int:
    crew = worker.join(
        RunDir(directory.resolve()), role="judge", minutes=found.minutes, allow_unisolated=found.allow_unisolated
    )
    return _prove(crew, found, lambda say, hands: recertify(crew, say, hands))


def prove(found: argparse.Namespace) -> int:
    """Certifies patches that somebody brings, together, and weighs each of them; the run directory holds no search."""
    from evo.run import prepared

    patches = tuple(library.patch_of(Path(file)) for file in found.prove)  # first: a mistake leaves no directory
    directory, benchmark, _ = prepared(found)
    own = Genome(benchmark.base_hash, patches)
    crew = worker.join(directory, role="judge", minutes=found.minutes, allow_unisolated=found.allow_unisolated)

    def proof(say: Say, hands: Bench) -> Certified | Refuted:
        state = crew.state.extend(crew.journals.new_entries())
        try:
            operators.admitted(own, benchmark, state.program, crew.bounds)
            register(crew, own, state.base.name, "by hand")
        except PatchError as error:
            raise UserMistake(
                f"--prove: these patches together cannot be judged on {benchmark.name}: {error}"
            ) from None
        hands.ready()
        return proved(crew, own.name, say, hands)

    return _prove(crew, found, proof)


def _prove(crew: worker.Worker, found: argparse.Namespace, proof: Callable[[Say, Bench], Certified | Refuted]) -> int:
    from evo import record, report
    from evo.run import EXIT_INTERRUPTED, save_best

    def say(text: str) -> None:
        print(visible(text), file=sys.stderr, flush=True)

    try:
        with bench(crew, found.workers or 1, found.allow_unisolated) as hands:
            verdict = proof(say, hands)
        if isinstance(verdict, Certified):
            record.attempt(crew, verdict, say)
        save_best(crew.state, crew.run, crew.benchmark)
        print(visible(inspect.table(crew.state, crew.benchmark, crew.benchmark.profile(crew.run.settings().profile))))
        champion = crew.state.champion()
        if champion is not None and champion.genome != verdict.genome:
            say(f"the table tells of the champion of {crew.run.path}, not of {verdict.genome}, which was just tried")
        say(f"the same as a page: {report.write([crew.run.path], None)}")
    except KeyboardInterrupt:
        say("interrupted; what was judged is kept in the run's journal")
        return EXIT_INTERRUPTED
    finally:
        crew.close()
    return 0
