"""A prepared data set at the URL of a store, where nothing can be renamed.

It is prepared on a local disk. Its files are uploaded under their final names, ``schema.json``
last. A folder without that file is not complete, and no command reads it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seo_rec.places import RemotePath, place
from seo_rec.schema import LISTED_FILE, SCHEMA_FILE, SPLITS

_FOLDERS = (*SPLITS, "vocabulary", "kept")


@contextmanager
def published(out: Path | str) -> Iterator[Path]:
    """Where to prepare a data set for ``out``; a URL gets it when the block ends without an error.

    What an interrupted upload has left there is removed first.

    Args:
        out: A path, which is yielded as it is, or a URL.

    Raises:
        FileExistsError: The URL has a data set or other files.
        RemoteError: The store cannot be reached or written to.
    """
    found = place(out)
    if not isinstance(found, RemotePath):
        yield Path(out)
        return
    left = _left_over(found)
    with tempfile.TemporaryDirectory(prefix="seo-rec-") as folder:
        yield Path(folder) / "data"
        for path in left:
            path.remove()
        files = sorted(p for p in (Path(folder) / "data").rglob("*") if p.is_file())
        last = Path(folder) / "data" / SCHEMA_FILE
        for path in [*(p for p in files if p != last), last]:
            (found / path.relative_to(last.parent).as_posix()).upload(path)


def _left_over(url: RemotePath) -> list[RemotePath]:
    """The files of an upload that did not end.

    Raises:
        FileExistsError: There are other files, or the data set is complete.
    """
    there = list(url.iterdir()) if url.is_dir() else []
    left = [p for folder in there if folder.name in _FOLDERS for p in folder.glob("*")]
    names = [path.relative_to(url).as_posix() for path in left]
    if url.is_file() or any(path.name not in _FOLDERS for path in there) or not all(
        LISTED_FILE.fullmatch(name) for name in names
    ):  # fmt: skip
        raise FileExistsError(
            f"{url} exists and is not empty; choose another --out or remove it first"
        )
    return left
