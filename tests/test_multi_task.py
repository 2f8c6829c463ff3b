"""Several labels: data, networks against references, runs, packages, and clear refusals."""

from __future__ import annotations

import json
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
from sklearn.metrics import log_loss, roc_auc_score

from cases import BACKBONES
from distributed import sharded
from ended_trainings import goes_on_to_the_bit
from hostile import hostile
from seo_rec import recipes
from seo_rec.backbones import MLP, build_backbone
from seo_rec.backbones.multi_task import MMoE, SharedBottom
from seo_rec.batch import Batch
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.like import LikeTable, prepare_like
from seo_rec.data.parallel import Workers
from seo_rec.data.split import Split
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.export import export_run
from seo_rec.model import ModelSettings, build_model
from seo_rec.multi_task import MultiTask
from seo_rec.recipes import Comparison, Grouping
from seo_rec.recipes.evaluation import stream_of
from seo_rec.runs import Run, RunError
from seo_rec.schema import DataError, Schema
from seo_rec.search import find
from seo_rec.serve import PackageError, Predictor
from seo_rec.serve.predict import predict_files
from seo_rec.serve.server.bodies import ARROW, JSON, write_scores
from seo_rec.serve.triton import triton_config
from seo_rec.settings import Training
from seo_rec.train import FitSettings, fit, make_optimizers
from seo_rec.train.evaluation import score

ROWS = 1500
COLUMNS = TableColumns("click", ("user", "item"), ("age",), more_labels=("spent >= 3",))
FIT = FitSettings(epochs=3, batch_size=200, row_lr=0.02, dense_lr=0.02, log_every=1)
LABELS = ("click", "spent")
MMOE = MultiTask(weights=(("spent", 0.5),), sharing="mmoe", shared=(6,), experts=3, kept="spent")
TRAINING = Training(ModelSettings(hidden=(8,), multi_task=MMOE), FIT)


def table() -> dict[str, Any]:
    """Clicks follow from user, item and age; money spent on them from other traits of the item."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 20, ROWS), rng.integers(0, 30, ROWS)
    age = np.round(rng.normal(0, 1, ROWS), 4)
    of_user, of_item, price = (rng.normal(0, 1.5, n) for n in (20, 30, 30))
    click = (rng.random(ROWS) < 1 / (1 + np.exp(-(of_user[user] + of_item[item] + age)))).astype(
        int
    )
    spent = np.round(click * (3 + price[item] + rng.normal(0, 0.2, ROWS)), 2)
    return {"click": click, "spent": spent, "user": user, "item": item, "age": age}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "raw.parquet"
    pq.write_table(pa.table(table()), path)
    return path


@pytest.fixture(scope="module")
def both(raw: Path) -> DataSet:
    prepare_table(raw, raw.parent / "data", columns=COLUMNS)
    return open_data(raw.parent / "data")


@pytest.fixture(scope="module")
def run(both: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    recipes.train(both, policy_of(both), out, TRAINING, method="separate")
    return out


def policy_of(data: DataSet) -> Any:
    return recipes.method_policy("separate", data, 400, 8)


def labels_of(data: DataSet, split: str) -> np.ndarray:
    batches = data.stream(split, batch_size=500)
    return np.concatenate([b.labels_BT.numpy() for b in batches])


# ---- data ------------------------------------------------------------------------------------


def test_the_data_hold_every_label(both: DataSet) -> None:
    schema, rows = both.schema, table()
    assert schema.labels == LABELS and schema.label_rate == schema.label_rates["click"]
    assert schema.options["more_label_rules"] == {"spent": "spent >= 3"}
    found = np.concatenate([labels_of(both, s) for s in ("train", "val", "test")])
    wanted = np.stack([rows["click"], rows["spent"] >= 3], axis=1)
    assert sorted(map(tuple, found)) == sorted(map(tuple, wanted.astype(np.float32)))
    for split in ("train", "val", "test"):
        rates = labels_of(both, split).astype(np.float64).mean(0)
        assert rates == pytest.approx([schema.label_rates[n][split] for n in LABELS], rel=1e-12)
        np.testing.assert_array_equal(both.labels(split), labels_of(both, split)[:, 0])
    document = json.loads((both.path / "schema.json").read_text())
    assert Schema.from_json(document) == schema


def test_shuffled_rows_keep_their_labels_together(both: DataSet) -> None:
    rows: dict[Any, set[Any]] = {}
    for shuffle in (False, True):
        stream = both.stream("train", batch_size=70, shuffle=shuffle)
        for batch in stream:
            ages = batch.dense_BN[:, 0].tolist()
            for age, label, pair in zip(ages, batch.labels_B.tolist(), batch.labels_BT.tolist(),
                                        strict=True):  # fmt: skip
                assert pair[0] == label
                rows.setdefault(age, set()).add((shuffle, *pair))
    for found in rows.values():
        assert {p[1:] for p in found if p[0]} == {p[1:] for p in found if not p[0]}


def test_text_gives_the_same_data(both: DataSet, tmp_path: Path) -> None:
    write_csv(pa.table(table()), tmp_path / "raw.csv")
    prepare_table(tmp_path / "raw.csv", tmp_path / "data", columns=COLUMNS)
    other = open_data(tmp_path / "data")
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(labels_of(other, split), labels_of(both, split))


def test_later_rows_are_prepared_alike(both: DataSet, raw: Path, tmp_path: Path) -> None:
    every = Split(fractions=(0, 0, 1), trains=False)
    prepare_like(raw, tmp_path / "later", LikeTable.of(both), split=every)
    later = open_data(tmp_path / "later")
    rows = table()
    wanted = np.stack([rows["click"], rows["spent"] >= 3], axis=1)
    np.testing.assert_array_equal(labels_of(later, "test"), wanted)


def test_data_of_one_label_are_as_before(raw: Path, tmp_path: Path) -> None:
    columns = TableColumns("click", ("user", "item"), ("age",))
    prepare_table(raw, tmp_path / "data", columns=columns)
    document = json.loads((tmp_path / "data/schema.json").read_text())
    assert not any("more" in key for key in document)
    assert next(iter(open_data(tmp_path / "data").stream("val", batch_size=9))).labels_BT is None


@pytest.mark.parametrize("end, cell", [("csv", "x"), ("csv", ""), ("parquet", None)])
def test_a_bad_second_label_is_named(tmp_path: Path, end: str, cell: str | None) -> None:
    path = tmp_path / f"raw.{end}"
    if end == "csv":
        path.write_text(f"click,buy,user\n1,0,a\n0,{cell},b\n")
        where = r"raw\.csv: line 3, column 'buy'"
    else:
        pq.write_table(pa.table({"click": [1, 0], "buy": [0, cell], "user": ["a", "b"]}), path)
        where = r"raw\.parquet: row 2, column 'buy'"
    columns = TableColumns("click", ("user",), more_labels=("buy",))
    with pytest.raises(DataError, match=where + r".*a label outside \{0, 1\}"):
        prepare_table(path, tmp_path / "data", columns=columns)


def test_what_several_labels_exclude(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"columns \['click'\] are named more than once"):
        replace(COLUMNS, more_labels=("click == 1",))
    with pytest.raises(DataError, match="named more than once"):
        replace(COLUMNS, more_labels=("spent >= 3", "spent >= 5"))
    with pytest.raises(DataError, match="several labels are 0 or 1; give one"):
        replace(COLUMNS, task="regression")
    with pytest.raises(DataError, match=r"--keep-negatives 0\.5 with the labels click, spent"):
        prepare_table(raw, tmp_path / "d", columns=COLUMNS, negative_rate=0.5)
    with pytest.raises(DataError, match="it has several labels"):
        plain = replace(COLUMNS, numeric_transform="none")
        prepare_table(raw, tmp_path / "d", columns=plain, workers=Workers(2))


@pytest.mark.parametrize(
    "more, message",
    [
        ({"more_labels": "spent"}, "more_labels is 'spent'; allowed: a list"),
        ({"more_labels": [7]}, "one of more_labels is 7"),
        ({"more_labels": ["click"], "more_label_rates": {"click": {}}}, "must be unique"),
        ({"more_label_rates": {}}, r"more_label_rates is \[\]"),
        ({"more_label_rates": {"spent": {"train": 2}}}, "more_label_rates of 'spent'"),
        ({"label_kind": "regression"}, "several labels are regression"),
    ],
)
def test_a_wrong_schema_is_named(both: DataSet, more: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Schema.from_json({**both.schema.to_json(), **more})


# ---- networks --------------------------------------------------------------------------------


def inputs(rows: int = 11, dense: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return (torch.randn(rows, dense, generator=generator),
            torch.randn(rows, 9, generator=generator))  # fmt: skip


@pytest.mark.parametrize("name", BACKBONES)
def test_one_tower_is_the_backbone_to_the_bit(name: str) -> None:
    of, made = BACKBONES[name], []
    for tasks in (None, MultiTask().of(["a"])):
        torch.manual_seed(5)
        made.append(build_backbone(of.backbone, 2, (3, 3, 3), of.hidden, of.dropout,
                                   of.interaction, tasks).eval())  # fmt: skip
    plain, towers = (backbone(*inputs()) for backbone in made)
    assert plain.shape == (11,) and torch.equal(towers, plain[:, None])


@pytest.mark.parametrize("shared", ["mmoe", "bottom"])
def test_one_expert_and_one_label_are_the_plain_network_to_the_bit(shared: str) -> None:
    torch.manual_seed(5)
    plain = MLP(2, (3, 3, 3), (7, 5))
    torch.manual_seed(5)
    other: torch.nn.Module = SharedBottom(2, (3, 3, 3), (5,), 0.0, (7,), 1)
    if shared == "mmoe":
        torch.manual_seed(5)
        other = MMoE(2, (3, 3, 3), (5,), 0.0, (7,), 1, 1)
    wanted, found = plain(*inputs()), other(*inputs())
    assert torch.equal(found, wanted[:, None])
    for logits in (wanted, found):
        logits.square().sum().backward()
    grads = [p.grad for n, p in other.named_parameters() if "gates" not in n]
    for a, b in zip(plain.parameters(), grads, strict=True):
        assert b is not None and torch.equal(a.grad, b)


def test_mmoe_is_its_formula_in_float64() -> None:
    torch.manual_seed(1)
    model = MMoE(2, (3, 3, 3), (5,), 0.0, (7, 4), 3, 2)
    w = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    dense, x = (t.double().numpy() for t in inputs())
    z = np.concatenate([dense, x], axis=1)

    def relu(h: np.ndarray, name: str) -> np.ndarray:
        return np.maximum(h @ w[f"{name}.weight"].T + w[f"{name}.bias"], 0)

    h = [relu(relu(z, f"experts.{e}.0"), f"experts.{e}.2") for e in range(3)]
    found = model(*inputs()).detach().double().numpy()
    for t in range(2):
        scores = z @ w["gates.weight"][3 * t : 3 * t + 3].T
        gates = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        assert gates.std(0).min() > 0.01  # they tell rows apart
        mixed = sum(gates[:, e : e + 1] * h[e] for e in range(3))
        last = f"towers.{t}.2"
        wanted = relu(mixed, f"towers.{t}.0") @ w[f"{last}.weight"].T + w[f"{last}.bias"]
        np.testing.assert_allclose(found[:, t], wanted[:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tasks", [MultiTask(), MultiTask(shared=(6,)), MMOE])
def test_every_parameter_learns_and_rows_do_not_mix(tasks: MultiTask) -> None:
    torch.manual_seed(1)
    model = build_backbone("mlp", 2, (3, 3, 3), (5,), 0.0, None, tasks.of(LABELS))
    logits = model(*inputs())
    assert logits.shape == (11, 2)
    order = torch.randperm(11)
    torch.testing.assert_close(model(*(x[order] for x in inputs())), logits[order])
    logits.sigmoid().square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_the_loss_is_the_weighted_sum_of_the_labels_in_float64(both: DataSet) -> None:
    batch = next(iter(both.stream("train", batch_size=50)))
    weights = torch.linspace(0, 2, 50)
    batch = replace(batch, weights_B=weights).padded(64)
    z = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    found = batch.multi_task_loss(z, (1.0, 0.25), positive_weight=3.0)
    p = 1 / (1 + np.exp(-z[:50].double().numpy()))
    y, w = batch.labels_BT[:50].double().numpy(), weights.double().numpy()[:, None]
    rows = w * np.where(y == 1, -3 * np.log(p), -np.log1p(-p))
    assert found.item() == pytest.approx((rows.sum(0) / 50) @ [1.0, 0.25], rel=1e-6)


def test_a_label_counts_once_unless_a_weight_is_given() -> None:
    tasks = MultiTask(weights=(("bought", 0.25),)).of(("clicked", "bought", "returned"))
    assert tasks.factors == (1.0, 0.25, 1.0)


def test_a_label_of_weight_0_changes_no_bit_of_the_other(both: DataSet, raw: Path) -> None:
    """The model of the first label alone, on data that hold it alone."""
    columns = TableColumns("click", ("user", "item"), ("age",))
    if not (raw.parent / "alone").exists():
        prepare_table(raw, raw.parent / "alone", columns=columns)
    states, vals = [], []
    for data, tasks in ((open_data(raw.parent / "alone"), None),
                        (both, MultiTask(weights=(("spent", 0.0),)).of(LABELS))):  # fmt: skip
        settings = ModelSettings(hidden=(8,), multi_task=tasks)
        model = build_model(policy_of(data), 1, settings, 3)
        train, val = (data.stream(s, batch_size=100, shuffle=True) for s in ("train", "val"))
        optimizers = make_optimizers(model, "adam", 0.02, 0.02)
        vals.append(fit(model, train, val, optimizers, FIT).val)
        states.append({n.replace("towers.0.", ""): t for n, t in model.state_dict().items()})
    assert vals[0].auc > 0.6 and vals[1].auc == vals[0].auc
    for name, weight in states[0].items():
        assert torch.equal(states[1][name], weight), name


# ---- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sharing": "all"}, "sharing 'all'; allowed: bottom, mmoe"),
        ({"shared": (0,)}, "widths of 1 or more"),
        ({"experts": 0}, "experts 0; allowed: 1 or more"),
        ({"experts": 3}, "experts 3 with sharing bottom would be ignored"),
        ({"weights": (("click", -1.0),)}, "the weight of label 'click' is -1.0"),
        ({"weights": (("click", 1.0), ("click", 2.0))}, "each label once"),
        ({"weights": (("buy", 1.0),)}, "label 'buy'; allowed: click, spent"),
        ({"kept": "buy"}, "label 'buy'; allowed: click, spent"),
        ({"weights": (("click", 0.0), ("spent", 0.0))}, "all labels have the weight 0"),
    ],
)
def test_settings_without_meaning_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiTask(**changes).of(LABELS)


def test_settings_come_back_from_json() -> None:
    settings = ModelSettings(multi_task=MMOE.of(LABELS))
    assert ModelSettings.from_json(json.loads(json.dumps(settings.as_json()))) == settings
    assert settings.multi_task is not None and settings.multi_task.factors == (1.0, 0.5)
    assert "multi_task" not in ModelSettings().as_json()
    with pytest.raises(ValueError, match="backbone dcn-v2, whose towers read the embeddings"):
        ModelSettings("dcn-v2", multi_task=MMOE)


# ---- runs ------------------------------------------------------------------------------------


def test_a_run_says_the_metrics_of_every_label(both: DataSet, run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    z, y, _ = score(recipes.load_trained(run), both.stream("test", batch_size=64))
    for t, name in enumerate(LABELS):
        found = result["labels"][name]
        assert found["test_auc"] == pytest.approx(roc_auc_score(y[:, t], z[:, t]), rel=1e-6)
        p = 1 / (1 + np.exp(-z[:, t].astype(np.float64)))
        assert found["test_logloss"] == pytest.approx(log_loss(y[:, t], p), rel=1e-6)
        assert found["test_auc"] > 0.7
    assert result["test_auc"] == result["labels"]["spent"]["test_auc"]
    assert result["val_auc"] == result["labels"]["spent"]["val_auc"]
    assert Run.read(run / "result.json").to_json() == result
    shown = recipes.evaluate_served(run, both, "test").to_json()
    assert shown["by_label"]["click"]["auc"] == result["labels"]["click"]["test_auc"]
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = max((e for e in epochs if e["event"] == "epoch"), key=lambda e: e["val_auc"])
    assert kept["val_by_label"]["spent"]["auc"] == kept["val_auc"] == result["val_auc"]


def test_the_epoch_that_is_kept_is_the_best_of_the_stated_label(both: DataSet) -> None:
    best = {}
    for kept in LABELS:
        tasks = MultiTask(shared=(8,), kept=kept).of(LABELS)
        model = build_model(policy_of(both), 1, ModelSettings(hidden=(8,), multi_task=tasks), 0)
        streams = [both.stream(s, batch_size=50, shuffle=s == "train") for s in ("train", "val")]
        fast = replace(FIT, epochs=8, patience=8, average=0.0)
        result = fit(model, *streams, make_optimizers(model, "adam", 0.03, 0.03), fast)
        best[kept] = result.best_epoch, result.val
    assert best["click"][0] != best["spent"][0]
    for kept, other in (LABELS, LABELS[::-1]):
        ours, theirs = best[kept][1].by_label, best[other][1].by_label
        assert ours[kept]["auc"] > theirs[kept]["auc"]


def test_a_run_goes_on_to_the_bit(both: DataSet, run: Path, tmp_path: Path) -> None:
    again = goes_on_to_the_bit(both, policy_of(both), TRAINING, run, tmp_path / "r")
    assert again.labels == Run.read(run / "result.json").labels


def test_a_rare_label_without_positive_rows_is_not_a_number(both: DataSet, tmp_path: Path) -> None:
    rows = {**table(), "spent": np.zeros(ROWS)}
    rows["spent"][:40] = 9
    place = np.array(["train"] * 1000 + ["val"] * 250 + ["test"] * 250)
    pq.write_table(pa.table({**rows, "place": place}), tmp_path / "raw.parquet")
    columns = replace(COLUMNS, split_column="place")
    prepare_table(tmp_path / "raw.parquet", tmp_path / "data", columns=columns)
    data, training = open_data(tmp_path / "data"), replace(TRAINING, model=ModelSettings())
    made = recipes.train(data, policy_of(data), tmp_path / "run", training)
    text = (tmp_path / "run/result.json").read_text()
    assert "NaN" not in text and json.loads(text)["labels"]["spent"]["val_auc"] is None
    assert made.val_auc > 0.5
    with pytest.raises(DataError, match="0 positive 'spent' rows"):
        recipes.train(data, policy_of(data), tmp_path / "other", TRAINING)


@pytest.mark.parametrize("tasks", [MultiTask(), MMOE])
def test_two_processes_train_as_one(
    both: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks: MultiTask
) -> None:
    model = ModelSettings(hidden=(8,), multi_task=tasks.of(LABELS))
    monkeypatch.setattr(sharded, "MODEL", model)
    wanted = FitSettings(epochs=1, batch_size=120, row_optimizer="adam", log_every=1)
    one = sharded.train(both, wanted, "", 1, tmp_path / "one")
    two = sharded.train(both, wanted, "mixed", 2, tmp_path / "two")
    assert two.losses == pytest.approx(one.losses, abs=1e-5)
    for name in LABELS:
        found, same = (m.val["by_label"][name]["log_loss"] for m in (two, one))
        assert found == pytest.approx(same, abs=1e-5)
    for name, weight in one.weights.items():
        torch.testing.assert_close(two.weights[name], weight, atol=1e-5, rtol=0)


def test_methods_are_compared_by_the_first_label(both: DataSet, tmp_path: Path) -> None:
    plain = replace(TRAINING, model=ModelSettings(hidden=(8,)), fit=replace(FIT, epochs=1))
    comparison = Comparison((both,), ("separate", "monolithic"), 400, 8, 1, training=plain)
    for made in recipes.compare(comparison, tmp_path / "c"):
        assert made.labels is not None and made.test_auc == made.labels["click"]["test_auc"]


def test_a_training_goes_on_with_the_same_labels(
    both: DataSet, raw: Path, run: Path, tmp_path: Path
) -> None:
    one_more = replace(TRAINING, fit=replace(FIT, epochs=1))
    following = recipes.continued(run, both)
    training = replace(following.earlier.training, fit=one_more.fit)
    made = recipes.train(both, following.policy, tmp_path / "next", training, following=following)
    assert made.labels is not None and made.labels["click"]["test_auc"] > 0.7
    columns = TableColumns("spent >= 3", ("user", "item"), ("age",), more_labels=("click",))
    prepare_table(raw, tmp_path / "turned", columns=columns)
    turned = open_data(tmp_path / "turned")
    with pytest.raises(RunError, match="was trained on the labels click, spent, and"):
        recipes.continued(run, turned)
    with pytest.raises(RunError, match="was trained on the labels click, spent, and"):
        recipes.evaluate_served(run, turned, "test")


def test_what_needs_one_label_is_refused(both: DataSet, run: Path, tmp_path: Path) -> None:
    needs = "needs one label, and .* has the labels click, spent"
    chosen = find("seo").settings_at(400, 8, Training())
    with pytest.raises(DataError, match=needs):
        recipes.search("seo", both, tmp_path / "s", chosen, Training())
    with pytest.raises(DataError, match=needs):
        recipes.evaluate_served(run, both, "test", grouping=Grouping(by=("user",)))
    model = build_model(policy_of(both), 1, ModelSettings(), 0)
    streams = [both.stream(s, batch_size=100) for s in ("train", "val")]
    with pytest.raises(ValueError, match="a model of one label, and data with the labels click"):
        fit(model, *streams, make_optimizers(model, "adam", 0.01, 0.01), FIT)
    assert not (tmp_path / "s").exists()


def test_records_of_a_run_of_several_labels_are_checked(
    both: DataSet, run: Path, tmp_path: Path
) -> None:
    """Whatever stands in run.json, a command says it in one line or takes it as settings."""
    spoilt = shutil.copytree(run, tmp_path / "run")
    asked = json.loads((spoilt / "run.json").read_text())
    part = {"model": asked["model"]["multi_task"], "numeric": asked["numeric"]}
    refused = 0
    for _, document in hostile(part):
        model = {**asked["model"], "multi_task": document.get("model")}
        numeric = {"numeric": document["numeric"]} if "numeric" in document else {}
        plain = {k: v for k, v in asked.items() if k != "numeric"}
        (spoilt / "run.json").write_text(json.dumps({**plain, **numeric, "model": model}))
        for read in (
            lambda: stream_of(spoilt, both, "test"),
            lambda: recipes.continued(spoilt, both),
        ):
            try:
                read()
            except (DataError, RunError, ValueError) as error:
                refused += 1
                assert "\n" not in str(error)
    assert refused > 100


# ---- packages --------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["numpy", pytest.param("auto", marks=pytest.mark.slow)])
def test_a_package_scores_every_label(
    both: DataSet, raw: Path, run: Path, tmp_path: Path, engine: str
) -> None:
    export_run(run, tmp_path / "package", formats=("onnx",) if engine == "auto" else ())
    predictor = Predictor.load(tmp_path / "package", engine)
    assert predictor.package.labels == LABELS
    rows = table()
    found = predictor({name: rows[name].tolist() for name in ("user", "item", "age")})
    every = Split(fractions=(0, 0, 1), trains=False)
    prepare_like(raw, tmp_path / "all", LikeTable.of(both), split=every)
    stream = open_data(tmp_path / "all").stream("test", batch_size=500)
    logits, _, _ = score(recipes.load_trained(run), stream)
    assert found.shape == (ROWS, 2) and found.std(0).min() > 0.05
    wanted = 1 / (1 + np.exp(-logits.astype(np.float64)))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    if engine == "auto":
        assert 'name: "logits"\n    data_type: TYPE_FP32\n    dims: [ 2 ]' in triton_config(
            predictor.package
        )
        return
    predict_files(predictor, [raw], tmp_path / "scores.parquet", keep=("user",))
    scores = pq.read_table(tmp_path / "scores.parquet")
    assert scores.column_names == ["user", "score_click", "score_spent"]
    np.testing.assert_array_equal(scores["score_spent"].to_numpy(), found[:, 1])
    with pytest.raises(DataError, match="not 'score_click' or 'score_spent'"):
        predict_files(predictor, [raw], tmp_path / "x.parquet", keep=("score_spent",))


def test_a_manifest_with_other_labels_is_refused(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "p", formats=())
    path = tmp_path / "p/manifest.json"
    good = json.loads(path.read_text())
    for labels in (None, ["click"], ["click", "click"], ["a", "b", "c"], "ab", [1, 2]):
        model = {k: v for k, v in good["model"].items() if k != "labels"}
        named = {} if labels is None else {"labels": labels}
        path.write_text(json.dumps({**good, "model": {**model, **named}}))
        with pytest.raises(PackageError, match=r"labels|scores must be float32"):
            Predictor.load(tmp_path / "p")


def test_the_server_answers_with_every_label() -> None:
    scores = np.array([[0.25, 0.5], [0.75, 0.125]], np.float32)
    assert json.loads(write_scores(JSON, scores, "v", LABELS)) == {
        "scores": [[0.25, 0.5], [0.75, 0.125]], "labels": list(LABELS), "package": "v",
    }  # fmt: skip
    found = pa.ipc.open_stream(write_scores(ARROW, scores, "v", LABELS)).read_all()
    assert found.to_pydict() == {"score_click": [0.25, 0.75], "score_spent": [0.5, 0.125]}


def test_the_commands(seo_rec: Any, raw: Path, tmp_path: Path) -> None:
    of_label = ["--label", "click", "--label", "spent >= 3", "--categorical", "user,item"]
    done = seo_rec("prepare", "table", "--raw", raw, *of_label, "--out", tmp_path / "data")
    assert done.code == 0 and "label rates click 0." in done.out, done.err
    method = ["--method", "separate", "--params", "400", "--dim", "8", "--epochs", "2"]
    tasks = ["--sharing", "mmoe", "--shared", "6", "--experts", "2", "--keep-label", "spent"]
    run = ["train", tmp_path / "data", "--out", tmp_path / "run", *method, *tasks]
    done = seo_rec(*run, "--label-weights", "spent=5,click=0.5")
    assert done.code == 0 and "label spent: validation AUC 0." in done.out, done.err
    asked = json.loads((tmp_path / "run/run.json").read_text())["model"]["multi_task"]
    assert asked["weights"] == {"spent": 5.0, "click": 0.5} and asked["kept"] == "spent"
    config = ["--config", tmp_path / "run/settings.json", "--out", tmp_path / "again"]
    done = seo_rec("train", tmp_path / "data", *config)
    assert done.code == 0, done.err
    again = json.loads((tmp_path / "again/run.json").read_text())["model"]["multi_task"]
    assert again == asked
    done = seo_rec(*run[:3], tmp_path / "bad", *method, "--label-weights", "spent")
    assert done.code == 2 and "--label-weights=spent; allowed: names with numbers" in done.err


def test_settings_of_several_labels_need_several(tiny_data: DataSet, tmp_path: Path) -> None:
    policy = recipes.method_policy("separate", tiny_data, 400, 8)
    with pytest.raises(ValueError, match=r"settings of several labels .*leave them out"):
        recipes.train(tiny_data, policy, tmp_path / "r", TRAINING)


def test_a_batch_keeps_its_labels_on_the_way(both: DataSet) -> None:
    batch = next(iter(both.stream("train", batch_size=5)))
    moved: Batch = batch.to(torch.device("cpu")).padded(8)
    assert moved.labels_BT is not None and moved.labels_BT.shape == (8, 2)
    assert torch.equal(moved.labels_BT[:5], batch.labels_BT)
