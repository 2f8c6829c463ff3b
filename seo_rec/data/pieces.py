"""Raw files cut into pieces that several processes can read, each by itself.

The rows of all pieces, one after the other, are the rows of the file. A compressed file, and one
whose line ends are CR, is one piece.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pyarrow as pa

from seo_rec.data.packed import packing
from seo_rec.data.parquet import read_footer
from seo_rec.data.quotes import whole_rows
from seo_rec.data.rawfile import (
    BLOCK_BYTES,
    LONGEST_ROW_BLOCKS,
    Piece,
    existing_file,
    is_parquet,
    without_blank_tail,
)
from seo_rec.schema import DataError

PIECE_BYTES = 16 << 20  # the last pieces keep all processes busy
PIECE_ROWS = 131_072  # of Parquet
_LINE_END = re.compile(rb"[^\r\n]\r?\n")  # of a line that is not blank
_SEARCH_BYTES = 1 << 20


def cut(
    path: Path,
    quoted: str | None,
    piece_bytes: int | None = None,
    between: Callable[[], None] = lambda: None,
) -> list[Piece]:
    """The pieces of a raw file, in order.

    Args:
        path: A text file, plain or compressed, or a Parquet file.
        quoted: The delimiter of a text file that has a header and whose cells may be quoted; None:
            there is no header, and every line is a row.
        piece_bytes: The size of a piece of text, about; None means ``PIECE_BYTES``.
        between: Is called for each piece of text that is found; an error of it ends the search.

    Raises:
        DataError: The file is missing or empty, or it is Parquet and damaged.
    """
    path, piece_bytes = existing_file(path), piece_bytes or PIECE_BYTES
    if is_parquet(path):
        return _cut_parquet(path)
    size = path.stat().st_size
    with path.open("rb") as stream:
        first = stream.read(_SEARCH_BYTES)
    plain = packing(first) is None and b"\0" not in first[:1024] and b"\n" in first
    if not plain or size <= piece_bytes:
        return [Piece(path)]
    if quoted is None:
        return _joined(Piece(path, 0, size), _line_ends(path, size, piece_bytes), between)
    header = _header_bytes(first, quoted)
    if header is None:
        return [Piece(path)]
    ends = _row_ends(path, quoted, max(piece_bytes, header))
    return _joined(Piece(path, 0, size, header=header), ends, between)


def _joined(whole: Piece, ends: Iterator[int], between: Callable[[], None]) -> list[Piece]:
    pieces, start = [], 0
    for end in chain(ends, [whole.stop]):
        between()
        if end is not None and end > start:
            pieces.append(replace(whole, start=start, stop=end))
            start = end
    return pieces


def _line_ends(path: Path, size: int, piece_bytes: int) -> Iterator[int]:
    """Where a line that is not blank ends, about every ``piece_bytes``."""
    with path.open("rb") as stream:
        for target in range(piece_bytes, size, piece_bytes):
            stream.seek(target)
            place, data = target, b""
            while more := stream.read(_SEARCH_BYTES):
                data += more
                if found := _LINE_END.search(data):
                    yield place + found.end()
                    break
                place, data = place + len(data) - 2, data[-2:]


def _row_ends(path: Path, quoted: str, piece_bytes: int) -> Iterator[int]:
    """Where a row ends, about every ``piece_bytes``, up to the first quote that is never closed."""
    longest = LONGEST_ROW_BLOCKS * BLOCK_BYTES
    with path.open("rb") as stream:
        place, data = 0, b""
        while more := stream.read(piece_bytes):
            data += more
            rows = whole_rows(data, quoted)
            if whole := len(without_blank_tail(data[: rows.end])):
                place, data = place + whole, data[whole:]
                yield place
            if rows.broken or len(data) > longest:
                return


def _header_bytes(first: bytes, delimiter: str) -> int | None:
    """The size of the header at the start of a file; None if it cannot be told."""
    lines = io.BytesIO(first)
    try:
        reader = csv.reader((line.decode("utf-8-sig") for line in lines), delimiter=delimiter)
        next(reader)
    except (UnicodeDecodeError, csv.Error, StopIteration):
        return None
    size = lines.tell()
    return size if first[:size].endswith(b"\n") else None


def _cut_parquet(path: Path) -> list[Piece]:
    try:
        footer = read_footer(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: not readable as Parquet ({error}); write or download the file again"
        ) from error
    pieces, start, row, rows = [], 0, 1, 0
    for group in range(footer.num_row_groups):
        rows += footer.row_group(group).num_rows
        if rows >= PIECE_ROWS or group == footer.num_row_groups - 1:
            pieces.append(Piece(path, start, group + 1, line=row))
            start, row, rows = group + 1, row + rows, 0
    return pieces or [Piece(path)]
