"""The cells of a table as ids, numbers and labels, and which rows are bad."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from seo_rec.data.columns import TableColumns
from seo_rec.data.delimited import (
    LARGEST,
    UTF8_FIX,
    BlockError,
    Field,
    Layout,
    is_utf8,
    numbers,
    require_utf8,
)
from seo_rec.data.numeric import NumericRule
from seo_rec.data.roles import (
    GROUP,
    PLACE,
    ROLES,
    TARGET_FIX,
    Value,
    target_of,
    text_numbers,
    values_of,
)
from seo_rec.data.times import times
from seo_rec.data.tokens import (
    LIST_FIX,
    bags_of_ids,
    categorical_ids,
    is_text,
    without_id,
    without_id_in_lists,
)
from seo_rec.schema import REGRESSION

Floats = npt.NDArray[np.float64]
_WHOLE_FIX = "declare the column numeric (--numeric, or --kind COLUMN=numeric)"
Fault = tuple[str, npt.NDArray[np.bool_], str, str]  # column, bad rows, why, fix


def layout_of(
    columns: TableColumns, names: Sequence[str], delimiter: str, watched: Sequence[str] = ()
) -> Layout:
    """The layout of a text file with these columns.

    Args:
        columns: Those that are used.
        names: Of all columns, in the order of the file.
        delimiter: Between cells.
        watched: Columns that are read and not used.
    """
    kinds = {
        **dict.fromkeys((*columns.used, *watched), "token"),
        **dict.fromkeys(columns.numeric, "number"),
    }
    return Layout(
        fields=tuple(Field(name, kinds.get(name, "ignored")) for name in names),
        delimiter=delimiter,
        quoting=True,
        column_count_fix="a row has as many cells as the header; quote cells with the delimiter",
        check=lambda row: _fault(dict(zip(names, row, strict=True)), columns),
        number_fix="correct the cell or leave it empty, or declare the column categorical "
        "(--categorical, or --kind COLUMN=categorical)",
    )


def encode_text(table: Any, columns: TableColumns) -> Any:
    """Encode the parsed cells of a text file; BlockError if one of them is bad."""
    for name in _texts(columns):
        require_utf8(table[name])
    roles = _roles(table, columns)
    for name, values in roles.items():
        if np.isnan(values).any():
            raise BlockError(f"the {name} of a row cannot be read")
    return _encoded(table, columns, [numbers(table[name]) for name in columns.numeric], roles)


@dataclass(frozen=True)
class Cells:
    """Rows that can be encoded.

    Args:
        table: Their cells.
        values: The numbers of each numeric column.
        roles: The values of label, weight, time and split, where they are used.
    """

    table: Any
    values: Sequence[Floats]
    roles: Mapping[str, Floats]

    def encoded(self, columns: TableColumns) -> Any:
        """The rows as they are divided into splits."""
        return _encoded(self.table, columns, self.values, self.roles)


def good_cells(table: Any, columns: TableColumns, reject: Callable[[int, Fault], None]) -> Cells:
    """The good rows of a Parquet file; ``reject`` is told the others, one by one."""
    roles = _roles(table, columns)
    numbers_of = {name: _numbers(table[name]) for name in columns.numeric}
    values = [found for found, _ in numbers_of.values()]
    faults = [_role_fault(name, found, columns) for name, found in roles.items()]
    for name, (number, broken) in numbers_of.items():
        beyond = (np.abs(number) > LARGEST) | broken
        faults.append((name, beyond, "not a finite number", "correct or null the cell"))
    for name in columns.categorical:
        broken = without_id(table[name], columns.by_value)
        faults.append((name, broken, "not a whole number", _WHOLE_FIX))
    for name in columns.multivalent:
        broken = without_id_in_lists(table[name], columns.by_value)
        faults.append((name, broken, "a number in the list is not whole", LIST_FIX))
    bad = np.zeros(table.num_rows, bool)
    for fault in faults:
        for row in np.flatnonzero(fault[1] & ~bad):
            reject(int(row), fault)
        bad |= fault[1]
    if bad.any():
        table = table.filter(pa.array(~bad))
        values = [number[~bad] for number in values]
        roles = {name: found[~bad] for name, found in roles.items()}
    return Cells(table, values, roles)


# ---- label, weight, time and split -----------------------------------------------------------


def _used_roles(columns: TableColumns) -> dict[str, tuple[str, Value, str, str]]:
    """By role the column, the value of a cell, and why and how to mend a cell without one."""
    names = {
        "label": columns.label_column,
        "weight": columns.weight,
        "time": columns.time,
        "split": columns.split_column,
    }
    found = {role: (name, *ROLES[role]) for role, name in names.items() if name is not None}
    if columns.task == REGRESSION:
        found["label"] = columns.label, target_of, "a label that is not a finite number", TARGET_FIX
    if columns.rule is not None:
        why = f"no value for the label {columns.rule}"
        found["label"] = columns.rule.column, columns.rule.of, why, columns.rule.fix
    for name, rule in columns.more_rules.items():
        found[label_role(name)] = (name, *ROLES["label"])
        if rule is not None:
            why = f"no value for the label {rule}"
            found[label_role(name)] = name, rule.of, why, rule.fix
    return found


def label_role(name: str) -> str:
    """The role of a further label, by the column that it is read from."""
    return f"label {name!r}"


def _roles(table: Any, columns: TableColumns) -> dict[str, Floats]:
    """By role the values of the rows, NaN where a cell holds none."""
    return {
        role: times(table[name]) if role == "time" else values_of(table[name], value)
        for role, (name, value, _, _) in _used_roles(columns).items()
    }


def _role_fault(role: str, values: Floats, columns: TableColumns) -> Fault:
    name, _, why, fix = _used_roles(columns)[role]
    return name, np.isnan(values), why, fix


def _fault(row: Mapping[str, str], columns: TableColumns) -> tuple[str, str, str, str] | None:
    """What is wrong with the label, the weight, the time or the split of a row of text."""
    for name, value, why, fix in _used_roles(columns).values():
        if not row[name] or value(row[name]) is None:
            return name, row[name], why, fix
    for name in _texts(columns):
        if not is_utf8(row[name]):
            shown = row[name].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            return name, shown, "not UTF-8", UTF8_FIX
    return None


def _texts(columns: TableColumns) -> tuple[str, ...]:
    """The columns whose text becomes ids by value."""
    group = (columns.group,) if columns.group is not None else ()
    return (*columns.categorical, *columns.multivalent, *group) if columns.by_value else ()


# ---- features --------------------------------------------------------------------------------


def _encoded(
    table: Any, columns: TableColumns, values: Sequence[Floats], roles: Mapping[str, Floats]
) -> Any:
    done: dict[str, Any] = {}
    for name, number in zip(columns.numeric, values, strict=True):
        if columns.measured:
            done[name] = pa.array(number)
        else:
            done[name] = pa.array(NumericRule(columns.plans[name].transform).values(number))
    for name in columns.categorical:
        done[name] = categorical_ids(table[name], name, columns.missing, columns.by_value)
    for name in columns.multivalent:
        done[name] = bags_of_ids(table[name], name, columns.separator, columns.by_value)
    done[columns.label_column] = pa.array(roles["label"].astype(np.float32))
    for name in columns.more_rules:
        done[name] = pa.array(roles[label_role(name)].astype(np.float32))
    if columns.weight is not None:
        done[columns.weight] = pa.array(roles["weight"].astype(np.float32))
    if columns.time is not None:
        done[columns.time] = pa.array(roles["time"])
    if columns.split_column is not None:
        done[PLACE] = pa.array(roles["split"].astype(np.int8))
    if columns.group is not None:
        group = table[columns.group]
        done[GROUP] = categorical_ids(group, columns.group, "token", columns.by_value)
    return pa.table(done)


def _numbers(column: Any) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """float64 with NaN for nulls, and which cells of text are no numbers."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if is_text(kind):
        return text_numbers(column)
    return _floats(column), np.zeros(len(column), bool)


def _floats(column: Any) -> Floats:
    """float64 with NaN for nulls."""
    floats: Floats = pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy()
    return floats
