"""The training judge on a CUDA device; and, without one, what of it needs none."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import settings_for
from numpy.typing import NDArray

from evo import benchmark as benchmarks
from evo import judge, run, rundir, worker
from evo.benchmark import UserMistake, read_tree, write_tree
from evo.judges import gpu as gpus
from evo.judges.corpus import Corpus
from evo.judges.gpu import Gpu, readings
from evo.judges.loss import NotFinite
from evo.judges.training import PRELOAD, Settings, TrainingJudge
from evo.outcome import Outcome, Status
from evo.sandbox import Limits, Sandbox

PROGRAM = Path(__file__).resolve().parent.parent / "benchmarks" / "autoresearch" / "program"

if importlib.util.find_spec("torch") is None:
    pytest.skip("training programs need torch", allow_module_level=True)


VOCABULARY, WINDOW = 64, 24
TRAIN = """
import os, torch
def train(run):
    torch.zeros(1, device="cuda")
    stream = run.open()
    tokens = torch.from_numpy(stream.astype("int64")).cuda()
    pairs = torch.bincount(tokens[:-1] * run.vocabulary + tokens[1:], minlength=run.vocabulary ** 2)
    run.submit({"table": (pairs.view(run.vocabulary, -1) + 0.1).log()})
"""
MODEL = """
import torch
def load(run, tensors):
    table = tensors["table"].to("cuda")
    return lambda tokens: table[tokens.to("cuda")]
"""


def text(length: int, seed: int) -> NDArray[np.uint16]:
    """A language in which the next token depends on the last."""
    steps = np.random.default_rng(seed).integers(0, 6, length)
    found, token = np.empty(length, np.uint16), 0
    for i in range(length):
        found[i] = token = (token * 5 + int(steps[i]) + 1) % VOCABULARY
    return found


CORPUS = Corpus(text(20_000, 1), text(4_000, 2), text(4_000, 3), np.full(VOCABULARY, 3), VOCABULARY, "toy")
SETTINGS = Settings(
    clock="wall", device="cuda", objective="budget", window=WINDOW, windows=64, private_windows=16, cap_s=10.0,
    checkpoint_kb=64, score_s=4.0, batch=16, build_s=60.0, compile_s=60.0, vocabulary=VOCABULARY,
)  # fmt: skip
LIMITS = Limits(wall_s=60.0, memory_mb=None, children=True, threads=1024)


# Without a device.


def test_readings_of_the_device_lose_their_edges_and_tell_throttling_from_idling():
    lines = [
        "0, 0, 300, 50.0, 0x1",
        "1000, 90, 1900, 600.5, 0x0",
        "2000, 100, 1700, 699.5, 0x4",
        "9, 0, 300, 50.0, 0x1",
    ]
    found = readings("\n".join(lines))
    assert found == {"gpu_peak_mb": 2000, "gpu_busy": 0.95, "gpu_mhz": 1800, "gpu_watts": 650, "gpu_slowed": 0.5}
    assert readings("") == {} and readings("N/A, N/A, N/A, N/A, N/A\n" * 5) == {}


def test_settings_of_a_device_are_checked():
    with pytest.raises(UserMistake, match="expected cpu or cuda"):
        replace(SETTINGS, device="tpu")
    with pytest.raises(UserMistake, match="expected wall with device"):
        replace(SETTINGS, clock="cpu")
    with pytest.raises(UserMistake, match="take a smaller batch"):
        replace(SETTINGS, window=2048, vocabulary=50_304)


def test_without_a_device_one_sentence_comes_before_anything_is_prepared(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for benchmark, profile in (("speedrun", "8gpu"), ("autoresearch", "20s")):
        asked = ["--benchmark", benchmark, "--profile", profile]
        assert run.main([*asked, "--out", str(tmp_path / "run")]) == judge.main(asked) == 2
        told = capsys.readouterr().err
        assert told.count("expected a CUDA device, found none") == 2 and not (tmp_path / "run").exists()


@pytest.mark.parametrize(("profile", "alone"), [("20s", False), ("cpu", True)])
def test_a_certification_on_one_device_leaves_the_others_of_its_host_alone(tmp_path: Path, profile: str, alone: bool):
    """A judge on a GPU has timed sections alone with their device by itself; on a CPU a pair has the whole host."""
    benchmark = benchmarks.load("autoresearch", profile)
    settings = replace(settings_for(benchmark), benchmark="autoresearch", profile=profile)
    directory = rundir.RunDir(tmp_path)
    directory.create(settings, benchmark.base)
    crew = worker.join(directory, role="judge", minutes=None, allow_unisolated=False)
    assert crew.exclusive is alone
    crew.close()


def test_workers_of_a_gpu_are_as_many_as_keep_it_busy_and_the_cores_can_compile_for(monkeypatch: pytest.MonkeyPatch):
    benchmark = benchmarks.load("autoresearch", "20s")
    monkeypatch.setattr(run.os, "cpu_count", lambda: 32)
    for devices, profile, expected in (("0", "20s", 6), ("0,1", "20s", 10), ("0,1", "cpu", 4)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
        assert run.default_workers(benchmark, benchmark.profile(profile)) == expected


@pytest.mark.parametrize(("profile", "paired"), [("20s", True), ("cpu", False)])
def test_screens_share_seeds_with_base_runs_where_that_takes_luck_away(tmp_path: Path, monkeypatch, profile, paired):
    monkeypatch.setattr(run, "require_device", lambda benchmark, profile: None)
    asked = run.options(["--benchmark", "autoresearch", "--profile", profile, "--out", str(tmp_path / "run")])
    assert run.prepared(asked)[0].settings().paired is paired


class Run:
    """A judge that hands over a stream and keeps what is submitted; `opening` is called in open()."""

    device, vocabulary, window, threads = "cpu", 64, 16, 1

    def __init__(self, seed: int, steps: int) -> None:
        self.seed, self.steps, self.seconds = seed, steps, 1.0
        self.submitted: dict = {}
        self.looks = 0

    def open(self) -> NDArray[np.uint16]:
        return text(20_000, 1)

    def elapsed(self) -> float:
        """A clock that ends the run after `steps` looks at it."""
        self.looks += 1
        return (self.looks - 1) / self.steps

    def submit(self, tensors: dict) -> None:
        self.submitted = {name: tensor.clone() for name, tensor in tensors.items()}


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(PROGRAM))
    names = ("model", "kernels", "optimizer", "trainer", "train")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("program")
def test_the_base_forgets_its_warm_up(monkeypatch: pytest.MonkeyPatch):
    import torch
    import train
    import trainer

    monkeypatch.setattr(train, "handover_seconds", lambda model: 0.0)
    train.train(warm := Run(seed=3, steps=3))
    monkeypatch.setattr(trainer, "WARM_UP_STEPS", 0)
    train.train(cold := Run(seed=3, steps=3))
    assert warm.submitted and all(torch.equal(warm.submitted[name], cold.submitted[name]) for name in warm.submitted)


@pytest.mark.usefixtures("program")
def test_the_base_looks_back_only_and_its_windows_limit_how_far():
    import model
    import torch

    def answers(tokens: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        gpt = model.GPT(model.Shape(2, 32, 16, torch.float32), VOCABULARY, WINDOW)
        gpt.initialize()
        torch.nn.init.normal_(gpt.out, std=0.2)
        torch.nn.init.normal_(gpt.head, std=0.2)
        with torch.no_grad():
            return gpt(tokens)

    tokens = torch.randint(0, VOCABULARY, (1, WINDOW))
    changed = tokens.clone()
    changed[0, 10] += 1
    differs = (answers(tokens) != answers(changed % VOCABULARY)).any(-1)[0]
    assert not differs[:10].any() and differs[10:].all()
    q = torch.randn(1, WINDOW, 2, 8)
    near, far = model.attend(q, q, q, 4), model.attend(q, q, torch.cat([q[:, :1] + 1, q[:, 1:]], 1), 4)
    assert torch.equal(near[:, 4:], far[:, 4:]) and not torch.equal(near[:, :4], far[:, :4])


@pytest.mark.usefixtures("program")
def test_muon_turns_gradients_into_near_orthogonal_matrices():
    import optimizer
    import torch

    torch.manual_seed(0)
    for shape in ((3, 16, 40), (3, 40, 16)):
        values = torch.linalg.svdvals(optimizer.orthogonalized(torch.randn(shape), torch.float32))
        assert values.min() > 0.6 and values.max() < 1.3


def test_two_processes_share_a_race(tmp_path: Path):
    """The eight-GPU race with gloo on a CPU: rank 0 submits what one process alone would have trained."""
    source = PROGRAM.parent.parent / "speedrun" / "program_gpu"
    scores = []
    limits = Limits(wall_s=60, memory_mb=None, children=True, loopback=True, threads=256)
    settings = replace(SETTINGS, device="cpu", devices=2, checkpoint_kb=2000, cap_s=50)
    with Sandbox(preload=PRELOAD) as sandbox:
        for text_of_team in ((source / "team.py").read_text(), ALONE):
            program = tmp_path / f"program{len(scores)}"
            write_tree({**read_tree(source), "team.py": text_of_team}, program)
            judge = TrainingJudge(settings, limits, tmp_path, sandbox, CORPUS, None, b"fixed")
            outcome = judge.judge(program, stage="screen", seed=1)
            assert outcome.status is Status.PASSED, outcome.detail
            scores.append(outcome.score)
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


ALONE = """
class Team:
    rank, size = 0, 1
    meet = lambda self: None
    share = lambda self, tensor, device: tensor
    add_up = lambda self, tensors: None
def assembled(run, race):
    race(run, Team())
"""


# On a device.


@pytest.fixture(scope="module")
def gpu() -> Iterator[Gpu]:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    found = Gpu()
    yield found
    found.close()


@pytest.fixture(scope="module")
def sandbox(gpu: Gpu) -> Iterator[Sandbox]:
    with Sandbox(preload=[name for name in PRELOAD if name != "torch._dynamo"], drop_user=False, cuda=True) as found:
        yield found


class Bench:
    def __init__(self, folder: Path, sandbox: Sandbox, gpu: Gpu) -> None:
        self.folder, self.sandbox, self.gpu = folder, sandbox, gpu

    def judge(self, train: str = TRAIN, model: str = MODEL, limits: Limits = LIMITS, **changes: object) -> Outcome:
        program = self.folder / "program"
        program.mkdir(exist_ok=True, mode=0o755)
        (program / "train.py").write_text(train)
        (program / "model.py").write_text(model)
        settings = replace(SETTINGS, **changes)  # type: ignore[arg-type]
        judge = TrainingJudge(settings, limits, self.folder, self.sandbox, CORPUS, self.gpu, b"fixed")
        return judge.judge(program, stage="screen", seed=1)


@pytest.fixture
def bench(tmp_path: Path, sandbox: Sandbox, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("evo.judges.training.place", lambda: tmp_path)  # compiled code of this test alone
    return Bench(tmp_path, sandbox, gpu)


@pytest.mark.gpu
def test_an_honest_program_scores_what_its_table_says(bench: Bench):
    outcome = bench.judge()
    assert outcome.status is Status.PASSED, outcome.detail
    pairs = np.zeros((VOCABULARY, VOCABULARY)) + 0.1
    np.add.at(pairs, (CORPUS.train[:-1], CORPUS.train[1:]), 1)
    nats = -np.log(pairs / pairs.sum(1, keepdims=True))
    stride = len(CORPUS.validation) // 64
    rows = np.stack([CORPUS.validation[i * stride : i * stride + WINDOW + 1] for i in range(64)])
    expected = nats[rows[:, :-1], rows[:, 1:]].mean() / np.log(2) / 3
    assert abs(outcome.measures["loss"] - expected) < 0.01  # the judge's order differs in a few pairs at block edges
    assert outcome.measures["compile_s"] > 0


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("answer", "status", "word"),
    [
        ("table[tokens.roll(-1, 1)]", Status.WRONG, "truncation"),
        ("table[tokens] + float('nan')", Status.WRONG, "finite"),
        ("table[tokens][..., :5]", Status.CRASHED, "answering"),
        ("None", Status.CRASHED, "answering"),
    ],
)
def test_what_is_not_an_answer_is_told_from_one(bench: Bench, answer: str, status: Status, word: str):
    outcome = bench.judge(model=MODEL.replace('table[tokens.to("cuda")]', answer.replace("tokens", "tokens.cuda()")))
    assert outcome.status is status and word in outcome.detail, (outcome.status, outcome.detail)


@pytest.mark.gpu
def test_a_program_that_hangs_with_much_memory_leaves_a_clean_device(bench: Bench, gpu: Gpu):
    hold = "\n    held = torch.empty(20 << 30, dtype=torch.uint8, device='cuda').fill_(1)\n    while True: held += 1\n"
    before = gpu.free_mb()
    outcome = bench.judge(train=TRAIN.replace("    stream = run.open()\n", "    stream = run.open()" + hold), cap_s=3.0)
    assert outcome.status is Status.TIMEOUT, outcome.detail
    assert before - gpu.free_mb() < gpus.SLACK_MB
    assert bench.judge().status is Status.PASSED


@pytest.mark.gpu
def test_a_program_that_runs_out_of_memory_is_told_and_leaves_a_clean_device(bench: Bench, gpu: Gpu):
    greedy = "\n    held = []\n    while True: held.append(torch.empty(1 << 30, dtype=torch.uint8, device='cuda'))\n"
    before = gpu.free_mb()
    outcome = bench.judge(train=TRAIN.replace("    stream = run.open()\n", "    stream = run.open()" + greedy))
    assert outcome.status is Status.CRASHED and "out of memory" in outcome.detail, (outcome.status, outcome.detail)
    assert before - gpu.free_mb() < gpus.SLACK_MB
    assert bench.judge().status is Status.PASSED


@pytest.mark.gpu
def test_compiled_code_goes_one_way(bench: Bench):
    """From the sandbox without data to those with data, of the same program; nothing comes back from them."""
    keep = """
    place = os.environ["TORCHINDUCTOR_CACHE_DIR"]
    os.makedirs(place, exist_ok=True)
    found = sorted(os.listdir(place))
    open(f"{place}/made{len(found)}", "w").close()
    print(found)
"""
    program = TRAIN.replace(
        "    stream = run.open()\n", keep + "    stream = run.open()\n    assert found == ['made0']\n"
    )
    for _ in range(2):
        outcome = bench.judge(train=program)
        assert outcome.status is Status.PASSED, outcome.detail


@pytest.mark.gpu
def test_the_judge_refuses_infinities_in_its_buffer(gpu: Gpu):
    gpu.wipe()
    with pytest.raises(NotFinite):
        gpu.log_probabilities(2, 3, 7, None, np.zeros(2, np.int64))
    gpu._buffer[: 2 * 3 * 7] = 0
    nats, at = gpu.log_probabilities(2, 3, 7, np.zeros((2, 3), np.uint16), np.array([2, 0]))
    assert np.allclose(nats, np.log(7)) and np.allclose(at, -np.log(7)) and at.shape == (2, 7)


@pytest.mark.gpu
def test_a_sandbox_sees_the_device_and_not_the_judge(bench: Bench):
    look = "    seen = [os.path.exists(p) for p in ('/root', '/home', '/dev/nvidiactl', '/tmp')]\n"
    check = look + f"    assert seen == [False, False, True, False], seen\n    assert os.getuid() == {os.getuid()}\n"
    assert bench.judge(train=TRAIN.replace("    stream =", check + "    stream =")).status is Status.PASSED
