"""Options and kinds of data together: a right result, or one clear error before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics as sklearn_metrics

from seo_rec import recipes
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.split import Split
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.export import export_run
from seo_rec.model import ModelSettings
from seo_rec.policy import Allowance
from seo_rec.recipes.evaluation import load_trained, stream_of
from seo_rec.runs import Run, RunError
from seo_rec.schema import SPLITS
from seo_rec.serve import Predictor
from seo_rec.settings import FitSettings, Training
from seo_rec.train import evaluate
from tests.days import day_table

MODEL = ModelSettings(hidden=(8,))
TRAINING = Training(MODEL, FitSettings(epochs=1, batch_size=64, row_lr=0.02, dense_lr=0.02))
FIT = ("--epochs", 1, "--batch-size", 64, "--hidden", "8")
IN_BYTES = Allowance(2_000, "bytes", "int8")


def prepared(out: Path, day: int, kind: str) -> Path:
    """A day of clicks, of clicks with weights or sampled negatives, or of prices."""
    table = day_table(day, 400)
    rng = np.random.default_rng(day)
    label, columns, more = "y", {"weight": "w" if kind == "weighted" else None}, {}
    if kind == "weighted":
        table = table.append_column("w", pa.array(rng.integers(1, 9, 400).astype(float)))
    if kind == "prices":
        prices = 100.0 * day + np.array(table["x"]) + 3.0 * np.array(table["y"])
        table, label = table.append_column("price", pa.array(prices)).drop(["y"]), "price"
        columns["task"] = "regression"
    if kind == "sampled":
        more["negative_rate"] = 0.25
    raw = out.parent / f"{out.name}.parquet"
    raw.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, raw)
    roles: dict[str, Any] = {"numeric_transform": "none", **columns}
    columns_of = TableColumns(label, ("user", "item"), ("x",), **roles)
    split = Split("random", 42, (0.7, 0.15, 0.15))
    prepare_table(raw, out, columns=columns_of, split=split, **more)
    raw.unlink()
    return out


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    folder = tmp_path_factory.mktemp("days")
    kinds = ("clicks", "weighted", "sampled", "prices")
    return {k: [prepared(folder / k / f"day-{n}", n, k) for n in (1, 2)] for k in kinds}


def trained(data: DataSet, out: Path, training: Training = TRAINING, **more: Any) -> Run:
    policy = recipes.method_policy("separate", data, 200, 4)
    return recipes.train(data, policy, out, training, method="separate", **more)


@pytest.fixture(scope="module")
def runs(days: dict[str, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A training on the first day of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    for kind, (first, _) in days.items():
        trained(open_data(first), folder / kind)
    return {kind: folder / kind for kind in days}


# ---- weights, and samples of the negatives ---------------------------------------------------


def test_groups_of_weighted_rows_count_by_their_weights(
    days: dict[str, list[Path]], runs: dict[str, Path], seo_rec: Any
) -> None:
    data = days["weighted"][0]
    done = seo_rec("eval", runs["weighted"], data, "--by", "item", "--group", "user")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    for name in ("auc", "log_loss", "calibration"):
        assert found["groups"]["all"][name] == pytest.approx(found[name], rel=1e-6)
    rows = open_data(data).stream("test", batch_size=10_000)
    (batch,) = rows
    _, z, y = evaluate(
        load_trained(runs["weighted"]), stream_of(runs["weighted"], open_data(data), "test")
    )
    weights = batch.row_weights.numpy()
    assert weights.std() > 0.1
    users = batch.sparse["user"].values().numpy()
    total = mean = 0.0
    for user in np.unique(users):
        of = (users == user) & (weights > 0)
        if len(set(y[of].tolist())) == 2:
            auc = sklearn_metrics.roc_auc_score(y[of], z[of], sample_weight=weights[of])
            total, mean = total + weights[of].sum(), mean + weights[of].sum() * auc
    (entry,) = found["groups"]["gauc"]
    assert entry["gauc"] == pytest.approx(mean / total, rel=1e-6)


@pytest.mark.parametrize("split", ["train", "test"])
def test_metrics_of_sampled_negatives_are_of_all_rows(
    days: dict[str, list[Path]], runs: dict[str, Path], split: str
) -> None:
    """A negative training row that was kept with probability 1/4 counts as four."""
    data = open_data(days["sampled"][0])
    model = load_trained(runs["sampled"])
    found, z, y = evaluate(model, stream_of(runs["sampled"], data, split))
    weights = np.where((y == 0) & (split == "train"), 4.0, 1.0)
    scores = 1 / (1 + np.exp(-z.astype(np.float64)))
    assert 0 < y.mean() < 1
    want = sklearn_metrics.log_loss(y, scores, sample_weight=weights)
    assert found.log_loss == pytest.approx(want, rel=1e-6)
    rates = np.average(scores, weights=weights) / np.average(y, weights=weights)
    assert found.calibration == pytest.approx(rates, rel=1e-6)


@pytest.mark.parametrize("kind", ["weighted", "sampled"])
def test_a_replay_weighs_the_rows_of_a_day(
    kind: str, days: dict[str, list[Path]], runs: dict[str, Path], tmp_path: Path
) -> None:
    done = recipes.replay(days[kind], tmp_path / "run", TRAINING, earlier=runs[kind])
    data, model, parts = open_data(days[kind][0]), load_trained(runs[kind]), []
    for split in SPLITS:
        _, z, y = evaluate(model, stream_of(runs[kind], data, split))
        w = data.labels_and_weights(split)[1]
        if kind == "sampled":
            w = np.where((y == 0) & (split == "train"), 4.0, 1.0)
        parts.append((z, y, w))
    z, y, w = (np.concatenate(column).astype(np.float64) for column in zip(*parts, strict=True))
    want = sklearn_metrics.log_loss(y, 1 / (1 + np.exp(-z)), sample_weight=w)
    assert done.days[0].log_loss == pytest.approx(want, rel=1e-6)


# ---- labels that are any numbers ---------------------------------------------------------------


def test_a_replay_needs_clicks(days: dict[str, list[Path]], tmp_path: Path, seo_rec: Any) -> None:
    folder = days["prices"][0].parent
    method = ("--method", "separate", "--params", 200, "--dim", 4)
    done = seo_rec("replay", folder, "--out", tmp_path / "run", *method)
    assert done.code == 2 and "a replay needs a label of 0 and 1" in done.err, done.err
    assert not (tmp_path / "run" / "days").exists()


def test_a_model_of_prices_keeps_its_scale_from_day_to_day(
    days: dict[str, list[Path]], runs: dict[str, Path], tmp_path: Path, seo_rec: Any
) -> None:
    """The second day's prices are higher by 100; the backbone predicts on the first day's scale."""
    done = seo_rec(
        "train", days["prices"][1], "--from", runs["prices"], "--epochs", 1, "--out", tmp_path / "a"
    )
    assert done.code == 0 and "test R2" in done.out, done.err
    scales = [
        json.loads((run / "run.json").read_text())["model"]["regression"]
        for run in (runs["prices"], tmp_path / "a")
    ]
    assert scales[0] == scales[1]
    second = open_data(days["prices"][1]).schema.label_rate["train"]
    assert second - scales[0]["mean"] > 50
    following = recipes.continued(runs["prices"], open_data(days["prices"][1]))
    recipes.train(
        open_data(days["prices"][1]),
        following.policy,
        tmp_path / "b",
        TRAINING,
        method="separate",
        following=following,
    )
    asked = json.loads((tmp_path / "b" / "run.json").read_text())
    assert asked["model"]["regression"] == scales[0]


def test_another_kind_of_label_is_refused(
    days: dict[str, list[Path]], runs: dict[str, Path]
) -> None:
    for old, new in (("clicks", "prices"), ("prices", "clicks")):
        with pytest.raises(RunError, match="give data of its kind of label"):
            recipes.continued(runs[old], open_data(days[new][1]))


def test_the_log_loss_of_prices_keeps_no_epoch(days: dict[str, list[Path]], tmp_path: Path) -> None:
    by_loss = Training(MODEL, FitSettings(epochs=1, keep_by="logloss"))
    with pytest.raises(ValueError, match="keep_by logloss with a regression label"):
        trained(open_data(days["prices"][0]), tmp_path / "run", by_loss)
    assert not (tmp_path / "run").exists()


# ---- bytes, precisions and storage -------------------------------------------------------------


def test_a_replay_in_bytes_says_so(days: dict[str, list[Path]], tmp_path: Path) -> None:
    folders = days["clicks"]
    policy = recipes.method_policy("separate", open_data(folders[0]), IN_BYTES, 4)
    done = recipes.replay(folders, tmp_path / "run", TRAINING, policy=policy)
    run = Run.read(done.last / "result.json")
    assert (run.budget, run.budget_bytes, run.precision) == (None, 2_000, "int8")
    assert run.num_bytes == policy.num_bytes <= 2_000


def test_another_precision_from_day_to_day(
    days: dict[str, list[Path]], runs: dict[str, Path], tmp_path: Path, seo_rec: Any
) -> None:
    """It belongs to a policy: refused without a new one, and taken over with one."""
    typed = ("train", days["clicks"][1], "--from", runs["clicks"], "--epochs", 1, "--out")
    done = seo_rec(*typed, tmp_path / "a", "--precision", "int8")
    assert done.code == 2 and "--precision with --from would be ignored" in done.err, done.err
    method = ("--method", "separate", "--params", 200, "--dim", 4, "--carry")
    done = seo_rec(*typed, tmp_path / "b", *method, "--precision", "int8")
    assert done.code == 0, done.err
    assert Run.read(tmp_path / "b" / "result.json").precision == "int8"
    done = seo_rec(*typed, tmp_path / "c", "--storage", "bfloat16", "--optimizer", "adagrad")
    assert done.code == 2 and "name the same type" in done.err, done.err


def test_a_replay_refuses_another_storage_before_any_work(
    days: dict[str, list[Path]], runs: dict[str, Path], tmp_path: Path
) -> None:
    fit = FitSettings(epochs=1, storage="bfloat16")
    with pytest.raises(ValueError, match="name the same type"):
        recipes.replay(days["clicks"], tmp_path / "r", Training(MODEL, fit), earlier=runs["clicks"])
    assert not (tmp_path / "r").exists()


def test_tables_of_16_bits_are_exported_in_8(days: dict[str, list[Path]], tmp_path: Path) -> None:
    data = open_data(days["clicks"][0])
    fit = FitSettings(epochs=1, batch_size=64, row_lr=0.02, storage="bfloat16")
    trained(data, tmp_path / "run", Training(MODEL, fit))
    export_run(tmp_path / "run", tmp_path / "package", "int8", data.path, formats=())
    served = recipes.evaluate_served(tmp_path / "run", data, "test", "int8")
    table = day_table(1, 400)
    rows = {name: table[name].to_pylist() for name in ("user", "item", "x")}
    found = Predictor.load(tmp_path / "package", "numpy")(rows)
    score_of = dict(zip(np.array(rows["x"], np.float32).tolist(), found, strict=True))
    (batch,) = data.stream("test", batch_size=500)
    scores = [score_of[x] for x in batch.dense_BN[:, 0].tolist()]  # x tells the rows apart
    want = sklearn_metrics.log_loss(batch.labels_B.numpy(), scores)
    assert served.metrics.log_loss == pytest.approx(want, rel=1e-5)
