"""A small table beside the rows, such as the users of ratings: read whole, joined by a number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seo_rec.data.delimited import BlockError, Layout, read_blocks
from seo_rec.data.rawfile import Intake, TextBlock
from seo_rec.data.tokens import Ids
from seo_rec.schema import DataError


@dataclass(frozen=True)
class SideTable:
    """Rows by a number of their own.

    Args:
        numbers: Ascending.
        columns: The other columns, Arrow arrays in the same order.
    """

    numbers: Ids
    columns: Mapping[str, Any]

    def join(self, numbers: Ids) -> dict[str, Any]:
        """The columns for these numbers, one row each; BlockError if one is not there."""
        row = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        if (self.numbers[row] != numbers).any():
            raise BlockError("an unknown number")
        return {name: column.take(pa.array(row)) for name, column in self.columns.items()}


def read_side_table(
    path: Path,
    blocks: Iterator[TextBlock],
    layout: Layout,
    encode: Callable[[Any], Mapping[str, Any]],
    intake: Intake,
) -> SideTable:
    """Read a table whose first used column holds the number of the row.

    Args:
        path: For messages.
        blocks: The lines of the file.
        layout: Of a line; its first column is the number.
        encode: The other columns of parsed rows.
        intake: The account of what was read.

    Raises:
        DataError: No line can be read, or two have one number.
    """
    key = layout.fields[0].name

    def encoded(table: Any) -> Any:
        if table[key].null_count:
            raise BlockError(f"a line without a {key} number")
        return pa.table({key: table[key], **encode(table)})

    tables = list(read_blocks(blocks, layout, encoded, intake))
    if not tables:
        raise DataError(
            f"{path}: none of its {intake.num_bad} lines can be read, so no rating has a {key}; "
            f"the first one: {intake.examples[0]}"
        )
    table = pa.concat_tables(tables).combine_chunks()
    numbers = table[key].to_numpy()
    order = np.argsort(numbers, kind="stable")
    numbers = numbers[order]
    twice = numbers[1:][numbers[1:] == numbers[:-1]]
    if len(twice):
        raise DataError(
            f"{path}: {key} {int(twice[0])} has more than one line; each {key} has one, remove the "
            "others"
        )
    names = [name for name in table.column_names if name != key]
    columns = {n: table[n].combine_chunks().take(pa.array(order)) for n in names}
    return SideTable(numbers, columns)
