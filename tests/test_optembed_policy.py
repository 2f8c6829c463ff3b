"""OptEmbed's policy computes what the masked supernet does, and keeps to a budget."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from laws import counts_what_is_stored
from seo_rec import recipes
from seo_rec.data.dataset import DataSet
from seo_rec.model import build_model
from seo_rec.policy import Policy, PolicyError, stored_types
from seo_rec.search.optembed import (
    OptEmbedSettings,
    Supernet,
    kept_rows,
    optembed,
    policy_weights,
    pruned_space,
    search_supernet,
    with_budget,
)
from seo_rec.search.optembed import search as searching
from seo_rec.search.slicing import EXACT, SLICED
from seo_rec.search.space import open_space
from seo_rec.train import Start, Training, evaluate
from small_optembed import DIMS, FIT, ROWS, SETTINGS, SMALL, logits_of, searched_and_found, supernet

# ---- the policy is the masked supernet ---------------------------------------------------


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


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "int4"])
@pytest.mark.parametrize(
    "settings, num_bytes",
    [
        (SETTINGS, 160),
        (SETTINGS, 700),
        (replace(SETTINGS, alpha=0.0, id_bits=32), 1_500),
        (replace(ROWS, alpha=0.0), 900),
        (replace(DIMS, id_bits=32), 4_000),
        (replace(SETTINGS, pruned="shared", address="hash", hash_rows=20), 1_200),
    ],
)
def test_a_budget_in_bytes_is_kept_and_filled(
    tiny_data: DataSet, settings: OptEmbedSettings, num_bytes: int, precision: str
) -> None:
    """Rows with scales, ids and codes count; no further column of any table fits."""
    asked = replace(settings, num_bytes=num_bytes, precision=precision)
    policy = optembed(tiny_data, asked, Training(SMALL, FIT)).policy
    assert policy.num_bytes <= num_bytes and stored_types(policy) == [precision]
    counts_what_is_stored(policy)
    assert {f.id_bits for f in policy.features if f.name in policy.vocabularies} <= {asked.id_bits}
    row = asked.allowance.row
    further = [t.num_rows * (row(t.dim + 1) - row(t.dim)) for t in policy.tables if t.dim < 6]
    if settings.variant != "rows":
        assert num_bytes - policy.num_bytes < min(further, default=num_bytes)


@pytest.mark.parametrize("id_bits, id_bytes", [(64, 8), (32, 4)])
def test_rows_leave_the_budget_in_bytes_with_their_ids(
    tiny_data: DataSet, id_bits: int, id_bytes: int
) -> None:
    """Of int8 rows of 4 columns, with a scale and an id, as many as fit beside the shared ones."""
    settings = replace(SETTINGS, num_bytes=600, precision="int8", id_bits=id_bits)
    model = supernet(tiny_data, settings)
    with torch.no_grad():
        for table in model.tables:
            table.normal_()
        model.thresholds_F.uniform_(-1, 1)
    kept = kept_rows(model)
    margins = [model.margins(i).detach().numpy() for i in range(7)]
    inside = np.concatenate([m[1:][k[1:]] for m, k in zip(margins, kept, strict=True)])
    outside = np.concatenate([m[1:][~k[1:]] for m, k in zip(margins, kept, strict=True)])
    row = 4 + 4
    assert len(inside) == (600 - 7 * row) // (row + id_bytes) and all(k[0] for k in kept)
    assert inside.min() > outside.max()


def test_a_code_takes_no_id_of_the_budget_in_bytes(tiny_data: DataSet) -> None:
    """All codes are stored whatever is kept, and rows that codes say are kept without an id."""
    settings = replace(SETTINGS, address="hash", hash_rows=20, num_bytes=900, precision="int8")
    model = supernet(tiny_data, settings)
    space = model.space
    with torch.no_grad():
        model.thresholds_F.fill_(-1)  # no row is below it
    rows = dict(zip(space.names, (k[1:].sum() for k in kept_rows(model)), strict=True))
    codes = sum(c.size for c in space.codes.values())
    used = 7 * 8 + 4 * codes + sum(n * (8 + 8 * (i in space.vocabularies)) for i, n in rows.items())
    assert codes and space.vocabularies and 0 <= 900 - used < 8 + 8


@pytest.mark.parametrize(
    "settings, least",
    [
        (SETTINGS, 8 * 8 + 8),
        (replace(SETTINGS, id_bits=32), 8 * 8 + 4),
        (ROWS, 8 * 10 + 8),
        (replace(SETTINGS, address="hash", hash_rows=1), 8 * 8 + 4 * 7),
    ],
)
def test_bytes_that_are_too_few_are_refused_before_training(
    tiny_data: DataSet, settings: OptEmbedSettings, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(settings, num_bytes=least, precision="int8")
    monkeypatch.delattr(searching, "fit")
    says = rf"a budget of {least - 1} bytes, rows as int8.*take {least}, the smallest feasible"
    with pytest.raises(PolicyError, match=says):
        optembed(tiny_data, replace(settings, num_bytes=least - 1), Training(SMALL, FIT))
    monkeypatch.undo()
    found = optembed(tiny_data, settings, Training(SMALL, FIT))
    assert found.policy.num_bytes <= least


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
