"""The frozen preparation makes of raw cells what ``seo-rec prepare`` made of them."""

from __future__ import annotations

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest
from served import CLICK_COLUMNS

from seo_rec.data.avazu import HEADER, prepare_avazu
from seo_rec.data.criteo import prepare_criteo
from seo_rec.data.dataset import open_data
from seo_rec.data.movielens import prepare_movielens
from seo_rec.data.numeric import NumericRule
from seo_rec.data.rawfile import Intake
from seo_rec.data.shards import read_shards
from seo_rec.data.split import Split
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.data.tokens import MISSING, OUT_OF_VOCABULARY
from seo_rec.data.vocabulary import Pruning
from seo_rec.export.preparation import preparation_of
from seo_rec.policy import Feature, Lookup, Policy, Table
from seo_rec.schema import DataError
from seo_rec.serve.bags import RowError
from seo_rec.serve.predict import _Reader
from seo_rec.serve.preparation import Preparation
from seo_rec.serve.preparation_rules import Column

IN_ORDER = Split("temporal", 42, (0.8, 0.1, 0.1))  # so that the shards are in file order


def equals_prepared(data, raw, delimiter=None) -> None:
    """Every id, bag and number of the prepared rows, read again from the raw file."""
    schema = data.schema
    preparation = preparation_of(data, [c.name for c in schema.features])
    features = tuple(Feature(c.name, (Lookup("a"),)) for c in schema.features)
    policy = Policy((Table("a", 1, 1),), features)
    blocks = list(_Reader(preparation, policy, (), Intake()).blocks([raw], delimiter))
    shards = [t for split in ("train", "val", "test") for t in read_shards(data.path / split)]
    table = pa.concat_tables(shards)
    wanted = preparation.prepared(table)
    for c in preparation.embedded:
        ids = np.concatenate([b.inputs.columns[c.name].ids for b in blocks])
        counts = np.concatenate([b.inputs.columns[c.name].counts() for b in blocks])
        np.testing.assert_array_equal(ids, wanted.columns[c.name].ids, err_msg=c.name)
        np.testing.assert_array_equal(counts, wanted.columns[c.name].counts(), err_msg=c.name)
    dense = np.concatenate([b.inputs.dense_BN for b in blocks])
    np.testing.assert_array_equal(dense, wanted.dense_BN)
    assert len(dense) == table.num_rows > 20


@pytest.mark.parametrize("missing", ["token", "empty"])
@pytest.mark.parametrize(
    ("transform", "numeric_missing"),
    [
        ("none", None),
        ("log", None),
        ("standard", None),
        ("standard", "zero"),
        ("quantiles", None),
        ("log,price=quantiles", "indicator"),
    ],
)
def test_tables(clicks, missing, transform, numeric_missing, tmp_path):
    columns = TableColumns(
        CLICK_COLUMNS.label,
        CLICK_COLUMNS.categorical,
        CLICK_COLUMNS.numeric,
        CLICK_COLUMNS.multivalent,
        numeric_transform=transform,
        numeric_missing=numeric_missing,
        missing=missing,
    )
    pruning = Pruning(min_count=3, sizes={"item": 50, "tags": 9})
    prepare_table(clicks.raw, tmp_path / "d", columns=columns, split=IN_ORDER, pruning=pruning)
    data = open_data(tmp_path / "d")
    equals_prepared(data, clicks.raw)
    packed = tmp_path / "raw.csv.gz"
    packed.write_bytes(gzip.compress(clicks.raw.read_bytes()))
    equals_prepared(data, packed)


@pytest.mark.parametrize("embed_numeric", [False, True])
@pytest.mark.parametrize("missing", ["token", "empty"])
def test_criteo(embed_numeric, missing, tmp_path):
    rng = np.random.default_rng(1)
    lines = []
    for i in range(60):
        numbers = [str(int(x)) for x in rng.integers(-3, 2000, 13)]
        tokens = [f"{x:08x}" for x in rng.integers(0, 9, 26)]
        for place in rng.integers(0, 13, 3):
            numbers[place] = ""
        for place in rng.integers(0, 26, 3):
            tokens[place] = ""
        lines.append("\t".join([str(i % 2), *numbers, *tokens]))
    raw = tmp_path / "train.txt"
    raw.write_text("\n".join(lines) + "\n")
    prepare_criteo(
        raw, tmp_path / "d", embed_numeric=embed_numeric, missing=missing, split=IN_ORDER
    )
    equals_prepared(open_data(tmp_path / "d"), raw)
    without_labels = tmp_path / "test.txt"
    without_labels.write_text("\n".join(line.split("\t", 1)[1] for line in lines) + "\n")
    equals_prepared(open_data(tmp_path / "d"), without_labels)


def test_avazu(tmp_path):
    rng = np.random.default_rng(2)
    lines = [",".join(HEADER)]
    for i in range(60):
        cells = [str(x) for x in rng.integers(0, 50, len(HEADER) - 3)]
        cells[3] = "" if i % 7 == 0 else cells[3]
        lines.append(
            ",".join([str(10**18 + i), str(i % 2), f"1410{21 + i % 9}{i % 24:02d}", *cells])
        )
    raw = tmp_path / "train.csv"
    raw.write_text("\n".join(lines) + "\n")
    prepare_avazu(raw, tmp_path / "d", split=IN_ORDER)
    equals_prepared(open_data(tmp_path / "d"), raw)
    bad = tmp_path / "bad.csv"
    cells = lines[9].split(",")
    bad.write_text("\n".join([*lines[:9], ",".join([*cells[:2], "14102199", *cells[3:]])]) + "\n")
    with pytest.raises(DataError, match=r"bad.csv: line 10, column 'hour': not an hour"):
        equals_prepared(open_data(tmp_path / "d"), bad)


def test_movielens(tmp_path):
    """Raw rows of a service have the users' columns in them already."""
    users = {i: ("F" if i % 2 else "M", str(18 + i), str(i % 5), f"0{i}067") for i in range(1, 9)}
    (tmp_path / "users.dat").write_text(
        "".join(f"{i}::{'::'.join(cells)}\n" for i, cells in users.items())
    )
    rows = [(1 + i % 8, 1 + i % 13, 1 + (i * 7) % 5) for i in range(80)]
    (tmp_path / "ratings.dat").write_text("".join(f"{u}::{m}::{r}::0\n" for u, m, r in rows))
    prepare_movielens(tmp_path, tmp_path / "d", rating_rule="ge-4")
    data = open_data(tmp_path / "d")
    raw = tmp_path / "rows.csv"
    raw.write_text(
        "user,movie,gender,age,occupation,zip\n"
        + "".join(f"{u},{m},{','.join(users[u])}\n" for u, m, _ in rows)
    )
    preparation = preparation_of(data, [c.name for c in data.schema.features])
    found = preparation.encode(pacsv.read_csv(raw, convert_options=_as_text()))
    prepared = pa.concat_tables(
        [t for split in ("train", "val", "test") for t in read_shards(data.path / split)]
    )
    wanted = preparation.prepared(prepared)
    names = [c.name for c in preparation.embedded]
    ours = sorted(zip(*(found.columns[n].ids.tolist() for n in names), strict=True))
    theirs = sorted(zip(*(wanted.columns[n].ids.tolist() for n in names), strict=True))
    assert ours == theirs


def _as_text():
    names = ("user", "movie", "gender", "age", "occupation", "zip")
    return pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))


# ---- cells of every type -------------------------------------------------------------------


def single(**rules) -> Preparation:
    return Preparation("table", "y", {}, (Column("c", "categorical", **rules),))


def ids_of(values, **rules):
    return single(**rules).encode(pa.table({"c": values})).columns["c"].ids.tolist()


def test_one_value_has_one_id_however_it_is_stored():
    wanted = [7, 0, MISSING, 10**17]
    for values in (
        pa.array(["7", "0", None, "100000000000000000"]),
        pa.array([7, 0, None, 10**17]),
        pa.array([b"7", b"0", b"", b"100000000000000000"]),
        pa.array(["7", "0", "", "100000000000000000"]).dictionary_encode(),
        pa.array(["7", "0", "", "100000000000000000"], pa.large_string()),
    ):
        assert ids_of(values) == wanted
    assert ids_of(pa.array([7.0, 0.0, float("nan"), 2.0])) == [7, 0, MISSING, 2]
    assert ids_of(pa.array([True, False])) == [1, 0]
    assert ids_of(pa.array([2**63 - 1], pa.int64())) == ids_of(pa.array(["9223372036854775807"]))
    assert ids_of(pa.array([2**63], pa.uint64())) == ids_of(pa.array(["9223372036854775808"]))
    assert ids_of(pa.array(["x", "7"]), kept=np.array([7])) == [OUT_OF_VOCABULARY, 7]


@pytest.mark.parametrize(
    "rule",
    [
        Column(
            "x", "numeric", "standard", numbers=NumericRule("standard", 2.0, 4.0, indicator=True)
        ),
        Column(
            "x", "categorical", "quantiles", numbers=NumericRule("quantiles", bounds=(1.0, 2.0))
        ),
    ],
)
def test_numbers_may_be_stored_as_text(rule):
    preparation = Preparation("table", "y", {}, (rule,))
    texts, numbers = ["1.5", None, "", "nan", "-3e2"], [1.5, None, None, None, -300.0]
    found = preparation.encode(pa.table({"x": pa.array(texts)}))
    wanted = preparation.encode(pa.table({"x": pa.array(numbers)}))
    np.testing.assert_array_equal(found.dense_BN, wanted.dense_BN)
    assert found.dense_BN.shape == (5, rule.num_dense)
    for name, bags in wanted.columns.items():
        np.testing.assert_array_equal(found.columns[name].ids, bags.ids)
    with pytest.raises(RowError, match="'x': not a number, got 'cheap'") as caught:
        preparation.encode(pa.table({"x": pa.array(["1", "cheap"])}))
    assert caught.value.row == 1


@pytest.mark.parametrize("bad", [float("inf"), 1e39, -1e300])
def test_numbers_that_are_not_finite(bad):
    rule = Preparation("table", "y", {}, (Column("x", "numeric", "none"),))
    with pytest.raises(RowError, match="row 1, column 'x': not a finite number, got"):
        rule.encode(pa.table({"x": [0.0, bad]}))
    found = rule.encode(pa.table({"x": [float("nan"), None, 3]}))
    assert found.dense_BN.tolist() == [[0], [0], [3]]


@pytest.mark.parametrize("below", [-1e19, -3e38])
def test_a_bucket_of_a_number_that_64_bits_do_not_hold(below):
    rule = Preparation("table", "y", {}, (Column("x", "categorical", "bucket"),))
    found = rule.encode(pa.table({"x": [-(2.0**63), 1e19, 3.4e38]})).columns["x"].ids
    assert found[1:].tolist() == [1913, 7871]
    with pytest.raises(RowError, match=r"row 1, column 'x': not a whole number from -2\^63, got"):
        rule.encode(pa.table({"x": [0.0, below]}))


def test_fractions_are_no_ids():
    with pytest.raises(RowError, match=r"row 2, column 'c': not a whole number, got '1\.5'"):
        ids_of(pa.array([1.0, 2.0, 1.5]))


def test_columns_that_are_missing_or_twice():
    with pytest.raises(DataError, match=r"the rows lack the columns \['c'\]; given are \['d'\]"):
        single().encode(pa.table({"d": [1]}))
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["c", "c"])
    with pytest.raises(DataError, match=r"columns \['c'\] twice"):
        single().encode(twice)
    with pytest.raises(DataError, match="column 'c' has type list"):
        single().encode(pa.table({"c": [[1]]}))


def test_weights_follow_their_ids():
    """Elements that are dropped take their weights with them."""
    rule = Preparation("table", "y", {}, (Column("t", "multivalent"),))
    lists = pa.table({"t": [["a", None, "7"], [], None, ["", "5"]]})
    weights = {"t": [[1.0, 2.0, 3.0], [], None, [4.0, 5.0]]}
    bags = rule.encode(lists, weights).columns["t"]
    assert bags.lengths.tolist() == [2, 0, 0, 1]
    assert bags.weights.tolist() == [1.0, 3.0, 5.0]
    assert bags.ids.tolist()[1:] == [7, 5]
    for bad, message in (
        ({"t": [[1.0], [], None, [4.0, 5.0]]}, "lists of other lengths"),
        ({"t": [[1.0, 2.0, np.inf], [], None, [4.0, 5.0]]}, "not a finite number"),
        ({"u": []}, r"weights are given for \['u'\]"),
    ):
        with pytest.raises(DataError, match=message):
            rule.encode(lists, bad)
