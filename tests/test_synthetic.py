"""The synthetic world is reproducible and has the structure that it says it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from seo_rec.cli.prepare import app
from seo_rec.data.synthetic import synthetic
from seo_rec.data.vocabulary import read_vocabulary
from seo_rec.schema import DataError, read_schema

SMALL = {"strong_vocab": 50, "weak_vocab": 20, "noise_vocab": 500}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    for name, seed in [("a", 3), ("b", 3), ("c", 4)]:
        synthetic(tmp_path / name, rows=3_000, seed=seed, **SMALL)
    shards = [(tmp_path / n / "train" / "part-00000.parquet").read_bytes() for n in "abc"]
    assert shards[0] == shards[1] != shards[2]


def test_columns_and_truth(tmp_path: Path) -> None:
    schema = synthetic(
        tmp_path / "out", rows=80_000, strong=3, weak=2, noise=2, numeric=1, multivalent=1, **SMALL
    )
    assert [(c.name, c.kind) for c in schema.columns] == [
        ("number_0", "numeric"),
        *[(f"strong_{j}", "categorical") for j in range(3)],
        *[(f"weak_{j}", "categorical") for j in range(2)],
        *[(f"noise_{j}", "categorical") for j in range(2)],
        ("bag_0", "multivalent"),
    ]
    truth = schema.options["truth"]
    assert truth["features"]["strong_0"] == {"role": "strong", "ids": 50, "rank": 4}
    assert truth["features"]["strong_2"]["rank"] == 2
    assert sum(truth["shares"].values()) == pytest.approx(1)
    assert 0.8 < truth["bayes_auc"]["test"] < 0.95
    assert schema.label_rate["train"] == pytest.approx(0.25, abs=0.02)
    assert read_schema(tmp_path / "out") == schema
    _, counts = read_vocabulary(tmp_path / "out", "noise_0")
    assert counts.sum() == schema.num_rows["train"]
    assert counts.max() > 20 * np.median(counts)  # Zipf


def test_strong_columns_carry_signal_and_noise_columns_none(tmp_path: Path) -> None:
    synthetic(tmp_path / "out", rows=60_000, **SMALL)
    table = pq.read_table(tmp_path / "out" / "train")
    label = table["label"].to_numpy()

    def chi_square_per_degree(name: str) -> float:
        _, ids, counts = np.unique(table[name], return_inverse=True, return_counts=True)
        rate = np.bincount(ids, weights=label) / counts
        often = counts >= 30
        mean = label.mean()
        deviations = counts * (rate - mean) ** 2 / (mean * (1 - mean))
        return float(deviations[often].mean())

    assert chi_square_per_degree("strong_0") > 5
    assert chi_square_per_degree("weak_1") > 5
    assert 0.8 < chi_square_per_degree("noise_0") < 1.2


def test_no_signal_means_no_auc_and_missing_is_null(tmp_path: Path) -> None:
    schema = synthetic(tmp_path / "out", rows=60_000, signal=0.0, missing_rate=0.3, **SMALL)
    assert schema.options["truth"]["bayes_auc"]["train"] == pytest.approx(0.5, abs=0.01)
    column = pq.read_table(tmp_path / "out" / "train")["noise_0"]
    assert column.null_count / len(column) == pytest.approx(0.3, abs=0.02)
    assert schema.columns[-1].lookups_per_row == pytest.approx(0.7, abs=0.02)


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    for setting in [{"rows": 0}, {"strong": -1}, {"rank": 0}, {"label_rate": 1.0}, {"seed": -1}]:
        with pytest.raises(DataError, match=f"synthetic: {next(iter(setting))} is"):
            synthetic(tmp_path / "out", **setting)
    result = CliRunner().invoke(app, ["synthetic", "--out", str(tmp_path / "o"), "--rank", "0"])
    assert result.exit_code == 2
    assert "rank is 0" in result.stderr


def test_cli_writes_a_data_set(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["synthetic", "--out", str(out), "--rows", "2000"])
    assert result.exit_code == 0, result.stderr
    assert "2,000 rows" in result.stdout
    assert sum(read_schema(out).num_rows.values()) == 2_000
