"""Where rows end in text with quoted cells, and which quotes are never closed.

A cell is quoted if its first character is a double quote; two quotes inside it stand for one, and a
line end inside it ends no row. A quote anywhere else is an ordinary character, as in ``5" pipe``.
Arrow and Python's ``csv`` both read text by these rules, and both take a quote that is not closed
for a cell that holds the rest of the file; so they are only given rows that this module has seen
to end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_QUOTE = ord('"')


@dataclass(frozen=True)
class Rows:
    """The whole rows at the start of some text.

    Args:
        end: Bytes that they take.
        open_quote: Where the quote stands that opens a cell in the row behind them and that
            nothing closes; -1 if there is none.
        broken: Whether that quote is wrong for certain: another one closes it in a later line,
            and text follows that one inside the cell.
    """

    end: int
    open_quote: int = -1
    broken: bool = False


def whole_rows(data: bytes, delimiter: str) -> Rows:
    """The whole rows at the start of ``data``, up to the first quote that is not closed.

    Args:
        data: Text that starts with a row.
        delimiter: The character between cells.
    """
    end = data.rfind(b"\n") + 1
    text = np.frombuffer(data, np.uint8, end)
    quotes = np.flatnonzero(text == _QUOTE)
    if not len(quotes):
        return Rows(end)
    between = np.zeros(256, bool)
    between[[ord("\n"), ord("\r"), *delimiter.encode()]] = True
    before, after = text[quotes - 1], text[quotes + 1]  # data end with a line end, not a quote
    starts, ends = between[before], between[after]
    starts[0] |= quotes[0] == 0
    # Most files: quotes open and close cells in turn, and in between they are doubled.
    opening = starts[::2] | (before[::2] == _QUOTE)
    closing = ends[1::2] | (after[1::2] == _QUOTE)
    if len(quotes) % 2 == 0 and starts[0] and opening.all() and closing.all():
        return Rows(end)
    return _walked(data, end, quotes.tolist(), starts.tolist(), ends.tolist())


def _walked(data: bytes, end: int, quotes: list[int], starts: list[bool], ends: list[bool]) -> Rows:
    """As :func:`whole_rows`, one cell after another.

    Args:
        data: As there.
        end: Bytes up to the last line end.
        quotes: Where quotes stand.
        starts: Whether a cell may start at the quote.
        ends: Whether a cell may end at the quote.
    """
    cells: list[tuple[int, int]] = []
    i, number = 0, len(quotes)
    while i < number:
        if not starts[i]:  # an ordinary character
            i += 1
            continue
        close = i + 1
        while close + 1 < number and quotes[close + 1] == quotes[close] + 1:
            close += 2
        first = quotes[i]
        if close >= number:
            return Rows(_row_start(data, cells, first), first)
        last = quotes[close]
        if not ends[close] and data.find(b"\n", first, last) >= 0:
            return Rows(_row_start(data, cells, first), first, broken=True)
        cells.append((first, last))
        i = close + 1
    return Rows(end)


def _row_start(data: bytes, cells: list[tuple[int, int]], place: int) -> int:
    """Where the row starts that holds ``place``, which is behind all quoted ``cells``."""
    for first, last in reversed(cells):
        found = data.rfind(b"\n", last, place)
        if found >= 0:
            return found + 1
        place = first
    return data.rfind(b"\n", 0, place) + 1
