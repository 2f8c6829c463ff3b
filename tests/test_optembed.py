"""OptEmbed: the estimator and the sparsity term in closed form, thresholds that rise and fall, a
policy that computes what the masked supernet does, budgets, variants, resuming, and errors."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seo_rec import recipes, search
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.synthetic import synthetic
from seo_rec.model import ModelSettings, build_model
from seo_rec.policy import Policy, PolicyError
from seo_rec.search.optembed import (
    OptEmbedSettings,
    Searched,
    Supernet,
    kept_rows,
    optembed,
    policy_weights,
    pruned_space,
    require_backbone,
    score,
    search_supernet,
    sparsity,
    unit_step,
    with_budget,
)
from seo_rec.search.optembed import search as searching
from seo_rec.search.optembed import widths as evolving
from seo_rec.search.slicing import EXACT, SLICED
from seo_rec.search.space import open_space
from seo_rec.train import FitSettings, Ranks, Start, Training, evaluate, loop
from seo_rec.train.replicas import SharedDraws

SMALL = ModelSettings(hidden=(8,), init_scale=0.1)
FIT = FitSettings(epochs=2, batch_size=200, row_lr=0.02, dense_lr=0.02)
SETTINGS = OptEmbedSettings(max_dim=6, alpha=0.2, threshold_lr=0.3, generations=3)
ROWS = replace(SETTINGS, variant="rows", generations=30)
DIMS = OptEmbedSettings(max_dim=6, variant="dims", generations=3)


def supernet(data: DataSet, settings: OptEmbedSettings, backbone: str = "mlp") -> Supernet:
    space = open_space(data, settings, 0)
    whole = space.policy([settings.max_dim] * len(space.names))
    model = build_model(whole, 1, replace(SMALL, backbone=backbone), 0)
    return Supernet(model, space, settings, SharedDraws(0, Ranks()))


def logits_of(model: torch.nn.Module, data: DataSet, split: str = "val") -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return torch.cat([model(b)[1] for b in data.stream(split, batch_size=50)])


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


# ---- the policy is the masked supernet ---------------------------------------------------


def searched_and_found(
    data: DataSet, settings: OptEmbedSettings, model: ModelSettings, fit: FitSettings = FIT
) -> tuple[Searched, search.Found]:
    """What :func:`optembed` finds, and the supernet that it found it with."""
    held: list[Searched] = []

    def keeping(*given: Any) -> Searched:
        held.append(search_supernet(*given))
        return held[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "search_supernet", keeping)
        found = optembed(data, settings, Training(model, fit))
    return held[0], found


def shown(policy: Policy) -> dict[str, tuple[int, int]]:
    return {t.name: (t.num_rows, t.dim) for t in policy.tables}


@pytest.mark.parametrize("pruned", ["zero", "shared"])
@pytest.mark.parametrize("backbone", EXACT)
def test_the_policy_computes_what_the_masked_supernet_does(
    tiny_data: DataSet, backbone: str, pruned: str
) -> None:
    settings = replace(SETTINGS, pruned=pruned, weights="trained")
    model = replace(SMALL, backbone=backbone)
    searched, found = searched_and_found(tiny_data, settings, model)
    assert 0 < sum(k.sum() for k in searched.kept) < sum(len(k) for k in searched.kept)
    assert len(set(found.policy.widths)) > 1
    own = build_model(found.policy, 1, model, 7)
    own.load_state_dict(dict(found.weights))
    for split in ("val", "test", "train"):
        expected = logits_of(searched.model, tiny_data, split)
        torch.testing.assert_close(logits_of(own, tiny_data, split), expected, rtol=1e-5, atol=1e-5)
    metrics, _, _ = evaluate(searched.model, tiny_data.stream("val", batch_size=64))
    assert found.val_auc == pytest.approx(metrics.auc, abs=1e-9)
    assert found.val_auc == searched.val_auc


@pytest.mark.parametrize("settings", [SETTINGS, replace(SETTINGS, pruned="shared"), ROWS, DIMS])
def test_the_policy_looks_up_what_the_masked_supernet_does(
    tiny_data: DataSet, settings: OptEmbedSettings
) -> None:
    """For every backbone: the embeddings, with zeros where columns are masked."""
    model = replace(SMALL, backbone="dcn")
    searched = search_supernet(tiny_data, settings, Training(model, FIT))
    dims = searched.dims
    left = pruned_space(searched.model.space, searched.kept).policy(dims)
    own = build_model(left, 1, model, 7).embedding
    state = searched.model.state_dict()
    weights = policy_weights(searched.model, searched.kept, dims, model, state)
    own.load_state_dict(
        {n.removeprefix("embedding."): w for n, w in weights.items() if n.startswith("embedding.")}
    )
    mask_E = searched.model.column_mask(torch.tensor(dims))
    for batch in tiny_data.stream("val", batch_size=50):
        wide = (searched.model.embed(batch.sparse) * mask_E).view(-1, 7, 6)
        narrow = torch.cat([wide[:, i, :d] for i, d in enumerate(dims)], dim=1)
        torch.testing.assert_close(own(batch.sparse), narrow, rtol=1e-6, atol=1e-7)
        assert all(not wide[:, i, d:].any() for i, d in enumerate(dims))


def test_features_without_rows_are_dropped(
    tiny_data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With any backbone, pairs of features included, leaving zeros out changes nothing."""
    settings = replace(SETTINGS, weights="trained")

    def without(model: Supernet) -> Any:
        rows = kept_rows(model)
        rows[1][1:] = rows[4][1:] = False
        return rows

    monkeypatch.setattr(searching, "kept_rows", without)
    for backbone in ("ipnn", "deepfm", "mlp", "wide-deep"):
        model = replace(SMALL, backbone=backbone)
        searched, found = searched_and_found(tiny_data, settings, model)
        names = searched.model.space.names
        assert set(found.policy.dropped) >= {names[1], names[4]}
        assert searched.dims[1] == searched.dims[4] == 0
        own = build_model(found.policy, 1, model, 7)
        own.load_state_dict(dict(found.weights))
        expected = logits_of(searched.model, tiny_data)
        torch.testing.assert_close(logits_of(own, tiny_data), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backbone", SLICED)
def test_the_lottery_ticket_is_the_supernets_start(tiny_data: DataSet, backbone: str) -> None:
    """The initial weights are slices of those that the supernet began with."""
    settings = replace(SETTINGS, weights="initial")
    model = replace(SMALL, backbone=backbone)
    searched, found = searched_and_found(tiny_data, settings, model)
    fresh = supernet(tiny_data, settings, backbone)
    names = fresh.space.names
    for name in (f.name for f in found.policy.features):
        i = names.index(name)
        table = found.weights[f"embedding.ebc.embedding_bags.{name}.weight"]
        start = fresh.tables[i].detach()[torch.from_numpy(searched.kept[i])]
        assert torch.equal(table[1:], start[1:, : searched.dims[i]]) and not table[0].any()
    own = build_model(found.policy, 1, model, 7)
    own.load_state_dict(dict(found.weights))
    fresh.kept, fresh.dims = searched.model.kept, searched.dims
    expected = logits_of(fresh, tiny_data)
    torch.testing.assert_close(logits_of(own, tiny_data), expected, rtol=1e-5, atol=1e-5)


def test_training_starts_from_the_ticket(tiny_data: DataSet, tmp_path: Path) -> None:
    out, settings = tmp_path / "s", replace(SETTINGS, weights="initial")
    found = recipes.search("optembed", tiny_data, out, settings, Training(SMALL, FIT))
    scratch, ticket = (
        recipes.train(
            tiny_data,
            found.policy,
            tmp_path / name,
            Training(SMALL, FIT),
            start=Start(weights=given),
        )
        for name, given in (("a", None), ("b", out / "weights.npz"))
    )
    assert scratch.val_auc != ticket.val_auc
    assert scratch.embedding_params == found.policy.num_params


# ---- what is kept ------------------------------------------------------------------------


def test_the_vocabulary_is_that_of_the_kept_rows(tiny_data: DataSet) -> None:
    searched, found = searched_and_found(tiny_data, SETTINGS, SMALL)
    space, model = searched.model.space, searched.model
    for i, name in enumerate(space.names):
        norms = model.tables[i].detach().abs().sum(1)
        above = (norms > model.thresholds_F[i])[1:].numpy()
        if name in found.policy.dropped:
            assert not above.any()
            continue
        ids = tiny_data.vocabulary(name)
        assert np.array_equal(found.policy.vocabularies[name], ids[above])
        table, feature = (
            found.policy.table(name),
            next(f for f in found.policy.features if f.name == name),
        )
        assert table.num_rows == above.sum() + 1 and table.dim == searched.dims[i]
        assert [k.address for k in feature.lookups] == ["id"]
    full = space.size([6] * 7)
    assert found.record["sparsity"] == pytest.approx(1 - found.policy.num_params / full)
    names = [c.name for c in tiny_data.schema.features]
    served = [f.name for f in found.policy.features]
    assert sorted([*served, *found.policy.dropped]) == sorted(names)
    assert Policy.from_json(json.loads(json.dumps(found.policy.to_json()))) == found.policy


def test_variants_search_one_thing_each(tiny_data: DataSet) -> None:
    rows, dims = (
        optembed(tiny_data, ROWS, Training(SMALL, FIT)),
        optembed(tiny_data, DIMS, Training(SMALL, FIT)),
    )
    assert set(rows.policy.widths) == {6} and rows.record["candidates"] == 0
    assert any(kept < all_rows for kept, all_rows in rows.record["rows"].values())
    assert all(kept == all_rows for kept, all_rows in dims.record["rows"].values())
    assert not dims.policy.dropped and dims.record["thresholds"] == {}
    assert len(set(dims.policy.widths)) > 1 and dims.record["candidates"] == 60
    assert rows.policy.provenance["arguments"]["variant"] == "rows"


def test_codes_say_which_rows_of_a_hashed_table_are_left(tiny_data: DataSet) -> None:
    """All hashes of a pruned row have code 0; codes count, and the outputs are the supernet's."""
    settings = replace(SETTINGS, address="hash", hash_rows=20, weights="trained")
    searched, found = searched_and_found(tiny_data, settings, SMALL)
    policy, space = found.policy, searched.model.space
    hashed = {f.name: f.lookups[0] for f in policy.features if f.lookups[0].address == "codes"}
    assert 0 < len(hashed) < 7 and set(hashed) == set(policy.codes)
    for name, lookup in hashed.items():
        kept, codes = searched.kept[space.names.index(name)], policy.codes[name]
        assert lookup.modulus == codes.size == 20 and len(kept) == 21 and kept[0]
        table = policy.table(name)
        assert table.num_rows == kept.sum() < 21
        assert np.array_equal(codes > 0, kept[1:])
        assert np.array_equal(codes[codes > 0], np.arange(1, table.num_rows))
    floats = sum(t.num_rows * t.dim for t in policy.tables)
    assert policy.num_params == floats + 20 * len(hashed)
    own = build_model(policy, 1, SMALL, 7)
    own.load_state_dict(dict(found.weights))
    expected = logits_of(searched.model, tiny_data)
    torch.testing.assert_close(logits_of(own, tiny_data), expected, rtol=1e-5, atol=1e-5)
    assert Policy.from_json(json.loads(json.dumps(policy.to_json()))) == policy


def test_with_widths_alone_hashed_tables_keep_their_rows(tiny_data: DataSet) -> None:
    policy = optembed(
        tiny_data, replace(DIMS, address="hash", hash_rows=2), Training(SMALL, FIT)
    ).policy
    assert all(t.num_rows == 2 for t in policy.tables) and not policy.codes


# ---- budgets -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, params",
    [
        (SETTINGS, 32),
        (SETTINGS, 60),
        (replace(SETTINGS, pruned="shared"), 301),
        (replace(SETTINGS, alpha=0.0), 301),
        (ROWS, 48),
        (replace(ROWS, alpha=0.0), 300),
        (DIMS, 300),
        (replace(SETTINGS, address="hash", hash_rows=20), 400),
    ],
)
def test_a_budget_is_never_exceeded(
    tiny_data: DataSet, settings: OptEmbedSettings, params: int
) -> None:
    found = optembed(tiny_data, replace(settings, params=params), Training(SMALL, FIT))
    assert found.policy.num_params <= params
    built = build_model(found.policy, 1, SMALL, 0).embedding
    codes = sum(c.size for c in found.policy.codes.values())
    assert sum(p.numel() for p in built.parameters()) == found.policy.num_params - codes


def test_a_budget_keeps_the_rows_furthest_above_their_thresholds(tiny_data: DataSet) -> None:
    model = supernet(tiny_data, replace(ROWS, params=300))
    with torch.no_grad():
        for table in model.tables:
            table.normal_()
        model.thresholds_F.uniform_(-1, 1)
    kept, free = kept_rows(model), supernet(tiny_data, ROWS)
    free.load_state_dict(model.state_dict())
    margins = [model.margins(i).detach().numpy() for i in range(7)]
    inside = np.concatenate([m[1:][k[1:]] for m, k in zip(margins, kept, strict=True)])
    outside = np.concatenate([m[1:][~k[1:]] for m, k in zip(margins, kept, strict=True)])
    assert sum(k.sum() for k in kept) == 300 // 6 and all(k[0] for k in kept)
    assert inside.min() > outside.max()
    assert all((k <= f).all() for k, f in zip(kept, kept_rows(free), strict=True))


@pytest.mark.parametrize(
    "settings, least",
    [
        (SETTINGS, 4 * 8),
        (ROWS, 6 * 8),
        (replace(SETTINGS, max_dim=2), 2 * 8),
        (replace(SETTINGS, address="hash", hash_rows=1), 4 * 8 + 7),
        (DIMS, None),
    ],
)
def test_a_budget_that_is_too_small_is_refused_before_training(
    tiny_data: DataSet,
    settings: OptEmbedSettings,
    least: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    least = least or sum(open_space(tiny_data, settings, 0).rows)
    monkeypatch.delattr(searching, "fit")
    with pytest.raises(PolicyError, match=rf"\b{least}\b"):
        optembed(tiny_data, replace(settings, params=least - 1), Training(SMALL, FIT))
    monkeypatch.undo()
    found = optembed(tiny_data, replace(settings, params=least), Training(SMALL, FIT))
    assert found.policy.num_params <= least


@pytest.mark.parametrize(
    "settings, params, weights",
    [
        (SETTINGS, 400, "none"),
        (replace(SETTINGS, pruned="shared"), 400, "trained"),
        (DIMS, 1000, "trained"),
    ],
)
def test_what_is_left_of_a_budget_is_filled_in_proportion(
    tiny_data: DataSet, settings: OptEmbedSettings, params: int, weights: str
) -> None:
    """No width shrinks, no further column fits, and the score is that of the filled widths."""
    settings = replace(settings, params=params, weights=weights)
    searched, found = searched_and_found(tiny_data, settings, SMALL)
    best = found.record["generations"][-1]["best"]
    before = dict(zip((n for n, d in found.record["dims"].items() if d), best, strict=True))
    rows = {t.name: t.num_rows for t in found.policy.tables}
    after = {t.name: t.dim for t in found.policy.tables}
    assert before != after and all(after[n] >= d for n, d in before.items())
    left = params - found.policy.num_params
    assert 0 <= left < min((rows[n] for n, d in after.items() if d < 6), default=params + 1)
    assert found.val_auc == evaluate(searched.model, tiny_data.stream("val", batch_size=64))[0].auc
    unfilled = optembed(tiny_data, replace(settings, fill=False), Training(SMALL, FIT))
    assert {t.name: t.dim for t in unfilled.policy.tables} == before
    if weights == "trained":
        own = build_model(found.policy, 1, SMALL, 7)
        own.load_state_dict(dict(found.weights))
        expected = logits_of(searched.model, tiny_data)
        torch.testing.assert_close(logits_of(own, tiny_data), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weights", ["none", "initial"])
def test_hashed_tables_take_the_rows_that_are_left(tiny_data: DataSet, weights: str) -> None:
    """With widths alone, and unless weights are written, which are of the supernet's rows."""
    settings = replace(DIMS, address="hash", hash_rows=20, params=400, weights=weights)
    policy = optembed(tiny_data, settings, Training(SMALL, FIT)).policy
    hashed = [policy.table(f.name) for f in policy.features if f.lookups[0].address == "hash"]
    if weights == "none":
        assert 0 <= 400 - policy.num_params < min(t.dim for t in hashed)
    else:
        assert all(t.num_rows == 20 for t in hashed) and policy.num_params <= 400


@pytest.mark.parametrize("settings", [SETTINGS, ROWS, DIMS])
def test_a_target_of_the_sparsity_is_a_budget(
    tiny_data: DataSet, settings: OptEmbedSettings
) -> None:
    """At least s of the floats of all rows at ``max_dim`` are saved, as by that budget."""
    full = 6 * sum(open_space(tiny_data, settings, 0).rows)
    target = 0.625  # exact in binary
    by_share = optembed(tiny_data, replace(settings, sparsity=target), Training(SMALL, FIT))
    by_floats = optembed(tiny_data, replace(settings, params=full * 3 // 8), Training(SMALL, FIT))
    assert by_share.record["sparsity"] >= target
    assert by_share.policy == by_floats.policy and by_share.val_auc == by_floats.val_auc
    assert by_share.policy.provenance["arguments"]["sparsity"] == target
    assert with_budget(open_space(tiny_data, settings, 0), settings) is settings
    with pytest.raises(PolicyError, match="a budget of 1 parameters"):
        optembed(tiny_data, replace(settings, sparsity=1 - 1e-12), Training(SMALL, FIT))


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
    synthetic(
        data,
        rows=12_000,
        strong=3,
        weak=2,
        noise=3,
        numeric=0,
        strong_vocab=30,
        weak_vocab=20,
        noise_vocab=1000,
        signal=3.0,
    )
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
