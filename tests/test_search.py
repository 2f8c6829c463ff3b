"""The search of SEO: its gate is the paper's equations, its steps move what they should, and it
finds structure that was planted."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seo_rec import recipes
from seo_rec.batch import Batch
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.synthetic import synthetic
from seo_rec.model import ModelSettings, RecModel, build_model
from seo_rec.policy import PolicyError
from seo_rec.search.held_out import HeldOutStep
from seo_rec.search.run_off import RunOff
from seo_rec.search.seo import (
    Attention,
    SeoSearch,
    SeoSettings,
    by_frequency,
    by_id,
    gate_optimizers,
    logit_step,
    make_gate,
    search_attention,
    search_space,
)
from seo_rec.search.seo import searched as seo_search
from seo_rec.train import FitSettings, Training, evaluate, make_optimizers

SMALL = ModelSettings(hidden=(8,))
FIT = FitSettings(epochs=2, batch_size=200, row_lr=0.02, dense_lr=0.02, log_every=1)
SEO = SeoSearch(budget_rows=100, logit_lr=0.05, run_off=None)


# ---- the gate ----------------------------------------------------------------------------

F, C, D, B = 3, 4, 5, 7


def gate_with_logits(temperature: float = 0.7, **options: Any) -> Attention:
    torch.manual_seed(0)
    gate = Attention(F, C, D, temperature=temperature, **options)
    with torch.no_grad():
        gate.logits.copy_(3 * torch.randn(F, C))
    return gate


def alpha_of_the_paper(logits: torch.Tensor, tau: float) -> np.ndarray:
    """Equation 1, with loops, in float64."""
    values = logits.detach().double().numpy()
    total = sum(math.exp(values[g, j] / tau) for g in range(F) for j in range(C))
    return np.array([[math.exp(values[f, i] / tau) / total for i in range(C)] for f in range(F)])


@pytest.mark.parametrize("tau", [0.3, 1.0, 2.5])
def test_alpha_is_equation_1(tau: float) -> None:
    gate = gate_with_logits(tau)
    assert gate.alpha().sum().item() == pytest.approx(1, abs=1e-6)
    expected = alpha_of_the_paper(gate.logits, tau)
    np.testing.assert_allclose(gate.alpha().detach().numpy(), expected, rtol=1e-5)


def test_alpha_stays_finite_for_large_logits() -> None:
    gate = gate_with_logits(0.01)
    with torch.no_grad():
        gate.logits.mul_(1e4)
    alpha = gate.alpha()
    assert bool(torch.isfinite(alpha).all()) and alpha.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("mean_one", [False, True])
def test_forward_is_equation_2(mean_one: bool) -> None:
    """``Concat_i(alpha_{f,i} C_i(x_f))`` feature after feature; times F C with mean-one."""
    gate = gate_with_logits(scale_to_mean_one=mean_one)
    x_BE = torch.randn(B, F * C * D)
    out = gate(x_BE).detach().double().numpy()
    assert out.shape == (B, F * C * D)
    alpha = alpha_of_the_paper(gate.logits, 0.7) * (F * C if mean_one else 1)
    at = 0
    for f in range(F):
        for i in range(C):
            chunk = x_BE[:, at : at + D].double().numpy()
            np.testing.assert_allclose(out[:, at : at + D], alpha[f, i] * chunk, rtol=1e-5)
            at += D


@pytest.mark.parametrize("mean_one", [False, True])
@pytest.mark.parametrize("M", [1, 6])
def test_the_down_projection_is_P_transposed_times_the_pool(M: int, mean_one: bool) -> None:
    gate = gate_with_logits(scale_to_mean_one=mean_one, projected=M)
    assert gate.projection is not None and gate.projection.shape == (F * C, M)
    x_BE = torch.randn(B, F * C * D)
    out = gate(x_BE).detach().double().numpy()
    P = gate.projection.detach().double().numpy()
    alpha = alpha_of_the_paper(gate.logits, 0.7).ravel() * (F * C if mean_one else 1)
    expected = np.zeros((B, M, D))
    for b in range(B):
        for m in range(M):
            for k in range(F * C):
                pool = alpha[k] * x_BE[b, k * D : (k + 1) * D].double().numpy()
                expected[b, m] += P[k, m] * pool
    np.testing.assert_allclose(out, expected.reshape(B, M * D), rtol=1e-4, atol=1e-6)


def test_mean_one_starts_as_a_model_without_attention(tiny_data: DataSet) -> None:
    gate = make_gate(tiny_data.schema, SEO)
    x_BE = torch.randn(B, 7 * 4 * 8)
    torch.testing.assert_close(gate(x_BE), x_BE)
    paper = make_gate(tiny_data.schema, replace(SEO, attention_scale="paper"))
    torch.testing.assert_close(paper(x_BE), x_BE / (7 * 4))


def test_the_gate_knows_its_widths(tiny_data: DataSet) -> None:
    schema = tiny_data.schema
    batch = next(iter(tiny_data.stream("train", batch_size=5)))
    for projected in (False, True):
        settings = replace(SEO, use_down_projection=projected, total_chunks=9)
        space, gate = search_space(schema, settings), make_gate(schema, settings)
        model = build_model(space, 1, SMALL, 0, gate)
        assert model.embedding.dims == ((8,) * 9 if projected else (32,) * 7)
        assert model.embedding(batch.sparse).shape == (5, sum(model.embedding.dims))


def test_the_same_seed_gives_the_same_projection(tiny_data: DataSet) -> None:
    """Whatever was drawn before, and drawing it moves no one else's numbers."""
    schema, settings = tiny_data.schema, replace(SEO, use_down_projection=True)
    torch.manual_seed(1)
    first = make_gate(schema, settings, 3)
    after = torch.rand(1)
    second, other = make_gate(schema, settings, 3), make_gate(schema, settings, 4)
    assert torch.equal(first.projection, second.projection)
    assert not torch.equal(first.projection, other.projection)
    torch.manual_seed(1)
    assert torch.equal(after, torch.rand(1))


def search_model(data: DataSet, settings: SeoSettings) -> tuple[RecModel, Attention]:
    gate = make_gate(data.schema, settings)
    space = search_space(data.schema, settings)
    return build_model(space, data.num_numeric, replace(SMALL, init_scale=0.5), 0, gate), gate


@pytest.mark.parametrize("projected", [False, True])
def test_every_parameter_of_the_search_gets_gradient(tiny_data: DataSet, projected: bool) -> None:
    model, gate = search_model(tiny_data, replace(SEO, use_down_projection=projected))
    loss, _ = model(next(iter(tiny_data.stream("train", batch_size=300))))
    loss.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and bool(p.grad.abs().sum() > 0), name
    assert bool((gate.logits.grad != 0).all())
    # softmax does not see a shift of all logits, so their gradients sum to zero
    assert gate.logits.grad.sum().item() == pytest.approx(0, abs=1e-6)


# ---- what trains what --------------------------------------------------------------------


def snapshot(model: RecModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def step_of(
    gate: Attention, settings: SeoSettings, data: DataSet, total_steps: int, warmup_steps: int
) -> HeldOutStep:
    """The step of a search whose epochs have one training step each."""
    if settings.search_split == "held-out":
        settings = replace(settings, warmup_epochs=warmup_steps)
    return logit_step(gate, settings, data, replace(FIT, epochs=total_steps, batch_size=50), 1)


def moved(model: RecModel, before: dict[str, torch.Tensor]) -> set[str]:
    return {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}


@pytest.mark.parametrize("projected", [False, True])
def test_a_held_out_step_changes_the_logits_alone(tiny_data: DataSet, projected: bool) -> None:
    settings = replace(SEO, search_split="held-out", use_down_projection=projected)
    model, _ = search_model(tiny_data, settings)
    step = step_of(model.embedding.gate, settings, tiny_data, total_steps=10, warmup_steps=0)
    before = snapshot(model)
    step(model, 1)
    assert moved(model, before) == {"embedding.gate.logits"}
    assert all(p.grad is None for p in model.parameters())  # and leaves no gradient to others


def test_the_train_split_trains_the_logits_with_the_rest(tiny_data: DataSet) -> None:
    model, gate = search_model(tiny_data, SEO)
    optimizers = make_optimizers(model, "sgd", 0.1, 0.1) | gate_optimizers(gate, SEO, 0.1)
    assert any(p is gate.logits for g in optimizers["gate"].param_groups for p in g["params"])
    before = snapshot(model)
    step_of(gate, SEO, tiny_data, total_steps=10, warmup_steps=0)(model, 1)
    assert moved(model, before) == set()


@pytest.mark.parametrize("projected", [False, True])
def test_held_out_training_rows_never_move_the_logits(tiny_data: DataSet, projected: bool) -> None:
    settings = replace(SEO, search_split="held-out", use_down_projection=projected)
    model, gate = search_model(tiny_data, settings)
    optimizers = make_optimizers(model, "adam", 0.1, 0.1) | gate_optimizers(gate, settings, 0.1)
    held = [p for o in optimizers.values() for g in o.param_groups for p in g["params"]]
    assert not any(p is gate.logits for p in held)
    assert {id(p) for p in held} == {id(p) for p in model.parameters() if p is not gate.logits}


def rows(batch: Batch) -> list[tuple[Any, ...]]:
    return [
        (*dense, label)
        for dense, label in zip(batch.dense_BN.tolist(), batch.labels_B.tolist(), strict=True)
    ]


def test_held_out_steps_read_validation_rows_only_after_the_warm_up(
    monkeypatch: pytest.MonkeyPatch, tiny_data: DataSet, tmp_path: Path
) -> None:
    """Through the recipe: which rows reach the model with which step, whole epochs of each split.

    The rows of the data set are told apart by their numeric column.
    """
    split_of = {
        row: split
        for split in ("train", "val", "test")
        for batch in tiny_data.stream(split, batch_size=500)
        for row in rows(batch)
    }
    assert len(split_of) == 1200
    seen: list[tuple[str, tuple[Any, ...]]] = []
    forward = RecModel.forward

    def watched(self: RecModel, batch: Batch) -> Any:
        if self.training:
            seen.append((split_of[rows(batch)[0]], tuple(rows(batch))))
        return forward(self, batch)

    monkeypatch.setattr(RecModel, "forward", watched)
    settings = replace(SEO, search_split="held-out", warmup_epochs=1)
    search_attention(tiny_data, settings, Training(SMALL, replace(FIT, batch_size=100)), tmp_path)
    for split, batch in seen:
        assert {split_of[row] for row in batch} == {split}
    # 10 batches of training rows alone, then one of validation rows after each
    assert [split for split, _ in seen] == ["train"] * 10 + ["train", "val"] * 10
    held_out = [row for split, batch in seen if split == "val" for row in batch]
    every = {row for row, split in split_of.items() if split == "val"}
    assert set(held_out[: len(every)]) == every  # endless, epoch after epoch


def test_the_warm_up_is_respected_to_the_step(tiny_data: DataSet) -> None:
    settings = replace(SEO, search_split="held-out")
    model, _ = search_model(tiny_data, settings)
    step = step_of(model.embedding.gate, settings, tiny_data, total_steps=9, warmup_steps=3)
    for number, expected in [(1, set()), (3, set()), (4, {"embedding.gate.logits"})]:
        before = snapshot(model)
        step(model, number)
        assert moved(model, before) == expected


# ---- the temperature ---------------------------------------------------------------------


def test_the_temperature_falls_geometrically_to_its_end(tiny_data: DataSet) -> None:
    settings = replace(SEO, temperature=2.0, temperature_end=0.5)
    model, gate = search_model(tiny_data, settings)
    step = step_of(gate, settings, tiny_data, total_steps=4, warmup_steps=0)
    assert gate.temperature == 2.0
    seen = []
    for number in range(1, 7):
        step(model, number)
        seen.append(gate.temperature)
    assert seen == pytest.approx([2**0.5, 1.0, 2**-0.5, 0.5, 0.5, 0.5])


def test_without_an_end_the_temperature_stays(tiny_data: DataSet) -> None:
    settings = replace(SEO, temperature=0.3)
    model, gate = search_model(tiny_data, settings)
    step_of(gate, settings, tiny_data, total_steps=4, warmup_steps=0)(model, 2)
    assert gate.temperature == 0.3


def test_a_search_reports_its_best_epoch_at_that_epochs_temperature(
    monkeypatch: pytest.MonkeyPatch, tiny_data: DataSet, tmp_path: Path
) -> None:
    """The weights are those of the best epoch, and so is tau, when the attention is read."""
    settings = replace(SEO, temperature_end=0.05, logit_lr=0.3)
    fit_settings = replace(FIT, epochs=4, patience=4, row_lr=0.1, average=0.0)
    models: list[RecModel] = []
    build = seo_search.build_model
    monkeypatch.setattr(
        seo_search, "build_model", lambda *a: models.append(build(*a)) or models[-1]
    )
    found = search_attention(tiny_data, settings, Training(SMALL, fit_settings), tmp_path)
    lines = [json.loads(line) for p in tmp_path.rglob("metrics.jsonl") for line in p.open()]
    aucs = [line["val_auc"] for line in lines if line["event"] == "epoch"]
    assert max(aucs) > aucs[-1]  # else this test says nothing
    metrics, _, _ = evaluate(models[0], tiny_data.stream("val", batch_size=500))
    assert metrics.auc == pytest.approx(found.val_auc, abs=1e-12)
    assert torch.equal(found.alpha, models[0].embedding.gate.alpha())


# ---- settings ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"dim": 12}, "multiples of chunk_dim 8"),
        ({"search_dim": 20}, "multiples of chunk_dim 8"),
        ({"chunk_dim": 0}, "chunk_dim is 0; allowed: 1 or more"),
        ({"budget_rows": 0}, "budget_rows is 0"),
        ({"dim": -16}, "dim is -16"),
        ({"chunk_hashing": "same"}, "chunk_hashing is 'same'; allowed: ('shared', 'independent')"),
        ({"attention_scale": "one"}, "attention_scale is 'one'; allowed"),
        ({"search_split": "val"}, "search_split is 'val'; allowed: ('train', 'held-out')"),
        ({"min_chunks": -1}, "min_chunks is -1; allowed: 0 to 4"),
        ({"min_chunks": 5}, "min_chunks is 5; allowed: 0 to 4"),
        ({"temperature": 0.0}, "allowed: above 0"),
        ({"temperature": float("nan")}, "allowed: above 0"),
        ({"temperature_end": 0.0}, "allowed: above 0"),
        ({"temperature_end": -1.0}, "allowed: above 0"),
        ({"total_chunks": 0}, "total_chunks is 0; allowed: 1 or more"),
        ({"warmup_epochs": -1}, "warmup_epochs is -1; allowed: 0 or more"),
        ({"logit_lr": 0.0}, "logit_lr is 0.0; allowed: above 0"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_settings_out_of_range(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        SeoSettings(**wrong)


@pytest.mark.parametrize(
    "settings, run_off, error, says",
    [
        (replace(SEO, total_chunks=29), None, PolicyError, "total_chunks 29.*allowed: 7 to 28"),
        (replace(SEO, min_chunks=3), None, PolicyError, "total_chunks 14.*allowed: 21 to 28"),
        (replace(SEO, dim=64), None, PolicyError, "total_chunks 56"),
        (replace(SEO, total_chunks=9), RunOff(), ValueError, "total_chunks 9 with a run-off"),
        (
            replace(SEO, search_split="held-out", warmup_epochs=2),
            None,
            ValueError,
            "warmup_epochs 2 of 2 epochs.*never be trained",
        ),
    ],
)
def test_a_search_that_cannot_end_does_not_begin(
    tiny_data: DataSet, tmp_path: Path, settings: SeoSearch, run_off: Any, error: Any, says: str
) -> None:
    with pytest.raises(error, match=says):
        recipes.search(
            "seo",
            tiny_data,
            tmp_path / "out",
            replace(settings, run_off=run_off),
            Training(SMALL, FIT),
        )
    assert not (tmp_path / "out").exists()


# ---- the search space --------------------------------------------------------------------


@pytest.mark.parametrize("search_dim", [8, 16, 32, 48])
@pytest.mark.parametrize("budget_rows", [3, 100, 6001])
def test_the_size_of_the_search_space(
    tiny_data: DataSet, search_dim: int, budget_rows: int
) -> None:
    """``B_base * D_search`` floats; with adjusted buckets the final model's ``B_base * D``."""
    schema = tiny_data.schema
    settings = replace(SEO, search_dim=search_dim, budget_rows=budget_rows, min_chunks=0)
    assert search_space(schema, settings).num_params == budget_rows * search_dim
    adjusted = search_space(schema, replace(settings, adjust_hash_buckets=True))
    assert settings.params - 8 < adjusted.num_params <= settings.params == budget_rows * 16
    assert len({t.num_rows for t in adjusted.tables}) <= 2  # as even as whole rows allow


def test_chunks_hash_alike_or_each_on_its_own(tiny_data: DataSet) -> None:
    schema = tiny_data.schema
    for hashing, seeds in (("shared", 1), ("independent", 4)):
        space = search_space(schema, replace(SEO, chunk_hashing=hashing), seed=5)
        assert [f.name for f in space.features] == [c.name for c in schema.features]
        for f in space.features:
            assert [k.table for k in f.lookups] == [f"chunk{i}" for i in range(4)]
            assert len({k.seed for k in f.lookups}) == seeds
        every = [k.seed for f in space.features for k in f.lookups]
        assert len(set(every)) == 7 * seeds  # features never share a hash function
        other = search_space(schema, replace(SEO, chunk_hashing=hashing), seed=6)
        assert not set(every) & {k.seed for f in other.features for k in f.lookups}


# ---- planted structure -------------------------------------------------------------------


def chunks_by_role(tmp_path: Path, seed: int) -> dict[str, float]:
    """Search on a made-up world; mean number of chunks of its strong, weak and noise features."""
    data = tmp_path / f"data{seed}"
    synthetic(
        data,
        rows=12_000,
        seed=seed,
        strong=4,
        weak=2,
        noise=4,
        numeric=0,
        strong_vocab=40,
        weak_vocab=20,
        noise_vocab=2000,
        signal=3.0,
    )
    settings = SeoSearch(
        budget_rows=1500,
        dim=8,
        chunk_dim=4,
        search_dim=16,
        min_chunks=0,
        logit_lr=2e-2,
        run_off=None,
    )
    fit_settings = FitSettings(
        epochs=3, batch_size=256, row_lr=5e-3, dense_lr=5e-3, seed=seed, average=0.9
    )
    model_settings = ModelSettings(hidden=(32,))
    training = Training(model_settings, fit_settings)
    policy = recipes.search(
        "seo", open_data(data), tmp_path / f"out{seed}", settings, training
    ).policy
    assert policy.num_lookups == settings.chosen(10)
    chunks = {f.name: len(f.lookups) for f in policy.features} | dict.fromkeys(policy.dropped, 0)
    return {
        role: float(np.mean([n for name, n in chunks.items() if name.startswith(role)]))
        for role in ("strong", "weak", "noise")
    }


def test_planted_structure_is_found(tmp_path: Path) -> None:
    """Features that need many dimensions get more of the budget than those that carry nothing."""
    found = [chunks_by_role(tmp_path, seed) for seed in range(10)]
    print(found)
    assert sum(c["strong"] > c["noise"] for c in found) >= 9
    assert sum(c["strong"] > 2 * c["noise"] for c in found) >= 9
    assert sum(c["weak"] > c["noise"] for c in found) >= 9


# ---- widths by attention -------------------------------------------------------------------


def test_the_attention_as_widths(tiny_data: DataSet) -> None:
    """More attention never means fewer columns; the budget is kept, and nothing fits any more."""
    settings = replace(SEO, budget_rows=400)
    schema = tiny_data.schema
    for seed in range(5):
        torch.manual_seed(seed)
        alpha = torch.softmax(2 * torch.randn(len(schema.features), 4).flatten(), 0)
        alpha = alpha.view(len(schema.features), 4)
        policy = by_id(tiny_data, alpha, settings, seed)
        dims = {t.name: t.dim for t in policy.tables if ":last" not in t.name}
        rows = {c.name: (c.vocab_size or 0) + 1 for c in schema.features}
        assert {t: policy.table(t).num_rows for t in dims} == rows
        assert all(1 <= d <= settings.search_dim for d in dims.values())
        assert policy.num_params == settings.params
        left = settings.params - sum(rows[n] * d for n, d in dims.items())
        assert all(rows[n] > left for n, d in dims.items() if d < settings.search_dim)
        weight = dict(zip(rows, alpha.sum(1).tolist(), strict=True))
        for one in rows:
            for other in rows:
                if weight[one] > weight[other] and rows[one] <= rows[other]:
                    assert dims[one] >= dims[other]


def test_rows_by_frequency_go_to_the_features_that_the_attention_prefers(
    tiny_data: DataSet,
) -> None:
    """A feature below an even share is dropped; the others have the most frequent of their ids."""
    settings = replace(SEO, budget_rows=25)
    names = [c.name for c in tiny_data.schema.features]
    for seed in range(4):
        torch.manual_seed(seed)
        alpha = torch.softmax(2 * torch.randn(len(names), 4).flatten(), 0).view(len(names), 4)
        width = settings.chunk_dim if seed % 2 else settings.dim
        policy = by_frequency(tiny_data, alpha, width, settings, seed)
        preferred = [n for n, a in zip(names, alpha.double(), strict=True) if a.sum() >= 1 / 7]
        assert [f.name for f in policy.features] == preferred
        assert set(policy.dropped) == set(names) - set(preferred)
        assert {t.dim for t in policy.tables} == {width}
        assert policy.num_params <= settings.params
        kept, lost = [], []
        for name in preferred:
            ids, count = tiny_data.counts(name)
            own = np.isin(ids, policy.vocabularies[name])
            kept += count[own].tolist()
            lost += count[~own].tolist()
        assert not lost or min(kept) >= max(lost)
        assert not lost or policy.num_params > settings.params - width
