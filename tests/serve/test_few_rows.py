"""Few rows read in plain Python are what Arrow makes of them, bit for bit, or are left to Arrow."""

from __future__ import annotations

import datetime
import math
import random
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from small_package import ROWS, small_package

from seo_rec.data.numeric import NumericRule
from seo_rec.schema import DataError
from seo_rec.serve.bags import Inputs, RowError
from seo_rec.serve.few_rows import MAX_ROWS
from seo_rec.serve.predictor import Predictor, as_table
from seo_rec.serve.preparation import Preparation
from seo_rec.serve.preparation_rules import Column

TRIALS = 10  # of each rule with each type of cells
KEPT = np.array([0, 1, 7, 17, 2**62 - 1, 2**62 + 12345])
NUMBERS = {
    "none": NumericRule(),
    "none, marked": NumericRule(indicator=True),
    "log": NumericRule("log", indicator=True),
    "standard": NumericRule("standard", 2.3, 0.7, indicator=True),
    "quantiles": NumericRule("quantiles", bounds=(-1.5, 0.0, 7.0, 1e6)),
}
RULES: dict[str, Column] = {
    **{
        f"numeric, {name}": Column("c", "numeric", rule.rule, numbers=rule)
        for name, rule in NUMBERS.items()
        if name != "quantiles"
    },
    "numeric, shifted_log": Column("c", "numeric", "shifted_log", shift=3),
    **{
        f"{rule}, {missing}{', kept' if kept is not None else ''}": Column(
            "c", "categorical", rule, missing, kept=kept, numbers=NUMBERS.get(rule, NumericRule())
        )
        for rule in ("token", "value", "bucket", "hour_of_day", "quantiles")
        for missing in ("token", "empty")
        for kept in (None, KEPT)
    },
    "nothing kept": Column("c", "categorical", kept=KEPT[:0]),
    "lists": Column("c", "multivalent"),
    "lists, kept": Column("c", "multivalent", kept=KEPT),
    "lists by value, ::": Column("c", "multivalent", "value", separator="::"),
}
TEXTS = [
    "", "0", "7", "007", "17", "-5", "-0", "-0.0", "1.0", "1.", "1.50", "01.0", "1e3", "0x1f",
    "true", "True", "FALSE", "tRue", "nan", "NaN", "x", "drama|war", "a::b", "|", "::", "a||7",
    " 7", "7 ", "7\n", "1.0\n", "é", "٣", "−3", "\x00", "a\x00b", "68fd1e64", "x" * 300,
    "9" * 18, "9" * 19, "1" + "0" * 17,
    "2024-01-02T03:00:00.00", "2024-01-02 00:00:00", "2024-01-02 03:00:00+00:00", "2024-01-02",
]  # fmt: skip
WHOLE = [0, 1, 2, 3, 7, 17, -1, -3, 100, 14102105, 14102123, 14102124, 10**18 - 1, 10**18,
         2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)]  # fmt: skip
FLOATS = [0.0, -0.0, 1.0, 1.5, 2.0, -3.0, 7.0, 3.7, 1e-3, 123456.0, 14102105.0, 2.0**53, 1e6,
          1e18, -1e18, 3.4e38, 1e39, math.inf, -math.inf, math.nan, -1.5, 1e300]  # fmt: skip
CELLS: dict[str, Callable[[random.Random], Any]] = {
    "text": lambda r: r.choice(TEXTS),
    "bytes": lambda r: r.choice([t.encode() for t in TEXTS] + [b"\xff\xfe", b"7\xff"]),
    "whole": lambda r: r.choice(WHOLE),
    "small whole": lambda r: r.randrange(-4, 30),
    "hours": lambda r: 14102100 + r.randrange(25),
    "floats": lambda r: r.choice(FLOATS),
    "whole floats": lambda r: float(r.randrange(-4, 3000)),
    "fractions": lambda r: r.uniform(-1e4, 1e4),
    "truth": lambda r: r.random() < 0.5,
    "dates": lambda r: datetime.date(2024, 1, 1 + r.randrange(28)),
    "times": lambda r: datetime.datetime(2024, 1, 2, r.randrange(3)),
    "decimals": lambda r: Decimal(r.choice(["1.00", "7.00", "2.50", "-3.00"])),
    "huge": lambda r: 2**63 + r.randrange(5),
    "numbers": lambda r: r.choice([r.choice(WHOLE), r.choice(FLOATS)]),
    "mixed": lambda r: r.choice([r.choice(TEXTS), r.choice(WHOLE), True]),
    "other": lambda r: r.choice([np.int64(7), np.float32(1.5), {"a": 1}, ("x",)]),
    "long text": lambda r: "x" * r.choice([3, 999, 1000, 1001, 12_000]),
    "surrogates": lambda r: r.choice(["a", "\ud800"]),
    "texts": lambda r: [r.choice([*TEXTS, None]) for _ in range(r.randrange(4))],
    "wholes": lambda r: [r.choice([*WHOLE, None]) for _ in range(r.randrange(4))],
    "lists of floats": lambda r: [r.choice([*FLOATS[:6], None]) for _ in range(r.randrange(3))],
    "lists of truth": lambda r: [r.choice([True, False, None]) for _ in range(r.randrange(3))],
    "lists of lists": lambda r: [[1], []],
    "long lists": lambda r: list(range(r.choice([3, 1200]))),
    "mixed lists": lambda r: [r.choice(["a", 1, 1.5]) for _ in range(3)],
    "nothing": lambda r: None,
}  # fmt: skip
TYPES = [pa.int8(), pa.uint64(), pa.float32(), pa.float16(), pa.large_string(), pa.string_view(),
         pa.dictionary(pa.int32(), pa.string()), pa.large_list(pa.string()),
         pa.list_(pa.string(), 2), pa.list_(pa.large_string())]  # fmt: skip
READ = {  # what plain Python must not leave to Arrow, as long as Arrow reads it
    "numeric": {"small whole", "whole floats", "fractions", "truth", "nothing"},
    "categorical": {"text", "bytes", "small whole", "whole floats", "truth", "nothing"},
    "multivalent": {"text", "texts", "wholes", "lists of truth", "nothing"},
}


def by_arrow(preparation: Preparation, rows: Any) -> Inputs | None:
    """What :meth:`Preparation.encode` makes of rows; None if it refuses them."""
    try:
        return preparation.encode(as_table(rows))
    except (DataError, pa.ArrowException, TypeError, ValueError, OverflowError):
        return None


def assert_same(found: Inputs, wanted: Inputs) -> None:
    assert found.dense_BN.dtype == wanted.dense_BN.dtype
    assert found.dense_BN.shape == wanted.dense_BN.shape
    assert found.dense_BN.tobytes() == wanted.dense_BN.tobytes()
    assert list(found.columns) == list(wanted.columns)
    for name, bags in wanted.columns.items():
        ours = found.columns[name]
        assert ours.ids.dtype == np.int64
        assert ours.ids.tolist() == bags.ids.tolist(), name
        assert (ours.lengths is None) == (bags.lengths is None), name
        if ours.lengths is not None and bags.lengths is not None:
            assert ours.lengths.dtype == bags.lengths.dtype == np.int64
            assert ours.lengths.tolist() == bags.lengths.tolist(), name
        assert ours.weights is None and bags.weights is None


def random_cells(r: random.Random, kind: str, rows: int) -> list[Any]:
    missing = r.choice([0.0, 0.0, 0.3])
    return [None if r.random() < missing else CELLS[kind](r) for _ in range(rows)]


@pytest.mark.parametrize("name", RULES)
def test_every_rule_on_every_type_of_cells(name: str) -> None:
    r = random.Random(name)
    rule = RULES[name]
    preparation = Preparation("table", "y", {}, (rule,))
    read = dict.fromkeys(CELLS, 0)
    for kind in CELLS:
        for _ in range(TRIALS):
            cells = random_cells(r, kind, r.choice([1, 1, 2, 9]))
            wanted = by_arrow(preparation, {"c": cells})
            few = preparation.few_rows.read({"c": cells})
            if few is None:
                continue
            assert wanted is not None, cells
            assert_same(preparation.few_rows.encode([few]), wanted)
            read[kind] += 1
    computed = rule.rule in ("bucket", "hour_of_day", "quantiles")
    must = {"hours"} if rule.rule == "hour_of_day" else READ["numeric" if computed else rule.kind]
    left = {"fractions"} if rule.rule == "bucket" else set()
    assert not [kind for kind in must - left if not read[kind]]


@pytest.mark.parametrize("name", RULES)
def test_every_rule_on_arrow_types(name: str) -> None:
    r = random.Random(name)
    preparation = Preparation("table", "y", {}, (RULES[name],))
    read = 0
    for kind in CELLS:
        for type_ in [None, *TYPES]:
            try:
                array = pa.array(random_cells(r, kind, r.choice([1, 3])), type_)
            except (pa.ArrowException, TypeError, ValueError, OverflowError):
                continue
            table = pa.table({"other": [[1]] * len(array), "c": array})
            wanted = by_arrow(preparation, table)
            for rows in (table, table.to_batches()[0]):
                few = preparation.few_rows.read(rows)
                if few is not None:
                    assert wanted is not None, array
                    assert_same(preparation.few_rows.encode([few]), wanted)
                    read += 1
    assert read


def test_all_columns_together_and_pieces_together() -> None:
    """Columns of all rules side by side; pieces of different types are encoded as one."""
    r = random.Random(1)
    of = {
        "numeric": ["small whole", "whole floats", "fractions", "truth", "nothing"],
        "categorical": ["text", "small whole", "whole floats", "truth", "nothing"],
        "multivalent": ["texts", "wholes", "text", "nothing"],
    }
    columns = [replace(rule, name=f"c{i}") for i, rule in enumerate(RULES.values())]
    r.shuffle(columns)
    columns.sort(key=lambda c: c.kind != "numeric")
    preparation = Preparation("table", "y", {}, tuple(columns))
    few_rows = preparation.few_rows
    for _ in range(20):
        pieces, wanted = [], []
        for _ in range(r.randrange(1, 5)):
            rows = r.choice([1, 1, 3, 40])
            cells = {}
            for c in columns:
                kind = r.choice(of[c.kind])
                if c.rule == "hour_of_day":
                    cells[c.name] = [14102100 + r.randrange(24) for _ in range(rows)]
                elif c.rule in ("bucket", "quantiles"):
                    cells[c.name] = random_cells(r, "small whole", rows)
                else:
                    cells[c.name] = random_cells(r, kind, rows)
            few = few_rows.read(cells)
            encoded = by_arrow(preparation, cells)
            assert few is not None and encoded is not None
            assert len(few) == rows
            pieces.append(few)
            wanted.append(encoded)
        together = few_rows.encode(pieces)
        start = 0
        for piece, one in zip(pieces, wanted, strict=True):
            assert_same(together.slice(start, start + len(piece)), one)
            start += len(piece)
        assert start == len(together)


def test_numbers_do_not_depend_on_their_neighbours() -> None:
    """The logarithm of one number, and of many at once, is the same to the bit."""
    r = random.Random(2)
    rules = ["numeric, log", "numeric, standard", "numeric, shifted_log", "bucket, token"]
    columns = tuple(
        Column(
            f"c{i}", RULES[n].kind, RULES[n].rule, shift=RULES[n].shift, numbers=RULES[n].numbers
        )
        for i, n in enumerate(rules)
    )
    preparation = Preparation("table", "y", {}, columns)
    for rows in (1, 2, 3, 7, 8, 31, MAX_ROWS):
        for _ in range(20):
            cells: dict[str, list[Any]] = {
                c.name: random_cells(r, "fractions", rows) for c in columns
            }
            cells["c3"] = [r.choice([None, float(r.randrange(-5, 10**r.randrange(1, 15)))])
                           for _ in range(rows)]  # fmt: skip
            few = preparation.few_rows.read(cells)
            wanted = by_arrow(preparation, cells)
            assert few is not None and wanted is not None
            assert_same(preparation.few_rows.encode([few]), wanted)


@pytest.mark.parametrize(
    "rows",
    [
        {},
        {"c": []},
        {"c": ["a"] * (MAX_ROWS + 1)},
        {"d": ["a"]},
        {"c": ("a",)},
        {"c": np.array([1, 2])},
        {"c": pa.array([1])},
        [{"c": "a"}],
        pa.table({"c": ["a"] * (MAX_ROWS + 1)}),
        pa.table({"c": pa.array([], pa.string())}),
        pa.table([pa.array([1]), pa.array([2])], names=["c", "c"]),
        pa.table({"d": ["a"]}),
    ],
    ids=[
        "nothing", "no-rows", "many-rows", "another-column", "tuple", "numpy", "arrow", "list",
        "table-many-rows", "table-no-rows", "table-one-name-twice", "table-another-column",
    ],
)  # fmt: skip
def test_what_is_left_to_arrow(rows: Any) -> None:
    preparation = Preparation("table", "y", {}, (Column("c", "categorical"),))
    assert preparation.few_rows.read(rows) is None


def test_columns_of_different_lengths_are_left_to_arrow() -> None:
    columns = (Column("x", "numeric", "none"), Column("c", "categorical"))
    few_rows = Preparation("table", "y", {}, columns).few_rows
    assert few_rows.read({"x": [1, 2], "c": ["a"]}) is None
    assert few_rows.read({"x": [1, 2], "c": ["a", "b"], "other": [object()]}) is not None


def test_a_predictor_scores_few_rows_as_many(tmp_path: Path) -> None:
    """Dicts, tables and frames, by one row or by all; columns that are not read do not matter."""
    predictor = Predictor.load(small_package(tmp_path / "p"), engine="numpy")
    rows_of: dict[str, Any] = dict(ROWS)
    encode = mock.Mock(side_effect=predictor.preparation.encode)
    with mock.patch.object(Preparation, "encode", encode):
        wanted = predictor({name: pa.array(cells) for name, cells in rows_of.items()})
        assert encode.call_count == 1
        table = pa.table(ROWS)
        for rows in (ROWS, {**ROWS, "other": [1, "x"]}, table, table.to_batches()[0], frame(table)):
            assert predictor(rows).tolist() == wanted.tolist()
        by_row = [predictor({k: [v[i]] for k, v in rows_of.items()})[0] for i in range(4)]
        assert by_row == wanted.tolist()
        assert encode.call_count == 1
        weighted = predictor(ROWS, {"user": [1.0, 1.0, 1.0, 1.0]})
        assert weighted.tolist() == pytest.approx(wanted.tolist())
        many = predictor({name: cells * MAX_ROWS for name, cells in rows_of.items()})
        assert many.tolist() == wanted.tolist() * MAX_ROWS
        assert encode.call_count == 3
    with pytest.raises(RowError, match=r"row 1, column 'price': not a finite number"):
        predictor({**ROWS, "price": [1.0, float("inf"), 0.0, 0.0]})
    with pytest.raises(DataError, match=r"lack the columns \['user'\]; given are \['price', 'ot"):
        predictor({"price": [1.0], "other": [2], "stock": [1], "item": [[]]})


def frame(table: Any) -> Any:
    """A frame of another library: all that is known of it is how Arrow reads it."""

    class Frame:
        def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
            return table.__arrow_c_stream__(requested_schema)

    return Frame()
