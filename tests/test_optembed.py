"""OptEmbed: the estimator, drawn widths, scores, resuming, planted structure."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seo_rec.data.dataset import DataSet, open_data
from seo_rec.model import ModelSettings
from seo_rec.policy import PolicyError
from seo_rec.search.optembed import (
    OptEmbedSettings,
    Supernet,
    optembed,
    require_backbone,
    score,
    sparsity,
    unit_step,
)
from seo_rec.search.optembed import search as searching
from seo_rec.search.optembed import widths as evolving
from seo_rec.search.space import open_space
from seo_rec.train import FitSettings, Training, evaluate, loop
from small_optembed import DIMS, FIT, ROWS, SETTINGS, SMALL, supernet
from small_recipes import planted

# ---- the estimator and the sparsity term -------------------------------------------------


def test_the_step_and_its_long_tailed_gradient() -> None:
    u = torch.linspace(-1.5, 1.5, 3001, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3001, dtype=torch.float64)
    stepped = unit_step(u)
    (gradient,) = torch.autograd.grad(stepped, [u], upstream)
    for value, s, g, w in zip(
        u.tolist(), stepped.tolist(), gradient.tolist(), upstream.tolist(), strict=True
    ):
        a = abs(value)
        slope = 2 - 4 * a if a <= 0.4 else 0.4 if a <= 1 else 0.0
        assert s == float(value > 0)
        assert g == pytest.approx(w * slope, rel=1e-12, abs=1e-15)
    assert unit_step(torch.zeros(1)).item() == 0


def test_the_gradient_of_the_sparsity_term() -> None:
    t = torch.tensor([-0.5, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    term = sparsity(t)
    assert term.item() == pytest.approx(sum(np.exp([0.5, 0.0, -2.0])), rel=1e-12)
    (gradient,) = torch.autograd.grad(term, [t])
    np.testing.assert_allclose(gradient.numpy(), -np.exp([0.5, 0.0, -2.0]), rtol=1e-12)


@pytest.mark.parametrize("pruned", ["zero", "shared"])
def test_rows_and_their_gradients_in_closed_form(tiny_data: DataSet, pruned: str) -> None:
    """x = m e + (1 - m) r, so dL/dt = -sum_v H(u_v) <g_v, e_v - r>, with r the shared row or 0."""
    model = supernet(tiny_data, replace(SETTINGS, pruned=pruned)).double()
    with torch.no_grad():
        model.tables[0].mul_(3)
        model.thresholds_F.fill_(float(model.tables[0].abs().sum(1).median()))
    table, t = model.tables[0], model.thresholds_F[0].item()
    masked = model.masked_table(0)
    e = table.detach().numpy()
    r = e[0] if pruned == "shared" else np.zeros(6)
    u = np.abs(e).sum(1) - t
    m = (u > 0).astype(float)
    m[0] = float(pruned == "shared")
    assert 0 < m.sum() < len(m)
    np.testing.assert_allclose(masked.detach().numpy(), m[:, None] * e + (1 - m[:, None]) * r)
    g = torch.randn_like(table)
    gradient_t, gradient_e = torch.autograd.grad(
        (masked * g).sum(), [model.thresholds_F, model.tables[0]]
    )
    a = np.abs(u)
    slope = np.where(a <= 0.4, 2 - 4 * a, np.where(a <= 1, 0.4, 0.0))
    slope[0] = 0  # the shared row has no threshold
    dm = (g.numpy() * (e - r)).sum(1) * slope
    assert gradient_t[0].item() == pytest.approx(-dm.sum(), rel=1e-9)
    assert not gradient_t[1:].any()
    expected = m[:, None] * g.numpy() + dm[:, None] * np.sign(e)
    if pruned == "shared":
        expected[0] += ((1 - m)[:, None] * g.numpy()).sum(0)
    np.testing.assert_allclose(gradient_e.numpy(), expected, rtol=1e-9)


def test_thresholds_rise_where_rows_are_useless_and_fall_where_they_are_not(
    tiny_data: DataSet,
) -> None:
    """The first table's rows are the logit, the second's do nothing; labels follow the first."""
    settings = replace(SETTINGS, variant="rows", generations=30, max_dim=1, alpha=1e-3)
    model = supernet(tiny_data, settings)
    names = model.space.names

    class First(torch.nn.Module):
        def forward(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor:
            return x_BE[:, 0] + 0 * x_BE[:, 1]

    model.backbone = First()
    with torch.no_grad():
        for table in model.tables:
            table.copy_(torch.where(torch.arange(len(table))[:, None] % 2 == 1, 0.5, -0.5))
        model.thresholds_F.fill_(0.3)
    optimizer = torch.optim.SGD([model.thresholds_F], lr=0.1)
    batch = next(iter(tiny_data.stream("train", batch_size=200)))
    jagged = batch.sparse[names[0]]
    there = jagged.lengths() == 1
    odd = torch.zeros(200)
    odd[there] = (model.embedding.remap(batch.sparse)[f"{names[0]}:0"].values() % 2).float()
    batch.labels_B.copy_(odd)
    model.train()
    for _ in range(20):
        optimizer.zero_grad()
        model(batch)[0].backward()
        optimizer.step()
    first, second, *_ = model.thresholds_F.tolist()
    assert first < 0.3 - 0.01
    assert second == pytest.approx(0.3 + 20 * 0.1 * 1e-3 * np.exp(-0.3), rel=1e-2)


def test_the_loss_has_the_sparsity_term_in_training_only(tiny_data: DataSet) -> None:
    batch = next(iter(tiny_data.stream("train", batch_size=200)))
    with_term, without = supernet(tiny_data, ROWS), supernet(tiny_data, replace(ROWS, alpha=0.0))
    terms = len(with_term.space.names)  # exp(0) of each
    for model in (with_term, without):
        model.train()
    difference = with_term(batch)[0] - without(batch)[0]
    assert difference.item() == pytest.approx(0.2 * terms, rel=1e-5)
    assert with_term.eval()(batch)[0] == without.eval()(batch)[0]


# ---- drawn widths ------------------------------------------------------------------------


def test_widths_are_drawn_for_every_sample_and_feature(tiny_data: DataSet) -> None:
    model = supernet(tiny_data, DIMS)
    seen: list[torch.Tensor] = []

    class Watching(torch.nn.Module):
        def forward(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor:
            seen.append(x_BE)
            return x_BE.sum(1)

    model.backbone = Watching()
    with torch.no_grad():
        for table in model.tables:
            table.fill_(1.0)
    batch = next(iter(tiny_data.stream("train", batch_size=900)))
    model.train()
    torch.manual_seed(0)
    model(batch)
    x_BFD = (seen[0] != 0).view(-1, 7, 6)
    present = x_BFD[:, :, 0]  # the first column is never masked
    widths_BF = x_BFD.sum(2)
    assert torch.equal(x_BFD, torch.arange(6) < widths_BF[..., None])  # leading columns only
    drawn = widths_BF[present]
    counts = torch.bincount(drawn, minlength=7)[1:].double()
    expected = len(drawn) / 6
    assert ((counts - expected).abs() < 5 * expected**0.5).all()
    both = present[:, 0] & present[:, 1]
    together = np.corrcoef(widths_BF[both, 0], widths_BF[both, 1])[0, 1]
    assert abs(together) < 5 / int(both.sum()) ** 0.5
    model.eval()
    model(batch)
    assert torch.equal((seen[1] != 0).view(-1, 7, 6).sum(2)[present], torch.full_like(drawn, 6))
    model = supernet(tiny_data, replace(ROWS, alpha=0.0))
    model.backbone = Watching()
    model.train()(batch)
    assert (seen[2] != 0).sum() >= (seen[1] != 0).sum() * 0.9  # rows alone: no column is masked


# ---- scoring, seeds, resuming ------------------------------------------------------------


def test_candidates_are_scored_as_if_alone(
    tiny_data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pass over the rows for all of them gives each the AUC of the supernet at its widths."""
    model = supernet(tiny_data, SETTINGS)
    with torch.no_grad():
        for table in model.tables:
            table.normal_()
        model.thresholds_F.fill_(3.5)
    candidates = [(1, 2, 3, 4, 5, 6, 1), (6,) * 7, (0, 1, 0, 6, 2, 2, 2)]
    passes: list[int] = []
    original = Supernet.embed

    def counting(self: Supernet, sparse: Any) -> torch.Tensor:
        passes.append(1)
        return original(self, sparse)

    monkeypatch.setattr(Supernet, "embed", counting)
    val = tiny_data.stream("val", batch_size=50)
    found = score(model, val, candidates)
    assert len(passes) == len(val)
    for candidate, auc in zip(candidates, found, strict=True):
        model.dims = candidate
        assert auc == evaluate(model, tiny_data.stream("val", batch_size=50))[0].auc
    assert len(set(found)) == 3


def test_the_same_seed_finds_the_same(tiny_data: DataSet) -> None:
    first, second = (optembed(tiny_data, SETTINGS, Training(SMALL, FIT)) for _ in range(2))
    assert first.policy == second.policy and first.record == second.record
    assert first.val_auc == second.val_auc and first.peak_bytes == second.peak_bytes
    json.dumps(first.record, allow_nan=False)
    other = optembed(tiny_data, SETTINGS, Training(SMALL, replace(FIT, seed=1)))
    assert other.record["thresholds"] != first.record["thresholds"]


@pytest.mark.parametrize("where", ["training", "evolution"])
def test_what_is_resumed_is_what_was_not_interrupted(
    tiny_data: DataSet, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, weights="trained")
    fit = replace(FIT, epochs=3, checkpoint_every=2)
    whole = optembed(tiny_data, settings, Training(SMALL, fit), tmp_path / "whole")
    calls: list[int] = []

    def stopping(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return function(*arguments)

        return call

    if where == "training":
        monkeypatch.setattr(loop, "evaluate", stopping(evaluate))
    else:
        monkeypatch.setattr(evolving, "score", stopping(score))
    with pytest.raises(KeyboardInterrupt):
        optembed(tiny_data, settings, Training(SMALL, fit), tmp_path / "cut")
    again = optembed(tiny_data, settings, Training(SMALL, fit), tmp_path / "cut")
    assert len(calls) == 4  # what was finished was not done again
    assert again.policy == whole.policy and again.record == whole.record
    assert again.val_auc == whole.val_auc
    assert all(torch.equal(again.weights[name], w) for name, w in whole.weights.items())


# ---- errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"variant": "E"}, "variant is 'E'; allowed: full, rows, dims"),
        ({"alpha": -1.0}, "alpha is -1.0; allowed: 0 or more"),
        ({"threshold_lr": 0.0}, "threshold_lr is 0.0; allowed: above 0"),
        ({"pruned": "oov"}, "pruned is 'oov'; allowed: zero, shared"),
        ({"generations": 0}, "generations is 0; allowed: 1 or more"),
        ({"parents": 0}, "parents is 0; allowed: 1 or more"),
        ({"mutations": -1}, "mutations is -1; allowed: 0 or more"),
        ({"mutations": 0, "crossovers": 0}, "allowed: one of them above 0"),
        ({"mutation_rate": 0.0}, "mutation_rate is 0.0; allowed: above 0, to 1"),
        ({"weights": "random"}, "weights is 'random'; allowed: none, initial, trained"),
        ({"variant": "rows", "generations": 5}, "generations 5 with variant 'rows'"),
        ({"variant": "dims", "pruned": "shared"}, "pruned 'shared' with variant 'dims'"),
        ({"params": -1}, "params is -1"),
        ({"sparsity": 1.0}, "sparsity is 1.0; allowed: 0 (no target) to below 1"),
        ({"sparsity": 0.5, "params": 9}, "sparsity 0.5 with params 9; allowed: one of the two"),
        ({"sparsity": 0.5, "num_bytes": 9}, "sparsity 0.5 with num_bytes 9; allowed: one of the"),
    ],
)
def test_settings_out_of_range(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        OptEmbedSettings(**wrong)


@pytest.mark.parametrize(
    "settings, backbone, error, says",
    [
        (replace(SETTINGS, weights="trained"), "dcn", ValueError, "'trained' with the backbone"),
        (replace(SETTINGS, weights="initial"), "dlrm", ValueError, "'initial' with the backbone"),
        (replace(SETTINGS, threshold_lr=1e3), "mlp", PolicyError, "no row of any feature"),
    ],
)
def test_a_search_that_cannot_answer_says_so(
    tiny_data: DataSet, settings: OptEmbedSettings, backbone: str, error: Any, says: str
) -> None:
    with pytest.raises(error, match=says):
        optembed(tiny_data, settings, Training(replace(SMALL, backbone=backbone), FIT))


@pytest.mark.parametrize("backbone", ["deepfm", "ipnn", "nfm"])
def test_too_few_features_for_the_backbone_are_named_in_the_search(
    tiny_data: DataSet, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One feature and no dense column make no pair; the search says so, not the training."""
    schema = tiny_data.schema
    searched = replace(SETTINGS, generations=1)
    space = replace(
        open_space(tiny_data, searched, 0), schema=replace(schema, columns=schema.features)
    )
    assert not space.schema.numeric
    model = replace(SMALL, backbone=backbone)
    require_backbone([0, 3], space, searched, model)
    says = rf"1 of 7 features .* backbone '{backbone}' .*no pair.*: alpha 0\.2 or threshold_lr"
    with pytest.raises(PolicyError, match=says):
        require_backbone([3], space, searched, model)
    require_backbone([3], space, searched, SMALL)
    asked: list[Any] = []
    monkeypatch.setattr(searching, "require_backbone", lambda served, *_: asked.append(served))
    optembed(tiny_data, searched, Training(model, FIT))
    assert len(asked) == 1


# ---- planted structure -------------------------------------------------------------------


def test_noise_loses_its_rows(tmp_path: Path) -> None:
    """Ids that tell nothing are pruned, those that tell something mostly stay."""
    data = tmp_path / "data"
    planted(data, rows=12_000)
    settings = OptEmbedSettings(max_dim=8, alpha=3e-3, threshold_lr=1.0, generations=2)
    fit = FitSettings(epochs=6, patience=6, batch_size=256, row_lr=1e-2, dense_lr=5e-3, row_l2=1e-3)
    rows = optembed(open_data(data), settings, Training(ModelSettings(hidden=(32,)), fit)).record[
        "rows"
    ]
    share = {
        role: sum(k for n, (k, _) in rows.items() if n.startswith(role))
        / sum(r for n, (_, r) in rows.items() if n.startswith(role))
        for role in ("strong", "weak", "noise")
    }
    print(rows)
    assert share["noise"] < 0.5 * share["strong"]
