"""The synthetic world is reproducible and has the structure that it says it has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from seo_rec.cli.prepare import app
from seo_rec.data.split import Split
from seo_rec.data.synthetic import Churn, synthetic
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


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"days": 0}, "days is 0; allowed: 1 or more"),
        ({"days": 2, "enter": ()}, r"enter is \(\); allowed: one share or more"),
        ({"days": 2, "vanish": (0.1, 1.5)}, "vanish is"),
        ({"enter": (0.1,)}, "0 with one day"),
    ],
)
def test_bad_churn_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        Churn(**wrong)


def test_rows_are_divided_into_whole_days(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="rows is 1001; allowed: a multiple of the 4 days"):
        synthetic(tmp_path / "out", rows=1_001, churn=CHURN)


def test_cli_knows_days(tmp_path: Path) -> None:
    given = ["synthetic", "--out", str(tmp_path / "o"), "--rows", "2000", "--split", "temporal"]
    given += ["--days", "4", "--enter", "0.2,0.02", "--vanish"]
    assert CliRunner().invoke(app, [*given, "a"]).exit_code == 2
    result = CliRunner().invoke(app, [*given, "0.1"])
    assert result.exit_code == 0, result.stderr
    options = read_schema(tmp_path / "o").options
    assert options["churn"] == {"days": 4, "enter": [0.2, 0.02], "vanish": [0.1]}


def test_cli_writes_a_data_set(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["synthetic", "--out", str(out), "--rows", "2000"])
    assert result.exit_code == 0, result.stderr
    assert "2,000 rows" in result.stdout
    assert sum(read_schema(out).num_rows.values()) == 2_000


CHURN = Churn(days=4, enter=(0.5, 0.0), vanish=(0.0, 0.5))


def days_of(data: Path, days: int) -> list[pa.Table]:
    table = pq.read_table(data / "train")
    size = len(table) // days
    return [table.slice(day * size, size) for day in range(days)]


def test_ids_come_and_go_by_the_day(tmp_path: Path) -> None:
    """Columns take the shares in turn: strong_0 only grows, strong_1 only shrinks."""
    everything = Split("temporal", fractions=(1.0, 0.0, 0.0))
    schema = synthetic(
        tmp_path / "out", rows=80_000, strong=2, weak=1, noise=2, zipf=0.2, churn=CHURN,
        split=everything, strong_vocab=64, weak_vocab=20, noise_vocab=64,
    )  # fmt: skip
    sizes = schema.options["truth"]["days"]["ids"]
    for name in ("strong_0", "noise_0"):
        days = [set(day[name].to_pylist()) for day in days_of(tmp_path / "out", 4)]
        assert [len(ids) for ids in days] == sizes[name]  # every id is often enough to be seen
        assert days[0] < days[1] < days[2] < days[3]
        assert sizes[name][3] / 64 == pytest.approx(1.5**3, rel=0.25)
    for name in ("strong_1", "noise_1"):
        days = [set(day[name].to_pylist()) for day in days_of(tmp_path / "out", 4)]
        assert [len(ids) for ids in days] == sizes[name]
        assert days[0] > days[1] > days[2] > days[3]
    weak = [set(day["weak_0"].to_pylist()) for day in days_of(tmp_path / "out", 4)]
    assert weak[0] == weak[3]
    aucs = schema.options["truth"]["days"]["bayes_auc"]
    assert len(aucs) == 4 and min(aucs) > 0.75


def test_an_id_keeps_its_worth_while_it_lives(tmp_path: Path) -> None:
    """The rate of clicks of an id that stays does not move; that of a newcomer is its own."""
    everything = Split("temporal", fractions=(1.0, 0.0, 0.0))
    churn = Churn(days=2, enter=(0.5,), vanish=(0.5,))
    synthetic(
        tmp_path / "out", rows=200_000, strong=1, weak=0, noise=0, numeric=0, strong_vocab=40,
        zipf=0.0, signal=2.0, churn=churn, split=everything,
    )  # fmt: skip
    rates = []
    for day in days_of(tmp_path / "out", 2):
        ids, clicks = day["strong_0"].to_numpy(), day["label"].to_numpy()
        rates.append({int(i): float(clicks[ids == i].mean()) for i in np.unique(ids)})
    both = sorted(rates[0].keys() & rates[1].keys())
    assert 8 <= len(both) <= 32 and max(rates[1]) >= 40 > max(rates[0])
    first, second = (np.array([rate[i] for i in both]) for rate in rates)
    assert np.abs(first - second).max() < 0.06  # 2,500 rows each: a standard error of at most 0.014
    assert first.std() > 0.15


def test_the_first_days_do_not_depend_on_those_that_follow(tmp_path: Path) -> None:
    everything = Split("temporal", fractions=(1.0, 0.0, 0.0))
    for name, days in (("short", 2), ("long", 4)):
        synthetic(
            tmp_path / name, rows=1_000 * days, churn=replace(CHURN, days=days),
            split=everything, **SMALL,
        )  # fmt: skip
    short, long = (pq.read_table(tmp_path / name / "train") for name in ("short", "long"))
    assert short == long.slice(0, 2_000)
    assert short != long.slice(2_000)


@pytest.mark.parametrize("setting", ["signal", "zipf"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0])
def test_worlds_of_no_finite_size_are_refused(tmp_path: Path, setting: str, value: float) -> None:
    with pytest.raises(DataError, match=f"{setting} is {value}"):
        synthetic(tmp_path / "out", rows=100, **{setting: value})
    assert not (tmp_path / "out").exists()
