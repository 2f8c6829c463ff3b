"""Checksums of a prepared data set's files: written by ``prepare``, verified before they are read.

``files`` of ``schema.json`` lists every shard and every vocabulary with its size and SHA-256::

    {"train/part-00000.parquet": {"bytes": 81234, "sha256": "9f86d0..."}, ...}

Data sets of earlier releases list none; only the checks of their format apply to them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from seo_rec.data.vocabulary import KEPT_FOLDER, VOCABULARY_FOLDER
from seo_rec.files import checksum
from seo_rec.schema import SCHEMA_FILE, SPLITS, DataError, Schema

progress = logging.getLogger("seo_rec.progress")

FIX = "restore the file or run `seo-rec prepare` again"


def file_checksums(folder: Path) -> dict[str, Any]:
    """The entries of ``files`` for the shards and vocabularies in ``folder``, by relative path."""
    places = [*SPLITS, VOCABULARY_FOLDER, KEPT_FOLDER]
    paths = (path for place in places for path in sorted((folder / place).glob("*.parquet")))
    return {path.relative_to(folder).as_posix(): checksum(path) for path in paths}


class Verifier:
    """Compares the files of a data set with ``schema.json``, each of them once.

    Args:
        folder: The data set.
        schema: Its schema, with the entries of ``files``.
    """

    def __init__(self, folder: Path, schema: Schema) -> None:
        self._folder, self._files = folder, schema.files
        self._verified: set[str] = set()
        self._noted = False

    def splits(self, names: Iterable[str], rank: int = 0, world_size: int = 1) -> None:
        """Verify the shards of these splits; every rank reads its share of them.

        Raises:
            DataError: A shard is damaged, missing or not listed; the message names it.
        """
        if not self._files:
            self._note(rank)
            return
        for split in names:
            there = {p.name for p in (self._folder / split).glob("part-*.parquet")}
            listed = {f.split("/")[1] for f in self._files if f.startswith(f"{split}/")}
            if there != listed:
                raise DataError(
                    f"{self._folder / split}: shards are missing {sorted(listed - there)[:3]} or "
                    f"left over {sorted(there - listed)[:3]}, by {SCHEMA_FILE}; run `seo-rec "
                    "prepare` again"
                )
            for shard in sorted(listed)[rank::world_size]:
                self.file(f"{split}/{shard}")

    def vocabulary(self, column: str) -> None:
        """Verify the vocabulary of a column; one that does not exist is left to its reader.

        Raises:
            DataError: The file is damaged or not listed.
        """
        name = f"{VOCABULARY_FOLDER}/{column}.parquet"
        if self._files and (self._folder / name).is_file():
            self.file(name)

    def file(self, name: str) -> None:
        """Verify one file by its path below the folder.

        Raises:
            DataError: It is damaged, missing or not listed.
        """
        if name in self._verified:
            return
        path, wanted = self._folder / name, self._files.get(name)
        if wanted is None:
            raise DataError(f"{path}: {SCHEMA_FILE} does not list this file; {FIX}")
        try:
            found = checksum(path)
        except OSError as error:
            why = error.strerror or error  # the message of a store has no errno
            raise DataError(f"{path}: cannot be read ({why}); {FIX}") from error
        if found != dict(wanted):
            raise DataError(
                f"{path}: damaged or replaced: its size or SHA-256 is not the one in "
                f"{SCHEMA_FILE}; {FIX}"
            )
        self._verified.add(name)

    def all(self) -> Mapping[str, Mapping[str, Any]]:
        """Verify every listed file again, and return the entries of ``files``.

        Raises:
            DataError: A file is damaged or missing, or the data set lists no files.
        """
        if not self._files:
            raise DataError(
                f"{self._folder}: {SCHEMA_FILE} lists no checksums, so nothing can be verified; "
                "it is of an earlier release; run `seo-rec prepare` again"
            )
        self._verified.clear()
        self.splits(SPLITS)
        for name in self._files:
            self.file(name)
        return self._files

    def _note(self, rank: int) -> None:
        if not self._noted and rank == 0:
            progress.info(
                "%s: %s lists no checksums, so damage may stay unseen; `seo-rec prepare` of this "
                "release writes them",
                self._folder,
                SCHEMA_FILE,
            )
        self._noted = True
