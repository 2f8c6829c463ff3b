"""Clusters of the ids without a row: what they are made of, and that no label leaks into them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cases import SCHEMAS, counts
from seo_rec import methods, recipes
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.methods.frequent import FrequentSettings, frequent
from seo_rec.policy import Allowance, Policy, PolicyError
from seo_rec.policy.addresses import lookup_rows
from seo_rec.search import row_means
from seo_rec.search.registry import find
from seo_rec.search.tail_clusters import FoldSums, clusters, shrunk_means
from seo_rec.train import Training
from spec import reference_hash

ROWS, IDS = 12_000, 400


def written(folder: Path, seed: int = 0) -> DataSet:
    """``told`` decides the label, ``noise`` does not.

    Even ids of ``pair`` occur beside even ids of ``beside``, and odd ones beside odd ones.

    Every column of ids has so many that only a few have rows of their own.
    """
    rng = np.random.default_rng(seed)
    told, noise, pair = rng.integers(0, IDS, (3, ROWS))
    label = (rng.random(ROWS) < np.where(told % 2, 0.8, 0.2)).astype(np.int8)
    beside = 2 * rng.integers(0, 10, ROWS) + pair % 2
    table = {"told": told, "noise": noise, "pair": pair, "beside": beside, "label": label}
    pq.write_table(pa.table(table), folder / "raw.parquet")
    columns = TableColumns("label", categorical=("told", "noise", "pair", "beside"))
    prepare_table(folder / "raw.parquet", folder / "data", columns=columns)
    return open_data(folder / "data")


@pytest.fixture(scope="module")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return written(tmp_path_factory.mktemp("clicks"))


def rows_of(data: DataSet, split: str) -> dict[str, np.ndarray]:
    """Every column of a split in file order, and the labels."""
    (batch,) = data.stream(split, batch_size=10**6)
    found = {c.name: batch.sparse[c.name].values().numpy() for c in data.schema.features}
    return {**found, "label": batch.labels_B.numpy()}


def policy_of(data: DataSet, tail: str, clusters: int = 4) -> Policy:
    changes = {"tail": tail, "bands": clusters, "tail_share": 0.6}
    return recipes.method_policy("frequent", data, Allowance(20_000, "bytes"), 4, changes=changes)


def clustered(policy: Policy, data: DataSet, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The ids of a feature that are in a cluster, and the row that they read."""
    feature = next(f for f in policy.features if f.name == name)
    ids = policy.vocabularies[name]
    rows = lookup_rows(policy, feature, feature.lookups[0], ids)
    first = policy.table(name).num_rows - policy.provenance["arguments"]["bands"]
    return ids[rows >= first], rows[rows >= first]


# ---- the numbers ---------------------------------------------------------------------------


def shrunk_slowly(values: Mapping[int, list[list[float]]], strength: float) -> dict[int, float]:
    """The mean of each id's values, which lie in folds, by the formula."""
    everything = [v for folds in values.values() for fold in folds for v in fold]
    q = sum(everything) / len(everything)
    return {
        i: (sum(map(sum, folds)) + strength * q) / (sum(map(len, folds)) + strength)
        for i, folds in values.items()
    }


def sums_of(values: Mapping[int, list[list[float]]]) -> FoldSums:
    n = np.array([[len(f) for f in folds] for folds in values.values()], float).T
    s = np.array([[sum(f) for f in folds] for folds in values.values()]).T
    return FoldSums(n, s[..., None])


def test_means_that_repeat_are_hardly_shrunk() -> None:
    """Ids whose rows all have one value: the smallest strength predicts best."""
    values = {i: [[float(i % 2)] * 5] * 4 for i in range(40)}
    found = shrunk_means(sums_of(values))
    wanted = shrunk_slowly(values, 1.0)
    np.testing.assert_allclose(found[:, 0], list(wanted.values()), rtol=1e-12)


def test_the_strength_predicts_other_folds_best() -> None:
    """By the definition, over all strengths, in plain Python."""
    rng = np.random.default_rng(1)
    rates = rng.beta(4, 4, 500)
    values = {
        i: [(rng.random(rng.integers(1, 5)) < p).astype(float).tolist() for _ in range(4)]
        for i, p in enumerate(rates)
    }

    def error(strength: float) -> float:
        total = 0.0
        for k in range(4):
            others = {i: [f for j, f in enumerate(v) if j != k] for i, v in values.items()}
            mean = shrunk_slowly(others, strength)
            total += sum((v - mean[i]) ** 2 for i, folds in values.items() for v in folds[k])
        return total

    best = min((1.0, 3.0, 10.0, 30.0, 100.0, 300.0), key=error)
    assert best == 10.0  # neither end of the list; all of them are clear of no means at all
    found = shrunk_means(sums_of(values))
    np.testing.assert_allclose(found[:, 0], list(shrunk_slowly(values, best).values()), rtol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_values_that_say_nothing_of_other_folds_give_one_mean(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = {i: [rng.random(3).round().tolist() for _ in range(4)] for i in range(200)}
    found = shrunk_means(sums_of(values))
    assert len(np.unique(found)) == 1


def test_clusters_are_the_groups_of_the_points() -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 3, 90)
    centres = np.array([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    points = centres[group] + 0.1 * rng.normal(size=(90, 2))
    reads = rng.integers(1, 9, 90)
    found = clusters(points, reads, 3)
    assert len({(a, b) for a, b in zip(group.tolist(), found.tolist(), strict=True)}) == 3
    of_cluster = np.bincount(found, reads)
    assert of_cluster.tolist() == sorted(of_cluster, reverse=True)
    assert clusters(np.ones((7, 2)), np.ones(7, np.int64), 3).tolist() == [0] * 7
    assert clusters(np.zeros((0, 2)), np.zeros(0, np.int64), 3).size == 0


def is_shrunk(found: np.ndarray, values: np.ndarray, of_row: np.ndarray, ids: np.ndarray) -> None:
    """``found`` has the means of ``values`` over the rows of every id, shrunk by one strength."""
    rows = [of_row == i for i in ids.tolist()]
    n, total = (
        np.array([r.sum() for r in rows])[:, None],
        np.stack([values[r].sum(0) for r in rows]),
    )
    q = values[np.isin(of_row, ids)].mean(0)
    shrunk = [(total + m * q) / (n + m) for m in (1, 3, 10, 30, 100, 300)]
    assert min(np.abs(found - c).max() for c in shrunk) < 1e-9


def test_rates_are_means_of_training_rows_alone(clicks: DataSet) -> None:
    train, ids = rows_of(clicks, "train"), clicks.vocabulary("told")[5:200]
    found = row_means.label_rates(clicks, {"told": ids})["told"]
    is_shrunk(found, train["label"].astype(float)[:, None], train["told"], ids)


def test_co_occurrence_is_the_mean_of_the_signs_of_the_other_ids(clicks: DataSet) -> None:
    """The signs are the bits of the hash, in Python's own integers."""
    train, ids = rows_of(clicks, "train"), clicks.vocabulary("pair")
    total = np.zeros((len(train["pair"]), 16))
    for name in ("told", "noise", "beside"):
        seed = methods.lookup_seed(7, name, "signs")
        bits = {
            i: [2 * int(b) - 1 for b in f"{reference_hash(i, seed, 2**16):016b}"[::-1]]
            for i in set(train[name].tolist())
        }
        total += np.array([bits[i] for i in train[name].tolist()])
    found = row_means.co_occurrence(clicks, {"pair": ids}, seed=7)["pair"]
    is_shrunk(found, total, train["pair"], ids)


# ---- the policies --------------------------------------------------------------------------


def validation_gain(policy: Policy, data: DataSet, name: str) -> float:
    """z of the difference in validation labels between the best and the worst cluster.

    Clusters are ordered by their training labels, so that 0 is expected of ids without meaning.
    """
    ids, rows = clustered(policy, data, name)
    train, val = rows_of(data, "train"), rows_of(data, "val")
    of_row = dict(zip(ids.tolist(), rows.tolist(), strict=True))

    def labels(split: dict[str, np.ndarray], row: int) -> np.ndarray:
        at = [of_row.get(i) == row for i in split[name].tolist()]
        return split["label"][np.array(at)]

    known = sorted(set(rows.tolist()), key=lambda r: labels(train, r).mean())
    low, high = labels(val, known[0]), labels(val, known[-1])
    if len(known) == 1 or not low.size or not high.size:
        return 0.0
    error = np.sqrt(0.25 / low.size + 0.25 / high.size)
    return float((high.mean() - low.mean()) / error)


def test_clusters_by_label_rate_tell_labels_of_validation_rows(clicks: DataSet) -> None:
    policy = policy_of(clicks, "label-rate")
    assert validation_gain(policy, clicks, "told") > 5
    ids, rows = clustered(policy, clicks, "told")
    lowest = rows[np.argmin(ids % 2)]
    assert np.mean((rows == lowest) == (ids % 2 == 0)) > 0.6  # chance: 0.5 or less


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_clusters_of_a_column_without_meaning_carry_no_signal(seed: int, tmp_path: Path) -> None:
    """All of its ids are in one cluster, as the labels of its ids do not repeat."""
    data = written(tmp_path, seed)
    policy = policy_of(data, "label-rate")
    ids, rows = clustered(policy, data, "noise")
    assert len(ids) > 50 and len(set(rows.tolist())) == 1
    assert validation_gain(policy, data, "noise") == 0
    assert len(set(clustered(policy, data, "told")[1].tolist())) == 4


def test_only_training_rows_are_read(clicks: DataSet) -> None:
    before = policy_of(clicks, "label-rate")
    seen: list[str] = []

    class Watched(DataSet):
        def stream(self, split: str, **options: Any) -> Any:
            seen.append(split)
            return super().stream(split, **options)

    again = policy_of(Watched(clicks.path, clicks.schema), "label-rate")
    assert again == before and seen and set(seen) == {"train"}


def test_clusters_by_co_occurrence_group_ids_that_occur_alike(clicks: DataSet) -> None:
    ids, rows = clustered(policy_of(clicks, "co-occurrence", 2), clicks, "pair")
    same = np.mean((rows == rows[0]) == (ids % 2 == ids[0] % 2))
    assert len(ids) > 50 and same > 0.95


def test_clusters_need_rows() -> None:
    with pytest.raises(ValueError, match=r"tail 'co-occurrence' puts ids into clusters.*cluster"):
        frequent(
            SCHEMAS["three"],
            counts(SCHEMAS["three"]),
            FrequentSettings(500, dim=4, tail="co-occurrence"),
        )


def test_a_small_budget_is_known_before_rows_are_read(clicks: DataSet) -> None:
    method, training = find("frequent"), Training()
    settings = method.settings_at(20, 4, training, {"tail": "label-rate"})
    with pytest.raises(PolicyError, match="too small for the shared rows of 4 features"):
        method.require_feasible(clicks, settings, training)
