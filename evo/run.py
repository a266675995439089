"""`python -m evo.run`: begins, resumes or joins a run, shows its progress and writes what it found."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from evo import benchmark as benchmarks
from evo import cards, certify, genome, inspect, journal, ledger, prompts, search
from evo.benchmark import Benchmark, Profile, UserMistake
from evo.events import Certified, Noted, Quarantined, Refuted, Rejected
from evo.judges import require_device, rules
from evo.llm import SPECS, open_models, require_keys
from evo.operators import CONTROLS
from evo.outcome import visible
from evo.recording import Header, Recorder, Recording
from evo.rundir import RunDir, RunSettings, write_program, write_text
from evo.sandbox import NoIsolation, probe

EXIT_MISTAKE, EXIT_NO_ISOLATION, EXIT_INTERRUPTED = 2, 3, 130
POLL_S = 0.25
LOG_S = 30.0  # between lines of progress where nobody watches
RELEASE_S = 3.0  # for a proposer at the end of a run; one that waits for an answer then is ended


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m evo.run", description="Searches over patches of a program.")
    parser.add_argument(
        "--benchmark", metavar="NAME|FOLDER", help="a shipped benchmark or a folder with benchmark.toml"
    )
    parser.add_argument("--profile", help="of the benchmark; its first one where none is named")
    parser.add_argument("--out", type=Path, help="the run directory; an existing run there is resumed or joined")
    parser.add_argument("--evaluations", type=int, help="judged tasks in all, certification and base runs included")
    parser.add_argument("--minutes", type=float, help="wall clock of this call, certification included")
    parser.add_argument("--workers", type=int, help="local worker processes")
    parser.add_argument("--role", choices=("both", "propose", "judge"), default="both", help="of these workers")
    parser.add_argument("--threads", type=int, help="lines of research side by side over one archive")
    parser.add_argument("--seed", type=int, help="0 where none is given; resuming keeps the run's own")
    parser.add_argument("--novelty", type=float, help="0 to 10: how often a parent comes from outside the front")
    parser.add_argument("--control", choices=sorted(CONTROLS), help="a comparison run instead of the search")
    parser.add_argument("--model", default="none", help=f"who writes patches: {SPECS}")
    parser.add_argument("--after", type=Path, metavar="DIR", help="an earlier run, whose findings models are told")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write every answer and proposal to this file")
    parser.add_argument("--calls", type=int, metavar="N", help="hard cap on calls to the model, over all workers")
    parser.add_argument("--tokens", type=int, metavar="N", help="hard cap on tokens, input and output")
    parser.add_argument("--usd", type=float, metavar="X", help="hard cap on what the calls cost")
    parser.add_argument("--prices", type=Path, metavar="FILE", help="prices that override those of evo/prices.toml")
    parser.add_argument("--certify", type=Path, metavar="DIR", help="certify a run's best again, with leave-one-out")
    parser.add_argument("--prove", nargs="+", metavar="FILE", help="no search: certify these patches, then each one")
    parser.add_argument("--allow-unisolated", action="store_true", help="go on where this machine cannot isolate")
    found = parser.parse_args(arguments)
    if found.certify is None and found.benchmark is None and found.out is None:
        parser.error("--benchmark NAME or --certify DIR is needed")
    if found.minutes is not None and not found.minutes > 0:
        raise UserMistake(f"--minutes: expected a number above 0, found {found.minutes:g}")
    for name, low, high in (("workers", 1, 256), ("threads", 1, 64), ("novelty", 0, 10), ("evaluations", 4, 10**7),
                            ("calls", 0, 10**9), ("tokens", 0, 10**15), ("usd", 0, 10**9)):  # fmt: skip
        value = getattr(found, name)
        if value is not None and not low <= value <= high:
            raise UserMistake(f"--{name}: expected {low} to {high}, found {value}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        found = options(arguments)
        if found.certify is not None:
            from evo import recertify

            return recertify.main(found.certify, found)
        if found.prove:
            from evo import recertify

            return recertify.prove(found)
        from evo import suite

        return suite.main(found) if suite.is_suite(found.benchmark) else run(found)
    except (UserMistake, NoIsolation) as mistake:
        print(visible(f"evo.run: {mistake}"), file=sys.stderr)
        return EXIT_NO_ISOLATION if isinstance(mistake, NoIsolation) else EXIT_MISTAKE
    except KeyboardInterrupt:  # before any worker began; later `watch` catches it
        print("interrupted before anything was judged", file=sys.stderr)
        return EXIT_INTERRUPTED


def run(found: argparse.Namespace) -> int:
    directory, benchmark, profile = prepared(found)
    settings = directory.settings()
    workers = found.workers or default_workers(benchmark, profile)
    require_memory(workers, benchmark)
    level = probe(allow_unisolated=found.allow_unisolated)
    if not (level.isolated or found.allow_unisolated or found.role == "propose"):
        raise NoIsolation(
            f"this machine cannot isolate candidates; --allow-unisolated goes on all the same\n{level.describe()}"
        )
    minutes = found.minutes if found.minutes is not None else settings.minutes
    where = f"{workers} worker(s), sandbox {level.name}, run directory {directory.path}"
    print(f"{benchmark.name}/{profile.name}: {where}\n{shares(settings)}", file=sys.stderr)
    command = [sys.executable, "-m", "evo.worker", str(directory.path), "--parent", str(os.getpid())]
    command += ["--minutes", str(minutes)] if minutes else []
    command += ["--allow-unisolated"] if found.allow_unisolated else []
    roles: list[str] = [found.role] * workers
    if settings.model != "none" and found.role == "both":
        roles = ["judge"] * workers + ["propose"]  # a device never waits for a model
    state, journals = search.State(settings, benchmark), journal.Journals(directory.events)
    state.extend(journals.new_entries())  # what an earlier call has told is not told again
    began = len(list(directory.logs.glob("*.log")))
    logs = [directory.logs / f"worker-{began + i}.log" for i in range(len(roles))]
    crew = [_spawn([*command, "--role", role], log, surroundings(role)) for role, log in zip(roles, logs, strict=True)]
    released: dict[int, float] = {}
    interrupted = watch(state, journals, crew, roles, minutes, released)
    state.extend([])
    save_best(state, directory, benchmark)
    if failure := state.base_failure():
        raise UserMistake(f"{benchmark.name}: {failure}")
    if state.base_mean is not None:
        print(visible(inspect.table(state, benchmark, profile)))
        from evo import report

        print(f"the same as a page: {report.write([directory.path], None)}", file=sys.stderr)
    if interrupted:
        print(f"interrupted; everything is saved, the same command on --out {directory.path} goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    for worker, log in zip(crew, logs, strict=True):
        if worker.returncode and worker.pid not in released:
            last = log.read_text(errors="replace").strip().splitlines()[-1:] or [f"exit code {worker.returncode}"]
            raise UserMistake(f"a worker ended early: {last[0]} (all of it in {log})")
    return 0


def shares(settings: RunSettings) -> str:
    """One line: who gets how much of the evaluations."""
    total, base, wanted = settings.evaluations, settings.base_runs, settings.reserve
    searched = max(1, total - base - wanted)
    kept = max(0, total - base - searched)
    line = f"{total} evaluations: {base} for the base, {searched} for the search, {kept} kept for finalists and pairs"
    return line if kept >= wanted else f"{line}, which may take {wanted}: --evaluations {base + 2 * wanted} leaves room"


def prepared(found: argparse.Namespace) -> tuple[RunDir, Benchmark, Profile]:
    """The run directory: made anew, or checked to be of this benchmark and to have at least this budget."""
    if found.out is not None and RunDir(found.out).exists():
        return resumed(RunDir(found.out.resolve()), found)
    if found.benchmark is None:
        raise UserMistake(f"{found.out} is not a run yet; name its --benchmark")
    if found.out is not None and (strangers := RunDir(found.out).strangers()):
        raise UserMistake(
            f"--out {found.out}: expected a run's directory, an empty one or none, found one that holds "
            f"{strangers[0]}{f' and {len(strangers) - 1} more' if strangers[1:] else ''}; choose another --out"
        )
    model, recording = spelled(found.model)
    if recording is not None and found.profile is None:
        found.profile = recording.header.profile
    benchmark = benchmarks.load(found.benchmark, found.profile)
    profile = benchmark.profile(found.profile)
    if found.role != "propose":
        require_device(benchmark, profile)
    affordable(found, benchmark)
    keyed(found, model)
    earlier = learnt(found, benchmark)
    evaluations, minutes, threads, seed = found.evaluations, found.minutes, found.threads, found.seed
    if recording is not None:
        check_recording(recording, benchmark, found)
        head = recording.header
        threads, seed = head.threads, head.seed if seed is None else seed
        evaluations = evaluations or max(4, profile.budget.base_runs + recording.genomes + reserve_of(profile))
    out = found.out or _fresh(Path("runs") / f"{benchmark.name}-{date.today():%Y%m%d}")
    directory = RunDir(out.resolve())
    budget, noise = profile.budget, profile.noise
    if found.record is not None:
        Recorder(found.record).begin(Header(benchmark.name, profile.name, benchmark.base_hash, seed or 0, threads or 1))
    directory.create(
        RunSettings(
            benchmark=benchmark.name if benchmark.root.parent == benchmarks.SHIPPED else str(benchmark.root),
            profile=profile.name,
            base=genome_of(benchmark),
            seed=seed or 0,
            threads=threads or 1,
            novelty=1.0 if found.novelty is None else found.novelty,
            control=found.control,
            evaluations=evaluations or budget.evaluations,
            minutes=minutes if minutes is not None or evaluations else budget.minutes,
            reserve=max(
                certify.LEAST_RESERVE if found.evaluations else reserve_of(profile),
                (evaluations or budget.evaluations) // 20,
            ),
            base_runs=budget.base_runs,
            noise_sd=noise.sd,
            noise_df=noise.df,
            pair_sd=noise.of_pair,
            typical_gain=noise.typical_gain,
            paired=noise.of_pair < noise.sd,
            model=model,
            calls=found.calls,
            tokens=found.tokens,
            usd=found.usd,
            prices=str(found.prices.resolve()) if found.prices else None,
            record=str(found.record.resolve()) if found.record else None,
        ),
        benchmark.base,
    )
    if earlier:
        directory.earlier.write_text(earlier)
    return directory, benchmark, profile


def learnt(found: argparse.Namespace, benchmark: Benchmark) -> str:
    """What the run named by --after found, for prompts; empty where none is named."""
    if found.after is None:
        return ""
    if found.model.partition(":")[0] in ("none", "replay"):
        raise UserMistake("--after tells a model what an earlier run found; name a model that writes with --model")
    if not RunDir(found.after).exists():
        raise UserMistake(f"--after {found.after}: expected a run's directory, found no run.toml in it")
    _, other, _, state = inspect.opened(found.after)
    if other.name != benchmark.name:
        raise UserMistake(f"--after {found.after}: expected a run of {benchmark.name}, found one of {other.name}")
    return cards.of_earlier(state.cards(), benchmark.base_hash)


def resumed(directory: RunDir, found: argparse.Namespace) -> tuple[RunDir, Benchmark, Profile]:
    settings = directory.settings()
    benchmark = benchmarks.load(found.benchmark or settings.benchmark, settings.profile)
    asked = benchmark.name if benchmark.root.parent == benchmarks.SHIPPED else str(benchmark.root)
    if asked != settings.benchmark:
        raise UserMistake(f"{directory.path} is a run of {settings.benchmark}, not of {asked}; choose another --out")
    if found.profile is not None and found.profile != settings.profile:
        raise UserMistake(
            f"{directory.path} runs profile {settings.profile}, not {found.profile}; choose another --out"
        )
    if found.model != "none" and spelled(found.model)[0] != settings.model:
        raise UserMistake(f"{directory.path} was begun with --model {settings.model}; choose another --out")
    # Whoever wrote run.toml has chosen these two, which start a program and write a file: the user must, too.
    if found.model == "none" and "command:" in settings.model and found.role != "judge":
        raise UserMistake(f"{directory.path} asks --model {settings.model!r}; name it again to go on")
    if found.record is None and settings.record is not None and found.role != "judge":
        raise UserMistake(f"{directory.path} writes to --record {settings.record}; name it again to go on")
    if found.after is not None:
        raise UserMistake(f"{directory.path} exists already; what an earlier run found is told from the beginning on")
    if found.record is not None and str(found.record.resolve()) != settings.record:
        raise UserMistake(
            f"{directory.path} was begun with --record {settings.record}; a recording begins with its run"
        )
    if genome_of(benchmark) != settings.base:
        raise UserMistake(
            f"{directory.path} was begun with base {settings.base}, the program is now {genome_of(benchmark)}; "
            "restore it or choose another --out"
        )
    for name in ("seed", "threads", "novelty", "control"):
        asked_for, frozen = getattr(found, name), getattr(settings, name)
        if asked_for is not None and asked_for != frozen:
            raise UserMistake(
                f"{directory.path} was begun with --{name} {frozen}; choose another --out for {asked_for}"
            )
    keyed(found, settings.model)
    evaluations = max(settings.evaluations, found.evaluations or 0)
    if found.evaluations and found.evaluations < evaluations:
        print(f"--evaluations {found.evaluations}: this run was begun with {evaluations}, which stays", file=sys.stderr)
    larger = dataclasses.replace(
        settings,
        evaluations=evaluations,
        reserve=max(settings.reserve, evaluations // 20),
        **{name: value for name in ("calls", "tokens", "usd") if (value := getattr(found, name)) is not None},
    )
    if larger != settings:
        directory.rewrite(larger)
    return directory, benchmark, benchmark.profile(settings.profile)


def spelled(spec: str) -> tuple[str, Recording | None]:
    """A `--model` as run.toml keeps it, files by their full paths; and the recording that it plays back, if it does.

    Raises UserMistake for a spec that means nothing, before anything begins.
    """
    kind, _, rest = spec.partition(":")
    if kind == "replay" and rest:
        file = Path(rest).resolve()
        return f"replay:{file}", Recording(file)
    open_models(spec)
    return re.sub(r"\b(inbox|scripted):([^,*]+)", lambda m: f"{m[1]}:{Path(m[2]).resolve()}", spec), None


def keyed(found: argparse.Namespace, spec: str) -> None:
    """Raises UserMistake where a model would be called without its key; who only judges calls none."""
    if found.role != "judge" and not spec.startswith("replay:") and (models := open_models(spec)):
        require_keys(models)


def affordable(found: argparse.Namespace, benchmark: Benchmark) -> None:
    """Raises UserMistake where the caps cannot be kept with these models, or nothing bounds what they cost."""
    models = None if found.model.startswith("replay:") else open_models(found.model)
    caps = ledger.Caps(found.calls, found.tokens, found.usd)
    text = prompts.prefix(benchmark, rules(benchmark, benchmark.profile(found.profile)) if models else ())
    ledger.check(models.all if models else [], caps, ledger.read_prices(found.prices), text)


def check_recording(recording: Recording, benchmark: Benchmark, found: argparse.Namespace) -> None:
    head = recording.header
    if head.benchmark != benchmark.name:
        raise UserMistake(f"{recording.file} was recorded on {head.benchmark}, not on {benchmark.name}")
    if head.base != benchmark.base_hash:
        raise UserMistake(
            f"{recording.file} was recorded on {head.benchmark} with base {head.base}, "
            f"the program here is {benchmark.base_hash}; restore it"
        )
    if found.threads not in (None, head.threads):
        raise UserMistake(f"{recording.file} has {head.threads} thread(s), not {found.threads}; leave --threads out")
    if found.control is not None or found.record is not None:
        raise UserMistake("a replay takes no --control and no --record; leave them out")


MEMORY_MB = {"training": 1000, "answer": 100}  # of one worker with its candidate; torch alone is 250


def require_memory(workers: int, benchmark: Benchmark) -> None:
    """Refuses to start what the kernel would have to kill half-way."""
    with open("/proc/meminfo") as file:
        free = next(int(line.split()[1]) // 1024 for line in file if line.startswith("MemAvailable"))
    needed = workers * MEMORY_MB.get(benchmark.judge, 100)
    if free < needed:
        raise UserMistake(
            f"too little memory: {workers} worker(s) of {benchmark.name} need {needed} MB, {free} MB are free; "
            "ask for fewer --workers or end something else"
        )


def genome_of(benchmark: Benchmark) -> str:
    return benchmark.base_hash


def default_workers(benchmark: Benchmark, profile: Profile) -> int:
    """One for each core up to four on a CPU; more open more lines of research, not more of the same.

    Six for each GPU that trains: while one is timed, others compile for a minute, build and score, and by a model of
    their turns fewer leave it idle for a third of the time and more.
    """
    cores = os.cpu_count() or 1
    if benchmark.judge == "training" and profile.settings.get("device") == "cuda":
        from evo.judges.gpu import on_host

        seats = max(1, len(on_host()) // profile.settings.get("devices", 1))
        return max(1, min(6 * seats, cores // 3))
    return max(1, min(4, cores))


def reserve_of(profile: Profile) -> int:
    return certify.reserve(profile.noise) if profile.budget.reserve is None else profile.budget.reserve


def _fresh(stem: Path) -> Path:
    number = 1
    while (path := stem.with_name(f"{stem.name}-{number}")).exists():
        number += 1
    return path


def surroundings(role: str) -> dict[str, str]:
    """The environment of a worker; one that only judges gets no key of a model's provider."""
    return {k: v for k, v in os.environ.items() if role != "judge" or not k.startswith("ANTHROPIC_")}


def _spawn(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # a session of their own: Ctrl-C reaches us alone and we decide what it means for them
    with open(log, "wb") as file:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, env=environment
        )


# --- watching ------------------------------------------------------------------------------------------------------


def watch(
    state: search.State,
    journals: journal.Journals,
    crew: Sequence[subprocess.Popen[bytes]],
    roles: Sequence[str],
    minutes: float | None,
    released: dict[int, float],
) -> bool:
    """Shows progress until the workers are done; True if the user interrupted. Ctrl-C twice ends at once.

    `released` gets the pid of each worker that was asked to stop because nothing is left for it to do.
    """
    interrupts: list[float] = []
    unanswered: list[Rejected] = []

    def interrupt(_: int, __: FrameType | None) -> None:
        interrupts.append(time.monotonic())
        for worker in crew:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM if len(interrupts) == 1 else signal.SIGKILL)

    previous = [
        (number, signal.signal(number, interrupt)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    ]
    deadline = time.monotonic() + 60 * minutes if minutes else None
    try:
        total, every = state.settings.evaluations, 0.1 if sys.stderr.isatty() else LOG_S
        with tqdm(total=total, unit="eval", dynamic_ncols=True, smoothing=0.1, mininterval=every) as bar:
            while any(worker.poll() is None for worker in crew):
                _show(state, journals, bar, deadline, unanswered)
                release_waiting(crew, roles, released, time.monotonic())
                time.sleep(POLL_S)
            _show(state, journals, bar, deadline, unanswered)
    finally:
        for number, handler in previous:
            signal.signal(number, handler)
    return bool(interrupts)


def release_waiting(
    crew: Sequence[subprocess.Popen[bytes]], roles: Sequence[str], released: dict[int, float], now: float
) -> None:
    """Asks the rest to stop once a role has no worker left: proposers without judges would wait for ever.

    Asked once, since a signal that comes while Python exits is fatal. A judge may end what it judges; a proposer is
    killed after RELEASE_S, since it may sit in a call to a model, or before an inbox that nobody will answer.
    """
    alive = {role for worker, role in zip(crew, roles, strict=True) if worker.poll() is None}
    if not alive or alive == set(roles):
        return
    for worker, role in zip(crew, roles, strict=True):
        if worker.poll() is not None:
            continue
        if worker.pid not in released:
            released[worker.pid] = now
            worker.send_signal(signal.SIGTERM)
        elif role == "propose" and now - released[worker.pid] > RELEASE_S:
            worker.kill()


def _show(
    state: search.State, journals: journal.Journals, bar: tqdm, deadline: float | None, unanswered: list[Rejected]
) -> None:
    """`unanswered` keeps the proposals that a model failed, of which the first is told; the table counts them all."""
    entries = journals.new_entries()
    state.extend(entries)
    for entry in entries:
        if isinstance(entry.event, Rejected) and entry.event.operator == "model":
            if not unanswered:
                bar.write(f"a call to the model failed: {' '.join(entry.event.reason.split())[:300]}", file=sys.stderr)
            unanswered.append(entry.event)
        if isinstance(entry.event, Certified | Refuted):
            bar.write(visible(inspect.verdict_line(state, entry.event)), file=sys.stderr)
        elif isinstance(entry.event, Quarantined):
            held = f"quarantine: {entry.event.genome} {entry.event.reason}"
            bar.write(visible(f"{held}; look at it, then mark it release or condemn"), file=sys.stderr)
        elif isinstance(entry.event, Noted):
            bar.write(visible(f"note: {entry.event.text}"), file=sys.stderr)
    bar.update(min(state.used, bar.total) - bar.n)
    best = next(iter(state.archive.ranking()), None)
    gain = state.archive.posterior(best) * state.settings.typical_gain if best else 0.0
    champion = state.champion()
    bar.set_postfix_str(
        f"best {state.objective.describe(gain) if best else '-'}, "
        f"certified {state.objective.describe(champion.gain) if champion else '-'}"
        + (f", {max(0.0, deadline - time.monotonic()) / 60:.1f} min left" if deadline else ""),
        refresh=sys.stderr.isatty(),  # a batch job's log gets a line every LOG_S, not five a second
    )


def save_best(state: search.State, directory: RunDir, benchmark: Benchmark) -> None:
    """Writes the champion's program and one patch for `git apply`; where nothing is certified, nothing stays there."""
    champion = state.champion()
    program = {} if champion is None else state.program(state.genome(champion.genome))
    for old in (directory.best / "program").rglob("*"):
        if old.is_file() and old.relative_to(directory.best / "program").as_posix() not in program:
            old.unlink(missing_ok=True)  # of an earlier champion
    if champion is None:  # an earlier one was banned, or its certificate fell
        (directory.best / "champion.patch").unlink(missing_ok=True)
        return
    write_program(directory.best / "program", program)
    write_text(directory.best / "champion.patch", genome.diff_trees(benchmark.base, program))


if __name__ == "__main__":
    sys.exit(main())
