"""Days with weights, crosses, int8 tables and shared rows: served as scored, deltas as packages."""

from __future__ import annotations

import filecmp
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics as sklearn_metrics

from seo_rec import recipes
from seo_rec.data.crosses import with_crosses
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.split import Split
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.export.package import export_run
from seo_rec.model import ModelSettings
from seo_rec.policy import Allowance, Policy
from seo_rec.policy.addresses import digests
from seo_rec.recipes.evaluation import load_trained, stream_of
from seo_rec.schema import SPLITS
from seo_rec.search.proposals import crosses_of
from seo_rec.serve import Predictor
from seo_rec.serve.delta import apply_delta
from seo_rec.settings import FitSettings, Training
from seo_rec.train import evaluate

USERS, SHIFT, ROWS, DAYS = 260, 60, 900, 3
TRAINING = Training(
    ModelSettings(hidden=(8,)), FitSettings(epochs=1, batch_size=64, row_lr=0.02, dense_lr=0.02)
)
KINDS = ("by-id", "int8", "crosses", "digests")


def day_table(day: int) -> pa.Table:
    """Weighted clicks; users move on by ``SHIFT`` ids a day."""
    rng = np.random.default_rng([11, day])
    taste = np.random.default_rng(5).normal(size=USERS + SHIFT * DAYS)
    user = SHIFT * day + rng.integers(0, USERS, ROWS)
    item, x = rng.integers(0, 9, ROWS), rng.normal(size=ROWS)
    y = rng.random(ROWS) < 1 / (1 + np.exp(-2 * taste[user] - 0.3 * x))
    weight = rng.integers(1, 6, ROWS).astype(np.float64)
    return pa.table({"y": y.astype(int), "user": user, "item": item, "x": x, "w": weight})


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("days")
    columns = TableColumns("y", ("user", "item"), ("x",), weight="w", numeric_transform="none")
    everything = Split("temporal", fractions=(1.0, 0.0, 0.0))
    for day in range(DAYS):
        pq.write_table(day_table(day), folder / "raw.parquet")
        prepare_table(
            folder / "raw.parquet", folder / f"day-{day}", columns=columns, split=everything
        )
    return [folder / f"day-{day}" for day in range(DAYS)]


def policy_of(kind: str, first: DataSet) -> Policy:
    budget: Any = 0
    if kind == "int8":
        budget = Allowance(0, precision="int8")
    if kind in ("crosses", "digests"):
        first = with_crosses(first, crosses_of(first, "user*item", 0))
    if kind == "digests":
        budget = Allowance(0, id_bits=32)
    return recipes.method_policy("collisionless", first, budget, 4)


@pytest.fixture(scope="module", params=KINDS)
def replayed(
    request: pytest.FixtureRequest, days: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, list[recipes.Day], list[Path]]:
    """The kind, the first policy's folder, the days, and the packages of all days."""
    folder, kind = tmp_path_factory.mktemp("run"), str(request.param)
    policy = policy_of(kind, open_data(days[0]))
    policy.save(folder / "first.json")
    done = recipes.replay(days, folder / "run", TRAINING, policy=policy, shared=0.05, keep=0)
    packages = [folder / f"package-{i}" for i in range(DAYS)]
    for path, package in zip(days, packages, strict=True):
        export_run(folder / "run" / "days" / path.name, package, formats=())
    return kind, folder, list(done.days), packages


def test_a_day_is_scored_as_the_package_of_the_day_before_is_served(
    replayed: tuple[str, Path, list[recipes.Day], list[Path]],
) -> None:
    """NumPy on the package and scikit-learn on its scores, with the weights of the rows."""
    _, _, found, packages = replayed
    for day in range(1, DAYS):
        table = day_table(day)
        rows = {name: table[name].to_pylist() for name in ("user", "item", "x")}
        scores = Predictor.load(packages[day - 1], "numpy")(rows)
        y, w = table["y"].to_numpy(), table["w"].to_numpy()
        auc = sklearn_metrics.roc_auc_score(y, scores, sample_weight=w)
        assert found[day].auc == pytest.approx(auc, abs=1e-5)
        loss = sklearn_metrics.log_loss(y, scores, sample_weight=w)
        assert found[day].log_loss == pytest.approx(loss, rel=1e-5)
        unweighted = sklearn_metrics.roc_auc_score(y, scores)
        assert abs(unweighted - auc) > 1e-4


def test_a_delta_between_replayed_days_is_the_full_package(
    replayed: tuple[str, Path, list[recipes.Day], list[Path]], tmp_path: Path
) -> None:
    kind, folder, found, packages = replayed
    for day in range(1, DAYS):
        run = folder / "run" / "days" / found[day].day
        delta, applied = tmp_path / f"delta-{day}", tmp_path / f"applied-{day}"
        export_run(run, delta, formats=(), since=packages[day - 1])
        apply_delta(packages[day - 1], delta, applied)
        names = sorted(p.name for p in packages[day].iterdir())
        assert names == sorted(p.name for p in applied.iterdir())
        same, *different = filecmp.cmpfiles(packages[day], applied, names, False)
        assert sorted(same) == names and different == [[], []], kind


def test_ids_come_and_go_inside_the_bytes(
    replayed: tuple[str, Path, list[recipes.Day], list[Path]],
) -> None:
    """The users of the last day have rows, others share some, and nothing grows."""
    kind, folder, found, _ = replayed
    first = Policy.load(folder / "first.json")
    last = Policy.load(folder / "run" / "days" / found[-1].day / "policy.json")
    features = {f.name: f for f in last.features}
    assert last.num_bytes <= first.num_bytes and last.tables == first.tables
    assert features["user"].lookups[0].unknown_rows == len(first.vocabularies["user"]) // 20
    assert features["item"].lookups[0].unknown_rows == 1
    every = np.arange(USERS + SHIFT * DAYS)
    known = {bits: every if bits == 64 else digests(every) for bits in (64, 32)}
    assert {f.id_bits for f in last.features} == {32 if kind == "digests" else 64}
    named = [
        every[np.isin(known[p.id_bits["user"]], p.vocabularies["user"])] for p in (first, last)
    ]
    left = np.setdiff1d(*named)
    assert len(left) > SHIFT and np.median(left) < SHIFT
    assert found[-1].unknown["user"] > 0.05 and found[-1].admitted > SHIFT / 2
    if kind in ("crosses", "digests"):
        crossed = next(name for name in features if features[name].is_cross)
        assert features[crossed].lookups[0].unknown_rows > 25
        assert not np.array_equal(first.vocabularies[crossed], last.vocabularies[crossed])


def test_groups_stay_in_one_split_from_day_to_day(tmp_path: Path, seo_rec: Any) -> None:
    """A training goes on with data that keep users together; GAUC against scikit-learn."""
    columns = TableColumns("y", ("user", "item"), ("x",), group="user", numeric_transform="none")
    split = Split("random", 3, (0.6, 0.2, 0.2))
    for day in range(2):
        pq.write_table(day_table(day), tmp_path / "raw.parquet")
        prepare_table(tmp_path / "raw.parquet", tmp_path / f"{day}", columns=columns, split=split)
    first, second = (open_data(tmp_path / f"{day}") for day in range(2))
    recipes.train(first, policy_of("by-id", first), tmp_path / "run", TRAINING)
    typed = ("--from", tmp_path / "run", "--out", tmp_path / "next")
    done = seo_rec("train", second.path, *typed)
    assert done.code == 0, done.err
    vocabularies = [
        set(Policy.load(tmp_path / run / "policy.json").vocabularies["user"].tolist())
        for run in ("run", "next")
    ]
    users = [set(pq.read_table(second.path / s)["user"].to_pylist()) for s in SPLITS]
    assert len(vocabularies[1] & users[0]) > len(vocabularies[0] & users[0]) + SHIFT / 4
    assert not users[0] & users[2] and not users[0] & users[1] and not users[1] & users[2]
    done = seo_rec("eval", tmp_path / "next", second.path, "--group", "user")
    (entry,) = json.loads(done.out)["groups"]["gauc"]
    stream = stream_of(tmp_path / "next", second, "test")
    _, z, y = evaluate(load_trained(tmp_path / "next"), stream)
    (batch,) = second.stream("test", batch_size=ROWS)
    ids, rows, total = batch.sparse["user"].values().numpy(), 0, 0.0
    for user in np.unique(ids):
        of = ids == user
        if len(set(y[of].tolist())) == 2:
            rows += int(of.sum())
            total += of.sum() * sklearn_metrics.roc_auc_score(y[of], z[of])
    assert rows > 20 and entry["gauc"] == pytest.approx(total / rows, rel=1e-6)


def test_shared_rows_that_would_be_ignored_are_refused(
    days: list[Path], tmp_path: Path, seo_rec: Any
) -> None:
    method = ("--method", "separate", "--params", 400, "--dim", 4)
    typed = ("train", days[0], "--out", tmp_path / "run", "--shared-rows", 0.1)
    done = seo_rec(*typed, *method)
    assert done.code == 2 and "--shared-rows" in done.err and "would be ignored" in done.err
    options = ("--by", "day", "--shared-rows", 1.5)
    done = seo_rec("replay", days[0].parent, "--out", tmp_path / "replay", *method, *options)
    assert done.code == 2 and "shared rows 1.5; allowed: 0 (one row) to below 1" in done.err
    assert not (tmp_path / "run").exists() and not (tmp_path / "replay").exists()
