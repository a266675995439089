"""A run told in the order of its events: what was judged when, and what was believed and proved by then."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evo import inspect, journal, search
from evo.benchmark import Benchmark, Objective, Profile
from evo.events import Certified, Evaluated
from evo.rundir import RunDir


@dataclass(frozen=True)
class Moment:
    """One judged task in the order of the run's clocks: the `at`-th evaluation."""

    at: int
    event: Evaluated


@dataclass(frozen=True)
class Story:
    """A run as it stands, and how it came there."""

    run: RunDir
    benchmark: Benchmark
    profile: Profile
    state: search.State
    moments: tuple[Moment, ...]
    believed: tuple[tuple[float, float], ...]  # evaluations, the best posterior then in units of gain
    certified: tuple[tuple[int, Certified], ...]  # certificates, and the evaluations that were used by then

    @property
    def objective(self) -> Objective:
        return self.benchmark.objective

    def rows(self) -> list[tuple[str, str]]:
        return inspect.rows(self.state, self.benchmark, self.profile)


def read(directory: Path) -> Story:
    """Folds a run's facts in the order of their times and notes on the way what was believed when."""
    run, benchmark, profile, state = inspect.begun(directory)
    moments: list[Moment] = []
    believed: list[tuple[float, float]] = []
    certified: list[tuple[int, Certified]] = []
    for entry in sorted(journal.Journals(run.events).new_entries(), key=lambda entry: (entry.at, entry.place)):
        before = state.used
        state.extend([entry])
        if isinstance(entry.event, Evaluated) and state.used > before:
            moments.append(Moment(state.used, entry.event))
            best = next(iter(state.archive.ranking()), None)
            gain = max(0.0, state.archive.posterior(best) * state.settings.typical_gain) if best else 0.0
            if state.base_mean is not None and (not believed or believed[-1][1] != gain):
                believed.append((state.used, gain))
        elif isinstance(entry.event, Certified):
            certified.append((state.used, entry.event))
    if believed:
        believed.append((state.used, believed[-1][1]))
    return Story(run, benchmark, profile, state, tuple(moments), tuple(believed), tuple(certified))
