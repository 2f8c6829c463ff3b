"""A label that is any number: from the raw file to runs, reports and packages, with right names."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow.csv import write_csv
from sklearn import metrics as sklearn_metrics

from distributed import sharded
from ended_trainings import goes_on_to_the_bit
from seo_rec import recipes, report
from seo_rec.analysis.drift import drift
from seo_rec.analysis.gradients import gradients
from seo_rec.analysis.orthogonality import OrthogonalitySettings, orthogonality
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.export import export_run
from seo_rec.metrics import regression_metrics
from seo_rec.model import ModelSettings, Rescaled, build_model
from seo_rec.recipes import Comparison, Grouping
from seo_rec.report.frontier import write_frontier
from seo_rec.runs import Run, RunError
from seo_rec.schema import DataError, Schema
from seo_rec.search import find
from seo_rec.serve import Predictor
from seo_rec.settings import Regression
from seo_rec.train import FitSettings, Training, evaluate, fit, make_optimizers

COLUMNS = TableColumns("price", ("user", "item"), ("age",), task="regression")
FIT = FitSettings(epochs=3, batch_size=200, row_lr=0.02, dense_lr=0.02, log_every=1)
TRAINING = Training(ModelSettings(hidden=(8,)), FIT)
ROWS = 1500


def table() -> dict[str, Any]:
    """Prices of 1,000,000 and more, which follow from the user, the item and the age."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 20, ROWS), rng.integers(0, 30, ROWS)
    age = rng.normal(0, 1, ROWS)
    of_user, of_item = rng.normal(0, 1, 20), rng.normal(0, 1, 30)
    price = 1e6 + 1e4 * (of_user[user] + of_item[item] + age + rng.normal(0, 0.3, ROWS))
    return {"price": np.round(price, 2), "user": user, "item": item, "age": np.round(age, 4)}


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    out = tmp_path_factory.mktemp("priced")
    pq.write_table(pa.table(table()), out / "raw.parquet")
    prepare_table(out / "raw.parquet", out / "data", columns=COLUMNS)
    return open_data(out / "data")


@pytest.fixture(scope="module")
def run(priced: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    policy = recipes.method_policy("separate", priced, 400, 8)
    recipes.train(priced, policy, out, TRAINING, method="separate")
    return out


# ---- metrics and the model -------------------------------------------------------------------


def test_metrics_are_those_of_a_library() -> None:
    rng = np.random.default_rng(1)
    y = rng.normal(5, 2, 300)
    z = y + rng.normal(0, 1, 300)
    found = regression_metrics(z, y)
    assert found.mse == pytest.approx(sklearn_metrics.mean_squared_error(y, z), rel=1e-12)
    assert found.mae == pytest.approx(sklearn_metrics.mean_absolute_error(y, z), rel=1e-12)
    assert found.r2 == pytest.approx(sklearn_metrics.r2_score(y, z), rel=1e-12)
    assert found.num_rows == 300 and found.quality == found.r2
    assert math.isnan(regression_metrics(z, np.full(300, 0.1)).r2)
    assert math.isnan(regression_metrics(np.zeros(0), np.zeros(0)).mse)


def test_the_loss_is_the_mean_squared_error_of_the_rescaled_backbone(priced: DataSet) -> None:
    model = ModelSettings(hidden=(8,), regression=Regression(100.0, 7.0))
    made = build_model(recipes.method_policy("separate", priced, 400, 8), 1, model, 0)
    batch = next(iter(priced.stream("train", batch_size=50)))
    loss, predicted = made(batch)
    assert isinstance(made.backbone, Rescaled)
    inner = made.backbone.backbone(batch.dense_BN, made.embedding(batch.sparse))
    torch.testing.assert_close(predicted, 100 + 7 * inner)
    wanted = ((predicted.double() - batch.labels_B.double()) ** 2).mean()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert not any("mean" in name for name in made.state_dict())


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_scales_nothing_is_refused(std: float) -> None:
    with pytest.raises(ValueError, match="standard deviation"):
        Regression(0.0, std)
    with pytest.raises(ValueError, match="no positive rows"):
        ModelSettings(positive_weight=2.0, regression=Regression(0.0, 1.0))


# ---- data ------------------------------------------------------------------------------------


def test_the_schema_says_what_the_label_is(priced: DataSet) -> None:
    schema = priced.schema
    assert schema.label_kind == "regression"
    for split in ("train", "val", "test"):
        labels = priced.labels(split).astype(np.float64)
        assert schema.label_rate[split] == pytest.approx(labels.mean(), rel=1e-9)
        assert schema.label_std[split] == pytest.approx(labels.std(), rel=1e-6)
    document = json.loads((priced.path / "schema.json").read_text())
    assert Schema.from_json(document) == schema
    every = np.concatenate([priced.labels(s) for s in ("train", "val", "test")])
    np.testing.assert_array_equal(np.sort(every), np.sort(table()["price"].astype(np.float32)))


def test_text_and_parquet_give_the_same_labels(priced: DataSet, tmp_path: Path) -> None:
    write_csv(pa.table(table()), tmp_path / "raw.csv")
    prepare_table(tmp_path / "raw.csv", tmp_path / "data", columns=COLUMNS)
    other = open_data(tmp_path / "data")
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(other.labels(split), priced.labels(split))
    assert other.schema.label_std == pytest.approx(dict(priced.schema.label_std), rel=1e-12)


@pytest.mark.parametrize("label", ["", "nan", "expensive", "1e39", "inf"])
def test_a_label_that_is_no_number_is_named(tmp_path: Path, label: str) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text(f"price,user\n1.5,a\n{label},b\n2.5,c\n")
    columns = TableColumns("price", ("user",), task="regression")
    with pytest.raises(DataError, match=r"raw\.csv: line 3, .*a label that is not a finite number"):
        prepare_table(raw, tmp_path / "data", columns=columns)


@pytest.mark.parametrize("label", [None, math.nan, math.inf])
def test_a_parquet_label_that_is_no_number_is_named(tmp_path: Path, label: Any) -> None:
    raw = tmp_path / "raw.parquet"
    pq.write_table(pa.table({"price": [1.5, label, 2.5], "user": ["a", "b", "c"]}), raw)
    columns = TableColumns("price", ("user",), task="regression")
    with pytest.raises(DataError, match=r"row 2, .*a label that is not a finite number"):
        prepare_table(raw, tmp_path / "data", columns=columns)


def test_other_tasks_and_other_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="task is 'ranking'; allowed: binary, regression"):
        TableColumns("price", ("user",), task="ranking")
    raw = tmp_path / "raw.csv"
    raw.write_text("price,user\n1.5,a\n2.5,b\n")
    with pytest.raises(DataError, match="a label outside"):
        prepare_table(raw, tmp_path / "data", columns=TableColumns("price", ("user",)))


def test_a_label_without_spread_is_refused_before_training(tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    raw.write_text("price,user\n" + "0.1,a\n0.1,b\n" * 30)
    prepare_table(raw, tmp_path / "d", columns=TableColumns("price", ("user",), task="regression"))
    data = open_data(tmp_path / "d")
    policy = recipes.method_policy("separate", data, 64, 4)
    with pytest.raises(DataError, match="all training rows have one label"):
        recipes.train(data, policy, tmp_path / "run", TRAINING)
    assert not (tmp_path / "run").exists()


# ---- a run -----------------------------------------------------------------------------------


def test_a_run_learns_prices_and_says_the_right_names(priced: DataSet, run: Path) -> None:
    """Labels of a million, with settings that were made for clicks."""
    result = json.loads((run / "result.json").read_text())
    assert result["task"] == "regression" and result["test_r2"] > 0.5
    assert not any("auc" in name or "logloss" in name for name in result)
    _, predicted, labels = evaluate(recipes.load_trained(run), priced.stream("test", batch_size=64))
    assert result["test_r2"] == pytest.approx(sklearn_metrics.r2_score(labels, predicted), rel=1e-6)
    mse = sklearn_metrics.mean_squared_error(labels.astype(float), predicted.astype(float))
    assert result["test_mse"] == pytest.approx(mse, rel=1e-6)
    again = Run.read(run / "result.json")
    assert (again.test_quality, again.test_loss) == (result["test_r2"], result["test_mse"])
    assert again.to_json() == result
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line["event"] == "epoch"]
    assert {"val_mse", "val_mae", "val_r2"} <= set(epochs[0])
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    assert not any("auc" in name for line in lines for name in line)
    asked = json.loads((run / "run.json").read_text())["model"]["regression"]
    assert asked == {
        "mean": priced.schema.label_rate["train"],
        "std": priced.schema.label_std["train"],
    }


def test_a_run_goes_on_to_the_bit(priced: DataSet, run: Path, tmp_path: Path) -> None:
    policy = recipes.method_policy("separate", priced, 400, 8)
    goes_on_to_the_bit(priced, policy, TRAINING, run, tmp_path / "r")


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_two_processes_train_as_one(
    priced: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    """In units of the standard deviation, which the tolerance is of."""
    scale = Regression(priced.schema.label_rate["train"], priced.schema.label_std["train"])
    monkeypatch.setattr(sharded, "MODEL", ModelSettings(hidden=(8,), regression=scale))
    wanted = FitSettings(
        epochs=1,
        batch_size=120,
        row_optimizer=optimizer,
        row_lr=2e-3 if optimizer == "adam" else 0.02,
        dense_lr=2e-3,
        log_every=1,
    )
    one = sharded.train(priced, wanted, "", 1, tmp_path / "one")
    two = sharded.train(priced, wanted, "mixed", 2, tmp_path / "two")
    assert np.array(two.losses) / scale.std**2 == pytest.approx(
        np.array(one.losses) / scale.std**2, abs=1e-5
    )
    assert two.val["r2"] == pytest.approx(one.val["r2"], abs=1e-5)
    for name, weight in one.weights.items():
        torch.testing.assert_close(two.weights[name], weight, atol=1e-5, rtol=0)


def test_a_training_goes_on_where_the_earlier_one_was(priced: DataSet, tmp_path: Path) -> None:
    """With a learning rate that moves nothing the next run predicts what the earlier one did."""
    policy = recipes.method_policy("separate", priced, 400, 8)
    first = replace(TRAINING, fit=replace(FIT, average=0.0))
    before = recipes.train(priced, policy, tmp_path / "run", first, method="separate")
    following = recipes.continued(tmp_path / "run", priced)
    fit = replace(first.fit, epochs=1, row_lr=1e-12, dense_lr=1e-12)
    training = replace(following.earlier.training, fit=fit)
    made = recipes.train(priced, following.policy, tmp_path / "next", training, following=following)
    assert before.test_r2 > 0.2
    assert made.test_r2 == pytest.approx(before.test_r2, abs=1e-6)
    assert made.val_r2 == pytest.approx(before.val_r2, abs=1e-6)


# ---- everything that reads runs ----------------------------------------------------------------


def test_reports_name_r2(
    priced: DataSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = Comparison((priced,), ("separate", "monolithic"), 400, 8, 2, training=TRAINING)
    runs = recipes.compare(comparison, tmp_path / "c")
    assert all(r.task == "regression" for r in runs)
    report.print_comparison([tmp_path / "c"])
    shown = capsys.readouterr().out
    assert "test R2" in shown and "squared error" in shown
    assert "AUC" not in shown and "log loss" not in shown
    report.build([tmp_path / "c"], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    for text in ("test R2", "validation R2", "Best mean test R2", "squared error"):
        assert text in page
    assert "AUC" not in page and "log loss" not in page
    write_frontier(tmp_path / "c")
    points = json.loads((tmp_path / "c/frontier.json").read_text())["points"]
    best = max(r.test_r2 for r in runs)
    assert points[0]["task"] == "regression" and "test_auc" not in points[0]
    assert max(p["test_r2"] for p in points) <= best
    report.print_frontier(tmp_path / "c")
    assert "test R2" in capsys.readouterr().out


@pytest.mark.parametrize("engine", ["numpy", "auto"])
def test_a_package_predicts_what_the_model_does(
    priced: DataSet, run: Path, tmp_path: Path, engine: str
) -> None:
    export_run(run, tmp_path / "package", formats=("onnx",) if engine == "auto" else ())
    manifest = json.loads((tmp_path / "package/manifest.json").read_text())
    assert manifest["model"]["task"] == "regression"
    assert {"val_r2", "test_mse"} <= set(manifest["metrics"])
    predictor = Predictor.load(tmp_path / "package", engine)
    rows = {name: values[:40].tolist() for name, values in table().items() if name != "price"}
    found = predictor(rows)
    model = recipes.load_trained(run)
    known: dict[float, list[float]] = {}
    for split in ("train", "val", "test"):
        _, predicted, labels = evaluate(model, priced.stream(split, batch_size=500))
        for label, number in zip(labels.tolist(), predicted.tolist(), strict=True):
            known.setdefault(label, []).append(number)
    prices = table()["price"][:40].astype(np.float32).tolist()
    sure = [i for i, price in enumerate(prices) if len(known[price]) == 1]  # told apart by price
    assert len(sure) > 30
    np.testing.assert_allclose(found[sure], [known[prices[i]][0] for i in sure], rtol=1e-6)


def test_data_are_looked_at_by_clicks_only(priced: DataSet) -> None:
    needs = "needs a label of 0 and 1, and 'price'"
    with pytest.raises(DataError, match=f"drift {needs}"):
        drift(priced, priced)
    with pytest.raises(DataError, match=f"analyze orthogonality {needs}"):
        next(orthogonality(priced, OrthogonalitySettings((8,)), FIT))
    with pytest.raises(DataError, match=f"analyze gradients {needs}"):
        next(gradients(priced, [8], 4, 1, (), FIT))


def test_what_needs_clicks_is_refused(
    priced: DataSet, tiny_data: DataSet, run: Path, tmp_path: Path
) -> None:
    needs = "needs a label of 0 and 1, and 'price'"
    chosen = find("seo").settings_at(400, 8, TRAINING)
    with pytest.raises(DataError, match=needs):
        recipes.search("seo", priced, tmp_path / "s", chosen, TRAINING)
    comparison = Comparison((priced,), ("separate", "seo"), 400, 8, 1, training=TRAINING)
    with pytest.raises(DataError, match=needs):
        recipes.compare(comparison, tmp_path / "c")
    with pytest.raises(DataError, match=needs):
        recipes.evaluate_served(run, priced, "test", grouping=Grouping(by=("user",)))
    assert not (tmp_path / "s").exists() and not (tmp_path / "c").exists()
    weighted = Training(ModelSettings(hidden=(8,), positive_weight=2.0), FIT)
    policy = recipes.method_policy("separate", priced, 400, 8)
    with pytest.raises(ValueError, match="no positive rows"):
        recipes.train(priced, policy, tmp_path / "w", weighted)


def test_a_model_meets_labels_of_its_kind_only(priced: DataSet, run: Path, tmp_path: Path) -> None:
    clicks = {**table(), "price": (table()["price"] > 1e6).astype(int)}
    pq.write_table(pa.table(clicks), tmp_path / "raw.parquet")
    columns = TableColumns("price", ("user", "item"), ("age",))
    prepare_table(tmp_path / "raw.parquet", tmp_path / "data", columns=columns)
    with pytest.raises(RunError, match="was trained on a regression label"):
        recipes.evaluate_served(run, open_data(tmp_path / "data"), "test")
    model = build_model(recipes.method_policy("separate", priced, 400, 8), 1, TRAINING.model, 0)
    streams = [priced.stream(split, batch_size=100) for split in ("train", "val")]
    optimizers = make_optimizers(model, "adam", 0.01, 0.01)
    with pytest.raises(ValueError, match="a model of a binary label and data of a regression"):
        fit(model, *streams, optimizers, FIT)


def test_a_damaged_label_is_found(priced: DataSet, tmp_path: Path) -> None:
    data = shutil.copytree(priced.path, tmp_path / "data")
    (path,) = (data / "val").iterdir()
    rows = pq.read_table(path)
    labels = rows["price"].to_pylist()
    labels[3] = math.inf
    at = rows.column_names.index("price")
    pq.write_table(rows.set_column(at, "price", pa.array(labels, pa.float32())), path)
    document = json.loads((data / "schema.json").read_text())
    del document["sha256"], document["files"]
    (data / "schema.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="NaN or infinite labels"):
        open_data(data).labels("val")


def test_the_commands(seo_rec: Any, tmp_path: Path) -> None:
    pq.write_table(pa.table(table()), tmp_path / "raw.parquet")
    raw = ["--raw", tmp_path / "raw.parquet", "--label", "price", "--categorical", "user,item"]
    task = ["--task", "regression", "--out", tmp_path / "data"]
    done = seo_rec("prepare", "table", *raw, *task)
    assert done.code == 0, done.err
    method = ["--method", "separate", "--params", "400", "--dim", "8", "--epochs", "2"]
    done = seo_rec("train", tmp_path / "data", "--out", tmp_path / "run", *method)
    assert done.code == 0, done.err
    assert "test R2" in done.out and "squared error" in done.out and "AUC" not in done.out
    done = seo_rec("eval", tmp_path / "run", tmp_path / "data")
    assert {"mse", "mae", "r2", "num_rows"} <= set(json.loads(done.out))
