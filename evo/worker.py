"""One worker: reads everybody's journals, claims a step, does it, writes one journal of its own."""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from evo import audit, certify, chronicle, judges, library, operators, search, select
from evo import benchmark as benchmarks
from evo.benchmark import Audit, Benchmark, UserMistake
from evo.chance import Chance, number
from evo.chronicle import Chronicle
from evo.claims import Claims, Holder, start_time
from evo.events import (
    Budgeted,
    Call,
    Certified,
    Evaluated,
    Event,
    Lost,
    Noted,
    Proposed,
    Quarantined,
    Reflected,
    Refuted,
    Rejected,
    Slotted,
    Started,
    Stopped,
    Task,
)
from evo.genome import Genome, Patch, PatchError
from evo.hostlock import turn
from evo.journal import Journal, Journals, writer_name
from evo.judges import Judge, fingerprint_id, on_disk, open_judge
from evo.ledger import Caps, Ledger, Room, Ticket, read_prices
from evo.llm import Completion, Model, ModelError, Models, asked, open_models
from evo.operators import CONTROLS, Draft, Scene, Writing
from evo.outcome import Outcome, Status
from evo.recording import Recorder, Recording
from evo.rundir import RunDir
from evo.sandbox import NoIsolation

Written = TypeVar("Written", bound=Slotted)
ROLES = ("both", "propose", "judge")
IDLE_S = 0.2
COLLECTED = 5_000  # new objects until garbage is looked for; a state only grows, and every 700 cost 5% of a worker
MODEL_FAILURES = 10  # in a row, until a person is told
BACK_OFF_S = 300.0
RECENT = 20  # outcomes, whose writers are the workers that judge side by side
CALL_POLL_S = 0.02  # between looks at answers that models are writing
AHEAD = 4  # proposals that may wait for a judge or be in the making, at least
FINALISTS, FINALISTS_SHORT = 8, 4


@dataclass(frozen=True)
class Flight:
    """A proposal whose model is writing, with the ticket of the call."""

    writing: Writing
    model: Model
    ticket: Ticket
    answer: Future[Completion]
    begun: float = 0.0  # on the worker's clock


@dataclass
class Worker:
    """What one worker holds. `open_judge` is called when the first task comes: proposers never need a sandbox."""

    run: RunDir
    benchmark: Benchmark
    state: search.State
    journal: Journal
    journals: Journals
    claims: Claims
    library: list[Patch]
    open_judge: Callable[[], AbstractContextManager[Judge]]
    role: str = "both"
    deadline: float = float("inf")  # on `clock`
    span: float = float("inf")  # seconds from this worker's start to its deadline
    clock: Callable[[], float] = time.monotonic
    exclusive: bool = True
    models: Models | None = None
    failures: int = 0  # of the models, in a row
    not_before: float = -float("inf")  # on `clock`: no call is begun until then
    recorder: Recorder | None = None
    recording: Recording | None = None  # played back instead of proposing
    flights: dict[search.Propose, Flight] = field(default_factory=dict)
    prepared: set[str] = field(default_factory=set)  # genomes that this worker saw compiled
    ledger: Ledger | None = None  # needed where there are models
    spent: bool = False  # the cap on calls, tokens or USD is reached
    judge: Judge | None = None
    fingerprint: str = ""
    opened: ExitStack = field(default_factory=ExitStack)

    def work(self, should_stop: Callable[[], bool] = lambda: False, limit: int | None = None) -> str:
        """The loop; returns why it ended. `limit` ends it after so many steps, for tests."""
        done = 0
        self.state.extend(self.journals.new_entries())
        if not self.exclusive and self.role != "propose" and self.state.base_mean is None:
            self.ready_judge()  # a context on a device takes seconds, and all workers can make theirs at once
        while not should_stop() and (limit is None or done < limit):
            self.state.extend(self.journals.new_entries())
            done += self.collect()
            step = self.next_step()
            if isinstance(step, search.Done):
                self.claims.clear_dead()
                return step.reason
            if step is None:
                time.sleep(IDLE_S if not self.flights else CALL_POLL_S)
                continue
            done += self.finish(step, partial(self.do, step))
        return "asked to stop"

    def finish(self, step: search.Step, action: Callable[[], list[Event] | None]) -> bool:
        """Does a step and writes down what it led to; False if a model has to answer first."""
        try:
            facts = action()
        except (UserMistake, NoIsolation):
            raise  # no other task would fare better: the worker ends and says why
        except Exception as error:  # noqa: BLE001  one of the two borders: a broken task must not end the run
            facts = [self._broken(step, error)]
        if facts is None:
            return False
        if self.recorder is not None:
            for fact in facts:
                if isinstance(fact, Slotted):
                    self.recorder.proposal(fact)
        self.journal.append(*facts)
        self.claims.release(claim_name(step))
        return True

    def next_step(self) -> search.Step | None:
        """The most urgent step that nobody else has claimed; None if all are taken."""
        current = True  # whether the list below is still what the state asks for
        for step in self.steps():  # a list: the state is extended between two of them
            if isinstance(step, search.Done):
                return step
            if step in self.flights or not self._is_mine(step) or not self.claims.take(claim_name(step)):
                continue
            # whoever had it may have finished between our reading and our claim
            news = self.journals.new_entries()
            self.state.extend(news)
            current = current and not news
            if current or step in self.steps():
                return step
            self.claims.release(claim_name(step))
        return None

    def steps(self) -> list[search.Step]:
        return list(self.state.steps(self.out_of_time(), ahead=not self.exclusive))

    def _is_mine(self, step: search.Step) -> bool:
        if self.role == "propose" and self.state.waiting + len(self.flights) >= self.ahead:
            return False
        if isinstance(step, search.Prepare) and step.genome in self.prepared:
            return False
        if self.role == "both":
            return True
        return isinstance(step, search.Propose) == (self.role == "propose")

    @property
    def ahead(self) -> int:
        """Proposals that may wait for a judge or be in the making: two for each judge that ever opened."""
        judging = len({place[0] for place, _, event in self.state.starts if event.role != "propose"})
        return max(AHEAD, self.state.settings.threads, min(search.AT_ONCE, 2 * judging))

    def out_of_time(self) -> bool:
        """True once what is left is needed for validation: six finalists and four pairs at the run's own pace.

        Never more than half of all the time: on a machine too slow for that, a search that did not search is worse
        than a certification with fewer pairs.
        """
        if self.deadline == float("inf"):
            return False
        pace = self.state.seconds / self.state.used if self.state.used else 0.0
        if not self.exclusive:  # neither finalists nor the first pairs wait for each other then
            latest = itertools.islice(reversed(self.state.outcomes.values()), RECENT)
            pace /= max(1, len({place[0] for place, _ in latest}))
        reserve = pace * min(self.state.settings.reserve, 14)
        return self.clock() + min(reserve, self.span / 2) > self.deadline

    # steps

    def do(self, step: search.Step) -> list[Event] | None:
        """The facts that a step leads to; None if a model has to answer first."""
        match step:
            case search.Judge(task):
                with self.turn(alone=False):
                    fact = self.judged(task, self.state.genome(task.genome))
                return [fact, *self.audited(fact)]
            case search.Prepare(name):
                self.prepare(name)
                return []
            case search.Pair():
                return self.pair(step)
            case search.OpenRound(round, reason, covers):
                count = FINALISTS if self.state.settings.evaluations >= search.SHORT else FINALISTS_SHORT
                best = select.finalists(self.state.archive, count)
                posteriors = tuple(self.state.archive.posterior(name) for name in best)
                so_far = len(self.state.proposals), self.state.used
                return [Budgeted(round, tuple(best), posteriors, reason, *so_far, covers)]
            case search.Propose(thread, slot):
                return self.written(step, self.proposed(thread, slot))
        raise AssertionError(step)

    def judged(self, task: Task, own: Genome) -> Event:
        """Judges one task. Who watches the clock, the data and the seed is the judge; here only wall time is noted."""
        judge = self.ready_judge()
        program = self.benchmark.base if self.state.settings.control == "aa" else self.state.program(own)
        began = self.clock()
        with on_disk(program) as place:
            outcome = judge.judge(place, stage=task.stage, seed=self.seed(task))
        seconds = self.clock() - began
        if outcome.score is not None and (complaint := self.state.objective.complaint(outcome.score)):
            outcome = Outcome.failed(Status.WRONG, complaint, **outcome.measures)
        if outcome.status is Status.LOST:
            return Lost(task, outcome.detail)
        return Evaluated(task, outcome, round(seconds, 3), self.fingerprint)

    def prepare(self, name: str) -> None:
        """Lets the judge compile what will be judged; what fails here fails, and is told, when it is judged."""
        self.prepared.add(name)
        prepare = getattr(self.ready_judge(), "prepare", None)
        if prepare is not None and self.state.settings.control != "aa":
            with on_disk(self.state.program(self.state.genome(name))) as place:
                prepare(place)

    def audited(self, fact: Event, beside: Outcome | None = None) -> list[Event]:
        """A quarantine where what passed looks too good, once a genome: a person's release is final.

        `beside` is the base in the same pair: a run that proves patches has no base runs of its own.
        """
        state = self.state
        if not isinstance(fact, Evaluated) or fact.outcome.score is None:
            return []
        name = fact.task.genome
        if name == state.base.name or name in state.quarantined:
            return []
        base, (middle, means) = self.benchmark.base, self.standard(beside)
        program = base if state.settings.control == "aa" else state.program(state.genome(name))
        parents = state.proposals[name].parents if name in state.proposals else ()
        built_on = max((state.archive.posterior(parent) for parent in parents), default=0.0)
        reason = audit.suspicion(
            program,
            base,
            fact.outcome,
            state.objective,
            middle,
            means,
            self.bounds,
            max(0.0, built_on) * state.settings.typical_gain,
        )
        return [Quarantined(name, f"{fact.task.stage}: {reason}")] if reason else []

    def standard(self, beside: Outcome | None) -> tuple[float | None, Mapping[str, float]]:
        """What the base scores and measures: by its own runs, else by its sides of pairs, `beside` the newest."""
        state = self.state
        if state.base_mean is not None:
            return state.base_mean, state.base_measures()
        known = [event.outcome for task, (_, event) in state.outcomes.items() if task.genome == state.base.name]
        passed = [outcome for outcome in [*known, beside] if outcome is not None and outcome.score is not None]
        scores = sorted(outcome.score for outcome in passed if outcome.score is not None)
        return (scores[len(scores) // 2], passed[-1].measures) if scores else (None, {})

    @cached_property
    def rules(self) -> tuple[str, ...]:
        return judges.rules(self.benchmark, self.benchmark.profile(self.state.settings.profile))

    @property
    def bounds(self) -> Audit:
        return self.benchmark.profiles[self.state.settings.profile].audit

    def seed(self, task: Task) -> int:
        """Both sides of a pair share a seed, finalists of a round too; every screen has its own, or a base run's."""
        twin = self.state.twin(task)
        if twin is not None:
            task = Task(self.state.base.name, "base", twin)
        own = task.genome if task.stage == "screen" else ""
        return number(self.state.settings.seed, task.stage, task.k, own) % 2**31

    def pair(self, step: search.Pair) -> list[Event]:
        """Adds one pair to a certification, or gives the verdict."""
        facts = self.decided(step)
        if not facts:
            self.one_pair(step.candidate, step.rival, step.stage, step.k)
        return facts

    def decided(self, step: search.Pair, left: int | None = None) -> list[Event]:
        """The verdict on a certification, empty if it needs more pairs; `left` replaces the run's own budget."""
        state = self.state
        pairs = state.pairs(step.stage, step.candidate, step.rival)
        verdict = certify.decide(
            pairs,
            state.objective,
            genome=step.candidate,
            round=step.round,
            spread=state.spread(step.round, step.candidate),
            judge=state.judge_version,
            may_go_on=(state.evaluations_left() if left is None else left) >= 2
            and self.clock() < self.deadline
            and not state.given_up(step.stage, len(pairs), step.candidate, step.rival),
        )
        return [verdict, *self._drifted(verdict)] if verdict is not None else []

    def _drifted(self, verdict: Certified | Refuted) -> list[Event]:
        """A note where the base no longer scores as when the run began: pairs still hold, searched gains less so."""
        found = self.state.drift(verdict.round)
        if found is None or found[1] >= certify.DRIFTED:
            return []
        moved = f"{self.state.objective.describe(found[0])} beside its frozen mean (p = {found[1]:.2g})"
        return [Noted(f"drift: the base's own score in round {verdict.round} is {moved}")]

    def one_pair(self, candidate: str, rival: str, stage: str, k: int) -> None:
        """Judges both sides alone on the host, one right after the other, taking turns at who goes first."""
        sides = [rival, candidate] if k % 2 == 0 else [candidate, rival]
        beside: Outcome | None = None
        with self.turn(alone=True):
            for side in sides:
                task = Task(side, stage, k)
                if task not in self.state.outcomes:
                    fact = self.judged(task, self.state.genome(side))
                    self.journal.append(fact, *self.audited(fact, beside))
                    if isinstance(fact, Lost):
                        break
                    if isinstance(fact, Evaluated) and side == self.state.base.name:
                        beside = fact.outcome
        self.state.extend(self.journals.new_entries())

    def scene(self, thread: int, slot: int) -> Scene:
        state, settings = self.state, self.state.settings
        control = CONTROLS[settings.control] if settings.control else None
        elsewhere = (
            library.elsewhere(self.run.shared, self.benchmark.name) if control is None or control.library else ()
        )
        return Scene(
            archive=state.archive,
            tried=state.tried,
            genome=state.genome,
            build=state.program,
            known=state.patches,
            library=self.library if control is None or control.library else [],
            base=self.benchmark.base,
            bounds=self.bounds,
            cards=state.cards() if self.models is not None else (),
            chronicle=chronicle.tell(state.history()) if self.models is not None else Chronicle(),
            earlier=self.run.earlier_text() if self.models is not None else "",
            rules=self.rules if self.models is not None else (),
            said=state.said,
            standing=state.standing() if self.models is not None else "",
            hypotheses=[*state.hypotheses(thread), *elsewhere] if self.models is not None else (),
            editable=self.benchmark.is_editable,
            chance=Chance(settings.seed, thread, slot),
            gain_of=lambda number: state.gain_of(thread, number),
            novelty=settings.novelty,
            novel=settings.control != "no-novelty",
        )

    def proposed(self, thread: int, slot: int) -> Slotted | Writing:
        """A proposal, or one that waits for a model."""
        state, scene = self.state, self.scene(thread, slot)
        if self.recording is not None:
            if (thread, slot) not in self.recorded:
                return Rejected(thread, slot, "none", (), "the recording holds no further proposal")
            return operators.replay(scene, self.benchmark, self.recording)
        control = state.settings.control
        mix = operators.mix_of(control, writes=True)
        if self.models is None or self.spent or self.clock() < self.not_before or "improve" not in mix:
            return self.mechanical(scene)
        repairing = {
            flight.writing.parents[0] for flight in self.flights.values() if flight.writing.operator == "repair"
        }
        if (broken := state.broken(repairing)) is not None:
            return operators.write(scene, self.benchmark, "repair", broken[0], trouble=broken[1])
        if operators.reflects(scene):
            return operators.reflect(scene, self.benchmark)
        return operators.propose(scene, self.benchmark, operators.toolbox(control), mix, writes=True)

    def mechanical(self, scene: Scene) -> Proposed | Rejected | Writing:
        control = self.state.settings.control
        return operators.propose(scene, self.benchmark, operators.toolbox(control), operators.mix_of(control))

    @cached_property
    def recorded(self) -> set[tuple[int, int]]:
        """The slots of the recording that this run's budget has room for: the same ones for every worker."""
        assert self.recording is not None
        settings = self.state.settings
        return self.recording.within(settings.evaluations - settings.reserve - settings.base_runs)

    # models

    def written(self, step: search.Propose, found: Slotted | Writing) -> list[Event] | None:
        """The proposal as an event; None while a model writes it in the background of a worker that only proposes."""
        while isinstance(found, Writing):
            if self.models is None:  # it was given up while this waited for its second answer
                return [self._closed(found, "model", "there is no model left to ask")]
            assert self.ledger is not None
            model = self.models.chosen(found.ask.task, Chance(self.state.settings.seed, step.thread, step.number))
            ticket = self.ledger.take(model, found.ask.prompt)
            if isinstance(ticket, Room):
                self.spent = ticket is Room.NONE
                if found.calls:
                    return [self._closed(found, "model", ticket.value)]
                found = self.mechanical(self.scene(step.thread, step.number))
                continue
            flight = Flight(found, model, ticket, asked(model, found.ask.prompt, found.ask.slot), self.clock())
            if self.role == "propose":
                self.flights[step] = flight
                return None
            found = self.answered(flight)
        return [found]

    def collect(self) -> int:
        """Goes on with the proposals whose model has answered; gives how many are done."""
        done = 0
        for step, flight in list(self.flights.items()):
            if not flight.answer.done():
                continue
            del self.flights[step]
            self.state.extend(self.journals.new_entries())
            done += self.finish(step, partial(self.landed, step, flight))
        return done

    def landed(self, step: search.Propose, flight: Flight) -> list[Event] | None:
        return self.written(step, self.answered(flight))

    def answered(self, flight: Flight) -> Slotted | Writing:
        """What an answer leads to: the next call, a proposal, or the reason why there is none."""
        assert self.ledger is not None
        writing, model = flight.writing, flight.model
        try:
            completion = flight.answer.result()
        except ModelError as error:
            self.ledger.settle(flight.ticket, model.name, None, error.billed)
            self._model_failed(flight, error)
            return self._closed(writing, "model", str(error))
        self.failures = 0
        if self.recorder is not None:
            self.recorder.answer(writing.ask.slot, writing.ask.prompt, completion)
        used = completion.usage
        usd = self.ledger.settle(flight.ticket, model.name, used, True)
        writing.calls.append(
            Call(completion.model, used.input, used.cache_read, used.cache_write, used.output, round(usd, 9))
        )
        try:
            found = writing.answered(completion)
        except operators.Unusable as error:
            return self._closed(writing, writing.operator, str(error))
        if isinstance(found, operators.Ask):
            return writing
        if isinstance(found, tuple):
            return self._with_cost(Reflected(*writing.slot, found), writing)
        draft = self.rebased(found) if writing.operator != "repair" else found
        if draft is None:
            reason = f"the parent was set aside while this was written: {self.state.objection(writing.parents[0])}"
            return self._closed(writing, writing.operator, reason)
        # what was learnt while the model wrote counts: somebody may have had the same idea
        settled = operators.settle(self.scene(*writing.slot), self.benchmark, writing.operator, draft)
        return self._with_cost(settled, writing)

    def rebased(self, draft: Draft) -> Draft | None:
        """A draft whose parent was barred meanwhile, on the nearest ancestor that stands; None if it does not fit."""
        state, patch = self.state, draft.genome.patches[-1]
        first, *mates = draft.parents
        while state.objection(first):
            first = state.proposals[first].parents[0] if state.proposals[first].parents else state.base.name
        if first == draft.parents[0]:
            return draft
        try:
            moved = state.genome(first).with_patch(patch)
            state.program(moved)
        except PatchError:
            return None
        return Draft((first, *mates), moved)

    def _closed(self, writing: Writing, operator: str, reason: str) -> Rejected:
        return self._with_cost(Rejected(*writing.slot, operator, writing.parents, reason), writing)

    def _with_cost(self, event: Written, writing: Writing) -> Written:
        calls = tuple(writing.calls)
        return replace(event, calls=calls, usd=round(sum(call.usd for call in calls), 9))

    def _model_failed(self, flight: Flight, error: ModelError) -> None:
        """Backs off; meanwhile proposals are made without a model, so that judging goes on.

        Calls that were under way when another failed tell nothing new. A model whose key or name is refused is asked no
        more; one that was of no use from the first call on is the user's mistake.
        """
        if error.hopeless:
            if not any(event.calls for _, event in self.state.slots.values()):
                raise UserMistake(f"the model cannot be used: {error}")
            self.models = self.models.without(flight.model) if self.models else None
            self.journal.append(Noted(f"going on without {flight.model.name}: {error}"))
        elif flight.begun >= self.not_before:
            self.failures += 1
            self.not_before = self.clock() + min(BACK_OFF_S, 0.2 * 2**self.failures)
            if self.failures == MODEL_FAILURES:
                text = f"{flight.model.name} failed {self.failures} times in a row, going on without until it answers"
                self.journal.append(Noted(f"{text}: {error}"))

    # around the steps

    def ready_judge(self) -> Judge:
        if self.judge is None:
            self.judge = self.opened.enter_context(self.open_judge())
            provenance = dict(self.judge.fingerprint())
            self.fingerprint = fingerprint_id(provenance)
            self.journal.append(Started(self.role, self.fingerprint, provenance))
        return self.judge

    @contextmanager
    def turn(self, *, alone: bool) -> Iterator[None]:
        if not self.exclusive:
            yield
            return
        with turn(alone=alone):
            yield

    def _broken(self, step: search.Step, error: Exception) -> Event:
        reason = "".join(traceback.format_exception(error))[-2000:]
        if isinstance(step, search.Judge):
            return Lost(step.task, reason)
        if isinstance(step, search.Pair):
            return Lost(Task(step.candidate, step.stage, step.k), reason)
        if isinstance(step, search.Prepare):
            return Noted(f"{step.genome} could not be compiled ahead: {reason}")
        if isinstance(step, search.Propose):
            return Rejected(step.thread, step.number, "broken", (), reason)
        raise error

    def close(self) -> None:
        self.opened.close()
        self.claims.close()
        self.journal.close()


def claim_name(step: search.Step) -> str:
    match step:
        case search.Judge(task):
            return task.name
        case search.Prepare(name):
            return f"prepare-{name}"
        case search.Pair():
            return f"{step.stage}-{step.rival}-{step.k}"
        case search.OpenRound(round):
            return f"round{round}"
        case search.Propose(thread, slot):
            return f"propose-{thread}-{slot}"
    raise AssertionError(step)


def join(run: RunDir, *, role: str, minutes: float | None, allow_unisolated: bool) -> Worker:
    """A worker of an existing run, on this host."""
    settings = run.settings()
    benchmark = benchmarks.load(settings.benchmark, settings.profile)
    if benchmark.base_hash != settings.base:
        raise UserMistake(
            f"{run.path} was begun with base {settings.base}, the benchmark's base is now {benchmark.base_hash}; "
            "restore the program or start a new --out"
        )
    profile = benchmark.profile(settings.profile)
    gc.set_threshold(COLLECTED)
    host, process = socket.gethostname(), os.getpid()
    taken = [file.stem for file in run.events.glob("*.jsonl")]
    proposes = role != "judge"
    return Worker(
        run=run,
        benchmark=benchmark,
        state=search.State(settings, benchmark),
        journal=Journal(run.events, writer_name(host, process, taken), time.time),
        journals=Journals(run.events),
        claims=Claims(run.claims, Holder(host, process, start_time(process) or 0)),
        library=library.known(benchmark, run.shared),
        open_judge=lambda: open_judge(benchmark, profile, allow_unisolated=allow_unisolated),
        models=open_models(settings.model) if proposes and not settings.replays else None,
        recorder=Recorder(Path(settings.record)) if settings.record else None,
        recording=Recording(Path(settings.model.partition(":")[2])) if proposes and settings.replays else None,
        ledger=Ledger(
            run.tickets,
            Caps(settings.calls, settings.tokens, settings.usd),
            read_prices(Path(settings.prices) if settings.prices else None),
        ),
        role=role,
        # A judge on a GPU lets timed sections alone with their device by itself: the host's other devices go on.
        exclusive=not (benchmark.judge == "training" and profile.settings.get("device") == "cuda"),
        deadline=time.monotonic() + 60 * minutes if minutes else float("inf"),
        span=60 * minutes if minutes else float("inf"),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m evo.worker", description="One worker of a run that exists.")
    parser.add_argument("dir", type=Path)
    parser.add_argument("--role", choices=ROLES, default="both")
    parser.add_argument("--minutes", type=float, help="stop proposing in time to certify within so many minutes")
    parser.add_argument("--allow-unisolated", action="store_true")
    parser.add_argument("--parent", type=int, help="leave when this process is gone")
    options = parser.parse_args(arguments)
    stopped: list[int] = []
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(name, lambda number, _: stopped.append(number))
    try:
        worker = join(
            RunDir(options.dir),
            role=options.role,
            minutes=options.minutes,
            allow_unisolated=options.allow_unisolated,
        )
    except UserMistake as mistake:
        print(mistake, file=sys.stderr)
        return 2
    orphaned = lambda: options.parent is not None and os.getppid() != options.parent  # noqa: E731
    try:
        reason = worker.work(lambda: bool(stopped) or orphaned())
        if reason != "asked to stop" and worker.role != "propose":
            worker.journal.append(Stopped(reason))
    except (UserMistake, NoIsolation) as mistake:
        print(mistake, file=sys.stderr)
        return 3 if isinstance(mistake, NoIsolation) else 2
    finally:
        worker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
