"""Paths that may be URLs of an object store or of HDFS: read like folders, through fsspec.

A place is a :class:`pathlib.Path`, or a :class:`RemotePath` that has the same methods as far as
reading needs them. ``s3://`` and ``gs://`` need a package of their own, which an extra of this
package installs (``s3``, ``gs``). ``webhdfs://`` reaches HDFS by HTTP, and ``hdfs://`` by Hadoop's
native library. These look for addresses and credentials where their documentation says.
``file://`` URLs are paths of this machine.
"""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import total_ordering
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import unquote

from seo_rec.extras import installing

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer as Buffer

EXTRAS = {
    "s3": "s3",
    "gs": "gs",
    "gcs": "gs",
    "hdfs": "hdfs",
    "webhdfs": "hdfs",
    "memory": "remote",
}
# pathlib makes one slash of the two behind the colon
_URL = re.compile(rf"({'|'.join(EXTRAS)}):/+(.*)", re.DOTALL)
_ANY_URL = re.compile(r"([a-z][a-z0-9+.-]+):/.*", re.DOTALL)
_FILE_URL = re.compile(
    r"(?P<option>--[a-z-]+=)?file:(?://(?P<host>[^/]*)(?=/|$)|(?=/))(?P<path>.*)", re.DOTALL
)
_NO_HADOOP = (
    "Hadoop's native library libhdfs, or the Java that it runs in, cannot be loaded; install both, "
    "and set JAVA_HOME, HADOOP_HOME (or ARROW_LIBHDFS_DIR, the folder of libhdfs.so) and "
    "CLASSPATH=$(hadoop classpath --glob); or give the URL as webhdfs://, which needs neither"
)
_BLOCK_BYTES = 8 << 20  # read ahead, where a file is read from end to end


class RemoteError(OSError):
    """A place cannot be reached or read; the message is one line."""


@dataclass(frozen=True)
class RemoteStat:
    """Size of a file, and when it was written, as far as the store says."""

    st_size: int
    st_mtime_ns: int


def is_url(path: Path | str | RemotePath) -> bool:
    """Whether a path is the URL of a store, which can be read and not written to in place."""
    return isinstance(path, RemotePath) or _URL.fullmatch(str(path)) is not None


def place(path: Path | str) -> Path:
    """A path, or for a URL something that is read like one."""
    if isinstance(path, RemotePath):
        return path
    found = _URL.fullmatch(str(path))
    if found is None:
        return Path(local_argument(str(path)))
    return cast(Path, RemotePath(found[1], found[2].rstrip("/")))


def store_advice(path: Path | str | RemotePath) -> str:
    """What to add where a file is missing, if its path is a URL of no store that can be read."""
    found = None if is_url(path) else _ANY_URL.fullmatch(str(path))
    if found is None:
        return ""
    known = ", ".join(f"{name}://" for name in EXTRAS)
    return f"; {found[1]}:// is no store that is read: allowed are {known}"


def local_argument(text: str) -> str:
    """An argument as it is; the path instead of a ``file:`` URL, also behind ``--option=``.

    Raises:
        RemoteError: The URL names another machine, or no path from the root.
    """
    found = _FILE_URL.fullmatch(text)
    if found is None:
        return text
    option, host, path = found["option"] or "", found["host"] or "", unquote(found["path"])
    if host not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise RemoteError(
            f"{text}: names no file of this machine; allowed: file:///FOLDER/FILE, from the root; "
            "or give the path without file://"
        )
    return option + path


def require_local(path: Path | str) -> None:
    """Refuse to write to a URL.

    Raises:
        RemoteError: It is one.
    """
    if is_url(path):
        raise RemoteError(
            f"{place(path)}: this command writes to local or shared disks; choose another --out, "
            "and copy it to the store afterwards"
        )


@total_ordering
class RemotePath:
    """A file or folder of a store.

    Args:
        protocol: What stands before the colon.
        key: What stands behind ``//``.
    """

    def __init__(self, protocol: str, key: str) -> None:
        self._protocol, self._key = protocol, key
        self._pure = PurePosixPath("/" + key)
        self.name, self.stem = self._pure.name, self._pure.stem
        self.suffix, self.suffixes = self._pure.suffix, self._pure.suffixes

    def __str__(self) -> str:
        return f"{self._protocol}://{self._key}"

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and str(self) == str(other)

    def __lt__(self, other: RemotePath) -> bool:
        return str(self) < str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: Path | str) -> RemotePath:
        return RemotePath(self._protocol, f"{self._key.rstrip('/')}/{name}".lstrip("/"))

    @property
    def parent(self) -> RemotePath:
        """The folder that holds this one."""
        return RemotePath(self._protocol, self._key.rpartition("/")[0])

    def absolute(self) -> RemotePath:
        """Itself."""
        return self

    def relative_to(self, folder: RemotePath) -> PurePosixPath:
        """The path below a folder."""
        return self._pure.relative_to(folder._pure)

    def samefile(self, other: object) -> bool:
        """Whether both have one URL."""
        return self == other

    def exists(self) -> bool:
        """Whether a file or a folder is here."""
        return self._info() is not None

    def is_file(self) -> bool:
        """Whether a file is here."""
        found = self._info()
        return found is not None and found["type"] == "file"

    def is_dir(self) -> bool:
        """Whether files are below this name."""
        found = self._info()
        return found is not None and found["type"] == "directory"

    def stat(self) -> RemoteStat:
        """Size and time of a file."""
        with self._said() as store:
            found = store.info(str(self))
        times = (found.get(key) for key in ("LastModified", "mtime", "updated", "created"))
        time = next((t for t in times if t is not None), 0)
        seconds = time.timestamp() if hasattr(time, "timestamp") else time
        nanoseconds = int(seconds * 1e9) if isinstance(seconds, int | float) else 0
        return RemoteStat(int(found["size"]), nanoseconds)

    def _info(self) -> dict[str, Any] | None:
        """What the store says of this name; its own ``exists`` takes a lost connection for a no."""
        with self._said() as store:
            try:
                found: dict[str, Any] = store.info(str(self))
            except FileNotFoundError:
                return None
        return found

    def iterdir(self) -> Iterator[RemotePath]:
        """What the folder holds."""
        with self._said() as store:
            names = [str(name).rstrip("/") for name in store.ls(str(self), detail=False)]
        for name in names:
            if base := name.rpartition("/")[2]:
                yield self / base

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """What the folder holds and matches a pattern of one level; nothing if there is none."""
        if self.is_dir():
            yield from (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def read_text(self, encoding: str = "utf-8") -> str:
        """The text of a file."""
        with self._said() as store:
            return bytes(store.cat_file(str(self))).decode(encoding)

    def open(self, mode: str = "rb", buffering: int = -1, *, ranges: bool = False) -> BinaryIO:
        """Open a file for reading.

        Args:
            mode: ``rb``.
            buffering: Of no effect.
            ranges: Whether pieces are read here and there, and nothing is read ahead.
        """
        assert mode == "rb", mode
        with self._said() as store:
            cache = "none" if ranges else "readahead"
            file = store.open(str(self), "rb", block_size=_BLOCK_BYTES, cache_type=cache)
        return cast(BinaryIO, _File(self, file))

    def upload(self, path: Path) -> None:
        """Write a local file here; it appears when it is whole."""
        with self._said("write") as store:
            store.put_file(str(path), str(self))

    def remove(self) -> None:
        """Remove a file."""
        with self._said("write") as store:
            store.rm_file(str(self))

    def download(self, target: Path) -> None:
        """Copy this file to a local one, or all files of this folder below one that is made."""
        with self._said() as store:
            if store.info(str(self))["type"] == "directory":
                store.get(str(self), str(target), recursive=True)
            else:
                store.get_file(str(self), str(target))

    @contextmanager
    def _said(self, what: str = "read") -> Iterator[Any]:
        """The store; within the block its errors become one line that names this place."""
        try:
            from fsspec.core import url_to_fs

            store = url_to_fs(str(self), use_listings_cache=False)[0]  # others write there, too
            if self._protocol == "webhdfs":
                store.session.hooks["response"] = [_refuse_failed_read]
            yield store
        except RemoteError:
            raise
        except FileNotFoundError as error:
            raise RemoteError(f"{self}: no such file or folder; check the URL") from error
        except PermissionError as error:
            raise RemoteError(f"{self}: access is denied; check your credentials") from error
        except ImportError as error:
            raise RemoteError(
                f"{self}: {_one_line(error)}; install what {self._protocol}:// needs: "
                f"{installing(EXTRAS[self._protocol])}"
            ) from error
        except Exception as error:  # of any class: each store's library has its own
            why = _one_line(error) or type(error).__name__
            if self._protocol == "hdfs" and re.search("libhdfs|libjvm", why):
                raise RemoteError(f"{self}: {_NO_HADOOP} ({why:.100})") from error
            raise RemoteError(
                f"{self}: cannot {what} it ({why:.200}); check the connection and your "
                "credentials, and give the command again"
            ) from error


def _refuse_failed_read(response: Any, **_: Any) -> None:
    """An error for an answer that is none: fsspec takes its text for the content of the file."""
    if "op=OPEN" in response.url:
        response.raise_for_status()


class _File(io.RawIOBase):
    """An open remote file, whose errors name it."""

    def __init__(self, path: RemotePath, file: Any) -> None:
        self._path, self._file = path, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def read(self, size: int | None = -1) -> bytes:
        with self._path._said():
            return bytes(self._file.read(-1 if size is None else size))

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@contextmanager
def local_copy(path: Path | str) -> Iterator[Path]:
    """A path on a local disk: itself, or for a URL a copy that the end of the block removes.

    Raises:
        RemoteError: The file or folder does not exist or cannot be read.
    """
    found = place(path)
    if not isinstance(found, RemotePath):
        yield found
        return
    with tempfile.TemporaryDirectory(prefix="seo-rec-") as folder:
        copy = Path(folder) / found.name
        found.download(copy)
        yield copy


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
