"""Data without test rows are trained on, and every reader of a result says that there are none."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from seo_rec.runs import Run
from seo_rec.runs.layout import RESULT_FILE
from tests.days import prepare_day

TINY = ("--method", "separate", "--params", 400, "--dim", 4, "--epochs", 1, "--hidden", "8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: Any) -> Path:
    return prepare_day(tmp_path_factory.mktemp("data") / "data", 0, fractions=(0.8, 0.2, 0.0))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: Any, seo_rec: Any) -> Path:
    """A training on data without test rows."""
    out: Path = tmp_path_factory.mktemp("run") / "run"
    done = seo_rec("train", data, *TINY, "--out", out)
    assert done.code == 0, done.err
    assert "no test rows" in done.out and "nan" not in done.out
    return out


def test_the_result_has_validation_figures_and_null(run: Path, data: Path, seo_rec: Any) -> None:
    text = (run / RESULT_FILE).read_text()
    document = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert 0 < document["val_auc"] < 1
    tests = [name for name in document if name.startswith("test_")]
    assert len(tests) == 4 and all(document[name] is None for name in tests)
    again = Run.read(run / RESULT_FILE)
    assert not again.has_test_figures and math.isnan(again.test_auc)
    done = seo_rec("train", data, *TINY, "--out", run, "--resume")
    assert done.code == 0 and "no test rows" in done.out


def test_readers_cope(run: Path, data: Path, tmp_path: Path, seo_rec: Any) -> None:
    done = seo_rec("report", run, "--out", tmp_path / "report.html")
    assert done.code == 0, done.err
    page = (tmp_path / "report.html").read_text()
    assert "No test rows" in page + done.out and ">nan<" not in page
    done = seo_rec("export", run, "--out", tmp_path / "package")
    assert done.code == 0, done.err
    manifest = json.loads((tmp_path / "package" / "manifest.json").read_text())
    assert manifest["metrics"]["test_auc"] is None and manifest["metrics"]["val_auc"] > 0
    scores = ("--raw", data, "--out", tmp_path / "scores.parquet")
    for command in (("eval", run, data), ("predict", tmp_path / "package", *scores)):
        done = seo_rec(*command)
        assert done.code == 2, command
        assert done.err.count("\n") == 1 and "test" in done.err and "no rows" in done.err
    done = seo_rec("eval", run, data, "--split", "val")
    assert done.code == 0 and json.loads(done.out)["num_rows"] > 0
    done = seo_rec("drift", run, prepare_day(tmp_path / "later", 1))
    assert done.code == 0, done.err


def test_a_day_goes_on_from_it(run: Path, tmp_path: Path, seo_rec: Any) -> None:
    later = prepare_day(tmp_path / "later", 1, fractions=(0.8, 0.2, 0.0))
    done = seo_rec("train", later, "--from", run, "--epochs", 1, "--out", tmp_path / "next")
    assert done.code == 0 and "no test rows" in done.out, done.err


def test_tune_chooses_by_validation(data: Path, tmp_path: Path, seo_rec: Any) -> None:
    done = seo_rec("tune", data, *TINY, "--trials", 2, "--out", tmp_path / "tuned")
    assert done.code == 0 and "no test rows" in done.out, done.err
    assert json.loads((tmp_path / "tuned" / "tune.json").read_text())["test_quality"] is None


def test_a_search_reads_no_test_rows(data: Path, tmp_path: Path, seo_rec: Any) -> None:
    asked = ("--method", "seo-divide", "--params", 400, "--dim", 4, "--set", "chunk_dim=4")
    options = ("--set", "search_dim=8", "--epochs", 1, "--hidden", "8")
    done = seo_rec("search", data, *asked, *options, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "policy.json").exists()


@pytest.mark.parametrize("command", ["compare", "frontier"])
def test_what_needs_test_rows_says_so_first(
    command: str, data: Path, tmp_path: Path, seo_rec: Any
) -> None:
    options = {
        "compare": ("--methods", "separate,monolithic", "--params", 400),
        "frontier": ("--methods", "separate,monolithic", "--budgets", "400,800"),
    }[command]
    done = seo_rec(command, data, *options, "--out", tmp_path / "out")
    assert done.code != 0 and "split test has no rows" in done.err and "--fractions" in done.err
    assert not (tmp_path / "out").exists()


def test_no_validation_rows_are_refused_first(tmp_path: Path, seo_rec: Any) -> None:
    data = prepare_day(tmp_path / "data", 0, fractions=(1.0, 0.0, 0.0))
    done = seo_rec("train", data, *TINY, "--out", tmp_path / "out")
    assert done.code == 2 and "split val has no rows" in done.err
    assert not (tmp_path / "out").exists()
