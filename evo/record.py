"""The record rule of a race: surplus loss becomes a shorter schedule, which is then shown on raw seconds.

Equivalent seconds let a search compare programs that stop at different losses. A record is stricter and plainer: over
a fixed number of fresh seeds the mean loss is at or under the target, one-sided p < .01, whatever the seconds; the
seconds are told raw, beside the base's on the same seeds. It stands beside the e-process, which alone makes a
certificate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from evo import search, stats, worker
from evo.benchmark import Profile, Record, UserMistake
from evo.events import Certified, Lost, Recorded, Task
from evo.genome import Genome, PatchError, patch_between
from evo.operators import sweep
from evo.outcome import Outcome
from evo.recertify import register

Say = Callable[[str], None]
SWEEPS = 6  # evaluations that may look for the shortest schedule
CLOSE = 0.01  # a value nearer to an earlier one than this share is that one
NEAR = 0.05  # the sweep ends once its last evaluations are all nearer than this share to what they lead to
LEVEL = 0.01  # of the one-sided tests
RECENT = 3  # evaluations that the line goes through


@dataclass(frozen=True)
class Schedule:
    """Losses seen at values of the declared constant; L falls by `slope` for each factor e of the constant.

    That is the slope of equivalent seconds, -dL / d ln t, with t proportional to the constant.
    """

    slope: float
    seen: tuple[tuple[float, float], ...]  # value, loss

    def shortest(self, loss: float) -> float:
        """The value at which this loss is expected: a line of known slope through what was seen last."""
        level = stats.mean([found + self.slope * math.log(value) for value, found in self.seen[-RECENT:]])
        return math.exp((level - loss) / self.slope)


def margin(sd: float, n: int, seen: int) -> float:
    """How far under the target a mean estimated from `seen` runs must lie so that about four of five tests of n seeds
    succeed: both the estimate and the test scatter."""
    return (_quantile(LEVEL, n - 1) + _quantile(0.2, n - 1)) * sd * math.sqrt(1 / n + 1 / seen)


def _near(one: float, other: float, share: float) -> bool:
    return abs(math.log(one / other)) <= share


def _quantile(tail: float, df: int) -> float:
    """t with P(T > t) = tail."""
    low, high = 0.0, 1e3
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if stats.student_tail(middle, df) > tail else (low, middle)
    return high


def attempt(crew: worker.Worker, certified: Certified, say: Say) -> Recorded | None:
    """Shortens a certified genome's schedule as far as its surplus of loss allows, and tests the rule on fresh seeds.

    None where the profile has no record rule or the genome has lost the constant.
    """
    state = crew.state
    profile = crew.benchmark.profile(state.settings.profile)
    rule = profile.record
    if rule is None:
        return None
    pairs = state.certification(certified.round, certified.genome)
    losses, theirs = (
        [loss for outcome in side if (loss := outcome.measures.get(rule.loss)) is not None]
        for side in ([p.candidate.outcome for p in pairs], [p.rival.outcome for p in pairs])
    )
    if len(losses) < 2 or len(theirs) < 2:
        raise UserMistake(f"[record] loss = '{rule.loss}': the judge measures no such thing; it has {_measures(pairs)}")
    # three runs of one program tell little of how far it scatters; the base beside them scatters alike
    sd = math.sqrt((stats.sample_sd(losses) ** 2 + stats.sample_sd(theirs) ** 2) / 2)
    mean, round = stats.mean(losses), certified.round
    own, value, spent = shortened(crew, state.genome(certified.genome), rule, profile, mean, sd, round, say)
    if value is None:
        say(f"record: the genome has no single setting {rule.constant} any more; its schedule stays as it is")
    found = tested(crew, own, rule, certified, value, spent)
    held = "holds" if found.holds else f"does not hold ({found.reason})"
    say(
        f"record rule {held}: {rule.loss} {found.loss:.4f} (sd {found.loss_sd:.4f}, n = {found.n}) against "
        f"{rule.target:g}, p = {found.p:.2g}; raw {rule.time} {found.seconds:.4g}, the base's {found.base_seconds:.4g}"
    )
    crew.journal.append(found)
    state.extend(crew.journals.new_entries())
    return found


def shortened(
    crew: worker.Worker, own: Genome, rule: Record, profile: Profile, mean: float, sd: float, round: int, say: Say
) -> tuple[Genome, float | None, int]:
    """The genome with its declared constant as small as the target allows, its value, and the evaluations spent."""
    constant = declared(crew, own, rule)
    if constant is None:
        return own, None, 0
    goal = rule.target - margin(sd, rule.n, RECENT)
    schedule = Schedule(_slope(profile), ((float(constant.value), mean),))
    value, spent = float(constant.value), 0
    tried: dict[float, Genome] = {value: own}
    while spent < SWEEPS:
        wanted = _rounded(schedule.shortest(goal), constant.is_integer)
        recent = [seen for seen, _ in schedule.seen[-RECENT:]]
        if wanted >= constant.value or (len(recent) == RECENT and all(_near(wanted, seen, NEAR) for seen in recent)):
            break
        # a value nearly tried is tried again: one lucky run must not decide how short the schedule becomes
        wanted = next((known for known in tried if _near(wanted, known, CLOSE)), wanted)
        trial = tried[wanted] = tried.get(wanted) or with_value(crew, own, constant, wanted)
        outcome = evaluated(crew, trial, f"sweep{round}-{own.name}", spent)
        spent += 1
        if outcome is None or rule.loss not in outcome.measures:
            return own, float(constant.value), spent  # too short to pass at all, or lost: no schedule to trust
        loss = outcome.measures[rule.loss]
        schedule = Schedule(schedule.slope, (*schedule.seen, (wanted, loss)))
        say(f"  {constant.name} = {wanted:g}: {rule.loss} {loss:.4f}, {goal:.4f} is wanted")
    value = _rounded(schedule.shortest(goal), constant.is_integer)
    if value >= constant.value:
        return own, float(constant.value), spent  # no surplus: nothing to shorten
    return tried.get(value) or with_value(crew, own, constant, value), value, spent


def tested(
    crew: worker.Worker, own: Genome, rule: Record, certified: Certified, value: float | None, spent: int
) -> Recorded:
    """The rule over a fixed number of fresh seeds, the base beside each: no run is redrawn, one that fails fails it."""
    state = crew.state
    stage = f"record{certified.round}-{own.name}"
    while (k := len(state.pairs(stage, own.name, state.base.name))) < rule.n:
        if state.given_up(stage, k, own.name, state.base.name):
            break
        crew.one_pair(own.name, state.base.name, stage, k)
    pairs = state.pairs(stage, own.name, state.base.name)
    ours, theirs = [pair.candidate.outcome for pair in pairs], [pair.rival.outcome for pair in pairs]
    losses = [o.measures[rule.loss] for o in ours if rule.loss in o.measures and o.score is not None]
    times = [o.measures[rule.time] for o in ours if rule.time in o.measures and o.score is not None]
    base = [o.measures[rule.time] for o in theirs if rule.time in o.measures and o.score is not None]
    reason, p, sd = "", 1.0, 0.0
    if len(losses) < rule.n or len(times) < rule.n or not base:
        reason = f"{rule.n - len(losses)} of {rule.n} seeds gave no result"
    else:
        sd = stats.sample_sd(losses)
        distance = rule.target - stats.mean(losses)
        p = stats.student_tail(distance / sd * math.sqrt(rule.n), rule.n - 1) if sd else float(distance < 0)
        if p >= LEVEL:
            reason = f"p = {p:.2g} is not under {LEVEL:g}"
    return Recorded(
        genome=own.name,
        source=certified.genome,
        round=certified.round,
        holds=not reason,
        reason=reason,
        n=len(losses),
        target=rule.target,
        loss=stats.mean(losses) if losses else 0.0,
        loss_sd=sd,
        p=p,
        seconds=stats.mean(times) if times else 0.0,
        seconds_sd=stats.sample_sd(times) if len(times) > 1 else 0.0,
        base_seconds=stats.mean(base) if base else 0.0,
        value=value or 0.0,
        sweeps=spent,
        judge=state.judge_version,
        fingerprint=crew.fingerprint,
    )


def declared(crew: worker.Worker, own: Genome, rule: Record) -> sweep.Constant | None:
    """The one number that the declared setting is made of, in the genome's program."""
    program = crew.state.program(own)
    found = [
        constant
        for path in sorted(program)
        if path.endswith(".py") and crew.benchmark.is_editable(path)
        for constant in sweep.constants(program[path], path)
        if constant.name == rule.constant
    ]
    return found[0] if len(found) == 1 and found[0].value > 0 else None


def with_value(crew: worker.Worker, own: Genome, constant: sweep.Constant, value: float) -> Genome:
    """The genome with the constant set, registered as a fact of the run."""
    program = crew.state.program(own)
    changed = {**program, constant.path: sweep.with_constant(program[constant.path], constant, value)}
    why = f"{constant.name} = {value:g} instead of {constant.value:g}: surplus loss turned into a shorter schedule"
    try:
        patch = patch_between(own, crew.benchmark.base, changed, hypothesis=why)
    except PatchError as error:
        raise AssertionError(f"setting a number did not make a patch: {error}") from error
    shorter = own.with_patch(patch)
    register(crew, shorter, own.name, "record")
    return shorter


def evaluated(crew: worker.Worker, own: Genome, stage: str, k: int) -> Outcome | None:
    """One evaluation of a sweep; None where the genome does not pass, or was lost too often."""
    task = Task(own.name, stage, k)
    while task not in crew.state.outcomes and crew.state.losses.get(task, 0) < search.LOST_LIMIT:
        with crew.turn(alone=False):
            fact = crew.judged(task, own)
        crew.journal.append(fact, *(() if isinstance(fact, Lost) else crew.audited(fact)))
        crew.state.extend(crew.journals.new_entries())
    outcome = crew.state.outcome(task)
    return outcome if outcome is not None and outcome.score is not None else None


def _slope(profile: Profile) -> float:
    slope = profile.settings.get("slope")
    if not isinstance(slope, int | float) or not slope > 0:
        raise UserMistake(f"[record] needs the profile's slope of a race, found {slope!r}; add slope = ...")
    return float(slope)


def _rounded(value: float, is_integer: bool) -> float:
    return float(max(1, math.ceil(value))) if is_integer else float(f"{value:.3g}")


def _measures(pairs: list[search.certify.PairResult]) -> str:
    return ", ".join(sorted({name for pair in pairs for name in pair.candidate.outcome.measures})) or "none"
