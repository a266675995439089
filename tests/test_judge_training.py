"""The training judge: what honest programs score, and the exact status of every way not to be one."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import random
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from evo.benchmark import UserMistake, settings
from evo.judges.corpus import Corpus
from evo.judges.loss import (
    Cuts,
    NotFinite,
    Windows,
    bits_per_byte,
    disagreement,
    equivalent_seconds,
    log_probabilities,
    nats_of,
)
from evo.judges.training import PRELOAD, Settings, TrainingJudge
from evo.judges.wire import HEADER, Closed, Foreign, Malformed, Peer, at_most, exactly, inspect_checkpoint
from evo.outcome import Outcome, Status
from evo.sandbox import Layer, Level, Limits, Sandbox, SandboxError
from evo.turn import Ending

if importlib.util.find_spec("torch") is None:
    pytest.skip("training programs need torch", allow_module_level=True)

VOCABULARY = 64
WINDOW = 24

TRAIN = """
import torch, model
def train(run):
    stream = run.open()
    tokens = torch.from_numpy(stream.astype("int64"))
    pairs = torch.bincount(tokens[:-1] * run.vocabulary + tokens[1:], minlength=run.vocabulary ** 2)
    run.submit({"table": (pairs.view(run.vocabulary, -1) + 0.1).log()})
"""
MODEL = """
import torch
def load(run, tensors):
    table = tensors["table"]
    return lambda tokens: table[tokens]
"""


# Fixtures: a small language in which the next token depends on the last, one sandbox for all tests of this file.


def text(length: int, seed: int) -> NDArray[np.uint16]:
    generator = np.random.default_rng(seed)
    tokens, found = 0, np.empty(length, np.uint16)
    steps = generator.integers(0, 6, length)
    for i in range(length):
        tokens = (tokens * 5 + int(steps[i]) + 1) % VOCABULARY
        found[i] = tokens
    return found


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    sizes = np.full(VOCABULARY, 3, np.int64)
    sizes[0] = 0
    return Corpus(text(20_000, 1), text(4_000, 2), text(4_000, 3), sizes, VOCABULARY, "toy")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    preload = [name for name in PRELOAD if name != "torch._dynamo"]  # no optimizer here, and three seconds saved
    with Sandbox(preload=preload) as found:
        yield found


SETTINGS = Settings(
    clock="cpu", objective="budget", window=WINDOW, windows=64, private_windows=16, cap_s=5.0, checkpoint_kb=64,
    score_s=2.0, load_s=1.0, gap=0.2, batch=16, build_s=20.0, vocabulary=VOCABULARY,
)  # fmt: skip
LIMITS = Limits(wall_s=30.0)


class Bench:
    """Judges programs that are written on the spot."""

    def __init__(self, folder: Path, sandbox: Sandbox, corpus: Corpus) -> None:
        self.folder, self.sandbox, self.corpus = folder, sandbox, corpus

    def judge(
        self, train: str = TRAIN, model: str = MODEL, limits: Limits = LIMITS, seed: int = 1, **changes: object
    ) -> Outcome:
        program = self.folder / "program"
        program.mkdir(exist_ok=True)
        (program / "train.py").write_text(train)
        (program / "model.py").write_text(model)
        judge = TrainingJudge(
            replace(SETTINGS, **changes),  # type: ignore[arg-type]
            limits,
            self.folder,
            self.sandbox,
            self.corpus,
            secret=b"fixed, so that a test that passes passes again",
        )
        return judge.judge(program, stage="screen", seed=seed)


@pytest.fixture
def bench(tmp_path: Path, sandbox: Sandbox, corpus: Corpus) -> Bench:
    tmp_path.chmod(0o755)
    return Bench(tmp_path, sandbox, corpus)


# Honest programs.


def test_a_bigram_table_scores_what_it_should(bench: Bench, corpus: Corpus) -> None:
    found = bench.judge()
    assert found.status is Status.PASSED, found.detail
    counts = np.full((VOCABULARY, VOCABULARY), 0.1)
    np.add.at(counts, (corpus.train[:-1], corpus.train[1:]), 1.0)
    log_p = np.log(counts / counts.sum(1, keepdims=True))
    windows = Windows.cut(corpus.validation, SETTINGS.windows, WINDOW)
    nats = -log_p[windows.inputs, windows.targets]
    sizes = corpus.token_bytes[windows.targets]
    expected = nats[sizes > 0].sum() / math.log(2) / sizes.sum()
    assert found.score == pytest.approx(expected, rel=0.01)  # the blocks of the stream are permuted
    assert found.score == found.measures["loss"]
    names = "loss private_loss gap seconds cpu_s wall_s score_s load_s build_s peak_mb submits checkpoint_mb overhead_s"
    names += " answer_peaks"
    assert set(found.measures) == set(names.split())
    assert abs(found.measures["gap"]) < 0.1
    assert 0 < found.measures["cpu_s"] < 2 and found.measures["seconds"] == found.measures["cpu_s"]
    assert found.measures["overhead_s"] < 1.0
    assert len(found.artifact) == 64


def test_the_stream_depends_on_the_seed_and_the_artifact_on_the_tensors(bench: Bench) -> None:
    first = TRAIN.replace("run.submit({", "run.submit({'first': tokens[:4096].to(torch.int16), ")
    one, same, two = (bench.judge(first, seed=seed).artifact for seed in (1, 1, 2))
    assert one == same != two


def test_the_last_checkpoint_in_time_counts(bench: Bench) -> None:
    twice = TRAIN + "    import time\n    run.submit({'table': torch.zeros(run.vocabulary, run.vocabulary)})\n"
    uniform = bench.judge(twice)
    assert uniform.measures["submits"] == 2
    assert uniform.score is not None and uniform.score > 1.9
    late = TRAIN + "    while True: pass\n"
    found = bench.judge(late, cap_s=0.3)
    assert found.status is Status.PASSED and found.measures["seconds"] < 0.3


def test_a_race_is_scored_in_equivalent_seconds(bench: Bench) -> None:
    budget = bench.judge()
    assert budget.score is not None
    race = bench.judge(objective="race", target=budget.score, slope=0.2, band=0.05)
    assert race.score == pytest.approx(race.measures["seconds"])
    above = bench.judge(objective="race", target=budget.score - 0.1, slope=0.2, band=0.05)
    assert above.status is Status.WRONG and "above target + band" in above.detail


def test_a_checkpoint_survives_the_crash_that_follows_it(bench: Bench) -> None:
    assert bench.judge(TRAIN + "    raise SystemExit(3)\n").status is Status.PASSED


# Programs that do not train, each with its exact status.

OPEN = "def train(run):\n    import os, time, torch\n    stream = run.open()\n"


@pytest.mark.parametrize(
    ("train", "status", "sentence"),
    [
        (OPEN, Status.CRASHED, "train(run) returned without a checkpoint"),
        (OPEN + "    os._exit(0)", Status.CRASHED, "without a checkpoint: exited with 0"),
        (OPEN + "    raise RuntimeError('out of luck')", Status.CRASHED, "out of luck"),
        (OPEN + "    os.kill(os.getpid(), 11)", Status.CRASHED, "SIGSEGV"),
        (OPEN + "    while True: pass", Status.TIMEOUT, "no checkpoint within 0.3 s of cpu time"),
        ("import nothing_like_it", Status.CRASHED, "ModuleNotFoundError"),
        ("def train(run): run.submit({})", Status.WRONG, "before run.open()"),
        ("def train(run): pass", Status.WRONG, "before run.open()"),
        (OPEN + "    run.submit({'table': torch.zeros(200, 200)})", Status.WRONG, "0 to 65536 bytes"),
        (OPEN + "    import pickle; run._channel.send(b'K', pickle.dumps([1] * 50))", Status.WRONG, "header"),
        (OPEN + "    run._channel.send(b'K', bytes(8))", Status.WRONG, "JSON"),
        (OPEN + "    run._channel.send(b'S', b'0.001')", Status.WRONG, "expected a message of type K or F"),
        (OPEN + "    run._channel._socket.send(b'K' + bytes(3)); os._exit(0)", Status.CRASHED, "without a checkpoint"),
        (OPEN + "    stream[0] = 1", Status.CRASHED, "read-only"),
        (OPEN + "    run.open()", Status.WRONG, "expected a message"),
        (OPEN + "    run.submit({'table': torch.full((64, 64), float('nan'))})", Status.WRONG, "finite logits"),
        (OPEN + "    run.submit({'wrong': torch.zeros(64, 64)})", Status.CRASHED, "scoring: the process ended"),
    ],
)  # fmt: skip
def test_a_program_that_does_not_train(bench: Bench, train: str, status: Status, sentence: str) -> None:
    found = bench.judge(train, cap_s=0.3)
    assert (found.status, sentence in found.detail) == (status, True), found


def test_a_flood_of_output_is_a_crash_even_with_a_checkpoint(bench: Bench) -> None:
    flood = TRAIN + "    while True: print('x' * 100_000)\n"
    found = bench.judge(flood, limits=replace(LIMITS, output_kb=512))
    assert found.status is Status.CRASHED and "wrote more than 512 KB" in found.detail
    assert len(found.detail) < 4000


def test_sleeping_does_not_stop_the_wall(bench: Bench) -> None:
    found = bench.judge(OPEN + "    time.sleep(60)", limits=replace(LIMITS, wall_s=0.8))
    assert found.status is Status.TIMEOUT
    found = bench.judge("import time\ndef train(run): time.sleep(60)", build_s=0.3)
    assert found.status is Status.TIMEOUT and "run.open() was not called within 0.3 s" in found.detail


def test_a_flood_of_checkpoints_is_wrong(bench: Bench) -> None:
    found = bench.judge(OPEN + "    while True: run.submit({'table': torch.zeros(1)})")
    assert found.status is Status.WRONG and "at most 256 checkpoints" in found.detail


def test_threads_are_charged(bench: Bench) -> None:
    train = """
import threading, time, torch
def work():
    until = time.thread_time() + 0.3
    while time.thread_time() < until: pass
def train(run):
    stream = run.open()
    threads = [threading.Thread(target=work) for _ in range(2)]
    [t.start() for t in threads]; [t.join() for t in threads]
    run.submit({"table": torch.zeros(64, 64)})
"""
    assert bench.judge(train).measures["cpu_s"] > 0.55


# Programs that train but score with what they must not know. The targets of a window are its own next tokens.

CHEATS = {
    "reads ahead": "z = table[tokens]; z[:, :-1].scatter_(2, tokens[:, 1:, None], 9.0); return z",
    "reads ahead at one position": "z = table[tokens]; z[:, 7:8].scatter_(2, tokens[:, 8:9, None], 9.0) "
    "if tokens.shape[1] > 8 else None; return z",
    "reads ahead a little": "z = table[tokens]; z[:, :-1].scatter_add_(2, tokens[:, 1:, None], "
    "torch.full(tokens[:, 1:, None].shape, 0.015)); return z",
    "normalises over the window": "z = table[tokens]; return z - z.mean(1, keepdim=True)",
    "depends on the batch": "z = table[tokens]; return z * (1 + 0.1 * tokens.shape[0])",
    "adapts between rows": "z = table[tokens]; seen[0] += 1; return z * (1 + 0.01 * seen[0])",
    "draws at random": "z = table[tokens]; return z + torch.randn_like(z)",
}


@pytest.mark.parametrize("name", CHEATS)
def test_an_answer_depends_on_nothing_but_the_past(bench: Bench, name: str) -> None:
    body = "\n        ".join(CHEATS[name].split("; "))
    head = "import torch\ndef load(run, tensors):\n    table, seen = tensors['table'], [0]\n"
    found = bench.judge(TRAIN, f"{head}    def predict(tokens):\n        {body}\n    return predict\n")
    assert found.status is Status.WRONG
    assert "signed test" in found.detail if name == "reads ahead a little" else "truncation test" in found.detail


@pytest.mark.parametrize(
    ("predict", "status", "sentence"),
    [
        ("lambda t: torch.zeros(*t.shape, 65)", Status.WRONG, "expected logits [B, t, 64]"),
        ("lambda t: torch.zeros(*t.shape, 63)", Status.WRONG, "expected logits [B, t, 64]"),
        ("lambda t: table[t] + float('inf')", Status.WRONG, "expected finite logits"),
        ("lambda t: table[t].masked_fill(table[t] < 1, float('-inf'))", Status.WRONG, "expected finite logits"),
        ("lambda t: torch.where(table[t] > 1, 3e38, -3e38)", Status.PASSED, ""),
        ("lambda t: (torch.nn.functional.one_hot(t, 64) * 2 - 1) * 3e38", Status.WRONG, "probability 0"),
        ("lambda t: 1 / 0", Status.CRASHED, "scoring: the process ended while answering"),
        ("lambda t: [table[t] for _ in iter(int, 1)]", Status.WRONG, "scoring: took more than"),
    ],
)
def test_logits_are_finite_and_exactly_vocabulary_sized(
    bench: Bench, predict: str, status: Status, sentence: str
) -> None:
    model = f"import torch\ndef load(run, tensors):\n    table = tensors['table']\n    return {predict}\n"
    found = bench.judge(TRAIN, model, score_s=0.2)
    assert (found.status, sentence in found.detail) == (status, True), found


def test_no_text_of_a_scoring_process_is_kept(bench: Bench) -> None:
    model = "import sys\ndef load(run, tensors): print('SECRET', flush=True); sys.exit('SECRET')\n"
    found = bench.judge(TRAIN, model)
    assert found.status is Status.CRASHED and "SECRET" not in str(found)


BUSY = """
import time
def busy(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until: pass
"""
RACE = {"objective": "race", "target": 1.5, "slope": 0.2, "band": 0.5}


def test_slow_answers_are_added_to_the_time_and_slower_ones_are_wrong(bench: Bench) -> None:
    slow = (
        BUSY
        + """
def load(run, tensors):
    table = tensors["table"]
    def predict(tokens):
        busy(0.1 if tokens.size(1) == run.window else 0)
        return table[tokens]
    return predict
"""
    )
    found = bench.judge(TRAIN, slow, score_s=0.3, score_slack=1.0, **RACE)
    assert found.status is Status.PASSED, found
    m = found.measures
    assert 0.15 < m["seconds"] - m["cpu_s"] == pytest.approx(m["score_s"] - m["load_s"] - 0.3)
    found = bench.judge(TRAIN, slow, score_s=0.1, score_slack=1.0)
    assert found.status is Status.WRONG and "twice what is free" in found.detail


def test_time_before_the_first_answer_is_added_however_much_scoring_is_free(bench: Bench) -> None:
    late = (
        BUSY
        + """
def load(run, tensors):
    busy(0.3)
    return lambda tokens: tensors["table"][tokens]
"""
    )
    found = bench.judge(TRAIN, late, load_s=0.1, **RACE)
    assert found.status is Status.PASSED, found
    assert 0.15 < found.measures["seconds"] - found.measures["cpu_s"] == pytest.approx(found.measures["load_s"] - 0.1)


def test_a_larger_checkpoint_may_load_longer_and_the_quicker_process_counts(bench: Bench) -> None:
    late = """
import time
def load(run, tensors):
    time.sleep(0.3)
    return lambda tokens: tensors["table"][tokens]
"""
    wall = {"clock": "wall", "load_s": 0.1, **RACE}
    added = bench.judge(TRAIN, late, **wall).measures
    assert 0.15 < added["seconds"] - added["wall_s"] == pytest.approx(added["load_s"] - 0.1)
    some = bench.judge(TRAIN, late, load_gb_s=0.1e9 / 16_512, **wall).measures  # of a table of 16 KB
    assert 0.05 < some["seconds"] - some["wall_s"] == pytest.approx(some["load_s"] - 0.2, abs=0.01)
    once = """
import time
def load(run, tensors):
    def predict(tokens):
        time.sleep(0.3 if tokens.size(1) == run.window and not seen else 0)
        seen.append(1)
        return tensors["table"][tokens]
    seen = []
    return predict
"""
    found = bench.judge(TRAIN, once, **wall).measures
    assert found["seconds"] == found["wall_s"]


def test_a_budget_counts_what_is_added(bench: Bench) -> None:
    late = (
        BUSY
        + """
def load(run, tensors):
    busy(0.5)
    return lambda tokens: tensors["table"][tokens]
"""
    )
    found = bench.judge(TRAIN, late, load_s=0.1, cap_s=0.4)
    assert found.status is Status.WRONG and "over the budget" in found.detail
    assert bench.judge(TRAIN, late, load_s=1.0, cap_s=0.4).status is Status.PASSED


@pytest.mark.parametrize("part", ["train", "model"])
def test_building_beyond_what_is_free_is_added(bench: Bench, part: str) -> None:
    programs = {"train": TRAIN, "model": MODEL}
    programs[part] = BUSY + "busy(0.4)\n" + programs[part]
    found = bench.judge(**programs, build_free_s=0.2, **RACE)
    assert found.status is Status.PASSED, found
    assert 0.15 < found.measures["seconds"] - found.measures["cpu_s"] < 0.6
    free = bench.judge(**programs, **RACE)
    assert free.measures["seconds"] == free.measures["cpu_s"]


def test_a_checkpoint_that_was_sent_before_the_data_opened_is_wrong(bench: Bench) -> None:
    early = """
import os, struct, safetensors.torch, torch
def train(run):
    data = safetensors.torch.save({"table": torch.zeros(run.vocabulary, run.vocabulary)})
    os.write(3, struct.pack("<cQ", b"R", 0) + struct.pack("<cQ", b"K", len(data)) + data)
    os.read(3, 9)
"""
    found = bench.judge(early)
    assert found.status is Status.WRONG and "before the data opens" in found.detail, found


def test_tokens_have_other_numbers_under_every_seed_but_for_the_separator(bench: Bench, corpus: Corpus) -> None:
    counting = """
import torch
def train(run):
    stream = torch.from_numpy(run.open().astype("int64"))
    raise SystemExit(str(torch.bincount(stream, minlength=run.vocabulary).tolist()))  # output is complete at the end
"""
    counts = [eval(bench.judge(counting, seed=seed).detail.splitlines()[-1]) for seed in (1, 2, 1)]
    known = np.bincount(corpus.train, minlength=VOCABULARY).tolist()
    assert counts[0] == counts[2] != counts[1] and known not in counts
    assert sorted(counts[0]) == sorted(counts[1]) == sorted(known)
    assert counts[0][-1] == counts[1][-1] == known[-1]


def test_text_that_is_known_by_heart_shows_in_the_gap(bench: Bench) -> None:
    found = bench.judge(gap=-0.2)
    assert found.status is Status.WRONG and "gap test" in found.detail
    assert set(found.measures) >= {"loss", "private_loss", "gap"}


def test_train_tokens_cut_the_stream(bench: Bench) -> None:
    train = TRAIN.replace("run.submit", "assert len(stream) == 5000, len(stream)\n    run.submit")
    assert bench.judge(train, train_tokens=5000).status is Status.PASSED
    assert "20000" in bench.judge(train).detail


def test_on_the_wall_clock_sleeping_counts(bench: Bench) -> None:
    train = TRAIN.replace("    run.submit", "    import time; time.sleep(0.3)\n    run.submit")
    found = bench.judge(train, clock="wall")
    assert found.measures["seconds"] == found.measures["wall_s"] > 0.3 > found.measures["cpu_s"]
    assert bench.judge(train, clock="wall", cap_s=0.2).status is Status.TIMEOUT


def test_a_sandbox_that_cannot_start_is_our_fault(corpus: Corpus, sandbox: Sandbox, tmp_path: Path) -> None:
    class Broken:
        level = sandbox.level

        def start(self, *_: object, **__: object) -> None:
            raise SandboxError("no memory for it")

    found = TrainingJudge(SETTINGS, LIMITS, tmp_path, Broken(), corpus).judge(tmp_path, stage="screen", seed=1)  # type: ignore[arg-type]
    assert found.status is Status.LOST and "no memory for it" in found.detail


# Settings.


def test_settings_say_what_is_wrong() -> None:
    numbers = dict.fromkeys(("window", "windows", "cap_s", "checkpoint_kb", "score_s"), 1)
    table = {"clock": "cpu", "objective": "budget", **numbers}
    assert settings(Settings, table, "toy").cap_s == 1.0
    with pytest.raises(UserMistake, match=r"unknown key 'windws'; valid are .*windows"):
        settings(Settings, {**table, "windws": 3}, "toy")
    for change, sentence in [
        ({"clock": "sun"}, "expected cpu or wall"),
        ({"objective": "race"}, "missing: target, slope, band"),
        ({"band": 1.0}, "remove band"),
        ({"window": 0}, "window: expected a number above 0"),
        ({"build_free_s": 0}, "build_free_s: expected a number above 0"),
    ]:
        with pytest.raises(UserMistake, match=sentence):
            settings(Settings, {**table, **change}, "toy")


def test_the_judge_refuses_what_it_cannot_hold(sandbox: Sandbox, corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(UserMistake, match="new processes to be refused"):
        TrainingJudge(SETTINGS, replace(LIMITS, children=True), tmp_path, sandbox, corpus)
    with pytest.raises(UserMistake, match="fewer or shorter"):
        TrainingJudge(replace(SETTINGS, windows=1000), LIMITS, tmp_path, sandbox, corpus)
    with pytest.raises(UserMistake, match="vocabulary: expected 64"):
        TrainingJudge(replace(SETTINGS, vocabulary=1024), LIMITS, tmp_path, sandbox, corpus)


# The arithmetic.


def test_log_probabilities_are_those_of_plain_arithmetic() -> None:
    logits = np.random.default_rng(0).normal(0, 20, (3, 5, 40)).astype(np.float32)
    totals = [[math.log(sum(math.exp(z) for z in row)) for row in rows] for rows in logits.tolist()]
    expected = (logits - np.array(totals)[..., None]).tolist()
    log_p = log_probabilities(logits.copy())
    assert np.allclose(log_p, expected, atol=1e-4)
    targets = np.arange(15, dtype=np.uint16).reshape(3, 5)
    assert nats_of(log_p, targets)[1, 2] == pytest.approx(-expected[1][2][7], abs=1e-4)
    for bad in (np.nan, np.inf, -np.inf):
        spoiled = logits.copy()
        spoiled[1, 2, 3] = bad
        with pytest.raises(NotFinite):
            log_probabilities(spoiled)


def test_bits_per_byte_leaves_out_targets_of_no_bytes() -> None:
    targets, sizes = np.array([[0, 1, 2]], np.uint16), np.array([0, 1, 3])
    nats = np.array([[100.0, math.log(2), 3 * math.log(2)]])
    assert bits_per_byte(nats, targets, sizes) == pytest.approx(1.0)


def test_equivalent_seconds() -> None:
    race = {"target": 2.0, "slope": 0.5, "band": 0.1}
    assert equivalent_seconds(5.0, 2.0, **race) == 5.0
    assert equivalent_seconds(5.0, 2.05, **race) == pytest.approx(5.0 * math.exp(0.1))
    assert equivalent_seconds(5.0, 2.1001, **race) is None
    assert equivalent_seconds(5.0, 1.0, **race) == equivalent_seconds(5.0, 1.9, **race)  # clipped below the band
    losses = np.linspace(1.9, 2.1, 50)
    scores = [equivalent_seconds(5.0, loss, **race) for loss in losses]
    assert all(a < b for a, b in pairwise(scores))  # type: ignore[operator]
    # Along L = target - slope * ln(t / t0), trading time for loss neither gains nor costs anything.
    assert equivalent_seconds(5.0 * 1.1, 2.0 - 0.5 * math.log(1.1), **race) == pytest.approx(5.0)


@pytest.mark.parametrize(("count", "length"), [(1, 1), (3, 8), (8, 8), (50, 8)])
def test_cuts_cover_every_row_once_and_every_length(count: int, length: int) -> None:
    cuts = Cuts.draw(count, length, random.Random(count))
    assert sorted(int(row) for rows, _ in cuts.groups for row in rows) == list(range(count))
    assert len({cut for _, cut in cuts.groups}) == min(count, length)
    assert all(cuts.last_shown[row] == cut - 1 for rows, cut in cuts.groups for row in rows)


def test_agreement_tolerates_rounding_and_nothing_else() -> None:
    generator = np.random.default_rng(0)
    whole = log_probabilities(generator.normal(0, 3, (300, 40)).astype(np.float32))
    targets = generator.integers(0, 40, 300).astype(np.uint16)
    noise = generator.normal(0, 0.003, whole.shape).astype(np.float32)
    at_targets = np.arange(300), targets
    assert disagreement(whole, whole, targets, 0.15) is None
    assert disagreement(whole, whole + noise, targets, 0.15) is None
    assert (disagreement(whole, whole + noise, targets, 0.01) or "").startswith("truncation")
    assert (disagreement(whole, whole * np.nan, targets, 0.15) or "").startswith("truncation")
    biased = whole + noise
    biased[at_targets] -= 0.003  # no single difference shows it
    assert (disagreement(whole, biased, targets, 0.15) or "").startswith("signed")
    noisy = whole.copy()
    noisy[at_targets] += np.where(np.arange(300) % 2, 0.04, -0.045).astype(np.float32)  # hides its bias in noise
    assert (disagreement(whole, noisy, targets, 0.15) or "").startswith("spread")


def test_seeds_of_a_proof_cannot_be_foreseen(tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who writes a patch could try comments until its genome's name gives lucky seeds."""
    seen: list[int] = []

    def judged(self: TrainingJudge, program: Path, seed: int, measures: dict[str, float]) -> Outcome:
        seen.append(seed)
        return Outcome.failed(Status.WRONG, "not run")

    class Renewed:
        level = Level(tuple(Layer("syscalls", True, "") for _ in range(1)))

        def renew(self) -> None:
            pass

    monkeypatch.setattr(TrainingJudge, "_judge", judged)
    for secret in (b"one", b"one", b"other"):
        judge = TrainingJudge(SETTINGS, LIMITS, tmp_path, Renewed(), corpus, secret=secret)  # type: ignore[arg-type]
        for stage in ("certify0-g", "leave3-g-p", "record1", "screen"):
            judge.judge(tmp_path, stage=stage, seed=7)
    one, again, other = seen[:4], seen[4:8], seen[8:]
    assert one == again and one[3] == other[3] == 7
    assert all(ours != theirs and ours != 7 and 0 <= ours < 1 << 31 for ours, theirs in zip(one[:3], other[:3]))


# A whole evaluation against an honest speaker whose framing is spoiled at one place.


class Speaker:
    """Plays the guest of both roles from a thread; flips a bit of one frame's header, or cuts one frame short."""

    def __init__(self, spoiled: int | None, chance: random.Random) -> None:
        self.level = Level((Layer("syscalls", True, ""),))
        self.spoiled, self.chance, self.frames = spoiled, chance, 0

    def start(self, *_: object, arguments: tuple[str, str], **__: object) -> SpeakerTurn:
        return SpeakerTurn(self, arguments[0])

    def say(self, theirs: socket.socket, kind: bytes, payload: bytes = b"") -> None:
        data = HEADER.pack(kind, len(payload)) + payload
        self.frames += 1
        if self.frames - 1 != self.spoiled:
            return theirs.sendall(data)
        if (
            kind != b"F" and self.chance.random() < 0.3
        ):  # a cut F is a program that died after its checkpoint: it passes
            theirs.sendall(data[: self.chance.randrange(len(data))])
            raise BrokenPipeError
        header = bytearray(data[: HEADER.size])
        header[self.chance.randrange(HEADER.size)] ^= 1 << self.chance.randrange(8)
        theirs.sendall(bytes(header) + payload)


class SpeakerTurn:
    """As much of a turn as the judge uses."""

    def __init__(self, speaker: Speaker, role: str) -> None:
        self.speaker, self.ended = speaker, False
        self.channel, self.theirs = socket.socketpair()
        self.thread = threading.Thread(target=getattr(self, role))
        self.thread.start()

    def shut(self) -> None:
        pass

    def train(self) -> None:
        data = safetensors.numpy.save({"w": np.zeros(3, np.float32)})
        with self.theirs as theirs, contextlib.suppress(OSError):
            self.speaker.say(theirs, b"R")
            theirs.recv(HEADER.size)
            self.speaker.say(theirs, b"K", data)
            self.speaker.say(theirs, b"F")
            theirs.recv(1)

    def score(self) -> None:
        with self.theirs as theirs, contextlib.suppress(OSError):
            self.speaker.say(theirs, b"R")
            theirs.recv(HEADER.size, socket.MSG_WAITALL)
            while len(header := theirs.recv(HEADER.size, socket.MSG_WAITALL)) == HEADER.size:
                payload = theirs.recv(HEADER.unpack(header)[1], socket.MSG_WAITALL)
                last, rows, columns = struct.unpack_from("<?II", payload)
                self.speaker.say(theirs, b"L", bytes(rows * (1 if last else columns) * 8 * 4))

    def __enter__(self) -> SpeakerTurn:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        self.thread.join()

    def cpu_seconds(self) -> float:
        return 0.0

    def peak_mb(self) -> float:
        return 1.0

    def output(self) -> str:
        return ""

    def ending(self, timeout: float | None = 0) -> Ending | None:
        return None if self.thread.is_alive() else Ending("exited", 0)


def test_spoiled_framing_never_gives_a_score(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 8, 100).astype(np.uint16)
    small = Corpus(tokens, tokens, tokens, np.ones(8, np.int64), 8, "tiny")
    few = Settings("wall", "budget", 4, 5, 0.5, 1, 2.0, batch=2, private_windows=2, vocabulary=8)

    def judge(speaker: Speaker) -> Outcome:
        return TrainingJudge(few, LIMITS, tmp_path, speaker, small).judge(tmp_path, stage="", seed=1)  # type: ignore[arg-type]

    honest = Speaker(None, random.Random(0))
    assert judge(honest).score == pytest.approx(3.0)  # bits of a uniform guess among 8, in tokens of one byte
    found = []
    for seed in range(60):
        speaker = Speaker(seed % honest.frames, random.Random(seed))
        found.append(judge(speaker))
        assert found[-1].status is not Status.PASSED, (seed, speaker.spoiled)
    assert {outcome.status for outcome in found} <= {Status.WRONG, Status.CRASHED, Status.TIMEOUT}


# The wire.


def container() -> bytes:
    return safetensors.numpy.save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(4, np.float16)})


def test_a_plain_container_is_accepted_whatever_its_header_looks_like() -> None:
    data = container()
    assert inspect_checkpoint(data) == inspect_checkpoint(data.replace(b'"a"', b'"c"'))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:5],
        lambda data: b"",
        lambda data: struct.pack("<Q", 1 << 63) + data[8:],
        lambda data: data.replace(b'"F32"', b'"F99"'),
        lambda data: data.replace(b"[2,3]", b"[3,3]"),
        lambda data: data.replace(b"[2,3]", b"[2,-3]"),
        lambda data: data.replace(b"[2,3]", b"[2,1e]"),
        lambda data: data.replace(b'"a"', b'"b"'),
        lambda data: data.replace(b'"a"', b'"\0"'),
        lambda data: struct.pack("<Q", 40_000) + b"[" * 40_000,
    ],
)  # fmt: skip
def test_a_spoiled_container_is_refused(spoil: object) -> None:
    with pytest.raises(Malformed):
        inspect_checkpoint(spoil(container()))  # type: ignore[operator]


def test_random_flips_and_cuts_of_a_container_are_refused_or_plain() -> None:
    chance, data = random.Random(5), container()
    for _ in range(2000):
        spoiled = bytearray(data[: chance.randrange(len(data) + 1)] if chance.random() < 0.3 else data)
        for _ in range(chance.randrange(4)):
            if spoiled:
                spoiled[chance.randrange(min(len(spoiled), 150))] = chance.randrange(256)
        try:
            assert len(inspect_checkpoint(bytes(spoiled))) == 64
        except Malformed as error:
            assert len(str(error)) < 400


def test_random_bytes_on_the_channel_end_in_one_of_two_ways() -> None:
    chance = random.Random(6)
    good = HEADER.pack(b"K", 5) + b"hello" + HEADER.pack(b"F", 0)
    for _ in range(400):
        spoiled = bytearray(good[: chance.randrange(len(good))] if chance.random() < 0.5 else good)
        for _ in range(chance.randrange(3)):
            if spoiled:
                spoiled[chance.randrange(len(spoiled))] ^= 1 << chance.randrange(8)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(spoiled)
            theirs.close()
            peer, frames = Peer(ours), 0
            with pytest.raises((Closed, Foreign)):
                while frames < 10:
                    assert len(peer.receive({b"K": at_most(64), b"F": exactly(0)}, lambda: None).payload) <= 64
                    frames += 1


def test_a_peer_that_neither_reads_nor_sends_is_given_up() -> None:
    class Enough(Exception):
        pass

    looks = []

    def watch() -> None:
        looks.append(1)
        if len(looks) > 2:
            raise Enough

    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(Enough):
            Peer(ours).send(b"W", watch, bytes(1 << 22))
        with pytest.raises(Enough):
            Peer(ours).receive({b"K": exactly(1)}, watch)


def test_every_pair_of_a_proof_has_a_fork_server_of_its_own(bench: Bench, corpus: Corpus) -> None:
    """Forks of one server share a memory layout, which favours one text over another alike in every pair."""
    with Sandbox(preload=["numpy", "torch", "safetensors.torch"]) as sandbox:
        own = Bench(bench.folder, sandbox, corpus)
        own.judge()
        judge = TrainingJudge(SETTINGS, LIMITS, own.folder, sandbox, corpus)
        servers = []
        for stage, seed in [("screen", 1), ("certify0-a", 5), ("certify0-a", 5), ("certify0-a", 6), ("screen", 7)]:
            assert judge.judge(own.folder / "program", stage=stage, seed=seed).score is not None
            servers.append(sandbox._process.pid)
    first, one, other, next_pair, search = servers
    assert first != one == other != next_pair == search
