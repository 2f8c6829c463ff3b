"""Compressed raw files: told by how they begin, and unpacked in a stream."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from seo_rec.places import RemotePath
from seo_rec.schema import DataError

_MAGIC = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
    "zip": re.compile(rb"PK\x03\x04"),
}


_UNREAD = {
    "packed by lz4": re.compile(rb"\x04\x22\x4d\x18"),
    "packed by compress": re.compile(rb"\x1f\x9d"),
    "a 7z archive": re.compile(rb"7z\xbc\xaf\x27\x1c"),
    "a RAR archive": re.compile(rb"Rar!\x1a\x07"),
    "a tar archive": re.compile(rb".{257}ustar", re.DOTALL),
    "an Arrow file": re.compile(rb"ARROW1\x00\x00"),
    "an ORC file": re.compile(rb"ORC.{0,500}\x00", re.DOTALL),
    "an Avro file": re.compile(rb"Obj\x01"),
    "an HDF5 file": re.compile(rb"\x89HDF\r\n\x1a\n"),
    "an SQLite database": re.compile(rb"SQLite format 3\x00"),
    "JSON": re.compile(rb"\s*(\[\s*)?\{\s*\"[^\n]*\"\s*:"),
}


def require_text(path: Path, start: bytes) -> None:
    """DataError if text that begins with ``start`` is a file of a kind that is not read."""
    kind = next((kind for kind, magic in _UNREAD.items() if magic.match(start)), None)
    if kind is not None:
        raise DataError(
            f"{path}: is {kind}; allowed: Parquet, and delimited text that is plain or packed by "
            "gzip, bzip2, xz, zstd or zip; unpack or convert it first"
        )


def packing(start: bytes) -> str | None:
    """The kind of compression of a file that begins so; None if it is none of those known."""
    return next((kind for kind, magic in _MAGIC.items() if magic.match(start)), None)


def unzipped(path: Path, size: int) -> Iterator[bytes]:
    """The one file in a zip archive, in pieces of at most ``size`` bytes.

    Raises:
        DataError: The archive is damaged or encrypted, or holds no file or several.
    """
    import zipfile

    opened = path.open("rb", ranges=True) if isinstance(path, RemotePath) else path.open("rb")
    lines = 0
    try:
        with opened as raw, zipfile.ZipFile(raw) as archive:
            files = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(files) != 1:
                raise DataError(
                    f"{path}: a zip archive of {len(files)} files, and one is needed; unzip it and "
                    "give the files inside"
                )
            with archive.open(files[0]) as content:
                while data := content.read(size):
                    lines += data.count(b"\n")
                    yield data
    except NotImplementedError as error:
        raise DataError(f"{path}: a zip archive of a kind that is not read ({error})") from error
    except RuntimeError as error:  # this is how zipfile says that a password is needed
        raise DataError(f"{path}: the zip archive is encrypted; unzip it first") from error
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: line {lines + 1}: the zip file is truncated or corrupt here ({error}); "
            "download it again and compare its size with the publisher's"
        ) from error


def decompressed(path: Path, raw: Any, kind: str, size: int) -> Iterator[bytes]:
    """The content of a compressed file, in pieces of at most about ``size`` bytes.

    Args:
        path: The file, for messages.
        raw: Its bytes.
        kind: ``gzip``, ``bzip2``, ``xz`` or ``zstd``.
        size: Of the pieces.

    Raises:
        DataError: The file is truncated or corrupt.
    """
    import bz2
    import lzma

    import pyarrow as pa

    opened: dict[str, Callable[[], Any]] = {
        "gzip": lambda: gzip.GzipFile(fileobj=raw, mode="rb"),
        "bzip2": lambda: bz2.BZ2File(raw),
        "xz": lambda: lzma.LZMAFile(raw),  # noqa: SIM115  closed below
        "zstd": lambda: pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd"),
    }
    lines = 0
    with opened[kind]() as unpacked:
        read = unpacked.read if kind == "zstd" else unpacked.read1
        while True:
            try:
                data = read(size)
            except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
                if getattr(error, "errno", None) is not None:
                    raise  # of the disk, not of what the file holds
                raise DataError(
                    f"{path}: line {lines + 1}: the {kind} file is truncated or corrupt here "
                    f"({error}); download it again and compare its size with the publisher's"
                ) from error
            if not data:
                return
            lines += data.count(b"\n")
            yield data
