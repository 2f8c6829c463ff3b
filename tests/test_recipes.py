"""Recipes: a training's folder, whose folder it is, and the features that a policy serves."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seo_rec import recipes
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.synthetic import synthetic
from seo_rec.model import ModelSettings
from seo_rec.policy import Feature, Lookup, Policy, Table
from seo_rec.recipes import Comparison, comparing
from seo_rec.runs import RunError, command_line, describe
from seo_rec.schema import DataError
from seo_rec.train import Training
from small_recipes import FIT, NAMES_OF_CLICKS, SEO, SMALL, policy_of


@pytest.fixture(scope="module")
def trained(tiny_data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training run; read-only."""
    out = tmp_path_factory.mktemp("run") / "trained"
    recipes.train(tiny_data, policy_of(tiny_data), out, Training(SMALL, FIT), method="multi-size")
    return out


# ---- one training run --------------------------------------------------------------------


def test_a_training_run_leaves_its_whole_story(tiny_data: DataSet, trained: Path) -> None:
    names = {p.name for p in trained.iterdir()}
    assert names >= {"run.json", "policy.json", "result.json", "metrics.jsonl"}
    assert (trained / "best").is_dir() and (trained / "checkpoints").is_dir()
    asked = json.loads((trained / "run.json").read_text())
    assert asked["fit"] == FIT.as_json() and asked["model"]["hidden"] == [8]
    assert asked["data_fingerprint"] == tiny_data.schema.fingerprint
    assert Policy.load(trained / "policy.json") == policy_of(tiny_data)
    result = json.loads((trained / "result.json").read_text())
    assert set(result) == NAMES_OF_CLICKS
    assert result["embedding_params"] == result["budget"] == 1600
    assert {"git_sha", "cpu", "threads", "torch", "date"} <= set(result["environment"])


def test_evaluation_repeats_the_result(tiny_data: DataSet, trained: Path) -> None:
    """The stored model gives the stored numbers again, on the splits they were taken from."""
    run = json.loads((trained / "result.json").read_text())
    test = recipes.evaluate_served(trained, tiny_data, "test").metrics
    assert (test.auc, test.log_loss, test.normalized_entropy, test.calibration) == (
        run["test_auc"],
        run["test_logloss"],
        run["test_normalized_entropy"],
        run["test_calibration"],
    )
    val = recipes.evaluate_served(trained, tiny_data, "val").metrics
    assert (val.auc, val.log_loss) == (run["val_auc"], run["val_logloss"])
    assert test.num_rows == tiny_data.schema.num_rows["test"]


def test_an_unfinished_run_is_not_evaluated(
    tiny_data: DataSet, tmp_path: Path, trained: Path
) -> None:
    for name in ("result.json", "best", "complete.json"):
        out = shutil.copytree(trained, tmp_path / name, ignore=shutil.ignore_patterns(name))
        with pytest.raises(RunError, match="not a finished training run"):
            recipes.evaluate_served(out, tiny_data, "test")


def test_data_of_another_shape_is_refused(trained: Path, tmp_path: Path) -> None:
    """A model is evaluated on data with its columns; one numeric column more is an error too."""
    other = {"strong": 2, "weak": 2, "noise": 2, "strong_vocab": 9, "noise_vocab": 9}
    synthetic(tmp_path / "without-bag", rows=300, numeric=1, **other)
    with pytest.raises(DataError, match="bag_0"):
        recipes.evaluate_served(trained, open_data(tmp_path / "without-bag"), "test")
    synthetic(tmp_path / "numbers", rows=300, numeric=3, multivalent=1, **other)
    with pytest.raises(RunError, match=r"1 numeric columns \['.*'\] and .* has 3 \[.*; prepare"):
        recipes.evaluate_served(trained, open_data(tmp_path / "numbers"), "test")


# ---- whose folder is it ------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, differs",
    [
        ({"training": Training(SMALL, replace(FIT, seed=1))}, "differs in fit"),
        ({"training": Training(ModelSettings(hidden=(9,)), FIT)}, "differs in model"),
        ({"method": "other"}, "differs in method"),
        ({"policy": 800}, "differs in policy"),
        (
            {"training": Training(SMALL, replace(FIT, epochs=3)), "method": "other"},
            r"differs in fit.epochs, method\)",
        ),
    ],
    ids=["seed", "model", "method", "policy", "two"],
)
@pytest.mark.parametrize("resume", [False, True])
def test_another_run_in_the_folder_is_named(
    tiny_data: DataSet, trained: Path, change: dict[str, Any], differs: str, resume: bool
) -> None:
    change = {**change, "policy": policy_of(tiny_data, change.get("policy", 1600))}
    asked = {
        "data": tiny_data,
        "out": trained,
        "training": Training(SMALL, FIT),
        "method": "multi-size",
    }
    before = {p: p.stat().st_mtime_ns for p in trained.rglob("*")}
    with pytest.raises(RunError, match=differs):
        recipes.train(**{**asked, **change}, resume=resume)
    assert {p: p.stat().st_mtime_ns for p in trained.rglob("*")} == before


def test_the_same_run_needs_resume(tiny_data: DataSet, trained: Path, trainings: list[str]) -> None:
    asked = (tiny_data, policy_of(tiny_data), trained, Training(SMALL, FIT))
    with pytest.raises(RunError, match="already holds this run; give --resume"):
        recipes.train(*asked, method="multi-size")
    run = recipes.train(*asked, method="multi-size", resume=True)
    assert json.loads((trained / "result.json").read_text()) == json.loads(
        json.dumps(run.to_json())
    )
    assert trainings == []


def test_a_folder_of_something_else_is_left_alone(tiny_data: DataSet, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="is not a run folder"):
        recipes.train(tiny_data, policy_of(tiny_data), tmp_path, Training(SMALL, FIT))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_search_folder_is_no_training_folder(tiny_data: DataSet, tmp_path: Path) -> None:
    recipes.search("seo", tiny_data, tmp_path / "s", SEO, Training(SMALL, replace(FIT, epochs=1)))
    with pytest.raises(RunError, match="holds another run"):
        recipes.train(
            tiny_data, policy_of(tiny_data), tmp_path / "s", Training(SMALL, FIT), resume=True
        )


# ---- features ----------------------------------------------------------------------------


def test_a_policy_that_ignores_a_column_is_refused(tiny_data: DataSet, tmp_path: Path) -> None:
    """Every column is served or named as dropped; silence is refused before anything is trained."""
    whole = policy_of(tiny_data)
    silent = replace(whole, features=whole.features[1:])
    with pytest.raises(RunError, match=r"says nothing about features \['strong_0'\]"):
        recipes.train(tiny_data, silent, tmp_path / "a", Training(SMALL, FIT))
    told = replace(silent, dropped=("strong_0",))
    run = recipes.train(tiny_data, told, tmp_path / "b", Training(SMALL, FIT))
    assert run.policy.endswith("6 features x 2")
    foreign = Feature("weather", (Lookup(whole.tables[0].name),))
    with pytest.raises(RunError, match=r"reads columns \['weather'\] that the data lacks"):
        recipes.train(
            tiny_data,
            replace(whole, features=(*whole.features, foreign)),
            tmp_path / "c",
            Training(SMALL, FIT),
        )


def test_dropped_features_are_warned_about(
    tiny_data: DataSet,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A comparison says of which method and seed, once; a search leaves it to who calls it."""
    # a library's logging set-up, run by another test in this process, may disable all loggers
    monkeypatch.setattr(comparing.log, "disabled", False)
    asked = Comparison(
        data=(tiny_data,),
        methods=("seo-exact",),
        params=1600,
        seeds=2,
        training=Training(SMALL, replace(FIT, epochs=1)),
        settings={"seo": {"min_chunks": 0, "total_chunks": 5}},
    )
    for _ in range(2):
        recipes.compare(asked, tmp_path / "c")
    found = [Policy.load(tmp_path / f"c/searches/seo-exact-seed{s}/policy.json") for s in (0, 1)]
    assert all(p.dropped and p.num_lookups == 5 for p in found)
    assert [r.getMessage() for r in caplog.records if "drops" in r.getMessage()] == [
        f"seo-exact, seed {seed}: the policy drops {', '.join(policy.dropped)}"
        for seed, policy in enumerate(found)
    ]
    assert {f.name for f in found[0].features} | set(found[0].dropped) == {
        c.name for c in tiny_data.schema.features
    }


# ---- small things ------------------------------------------------------------------------


def test_a_policy_in_a_few_words() -> None:
    tables = (Table("a", 10, 4), Table("b", 20, 4))
    two = (Lookup("a"), Lookup("b"))
    features = (Feature("x", two), Feature("y", two), Feature("z", (Lookup("a"),)))
    assert describe(Policy(tables, features)) == (
        "2 tables (10x4, 20x4); 2 features x 2, 1 features x 1"
    )


def test_labels_come_in_file_order(tiny: Path) -> None:
    import pyarrow.parquet as pq

    stored = pq.read_table(tiny / "val").column("label").to_numpy()
    assert open_data(tiny).labels("val").tolist() == stored.tolist()


@pytest.mark.parametrize(
    "argv, shown",
    [
        ([".venv/bin/seo-rec", "train", "d"], "seo-rec train d"),
        (["seo_rec/__main__.py", "search"], "seo-rec search"),
        (["seo-rec", "train", "my data", "--out", "o"], "seo-rec train 'my data' --out o"),
    ],
)
def test_the_command_as_typed(monkeypatch: pytest.MonkeyPatch, argv: list[str], shown: str) -> None:
    monkeypatch.setattr("sys.argv", argv)
    assert command_line() == shown
