"""CCE: the parts of a clustering step against their definitions, the tables, and resuming."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import laws
from cases import SCHEMAS, counts
from seo_rec.data.dataset import DataSet
from seo_rec.metrics import Metrics
from seo_rec.model import ModelSettings, build_model
from seo_rec.policy import Allowance, Policy, PolicyError
from seo_rec.policy.addresses import lookup_rows
from seo_rec.policy.budget import level
from seo_rec.search.cce import ClusterStep, cce, divided
from seo_rec.search.cce_tables import CceSettings, divide
from seo_rec.search.clustering import (
    Points,
    base_vectors,
    centroids_of,
    clustered,
    mean_residuals,
)
from seo_rec.search.registry import find
from seo_rec.train import FitSettings, Training, make_optimizers, ranks

OF = SCHEMAS["three"]
COUNTS = counts(OF)
SMALL = ModelSettings(hidden=(8,), init_scale=0.1)
FIT = FitSettings(epochs=3, batch_size=200, row_lr=0.05, dense_lr=0.05)
SETTINGS = CceSettings(params=900, dim=8)
POINTS = Points(per_centroid=100, iterations=50, seed=3)
units = pytest.mark.parametrize(
    "unit, precision", [("parameters", "float32"), ("bytes", "float32"), ("bytes", "int8")]
)


def tables(rows: int = 7, second: int = 5, bases: int = 20, ids: int = 60) -> dict[str, Any]:
    """Random tables and addresses; the last base row has no training id."""
    draw = np.random.default_rng(0)
    return {
        "first_RD": draw.normal(size=(rows, 4)).astype(np.float32),
        "second_SD": draw.normal(size=(second, 4)).astype(np.float32),
        "codes_N": draw.integers(rows, size=bases),
        "base_V": draw.integers(bases - 1, size=ids),
        "second_V": draw.integers(second, size=ids),
    }


# ---- a clustering step -------------------------------------------------------------------


def test_vectors_go_to_the_nearest_centroid() -> None:
    """By comparing every pair; and centroids are the means of their vectors."""
    draw = np.random.default_rng(1)
    x = draw.normal(size=(300, 3)).astype(np.float32)
    centroids, numbers = centroids_of(x, 12, POINTS)
    assert centroids.shape == (12, 3)
    for vector, number in zip(x, numbers, strict=True):
        distances = [float(((vector - c) ** 2).sum()) for c in centroids]
        assert number == int(np.argmin(distances))
    for k in range(12):
        np.testing.assert_allclose(centroids[k], x[numbers == k].mean(0), atol=1e-5)
    again = centroids_of(x, 12, POINTS)
    assert np.array_equal(again[0], centroids) and np.array_equal(again[1], numbers)


def test_a_sample_finds_the_centroids_and_all_vectors_are_assigned() -> None:
    x = np.random.default_rng(1).normal(size=(300, 3)).astype(np.float32)
    centroids, numbers = centroids_of(x, 4, replace(POINTS, per_centroid=10))
    assert len(numbers) == 300
    distances = ((x[:, None] - centroids) ** 2).sum(2)
    assert np.array_equal(numbers, distances.argmin(1))
    means = np.stack([x[numbers == k].mean(0) for k in range(4)])
    assert not np.allclose(means, centroids, atol=1e-3)  # they are means of 40 vectors


def test_groups_of_equal_ids_are_found() -> None:
    """Ids of one planted group have one code afterwards, and nothing is lost."""
    draw = np.random.default_rng(5)
    group = draw.integers(6, size=200)
    first = draw.normal(size=(200, 8)).astype(np.float32)
    centres = draw.normal(size=(6, 8)).astype(np.float32)
    codes, after = np.arange(200), Points(100, 50, 0)
    first[:] = centres[group]
    second, base = np.zeros((3, 8), np.float32), np.arange(200)
    at = draw.integers(3, size=200)
    vectors = base_vectors(first, second, codes, base, at)
    losses = []
    for seed in range(8):  # k-means from random vectors may end in another minimum
        centroids, numbers = centroids_of(vectors, 6, replace(after, seed=seed))
        losses.append(float(((vectors - centroids[numbers]) ** 2).sum()))
        if losses[-1] < 1e-6:
            pairs = {(g, n) for g, n in zip(group.tolist(), numbers.tolist(), strict=True)}
            assert len(pairs) == 6
    assert min(losses) < 1e-6


def test_the_vector_of_a_base_row_is_the_mean_of_its_ids() -> None:
    t = tables()
    found = base_vectors(**t)
    for n in range(20):
        of_ids = [
            t["first_RD"][t["codes_N"][n]] + t["second_SD"][r]
            for b, r in zip(t["base_V"], t["second_V"], strict=True)
            if b == n
        ]
        if not of_ids:  # only new ids read it, and these read any row of the second table
            of_ids = [t["first_RD"][t["codes_N"][n]] + row for row in t["second_SD"]]
        np.testing.assert_allclose(found[n], np.mean(of_ids, 0), atol=1e-6)


def test_the_second_table_holds_the_residuals_that_fit_it_best() -> None:
    """The least squares of the sum, which numpy solves; and nothing where no id reads."""
    draw = np.random.default_rng(2)
    x, c = (draw.normal(size=(40, 3)).astype(np.float32) for _ in range(2))
    rows = draw.integers(5, size=40)
    found = mean_residuals(x, c, rows, 7)
    reads = (rows[:, None] == np.arange(5)).astype(np.float64)
    np.testing.assert_allclose(found[:5], np.linalg.lstsq(reads, x - c)[0], atol=1e-6)
    assert not found[5:].any()


@pytest.mark.parametrize("residuals", [True, False])
def test_the_sum_of_the_tables_approximates_the_vectors_of_before(residuals: bool) -> None:
    """``error`` is the share of the variance that is lost; residuals lose less than zeros."""
    t = tables(rows=9, second=8)
    new = np.random.default_rng(9).integers(8, size=60)
    after = clustered(**t, new_second_V=new, points=POINTS, residuals=residuals)
    before = t["first_RD"][t["codes_N"][t["base_V"]]] + t["second_SD"][t["second_V"]]
    centroids = after.first_RD[after.codes_N[t["base_V"]]]
    now = centroids + after.second_SD[new]
    spread = ((before - before.mean(0)) ** 2).sum()
    assert after.error == pytest.approx(((before - now) ** 2).sum() / spread, rel=1e-4)
    of_centroids = ((before - centroids) ** 2).sum() / spread
    if residuals:
        # each row of the second table saves its reads times its squared length
        saved = (np.bincount(new, minlength=8) * (after.second_SD**2).sum(1)).sum() / spread
        assert after.error == pytest.approx(of_centroids - saved, rel=1e-3)
        assert after.error < of_centroids < 1
    else:
        assert after.error == pytest.approx(of_centroids, rel=1e-4) and not after.second_SD.any()


def test_rows_for_all_codes_lose_nothing_but_differences_within_a_base_row() -> None:
    t = tables(rows=25)
    t["base_V"] = np.arange(19)  # an id for each
    t["second_V"] = t["second_V"][:19]
    after = clustered(**t, new_second_V=np.zeros(19, np.int64), points=POINTS)
    assert after.error == pytest.approx(0, abs=1e-12)
    assert np.array_equal(after.codes_N, np.arange(20))


# ---- the tables ----------------------------------------------------------------------------


def test_a_level_is_water_that_is_poured() -> None:
    assert level([3, 10, 10], 12) == [3, 5, 4]
    assert level([1, 2], 100) == [1, 2]
    assert level([5, 5, 5], 3) == [1, 1, 1]
    assert level([], 3) == []


@units
@pytest.mark.parametrize("address", ["id", "hash"])
@pytest.mark.parametrize("amount", [700, 1101, 1500])
def test_the_budget_is_spent(amount: int, address: str, unit: str, precision: str) -> None:
    """At most it, and less than a row less; the parts are what is stored."""
    allowance = Allowance(amount, unit, precision)
    s = CceSettings(**allowance.to_json(), dim=4, address=address)
    division = divide(OF, COUNTS, s, seed=1)
    codes = {n: p.first_codes() for n, p in division.pairs.items()}
    policy = division.policy(codes, 0)
    row = laws.bytes_of_a_row(4, precision) if unit == "bytes" else 4
    taken = policy.num_bytes if unit == "bytes" else policy.num_params
    assert division.pairs, "nothing is clustered, so this test says nothing"
    assert 0 <= amount - taken < row
    stored = sum(4 * c.size + 8 * len(policy.vocabularies.get(n, ())) for n, c in codes.items())
    if unit == "bytes":
        assert stored <= 0.5 * amount + 12 * len(codes)
    assert Policy.from_json(json.loads(json.dumps(policy.to_json()))) == policy
    assert {t.dtype for t in policy.tables} == {precision}


def test_the_most_frequent_ids_have_codes() -> None:
    """Of all clustered features together; all others share the base row 0."""
    s = CceSettings(num_bytes=1500, dim=4, code_share=0.3)
    division = divide(OF, COUNTS, s, seed=1)
    coded = sum(len(p.coded) for p in division.pairs.values() if p.coded is not None)
    ranked = sorted(
        (-int(n), f, int(i))
        for f, name in enumerate(division.pairs)
        for i, n in zip(*COUNTS[name], strict=True)
    )
    assert 0 < coded < len(ranked)
    names = list(division.pairs)
    wanted = {(names[f], i) for _, f, i in ranked[:coded]}
    found = {(n, int(i)) for n, p in division.pairs.items() for i in p.coded}  # type: ignore[union-attr]
    assert found == wanted
    for name, pair in division.pairs.items():
        bases = dict(zip(pair.ids.tolist(), pair.base_V.tolist(), strict=True))
        own = [b for i, b in bases.items() if (name, i) in wanted]
        assert sorted(own) == list(range(1, pair.bases))
        assert {b for i, b in bases.items() if (name, i) not in wanted} <= {0}


def test_features_of_few_ids_have_a_row_for_each() -> None:
    division = divide(OF, COUNTS, CceSettings(params=1500, dim=4), seed=1)
    most = max(len(i) + 1 for i in division.exact.values())
    rows = [r for p in division.pairs.values() for r in p.rows]
    assert division.exact and division.pairs
    assert all(len(p.ids) + 1 >= most for p in division.pairs.values())
    assert all(len(p.ids) + 1 > p.rows[0] for p in division.pairs.values()) and max(rows) >= 2
    whole = divide(OF, COUNTS, CceSettings(params=10**6, dim=4), seed=1)
    assert not whole.pairs and set(whole.exact) == {c.name for c in OF.features}


@units
@pytest.mark.parametrize("address", ["id", "hash"])
def test_the_smallest_budget(address: str, unit: str, precision: str) -> None:
    def divided_at(amount: int) -> Policy:
        s = CceSettings(**Allowance(amount, unit, precision).to_json(), dim=4, address=address)
        division = divide(OF, COUNTS, s, seed=0)
        return division.policy({n: p.first_codes() for n, p in division.pairs.items()}, 0)

    with pytest.raises(PolicyError, match=r"the smallest feasible budget is \d+$") as caught:
        divided_at(1)
    least = int(str(caught.value).split()[-1])
    policy = divided_at(least)
    assert (policy.num_bytes if unit == "bytes" else policy.num_params) <= least
    with pytest.raises(PolicyError, match=f"feasible budget is {least}"):
        divided_at(least - 1)


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"code_share": 1.0}, "code_share is 1.0; allowed: between 0 and 1"),
        ({"address": "auto"}, "address is 'auto'; allowed: id, hash"),
        ({"second": "mean"}, "second is 'mean'; allowed: residual, zero"),
        ({"clusterings": 0}, "clusterings is 0; allowed: 1 or more"),
        ({"dim": 0}, "dim is 0; allowed: 1 to 65536"),
    ],
)
def test_settings_out_of_range(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        CceSettings(**wrong)


def test_clusterings_that_do_not_fit_into_the_epochs(tiny_data: DataSet) -> None:
    entry, training = find("cce"), Training(SMALL, replace(FIT, epochs=5))
    entry.checked(tiny_data, replace(SETTINGS, clusterings=2, every=2), training)
    with pytest.raises(ValueError, match="clusterings is 3; allowed: 1 to 2, one after every 2"):
        entry.checked(tiny_data, replace(SETTINGS, clusterings=3, every=2), training)


# ---- while it trains -----------------------------------------------------------------------


@pytest.mark.parametrize("address", ["id", "hash"])
def test_a_model_reads_what_was_clustered(tiny_data: DataSet, address: str) -> None:
    """Its vectors are ``T[c] + T'[h']`` of the policy that the step says; moments start again."""
    settings = replace(SETTINGS, address=address)
    division = divided(tiny_data, settings, 0)
    start = division.policy({n: p.first_codes() for n, p in division.pairs.items()}, 0)
    model = build_model(start, tiny_data.num_numeric, SMALL, 0).to(ranks().device)
    optimizers = make_optimizers(model, "adam", 0.05, 0.05)
    step = ClusterStep(model, optimizers, division, 0)
    batch = next(iter(tiny_data.stream("train", batch_size=64)))
    model(batch)[0].backward()
    for optimizer in optimizers.values():
        optimizer.step()
    name = next(iter(division.pairs))
    bags = model.embedding.ebc.embedding_bags
    state = optimizers["rows"].state[bags[name].weight]
    assert bool(state["exp_avg"].any())
    assert step.after_epoch(Metrics(0.6, 0.5, 0.5, 0.5, 10))
    assert step.done == 1 and not any(bool(v.any()) for v in state.values())
    policy = step.policy
    assert policy != start and policy.tables == start.tables
    column = batch.sparse[name]
    feature = next(f for f in policy.features if f.name == name)
    ids = column.values().numpy()
    wanted = sum(
        bags[k.table].weight.detach().numpy()[lookup_rows(policy, feature, k, ids)]
        for k in feature.lookups
    )
    x_BE = model.embedding(batch.sparse).detach().split(list(policy.widths), 1)
    got = x_BE[[f.name for f in policy.features].index(name)].numpy()
    np.testing.assert_allclose(got[column.lengths().numpy() > 0], wanted, rtol=1e-6)


def test_the_weights_are_those_of_the_last_codes(tiny_data: DataSet, tmp_path: Path) -> None:
    """A model of the policy with them has the validation AUC that the search says: the best since
    the last clustering.
    """
    training = Training(SMALL, replace(FIT, epochs=4, patience=9))
    found = cce(tiny_data, replace(SETTINGS, clusterings=1), training, tmp_path)
    model = build_model(found.policy, tiny_data.num_numeric, SMALL, 5)
    model.load_state_dict(dict(found.weights))
    from seo_rec.train import eval_stream, evaluate

    assert evaluate(model, eval_stream(tiny_data, "val"))[0].auc == found.val_auc
    assert [c["epoch"] for c in found.record["clusterings"]] == [1]
    events = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    aucs = [event["val_auc"] for event in events if event["event"] == "epoch"]
    assert len(set(aucs[1:])) == 3 and found.val_auc == max(aucs[1:])


def test_an_interrupted_search_goes_on_to_the_bit(
    tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed within an epoch, between two clusterings."""
    training = Training(SMALL, replace(FIT, epochs=4, checkpoint_every=2))
    whole = cce(tiny_data, SETTINGS, training, tmp_path / "whole")
    after_step = ClusterStep.__call__

    def stopping(self: ClusterStep, model: Any, step: int) -> None:
        if step == 8:
            raise KeyboardInterrupt
        after_step(self, model, step)

    with monkeypatch.context() as patched:
        patched.setattr(ClusterStep, "__call__", stopping)
        with pytest.raises(KeyboardInterrupt):
            cce(tiny_data, SETTINGS, training, tmp_path / "cut")
    again = cce(tiny_data, SETTINGS, training, tmp_path / "cut")
    assert again.policy == whole.policy and again.record == whole.record
    assert again.val_auc == whole.val_auc and again.weights.keys() == whole.weights.keys()
    assert all(torch.equal(again.weights[n], w) for n, w in whole.weights.items())
