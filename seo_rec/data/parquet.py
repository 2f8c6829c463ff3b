"""Parquet files at any place: on disk, or at the URL of a store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from seo_rec.places import RemotePath


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


def read_footer(path: Path) -> Any:
    """The metadata of a Parquet file."""
    with open_parquet(path) as file:
        return file.metadata
