"""What columns of a table are for, other than features: label, weight, time, split and group."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from seo_rec.data.delimited import LABEL_FIX, LARGEST, label_of
from seo_rec.data.times import TIME_FIX, time_of

Value = Callable[[str], float | None]

PLACE = "\0place"  # the split of a row, 0 to 2, where a column or a file says it
GROUP = "\0group"  # the id of the group of a row
PLACES = {
    "train": 0, "training": 0,
    "val": 1, "valid": 1, "validation": 1, "dev": 1,
    "test": 2, "testing": 2,
}  # fmt: skip
PLACE_FIX = "a split is train, val (valid, validation, dev) or test"
TARGET_FIX = "correct or remove the row"
WEIGHT_FIX = "a weight is a number, 0 or more"
_RULE = re.compile(r"\s*(.+?)\s*(>=|<=|==|!=|>|<)\s*(.+?)\s*")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
    "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


@dataclass(frozen=True)
class LabelRule:
    """``column sign value``, as in ``rating >= 4``: 1 where it holds, and 0 elsewhere.

    Args:
        column: The column that is compared.
        sign: ``>=``, ``<=``, ``>``, ``<``, ``==`` or ``!=``.
        value: A number, or text for ``==`` and ``!=``.
    """

    column: str
    sign: str
    value: float | str

    def __str__(self) -> str:
        return f"{self.column} {self.sign} {self._written}"

    @property
    def _written(self) -> str:
        """The value as :func:`label_rule` reads it again."""
        if isinstance(self.value, float):
            short = f"{self.value:g}"
            return short if float(short) == self.value else repr(self.value)
        quoted = repr(self.value)
        return quoted if quoted[1:-1] == self.value else f"'{self.value}'"

    def of(self, cell: str) -> float | None:
        """1.0 or 0.0; None for a cell that cannot be compared, such as an empty one."""
        if isinstance(self.value, str):
            return float(_COMPARE[self.sign](cell, self.value)) if cell else None
        number = _number(cell)
        return None if number is None else float(_COMPARE[self.sign](number, self.value))

    @property
    def fix(self) -> str:
        """What a cell must hold."""
        return "a label that is compared needs a value" + (
            "" if isinstance(self.value, str) else ", which must be a number"
        )


def label_rule(text: str) -> LabelRule | None:
    """The rule that a text such as ``rating >= 4`` states; None if it is a plain name."""
    found = _RULE.fullmatch(text)
    if found is None:
        return None
    column, sign, value = found.groups()
    number = _number(value)
    if number is None and sign not in ("==", "!="):
        return None
    if number is None and len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return LabelRule(column, sign, value if number is None else number)


def rule_advice(text: str) -> str:
    """What to add where a label names no column, if it was meant as a rule and is none."""
    rule = label_rule(text)
    meant = re.search("[<>=]", text) is not None
    if not meant or (rule is not None and rule.column[-1] not in "<>=!"):
        return ""
    return (
        f"; {text!r} is no rule for a label: that is a column, then >=, <=, >, <, == or !=, then a "
        "number, and after == or != also a text, as 'rating >= 4'"
    )


def weight_of(cell: str) -> float | None:
    """The weight that a cell holds; None if it holds none."""
    number = _number(cell)
    return number if number is not None and 0 <= number <= LARGEST else None


def place_of(cell: str) -> float | None:
    """0 for train, 1 for val, 2 for test; None for other text."""
    return PLACES.get(cell.strip().lower())


def plain_label(cell: str) -> float | None:
    """The label that a cell holds; None if it holds none."""
    return label_of(cell.encode("utf-8", "surrogateescape"))


def target_of(cell: str) -> float | None:
    """The number that a cell holds, as a label of a regression; None if it holds none."""
    number = _number(cell)
    return number if number is not None and abs(number) <= LARGEST else None


# by role: the value of a cell, what is wrong with a cell without one, and the fix
ROLES: dict[str, tuple[Value, str, str]] = {
    "label": (plain_label, "a label outside {0, 1}", LABEL_FIX),
    "weight": (weight_of, "not a weight", WEIGHT_FIX),
    "time": (time_of, "not a time", TIME_FIX),
    "split": (place_of, "not the name of a split", PLACE_FIX),
}


def values_of(column: Any, value: Value) -> npt.NDArray[np.float64]:
    """``value`` of every cell, NaN where it is None or the cell is missing.

    Args:
        column: An Arrow array of text, numbers or booleans.
        value: Is asked once for each distinct cell.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if not pa.types.is_dictionary(array.type):
        array = array.dictionary_encode()
    found = [_value(cell, value) for cell in array.dictionary.to_pylist()]
    known = np.array([*(math.nan if x is None else x for x in found), math.nan], np.float64)
    return known[pc.fill_null(array.indices, len(known) - 1).to_numpy(zero_copy_only=False)]


def text_numbers(column: Any) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """The numbers of a column of text, NaN where a cell is empty, and which cells hold none."""
    missing = ("", "nan", "+nan", "-nan")

    def number_of(cell: str) -> float | None:
        return None if cell.strip().lower() in missing else _number(cell, math.inf)

    values = values_of(column, number_of)
    return np.where(np.isinf(values), np.nan, values), np.isinf(values)


def _value(cell: Any, value: Value) -> float | None:
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "surrogateescape")
    return None if cell is None else value(str(cell))


def _number(cell: str, otherwise: float | None = None) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return otherwise
    return number if math.isfinite(number) and "_" not in cell else otherwise
