"""The page says what the journals say, is well formed, and what a candidate wrote stays text."""

from __future__ import annotations

import re
import threading
import urllib.error
import urllib.request
import xml.etree.ElementTree as xml
from html import unescape
from html.parser import HTMLParser

import pytest
from conftest import TableJudge, library_of, new_worker

from evo import benchmark as benchmarks
from evo import chart, inspect, report, search, stats
from evo import comparison as several
from evo.benchmark import UserMistake
from evo.events import Noted
from evo.genome import Genome, patch_between

HOSTILE = "<script>alert(1)</script> \" ' & </title></style>"
VOID = {"meta", "br"}


class Balance(HTMLParser):
    """Fails where a tag is closed that is not open; keeps what stays open."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> does not close what is open"


def searched(toy, run_of, name="run", **changes):
    run = run_of(toy, name, **changes)
    base = Genome(toy.base_hash)
    tree = {"solve.py": toy.base["solve.py"].replace("WIDTH = 8", "WIDTH = 9")}
    patches = [*library_of(toy), patch_between(base, toy.base, tree, hypothesis=HOSTILE)]
    crew = new_worker(run, toy, TableJudge(), library=patches)
    crew.work()
    crew.journal.append(Noted(HOSTILE))
    return run


@pytest.fixture
def run(toy, run_of):
    return searched(toy, run_of)


def test_the_page_says_what_the_journals_say(run):
    story = report.read(run.path)
    text = unescape(report.page(story))
    state, described = story.state, story.objective.describe
    champion = state.champion()
    assert champion is not None
    assert f"<b>{described(champion.gain)}</b> over the base" in text
    assert f"[{described(champion.low)}, {described(champion.high)}]" in text
    judged = [e for _, e in state.outcomes.values() if e.task.genome != state.base.name]
    drawn = [e.outcome for e in judged if e.task.stage.startswith(("screen", "finalist"))]
    passed, failed = sum(o.score is not None for o in drawn), sum(o.score is None for o in drawn)
    progress = text.partition("How it went")[2].partition("</svg>")[0]
    assert progress.count("<circle") == passed and progress.count('class="failed"') == failed > 0
    assert "CRASHED" in text and "too deep" in text
    for patch in state.genome(champion.genome).patches:
        assert patch.name in text and patch.hypothesis in text
    assert all(verdict.reason in text for _, (_, verdict) in state.verdicts.items() if verdict.kind == "refuted")


def test_the_fold_is_the_one_of_inspect(run):
    story = report.read(run.path)
    *_, state = inspect.opened(run.path)
    assert story.state.summary() == state.summary()
    assert [moment.at for moment in story.moments] == list(range(1, state.used + 1))
    best = next(iter(state.archive.ranking()))
    assert story.believed[-1] == (state.used, state.archive.posterior(best) * state.settings.typical_gain)


def test_what_a_candidate_wrote_stays_text(run):
    page = report.page(report.read(run.path))
    assert "alert(1)" in page and "<script" not in page
    parser = Balance()
    parser.feed(page)
    assert set(parser.open) <= {"html", "body"} and parser.seen.count("title") > 1
    assert "default-src 'none'" in page
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.S):
        xml.fromstring(svg)


def test_a_run_without_a_fact_has_a_page(toy, run_of):
    page = report.page(report.read(run_of(toy).path))
    assert "Nothing is certified yet" in page and "Nothing has been judged yet" in page


def test_runs_are_compared_by_what_they_certified(toy, run_of):
    runs = [searched(toy, run_of, f"evo{n}", seed=n) for n in range(2)]
    runs += [searched(toy, run_of, f"aa{n}", seed=n, control="aa") for n in range(2)]
    stories = [report.read(run.path) for run in runs]
    text = unescape(several.comparison(stories))
    gains = [several.certified_gain(story) for story in stories]
    assert gains[0] > 0 and gains[2:] == [0, 0]  # the control judges the base and can certify nothing
    difference, half = stats.welch(gains[2:], gains[:2])
    described = stories[0].objective.describe
    assert f"{described(difference)} [{described(difference - half)}, {described(difference + half)}]" in text
    assert "An equal budget of 60 evaluations" in text


def test_unequal_budgets_and_other_benchmarks_are_said(toy, run_of):
    one, two = (report.read(run_of(toy, f"r{n}", evaluations=n).path) for n in (50, 60))
    assert "no comparison at equal budget" in several.comparison([one, two])
    (toy.root / "program" / "solve.py").write_text("def solve():\n    return 1\n")
    changed = benchmarks.load(str(toy.root))
    other = report.read(run_of(changed, "other").path)
    with pytest.raises(UserMistake, match="expected runs of one benchmark"):
        several.comparison([one, other])


def test_the_command_writes_the_page_into_the_run(run, capsys, tmp_path):
    assert report.main([str(run.path)]) == 0
    assert capsys.readouterr().out.strip() == str(run.report) and run.report.read_text().startswith("<!doctype html>")
    assert report.main([str(tmp_path / "nothing")]) == 2
    assert "is not a run" in capsys.readouterr().err


def test_a_live_page_is_for_this_machine_only(run):
    told: list[str] = []
    ready = threading.Event()
    thread = threading.Thread(
        target=report.serve, args=([run.path], 0, lambda text: (told.append(text), ready.set())), daemon=True
    )
    thread.start()
    assert ready.wait(10)
    url = told[0].split()[0]
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert b'http-equiv="refresh"' in answer.read()
    for path, headers, code in (("elsewhere", {}, 404), ("", {"Host": "evil.example:80"}, 403)):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(url + path, headers=headers), timeout=10)
        assert refused.value.code == code


@pytest.mark.parametrize("low, high", [(0, 1), (-0.37, 12.5), (1e-7, 3e-7), (-5000, 3)])
def test_ticks_are_round_and_inside(low, high):
    found = chart.ticks(low, high)
    assert 2 <= len(found) <= 11 and low - 1e-9 <= found[0] and found[-1] <= high + 1e-9
    step = found[1] - found[0]
    assert float(f"{step:.0e}") == pytest.approx(step)


def test_what_lies_outside_is_drawn_at_the_edge():
    axis = chart.Axis(0.0, 10.0, 100.0, 200.0)
    assert [axis.at(value) for value in (-5, 0, 5, 10, 50)] == [100, 100, 150, 200, 200]


@pytest.mark.parametrize("df, t", [(1, 12.706), (2, 4.303), (5, 2.571), (30, 2.042)])  # of printed tables
def test_students_quantile(df, t):
    assert stats.student_quantile(0.975, df) == pytest.approx(t, abs=6e-4)


def test_the_champion_is_shown_with_what_the_judge_measured(run, monkeypatch):
    monkeypatch.setattr(search.State, "said", lambda self, name: f"12 us in <b>{name}")
    story = report.read(run.path)
    assert f"12 us in &lt;b&gt;{story.state.champion().genome}" in report.page(story)
