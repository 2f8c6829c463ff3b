"""The package that is being served, which a new one may replace at any time."""

from __future__ import annotations

import os
from pathlib import Path

from seo_rec.places import is_url, place
from seo_rec.schema import DataError
from seo_rec.serve.layout import PackageError
from seo_rec.serve.predictor import Predictor

Stamp = tuple[tuple[str, int, int, int], ...]
_TRIES = 3  # at a package that changes while it is read


class LivePackage:
    """A loaded package and the place that it came from.

    Args:
        path: The folder or the tar file; it may be a symbolic link.
        engine: See :meth:`Predictor.load`.
        threads: See :meth:`Predictor.load`.

    Raises:
        PackageError: There is no good package at the path, or it is a URL.
        ValueError: The engine is not installed.
    """

    def __init__(self, path: Path, engine: str = "auto", threads: int = 0) -> None:
        self.path, self.engine, self.threads = path, engine, threads
        self._seen: Stamp = ()
        if is_url(path):
            raise PackageError(
                f"{place(path)}: a server looks for new packages on a local disk; copy the package "
                "to one, and name its folder"
            )
        self.predictor = self._load()

    @property
    def version(self) -> str:
        """The version of the package that is served; see :attr:`Package.version`.

        Who also needs the predictor takes it first and asks its package, since another one may be
        loaded in between.
        """
        return self.predictor.package.version

    def has_changed(self) -> bool:
        """Whether other files are at the path than when it was last loaded or tried."""
        now = stamp(self.path)
        return bool(now) and now != self._seen

    def reload(self) -> bool:
        """Load what is at the path now; requests that have begun keep the package they began with.

        Returns:
            Whether it is another package than before.

        Raises:
            PackageError: What is there is no good package; the one before is served on.
        """
        before, self.predictor = self.version, self._load()
        return self.version != before

    def _load(self) -> Predictor:
        for _ in range(_TRIES):
            self._seen = stamp(self.path)
            try:
                predictor = Predictor.load(self.path, self.engine, self.threads)
            except (OSError, DataError, PackageError) as error:
                if stamp(self.path) != self._seen:
                    continue
                if isinstance(error, OSError):
                    raise PackageError(f"{self.path}: cannot be read ({error})") from error
                raise
            if stamp(self.path) == self._seen:
                return predictor
        raise PackageError(
            f"{self.path}: changed while it was read; replace a package in one step, as "
            "`seo-rec apply-delta` does, or by a symbolic link"
        )


def stamp(path: Path) -> Stamp:
    """Name, inode, size and time of change of every file of a package; empty if there is none."""
    found = []
    try:
        files = [path] if path.is_file() else sorted(path.iterdir())
        for file in files:
            at = os.stat(file)
            found.append((file.name, at.st_ino, at.st_size, at.st_mtime_ns))
    except OSError:
        return ()
    return tuple(found)
