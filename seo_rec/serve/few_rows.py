"""Few rows as ids and numbers in plain Python: a request of one row, say.

A call of Arrow costs some 10 microseconds, however few cells it reads, and a column needs about
ten calls. Here each cell is read by itself, and all columns share one call of each step. The result
equals :meth:`Preparation.encode` bit for bit. Cells that are not read here (times, decimals, text
in numeric columns, and everything that is an error) are left to that method, which also has the
messages.

Letters: B rows, n numeric columns.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seo_rec.data.numeric import transformed
from seo_rec.data.tokens import FIRST_HASHED_NUMBER, MISSING, hash_few
from seo_rec.data.values import one_form
from seo_rec.data.vocabulary import prune
from seo_rec.serve.bags import Bags, Ids, Inputs
from seo_rec.serve.cells import shifted_log
from seo_rec.serve.preparation_rules import LARGEST, Column

MAX_ROWS = 128  # of one table; more are faster by Arrow
_MAX_TEXT = 1_000  # bytes of a text; the hash takes time for each
_MAX_LIST = 1_000  # cells of a column's lists
_EXACT = 2**53  # floats hold all whole numbers up to here
_TEXTS = {pa.string(), pa.large_string(), pa.binary(), pa.large_binary()}
_NUMBERS = {
    pa.null(), pa.bool_(), pa.float32(), pa.float64(),
    pa.int8(), pa.int16(), pa.int32(), pa.int64(),
    pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
}  # fmt: skip
_SINGLES = _TEXTS | _NUMBERS
_LISTS = _TEXTS | {pa.null()} | {pa.list_(kind) for kind in _SINGLES}

Cell = bytes | int | None  # a text to hash, an id, or nothing


class _Unread(Exception):
    """Cells that :meth:`Preparation.encode` reads or refuses."""


@dataclass(frozen=True)
class Few:
    """Rows whose cells have been read; several can be encoded together.

    Args:
        rows: B.
        numbers: Of each numeric column B numbers, NaN where there is none.
        cells: Of each other column the texts and ids, row after row.
        lengths: Of each of these columns None, or how many cells each row has.
    """

    rows: int
    numbers: list[list[float]]
    cells: list[list[Cell]]
    lengths: list[list[int] | None]

    def __len__(self) -> int:
        return self.rows


class FewRows:
    """Reads and encodes few rows by the rules of their columns.

    Args:
        columns: The columns of a :class:`Preparation`.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._names = [c.name for c in columns]
        self._types = [_types(c) for c in columns]
        self._numeric = [c for c in columns if c.kind == "numeric"]
        self._embedded = [c for c in columns if c.kind != "numeric"]
        self._readers = [(c.name, _reader(c)) for c in self._embedded]
        self._steps = _steps(self._numeric)
        self._num_dense = sum(c.num_dense for c in columns)
        ends = np.cumsum([c.num_dense for c in self._numeric], dtype=np.int64)
        starts = ends - [c.num_dense for c in self._numeric]
        self._places = starts
        marked = np.flatnonzero(np.diff(starts, append=self._num_dense) == 2)
        self._marked, self._marks = marked, starts[marked] + 1

    def read(self, rows: Any) -> Few | None:
        """The cells of rows, or None if :meth:`Preparation.encode` has to read them.

        Args:
            rows: A dict of lists, or an Arrow table or record batch.
        """
        try:
            cells = self._lists(rows)
            size = len(cells[0]) if cells else 0
            if not 0 < size <= MAX_ROWS or any(len(column) != size for column in cells):
                return None
            of = dict(zip(self._names, cells, strict=True))
            numbers = [_floats(of[c.name]) for c in self._numeric]
            read = [reader(of[name]) for name, reader in self._readers]
        except (_Unread, UnicodeError):
            return None
        return Few(size, numbers, [found for found, _ in read], [sizes for _, sizes in read])

    def _lists(self, rows: Any) -> list[list[Any]]:
        """The cells of the columns that are read, as lists of Python values."""
        if type(rows) is dict:
            found = [rows.get(name) for name in self._names]
            if not all(type(column) is list for column in found):
                raise _Unread
            return found  # type: ignore[return-value]
        if not isinstance(rows, pa.Table | pa.RecordBatch) or rows.num_rows > MAX_ROWS:
            raise _Unread
        places = {name: i for i, name in enumerate(rows.schema.names)}
        if len(places) < rows.num_columns or not places.keys() >= set(self._names):
            raise _Unread
        columns = [rows.column(places[name]) for name in self._names]
        if any(c.type not in known for c, known in zip(columns, self._types, strict=True)):
            raise _Unread
        return [column.to_pylist() for column in columns]

    def encode(self, pieces: Sequence[Few]) -> Inputs:
        """The ids and numbers of all rows of all pieces, in order."""
        rows = sum(map(len, pieces))
        flat: list[Cell] = []
        ends = []
        changing: list[int] = []  # places of texts that may have another form
        for j, c in enumerate(self._embedded):
            start = len(flat)
            for piece in pieces:
                flat += piece.cells[j]
            ends.append(len(flat))
            if c.rule == "value":
                changing += [i for i in range(start, len(flat)) if _may_change(flat[i])]
        if changing:
            changed = one_form(pa.array([flat[i] for i in changing], pa.large_binary()))
            for i, text in zip(changing, changed.to_pylist(), strict=True):
                flat[i] = text
        ids = _ids(flat)
        columns = {}
        for j, c in enumerate(self._embedded):
            start = ends[j - 1] if j else 0
            columns[c.name] = _bags(c, ids[start : ends[j]], flat, start, pieces, j)
        return Inputs(self._dense(rows, pieces), columns)

    def _dense(self, rows: int, pieces: Sequence[Few]) -> npt.NDArray[np.float32]:
        """float32 (B, N)."""
        dense = np.empty((rows, self._num_dense), np.float32)
        if self._numeric:
            flat = [x for j in range(len(self._numeric)) for p in pieces for x in p.numbers[j]]
            x_nB = np.array(flat, np.float64).reshape(-1, rows)
            for places, step in self._steps:
                dense[:, self._places[places]] = step(x_nB[places]).T
            if len(self._marked):
                dense[:, self._marks] = np.isnan(x_nB[self._marked]).T
        return dense


def _types(c: Column) -> set[Any]:
    """The Arrow types of a column that are read here."""
    if c.kind == "multivalent":
        return _LISTS
    return _SINGLES if c.kind == "categorical" and c.rule in ("token", "value") else _NUMBERS


def _steps(numeric: Sequence[Column]) -> list[tuple[Any, Callable[..., Any]]]:
    """For each rule the numeric columns that have it, and what computes their numbers."""
    found: list[tuple[Any, Callable[..., Any]]] = []
    for rule in sorted({c.rule for c in numeric}):
        places = np.array([i for i, c in enumerate(numeric) if c.rule == rule], np.int64)
        here = [numeric[i] for i in places]
        if rule == "shifted_log":
            shift = np.array([[float(c.shift)] for c in here])
            found.append((places, partial(shifted_log, shift=shift)))
        else:
            mean = np.array([[c.numbers.mean] for c in here])
            scale = np.array([[c.numbers.scale] for c in here])
            found.append((places, partial(transformed, rule=rule, mean=mean, scale=scale)))
    return found


# ---- cells -----------------------------------------------------------------------------------


def _reader(c: Column) -> Callable[[list[Any]], tuple[list[Cell], list[int] | None]]:
    """What reads the cells of a categorical or multivalent column."""
    if c.kind == "multivalent":
        return partial(_lists, separator=c.separator)
    if c.rule == "bucket":
        return lambda cells: ([_bucket(x) for x in _floats(cells)], None)
    if c.rule == "hour_of_day":
        return lambda cells: ([_hour(x) for x in _floats(cells)], None)
    if c.rule == "quantiles":
        bounds = c.numbers.bounds
        return lambda cells: (
            [None if math.isnan(x) else bisect_right(bounds, x) for x in _floats(cells)], None
        )  # fmt: skip
    return lambda cells: (_tokens(cells), None)


def _floats(cells: list[Any]) -> list[float]:
    """The numbers of cells, NaN for a missing one."""
    kinds = set(map(type, cells))
    kinds.discard(type(None))
    if kinds - {float} and kinds != {bool}:
        if kinds - {int, float}:
            raise _Unread
        most = _EXACT if float in kinds else 2**63 - 1
        if any(type(x) is int and not -most <= x <= most for x in cells):
            raise _Unread
    numbers = [math.nan if x is None else float(x) for x in cells]
    if any(abs(x) > LARGEST for x in numbers):
        raise _Unread
    return numbers


def _hour(x: float) -> int:
    if not (1e7 <= x < 1e8 and x == math.floor(x) and x % 100 <= 23):
        raise _Unread
    return int(x) % 100


@lru_cache(4096)
def _bucket(x: float) -> Cell:
    if math.isnan(x):
        return None
    if abs(x) > _EXACT or x != math.floor(x):
        raise _Unread
    if x > 2:
        log = float(np.log(x))
        return math.floor(log * log)
    return _whole(int(x))


def _whole(x: int) -> Cell:
    """The id of a whole number, or the text to hash."""
    return x if 0 <= x < FIRST_HASHED_NUMBER else b"%d" % x


def _tokens(cells: list[Any]) -> list[Cell]:
    """The texts and ids of cells of one type."""
    kinds = set(map(type, cells))
    kinds.discard(type(None))
    if len(kinds) > 1:
        raise _Unread
    kind = kinds.pop() if kinds else None
    if kind is str or kind is bytes:
        texts = [x.encode() if x else None for x in cells] if kind is str else cells
        if max(map(len, filter(None, texts)), default=0) > _MAX_TEXT:
            raise _Unread
        return [x or None for x in texts]
    if kind is int:
        if any(x is not None and not -(2**63) <= x < 2**63 for x in cells):
            raise _Unread
        return [None if x is None else _whole(x) for x in cells]
    if kind is bool:
        return [None if x is None else int(x) for x in cells]
    if kind is float:
        numbers = [None if x is None or math.isnan(x) else x for x in cells]
        if any(x is not None and not (abs(x) < _EXACT and x.is_integer()) for x in numbers):
            raise _Unread
        return [None if x is None else _whole(int(x)) for x in numbers]
    if kind is None:
        return cells
    raise _Unread


def _lists(cells: list[Any], separator: str) -> tuple[list[Cell], list[int]]:
    """The texts and ids of the lists of a multivalent column, and how many each row has."""
    kinds = set(map(type, cells))
    kinds.discard(type(None))
    if kinds == {str} or kinds == {bytes}:
        mark: Any = separator if kinds == {str} else separator.encode()
        lists = [x.split(mark) if x else [] for x in cells]
    elif kinds <= {list}:
        lists = [x or [] for x in cells]
    else:
        raise _Unread
    if sum(map(len, lists)) > _MAX_LIST:
        raise _Unread
    flat = _tokens(list(chain.from_iterable(lists)))
    kept: list[Cell] = [x for x in flat if x is not None]
    if len(kept) == len(flat):
        return kept, [len(x) for x in lists]
    there = iter(flat)
    return kept, [sum(next(there) is not None for _ in x) for x in lists]


# ---- ids -------------------------------------------------------------------------------------


def _may_change(cell: Cell) -> bool:
    """Whether :func:`one_form` could give a text another form; digits and most words it cannot."""
    return type(cell) is bytes and cell[0] in b"-0123456789tTfF" and not cell.isdigit()


def _ids(flat: list[Cell]) -> Ids:
    """int64 (V,): the ids of cells, those of missing ones included."""
    texts = [i for i, cell in enumerate(flat) if type(cell) is bytes]
    hashed = hash_few([flat[i] for i in texts])  # type: ignore[misc]
    ids: list[Any] = [MISSING if cell is None else cell for cell in flat]
    for i, number in zip(texts, hashed, strict=True):
        ids[i] = number
    return np.array(ids, np.int64)


def _bags(c: Column, ids: Ids, flat: list[Cell], start: int, pieces: Sequence[Few], j: int) -> Bags:
    """The bags of column ``j``, whose cells begin at a place of ``flat``."""
    lengths = None
    if c.kind == "multivalent":
        sizes = chain.from_iterable(piece.lengths[j] or () for piece in pieces)
        lengths = np.fromiter(sizes, np.int64)
    elif c.missing == "empty":
        there = np.array([cell is not None for cell in flat[start : start + len(ids)]])
        ids, lengths = ids[there], there.astype(np.int64)
    return Bags(ids if c.kept is None else prune(ids, c.kept), lengths)
