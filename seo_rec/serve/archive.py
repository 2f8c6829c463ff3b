"""Packages and deltas as one uncompressed tar file."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from seo_rec.files import whole_file
from seo_rec.places import local_copy
from seo_rec.serve.layout import PackageError

MAX_MEMBERS = 64


def write_tar(folder: Path, path: Path) -> None:
    """Write the files of a folder into a tar file, by name; equal files give equal bytes."""
    with (
        whole_file(path) as temporary,
        tarfile.open(temporary, "w:", format=tarfile.GNU_FORMAT) as archive,
    ):
        for file in sorted(folder.iterdir()):
            member = tarfile.TarInfo(file.name)
            member.size, member.mode = file.stat().st_size, 0o644
            with file.open("rb") as stream:
                archive.addfile(member, stream)


@contextmanager
def unpacked(path: Path | str, names: Sequence[str]) -> Iterator[Path]:
    """The folder that a tar file holds, until the block ends; of a folder, itself.

    Args:
        path: A folder, or an uncompressed tar file; or the URL of one, which is copied.
        names: The files that it may hold.

    Raises:
        PackageError: It is neither, or holds anything but such files.
        RemoteError: The URL cannot be read.
    """
    with local_copy(path) as copy, _unpacked(copy, names) as folder:
        yield folder


@contextmanager
def _unpacked(path: Path, names: Sequence[str]) -> Iterator[Path]:
    if path.is_dir():
        yield path
        return
    if not path.is_file():
        raise PackageError(f"{path}: no such folder or file; `seo-rec export` writes one")
    with TemporaryDirectory(prefix="seo-rec-") as scratch:
        try:
            with tarfile.open(path, "r:") as archive:  # no compression, so nothing can swell
                _extract(archive, path, Path(scratch), set(names))
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            if isinstance(error, PackageError):
                raise
            raise PackageError(f"{path}: not an uncompressed tar file ({error})") from error
        yield Path(scratch)


def _extract(archive: tarfile.TarFile, path: Path, folder: Path, names: set[str]) -> None:
    left = path.stat().st_size
    for number, member in enumerate(archive):
        if number >= MAX_MEMBERS:
            raise PackageError(f"{path}: holds more than {MAX_MEMBERS} members")
        if member.name not in names or member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise PackageError(
                f"{path}: holds {member.name[:60]!r}, which is no file of a package or a delta"
            )
        if member.sparse is not None or not 0 <= member.size <= left:
            raise PackageError(f"{path}: {member.name} claims {member.size} bytes")
        left -= member.size
        target = folder / member.name
        if target.exists():
            raise PackageError(f"{path}: holds {member.name} twice")
        stream = archive.extractfile(member)
        with target.open("wb") as out:
            while stream is not None and (block := stream.read(io.DEFAULT_BUFFER_SIZE << 7)):
                out.write(block)
        if target.stat().st_size != member.size:
            raise PackageError(f"{path}: {member.name} is cut short")
