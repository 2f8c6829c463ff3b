"""How searches choose widths: shares of a budget, mixed dimension, SSEDS, AutoDim."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baseline_searches import FIT, SMALL, space_of
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.model import ModelSettings, build_model
from seo_rec.policy import PolicyError
from seo_rec.search.autodim import AutoDimSettings, WidthChoice, choice_step
from seo_rec.search.held_out import HeldOut
from seo_rec.search.mixed_dimension import MixedDimensionSettings, mixed_dimension
from seo_rec.search.no_search import NoSearchSettings, no_search
from seo_rec.search.space import open_space
from seo_rec.search.sseds import ColumnMask, SsedsSettings, choose, saliency, sseds
from seo_rec.train import FitSettings, Training, make_optimizers
from small_recipes import planted

# ---- shares of a budget --------------------------------------------------------------------


@pytest.mark.parametrize("budget", [30, 100, 1000, 12345])
def test_fill_is_proportional(budget: int) -> None:
    """At least floor(lambda w) for the largest lambda that fits, and then what else fits."""
    rows, weights = (10, 5, 2, 3), (3.0, 1.0, 2.0, 0.5)
    dims = space_of(*rows).fill(weights, budget, [10**6] * 4, least=0)
    assert budget - min(rows) < sum(r * d for r, d in zip(rows, dims, strict=True)) <= budget

    def floors(level: float) -> list[int]:
        return [math.floor(level * w + 1e-9) for w in weights]

    # the level at which something steps: n / w of some feature
    levels = {n / w for w in weights for n in range(1, budget)}
    fitting = (
        x for x in levels if sum(map(math.prod, zip(rows, floors(x), strict=True))) <= budget
    )
    largest = floors(max(fitting))
    assert all(d >= f for d, f in zip(dims, largest, strict=True)) and any(largest)


def test_fill_respects_limits_and_zero_weights() -> None:
    space = space_of(10, 5, 2)
    assert space.fill([1.0, 0.0, 1.0], 10_000, [4, 4, 7]) == [4, 0, 7]
    assert space.fill([1.0, 1e-9, 1e-9], 47, [9, 9, 9]) == [4, 1, 1]
    with pytest.raises(PolicyError, match="a budget of 16 parameters; 1 column"):
        space.fill([1.0, 1.0, 1.0], 16, [9, 9, 9])


def test_best_columns_takes_what_fits_by_rank() -> None:
    space = space_of(10, 5, 2)
    scores = [[0.9, 0.1], [0.5, 0.8], [0.2, 0.3]]
    assert space.best_columns(scores, 17) == [1, 1, 1]  # 0.9, 0.8, not 0.5, then 0.3
    assert space.best_columns(scores, 20) == [1, 2, 0]
    assert space.best_columns(scores, 20, least=1) == [1, 1, 2]
    assert space.best_columns(scores, 4) == [0, 0, 2]


# ---- no search, mixed dimension ------------------------------------------------------------


def test_no_search_is_one_width(tiny_data: DataSet) -> None:
    policy = no_search(tiny_data, NoSearchSettings(max_dim=5), Training(SMALL, FIT)).policy
    assert set(policy.widths) == {5} and not policy.dropped


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_mixed_dimension_is_its_formula(tiny_data: DataSet, alpha: float) -> None:
    """d_f / d_g = (p_f / p_g)^alpha with p = reads / rows, up to rounding."""
    settings = MixedDimensionSettings(max_dim=64, alpha=alpha)
    found = mixed_dimension(tiny_data, settings, Training(SMALL, FIT))
    schema, space = tiny_data.schema, open_space(tiny_data, settings, 0)
    popularity = [c.lookups_per_row / r for c, r in zip(schema.features, space.rows, strict=True)]
    for width, p in zip(found.policy.widths, popularity, strict=True):
        exact = 64 * (p / max(popularity)) ** alpha
        assert abs(width - max(1.0, exact)) <= 0.5
    if alpha == 0:
        assert set(found.policy.widths) == {64}


def test_mixed_dimension_at_a_budget_scales_the_formula(tiny_data: DataSet) -> None:
    settings = MixedDimensionSettings(max_dim=512, alpha=0.5, params=4000, address="id")
    found = mixed_dimension(tiny_data, settings, Training(SMALL, FIT))
    space, weights = open_space(tiny_data, settings, 0), list(found.record["weights"].values())
    scale = 4000 / sum(r * w for r, w in zip(space.rows, weights, strict=True))
    for width, weight, rows in zip(found.policy.widths, weights, space.rows, strict=True):
        if rows > 20:  # narrow tables also take what is left over
            assert abs(width - scale * weight) <= 1.5


# ---- SSEDS -------------------------------------------------------------------------------


def test_saliency_is_the_gradient_of_a_mask(tiny_data: DataSet) -> None:
    """|sum_b x_b dL/dx_b| of every column, averaged over batches, summing to one."""
    space = open_space(tiny_data, SsedsSettings(max_dim=3), 0)
    gate = ColumnMask(7 * 3)
    policy = space.policy([3] * 7)
    model = build_model(policy, 1, replace(SMALL, init_scale=0.5), 0, gate)
    found = saliency(model, gate, tiny_data.stream("val", batch_size=40))
    assert found.sum().item() == pytest.approx(1) and not gate.mask_E.requires_grad
    plain = build_model(policy, 1, replace(SMALL, init_scale=0.5), 0).eval()
    expected = np.zeros(21)
    for batch in tiny_data.stream("val", batch_size=40):
        x_BE = plain.embedding(batch.sparse).detach().requires_grad_()
        logits = plain.backbone(batch.dense_BN, x_BE)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels_B)
        (gradient,) = torch.autograd.grad(loss, [x_BE])
        expected += np.abs((x_BE * gradient).double().sum(0).detach().numpy())
    np.testing.assert_allclose(found.numpy(), expected / expected.sum(), rtol=1e-3)


def test_sseds_keeps_the_best_share() -> None:
    space = space_of(100, 7, 9)
    scores = torch.tensor([[0.1, 0.2], [0.9, 0.8], [0.3, 0.05]])
    kept = SsedsSettings(max_dim=2, keep=0.5, min_dim=0)
    assert choose(space, scores, kept) == [0, 2, 1]
    assert choose(space, scores, replace(kept, min_dim=1)) == [1, 1, 1]
    assert choose(space, scores, replace(kept, params=30)) == [0, 2, 1]


# ---- AutoDim -----------------------------------------------------------------------------


def test_the_choice_is_its_formula() -> None:
    """In evaluation: softmax-weighted candidates, each normalised, from the first columns."""
    torch.manual_seed(0)
    gate = WidthChoice(2, (1, 3), seed=4).double().eval()
    with torch.no_grad():
        gate.logits_FC.copy_(torch.tensor([[0.3, -1.0], [2.0, 0.5]]))
        gate.norm.running_mean.normal_()
        gate.norm.running_var.uniform_(0.5, 2)
    x = torch.randn(5, 6, dtype=torch.float64)
    out = gate(x).detach().numpy()
    W, mean = gate.weight.detach().numpy(), gate.norm.running_mean.numpy().reshape(2, 2, 3)
    deviation = np.sqrt(gate.norm.running_var.numpy().reshape(2, 2, 3) + gate.norm.eps)
    for b in range(5):
        for f in range(2):
            logits = gate.logits_FC[f].detach().numpy()
            p = np.exp(logits) / np.exp(logits).sum()
            expected = np.zeros(3)
            for c, width in enumerate((1, 3)):
                own = x[b, 3 * f : 3 * f + width].numpy()
                expected += p[c] * (own @ W[f, c, :width] - mean[f, c]) / deviation[f, c]
            np.testing.assert_allclose(out[b, 3 * f : 3 * f + 3], expected, rtol=1e-9)


def test_gumbel_noise_draws_by_the_probabilities() -> None:
    """At a low temperature the relaxed choice is one-hot, candidate c as often as softmax says."""
    torch.manual_seed(0)
    gate = WidthChoice(1, (1, 2, 4), seed=0).train()
    with torch.no_grad():
        gate.logits_FC.copy_(torch.tensor([[0.0, 1.0, -1.0]]))
    gate.temperature = 0.01
    drawn = torch.stack([gate.probabilities()[0] for _ in range(4000)]).detach()
    assert (drawn.max(dim=1).values > 0.9).float().mean() > 0.9
    expected = torch.softmax(torch.tensor([0.0, 1.0, -1.0]), 0)
    torch.testing.assert_close(drawn.mean(0), expected, atol=0.03, rtol=0)


def test_the_choice_of_autodim_learns_from_held_out_rows_alone(tiny_data: DataSet) -> None:
    """A held-out step moves the logits and nothing else; a training step everything else."""
    space, settings = (
        open_space(tiny_data, NoSearchSettings(max_dim=4), 0),
        AutoDimSettings(max_dim=4),
    )
    gate = WidthChoice(len(space.names), settings.choices, seed=0)
    policy = space.policy([4] * len(space.names))
    model = build_model(policy, len(space.schema.numeric), SMALL, 0, gate).train()
    optimizers = make_optimizers(model, "adam", 0.01, 0.01, 0.0)
    trained = [p for o in optimizers.values() for g in o.param_groups for p in g["params"]]
    assert all(p is not gate.logits_FC for p in trained)
    step = choice_step(gate, settings, HeldOut(tiny_data, FIT))
    read, take = [], step.held_out.next
    step.held_out.next = lambda: read.append(step.held_out.stream.split) or take()  # type: ignore
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    step(model, 1)
    assert read == ["val"]
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"embedding.gate.logits_FC"}
    assert all(p.grad is None for p in model.parameters())
    step.every = 2
    step(model, 3)
    assert read == ["val"]  # only after every second step


def test_candidates_of_autodim() -> None:
    assert AutoDimSettings(max_dim=16).choices == (1, 2, 4, 8, 16)
    assert AutoDimSettings(max_dim=12).choices == (1, 2, 4, 8, 12)
    assert AutoDimSettings(max_dim=1).choices == (1,)
    own = AutoDimSettings(max_dim=9, candidates=(3, 9))
    assert own.choices == own.candidates == (3, 9)


@pytest.mark.parametrize(
    "kind, wrong, says",
    [
        (AutoDimSettings, {"candidates": (2, 8)}, "the last of them max_dim 16"),
        (AutoDimSettings, {"candidates": (8, 2, 16)}, "ascending widths"),
        (AutoDimSettings, {"every": 0}, "every is 0; allowed: 1 or more"),
        (AutoDimSettings, {"logit_lr": 0.0}, "logit_lr is 0.0"),
        (AutoDimSettings, {"temperature_end": 0.0}, "temperature_end is 0.0"),
        (SsedsSettings, {"keep": 0.0}, "keep is 0.0; allowed: above 0, to 1"),
        (SsedsSettings, {"min_dim": 17}, "min_dim is 17; allowed: 0 to max_dim 16"),
        (SsedsSettings, {"split": "test"}, "split is 'test'; allowed: val, train"),
        (MixedDimensionSettings, {"alpha": 1.5}, "alpha is 1.5; allowed: 0 to 1"),
        (NoSearchSettings, {"max_dim": 0}, "max_dim is 0; allowed: 1 to 65536"),
    ],
)
def test_settings_out_of_range(kind: Any, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        kind(**wrong)


# ---- planted structure -------------------------------------------------------------------


def test_sseds_finds_planted_structure(tmp_path: Path) -> None:
    data = tmp_path / "data"
    planted(data, rows=8_000)
    fit = FitSettings(epochs=4, batch_size=256, row_lr=1e-2, dense_lr=5e-3, average=0.9)
    settings = SsedsSettings(max_dim=8, keep=0.25, min_dim=0)
    policy = sseds(open_data(data), settings, Training(ModelSettings(hidden=(32,)), fit)).policy
    widths = {f.name: policy.table(f.name).dim for f in policy.features}
    strong = [widths.get(f"strong_{i}", 0) for i in range(3)]
    noise = [widths.get(f"noise_{i}", 0) for i in range(3)]
    print(widths)
    assert sum(widths.values()) == 16 and np.mean(strong) > 2 * np.mean(noise)
