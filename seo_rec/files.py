"""Files that are either whole or absent: write to a temporary name, then rename."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from seo_rec.places import require_local

LOCK_FILE = ".lock"
PART = ".part"
FULL = (errno.ENOSPC, errno.EDQUOT)  # of the disk, or of what the user may have of it
NO_SPACE = "no space is left on the disk"


FIXES = {
    errno.EEXIST: "a file is there, where a folder is needed; choose another --out",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another --out",
    errno.EISDIR: "a folder is there; name a file",
    errno.EACCES: "give yourself the right to it, or choose another place",
    errno.EPERM: "give yourself the right to it, or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), or choose another --out",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EBUSY: "it is a mount point or in use; name a folder below it",
}


class NoSpaceError(OSError):
    """A file cannot be written because the disk is full; the message names the place."""


def is_full_disk(error: BaseException | None) -> bool:
    """Whether a full disk is behind ``error``, which may be what a writer raised after it."""
    while error is not None:
        if isinstance(error, NoSpaceError) or (isinstance(error, OSError) and error.errno in FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def full_disk_at(path: Path | str) -> Iterator[None]:
    """Within the block an error for want of space names ``path``; of several blocks the outermost.

    Raises:
        NoSpaceError: The disk is full; writers as pyarrow's do not say where.
    """
    try:
        yield
    except OSError as error:
        if is_full_disk(error):
            raise NoSpaceError(f"{path}: {NO_SPACE}; make room or choose another place") from error
        raise


def said(error: OSError) -> str:
    """What the system refused, where and what to do, in words for the user."""
    if isinstance(error, NoSpaceError):
        return str(error)
    if is_full_disk(error):
        return f"{NO_SPACE}: {error}; make room or choose another --out"
    if error.errno is None or error.strerror is None:  # our own words, or a library's
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    fix = FIXES.get(error.errno)
    return f"{where}{error.strerror}" + (f"; {fix}" if fix else "")


def one_line(message: object) -> str:
    """The text of an error on one line; messages of libraries may have several."""
    return " ".join(line.strip() for line in str(message).splitlines() if line.strip())


def first_line(error: BaseException) -> str:
    """The first line of an error's message, cut at 200 characters; its class if it has none."""
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__


def require_new_file(path: Path | str) -> None:
    """See that a file can be written at ``path``, before time is spent on what goes into it.

    Raises:
        FileExistsError: Something is there.
        OSError: The folder cannot be made or written to.
    """
    require_local(path)
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def write_text(path: Path | str, text: str) -> None:
    """Write ``text`` to ``path`` so that a reader never sees half of it."""
    write_bytes(path, text.encode())


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write ``content`` to ``path`` so that a reader never sees half of it."""
    require_local(path)
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """An empty file to write to, which takes the place of ``path`` if the block ends without error.

    It has a hidden name beside ``path``, and is on disk before it takes that place.
    """
    path = Path(path)
    with full_disk_at(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            sync(temporary)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Return when the files of a folder, and their names, are on disk."""
    for path in (*folder.iterdir(), folder):
        sync(path)


def sync(path: Path) -> None:
    """Return when the content of a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checksum(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, read in a stream: ``{"bytes": 3, "sha256": "ba7816..."}``."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"bytes": stream.tell(), "sha256": digest}


def read_json(path: Path) -> Any:
    """The JSON value of a file.

    Raises:
        ValueError: The file holds no JSON; the message is one line that names the file.
        OSError: The file cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not valid JSON (not UTF-8: {error.reason})") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, too many digits
        raise ValueError(f"{path}: not valid JSON ({type(error).__name__})") from error


def write_json(path: Path | str, document: Any) -> None:
    """Write ``document`` as indented JSON with sorted keys, atomically.

    NaN and the infinities are written as Python's ``json`` does; files for others to read go
    through :func:`finite` first.
    """
    write_text(path, json.dumps(document, indent=2, sort_keys=True) + "\n")


def finite(document: Any) -> Any:
    """``document`` with None for every number that JSON cannot hold: NaN and the infinities."""
    if isinstance(document, float):
        return document if math.isfinite(document) else None
    if isinstance(document, Mapping):
        return {key: finite(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [finite(value) for value in document]
    return document


def append_line(path: Path | str, line: str) -> None:
    """Append one line, on disk before this returns; a line cut short by a kill is closed first."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.write(b"\n")
        stream.write(line.encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def locked(folder: Path | str) -> Iterator[None]:
    """Within the block nobody else holds ``folder``; the end of the process ends the block.

    Where the file system has no locks, nobody is kept out.

    Raises:
        BlockingIOError: somebody does.
    """
    require_local(folder)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass
        yield


@contextmanager
def new_folder(path: Path | str) -> Iterator[Path]:
    """A folder to fill that appears at ``path`` only if the block ends without an error.

    It is filled under a hidden name beside ``path``. What a killed process has left there is
    removed first. If ``path`` is a link, the folder takes the place that the link points to.

    Raises:
        FileExistsError: ``path`` exists and is not an empty folder, or was filled within the block.
        OSError: No folder can be put at ``path``, such as on a mount point.
    """
    given, path = path, free_place(path)
    with full_disk_at(given), hidden_folder(path) as temporary:
        require_replaceable(path, temporary)
        yield temporary
        take_place(temporary, path, given)


def free_place(path: Path | str) -> Path:
    """Where a folder for ``path`` goes, with links followed; its parent folder is made.

    Raises:
        FileExistsError: ``path`` exists and is not an empty folder.
        RemoteError: ``path`` is a URL.
    """
    require_local(path)
    given, path = path, Path(os.path.realpath(path))
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(
            f"{given} exists and is not empty; choose another --out or remove it first"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def require_replaceable(path: Path, temporary: Path) -> None:
    """See now that an empty folder at ``path`` can be replaced, unlike a mount point.

    Args:
        path: Where a folder is to go.
        temporary: A folder on the same file system.

    Raises:
        OSError: It cannot.
    """
    if path.exists():
        os.rename(path, temporary / path.name)
        os.rename(temporary / path.name, path)


def take_place(folder: Path, path: Path, given: Path | str) -> None:
    """Move a finished folder to ``path``, where nothing or an empty folder is.

    Args:
        folder: The folder.
        path: Its place.
        given: The place as the user wrote it.

    Raises:
        FileExistsError: Something was put there in the meantime.
    """
    os.chmod(folder, 0o755)
    try:
        if path.exists():
            path.rmdir()
        os.replace(folder, path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise FileExistsError(
            f"{given} was made by another process in the meantime, and nothing is written over "
            "it; choose another --out"
        ) from error


def parallel_folder(path: Path) -> Path:
    """The hidden folder beside ``path`` in which several processes make it."""
    return path.with_name(f".{path.name}.parallel{PART}")


@contextmanager
def kept_folder(path: Path) -> Iterator[Path]:
    """The folder of :func:`parallel_folder`, which the end of the block does not remove.

    It may hold what a killed process has left. This process holds a lock on it until the block
    ends.

    Raises:
        FileExistsError: Another process has it.
    """
    folder = parallel_folder(path)
    folder.mkdir(parents=True, exist_ok=True)
    lock = None
    try:
        lock = _lock(folder)
    except OSError:  # where the file system has no locks, nobody is kept out
        pass
    else:
        if lock is None:
            raise FileExistsError(f"{path} is being made by another process; choose another --out")
    try:
        yield folder
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def hidden_folder(path: Path) -> Iterator[Path]:
    """A new folder ``.NAME.xxxxxxxx.part`` beside ``path``, which is removed after an error.

    The caller renames or removes it before the block ends without an error. Its process holds a
    lock on it until the block ends. A folder that no process holds is what a killed process has
    left, and is removed first. Where the file system has no locks, none is removed.
    """
    ours = re.compile(re.escape(f".{path.name}.") + r"[a-z0-9_]{8}" + re.escape(PART))
    for old in path.parent.iterdir():
        with suppress(OSError):
            if ours.fullmatch(old.name) and (lock := _lock(old)) is not None:
                shutil.rmtree(old, ignore_errors=True)
                os.close(lock)
    lock = None
    while lock is None:  # again if another process has taken it for a dead one in the meantime
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART))
        try:
            lock = _lock(temporary)
        except OSError:
            break
        if lock is not None and not temporary.exists():
            os.close(lock)
            lock = None
    try:
        yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """An open file by which this process holds ``folder``; None if another one does.

    Raises:
        OSError: The file system has no locks, or the folder cannot be opened.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError:
        os.close(handle)
        raise
    return handle
