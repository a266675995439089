"""`python -m evo.inspect DIR`: what a run knows, as text or JSON, while it runs or later."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evo import benchmark as benchmarks
from evo import certify, events, genome, journal, library, operators, search, stats
from evo.benchmark import Benchmark, Profile, UserMistake
from evo.events import Call, Certified, Evaluated, Recorded, Refuted, Rejected
from evo.genome import Genome, PatchError
from evo.outcome import visible
from evo.rundir import RunDir


def summary(state: search.State, benchmark: Benchmark, profile: Profile) -> dict[str, Any]:
    return {"benchmark": benchmark.name, "profile": profile.name, **state.summary()}


def verdict_line(state: search.State, verdict: Certified | Refuted) -> str:
    """One line for a person: certified with its interval, or not and why."""
    described = state.objective.describe
    words = (
        f"{described(verdict.gain)} [{described(verdict.low)}, {described(verdict.high)}] over {verdict.pairs} pairs"
    )
    if isinstance(verdict, Certified):
        held = f" (but no champion: {objection})" if (objection := state.objection(verdict.genome)) else ""
        return f"CERTIFIED {verdict.genome}{held}: {words}, p = {verdict.p:.2g}: {ideas(state, verdict.genome)}"
    return f"not certified {verdict.genome}: {words}; {verdict.reason}"


def ideas(state: search.State, name: str) -> str:
    patches = state.genome(name).patches
    return "; ".join(patch.hypothesis or patch.name for patch in patches) or "the base"


def table(state: search.State, benchmark: Benchmark, profile: Profile) -> str:
    found = rows(state, benchmark, profile)
    width = max(len(key) for key, _ in found)
    return "\n".join(f"{key:<{width}}  {value}" for key, value in found)


def rows(state: search.State, benchmark: Benchmark, profile: Profile) -> list[tuple[str, str]]:
    """What stands at the end of a run: baseline, champion, gain with interval, p, its patches, what it took."""
    found = summary(state, benchmark, profile)
    objective = benchmark.objective
    told = [("benchmark", f"{benchmark.name}, profile {profile.name}")]
    if state.trust != "isolated":
        told.append(("trust", f"{state.trust}: the program prints its own metric; no score here is proof"))
    if state.base_mean is not None:
        told.append(("baseline", f"{state.base_mean:.5g} {objective.unit} (mean of {len(state.base_scores)} runs)"))
    champion = state.champion()
    for verdict in state.stale().values():
        why = state.staleness(verdict)
        told.append(("stale", f"{verdict.genome} {objective.describe(verdict.gain)}: {why}; --certify makes it anew"))
    if champion is None:
        tried = f"{len({genome for _, genome in state.verdicts})} candidate(s) reached certification"
        told.append(("champion", f"none certified; {tried}"))
    else:
        told.append(("champion", champion.genome))
        described = objective.describe
        interval = f"[{described(champion.low)}, {described(champion.high)}]"
        told.append(("gain", f"{described(champion.gain)} 95% {interval}, {champion.pairs} pairs"))
        told.append(("p", f"{champion.p:.2g} (E = {champion.e_value:.4g})"))
        if (searched := state.searched(champion.genome)) is not None:
            told.append(("searched", f"{described(searched)} is what the search believed (its posterior)"))
        told += [("doubt", text) for text in state.doubts(champion.genome)]
        told += [(name, text) for name, text in beside(state, champion)]
        for patch in state.genome(champion.genome).patches:
            told.append(("patch", f"{patch.name}  {patch.hypothesis}"))
    told += [("record", record_line(found)) for _, found in sorted(state.records.items())]
    if mixed := state.mixed():
        screens = f"{mixed} of {state.screened} screens are of another device or judge than the base runs"
        told.append(("mixed", f"{screens}: their gains do not compare, certified ones do"))
    told += [("drift", text) for text in drifts(state)]
    told += [("quarantine", f"{row['genome']} {row['reason']}") for row in quarantine(state) if row["held"]]
    if unanswered := [e for _, e in state.slots.values() if isinstance(e, Rejected) and e.operator == "model"]:
        answered = sum(len(event.calls) for _, event in state.slots.values())
        last = " ".join(unanswered[-1].reason.split())[:200]
        told.append(("model", f"{answered} calls answered, {len(unanswered)} proposals without an answer: {last}"))
    told.append(("evaluations", f"{found['evaluated']} judged, {found['rejected']} rejected, {found['lost']} lost"))
    told.append(("cells", str(found["cells"])))
    told.append(("time", f"{found['seconds']:.0f} s from the first event to the last, {found['usd']:.2f} USD"))
    return told


def record_line(found: Recorded) -> str:
    """The record rule's answer, on raw seconds."""
    held = "holds" if found.holds else f"does not hold, {found.reason}"
    loss = f"loss {found.loss:.4f} (sd {found.loss_sd:.4f}) against {found.target:g}, p = {found.p:.2g}"
    times = f"raw seconds {found.base_seconds:.4g} -> {found.seconds:.4g} (sd {found.seconds_sd:.2g})"
    return f"{found.genome}: {held}: {loss}; {times}; n = {found.n}, {found.sweeps} sweeps"


def drifts(state: search.State) -> list[str]:
    """How far the base moved between the run's first evaluations and each round's certifications."""
    lines = []
    for number in sorted({key[0] for key in state.verdicts}):
        if (found := state.drift(number)) is not None:
            told = "DRIFTED" if found[1] < certify.DRIFTED else "no drift"
            moved = state.objective.describe(found[0])
            lines.append(f"round {number}: the base's own score {moved}, p = {found[1]:.2g}: {told}")
    return lines


def quarantine(state: search.State) -> list[dict[str, Any]]:
    """Everything that was ever put in quarantine, and whether it still is."""
    return [
        {"genome": name, "reason": reason, "held": state.objection(name) != "", "objection": state.objection(name)}
        for name, (_, reason) in sorted(state.quarantined.items())
    ]


RAW = ("seconds", "loss", "private_loss", "peak_mb")  # shown beside the certified score where a judge measures them


def beside(state: search.State, verdict: Certified | Refuted) -> list[tuple[str, str]]:
    """Raw measures of both sides, as means over the pairs of a certification."""
    pairs = state.certification(verdict.round, verdict.genome)
    rows = []
    for name in RAW:
        both = [
            (pair.rival.outcome.measures[name], pair.candidate.outcome.measures[name])
            for pair in pairs
            if name in pair.rival.outcome.measures and name in pair.candidate.outcome.measures
        ]
        if both:
            ours, theirs = (stats.mean(side) for side in zip(*both, strict=True))
            rows.append((name, f"{ours:.4g} -> {theirs:.4g} (raw, means over {len(both)} pairs)"))
    return rows


def cells(state: search.State) -> list[dict[str, Any]]:
    typical = state.settings.typical_gain
    certified = state.certified()
    return [
        {
            "category": cell[0],
            "footprint": cell[1],
            "elite": name,
            "gain": state.archive.posterior(name) * typical,
            "certified": name in certified,
            "members": len(state.archive.siblings_in(cell)),
            "ideas": ideas(state, name),
        }
        for cell, name in state.archive.elites().items()
    ]


def describe_genome(state: search.State, name: str) -> dict[str, Any]:
    own = state.genome(name)
    proposal = state.proposals.get(name)
    outcomes = [(task, state.outcomes[task][1]) for task in sorted(state.outcomes) if task.genome == name]
    return {
        "genome": name,
        "cell": list(state.archive[name].cell) if name in state.archive else None,
        "operator": proposal.operator if proposal else "base",
        "parents": list(proposal.parents) if proposal else [],
        "posterior_gain": state.archive.posterior(name) * state.settings.typical_gain,
        "searched_gain": state.searched(name),
        "barred": state.objection(name),
        "doubts": state.doubts(name),
        "patches": [{"name": p.name, "hypothesis": p.hypothesis, "source": p.source} for p in own.patches],
        "outcomes": [
            {"task": task.name, **found.outcome.to_dict(), "seconds": found.seconds} for task, found in outcomes
        ],
        "verdicts": [_verdict(state, number, verdict) for number, verdict in state.verdicts_of(name)],
    }


def _verdict(state: search.State, number: int, verdict: Certified | Refuted) -> dict[str, Any]:
    found = {"round": number, "verdict": verdict.kind, "gain": verdict.gain, "interval": [verdict.low, verdict.high]}
    noise = {"pair_sd": verdict.pair_sd, "df": verdict.df}
    made = {"judge": verdict.judge, "fingerprint": verdict.fingerprint, "stale": state.staleness(verdict)}
    return {**found, "pairs": verdict.pairs, "e_value": verdict.e_value, "reason": verdict.reason, **noise, **made}


def lineage(state: search.State, name: str) -> list[dict[str, Any]]:
    """A genome and its ancestors, parents before children."""
    order: list[str] = []

    def visit(one: str) -> None:
        if one in order:
            return
        for parent in state.proposals[one].parents if one in state.proposals else ():
            visit(parent)
        order.append(one)

    visit(name)
    return [
        {
            "genome": one,
            "operator": state.proposals[one].operator if one in state.proposals else "base",
            "parents": list(state.proposals[one].parents) if one in state.proposals else [],
            "posterior_gain": state.archive.posterior(one) * state.settings.typical_gain,
            "ideas": ideas(state, one),
            "barred": state.objection(one),
            "doubts": state.doubts(one),
        }
        for one in order
    ]


def cost(state: search.State) -> dict[str, Any]:
    """What models cost, by model, operator and thread, and for each certified gain; answers of no use included."""
    rows = [(event, call) for _, event in state.slots.values() for call in event.calls]
    certified = [
        {
            "genome": name,
            "gain": verdict.gain,
            "usd_of_its_lineage": round(sum(state.proposals[one["genome"]].usd for one in lineage(state, name)[1:]), 6),
        }
        for name, verdict in state.certified().items()
    ]
    return {
        "usd": round(state.usd, 6),
        **_spent([call for _, call in rows]),
        "of_no_use": _spent([call for event, call in rows if isinstance(event, Rejected)]),
        "by_model": {key: _spent(calls) for key, calls in _grouped((call.model, call) for _, call in rows)},
        "by_operator": {key: _spent(calls) for key, calls in _grouped((event.operator, call) for event, call in rows)},
        "by_thread": {key: _spent(calls) for key, calls in _grouped((str(event.thread), call) for event, call in rows)},
        "certified": certified,
        "usd_for_each_certified": round(state.usd / len(certified), 6) if certified else None,
    }


def _grouped(pairs: Iterable[tuple[str, Call]]) -> list[tuple[str, list[Call]]]:
    found: dict[str, list[Call]] = {}
    for key, call in pairs:
        found.setdefault(key, []).append(call)
    return sorted(found.items())


def _spent(calls: Sequence[Call]) -> dict[str, Any]:
    read, sent = sum(c.cache_read for c in calls), sum(c.input + c.cache_read + c.cache_write for c in calls)
    return {
        "calls": len(calls),
        "usd": round(sum(call.usd for call in calls), 6),
        "input_tokens": sent,
        "from_cache": round(read / sent, 4) if sent else None,
        "output_tokens": sum(call.output for call in calls),
    }


def _cost_text(found: Mapping[str, Any], benchmark: Benchmark) -> str:
    def row(name: str, part: Mapping[str, Any]) -> str:
        cached = "" if part["from_cache"] is None else f", {100 * part['from_cache']:.1f}% of input from cache"
        tokens = f"{part['input_tokens']} tokens in, {part['output_tokens']} out"
        return f"{name:<24} {part['calls']:>5} calls  {part['usd']:>9.4f} USD  {tokens}{cached}"

    lines = [row("all", found), row("  answers of no use", found["of_no_use"])]
    for kind in ("model", "operator", "thread"):
        lines += [row(f"{kind} {name}", part) for name, part in found[f"by_{kind}"].items()]
    for one in found["certified"]:
        gain = benchmark.objective.describe(one["gain"])
        lines.append(f"certified {one['genome']} {gain}: {one['usd_of_its_lineage']:.4f} USD in its lineage")
    if found["usd_for_each_certified"] is not None:
        lines.append(f"each certified gain, all calls shared: {found['usd_for_each_certified']:.4f} USD")
    return "\n".join(lines)


def cards(state: search.State) -> list[dict[str, Any]]:
    """Experience cards as prompts have them, one for each evaluated genome."""
    return [{**dataclasses.asdict(card), "patches": sorted(card.patches)} for card in state.cards()]


def opened(directory: Path) -> tuple[RunDir, Benchmark, Profile, search.State]:
    """A run as its journals stand now."""
    run, benchmark, profile, state = begun(directory)
    return run, benchmark, profile, state.extend(journal.Journals(run.events).new_entries())


def begun(directory: Path) -> tuple[RunDir, Benchmark, Profile, search.State]:
    """A run before its first fact."""
    run = RunDir(directory)
    settings = run.settings()
    benchmark = dataclasses.replace(
        benchmarks.load(settings.benchmark, settings.profile), base=benchmarks.read_tree(run.base)
    )
    if benchmark.base_hash != settings.base:
        raise UserMistake(f"{run.base} is not the program that {directory} was begun with; restore it")
    return run, benchmark, benchmark.profile(settings.profile), search.State(settings, benchmark)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m evo.inspect", description="Looks into a run.")
    parser.add_argument("dir", type=Path)
    views = (
        "summary",
        "cells",
        "lineage",
        "genome",
        "diff",
        "quarantine",
        "events",
        "cards",
        "cost",
        "mark",
        "note",
        "seed",
    )
    parser.add_argument("view", nargs="?", default="summary", choices=views)
    parser.add_argument(
        "rest",
        nargs="*",
        help="lineage, genome, diff: a genome (default: champion or best); mark: GENOME MARK; seed: FILE...",
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        text = shown(options.dir, options.view, options.rest, options.json)
        # A diff that goes on to `git apply` must stay what it is.
        print(text if options.view == "diff" and not sys.stdout.isatty() else visible(text))
    except UserMistake as mistake:
        print(f"evo.inspect: {mistake}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0  # `| head` closed it
    return 0


def shown(directory: Path, view: str, rest: Sequence[str], as_json: bool) -> str:
    run, benchmark, profile, state = opened(directory)
    if view == "summary":
        return _json(summary(state, benchmark, profile)) if as_json else table(state, benchmark, profile)
    if view == "cells":
        return _json(cells(state)) if as_json else _rows(cells(state), benchmark)
    if view == "quarantine":
        return _json(quarantine(state)) if as_json else _rows(quarantine(state), benchmark)
    if view == "cards":
        return _json(cards(state)) if as_json else "\n".join(card.line() for card in state.cards()) or "nothing yet"
    if view == "cost":
        return _json(cost(state)) if as_json else _cost_text(cost(state), benchmark)
    if view == "events":
        return "\n".join(_event_line(entry, as_json) for entry in _sorted(run))
    if view in ("mark", "note", "seed"):
        return act(run, benchmark, profile, state, view, rest, as_json)
    name = _named(state, rest)
    if view == "lineage":
        return _json(lineage(state, name)) if as_json else _rows(lineage(state, name), benchmark)
    if view == "genome":
        return _json(describe_genome(state, name))
    diff = genome.diff_trees(benchmark.base, state.program(state.genome(name)))
    return _json({"genome": name, "diff": diff}) if as_json else diff.rstrip("\n")


MARKS = ("pin", "ban", "release", "condemn")
SEEDS = -2  # the line of research that a person's patches belong to


def act(
    run: RunDir,
    benchmark: Benchmark,
    profile: Profile,
    state: search.State,
    view: str,
    rest: Sequence[str],
    as_json: bool,
) -> str:
    """A person's act becomes an event like any other, in a journal of its own."""
    import os
    import socket
    import time

    if view == "note" and not rest:
        raise UserMistake("note: expected the text of the note")
    if view == "mark" and (len(rest) < 2 or rest[1] not in MARKS):
        raise UserMistake(f"mark: expected GENOME and one of {', '.join(MARKS)}, found {' '.join(rest) or 'nothing'}")
    event: events.Noted | events.Marked | events.Proposed
    if view == "note":
        event = events.Noted(" ".join(rest))
    elif view == "seed":
        event = seed(state, benchmark, profile, [Path(name) for name in rest])
    else:
        event = events.Marked(_named(state, rest[:1]), rest[1], " ".join(rest[2:]))
    taken = [file.stem for file in run.events.glob("*.jsonl")]
    own = journal.Journal(run.events, journal.writer_name(socket.gethostname(), os.getpid(), taken), time.time)
    own.append(event)
    own.close()
    if as_json:
        return _json({"event": event.kind, **dataclasses.asdict(event)})
    return f"written: {_acted(event)}"


def _acted(event: events.Noted | events.Marked | events.Proposed) -> str:
    match event:
        case events.Noted():
            return f"note {event.text}"
        case events.Marked():
            return f"{event.genome} {event.mark}" + (f", {event.reason}" if event.reason else "")
        case events.Proposed():
            return f"seed {event.genome}, {event.category} {event.footprint}; screened next, while evaluations are left"


def seed(state: search.State, benchmark: Benchmark, profile: Profile, files: Sequence[Path]) -> events.Proposed:
    """A person's patches, together, as a proposal on the base that a running search screens and may build on."""
    if not files:
        raise UserMistake("seed: expected patch files, a technique of genomes/ or a plain diff each, found none")
    if state.settings.record is not None:
        raise UserMistake("seed: this run is recorded, and a recording holds what its operators proposed; use another")
    own = Genome(state.settings.base, tuple(library.patch_of(file) for file in files))
    if own.name in state.proposals:
        raise UserMistake(f"seed: {own.name} was proposed in this run already; `inspect genome` shows it")
    try:
        program = operators.admitted(own, benchmark, state.program, profile.audit)
    except PatchError as error:
        raise UserMistake(f"seed: not for {benchmark.name}: {error}") from error
    slot = SEEDS, int(own.name, 16) % 2**31  # two that are written at once do not meet in one slot
    return search.introduced(state, own, program, benchmark.regions, slot, "seed", state.base.name)


def _named(state: search.State, rest: Sequence[str]) -> str:
    if not rest:
        champion = state.champion()
        best = champion.genome if champion else next(iter(state.archive.ranking()), None)
        if best is None:
            raise UserMistake("this run has no evaluated genome yet; wait for the first evaluation")
        return best
    known = [state.base.name, *state.proposals]
    found = [name for name in known if name.startswith(rest[0])]
    if rest[0] == "base":
        return state.base.name
    if len(found) != 1:
        raise UserMistake(
            f"expected the start of one genome's name, found '{rest[0]}', which {len(found)} of {len(known)} have"
        )
    return found[0]


def _sorted(run: RunDir) -> list[events.Entry]:
    return sorted(journal.Journals(run.events).new_entries(), key=lambda entry: (entry.at, entry.place))


def _event_line(entry: events.Entry, as_json: bool) -> str:
    text = events.dump(entry.event, entry.at)
    if as_json:
        return text
    event = entry.event
    if isinstance(event, Evaluated):
        score = "" if event.outcome.score is None else f" {event.outcome.score:.5g}"
        return f"{entry.at:.1f} {entry.writer} evaluated {event.task.name} {event.outcome.status.value}{score}"
    facts = json.loads(text)
    words = "  ".join(f"{key}={facts[key]}" for key in facts if key not in ("at", "event", "crc"))
    return f"{entry.at:.1f} {entry.writer} {event.kind}  {words}"[:200].replace("\n", " ").rstrip()


def _rows(rows: Sequence[Mapping[str, Any]], benchmark: Benchmark) -> str:
    gain: Callable[[float], str] = benchmark.objective.describe
    lines = []
    for row in rows:
        told = {key: gain(value) if key in ("gain", "posterior_gain") else value for key, value in row.items()}
        told = {key: ", ".join(value) if isinstance(value, list) else value for key, value in told.items()}
        lines.append("  ".join(f"{key}={value}" for key, value in told.items() if value not in (False, "")))
    return "\n".join(lines) or "nothing yet"


def _json(found: object) -> str:
    return json.dumps(found, indent=1, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
