"""Numbers are scaled by what the training rows hold, and by nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seo_rec.data import numeric
from seo_rec.data.numeric import BY_COLUMN, Fit, NumericPlan, NumericRule
from seo_rec.data.split import Split
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.data.tokens import MISSING
from seo_rec.data.vocabulary import Pruning, read_vocabulary
from seo_rec.schema import SPLITS, DataError, other_rules, read_schema

ROWS = 2000
SPLIT = Split("temporal", fractions=(0.7, 0.2, 0.1))


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prices whose level is another one after the training rows; some are missing."""
    rng = np.random.default_rng(5)
    price = np.exp(rng.normal(4, 1, ROWS))
    price[1400:] *= 1000
    price[rng.random(ROWS) < 0.1] = np.nan
    size = rng.integers(0, 500, ROWS)
    table = {"y": rng.integers(0, 2, ROWS), "u": rng.integers(0, 9, ROWS), "size": size}
    path = tmp_path_factory.mktemp("raw") / "t.parquet"
    pq.write_table(pa.table({**table, "price": pa.array(price, from_pandas=True)}), path)
    return path


def columns(**options: object) -> TableColumns:
    return TableColumns("y", categorical=("u",), numeric=("price", "size"), **options)


def column(data: Path, name: str) -> np.ndarray:
    return np.concatenate([pq.read_table(data / split)[name].to_numpy() for split in SPLITS])


def raw_numbers(raw: Path, name: str) -> np.ndarray:
    return pq.read_table(raw)[name].to_numpy(zero_copy_only=False).astype(np.float64)


@pytest.mark.parametrize("pruning", [Pruning(), Pruning(min_count=300)])
def test_standardised_by_the_training_rows(raw: Path, tmp_path: Path, pruning: Pruning) -> None:
    schema = prepare_table(raw, tmp_path / "out", columns=columns(), split=SPLIT, pruning=pruning)
    assert [c.name for c in schema.numeric] == ["price", "price is missing", "size"]
    for name in ("price", "size"):
        x = raw_numbers(raw, name)
        mean, deviation = np.nanmean(x[:1400]), np.nanstd(x[:1400])
        want = np.nan_to_num((x - mean) / deviation)
        np.testing.assert_allclose(column(tmp_path / "out", name), want, rtol=1e-6, atol=1e-6)
    missing = column(tmp_path / "out", "price is missing")
    np.testing.assert_array_equal(missing, np.isnan(raw_numbers(raw, "price")))
    stored = read_schema(tmp_path / "out").preparation
    assert stored["numeric_rule"] == BY_COLUMN
    assert stored["numeric_columns"]["price"]["indicator"] is True
    assert stored["numeric_columns"]["size"]["indicator"] is False


def test_blocks_do_not_show_in_mean_and_deviation() -> None:
    x = np.random.default_rng(0).normal(1e6, 3.0, 50_000)
    x[::7] = np.nan
    rules = set()
    for size in (50_000, 1024, 77):
        fit = Fit(NumericPlan())
        for start in range(0, len(x), size):
            fit.add(x[start : start + size])
        rules.add(fit.rule())
    assert len(rules) == 1
    rule = rules.pop()
    assert rule.mean == pytest.approx(np.nanmean(x), rel=1e-8)
    assert rule.scale == pytest.approx(np.nanstd(x), rel=1e-6)
    assert rule.indicator


def test_a_column_without_spread_or_numbers_is_harmless() -> None:
    for numbers in (np.full(9, 4.0), np.full(9, np.nan), np.zeros(0)):
        fit = Fit(NumericPlan())
        fit.add(numbers)
        assert np.isfinite(fit.rule().values(np.array([4.0, 1e38, np.nan]))).all()
    assert NumericRule("standard", 0.0, 1e-30).values(np.array([1e30])) == np.finfo(np.float32).max


def test_equal_numbers_in_blocks_have_no_spread() -> None:
    """A mean is rounded, so that equal numbers seem to differ by some 1e-17 from it."""
    fit = Fit(NumericPlan())
    for size in (3, 7, 1000):
        fit.add(np.full(size, 0.1))
    assert fit.rule().scale == 1.0
    assert np.abs(fit.rule().values(np.array([0.1]))).max() < 1e-6


def test_quantiles_are_categories(raw: Path, tmp_path: Path) -> None:
    options = {"numeric_transform": "standard,price=quantiles", "buckets": 8}
    schema = prepare_table(
        raw, tmp_path / "out", columns=columns(**options), split=SPLIT, pruning=Pruning(2)
    )
    assert {c.name: c.kind for c in schema.columns} == {
        "size": "numeric", "price": "categorical", "u": "categorical",
    }  # fmt: skip
    x = raw_numbers(raw, "price")
    known = np.sort(x[:1400][~np.isnan(x[:1400])])
    bounds = [known[int(np.ceil(k / 8 * len(known))) - 1] for k in range(1, 8)]
    want = [MISSING if np.isnan(v) else sum(v >= b for b in bounds) for v in x]
    found = column(tmp_path / "out", "price")
    assert found.tolist() == want
    ids, counts = read_vocabulary(tmp_path / "out", "price")
    assert ids.tolist() == [*range(8), MISSING]
    assert counts.tolist() == [int((found[:1400] == i).sum()) for i in ids]
    assert counts[:8].min() > 0.9 * counts[:8].max()
    empty = columns(**options, missing="empty")
    prepare_table(raw, tmp_path / "empty", columns=empty, split=SPLIT)
    assert np.isnan(column(tmp_path / "empty", "price")).sum() == np.isnan(x).sum()


def test_quantiles_of_many_rows_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numeric, "SAMPLED", 4000)
    x = np.random.default_rng(0).random(100_000)
    fits = []
    for size in (100_000, 999):
        fit = Fit(NumericPlan("quantiles", buckets=4))
        for start in range(0, len(x), size):
            fit.add(x[start : start + size])
        assert sum(len(v) for v, _ in fit._kept) <= 4000
        fits.append(fit.rule())
    assert fits[0] == fits[1]
    assert fits[0].bounds == pytest.approx((0.25, 0.5, 0.75), abs=0.04)


def test_numbers_may_be_stored_as_text(raw: Path, tmp_path: Path) -> None:
    table = pq.read_table(raw)
    texts = [
        "nan" if i == 7 else "" if v is None else repr(v)
        for i, v in enumerate(table["price"].to_pylist())
    ]
    known = pa.array([None if i == 7 else v for i, v in enumerate(table["price"].to_pylist())])
    place = table.schema.get_field_index("price")
    for name, cells in (
        ("text", pa.array(texts)),
        ("dictionary", pa.array(texts).dictionary_encode()),
        ("number", known),
    ):
        pq.write_table(table.set_column(place, "price", cells), tmp_path / f"{name}.parquet")
        prepare_table(tmp_path / f"{name}.parquet", tmp_path / name, columns=columns(), split=SPLIT)
    for name in ("text", "dictionary"):
        for column_name in ("price", "price is missing"):
            np.testing.assert_array_equal(
                column(tmp_path / name, column_name), column(tmp_path / "number", column_name)
            )
    bad = table.set_column(
        place, "price", pa.array(["x" if i == 5 else t for i, t in enumerate(texts)])
    )
    pq.write_table(bad, tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=r"row 6, column 'price': not a finite number, got 'x'"):
        prepare_table(tmp_path / "bad.parquet", tmp_path / "bad", columns=columns(), split=SPLIT)


def test_many_equal_numbers_share_a_bucket() -> None:
    fit = Fit(NumericPlan("quantiles", buckets=10))
    fit.add(np.array([0.0] * 80 + [1.0] * 15 + [2.0] * 5))
    rule = fit.rule()
    assert rule.bounds == (1.0,)
    assert rule.buckets(np.array([-1.0, 0.0, 1.0, 9.0]))[0].tolist() == [0, 0, 1, 1]


def test_earlier_rules_keep_their_words(raw: Path, tmp_path: Path) -> None:
    """A run that was trained on data of an earlier release still knows data of the same rule."""
    for transform, words in (
        ("none", "as it is; missing: 0"),
        ("log", "sign(x) ln(1 + abs(x)); missing: 0"),
    ):
        out = tmp_path / transform
        schema = prepare_table(raw, out, columns=columns(numeric_transform=transform), split=SPLIT)
        assert schema.preparation["numeric_rule"] == words
        assert "numeric_columns" not in schema.options
        assert [c.name for c in schema.numeric] == ["price", "size"]
    x = np.nan_to_num(raw_numbers(raw, "price"))
    np.testing.assert_allclose(column(tmp_path / "none", "price"), x, rtol=1e-6)
    np.testing.assert_allclose(column(tmp_path / "log", "price"), np.log1p(x), rtol=1e-6)


def test_rules_are_read_strictly() -> None:
    for rule in (
        NumericRule("standard", 3.0, 2.0, indicator=True),
        NumericRule("quantiles", bounds=(1.0, 2.5)),
        NumericRule("log"),
    ):
        assert NumericRule.from_json(json.loads(json.dumps(rule.to_json())), "x") == rule
    for document, message in [
        ({"rule": "cube", "indicator": False}, "allowed: none, log, standard, quantiles"),
        ({"rule": "standard", "mean": 0, "scale": 0, "indicator": False}, "scale above 0"),
        ({"rule": "standard", "mean": "0", "scale": 1, "indicator": False}, "must be numbers"),
        ({"rule": "standard", "mean": 10**400, "scale": 1, "indicator": False}, "x: "),
        ({"rule": "standard", "scale": 1, "indicator": False}, "has the keys"),
        ({"rule": "quantiles", "bounds": [2, 1]}, "ascending"),
        ({"rule": "quantiles", "bounds": 1}, "must be"),
        ({"rule": "none", "indicator": 1}, "true or false"),
        (["none"], "an object"),
    ]:
        with pytest.raises(DataError, match=message):
            NumericRule.from_json(document, "x")
    for wrong in ("cube", "standard,other=log", "price=", "standard,log"):
        with pytest.raises(DataError, match="numeric transform"):
            columns(numeric_transform=wrong)
    for wrong in ({"numeric_missing": "mean"}, {"buckets": 1, "numeric_transform": "quantiles"}):
        with pytest.raises(DataError, match="allowed"):
            columns(**wrong)


def test_data_of_another_mean_are_other_data(raw: Path, tmp_path: Path) -> None:
    first = prepare_table(raw, tmp_path / "a", columns=columns(), split=SPLIT)
    second = prepare_table(raw, tmp_path / "b", columns=columns(), split=Split())
    assert other_rules(first.preparation, second.preparation) == (
        "numeric_columns: other numbers for price, size"
    )
    assert other_rules(first.preparation, first.preparation) == ""
