"""The state of a search as a fold over its events, and what is to be done next in it."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from evo import certify, chance, genome, stats, syntax
from evo.archive import Archive, Member
from evo.benchmark import Benchmark, Objective
from evo.cards import Card, one_line
from evo.chronicle import Lesson, Trial
from evo.events import (
    Budgeted,
    Certified,
    Entry,
    Evaluated,
    Lost,
    Marked,
    Noted,
    Proposed,
    Quarantined,
    Recorded,
    Reflected,
    Refuted,
    Rejected,
    Slotted,
    Started,
    Stopped,
    Task,
)
from evo.genome import Genome, Patch, Tree
from evo.novelty import Tried
from evo.outcome import Outcome, Status
from evo.rundir import RunSettings

LOST_LIMIT = 3  # a task that we failed to judge this often is given up
UNSCREENED = ("simplify", "record")  # operators whose genomes go straight to certification or to the record rule
# Repairs of one genome that a model wrote and the judge refused. A time-out costs the whole of its limit each time.
REPAIRS = {Status.CRASHED: 2, Status.WRONG: 2, Status.TIMEOUT: 1}
GENOMES = 256  # kept as objects; the front's come up again and again, the rest is made anew from its patches
AT_ONCE = 32  # slots of one thread that may be in the making at once
SHORT = 300  # evaluations; shorter runs validate once, at the end, with fewer finalists


# --- steps: what a worker can do -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judge:
    task: Task


@dataclass(frozen=True)
class Prepare:
    """A genome that waits for its screen may be compiled while the base is still being judged."""

    genome: str


@dataclass(frozen=True)
class Pair:
    """One pair of a certification, or the verdict if the pairs so far decide."""

    round: int
    candidate: str
    rival: str  # the base; in a leave-one-out the genome without the patch
    stage: str
    k: int


@dataclass(frozen=True)
class OpenRound:
    round: int
    reason: str
    covers: int


@dataclass(frozen=True)
class Propose:
    thread: int
    number: int


@dataclass(frozen=True)
class Done:
    reason: str


Step = Judge | Prepare | Pair | OpenRound | Propose | Done


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """What differs between two provenances, in words."""
    found = [
        f"{key} {before.get(key, 'none')}, now {after.get(key, 'none')}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]
    return "; ".join(text if len(text) < 160 else text[:157] + "..." for text in found)


def introduced(
    state: State,
    own: Genome,
    program: Tree,
    regions: Mapping[str, Sequence[str]],
    slot: tuple[int, int],
    operator: str,
    parent: str,
) -> Proposed:
    """The fact that makes a genome part of a run although none of its lines of research proposed it."""
    return Proposed(
        *slot,
        operator,
        (parent,),
        own.name,
        tuple(patch.name for patch in own.patches),
        tuple(patch for patch in own.patches if patch.name not in state.patches),
        syntax.category(state.base_tree, program, regions),
        syntax.footprint(state.base_tree, program).label,
        syntax.identity(program),
        syntax.identity(program, ignore_seeds=True),
    )


def _failure(outcome: Outcome) -> str:
    """A status and the last line of its reason."""
    return one_line(f"{outcome.status.value}: {outcome.detail.strip().rpartition(chr(10))[2][:160]}")


def _raw(measures: Mapping[str, float]) -> str:
    """What a score was made of: one percentage does not say whether a change learnt more or took less time."""
    return "".join(f", {key} {measures[key]:.4g}" for key in ("seconds", "loss") if key in measures)


def _when(item: tuple[float, tuple[str, int], Started]) -> tuple[float, tuple[str, int]]:
    return item[0], item[1]


# --- the fold ------------------------------------------------------------------------------------------------------


class State:
    """Everything known about a run. It depends on the set of entries only, not on their order."""

    def __init__(self, settings: RunSettings, benchmark: Benchmark) -> None:
        self.settings = settings
        self.objective: Objective = benchmark.objective
        self.trust = benchmark.trust  # an outcome of any other is no part of this run
        self.base_tree: Tree = benchmark.base
        self.base = Genome(settings.base)
        self.patches: dict[str, Patch] = {}
        self.slots: dict[tuple[int, int], tuple[tuple[str, int], Slotted]] = {}
        self.proposals: dict[str, Proposed] = {}  # by genome; the smallest (thread, number) names it
        self.outcomes: dict[Task, tuple[tuple[str, int], Evaluated]] = {}
        self.losses: dict[Task, int] = {}
        self.rounds: dict[int, tuple[tuple[str, int], Budgeted]] = {}
        self.verdicts: dict[tuple[int, str], tuple[tuple[str, int], Certified | Refuted]] = {}
        self.records: dict[tuple[str, int], Recorded] = {}
        self.quarantined: dict[str, tuple[tuple[str, int], str]] = {}
        self.marks: dict[str, dict[str, tuple[float, tuple[str, int]]]] = {}
        self.starts: list[tuple[tuple[str, int], float, Started]] = []
        self._judges: dict[str, tuple[float, tuple[str, int], Started]] = {}  # the newest of each device
        self.notes: list[tuple[tuple[str, int], float, str]] = []
        self.stops: list[tuple[tuple[str, int], float, str]] = []
        self.first_at = math.inf
        self.last_at = -math.inf
        self.usd = 0.0
        self.seconds = 0.0
        self.lost = 0
        self.loss_reason = ""
        self._open: dict[str, None] = {}  # genomes that wait for their screen
        self._next: dict[int, int] = {}
        self._filled: dict[int, int] = {}  # by thread: every slot below holds a proposal
        self._genomes: dict[str, Genome] = {}
        self._told: dict[tuple[int, int] | str, tuple[float, tuple[str, int]]] = {}  # when a screen or reflection came
        self._closed: set[int] = set()  # rounds whose verdicts are given, so that they are not played through again
        self._rejected = 0
        self._screened = 0
        self._refold()

    # how entries come in

    def extend(self, entries: Iterable[Entry]) -> State:
        for entry in entries:
            self.first_at, self.last_at = min(self.first_at, entry.at), max(self.last_at, entry.at)
            self._take(entry)
        return self

    def _take(self, entry: Entry) -> None:
        event, place = entry.event, entry.place
        if isinstance(event, Reflected) or (isinstance(event, Evaluated) and event.task.stage == "screen"):
            what = (event.thread, event.number) if isinstance(event, Reflected) else event.task.genome
            self._told[what] = min((entry.at, place), self._told.get(what, (math.inf, place)))
        match event:
            case Proposed() | Rejected() | Reflected():
                self._take_proposal(event, place)
            case Evaluated():
                # What fails to run says nothing of how far its metric can be trusted.
                if event.outcome.score is None or event.outcome.trust == self.trust:
                    self._take_outcome(event, place)
            case Lost():
                self.losses[event.task] = self.losses.get(event.task, 0) + 1
                self.lost += 1
                self.loss_reason = event.reason
                if self.losses[event.task] >= LOST_LIMIT and event.task.stage == "screen":
                    self._open.pop(event.task.genome, None)
            case Budgeted():
                if event.round not in self.rounds or place < self.rounds[event.round][0]:
                    self.rounds[event.round] = place, event
            case Certified() | Refuted():
                key = event.round, event.genome
                if key not in self.verdicts or place < self.verdicts[key][0]:
                    self.verdicts[key] = place, event
                    self._closed.discard(event.round)
                self._judge_member(event.genome)
            case Quarantined():
                found = place, event.reason
                self.quarantined[event.genome] = min(found, self.quarantined.get(event.genome, found))
                self._judge_member(event.genome)
            case Marked():
                known = self.marks.setdefault(event.genome, {})
                known[event.mark] = max(known.get(event.mark, (-math.inf, place)), (entry.at, place))
                self._judge_member(event.genome)
            case Recorded():
                self.records[place] = event
            case Started():
                self.starts.append((place, entry.at, event))
                newest = self._judges.get(event.device)
                self._judges[event.device] = max(
                    newest or (-math.inf, place, event), (entry.at, place, event), key=_when
                )
            case Noted():
                self.notes.append((place, entry.at, event.text))
            case Stopped():
                self.stops.append((place, entry.at, event.reason))

    def _take_proposal(self, event: Slotted, place: tuple[str, int]) -> None:
        slot = event.thread, event.number
        self.usd += event.usd
        self._next[event.thread] = max(self._next.get(event.thread, 0), event.number + 1)
        known = self.slots.get(slot)
        if isinstance(event, Proposed):
            for patch in event.new:
                self.patches[patch.name] = patch
        if known is not None and known[0] < place:
            return  # two workers wrote the same number: the smaller place counts
        self.slots[slot] = place, event
        if known is not None:
            self._refold()
            return
        self._register(event)

    def _register(self, event: Slotted) -> None:
        if isinstance(event, Rejected):
            self._rejected += 1
            if event.patches:
                self.tried.refuse(event.patches)
            return
        if isinstance(event, Reflected):
            return
        name = event.genome
        first = self.proposals.get(name)
        if first is not None:
            if (event.thread, event.number) < (first.thread, first.number):
                self._refold()  # parents, cell and offspring follow the proposal that names the genome
            return
        self.proposals[name] = event
        self.tried.add(name, event.patches, event.identity, event.seedless)
        cell = event.category, event.footprint
        self.archive.add(Member(name, cell, event.parents, crossover=event.operator == "crossover"))
        screen = Task(name, "screen")
        if event.operator not in UNSCREENED and screen not in self.outcomes and self.losses.get(screen, 0) < LOST_LIMIT:
            self._open[name] = None
        self._judge_member(name)
        for task in self._tasks_of.get(name, ()):
            self._score(task)

    def _take_outcome(self, event: Evaluated, place: tuple[str, int]) -> None:
        task = event.task
        known = self.outcomes.get(task)
        if known is not None and known[0] < place:
            return
        self.outcomes[task] = place, event
        if known is not None:
            self.seconds += event.seconds - known[1].seconds
            self._refold()
            return
        self.seconds += event.seconds
        self._tasks_of.setdefault(task.genome, []).append(task)
        if task.stage == "screen":
            self._open.pop(task.genome, None)
            self._screened += 1
        if task.stage == "base":
            self._refold()
        else:
            self._score(task)

    def _refold(self) -> None:
        """Builds what is derived anew; needed once the base mean is known and when a double is replaced."""
        noise = self.screen_sd / self.settings.typical_gain
        self.archive = Archive(self.base.name, noise * noise)
        self.tried = Tried(syntax.identity(self.base_tree), syntax.identity(self.base_tree, ignore_seeds=True))
        self.proposals, self._open, self._rejected = {}, {}, 0
        self._tasks_of: dict[str, list[Task]] = {}
        self.base_scores = self._base_scores()
        self.base_mean = self._base_mean()
        for task in self.outcomes:
            self._tasks_of.setdefault(task.genome, []).append(task)
        for slot in sorted(self.slots):
            self._register(self.slots[slot][1])

    def _base_scores(self) -> list[float]:
        tasks = (Task(self.base.name, "base", k) for k in range(self.settings.base_runs))
        found = (self.outcome(task) for task in tasks)
        scores = [outcome.score for outcome in found if outcome is not None and outcome.score is not None]
        return [score for score in scores if not self.objective.complaint(score)]

    def _score(self, task: Task) -> None:
        if task.genome not in self.archive or task.genome == self.base.name or self.base_mean is None:
            return
        outcome = self.outcomes[task][1].outcome
        if outcome.score is None:
            self._judge_member(task.genome)
        elif self.objective.complaint(outcome.score):
            return  # of a journal written before judges' scores were looked at
        elif task.stage == "screen" or task.stage.startswith("finalist"):
            self.archive.change(
                task.genome, score=(task.name, self.gain_in(task, outcome.score) / self.settings.typical_gain)
            )

    def _judge_member(self, name: str) -> None:
        if name in self.archive and name != self.base.name:
            marks = self.marks.get(name, {})
            barred = self.objection(name)
            if self.archive[name].barred != barred or self.archive[name].pinned != ("pin" in marks):
                self.archive.change(name, barred=barred, pinned="pin" in marks)

    # what is known

    def objection(self, name: str) -> str:
        """Why a genome may be no elite, or an empty text. Marks decide by their time, the later one wins."""
        marks = self.marks.get(name, {})
        latest = max(marks, key=lambda mark: marks[mark], default="")
        if latest in ("ban", "condemn"):
            return f"a person said {latest}"
        if name in self.quarantined and latest != "release":
            return f"in quarantine: {self.quarantined[name][1]}"
        for task in self._tasks_of.get(name, ()):
            outcome = self.outcomes[task][1].outcome
            if outcome.status not in (Status.PASSED, Status.LOST):
                return f"{outcome.status.value} at {task.stage}"
        if name not in self.archive:
            return ""
        verdicts = [verdict for _, verdict in self.verdicts_of(name)]
        latest_verdict = verdicts[-1] if verdicts else None
        if isinstance(latest_verdict, Refuted):
            if latest_verdict.high < 0:
                return "certification found it worse than the base"
            if any(isinstance(verdict, Certified) for verdict in verdicts) and not latest_verdict.spent:
                return "its certificate was not confirmed"
        return ""

    def doubts(self, name: str) -> list[str]:
        """Why a genome is to be read with care: what it was built on, by descent or patch for patch, has fallen."""
        fallen = {n for n in {*self.quarantined, *self.marks, *(n for _, n in self.verdicts)} if self._has_fallen(n)}
        found = []
        for other in sorted(fallen - {name}):
            own = {patch.name for patch in self.genome(name).patches}
            theirs = {patch.name for patch in self.genome(other).patches} if other in self.proposals else set()
            if other in self._ancestors(name) or (theirs and theirs < own):
                found.append(f"built on {other}: {self.objection(other)}")
        return found

    def _has_fallen(self, name: str) -> bool:
        """True for what was trusted once, or may be a cheat: a plain failure says nothing about its descendants."""
        objection = self.objection(name)
        return objection.startswith(("in quarantine", "a person said", "its certificate"))

    def _ancestors(self, name: str) -> set[str]:
        found: set[str] = set()
        pending = [name]
        while pending:
            proposal = self.proposals.get(pending.pop())
            new = [parent for parent in proposal.parents if parent not in found] if proposal else []
            found.update(new)
            pending.extend(new)
        return found

    def history(self) -> list[Trial | Lesson]:
        """Screens and reflections in the order of their writers' clocks: where two hosts' differ, so does only a text.

        No other order of a set of facts puts what is new behind what was told.
        """
        found: list[tuple[tuple[float, tuple[str, int]], Trial | Lesson]] = []
        for name in self.proposals:
            if Task(name, "screen") in self.outcomes:
                found.append((self._told[name], self._trial(name)))
        for slot, (_, event) in self.slots.items():
            if isinstance(event, Reflected):
                found.append((self._told[slot], Lesson(event.thread, event.hypotheses)))
        return [entry for _, entry in sorted(found, key=lambda item: item[0])]

    def _trial(self, name: str) -> Trial:
        outcome = self.outcomes[Task(name, "screen")][1].outcome
        usable = (
            outcome.score is not None and self.base_mean is not None and not self.objective.complaint(outcome.score)
        )
        gain = self.gain_in(Task(name, "screen"), outcome.score) if usable and outcome.score is not None else None
        told = _failure(outcome) if gain is None else self._interval([gain]) + _raw(outcome.measures)
        set_aside = self.objection(name).startswith(("in quarantine", "a person said"))
        return Trial(name, self.genome(name).patches, self.archive[name].cell, told, gain, set_aside)

    def cards(self) -> list[Card]:
        """What was tried so far, one card a genome, in the order of its proposals' numbers."""
        return [self._card(name) for name in self.proposals if Task(name, "screen") in self.outcomes]

    def _card(self, name: str) -> Card:
        proposal, describe = self.proposals[name], self.objective.describe
        patches = self.genome(name).patches
        outcome = self.outcomes[Task(name, "screen")][1].outcome
        verdicts = sorted(self.verdicts_of(name), key=lambda item: item[0])
        stage, gain = "screen", None
        told = _failure(outcome)
        if not self.objection(name) and outcome.score is not None:
            gain = self.archive.posterior(name) * self.settings.typical_gain
            told = self._measured(name)
        elif outcome.score is not None:
            told = "set aside"  # which bound it crossed is nothing to aim at
        if any(task.stage.startswith("finalist") for task in self._tasks_of.get(name, ())):
            stage = "finalist"
        if verdicts and name not in self.quarantined:
            last = verdicts[-1][1]
            stage = "certified" if isinstance(last, Certified) else "refuted"
            told = f"{describe(last.gain)} [{describe(last.low)}, {describe(last.high)}] over {last.pairs} pairs"
        return Card(
            genome=name,
            base=self.settings.base,
            cell=self.archive[name].cell,
            ideas=tuple(one_line(patch.hypothesis or patch.name) for patch in patches),
            patches=frozenset(patch.name for patch in patches),
            stage=stage,
            status=outcome.status.value,
            gain=gain,
            described=one_line(told),
            thread=proposal.thread,
        )

    def _measured(self, name: str) -> str:
        """The mean gain of a genome's scores with its 95% interval by the frozen noise."""
        return self._interval([score * self.settings.typical_gain for score in self.archive[name].scores.values()])

    def _interval(self, gains: Sequence[float]) -> str:
        mean, half = stats.mean(gains), 1.96 * self.screen_sd / math.sqrt(len(gains))
        describe = self.objective.describe
        runs = "1 run" if len(gains) == 1 else f"{len(gains)} runs"
        return f"{describe(mean)} [{describe(mean - half)}, {describe(mean + half)}] in {runs}"

    def hypotheses(self, thread: int) -> list[str]:
        """What models wrote down last: all of this thread's latest reflection, the first line of the others'."""
        latest: dict[int, Reflected] = {}
        for (where, _), (_, event) in sorted(self.slots.items()):
            if isinstance(event, Reflected):
                latest[where] = event
        others = [event.hypotheses[0] for where, event in sorted(latest.items()) if where != thread]
        return [*(latest[thread].hypotheses if thread in latest else ()), *others]

    def broken(self, without: Collection[str] = ()) -> tuple[str, str] | None:
        """A model's genome that failed its screen and was not repaired yet, with what the judge said of it."""
        repairs = (event for _, event in self.slots.values() if event.operator == "repair")
        attempts = Counter(parent for event in repairs for parent in event.parents)
        for name in reversed(self.proposals):
            proposal = self.proposals[name]
            outcome = self.outcome(Task(name, "screen"))
            if name in without or outcome is None or attempts[name] >= REPAIRS.get(outcome.status, 0):
                continue
            if proposal.calls and proposal.operator != "repair":
                return name, f"{outcome.status.value}: {outcome.detail}"
        return None

    def outcome(self, task: Task) -> Outcome | None:
        found = self.outcomes.get(task)
        return found[1].outcome if found else None

    def _base_mean(self) -> float | None:
        """The frozen mean of the first base runs; geometric where gains are ratios, so that they average to 0."""
        scores = self.base_scores
        if len(scores) < self.settings.base_runs:
            return None
        if self.objective.gain == "log-ratio":
            return math.exp(stats.mean([math.log(score) for score in scores]))
        return stats.mean(scores)

    def base_measures(self) -> dict[str, float]:
        """Means over the first base runs of whatever the judge measured in each of them."""
        tasks = (Task(self.base.name, "base", k) for k in range(self.settings.base_runs))
        found = [outcome.measures for task in tasks if (outcome := self.outcome(task)) is not None]
        return {key: stats.mean([each[key] for each in found]) for key in found[0] if all(key in m for m in found)}

    def standing(self) -> str:
        """What the base scores, and how far one run's gain scatters; empty before its runs are over."""
        if self.base_mean is None:
            return ""
        goal, means = self.objective, self.base_measures()
        scatter = goal.describe(self.screen_sd).lstrip("+")
        score = f"{self.base_mean:.4g} {goal.unit}{_raw(means)}"
        return f"The base scores {score}; the gain of one run scatters by {scatter} (1 sd)."

    def said(self, name: str) -> str:
        """What the judge added to a score: times a workload, the profiler's summary. Proofs' seeds are left out."""
        tasks = [task for task in self._tasks_of.get(name, ()) if task.stage in ("base", "screen")]
        outcomes = (self.outcomes[task][1].outcome for task in sorted(tasks))
        return next((outcome.detail for outcome in outcomes if outcome.score is not None and outcome.detail), "")

    def gain_of(self, thread: int, number: int) -> float | None:
        """The screened gain of a thread's proposal of this number; None if it was rejected, failed or is not judged."""
        slot = self.slots.get((thread, number))
        if slot is None or not isinstance(slot[1], Proposed) or self.base_mean is None:
            return None
        task = Task(slot[1].genome, "screen")
        outcome = self.outcome(task)
        return self.gain_in(task, outcome.score) if outcome is not None and outcome.score is not None else None

    def gain(self, score: float) -> float:
        assert self.base_mean is not None
        return self.objective.gain_over(self.base_mean, score)

    def twin(self, task: Task) -> int | None:
        """The base run whose seed a screen or a finalist shares, so that luck is no gain: where the table says that
        differences at one seed scatter less than single runs. A finalist gets other seeds than its screen had."""
        if not self.settings.paired or not task.stage.startswith(("screen", "finalist")):
            return None
        later = 0 if task.stage == "screen" else 1 + task.k
        return (chance.number("twin", task.genome) + later) % self.settings.base_runs

    def gain_in(self, task: Task, score: float) -> float:
        """The gain of one evaluation: over the base's run of that seed where it shares one, else over the mean."""
        twin = self.twin(task)
        return self.gain(score) if twin is None else self.objective.gain_over(self.base_scores[twin], score)

    @property
    def screen_sd(self) -> float:
        """How far the gain of one screen scatters."""
        return self.settings.pair_sd if self.settings.paired else self.settings.noise_sd

    @property
    def used(self) -> int:
        """Judged tasks, certification and base runs included; lost ones are free."""
        return len(self.outcomes)

    @property
    def waiting(self) -> int:
        """Proposed genomes that wait for their screen."""
        return len(self._open)

    @property
    def rejected(self) -> int:
        return self._rejected

    @property
    def screened(self) -> int:
        return self._screened

    def genome(self, name: str) -> Genome:
        """The genome of a name; raises KeyError for one that was never proposed here."""
        if name == self.base.name:
            return self.base
        if name not in self._genomes:
            patches = tuple(self.patches[patch] for patch in self.proposals[name].patches)
            if len(self._genomes) >= GENOMES:
                self._genomes.clear()
            self._genomes[name] = Genome(self.settings.base, patches)
        return self._genomes[name]

    def program(self, own: Genome) -> Tree:
        return genome.build(own, self.base_tree)

    def verdicts_of(self, name: str) -> list[tuple[int, Certified | Refuted]]:
        """Verdicts on a genome with their rounds, oldest first."""
        return [(key[0], self.verdicts[key][1]) for key in sorted(self.verdicts) if key[1] == name]

    def certified(self) -> dict[str, Certified]:
        """Genomes whose latest verdict is a certificate that still compares, and that nobody barred."""
        return {name: verdict for name, verdict in self._certificates().items() if not self.staleness(verdict)}

    def stale(self) -> dict[str, Certified]:
        """Certificates of another judge than today's: to be made again before they count."""
        return {name: verdict for name, verdict in self._certificates().items() if self.staleness(verdict)}

    def _certificates(self) -> dict[str, Certified]:
        found = {}
        for name in sorted({name for _, name in self.verdicts}):
            verdict = self.verdicts_of(name)[-1][1]
            if isinstance(verdict, Certified) and not self.objection(name):
                found[name] = verdict
        return found

    def staleness(self, verdict: Certified | Refuted) -> str:
        """Why a verdict no longer compares, or an empty text: its device has a newer judge or other libraries by now.

        A second device beside the first makes nothing stale: gains are paired on one device each.
        """
        version = self.judge_version
        if verdict.judge and version and verdict.judge != version:
            return f"judged by {verdict.judge}, the judge is {version} now"
        for _, _, start in self._judges.values():
            if start.fingerprint == verdict.fingerprint:
                return ""
        made = next((start for _, _, start in self.starts if start.fingerprint == verdict.fingerprint), None)
        if made is None or made.device not in self._judges:
            return ""  # of a journal without provenance
        return f"made under {changes(made.provenance, self._judges[made.device][2].provenance)}"

    @property
    def judge_version(self) -> str:
        """Of the worker that started last; empty before the first."""
        newest = max(self._judges.values(), key=_when, default=None)
        return newest[2].provenance.get("judge", "") if newest else ""

    def champion(self) -> Certified | None:
        """The certified genome with the best lower bound; ties go to the smaller name."""
        best = sorted(self.certified().values(), key=lambda v: (-v.low, v.genome))
        return best[0] if best else None

    # what is to be done

    def steps(self, out_of_time: bool = False, ahead: bool = False) -> Iterator[Step]:
        """Everything that can be done now, most urgent first; a worker takes the first that it can claim.

        `ahead`: each worker's device waits for its own turns only, and what is judged needs compiling first. So it pays
        to propose before the base's score is known, and to have pairs under way that may not be needed.
        """
        if self.base_mean is None:
            if failure := self.base_failure():
                yield Done(failure)
                return
            for k in range(self.settings.base_runs):
                if (task := Task(self.base.name, "base", k)) not in self.outcomes:
                    yield Judge(task)
            if ahead:
                yield from self._ahead_of_base()
            return
        busy = False
        for number in sorted(self.rounds):
            for step in self._round_steps(number, ahead):
                busy = True
                yield step
        if (closing := self._closing(out_of_time)) is not None:
            if not busy:
                yield Done(closing.reason)
            return
        for name in self._open:
            # another worker's line may have been read before the line, in a third's file, that wrote its patch
            if all(patch in self.patches for patch in self.proposals[name].patches):
                yield Judge(Task(name, "screen"))
        following = max(self.rounds, default=-1) + 1
        spent = self.used >= self._thresholds()[-1]
        if spent or out_of_time or self._dry(2):
            if not self._open or out_of_time:
                reason = "out of time" if out_of_time else "budget spent" if spent else "nothing left to propose"
                yield OpenRound(following, reason, 0 if out_of_time else self.settings.evaluations)
            return
        opened_at = max((event.used for _, event in self.rounds.values()), default=0)
        if any(opened_at < at <= self.used for at in self._thresholds()[:-1]):
            yield OpenRound(following, f"{self.used} evaluations", 0)
        if self._dry(1) and self._open:
            return  # what is being judged may open new ways
        if self.used + len(self._open) < self._thresholds()[-1]:
            room = self._thresholds()[-1] - self.used - len(self._open)
            yield from self._free_slots()[:room]

    def _ahead_of_base(self) -> Iterator[Step]:
        """A proposal for each worker that judges, compiled: it can be timed as soon as the base has been."""
        yield from (Prepare(name) for name in self._open)
        judging = sum(event.role != "propose" for _, _, event in self.starts)
        room = min(judging, self._thresholds()[-1] - self.settings.base_runs) - len(self._open)
        yield from self._free_slots()[: max(0, room)]

    def _free_slots(self) -> list[Propose]:
        """Slots that hold no proposal yet, in turn over the threads; with a model several of each thread.

        A model takes its time, so that several proposals are written at once; without one a slot takes milliseconds.
        """
        at_once = 1 if self.settings.model == "none" else AT_ONCE
        found: list[Propose] = []
        for thread in range(self.settings.threads):
            number = self._filled.get(thread, 0)
            while (thread, number) in self.slots:
                number += 1
            self._filled[thread] = number
            free = (n for n in itertools.count(number) if (thread, n) not in self.slots)
            found += [Propose(thread, n) for n in itertools.islice(free, at_once)]
        return sorted(found, key=lambda step: (step.number, step.thread))

    def base_failure(self) -> str:
        """Why nothing can be searched, or an empty text: the base itself does not pass, or cannot be judged."""
        for k in range(self.settings.base_runs):
            task = Task(self.base.name, "base", k)
            outcome = self.outcome(task)
            if outcome is not None and outcome.score is None:
                last = outcome.detail.strip().rpartition("\n")[2]
                return f"the base program failed its own judge: {outcome.status.value}: {last} (evo.judge shows all)"
            if outcome is None and self.losses.get(task, 0) >= LOST_LIMIT:
                return f"the base program could not be judged in {LOST_LIMIT} attempts: {self.loss_reason}"
        return ""

    def _dry(self, times: int) -> bool:
        """True if the last so many slots of every thread had nothing left to propose."""

        def found_nothing(thread: int, back: int) -> bool:
            slot = self.slots.get((thread, self._next.get(thread, 0) - back))
            return slot is not None and isinstance(slot[1], Rejected) and slot[1].operator == "none"

        return all(found_nothing(t, back) for t in range(self.settings.threads) for back in range(1, times + 1))

    def _closing(self, out_of_time: bool) -> Budgeted | None:
        """The round after which nothing is searched any more, under today's budget and today's clock."""
        if not self.rounds:
            return None
        rounds = [self.rounds[number][1] for number in sorted(self.rounds)]
        for event in rounds:
            if event.covers >= self.settings.evaluations:
                return event
        # a later call with time of its own proposes more, and then deserves a round of its own
        return rounds[-1] if out_of_time and rounds[-1].proposals >= len(self.proposals) else None

    def _thresholds(self) -> list[int]:
        last = max(self.settings.base_runs + 1, self.settings.evaluations - self.settings.reserve)
        if self.settings.evaluations < SHORT or self.settings.replays:
            # midway rounds depend on how much was judged by then, which differs between replays
            return [last]
        return [self.settings.evaluations // 3, 2 * self.settings.evaluations // 3, last]

    def _round_steps(self, number: int, ahead: bool) -> Iterator[Step]:
        if number in self._closed:
            return
        missing, ranking = self._tournament(number)
        yield from (Judge(task) for task in missing)
        if missing:
            return
        # counted before objections are looked at: a verdict can be one, and would otherwise make room for a fourth
        given = [self.verdicts[number, name][1] for name in ranking if (number, name) in self.verdicts]
        if len(given) >= certify.CANDIDATES or any(isinstance(v, Certified) or v.spent for v in given):
            self._closed.add(number)
            return
        for name in ranking:
            if (number, name) not in self.verdicts and not self.objection(name):
                yield from self._pairs_to_judge(number, name, ahead)
                return

    def _pairs_to_judge(self, number: int, name: str, ahead: bool) -> Iterator[Pair]:
        """What a certification needs next: no verdict comes before MIN_PAIRS, so those may be judged side by side.

        Later ones, too, where devices would have nothing to do otherwise (`ahead`): a verdict goes by the pairs that
        are complete without a gap, so that none is reached sooner by what happens to be done first.
        """
        first = self.pair(number, name)
        yield first
        last = max(certify.MIN_PAIRS, first.k + certify.MIN_PAIRS if ahead else 0)
        last = min(last, certify.MAX_PAIRS, first.k + self.evaluations_left() // 2)
        for k in range(first.k + 1, last):
            sides = name, first.rival
            judged = all(Task(side, first.stage, k) in self.outcomes for side in sides)
            if not judged and not self.given_up(first.stage, k, *sides):
                yield replace(first, k=k)

    def _tournament(self, number: int) -> tuple[list[Task], list[str]]:
        """Finalists halved on fresh evaluations: the tasks it waits for, or at the end everybody, the winner first."""
        opened = self.rounds[number][1]
        stage = f"finalist{number}"
        standing = list(opened.finalists)
        dropped: list[str] = []
        halvings = max(1, math.ceil(math.log2(max(1, len(standing)))))
        for k in range(halvings):
            tasks = [Task(name, stage, k) for name in standing]
            missing = [t for t in tasks if t not in self.outcomes and self.losses.get(t, 0) < LOST_LIMIT]
            if missing:
                return missing, []
            ranked = self._standing(opened, standing, stage, k)
            keep = len(ranked) if k == halvings - 1 else math.ceil(len(ranked) / 2)
            standing, dropped = ranked[:keep], ranked[keep:] + dropped
        return [], standing + dropped

    def _standing(self, opened: Budgeted, names: Sequence[str], stage: str, k: int) -> list[str]:
        """Finalists that passed, best first by the posterior at the opening updated with their fresh scores."""
        values = {}
        noise = (self.screen_sd / self.settings.typical_gain) ** 2
        prior = dict(zip(opened.finalists, opened.posteriors, strict=True))
        for name in names:
            tasks = [Task(name, stage, j) for j in range(k + 1)]
            scores = [
                self.gain_in(task, o.score) / self.settings.typical_gain
                for task in tasks
                if (o := self.outcome(task)) is not None and o.score is not None
            ]
            if len(scores) == k + 1:
                values[name] = (((noise / 2) + 1) * prior[name] + math.fsum(scores)) / (noise / 2 + 1 + len(scores))
        return sorted(values, key=lambda name: (-values[name], name))

    def pair(self, number: int, name: str) -> Pair:
        return Pair(number, name, self.base.name, f"certify{number}-{name}", len(self.certification(number, name)))

    def pairs(self, stage: str, candidate: str, rival: str) -> list[certify.PairResult]:
        """The complete pairs of a stage from k = 0 on; sides from different devices do not make a pair."""
        found: list[certify.PairResult] = []
        while True:
            k = len(found)
            sides = [self.outcomes.get(Task(side, stage, k)) for side in (candidate, rival)]
            if sides[0] is None or sides[1] is None:
                return found
            found.append(certify.PairResult(sides[0][1], sides[1][1]))

    def spread(self, number: int, name: str) -> certify.Spread:
        """The noise of paired differences for one certification: the frozen table and the pairs of those before it.

        Base runs and finalists are left out. Base runs scatter with the load of the search, which the two sides of a
        pair share: two of them, minutes apart on a busy host, made the noise 1.6 times too wide and cost a true gain of
        10% its certificate. And which finalist stays for a second run is selected by its first.
        """
        found = certify.Spread(self.settings.pair_sd, self.settings.noise_df)
        for round, other in sorted(self.verdicts):
            if round <= number and (round, other) != (number, name):
                differences = certify.differences_of(self.certification(round, other), self.objective)
                found = found.with_replicates(stats.squares(differences), max(0, len(differences) - 1))
        return found

    def certification(self, number: int, name: str) -> list[certify.PairResult]:
        return self.pairs(f"certify{number}-{name}", name, self.base.name)

    def drift(self, number: int) -> tuple[float, float] | None:
        """How far the base moved between the run's first evaluations and a round's certifications, and p.

        Student's t over the mean gain of the base's sides against the frozen base runs, with the table's sd and degrees
        of freedom. None before the round has two of them.
        """
        if self.base_mean is None:
            return None
        stages = f"certify{number}-"
        tasks = sorted(task for task in self._tasks_of.get(self.base.name, ()) if task.stage.startswith(stages))
        scores = (self.outcomes[task][1].outcome.score for task in tasks)
        sides = [self.gain(score) for score in scores if score is not None and not self.objective.complaint(score)]
        if len(sides) < 2:
            return None
        frozen = [self.gain(score) for score in self.base_scores]
        return stats.shift(sides, frozen, self.settings.noise_sd, self.settings.noise_df)

    def mixed(self) -> int:
        """Screens of another device or judge than the base runs: their gains hold that difference, too."""
        tasks = (Task(self.base.name, "base", k) for k in range(self.settings.base_runs))
        known = {self.outcomes[task][1].fingerprint for task in tasks if task in self.outcomes}
        screens = (event for task, (_, event) in self.outcomes.items() if task.stage == "screen")
        return sum(event.fingerprint not in known for event in screens)

    def searched(self, name: str) -> float | None:
        """What the search believed of a genome, in units of gain: the posterior, certification left out."""
        if name not in self.archive or not self.archive[name].scores:
            return None
        return self.archive.posterior(name) * self.settings.typical_gain

    def given_up(self, stage: str, k: int, *sides: str) -> bool:
        """True if a side of a pair was lost so often that the pair is not tried again."""
        return any(self.losses.get(Task(side, stage, k), 0) >= LOST_LIMIT for side in sides)

    def evaluations_left(self) -> int:
        return self.settings.evaluations - self.used

    def summary(self) -> Mapping[str, object]:
        champion = self.champion()
        return {
            "trust": self.trust,
            "evaluated": self.used,
            "screened": self.screened,
            "rejected": self.rejected,
            "lost": self.lost,
            "cells": len(self.archive.elites()),
            "baseline": self.base_mean,
            "champion": champion.genome if champion else None,
            "gain": champion.gain if champion else None,
            "interval": [champion.low, champion.high] if champion else None,
            "p": champion.p if champion else None,
            "certified": len(self.certified()),
            "stale": len(self.stale()),
            "quarantined": sum(self.objection(name).startswith("in quarantine") for name in self.quarantined),
            "seconds": round(self.last_at - self.first_at, 3) if self.starts else 0.0,
            "usd": round(self.usd, 6),
        }
