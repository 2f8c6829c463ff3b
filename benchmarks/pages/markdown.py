"""Tables in Markdown, and the regions of a page that the records fill.

A page is written by hand but for its regions, each between two marks (:func:`marks`) that name it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

ABSENT = "—"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        header: its heading.
        value: of a row: a text, a number, or None where there is nothing to show.
        format: how a number is written, as in ``format(value, ".5f")``; such columns are aligned
            to the right.
        absent: what stands for None.
    """

    header: str
    value: Callable[[Any], Any]
    format: str | None = None
    absent: str = ABSENT

    def cell(self, row: Any) -> str:
        value = self.value(row)
        if value is None:
            return self.absent
        text = value if isinstance(value, str) else format(value, self.format or "")
        return text.replace("|", "\\|")


def table(columns: Sequence[Column], rows: Iterable[Any]) -> list[str]:
    """The lines of a table, with an empty one at its end."""
    lines = [
        _row(c.header for c in columns),
        _row(("---" if c.format is None else "---:" for c in columns), ""),
        *(_row(c.cell(row) for c in columns) for row in rows),
    ]
    return [*lines, ""]


def each(
    items: Iterable[Any],
    header: Callable[[Any], str],
    value: Callable[[Any, Any], Any],
    format: str | None = None,
) -> list[Column]:
    """A column per item; ``value`` is called with the item and the row."""
    return [Column(header(item), partial(value, item), format) for item in items]


def entry(name: str, header: str | None = None, format: str | None = None) -> Column:
    """The column of an entry of a row that is a mapping."""
    return Column(header or name, lambda row: row.get(name), format)


def _row(cells: Iterable[str], space: str = " ") -> str:
    return f"|{space}" + f"{space}|{space}".join(cells) + f"{space}|"


def marks(name: str) -> tuple[str, str]:
    """The lines before and after a region."""
    return f"<!-- {name}: written by benchmarks.pages.tables -->", f"<!-- end of {name} -->"


def fill(page: str, regions: Mapping[str, Sequence[str]]) -> str:
    """The text of a page with the lines of its regions in place of the old ones.

    Raises:
        ValueError: the page lacks a mark.
    """
    for name, lines in regions.items():
        begin, end = marks(name)
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"the page lacks {begin!r} or {end!r}; put both where {name} belongs")
        text = "\n".join(lines).strip("\n")
        page = f"{before}{begin}\n\n{text}\n\n{end}{after}"
    return page


def shortened(lines: Sequence[str], kept: Sequence[int]) -> list[str]:
    """Some tables of a region, each with the text before it.

    Args:
        lines: The whole region.
        kept: The numbers of the tables that stay, from 0.

    Raises:
        ValueError: The region has no table of such a number.
    """
    parts: list[list[str]] = [[]]
    for line in lines:
        ended = parts[-1] and parts[-1][-1].startswith("|")
        if ended and not line.startswith("|"):
            parts.append([])
        parts[-1].append(line)
    tables = [part for part in parts if any(line.startswith("|") for line in part)]
    if any(number >= len(tables) for number in kept):
        raise ValueError(f"tables {list(kept)} of a region of {len(tables)} tables")
    return [line for number in kept for line in tables[number]]
