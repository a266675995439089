"""`python -m evo.report DIR`: a run as one page of HTML; several runs side by side; the same live with `--serve`.

    python -m evo.report DIR                one run, or a suite of kernel tasks; writes DIR/report.html
    python -m evo.report DIR DIR... [--out FILE]      which of them gained more, grouped by control and model
    python -m evo.report DIR... --serve [PORT]        on 127.0.0.1, read anew at each look

A page is one file without script, and nothing in it is fetched from elsewhere.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from evo import certify, genome, inspect, stats
from evo.benchmark import UserMistake
from evo.cards import one_line
from evo.chart import Band, Line, Point, Row, forest, plot, span
from evo.comparison import comparison, is_suite, suite_page, suite_runs
from evo.events import Certified, Proposed, Rejected, Task
from evo.page import Scale, document, section, table
from evo.rundir import RunDir, write_text
from evo.story import Moment, Story, read

CATEGORIES = ("optimizer", "attention", "kernel", "precision")
FOOTPRINTS = ("constants", "local", "structural", "kernel")
PORT = 8765
COMMON = 8  # reasons for failing that are shown
# rows of a run that have a place of their own
ELSEWHERE = {"benchmark", "champion", "gain", "p", "patch", "quarantine"}


# --- one run -------------------------------------------------------------------------------------------------------


def page(story: Story, refresh: bool = False) -> str:
    title = f"{story.benchmark.name}, {story.profile.name}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="faint">{escape(_about(story))}</p>',
        _verdict(story),
        section("The run", table([], [row for row in story.rows() if row[0] not in ELSEWHERE])),
        section("How it went", _progress(story)),
        section("Certification", _certification(story)),
        section("What each patch is worth", _shares(story)),
        section("The champion", _champion(story)),
        section("The archive", _archive(story)),
        section("Who proposed", _operators(story)),
        section("Why candidates failed", _failures(story)),
        section("Notes and marks", _notes(story)),
        section("What models cost", _cost(story)),
        section("Where it ran", _workers(story)),
    ]
    return document(title, parts, refresh)


def _about(story: Story) -> str:
    goal, summary = story.objective, story.benchmark.summary
    return f"{summary}{'; ' if summary else ''}score: {goal.name} in {goal.unit}, to {goal.direction}"


def _verdict(story: Story) -> str:
    champion, state = story.state.champion(), story.state
    if champion is None:
        best = next(iter(state.archive.ranking()), None)
        believed = ""
        if best is not None and (gain := state.archive.posterior(best) * state.settings.typical_gain) > 0:
            believed = f" The search believes in {escape(story.objective.describe(gain))} at best; that is no proof."
        return f'<p class="verdict">Nothing is certified{"" if state.stops else " yet"}.{believed}</p>'
    described = story.objective.describe
    patches = len(state.genome(champion.genome).patches)
    return (
        f'<p class="verdict"><b>{escape(described(champion.gain))}</b> over the base, certified: 95% interval '
        f"[{escape(described(champion.low))}, {escape(described(champion.high))}], p = {champion.p:.2g}, "
        f"{champion.pairs} pairs on fresh seeds, {patches} {'patch' if patches == 1 else 'patches'}.</p>"
    )


def _progress(story: Story) -> str:
    state, scale = story.state, Scale(story.objective)
    if not story.moments:
        return '<p class="faint">Nothing has been judged yet.</p>'
    points = [point for moment in story.moments if (point := _point(story, moment, scale)) is not None]
    lines = [Line([(x, scale.number(gain)) for x, gain in story.believed], "believed", "best posterior", steps=True)]
    bands = [
        Band(
            min(first for first, other in story.certified if other.genome == v.genome),
            scale.number(v.low),
            scale.number(v.gain),
            scale.number(v.high),
            "certified",
            f"certified {v.genome}: {story.objective.describe(v.gain)}",
        )
        for _, v in story.certified[-1:]
    ]
    values = [point.y for point in points if point.y is not None]
    shown = [*values, *(y for line in lines for _, y in line.points), *(b.high for b in bands)]
    top = max(shown, default=0.0)
    drawn = plot(
        points,
        [line for line in lines if line.points],
        bands,
        x_end=state.used,
        y_range=span(shown, floor=-max(top, 1e-12)),
        x_label="evaluations",
        y_told=scale.told,
    )
    keys = "".join(f'<span class="key {name}"></span>{name}' for name in (*CATEGORIES, "other"))
    return (
        f"<figure>{drawn}<figcaption>{keys}<span class='key failed'></span>failed"
        "<span class='key line'></span>best posterior<span class='key certified'></span>certified<br>"
        "Each point is one evaluation of one seed, noise included: the highest of many is too good. What the search "
        "believes is the line, what is proved is the band. Hollow points lie below the figure. Certification's own "
        "evaluations are not drawn.</figcaption></figure>"
    )


def _point(story: Story, moment: Moment, scale: Scale) -> Point | None:
    state, task, outcome = story.state, moment.event.task, moment.event.outcome
    if task.genome == state.base.name or not (task.stage == "screen" or task.stage.startswith("finalist")):
        return None
    proposal = state.proposals.get(task.genome)
    category = proposal.category if proposal and proposal.category in CATEGORIES else "other"
    by = f"{proposal.operator}, {proposal.category}, {proposal.footprint}" if proposal else "unknown"
    ideas = one_line(inspect.ideas(state, task.genome), 160) if proposal else ""
    about = f"{task.genome} ({by}), {task.stage}: {ideas}"
    if outcome.score is None or state.base_mean is None or state.objective.complaint(outcome.score):
        return Point(moment.at, None, "failed", f"{outcome.status.value} {about}")
    gain = state.gain_in(task, outcome.score)
    return Point(moment.at, scale.number(gain), category, f"{story.objective.describe(gain)} {about}")


def _certification(story: Story) -> str:
    state, scale = story.state, Scale(story.objective)
    rows = []
    for (number, name), (_, verdict) in sorted(state.verdicts.items()):
        told = f"certified, p = {verdict.p:.2g}" if isinstance(verdict, Certified) else verdict.reason
        if stale := state.staleness(verdict):
            told = f"stale: {stale}"
        rows.append(
            Row(
                f"{name}, round {number}",
                scale.number(verdict.low),
                scale.number(verdict.gain),
                scale.number(verdict.high),
                "certified" if isinstance(verdict, Certified) and not stale else "refuted",
                f"{verdict.pairs} pairs, {told}",
                _pair_values(story, state.certification(number, name), scale),
            )
        )
    if not rows:
        return '<p class="faint">No candidate has reached certification.</p>'
    caption = (
        "Base and candidate side by side on one device with seeds that no search has used. Small dots are pairs, bars "
        "are 95% intervals that hold at any stopping time."
    )
    return f"<figure>{forest(rows, scale.told)}<figcaption>{caption}</figcaption></figure>"


def _pair_values(story: Story, pairs: Sequence[certify.PairResult], scale: Scale) -> list[tuple[float, str]]:
    found = []
    for number, pair in enumerate(pairs):
        difference = pair.difference(story.objective)
        if difference is not None:
            ours, theirs = pair.candidate.outcome.score, pair.rival.outcome.score
            found.append((scale.number(difference), f"pair {number}: {theirs:.5g} -> {ours:.5g}"))
    return found


def _shares(story: Story) -> str:
    """Leave-one-out: the paired gain of a genome over itself without one patch."""
    state, scale = story.state, Scale(story.objective)
    latest: dict[tuple[str, str], str] = {}
    for stage in sorted({task.stage for task in state.outcomes if task.stage.startswith("leave")}, key=_when_left):
        _, own_name, patch_name = stage.split("-", 2)
        latest[own_name, patch_name] = stage
    weighed = [own_name for own_name, _ in latest]
    champion = state.champion()
    shown = champion.genome if champion and champion.genome in weighed else weighed[-1] if weighed else ""
    rows = []
    for (own_name, patch_name), stage in latest.items():
        if own_name != shown or own_name not in state.proposals:
            continue  # of several certifications the champion's, else the last
        own = state.genome(own_name)
        patch = next((patch for patch in own.patches if patch.name == patch_name), None)
        if patch is None:
            continue
        pairs = state.pairs(stage, own_name, own.without(patch_name).name)
        differences = certify.differences_of(pairs, state.objective)
        if len(differences) < 2:
            continue
        spread = state.spread(max((key[0] for key in state.verdicts), default=-1) + 1, own_name)
        low, high = stats.interval(differences, *spread.of(differences))
        gain = stats.mean(differences)
        label = one_line(patch.hypothesis, 120) or patch_name
        style = "certified" if low > 0 else "dropped" if gain <= 0 else "refuted"
        told = f"{story.objective.describe(gain)} in {len(differences)} pairs"
        values = _pair_values(story, pairs, scale)
        low, middle, high = (scale.number(value) for value in (low, gain, high))
        rows.append(Row(label, low, middle, high, style, told, values))
    if not rows:
        return ""
    caption = f"{shown} against itself without the patch, in pairs; red did not pay and was dropped."
    return f"<figure>{forest(rows, scale.told)}<figcaption>{caption}</figcaption></figure>"


def _when_left(stage: str) -> tuple[int, str]:
    number = stage.removeprefix("leave").partition("-")[0]
    return (int(number) if number.isdigit() else 0), stage


def _champion(story: Story) -> str:
    state = story.state
    champion = state.champion()
    name = champion.genome if champion else next(iter(state.archive.ranking()), None)
    if name is None:
        return ""
    own = state.genome(name)
    patches = "".join(
        f"<li><code>{escape(patch.name)}</code> {escape(patch.hypothesis or '')}"
        + (f' <span class="faint">({escape(patch.source)})</span>' if patch.source else "")
        + "</li>"
        for patch in own.patches
    )
    lineage = [
        (
            one["genome"],
            one["operator"],
            story.objective.describe(one["posterior_gain"]),
            "; ".join([one["barred"], *one["doubts"]]).strip("; "),
        )
        for one in inspect.lineage(state, name)
    ]
    diff = genome.diff_trees(story.benchmark.base, state.program(own))
    word = "certified" if champion else "best by posterior, not certified"
    said = f"<pre>{escape(text)}</pre>" if (text := state.said(name)) else ""
    return (
        f"<p><code>{escape(name)}</code>, {word}. Its patches, in order:</p><ol>{patches}</ol>{said}"
        f"<details><summary>the whole change, as one diff</summary><pre>{_diff(diff)}</pre></details>"
        f"<details><summary>its lineage, {len(lineage)} genomes</summary>"
        f"{table(['genome', 'operator', 'posterior', 'doubts'], lineage)}</details>"
    )


def _diff(text: str) -> str:
    styles = {"+": "add", "-": "del", "@": "at"}
    return "\n".join(
        f'<span class="{styles[line[0]]}">{escape(line)}</span>' if line[:1] in styles else escape(line)
        for line in text.split("\n")
    )


def _archive(story: Story) -> str:
    """Categories by footprints: each cell's elite and how many were tried there."""
    state, typical = story.state, story.state.settings.typical_gain
    elites, certified = state.archive.elites(), state.certified()
    tried = Counter(member.cell for member in state.archive.members() if member.cell[0] != "base")
    if not tried:
        return '<p class="faint">Nothing has been tried yet.</p>'
    names = {c for c, _ in tried}
    categories = [c for c in CATEGORIES if c in names] + sorted(names - set(CATEGORIES))
    depths = {f for _, f in tried}
    footprints = [f for f in FOOTPRINTS if f in depths] + sorted(depths - set(FOOTPRINTS))
    top = max((state.archive.posterior(name) for name in elites.values()), default=0.0)
    lines = []
    for category in categories:
        cells = []
        for footprint in footprints:
            cell = category, footprint
            if cell not in tried:
                cells.append("<td class='cell'></td>")
                continue
            name = elites.get(cell)
            posterior = state.archive.posterior(name) if name else 0.0
            style = ""
            if name and posterior > 0 and top > 0:
                style = f' gains" style="--share: {posterior / top:.2f}'
            told = escape(story.objective.describe(posterior * typical)) if name else "none passed"
            star = " certified" if name in certified else ""
            ideas = escape(one_line(inspect.ideas(state, name), 300)) if name else ""
            cells.append(
                f'<td class="cell{style}" title="{ideas}">{told}{star}<br><span class="faint">'
                f"{tried[cell]} tried</span></td>"
            )
        lines.append(f"<tr><th>{escape(category)}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th>{escape(footprint)}</th>" for footprint in footprints)
    return (
        f"<table><tr><th></th>{head}</tr>{''.join(lines)}</table>"
        '<p class="faint">The best of each cell by posterior; a cell is what a genome touches and how deep it goes.</p>'
    )


def _operators(story: Story) -> str:
    state = story.state
    champion = state.champion()
    ancestors = {one["genome"] for one in inspect.lineage(state, champion.genome)} if champion else set()
    rows = []
    slots = [event for _, event in state.slots.values()]
    for operator, count in sorted(Counter(event.operator for event in slots).items(), key=lambda i: (-i[1], i[0])):
        own = [event for event in slots if event.operator == operator]
        named = [event for event in own if isinstance(event, Proposed)]
        tasks = [Task(event.genome, "screen") for event in named]
        outcomes = {task: found for task in tasks if (found := state.outcome(task)) is not None}
        gains = [
            state.gain_in(task, o.score)
            for task, o in outcomes.items()
            if o.score is not None and state.base_mean is not None and not state.objective.complaint(o.score)
        ]
        rows.append(
            (
                operator,
                count,
                sum(isinstance(event, Rejected) for event in own),
                sum(outcome.score is None for outcome in outcomes.values()),
                sum(gain > 0 for gain in gains),
                story.objective.describe(max(gains)) if gains else "",
                sum(event.genome in ancestors for event in named) or "",
            )
        )
    head = ["operator", "slots", "rejected", "failed", "above the base", "best screen", "in the champion's lineage"]
    return table(head, rows) if rows else ""


def _failures(story: Story) -> str:
    outcomes = [event.outcome for _, event in story.state.outcomes.values() if event.outcome.score is None]
    rejected = [event.reason for _, event in story.state.slots.values() if isinstance(event, Rejected)]
    rows = [
        (number, status, reason)
        for (status, reason), number in Counter(
            (outcome.status.value, one_line(outcome.detail.strip().rpartition("\n")[2], 160)) for outcome in outcomes
        ).most_common(COMMON)
    ]
    rows += [
        (number, "rejected", reason)
        for reason, number in Counter(one_line(reason, 160) for reason in rejected).most_common(COMMON)
    ]
    if story.state.lost:
        rows.append((story.state.lost, "LOST", one_line(story.state.loss_reason, 160)))
    return table(["times", "status", "reason (the commonest)"], rows) if rows else ""


def _notes(story: Story) -> str:
    state = story.state
    rows = [("note", text) for _, _, text in sorted(state.notes, key=lambda item: (item[1], item[0]))]
    rows += [(mark, name) for name, marks in sorted(state.marks.items()) for mark in sorted(marks)]
    rows += [("quarantine", f"{name}: {reason}") for name, (_, reason) in sorted(state.quarantined.items())]
    return table([], rows)


def _cost(story: Story) -> str:
    found = inspect.cost(story.state)
    if not found["calls"]:
        return ""
    rows = [
        (name, part["calls"], f"{part['usd']:.4f}", part["input_tokens"], part["output_tokens"], _share(part))
        for name, part in [("all", found), ("answers of no use", found["of_no_use"]), *found["by_model"].items()]
    ]
    return table(["", "calls", "USD", "tokens in", "tokens out", "from cache"], rows)


def _share(part: dict) -> str:
    return "" if part["from_cache"] is None else f"{100 * part['from_cache']:.1f}%"


def _workers(story: Story) -> str:
    state = story.state
    began = min((at for _, at, _ in state.starts), default=0.0)
    rows = [
        (place[0], start.role, f"{at - began:.0f} s", start.device, start.fingerprint)
        for place, at, start in sorted(state.starts, key=lambda item: (item[1], item[0]))
    ]
    provenance = {start.fingerprint: start.provenance for _, _, start in state.starts if start.provenance}
    about = "".join(
        f"<details><summary>fingerprint {escape(name)}</summary>{table([], sorted(found.items()))}</details>"
        for name, found in sorted(provenance.items())
    )
    frozen = story.run.settings_file.read_text()
    return (
        table(["worker", "role", "joined after", "device", "fingerprint"], rows)
        + about
        + f"<details><summary>run.toml</summary><pre>{escape(frozen)}</pre></details>"
    )


# --- the command ---------------------------------------------------------------------------------------------------


def rendered(directories: Sequence[Path], refresh: bool = False) -> str:
    if len(directories) > 1:
        return comparison([read(directory) for directory in directories], refresh)
    only = directories[0]
    if is_suite(only):
        return suite_page(only, refresh)
    return page(read(only), refresh)


def write(directories: Sequence[Path], out: Path | None) -> Path:
    """Writes the page and, of a suite, its tasks' pages too; returns where it is."""
    if out is None:
        out = Path("report.html") if len(directories) > 1 else RunDir(directories[0]).report
    if len(directories) == 1 and is_suite(directories[0]):
        for place in suite_runs(directories[0]):
            write([place], None)
    text = rendered(directories)
    try:
        write_text(out, text)
    except OSError as error:
        raise UserMistake(f"cannot write {out}: {error.strerror}; name another file by --out") from error
    return out


def serve(directories: Sequence[Path], port: int, say: Callable[[str], object] = print) -> None:
    """Answers until interrupted, on this machine only."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # a page elsewhere that calls itself by another name must not read a run through the user's browser
            host = self.headers.get("Host", "").rpartition(":")[0]
            if host not in ("127.0.0.1", "localhost"):
                self.send_error(403, "expected 127.0.0.1 or localhost as the host")
                return
            places = [part for part in self.path.split("/") if part]
            place = directories
            if len(places) == 2 and places[1] == "report.html" and is_suite(directories[0]):
                place = [one for one in suite_runs(directories[0]) if one.name == places[0]]
            if (places and place is directories) or not place:
                self.send_error(404, "expected /")
                return
            try:
                text, code = rendered(place, refresh=True), 200
            except UserMistake as mistake:
                text, code = f"<!doctype html><p>{escape(str(mistake))}", 500
            body = text.encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Answer)
    except OSError as error:
        raise UserMistake(
            f"cannot listen on port {port}: {error.strerror}; name another one by --serve PORT"
        ) from error
    with server:
        say(f"http://127.0.0.1:{server.server_address[1]}/ (Ctrl-C ends it)")
        with suppress(KeyboardInterrupt):
            server.serve_forever()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m evo.report", description="A run as one page of HTML.")
    parser.add_argument("dirs", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--out", type=Path, metavar="FILE", help="instead of DIR/report.html")
    parser.add_argument("--serve", type=int, nargs="?", const=PORT, metavar="PORT", help="live, on this machine only")
    found = parser.parse_args(arguments)
    try:
        if found.serve is not None:
            rendered(found.dirs)  # a mistake is said here, not in a browser
            serve(found.dirs, found.serve)
        else:
            print(write(found.dirs, found.out))
    except UserMistake as mistake:
        print(f"evo.report: {mistake}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
