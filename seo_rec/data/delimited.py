"""Delimited text to Arrow tables: fast in whole blocks, exact about the first bad line.

A block of lines is parsed by Arrow. Only when that fails is the block read again line by line
in Python, to name (or, with ``--on-bad-row skip``, to drop) exactly the rows that are wrong.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from seo_rec.data.rawfile import Intake, Problem, TextBlock
from seo_rec.schema import DataError

LABELS = {b"false": 0.0, b"no": 0.0, b"true": 1.0, b"yes": 1.0}  # in small letters
_LABEL = re.compile(rb"0+(\.0*)?|0*1(\.0*)?")
LABEL_FIX = (
    "labels are 0 or 1, true or false, yes or no; for other values of your own table give a rule, "
    "as in --label 'rating >= 4'"
)
LARGEST = float(np.finfo(np.float32).max)

_ARROW_TYPES = {
    "label": pa.dictionary(pa.int32(), pa.binary()),
    "token": pa.dictionary(pa.int32(), pa.binary()),
    "integer": pa.int64(),
    "number": pa.float64(),
}
# what Arrow takes for an integer and a number, so that both ways of reading agree on what is bad
_INTEGER = re.compile(r"[ \t]*(-?[0-9]+|0[xX][0-9a-fA-F]{1,16})[ \t]*")
_NUMBER = re.compile(r"[ \t]*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?[ \t]*", re.I)
_NAN = re.compile(r"[ \t]*[-+]?nan[ \t]*", re.I)


COMMON = ("::", ",", ";", "\t", "|")  # between the cells of text files
UTF8_FIX = "convert the file to UTF-8, as by iconv -f latin1 -t utf-8"


class BlockError(Exception):
    """A block does not hold what its layout says; the caller looks for the line."""


@dataclass(frozen=True)
class Field:
    """One column of a text file.

    Args:
        name: Its name.
        kind: ``label``, ``integer``, ``number``, ``token`` or ``ignored``.
    """

    name: str
    kind: str


@dataclass(frozen=True)
class Layout:
    """The columns of a delimited file in file order.

    Args:
        check: looks at the cells of a row that is otherwise good and returns None or
            (column, value, why, fix).
        number_fix: how to mend a cell that is no number.
    """

    fields: tuple[Field, ...]
    delimiter: str
    quoting: bool
    column_count_fix: str
    check: Callable[[Sequence[str]], tuple[str, str, str, str] | None] | None = None
    number_fix: str = "correct the cell or leave it empty"


Encode = Callable[[Any], Any]


def read_blocks(
    blocks: Iterator[TextBlock], layout: Layout, encode: Encode, intake: Intake
) -> Iterator[Any]:
    """Encoded tables of ``blocks``; rows that cannot be read go to ``intake.reject``."""
    for block in blocks:
        table = _encoded(block, layout, encode, intake)
        if table is not None and table.num_rows:
            yield table


def labels(column: Any) -> npt.NDArray[np.float32]:
    """0.0 or 1.0 per row of a parsed label column; BlockError if there is anything else."""
    array = column.combine_chunks()
    values = array.dictionary.to_pylist()
    found = [label_of(value) for value in values]
    if array.null_count or any(label is None for label in found):
        raise BlockError("a label outside {0, 1}")
    return np.array(found, np.float32)[array.indices.to_numpy()]


def label_of(cell: bytes) -> float | None:
    """The label that a cell holds, however many zeros it is written with; None if it holds none."""
    if _LABEL.fullmatch(cell):
        return float(cell)
    return LABELS.get(cell.lower())


def numbers(column: Any) -> npt.NDArray[np.float64]:
    """Numbers per row of a parsed column, NaN where missing; BlockError beyond float32."""
    array = column.combine_chunks().cast(pa.float64())
    values: npt.NDArray[np.float64] = pc.fill_null(array, np.nan).to_numpy(zero_copy_only=False)
    if (np.abs(values) > LARGEST).any():
        raise BlockError("a number that is not finite in float32")
    return values


def require_utf8(column: Any) -> None:
    """BlockError unless a parsed column of text is UTF-8, as all other files of one value are."""
    for chunk in column.chunks:
        try:
            chunk.dictionary.cast(pa.large_string())
        except pa.ArrowInvalid as error:
            raise BlockError("a cell that is not UTF-8") from error


def is_utf8(cell: str) -> bool:
    """Whether a cell that the exact way of reading gives was UTF-8 in the file."""
    return cell.isascii() or not any("\udc80" <= sign <= "\udcff" for sign in cell)


def parse(data: bytes, layout: Layout) -> Any:
    """Parse whole lines into a table of raw columns; ArrowInvalid if any cell is wrong."""
    used = {f.name: _ARROW_TYPES[f.kind] for f in layout.fields if f.kind != "ignored"}
    return pacsv.read_csv(
        pa.py_buffer(data),
        read_options=pacsv.ReadOptions(
            column_names=[f.name for f in layout.fields], block_size=len(data) + 1
        ),
        parse_options=pacsv.ParseOptions(
            delimiter=layout.delimiter,
            quote_char='"' if layout.quoting else False,
            newlines_in_values=layout.quoting and b'"' in data,
            ignore_empty_lines=False,
        ),
        convert_options=pacsv.ConvertOptions(
            column_types=used,
            include_columns=list(used),
            null_values=[""],
            strings_can_be_null=True,
            check_utf8=False,
        ),
    )


def require_delimiter(sign: str, where: str = "delimiter") -> None:
    """See that text files can be cut at ``sign``.

    Args:
        sign: The text between two cells.
        where: What the message of an error begins with.

    Raises:
        DataError: It is not one ASCII character, or it is a quote or a line end.
    """
    if len(sign) != 1 or not sign.isascii() or sign in '"\r\n':
        raise DataError(
            f"{where} is {sign!r}; allowed: one ASCII character other than a quote and a line end, "
            "as in --delimiter ';' (a tab in bash: --delimiter $'\\t')"
        )


def other_delimiter(names: Sequence[str], sign: str) -> str:
    """What to do about a header that was read as one name and has another sign in it.

    Args:
        names: The columns that ``sign`` makes of the header.
        sign: The delimiter.

    Returns:
        The end of a message; nothing if there are several names, or one without such a sign.
    """
    found = [other for other in COMMON if other != sign and other in names[0]]
    if len(names) > 1 or not found:
        return ""
    return f"; the header has {found[0]!r} and no {sign!r}: {delimiter_fix(found[0])}"


def delimiter_fix(sign: str) -> str:
    """How a file whose cells have ``sign`` between them is read, as typed in bash."""
    if len(sign) > 1:
        return f"put one character in its place, as sed 's/{sign}/;/g' does, and name --delimiter"
    typed = f"'{sign}'" if sign.isprintable() else f"$'\\x{ord(sign):02x}'"
    return f"give --delimiter {typed}".replace("\\x09", "\\t")


def split_header(
    blocks: Iterator[TextBlock], path: Path, delimiter: str
) -> tuple[tuple[str, ...], Iterator[TextBlock]]:
    """Take the header off the first block; DataError on repeated names or an open quote.

    A quoted name may hold a line end; blanks and line ends around a name are no part of it.
    """
    first = next(blocks, None)
    if first is None or first.line > 1:
        raise DataError(f"{path}: line 1: a quote of the header is never closed; close it")
    with _long_cells():
        reader = csv.reader((line.decode() for line in io.BytesIO(first.data)), delimiter=delimiter)
        try:
            names = tuple(name.strip() for name in next(reader))
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: line 1: the header is not UTF-8; convert the file") from error
        except csv.Error as error:
            raise DataError(f"{path}: line 1: not a header ({error}); correct the line") from error
    lines = first.data.split(b"\n", reader.line_num)
    rest = lines[-1]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise DataError(
            f"{path}: line 1: duplicate column names {twice} in the header; rename one of each, "
            "or add a line of names if the file has none"
        )

    def remaining() -> Iterator[TextBlock]:
        if rest:
            yield replace(first, line=first.line + reader.line_num, data=rest)
        yield from blocks

    return names, remaining()


def _encoded(block: TextBlock, layout: Layout, encode: Encode, intake: Intake) -> Any:
    try:
        return encode(parse(block.data, layout))
    except (pa.ArrowInvalid, BlockError) as error:
        problems, good = _scan(block, layout)
        if not problems:
            last = block.line + block.data.count(b"\n") - 1
            raise DataError(
                f"{block.path}: lines {block.line} to {last}: {error}; correct the file"
            ) from error
    for problem in problems:
        intake.reject(problem)
    return encode(parse(good, layout)) if good else None


@contextmanager
def _long_cells() -> Iterator[None]:
    """Python's csv takes cells of any length, as Arrow does, and not of 131,072 characters only."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _scan(block: TextBlock, layout: Layout) -> tuple[list[Problem], bytes]:
    """The bad rows of a block, and the lines of the good ones."""
    with _long_cells():
        return _scanned(block, layout)


def _scanned(block: TextBlock, layout: Layout) -> tuple[list[Problem], bytes]:
    text = io.StringIO(block.data.decode("utf-8", "surrogateescape"), newline="\n")
    reader = csv.reader(
        text,
        delimiter=layout.delimiter,
        quoting=csv.QUOTE_MINIMAL if layout.quoting else csv.QUOTE_NONE,
    )
    physical = block.data.split(b"\n")
    problems: list[Problem] = []
    good: list[bytes] = []
    done = 0
    while True:
        try:
            row = next(reader)
            fault = _fault(row, layout)
        except StopIteration:
            break
        except csv.Error as error:
            fault = (None, None, f"not readable as delimited text ({error})", "correct the line")
        end = reader.line_num
        if fault is None:
            good.extend(physical[done:end])
        else:
            problems.append(Problem(block.path, block.line + done, *fault))
        done = end
    return problems, b"".join(line + b"\n" for line in good)


Fault = tuple[str | None, str | None, str, str]


def _fault(row: Sequence[str], layout: Layout) -> Fault | None:
    fields = layout.fields
    if len(row) != len(fields):
        got = "is blank" if not row else f"has {len(row)} columns"
        return None, None, f"the line {got}, {len(fields)} are needed", layout.column_count_fix
    for cell, column in zip(row, fields, strict=True):
        kind = column.kind
        if kind == "label" and label_of(cell.encode("utf-8", "surrogateescape")) is None:
            return column.name, cell, "a label outside {0, 1}", LABEL_FIX
        if kind == "integer" and cell and not _is_integer(cell):
            return column.name, cell, "not an integer", "correct the cell or leave it empty"
        if kind == "number" and cell and not _is_number(cell):
            return column.name, cell, "not a finite number", layout.number_fix
    return layout.check(row) if layout.check is not None else None


def _is_integer(cell: str) -> bool:
    if _INTEGER.fullmatch(cell) is None:
        return False
    digits = cell.strip(" \t").removeprefix("-").lstrip("0")
    if digits[:1] in ("x", "X"):
        return True
    return len(digits) < 20 and -(2**63) <= int(cell) < 2**63


def _is_number(cell: str) -> bool:
    if _NAN.fullmatch(cell):
        return True
    return _NUMBER.fullmatch(cell) is not None and not abs(float(cell)) > LARGEST
