"""A later day is prepared by the rules and the figures of an earlier one, so its model knows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seo_rec import recipes
from seo_rec.analysis.drift import drift
from seo_rec.data.avazu import HEADER as AVAZU
from seo_rec.data.dataset import open_data
from seo_rec.data.like import LikeTable, prepare_like
from seo_rec.data.parallel import Workers
from seo_rec.data.roles import label_rule
from seo_rec.data.split import Split
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.data.tokens import MISSING, OUT_OF_VOCABULARY, token_id
from seo_rec.data.vocabulary import Pruning, read_vocabulary
from seo_rec.export import export_run
from seo_rec.export.preparation import preparation_of
from seo_rec.model import ModelSettings
from seo_rec.recipes.evaluation import load_trained, stream_of
from seo_rec.schema import SPLITS, DataError
from seo_rec.settings import FitSettings, Training
from seo_rec.train import evaluate

ROWS = 1200
COLUMNS = TableColumns(
    "rating >= 2.5",
    categorical=("u",),
    numeric=("price", "age", "size", "level"),
    multivalent=("tags",),
    separator=";",
    numeric_transform="standard,age=quantiles,size=log",
    buckets=6,
    weight="w",
    time="t",
)
ALL_TEST = Split("temporal", fractions=(0.0, 0.0, 1.0), trains=False)


def day(number: int) -> pa.Table:
    """Clicks of a day; users, prices, weights and what is missing change from day to day."""
    rng = np.random.default_rng([4, number])
    user = rng.zipf(1.5, ROWS) % 60 + 2 * number
    price = rng.normal(50 * (1 + number), 10, ROWS)
    price[rng.random(ROWS) < 0.1 * (1 - number)] = np.nan  # the second day lacks none
    level = rng.normal(0, 1, ROWS)
    level[rng.random(ROWS) < 0.1 * number] = np.nan  # and the first lacks none of these
    tags = [";".join(f"t{t}" for t in rng.integers(0, 9, rng.integers(0, 4))) for _ in range(ROWS)]
    logit = np.sin(user) + 0.02 * np.nan_to_num(price - 50)
    cells = {
        "rating": 2.5 + logit + rng.normal(size=ROWS),
        "u": pa.array([None if u % 23 == 0 else f"u{u}" for u in user]),
        "price": pa.array(price, from_pandas=True),
        "age": rng.integers(0, 80 + 20 * number, ROWS),
        "size": rng.gamma(1.0, 100.0, ROWS),
        "level": pa.array(level, from_pandas=True),
        "tags": tags,
        "w": rng.gamma(2.0, 1.0 + number, ROWS),
        "t": np.arange(ROWS) + ROWS * number,
    }
    return pa.table(cells)


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw days 0 and 1, and day 0 prepared with pruned vocabularies."""
    folder = tmp_path_factory.mktemp("days")
    for number in (0, 1):
        pq.write_table(day(number), folder / f"{number}.parquet")
    pruning = Pruning(min_count=12, sizes={"u": 15})
    split = Split("temporal", fractions=(0.8, 0.1, 0.1))
    prepare_table(
        folder / "0.parquet", folder / "first", columns=COLUMNS, split=split, pruning=pruning
    )
    return folder


@pytest.fixture(scope="module")
def run(days: Path) -> Path:
    """A model of the first day."""
    data = open_data(days / "first")
    policy = recipes.method_policy("collisionless", data, 0, 4)
    fit = FitSettings(epochs=2, batch_size=64, row_lr=0.05)
    recipes.train(data, policy, days / "run", Training(ModelSettings(hidden=(8,)), fit))
    return days / "run"


def like(days: Path, out: Path, first: Path | None = None, **options: Any) -> Path:
    """Day 1, prepared like the first day."""
    rules = LikeTable.of(open_data(first or days / "first"))
    prepare_like(days / "1.parquet", out, rules, **options)
    return out


def column(data: Path, name: str) -> np.ndarray:
    parts = [pq.read_table(data / split)[name].to_numpy() for split in SPLITS]
    return np.concatenate(parts)


def test_numbers_and_weights_keep_the_figures_of_the_first_day(days: Path, tmp_path: Path) -> None:
    out = like(days, tmp_path / "out", split=ALL_TEST)
    first, second = open_data(days / "first").schema, open_data(out).schema
    assert second.preparation == first.preparation
    assert [(c.name, c.kind) for c in second.columns] == [(c.name, c.kind) for c in first.columns]
    assert second.num_rows == {"train": 0, "val": 0, "test": ROWS}
    assert (second.label, second.weight, second.time) == ("rating", "w", "t")
    assert second.options["label_rule"] == "rating >= 2.5"
    assert second.options["vocabulary"] == first.options["vocabulary"]
    assert second.options["like"] == first.fingerprint
    old, new = day(0).slice(0, ROWS * 8 // 10), day(1)
    numbers = {n: new[n].to_numpy().astype(float) for n in ("price", "age", "size", "level", "w")}
    for name in ("price", "level"):
        x = old[name].to_numpy()
        want = np.nan_to_num((numbers[name] - np.nanmean(x)) / np.nanstd(x))
        np.testing.assert_allclose(column(out, name), want, rtol=1e-5, atol=1e-5)
    assert column(out, "price").mean() > 3  # measured anew it would be 0
    assert not column(out, "price is missing").any()
    assert [c.name for c in second.numeric] == ["price", "price is missing", "size", "level"]
    np.testing.assert_allclose(column(out, "size"), np.log1p(numbers["size"]), rtol=1e-6)
    mean = old["w"].to_numpy().astype(np.float32).mean(dtype=float)
    np.testing.assert_allclose(column(out, "w"), numbers["w"] / mean, rtol=1e-5)
    bounds = np.quantile(old["age"].to_numpy(), np.arange(1, 6) / 6, method="inverted_cdf")
    want = np.searchsorted(bounds, numbers["age"], side="right")
    np.testing.assert_array_equal(column(out, "age"), want)
    np.testing.assert_array_equal(column(out, "rating"), new["rating"].to_numpy() >= 2.5)


def test_the_kept_ids_stay_kept_from_day_to_day(days: Path, tmp_path: Path) -> None:
    """Also those that the training rows of a day between do not hold."""
    few = Split("temporal", fractions=(0.02, 0.0, 0.98))
    out = like(days, tmp_path / "out", split=few)
    again = like(days, tmp_path / "again", out, split=few)
    assert pq.read_table(again / "test").equals(pq.read_table(out / "test"))
    ids, _ = read_vocabulary(days / "first", "u")
    kept = set(ids.tolist()) - {OUT_OF_VOCABULARY}
    want = [MISSING if u is None else token_id(u) for u in day(1)["u"].to_pylist()]
    want = [u if u in kept else OUT_OF_VOCABULARY for u in want]
    assert 0 < want.count(OUT_OF_VOCABULARY) < ROWS
    np.testing.assert_array_equal(column(out, "u"), want)
    seen, counts = read_vocabulary(out, "u")
    trained, number = np.unique(want[: ROWS // 50], return_counts=True)
    np.testing.assert_array_equal(seen, trained)
    np.testing.assert_array_equal(counts, number)
    assert open_data(out).schema.vocab_size("u") == len(trained) < len(kept)
    for data in map(open_data, (out, again)):
        assert set(data.kept("u").tolist()) == kept
        found = preparation_of(data, ["u", "tags", "age"])
        assert repr(found) == repr(preparation_of(open_data(days / "first"), ["u", "tags", "age"]))
        data.verify_all()
    (out / "kept" / "u.parquet").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"kept/u.parquet: damaged"):
        open_data(out).kept("u")
    (out / "kept" / "u.parquet").unlink()
    with pytest.raises(DataError, match=r"kept/u.parquet: cannot be read"):
        open_data(out).kept("u")


@pytest.mark.slow
def test_eval_and_predict_agree_on_the_new_day(
    days: Path, run: Path, seo_rec: Any, tmp_path: Path
) -> None:
    """The model of the first day scores the prepared rows as its package scores the raw ones."""
    out, raw = tmp_path / "out", days / "1.parquet"
    asked = ("--like", days / "first", "--raw", raw, "--fractions", "0,0,1", "--out", out)
    done = seo_rec("prepare", "table", *asked)
    assert done.code == 0, done.err
    export_run(run, tmp_path / "package")
    scores = tmp_path / "scores.parquet"
    done = seo_rec("predict", tmp_path / "package", "--raw", raw, "--out", scores)
    assert done.code == 0, done.err
    wanted = pq.read_table(scores)["score"].to_numpy()
    _, logits, _ = evaluate(load_trained(run), stream_of(run, open_data(out), "test"))
    found = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    assert wanted.std() > 0.05
    done = seo_rec("eval", run, out)
    assert done.code == 0, done.err
    assert json.loads(done.out)["num_rows"] == ROWS


def test_training_goes_on_from_day_to_day(
    days: Path, run: Path, seo_rec: Any, tmp_path: Path
) -> None:
    out = like(days, tmp_path / "day-1", split=Split("temporal"))
    done = seo_rec("train", out, "--from", run, "--epochs", 1, "--out", tmp_path / "next")
    assert done.code == 0, done.err
    (tmp_path / "days").mkdir()
    out.rename(tmp_path / "days" / "day-1")
    done = seo_rec("replay", tmp_path / "days", "--from", run, "--out", tmp_path / "replay")
    assert done.code == 0, done.err
    # The same options, measured anew, give other figures.
    prepare_table(days / "0.parquet", tmp_path / "apart", columns=COLUMNS, split=Split("temporal"))
    done = seo_rec("eval", run, tmp_path / "apart")
    assert done.code == 2 and "numeric_columns: other numbers for" in done.err


@pytest.mark.parametrize("words", ["none", "log", "none,size=log", "quantiles"])
def test_every_rule_of_numbers_is_followed(days: Path, tmp_path: Path, words: str) -> None:
    names = ("price", "size")
    columns = TableColumns(
        "rating >= 0", categorical=("u",), numeric=names, numeric_transform=words
    )
    first = prepare_table(days / "0.parquet", tmp_path / "first", columns=columns)
    rules = LikeTable.of(open_data(tmp_path / "first"))
    again = prepare_like(days / "0.parquet", tmp_path / "again", rules)
    assert {**again.options, "like": None} == {**first.options, "like": None}
    for split in SPLITS:
        old, new = (pq.read_table(tmp_path / folder / split) for folder in ("first", "again"))
        assert old.equals(new) and old.num_rows == first.num_rows[split]
    if words == "none,size=log":  # single columns have their own rule, and the schema says so
        assert first.options["numeric_columns"]["size"]["rule"] == "log"
        assert first.options["numeric_columns"]["price"]["rule"] == "none"


def test_rules_of_labels_are_read_as_they_are_written() -> None:
    for text in ("x >= 1234567.25", "x == yes", "x != 'it\\s'", 'x == it\'s "so"', "x < 1e-300"):
        rule = label_rule(text)
        assert rule is not None and label_rule(str(rule)) == rule


def test_options_that_the_first_day_decides_are_refused(
    days: Path, seo_rec: Any, tmp_path: Path
) -> None:
    asked = ("prepare", "table", "--raw", days / "1.parquet", "--out", tmp_path / "out")
    for more in (
        ("--label", "rating"),
        ("--numeric-transform", "log"),
        ("--min-count", 3),
        ("--weight", "w"),
        ("--separator", "/"),
        ("--missing", "empty"),
    ):
        done = seo_rec(*asked, "--like", days / "first", *more)
        assert done.code == 2
        assert f"{more[0]} with --like would be ignored" in done.err
    for more, message in [
        (("--no-vocabulary",), "--no-vocabulary counts none"),
        (("--processes", 2), "(--like)"),
    ]:
        done = seo_rec(*asked, "--like", days / "first", *more)
        assert done.code == 2 and message in done.err
    done = seo_rec(*asked)
    assert done.code == 2 and "give --label COLUMN, or --like DATA" in done.err
    assert not (tmp_path / "out").exists()


def test_data_of_another_command_are_no_example(seo_rec: Any, tmp_path: Path) -> None:
    done = seo_rec("prepare", "synthetic", "--rows", 200, "--out", tmp_path / "made")
    assert done.code == 0, done.err
    with pytest.raises(DataError, match="seo-rec prepare synthetic"):
        LikeTable.of(open_data(tmp_path / "made"))


def test_splits_are_free(days: Path, tmp_path: Path) -> None:
    """Files of each split, without training rows; and an empty training share only with rules."""
    rules = LikeTable.of(open_data(days / "first"))
    schema = prepare_like({"test": [days / "1.parquet"]}, tmp_path / "out", rules)
    assert schema.num_rows == {"train": 0, "val": 0, "test": ROWS}
    assert schema.split["rule"] == "files"
    with pytest.raises(DataError, match="split train has no rows"):
        drift(open_data(days / "first"), open_data(tmp_path / "out"))
    with pytest.raises(DataError, match="no rows in the train split"):
        prepare_table(days / "1.parquet", tmp_path / "none", columns=COLUMNS, split=ALL_TEST)
    with pytest.raises(DataError, match=r"\(--like\)"):
        like(days, tmp_path / "two", workers=Workers(2))


# ---- days of Criteo and Avazu ------------------------------------------------------------------


def criteo_day(path: Path, number: int) -> Path:
    """Lines of a day; half of the tokens are of this day alone."""
    rng = np.random.default_rng([8, number])
    lines = []
    for _ in range(400):
        tokens = [f"{rng.integers(0, 20) + 10 * number:08x}" for _ in range(26)]
        integers = ["" if rng.random() < 0.1 else str(rng.integers(0, 50)) for _ in range(13)]
        lines.append("\t".join([str(rng.integers(0, 2)), *integers, *tokens]))
    path.write_text("\n".join(lines) + "\n")
    return path


def avazu_day(path: Path, number: int) -> Path:
    rng = np.random.default_rng([9, number])
    rows = [",".join(AVAZU)]
    for i in range(400):
        tokens = [f"{rng.integers(0, 20) + 10 * number:x}" for _ in AVAZU[3:]]
        rows.append(",".join([str(i), str(rng.integers(0, 2)), f"141021{i % 24:02d}", *tokens]))
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize(
    "source, write, more",
    [
        ("criteo", criteo_day, ("--embed-numeric", "--missing", "empty")),
        ("avazu", avazu_day, ()),
    ],
)
def test_a_later_day_of_logs_keeps_the_ids_of_the_first(
    seo_rec: Any, tmp_path: Path, source: str, write: Any, more: tuple[str, ...]
) -> None:
    first, later = (write(tmp_path / f"raw{n}", n) for n in (0, 1))
    prepare = ("prepare", source, "--raw")
    done = seo_rec(*prepare, first, "--out", tmp_path / "0", "--min-count", "5", *more)
    assert done.code == 0, done.err
    like = ("--like", tmp_path / "0")
    done = seo_rec(*prepare, later, "--out", tmp_path / "1", *like, "--fractions", "0,0,1")
    assert done.code == 0, done.err
    old, new = open_data(tmp_path / "0"), open_data(tmp_path / "1")
    assert new.schema.num_rows == {"train": 0, "val": 0, "test": 400}
    new.require_rules(old.schema.preparation, "the model")
    assert new.schema.options["like"] == old.fingerprint
    seo_rec(*prepare, later, "--out", tmp_path / "whole", *more, "--fractions", "0.8,0.1,0.1")
    plain = {s: open_data(tmp_path / "whole").stream(s, batch_size=400) for s in SPLITS}
    name = new.schema.features[-1].name
    kept = old.kept(name)
    assert kept is not None and 5 < len(kept) < 40
    np.testing.assert_array_equal(new.kept(name), kept)
    found = ids_of(new, "test", name)
    every = np.concatenate([b.sparse[name].values().numpy() for s in plain.values() for b in s])
    wanted = np.where(np.isin(every, kept), every, OUT_OF_VOCABULARY)
    np.testing.assert_array_equal(np.sort(found), np.sort(wanted))
    assert 0.2 < (found == OUT_OF_VOCABULARY).mean() < 0.8
    done = seo_rec(*prepare, later, "--out", tmp_path / "x", *like, "--missing", "empty")
    assert done.code == 2 and "--missing with --like would be ignored" in done.err
    other = "avazu" if source == "criteo" else "criteo"
    done = seo_rec("prepare", other, "--raw", later, "--out", tmp_path / "x", *like)
    assert done.code == 2 and f"was made by `seo-rec prepare {source}`" in done.err


def ids_of(data: Any, split: str, name: str) -> np.ndarray:
    batches = data.stream(split, batch_size=400, columns=[name])
    return np.concatenate([b.sparse[name].values().numpy() for b in batches])
