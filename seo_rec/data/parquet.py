"""Parquet files at any place: on disk, or at the URL of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seo_rec.places import RemotePath
from seo_rec.schema import DataError

_RAW_ROWS = 65_536
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_UUID_DIGITS = [*range(8), *range(9, 13), *range(14, 18), *range(19, 23), *range(24, 36)]


@contextmanager
def open_parquet(path: Path, metadata: Any = None, verify: bool = True) -> Iterator[Any]:
    """A :class:`pyarrow.parquet.ParquetFile` within the block.

    Of a remote file only the ranges that hold the wanted columns are read.

    Args:
        path: The file.
        metadata: Its footer, if that has been read.
        verify: Whether the checksums of pages are verified, where there are any.

    Raises:
        RemoteError: The store cannot be reached or lacks the file.
        OSError, pyarrow.ArrowException: The file cannot be read.
    """
    if not isinstance(path, RemotePath):
        with pq.ParquetFile(path, metadata=metadata, page_checksum_verification=verify) as file:
            yield file
        return
    with (
        path.open(ranges=True) as raw,
        pq.ParquetFile(
            raw, metadata=metadata, page_checksum_verification=verify, pre_buffer=True
        ) as file,
    ):
        yield file


def raw_tables(
    path: Path,
    wanted: Callable[[Any], Sequence[str]],
    groups: Sequence[int] | None = None,
    verify: bool = True,
) -> Iterator[Any]:
    """Tables of at most 65,536 rows of a raw file, in order, without extension types.

    What goes wrong with a table after it has been handed over is not called a fault of the file.

    Args:
        path: The file.
        wanted: Is shown the opened file, and names the columns to read.
        groups: The row groups to read; None reads all.
        verify: Whether the checksums of pages are verified.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        with open_parquet(path, verify=verify) as file:
            names = list(wanted(file))
            for batch in file.iter_batches(_RAW_ROWS, groups, columns=names):
                yield plain_types(pa.table(batch))
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: not readable as Parquet ({error}); write or download the file again"
        ) from error


def plain_types(table: Any) -> Any:
    """The table without extension types: a UUID as its text, others as they are stored."""
    for place, column in enumerate(table.schema):
        if isinstance(column.type, pa.BaseExtensionType):
            stored = [chunk.storage for chunk in table.column(place).chunks]
            if column.type.extension_name == "arrow.uuid":
                stored = [_uuid_texts(chunk) for chunk in stored]
            kind = stored[0].type if stored else pa.string()
            table = table.set_column(place, column.name, pa.chunked_array(stored, kind))
    return table


def _uuid_texts(stored: Any) -> Any:
    """``8-4-4-4-12`` hexadecimal digits in small letters of 16 bytes; nulls stay."""
    known = stored.drop_null()
    data = np.frombuffer(b"".join(known.to_pylist()), np.uint8).reshape(-1, 16)
    text = np.full((len(data), 36), ord("-"), np.uint8)
    text[:, _UUID_DIGITS] = _HEX[np.stack([data >> 4, data & 15], axis=2).reshape(-1, 32)]
    texts = pa.array(text.view("S36").ravel(), pa.binary()).cast(pa.string())
    places = np.cumsum(stored.is_valid().to_numpy(zero_copy_only=False)) - 1
    return texts.take(pa.array(places, mask=stored.is_null().to_numpy(zero_copy_only=False)))


def read_footer(path: Path) -> Any:
    """The metadata of a Parquet file."""
    with open_parquet(path) as file:
        return file.metadata
