"""Raw text files as blocks of whole lines; what was read, checksums and bad rows on the way."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from seo_rec.data.packed import decompressed, packing, require_text, unzipped
from seo_rec.data.quotes import Rows, whole_rows
from seo_rec.places import place, store_advice
from seo_rec.schema import DataError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

BLOCK_BYTES = 8 << 20
_READ_BYTES = 1 << 20
_MARK = b"\xef\xbb\xbf"  # of byte order
LONGEST_ROW_BLOCKS = 8  # then a quote counts as never closed; memory stays bounded


@dataclass(frozen=True)
class BadRows:
    """What to do with rows that cannot be read: stop (``error``) or count and go on (``skip``).

    ``max_bad`` is the number of skipped rows after which preparing stops anyway.
    """

    action: str = "error"
    max_bad: int = 1000

    def __post_init__(self) -> None:
        if self.action not in ("error", "skip"):
            raise DataError(f"on-bad-row is {self.action!r}; allowed: error, skip")
        if self.max_bad < 0:
            raise DataError(f"max-bad is {self.max_bad}; allowed: 0 or more rows")


@dataclass(frozen=True)
class Problem:
    """One bad row: where it is, what is wrong and how to mend it. Lines count from 1."""

    path: Path
    line: int
    column: str | None
    value: str | None
    why: str
    fix: str
    unit: str = "line"

    def __str__(self) -> str:
        where = f"{self.path}: {self.unit} {self.line}"
        if self.column is not None:
            where += f", column {self.column!r}"
        got = "" if self.value is None else f", got {_short(self.value)}"
        return f"{where}: {self.why}{got}; {self.fix}"


@dataclass(frozen=True)
class Piece:
    """A part of a raw file that can be read by itself.

    Args:
        path: The file.
        start: Its first byte of text, where a row begins, or its first Parquet row group.
        stop: The byte or row group behind it; None if the piece is the whole file.
        line: The number of its first line or row; 1 where it is not known.
        header: Bytes of the header, which text pieces are read with.
    """

    path: Path
    start: int = 0
    stop: int | None = None
    line: int = 1
    header: int = 0


@dataclass
class Intake:
    """The running account of one prepare: bytes and files read, bad rows met.

    If it has a ``piece``, this piece alone is read.
    """

    bad_rows: BadRows = field(default_factory=BadRows)
    piece: Piece | None = None
    bytes_read: int = 0
    lines_read: int = 0
    num_bad: int = 0
    examples: list[str] = field(default_factory=list)
    sources: list[dict[str, str | int]] = field(default_factory=list)

    def wants(self, path: Path) -> bool:
        """Whether ``path``, or a piece of it, is to be read."""
        return self.piece is None or self.piece.path == path

    def reject(self, problem: Problem) -> None:
        """Count a bad row, or raise DataError if the rule is ``error`` or the limit is passed."""
        if self.bad_rows.action == "error":
            raise DataError(f"{problem}, or skip such rows with --on-bad-row skip --max-bad N")
        self.num_bad += 1
        if len(self.examples) < 5:
            self.examples.append(str(problem))
        if self.num_bad > self.bad_rows.max_bad:
            raise DataError(
                f"more than {self.bad_rows.max_bad} bad rows; the last one: {problem}, or raise "
                "--max-bad"
            )

    def add_source(self, path: Path, num_bytes: int, sha256: str) -> None:
        self.sources.append({"name": path.name, "bytes": num_bytes, "sha256": sha256})


@dataclass(frozen=True)
class TextBlock:
    """Whole lines of one file; ``line`` is the physical number of the first one (from 1)."""

    path: Path
    line: int
    data: bytes


def is_parquet(path: Path) -> bool:
    """Whether a file begins as Parquet files do."""
    with path.open("rb") as stream:
        return stream.read(4) == b"PAR1"


def existing_file(path: Path | str) -> Path:
    """``path`` if it is a file that is not empty; DataError otherwise."""
    path = place(path)
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path given as --raw{store_advice(path)}")
    if path.is_dir():
        raise DataError(f"{path}: is a folder, a file is needed; name the file as --raw")
    if not path.is_file():
        raise DataError(
            f"{path}: is a pipe or a device, and a file is needed, which is opened more than once; "
            "write it to a file first, or give the compressed file itself"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; download it again")
    return path


def file_sha256(
    path: Path, intake: Intake, counted: int = 0, between: Callable[[], None] = lambda: None
) -> None:
    """Read a binary file once for its checksum and add it to the sources.

    Args:
        path: The file.
        intake: The account that it is added to.
        counted: Bytes of it that ``intake`` counts as read already.
        between: Is called for each block that is read; an error of it ends the reading.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while data := stream.read(_READ_BYTES):
            between()
            digest.update(data)
            size += len(data)
    intake.bytes_read += size - counted
    intake.add_source(path, size, digest.hexdigest())


def text_blocks(
    path: Path,
    intake: Intake,
    *,
    quoted: str | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[TextBlock]:
    """Read a file, plain or compressed (gzip, bzip2, xz, zstd), as blocks of whole lines.

    A byte-order mark and blank lines at the end of the file are dropped; blank lines in the
    middle stay, so that the parser can complain about them. The last line gets a line end.
    Lines end with LF or CR LF; in a file without LF they end with CR.

    Args:
        quoted: The delimiter of a file whose cells may be quoted: a line end inside double quotes
            ends no row. The row of a quote that is never closed goes to ``intake.reject``, up to
            the end of the line in which the quote stands. None: quotes mean nothing.

    Of a piece that does not begin the file, the header comes first, as a block of its own.

    Raises:
        DataError: the file is missing, empty, truncated, corrupt or in UTF-16.
    """
    path = existing_file(path)
    longest = LONGEST_ROW_BLOCKS * block_bytes
    part = intake.piece or Piece(path)
    text, pieces, pending = TextBlock(path, part.line, b""), list[bytes](), 0
    source = _decoded(path, intake) if part.stop is None else _ranged(path, part, intake)
    if not part.start:
        source = _plain_text(path, source, block_bytes)
    elif part.header:
        yield TextBlock(path, 1, _header(path, part))
    for piece in source:
        pieces.append(piece)
        pending += len(piece)
        if pending >= block_bytes:
            text = yield from _rows(replace(text, data=b"".join(pieces)), quoted, intake, longest)
            pieces, pending = [text.data], len(text.data)
    rest = b"".join(pieces)
    if rest and not rest.endswith(b"\n"):
        rest += b"\n"
    text = yield from _rows(replace(text, data=rest), quoted, intake, 0)
    intake.lines_read += text.line - part.line
    if text.line == part.line and not part.start:
        raise DataError(f"{path}: the file holds no rows; download it again")


def _rows(
    text: TextBlock, quoted: str | None, intake: Intake, longest: int
) -> Generator[TextBlock, None, TextBlock]:
    """Yield the whole rows of ``text``, reject the rows of open quotes, return the rest.

    Args:
        longest: Bytes of a row that has not ended yet; a quote in a longer one is open for good.
    """
    while True:
        data = text.data
        rows = Rows(data.rfind(b"\n") + 1) if quoted is None else whole_rows(data, quoted)
        if not rows.end and len(data) > longest > 0 and rows.open_quote < 0:
            raise DataError(
                f"{text.path}: line {text.line}: no row ends within {len(data):,} bytes; check "
                "that this is a text file"
            )
        if rows.open_quote < 0 or not (rows.broken or len(data) - rows.end > longest):
            whole = without_blank_tail(data[: rows.end])
            if whole:
                yield replace(text, data=whole)
            return _after(text, len(whole))
        if rows.end:
            yield replace(text, data=data[: rows.end])
        why = "the quote that opens a cell here is not closed before the end of the file"
        if rows.broken:
            why = "the quote that opens a cell here meets the next one lines below, inside a cell"
        elif longest:
            why = f"no row ends within {longest:,} bytes of the quote that opens a cell here"
        line = text.line + data.count(b"\n", 0, rows.open_quote)
        fix = "close the quoted cell, or double the quote if it is a character of the cell"
        intake.reject(Problem(text.path, line, None, None, why, fix))
        text = _after(text, data.index(b"\n", rows.open_quote) + 1)


def _after(text: TextBlock, size: int) -> TextBlock:
    """``text`` without its first ``size`` bytes, which are whole lines."""
    line = text.line + text.data.count(b"\n", 0, size)
    return replace(text, line=line, data=text.data[size:])


class _HashingReader(io.RawIOBase):
    """A binary file that counts and hashes the bytes that are read from it."""

    def __init__(self, stream: BinaryIO, intake: Intake) -> None:
        self._stream = stream
        self._intake = intake
        self.digest = hashlib.sha256()
        self.size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer)
        data = self._stream.read(len(view))
        view[: len(data)] = data
        self.digest.update(data)
        self.size += len(data)
        self._intake.bytes_read += len(data)
        return len(data)


def _decoded(path: Path, intake: Intake) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as stream:
        kind = packing(stream.read(10))
        stream.seek(0)
        hashing = _HashingReader(stream, intake)
        raw = io.BufferedReader(hashing, _READ_BYTES)
        if kind == "zip":
            yield from unzipped(path, _READ_BYTES)
            while raw.read(_READ_BYTES):  # for the checksum: an archive is not read in order
                pass
        elif kind is None:
            while data := raw.read(_READ_BYTES):
                yield data
        else:
            yield from decompressed(path, raw, kind, _READ_BYTES)
        intake.add_source(path, hashing.size, hashing.digest.hexdigest())


def _ranged(path: Path, piece: Piece, intake: Intake) -> Iterator[bytes]:
    """The bytes of a piece of a file that is not compressed."""
    assert piece.stop is not None
    with path.open("rb") as stream:
        stream.seek(piece.start)
        left = piece.stop - piece.start
        while left and (data := stream.read(min(left, _READ_BYTES))):
            left -= len(data)
            intake.bytes_read += len(data)
            yield data


def _header(path: Path, piece: Piece) -> bytes:
    with path.open("rb") as stream:
        return stream.read(piece.header).removeprefix(_MARK)


def _plain_text(path: Path, pieces: Iterator[bytes], longest: int) -> Iterator[bytes]:
    """The text in ``pieces``, without a byte-order mark, its lines ended by LF or CR LF.

    Args:
        longest: Bytes among which the first line end is looked for.
    """
    first = next(pieces, b"")
    while b"\n" not in first and b"\r" not in first[:-1] and len(first) < longest:
        if (piece := next(pieces, None)) is None:
            break
        first += piece
    head = first[:1024]
    require_text(path, head)
    zeros = max(head[::2].count(0), head[1::2].count(0))
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or zeros > len(head) / 4:
        raise DataError(f"{path}: line 1: the file is UTF-16 or UTF-32; convert it to UTF-8 first")
    first = first.removeprefix(_MARK)
    if b"\r" not in first or b"\n" in first:
        yield first
        yield from pieces
        return
    for piece in itertools.chain([first], pieces):
        if b"\n" in piece:
            raise DataError(
                f"{path}: the first lines end with CR and later ones with LF; convert the file to "
                "one kind of line end"
            )
        yield piece.replace(b"\r", b"\n")


def without_blank_tail(data: bytes) -> bytes:
    """``data``, which ends with a line end, up to the end of its last line that is not blank."""
    text = len(data.rstrip(b"\r\n"))
    return data[: data.index(b"\n", text) + 1] if text else b""


def _short(value: str) -> str:
    return repr(value if len(value) <= 60 else value[:57] + "...")
