"""Several runs side by side: by control and model, or as the tasks of a suite."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from evo import sol, stats
from evo.benchmark import Objective, UserMistake
from evo.chart import Line, plot, span
from evo.page import Link, Scale, document, section, table
from evo.rundir import RunDir
from evo.story import Story, read

GROUPS = 5  # colours


def comparison(stories: Sequence[Story], refresh: bool = False) -> str:
    """Runs of one benchmark grouped by control and model: what each certified, means, differences."""
    first = stories[0]
    for story in stories[1:]:
        mine, theirs = (f"{s.benchmark.name}, {s.profile.name}, base {s.benchmark.base_hash}" for s in (first, story))
        if mine != theirs:
            raise UserMistake(f"expected runs of one benchmark, found {mine} and {theirs} in {story.run.path}")
    groups: dict[str, list[Story]] = {}
    for story in stories:
        groups.setdefault(group_of(story, stories), []).append(story)
    title = f"{first.benchmark.name}, {first.profile.name}: {len(stories)} runs"
    parts = [f"<h1>{escape(title)}</h1>", _budgets(stories), _groups(groups), _each(groups)]
    parts.append(section("How they went", _curves(groups)))
    return document(title, parts, refresh)


def group_of(story: Story, stories: Sequence[Story]) -> str:
    """The control's name, or evo; the model beside it where the runs have several."""
    settings = story.state.settings
    several = len({other.state.settings.model for other in stories}) > 1
    model = re.sub(r"[^:,= ]*/", "", settings.model)  # of a file its name alone
    return (settings.control or "evo") + (f", {model}" if several else "")


def _budgets(stories: Sequence[Story]) -> str:
    budgets = sorted({story.state.settings.evaluations for story in stories})
    used = sorted(story.state.used for story in stories)
    if len(budgets) == 1:
        return (
            f'<p class="faint">An equal budget of {budgets[0]} evaluations each; {used[0]} to {used[-1]} were used.</p>'
        )
    return (
        f'<p class="bad">Their budgets differ, {budgets[0]} to {budgets[-1]} evaluations: '
        "this is no comparison at equal budget.</p>"
    )


def certified_gain(story: Story) -> float:
    """What its user has in hand: the champion's gain, 0 where nothing is certified."""
    champion = story.state.champion()
    return champion.gain if champion else 0.0


def _groups(groups: dict[str, list[Story]]) -> str:
    objective = next(iter(groups.values()))[0].objective
    reference = next(iter(groups))
    rows = []
    for name, runs in groups.items():
        gains = [certified_gain(run) for run in runs]
        theirs = [certified_gain(run) for run in groups[reference]]
        within = ""
        if len(gains) > 1:
            half = stats.student_quantile(0.975, len(gains) - 1) * stats.sample_sd(gains) / math.sqrt(len(gains))
            within = _interval(objective, stats.mean(gains), half)
        against = ""
        if name != reference and len(gains) > 1 and len(theirs) > 1:
            difference, half = stats.welch(gains, theirs)
            against = f"{objective.describe(difference)} {_interval(objective, difference, half)}"
        proved = sum(run.state.champion() is not None for run in runs)
        rows.append((name, len(runs), proved, objective.describe(stats.mean(gains)), within, against))
    head = ["group", "runs", "certified", "mean gain", "95% interval (t)", f"over {reference} (Welch)"]
    return section("Which gained more", table(head, rows) + '<p class="faint">A run without a certificate is 0.</p>')


def _interval(objective: Objective, middle: float, half: float) -> str:
    return f"[{objective.describe(middle - half)}, {objective.describe(middle + half)}]"


def _each(groups: dict[str, list[Story]]) -> str:
    rows = []
    for name, runs in groups.items():
        for run in runs:
            state, champion = run.state, run.state.champion()
            gain, interval, p = "none", "", ""
            if champion is not None:
                gain, p = run.objective.describe(champion.gain), f"{champion.p:.2g}"
                interval = f"[{run.objective.describe(champion.low)}, {run.objective.describe(champion.high)}]"
            seconds = f"{state.last_at - state.first_at:.0f}" if state.starts else ""
            row = (name, run.run.path.name, state.settings.seed, state.used, gain, interval, p, seconds)
            rows.append((*row, f"{state.usd:.2f}"))
    head = ["group", "run", "seed", "evaluations", "certified gain", "95% interval", "p", "seconds", "USD"]
    return section("Each run", table(head, rows))


def _curves(groups: dict[str, list[Story]]) -> str:
    scale = Scale(next(iter(groups.values()))[0].objective)
    lines = [
        Line(
            [(x, scale.number(gain)) for x, gain in run.believed],
            f"group{number % GROUPS}",
            f"{name}: {run.run.path.name}",
            steps=True,
        )
        for number, (name, runs) in enumerate(groups.items())
        for run in runs
        if run.believed
    ]
    if not lines:
        return '<p class="faint">Nothing has been judged yet.</p>'
    end = max(run.state.used for runs in groups.values() for run in runs)
    drawn = plot(
        [],
        lines,
        x_end=end,
        y_range=span([y for line in lines for _, y in line.points]),
        x_label="evaluations",
        y_told=scale.told,
    )
    keys = "".join(
        f'<span class="key group{number % GROUPS}"></span>{escape(name)}' for number, name in enumerate(groups)
    )
    caption = "The best posterior of each run: believed, not proved."
    return f"<figure>{drawn}<figcaption>{keys}<br>{caption}</figcaption></figure>"


def suite_page(directory: Path, refresh: bool = False) -> str:
    """Tasks of a suite: base, champion, gain; the mean counts a task without a score as 0."""
    rows: list[tuple[object, ...]] = []
    base: dict[str, float | None] = {}
    best: dict[str, float | None] = {}
    for place in suite_runs(directory):
        story = read(place)
        state, champion = story.state, story.state.champion()
        base[place.name] = state.base_mean
        best[place.name] = None if state.base_mean is None else state.base_mean + (champion.gain if champion else 0.0)
        rows.append(
            (
                Link(place.name, f"{place.name}/report.html"),
                state.used,
                "" if state.base_mean is None else f"{state.base_mean:.3f}",
                "" if best[place.name] is None else f"{best[place.name]:.3f}",
                f"{champion.gain:+.3f} [{champion.low:+.3f}, {champion.high:+.3f}]" if champion else "none",
                f"{champion.p:.2g}" if champion else "",
                len(state.archive.elites()),
            )
        )
    names = sorted(base)
    means = [f"{sol.suite_mean(scores, names):.3f}" for scores in (base, best)] if names else ["", ""]
    rows.append((f"mean of {len(names)}, a task without a score as 0", "", *means, "", "", ""))
    head = ["task", "evaluations", "S of the base", "S with what is certified", "certified gain", "p", "cells"]
    return document(directory.name, [f"<h1>{escape(directory.name)}</h1>", table(head, rows)], refresh)


def suite_runs(directory: Path) -> list[Path]:
    return sorted(place for place in directory.iterdir() if RunDir(place).exists())


def is_suite(directory: Path) -> bool:
    if RunDir(directory).exists() or not directory.is_dir():
        return False
    return (directory / "suite.jsonl").is_file() or bool(suite_runs(directory))
