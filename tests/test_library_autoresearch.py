"""Techniques for autoresearch: every file applies; oracles on the CPU, of kernels through Triton's interpreter."""

from __future__ import annotations

import importlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evo import benchmark as benchmarks
from evo import library
from evo.genome import Genome, PatchError, Tree, apply_diff, build, diff_trees
from evo.library import Technique
from evo.syntax import category, identity

BENCHMARK = benchmarks.load("autoresearch")
TECHNIQUES = [t for t in library.load() if t.benchmark == BENCHMARK.name]
NAMES = {t.name.removeprefix("autoresearch_"): t for t in TECHNIQUES}
CONFLICTS = 0.10  # of all pairs
# What adds a path that begins closed or empty, or changes nothing that a model without training shows.
CLOSED = ["backout", "bigram_values", "head_gate", "ngram_values", "readout", "smear", "token_shift", "value_residual"]
EQUAL = ["fp8_attention", "fp8_mlp_up", "fused_relu2_mlp", "annealed_noise"]  # without a GPU, or at scoring
VOCABULARY, WINDOW = 96, 16
MODULES = (
    "bigrams",
    "float8",
    "float8_mlp",
    "fused_relu2",
    "kernels",
    "model",
    "optimizer",
    "recall",
    "train",
    "trainer",
)
each = pytest.mark.parametrize("technique", TECHNIQUES, ids=lambda t: t.name)


def test_every_category_and_the_named_discoveries_are_there() -> None:
    assert len(TECHNIQUES) >= 20 and {t.patch.hint for t in TECHNIQUES} == set(benchmarks.CATEGORIES)
    assert {"bigram_values", "ngram_values", "bigram_shared_hashes", "annealed_noise", "fp8_attention"} <= NAMES.keys()


@each
def test_applies_compiles_and_is_written_as_evo_writes_it(technique: Technique) -> None:
    tree = tree_of(technique)
    for path, text in tree.items():
        compile(text, path, "exec")
        assert max(len(line) for line in text.splitlines()) <= 120
    assert technique.patch.diff == diff_trees(BENCHMARK.base, tree)
    assert all(BENCHMARK.is_editable(path) for path in tree)


@each
def test_folder_is_the_computed_category_and_the_header_says_what_was_measured(technique: Technique) -> None:
    found = category(BENCHMARK.base, tree_of(technique), BENCHMARK.regions)
    assert found == technique.patch.hint == technique.file.parent.name
    measured = technique.effect != "not measured"
    assert technique.effect and measured == ("n = " in technique.effect) == (technique.verdict != "not measured")


def test_no_two_are_the_same_program_and_most_pairs_combine() -> None:
    found = [identity(tree_of(t)) for t in TECHNIQUES]
    assert len(set(found) | {identity(BENCHMARK.base)}) == len(TECHNIQUES) + 1
    pairs = list(itertools.combinations(TECHNIQUES, 2))
    conflicts = []
    for one, two in pairs:
        try:
            build(Genome(BENCHMARK.base_hash, (one.patch, two.patch)), BENCHMARK.base)
        except PatchError:
            conflicts.append((one.name, two.name))
    assert len(conflicts) <= CONFLICTS * len(pairs), conflicts


def tree_of(technique: Technique) -> Tree:
    return apply_diff(technique.patch.diff, BENCHMARK.base)


def changes_the_model(technique: Technique) -> bool:
    tree = tree_of(technique)
    return len(tree) > len(BENCHMARK.base) or tree["model.py"] != BENCHMARK.base["model.py"]


# --- numerical oracles ---------------------------------------------------------------------------------------------


@contextmanager
def program(name: str | None, folder: Path) -> Iterator[Any]:
    """The modules of the base, or of it with one technique, imported for a moment under their own names."""
    torch = pytest.importorskip("torch")
    benchmarks.write_tree(BENCHMARK.base if name is None else tree_of(NAMES[name]), folder)
    before = {own: sys.modules.pop(own, None) for own in MODULES}
    sys.path.insert(0, str(folder))
    torch.manual_seed(0)
    try:
        yield SimpleNamespace(**{m: importlib.import_module(m) for m in MODULES if (folder / f"{m}.py").exists()})
    finally:
        sys.path.remove(str(folder))
        for own, old in before.items():
            sys.modules.pop(own, None)
            if old is not None:
                sys.modules[own] = old


def tiny(modules: Any) -> Any:
    """A model of two layers, its weights drawn by the base's own names, so that programs can be compared."""
    import torch

    shape = modules.model.Shape(depth=2, width=64, head_width=32, dtype=torch.float32)
    model = modules.model.GPT(shape, VOCABULARY, WINDOW)
    model.initialize()
    with torch.no_grad():
        for name, weight in base_weights().items():
            model.get_parameter(name).copy_(weight)
    return model


@lru_cache(maxsize=1)
def base_weights() -> dict[str, Any]:
    """Everything open: matrices that begin at zero would hide what a path does."""
    import torch

    chance = torch.Generator().manual_seed(1)
    sizes = {
        "embedding": (VOCABULARY, 64), "value_embeddings": (1, VOCABULARY, 64), "value_gates": (1, 2, 32),
        "qkv": (2, 192, 64), "out": (2, 64, 64), "up": (2, 256, 64), "down": (2, 64, 256), "head": (VOCABULARY, 64),
    }  # fmt: skip
    return {name: 0.2 * torch.randn(size, generator=chance) for name, size in sizes.items()}


def tokens() -> Any:
    import torch

    return torch.randint(0, VOCABULARY, (2, WINDOW), generator=torch.Generator().manual_seed(2))


def logits(name: str | None, folder: Path) -> Any:
    with program(name, folder) as modules:
        return tiny(modules)(tokens())


@pytest.mark.parametrize("name", [*CLOSED, *EQUAL])
def test_what_begins_closed_leaves_the_base_bit_for_bit(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    assert torch.equal(logits(name, tmp_path / "own"), logits(None, tmp_path / "base"))


@pytest.mark.parametrize("name", [name for name in sorted(NAMES) if changes_the_model(NAMES[name])])
def test_no_token_changes_the_logits_before_it(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with program(name, tmp_path) as modules:
        model = tiny(modules)
        with torch.no_grad():  # open whatever begins closed
            for key, weight in (*model.named_parameters(), *model.named_buffers()):
                if weight.count_nonzero() == 0:
                    weight.normal_(std=0.3)
                assert weight.isfinite().all(), key
            whole = model(tokens())
            for length in (1, 5, 11):
                changed = tokens()
                changed[:, length:] = (changed[:, length:] + 7) % VOCABULARY
                torch.testing.assert_close(model(changed)[:, :length], whole[:, :length], atol=1e-5, rtol=1e-5)


def test_pairs_that_collide_in_one_table_do_not_in_the_others(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for name, apart in (("bigram_values", True), ("bigram_shared_hashes", False)):
        with program(name, tmp_path / name) as modules:
            chance = torch.Generator().manual_seed(0)
            pairs = torch.randint(0, 8192, (40_000, 2), generator=chance).unique(dim=0)
            rows = modules.bigrams.bigram_rows(pairs, [2, 2, 2, 2], 8 * 8192)[:, :, 1]
            rows = rows - torch.arange(4)[:, None] * 8 * 8192
            assert rows.min() >= 0 and rows.max() < 8 * 8192
            # In one table about n^2 / 2 rows pairs of pairs collide; tables apart share next to none of them.
            order = rows[0].sort().indices
            clash = rows[0][order][1:] == rows[0][order][:-1]
            both = (rows[2][order][1:] == rows[2][order][:-1]) & clash
            expected = len(pairs) ** 2 / 2 / (8 * 8192)
            assert 0.6 * expected < clash.sum() < 1.2 * expected
            assert both.sum() <= 0.01 * clash.sum() if apart else torch.equal(both, clash)


def test_rows_of_a_batch_are_updated_and_no_others(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with program("bigram_values", tmp_path) as modules:
        table, second, count = torch.zeros(12, 8), torch.zeros(12), torch.zeros(12)
        rows, grads = torch.tensor([3, 5, 3, 3]), torch.randn(4, 8)
        modules.bigrams.update_bigrams(table, second, count, rows, grads, 0.1, 0.999)
        total = grads[[0, 2, 3]].sum(0)
        # The first step of a row has its rate as root mean square, whatever the gradient's size.
        torch.testing.assert_close(table[3], -0.1 * total / total.square().mean().sqrt(), atol=1e-4, rtol=1e-3)
        assert table.abs().sum(1).nonzero().flatten().tolist() == [3, 5] and count.tolist()[3:6] == [1, 0, 1]


def test_a_training_step_reaches_the_tables(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with program("ngram_values", tmp_path) as modules:
        run = SimpleNamespace(device="cpu", vocabulary=VOCABULARY, window=WINDOW, seed=0)
        trainer = modules.trainer.Trainer(run)
        trainer.start(0)
        trainer.model.out.data.normal_()
        trainer.model.head.data.normal_()
        text = tokens()
        trainer.step(text, text.roll(-1, 1), 0.0)
        rows = trainer.model.bigram_rows(text).unique()
        touched = trainer.model.bigram_tables.flatten(0, 1).abs().sum(1).nonzero().flatten()
        assert touched.tolist() == rows.tolist()
        assert "bigram_tables" in modules.model.checkpoint(trainer.model)
        trainer.start(0)
        assert trainer.model.bigram_tables.count_nonzero() == 0 and trainer.optimizer.bigrams.count.count_nonzero() == 0


def test_recall_finds_the_longest_match_and_never_what_comes_later(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with program("recall", tmp_path) as modules:
        recall, chance = modules.recall, torch.Generator().manual_seed(3)
        stream = torch.randint(0, 4, (400,), generator=chance, dtype=torch.int32)
        asked = torch.randint(0, 4, (2, 20), generator=chance, dtype=torch.int32)
        index = recall.Index(stream)

        def agreement(one: list[int], other: list[int]) -> int:
            pairs = zip(reversed(one), reversed(other))
            return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

        token, kind = recall.candidates(index, asked)
        for row, time in ((0, 0), (0, 7), (1, 13), (1, 19)):
            context = asked[row, : time + 1].tolist()
            far = max(agreement(context, stream[:place].tolist()) for place in range(1, 400))
            here = max([agreement(context, context[: place + 1]) for place in range(time)], default=0)
            assert kind[row, time, : recall.NEAR].max() == far
            assert kind[row, time, recall.NEAR :].max() - recall.REACH - 1 == here
        changed = asked.clone()
        changed[:, 9:] = 3 - changed[:, 9:]
        for own, other in zip((token, kind), recall.candidates(index, changed)):
            assert torch.equal(own[:, :9], other[:, :9])


def test_recall_learns_how_far_to_trust_a_match(tmp_path: Path) -> None:
    """Sentences of two kinds of words: one kind repeats in the stream, the other never does."""
    torch = pytest.importorskip("torch")
    with program("recall", tmp_path) as modules:
        recall, chance = modules.recall, torch.Generator().manual_seed(4)
        text = torch.arange(24, dtype=torch.int32).repeat(100)
        text = torch.where(torch.rand(2400, generator=chance) < 0.1, 24 + text % 6, text)
        text[::50] = 31
        held, inside, rest = recall.set_aside(text, 100, 31)
        assert len(held) == 3 and len(rest) == 2100 and not inside.all()
        index, blend = recall.Index(rest), recall.Blend()
        blend.reset()
        model = lambda tokens: torch.zeros(*tokens.shape, 32)  # noqa: E731  it knows nothing: 3.47 nats
        fitted = recall.fit(model, index, blend, held, inside)
        with torch.no_grad():
            found = recall.blended(model(held).log_softmax(-1), index, blend, held)
        assert fitted < 1.0 and torch.allclose(found.exp().sum(-1), torch.ones(()), atol=1e-4)


def test_noise_of_size_zero_is_the_plain_update(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    found = []
    for name, noise in ((None, ()), ("annealed_noise", (torch.tensor(0.0),)), ("annealed_noise", (torch.tensor(0.1),))):
        with program(name, tmp_path / str(len(found))) as modules:
            p, grad = torch.randn(2, 8, 6), torch.randn(2, 8, 6)
            velocity, second = torch.zeros_like(p), torch.zeros(2, 8, 1)
            settings = torch.tensor(0.1), torch.tensor(0.9), torch.tensor(0.2)
            start = p.clone()
            modules.optimizer.muon_step(p, grad, velocity, second, torch.float32, *settings, *noise)
            found.append(p)
            if noise:
                at = modules.optimizer.noise_at
                assert at(0, 0.0) == 0 and at(1000, 0.25) == 0 and at(50, 0.0) == 0.1 and at(25, 0.125) == 0.025
    assert torch.equal(found[0], found[1])
    # Noise of a tenth of each row's size moves each row by about a tenth of its step.
    moved = (found[2] - found[0]).norm(dim=-1) / (found[0] - start).norm(dim=-1)
    assert moved.min() > 0.02 and moved.max() < 0.3


def test_cautious_share_zero_is_the_plain_step_and_one_drops_what_disagrees(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with program("cautious_adam", tmp_path) as modules:
        before, step = torch.randn(50, 4), torch.randn(50, 4)
        p = before + step
        p.grad = torch.randn(50, 4)
        plain = p.clone()
        modules.optimizer.cautious(p, before, 0.0)
        torch.testing.assert_close(p, plain)
        modules.optimizer.cautious(p, before, 1.0)
        against = (plain - before) * p.grad >= 0
        assert torch.equal((p == before), against | (plain == before))


def test_the_fused_mlp_has_the_gradients_of_the_plain_one(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    inputs = [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((5, 4), (6, 4), (4, 6))]
    with program("fused_relu2_mlp", tmp_path) as modules:
        x, up, down = inputs
        plain = torch.relu(x @ up.T).square() @ down.T
        fused = modules.fused_relu2.FusedMLP.apply(x, up, down)
        torch.testing.assert_close(fused, plain)
        for own, other in zip(*(torch.autograd.grad(y.sin().sum(), inputs) for y in (fused, plain))):
            torch.testing.assert_close(own, other)


def test_eight_bit_projections_are_near_and_their_gradients_are_the_plain_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")

    def scaled(a: Any, b: Any, scale_a: Any, scale_b: Any, out_dtype: Any, use_fast_accum: bool) -> Any:
        assert a.dtype == b.dtype == torch.float8_e4m3fn and scale_a == scale_b == 1
        return (a.float() @ b.float()).to(out_dtype)

    with program("fp8_attention", tmp_path) as modules:
        monkeypatch.setattr(torch, "_scaled_mm", scaled)  # the processor's own needs a GPU
        x, w = torch.randn(3, 7, 16, requires_grad=True), (0.1 * torch.randn(8, 16)).requires_grad_()
        found, plain = modules.float8.Float8Linear.apply(x, w), x @ w.T
        assert 0 < (found - plain).abs().max() < 0.2
        for own, other in zip(torch.autograd.grad(found.sum(), (x, w)), torch.autograd.grad(plain.sum(), (x, w))):
            torch.testing.assert_close(own, other)
        huge = torch.full((1, 16), 1e4)
        assert modules.float8.Float8Linear.apply(huge, w).isfinite().all()


def test_two_losses_add_their_gradients_by_weight(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    with program("multi_token", tmp_path) as modules:
        hidden, head = torch.randn(2, 6, 8), torch.randn(VOCABULARY, 8)
        targets = torch.randint(0, VOCABULARY, (2, 6))
        plain = modules.model.loss_of(hidden, head, targets)
        later = torch.cat([targets[:, 1:], targets[:, -1:]], 1)
        both = modules.model.loss_of(hidden, head, targets, 0.3)
        torch.testing.assert_close(both, plain + 0.3 * modules.model.loss_of(hidden, head, later))


INTERPRETED = """
import torch, sys
import bigrams, fused_relu2
torch.manual_seed(0)
own, other = torch.zeros(40, 32), torch.zeros(40, 32)
seen = [torch.zeros(40) for _ in range(4)]
for step in range(2):
    rows, grads = torch.randint(0, 12, (60,)), torch.randn(60, 32)
    rows[:40] = 3
    bigrams.update_bigrams(own, seen[0], seen[1], rows, grads, 0.3, 0.999)
    ordered, order = rows.sort()
    bigrams._bigram_updates[(60,)](ordered, order, grads, other, seen[2], seen[3], 0.3, 0.999, 60, WIDE=32, RUN=16)
torch.testing.assert_close(own, other, atol=1e-4, rtol=1e-3)
torch.testing.assert_close(seen[0], seen[2])
x, up, down, gradient = (torch.randn(*size) for size in ((128, 64), (128, 64), (64, 128), (128, 64)))
post = fused_relu2.tiled(x, up.T, None)
torch.testing.assert_close(post, torch.relu(x @ up.T).square(), atol=1e-3, rtol=1e-3)
plain = 2 * (gradient @ down) * torch.relu(x @ up.T)
torch.testing.assert_close(fused_relu2.tiled(gradient, down, post), plain, atol=1e-3, rtol=1e-3)
print("agree")
"""


def test_kernels_agree_with_plain_arithmetic_in_the_interpreter(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="Triton is not installed here")
    tree = {
        **tree_of(NAMES["bigram_values"]),
        **{"fused_relu2.py": tree_of(NAMES["fused_relu2_mlp"])["fused_relu2.py"]},
    }
    benchmarks.write_tree({**tree, "check.py": INTERPRETED}, tmp_path)
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "check.py"]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert found.stdout == "agree\n", found.stderr
