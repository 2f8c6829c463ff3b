"""Magnitude pruning and PEP: which rows stay, by the definition, and what they compute."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import laws
from cases import SCHEMAS, counts
from seo_rec.data.dataset import DataSet
from seo_rec.embed import table_key
from seo_rec.model import ModelSettings, build_model
from seo_rec.policy import Allowance, Policy, PolicyError
from seo_rec.search.magnitude import MagnitudeSettings, magnitude
from seo_rec.search.pep import PepSettings, ShrunkModel, pep, shrunk
from seo_rec.search.pruned import (
    PrunedSettings,
    best_cells,
    block_norms,
    pruned_policy,
    pruned_weights,
    whole_policy,
)
from seo_rec.train import FitSettings, Training, fit_policy, inner_model

OF = SCHEMAS["three"]
IDS = {name: ids for name, (ids, _) in counts(OF).items()}
SMALL = ModelSettings(hidden=(8,), init_scale=0.1)
FIT = FitSettings(epochs=2, batch_size=200, row_lr=0.05, dense_lr=0.05)
units = pytest.mark.parametrize(
    "unit, precision", [("parameters", "float32"), ("bytes", "float32"), ("bytes", "int8")]
)


def scored(blocks: int) -> list[np.ndarray[Any, Any]]:
    draw = np.random.default_rng(blocks)
    return [draw.integers(0, 50, (len(i), blocks)).astype(np.float32) for i in IDS.values()]


@units
@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_the_best_blocks_that_fit_are_kept(blocks: int, unit: str, precision: str) -> None:
    """One by one in the order of the definition, and everything stored is counted."""
    row = laws.bytes_of_a_row(8 // blocks, precision) if unit == "bytes" else 8 // blocks
    code = (4 if unit == "bytes" else 1) if blocks > 1 else 0
    of_id = (8 if unit == "bytes" else 0) + blocks * code
    ranked = sorted(
        (-float(score[v, j]), f, v, j)
        for f, score in enumerate(scored(blocks))
        for v, j in itertools.product(range(len(score)), range(blocks))
    )
    for amount in (600, 1_501):
        s = PrunedSettings(**Allowance(amount, unit, precision).to_json(), dim=8, blocks=blocks)
        left, wanted = amount - len(IDS) * blocks * (row + code), set()
        for _, f, v, j in ranked:
            new = not any((f, v, k) in wanted for k in range(blocks))
            left -= row + of_id * new
            if left < 0:
                break
            wanted.add((f, v, j))
        kept = best_cells(scored(blocks), s)
        found = {(f, *cell) for f, k in enumerate(kept) for cell in np.argwhere(k).tolist()}
        assert found == wanted and wanted
        policy = pruned_policy(OF, IDS, kept, s, {})
        taken = policy.num_bytes if unit == "bytes" else policy.num_params
        assert 0 <= amount - taken < row + of_id
        assert Policy.from_json(json.loads(json.dumps(policy.to_json()))) == policy


def test_a_score_above_zero_is_kept_where_there_is_no_budget() -> None:
    kept = best_cells(scored(2), PrunedSettings(dim=8, blocks=2))
    assert all(np.array_equal(k, s > 0) for k, s in zip(kept, scored(2), strict=True))


@pytest.mark.parametrize("blocks", [1, 2])
def test_kept_rows_compute_what_the_whole_tables_do(tiny_data: DataSet, blocks: int) -> None:
    """Where pruned parts of rows are put in the place of row 0 of their table."""
    s = PrunedSettings(params=900, dim=8, blocks=blocks)
    ids = tiny_data.vocabularies()
    names = [c.name for c in tiny_data.schema.features]
    whole = build_model(whole_policy(tiny_data.schema, ids, 8), tiny_data.num_numeric, SMALL, 0)
    tables = [whole.embedding.ebc.embedding_bags[table_key(n)].weight for n in names]
    kept = best_cells([block_norms(t, blocks, 2) for t in tables], s)
    policy = pruned_policy(tiny_data.schema, ids, kept, s, {})
    weights = pruned_weights(tiny_data.schema, whole.state_dict(), kept, s)
    model = build_model(policy, tiny_data.num_numeric, SMALL, 1)
    model.load_state_dict(weights)
    with torch.no_grad():
        for table, kept_VJ in zip(tables, kept, strict=True):
            mask = torch.from_numpy(np.repeat(kept_VJ, 8 // blocks, axis=1))
            table[1:] = torch.where(mask, table[1:], table[0])
    batch = next(iter(tiny_data.stream("test", batch_size=100)))
    assert not all(k.all() for k in kept)
    torch.testing.assert_close(model(batch)[1], whole(batch)[1])


@pytest.mark.parametrize("order, reference", [(1, np.abs), (2, np.square)])
def test_norms_of_blocks(order: int, reference: Any) -> None:
    rows = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    found = block_norms(rows, 4, order)
    for v, j in itertools.product(range(5), range(4)):
        part = reference(rows[v + 1, 2 * j : 2 * j + 2].numpy()).sum()
        assert found[v, j] == pytest.approx(part ** (1 / order), rel=1e-5)


def test_magnitude_keeps_the_longest_rows_of_a_trained_model(tiny_data: DataSet) -> None:
    settings, training = MagnitudeSettings(params=900, dim=8), Training(SMALL, FIT)
    found = magnitude(tiny_data, settings, training)
    ids = tiny_data.vocabularies()
    trained = fit_policy(tiny_data, whole_policy(tiny_data.schema, ids, 8), training)
    assert trained.result.val.auc == found.val_auc
    bags = inner_model(trained.model).embedding.ebc.embedding_bags
    lengths = {
        (c.name, int(i)): float(np.linalg.norm(row))
        for c in tiny_data.schema.features
        for i, row in zip(
            ids[c.name], bags[table_key(c.name)].weight.detach().numpy()[1:], strict=True
        )
    }
    kept = {(n, int(i)) for n, own in found.policy.vocabularies.items() for i in own}
    shortest = min(lengths[k] for k in kept)
    assert kept and all(n <= shortest for k, n in lengths.items() if k not in kept)
    assert found.record["ids"] == {
        n: [len(found.policy.vocabularies[n]), len(own)] for n, own in ids.items()
    }


# ---- PEP -----------------------------------------------------------------------------------


def test_numbers_are_shrunk_by_their_threshold() -> None:
    """And the gradient of a threshold is ``-sign(e) sigmoid'(s)`` of the numbers that are left."""
    rows = torch.tensor([[0.9, -0.9, 0.1], [-0.1, 0.6, 0.4]], dtype=torch.float64)
    s = torch.tensor([0.0, -1.0, -2.0], dtype=torch.float64, requires_grad=True)
    g = 1 / (1 + np.exp([0.0, 1.0, 2.0]))
    wanted = np.sign(rows.numpy()) * np.maximum(0, np.abs(rows.numpy()) - g)
    np.testing.assert_allclose(shrunk(rows, s).detach().numpy(), wanted, atol=1e-12)
    assert torch.autograd.gradcheck(lambda t: shrunk(rows, t), [s])
    assert torch.autograd.gradcheck(lambda e: shrunk(e, s.detach()), [rows.requires_grad_()])


@pytest.mark.parametrize(
    "per, shape", [("global", (1, 1)), ("feature", (7, 1)), ("column", (7, 8))]
)
def test_a_shrunk_model_is_the_model_of_shrunk_tables(
    tiny_data: DataSet, per: str, shape: tuple[int, int]
) -> None:
    names = [c.name for c in tiny_data.schema.features]
    policy = whole_policy(tiny_data.schema, tiny_data.vocabularies(), 8)
    made, plain = (build_model(policy, tiny_data.num_numeric, SMALL, 0) for _ in range(2))
    model = ShrunkModel(made, names, PepSettings(dim=8, per=per))
    assert model.thresholds_FD.shape == shape
    with torch.no_grad():
        model.thresholds_FD.normal_(-4.5, 0.5, generator=torch.Generator().manual_seed(0))
        for i, name in enumerate(names):
            s = model.thresholds_FD[i % len(model.thresholds_FD)]
            table = plain.embedding.ebc.embedding_bags[table_key(name)].weight
            table.copy_(shrunk(table, s))
    batch = next(iter(tiny_data.stream("train", batch_size=50)))
    torch.testing.assert_close(model(batch), plain(batch))
    model(batch)[0].backward()
    assert model.thresholds_FD.grad is not None and bool(model.thresholds_FD.grad.any())


def test_thresholds_learn_and_say_what_is_left(tiny_data: DataSet) -> None:
    """A high start leaves few numbers; without a budget, only rows that are not zero stay."""
    training = Training(SMALL, replace(FIT, row_l2=1e-2))
    settings = PepSettings(dim=8, per="feature", start=-2.5, threshold_lr=0.1)
    found = pep(tiny_data, settings, training)
    assert 0 < found.record["nonzero"] < 1
    start = 1 / (1 + np.exp(2.5))
    assert all(g != pytest.approx(start, rel=1e-3) for g in found.record["shrunk_by"].values())
    model = build_model(found.policy, tiny_data.num_numeric, SMALL, 3)
    model.load_state_dict(dict(found.weights))
    rows = [
        model.embedding.ebc.embedding_bags[table_key(t.name)].weight[1:]
        for t in found.policy.tables
    ]
    assert all(bool(r.any(1).all()) for r in rows)
    some = sum(len(r) for r in rows)
    assert some == sum(kept for kept, _ in found.record["ids"].values())


@pytest.mark.parametrize(
    "kind, wrong, says",
    [
        (MagnitudeSettings, {"blocks": 3}, "blocks is 3; allowed: a divisor of dim 16"),
        (MagnitudeSettings, {"dim": 0}, "dim is 0; allowed: 1 to 65536"),
        (PepSettings, {"per": "row"}, "per is 'row'; allowed: global, feature, column"),
        (PepSettings, {"start": 1.0}, "start is 1.0; allowed: -30 to 0"),
        (PepSettings, {"threshold_lr": 0.0}, "threshold_lr is 0.0; allowed: above 0"),
    ],
)
def test_settings_out_of_range(kind: Any, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        kind(**wrong)


def test_magnitude_needs_a_budget(tiny_data: DataSet) -> None:
    with pytest.raises(PolicyError, match="a budget of 0 parameters is too small"):
        magnitude(tiny_data, MagnitudeSettings(dim=8), Training(SMALL, FIT))
