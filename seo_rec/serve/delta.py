"""Deltas: what makes one package of another, and how it is applied (``docs/package-format.md``)."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seo_rec.files import (
    checksum,
    full_disk_at,
    hidden_folder,
    new_folder,
    sync,
    sync_folder,
    write_bytes,
    write_json,
)
from seo_rec.folders import but_is
from seo_rec.policy import PolicyError
from seo_rec.policy.strict_json import integer, json_object, string
from seo_rec.serve import layout
from seo_rec.serve.archive import unpacked
from seo_rec.serve.layout import PackageError
from seo_rec.serve.package import Array, check_files, read_json, read_manifest, read_package
from seo_rec.serve.predictor import Predictor
from seo_rec.serve.tensors import fits, read_tensors, tensor_bytes, tensor_places

FORMAT = "seo-rec-delta"
VERSION = 1
DELTA_FILE = "delta.json"
TARGET_FILE = "target-manifest.json"  # the manifest of the new package
ROWS_FILE = "rows.safetensors"  # changed rows of the embeddings
FILES = (DELTA_FILE, TARGET_FILE, ROWS_FILE, *layout.REQUIRED, *layout.OPTIONAL)
_RENAME_EXCHANGE = 2  # of Linux's renameat2
_AT_FDCWD = -100


def write_delta(base: Path, new: Path, folder: Path) -> None:
    """Write the delta from one package to another.

    Rows of the embeddings that differ are written one by one, if the tensors have the same names,
    types and shapes; every other file that differs is written whole.

    Args:
        base, new: Folders of packages.
        folder: Where the files of the delta go.

    Raises:
        PackageError: One of them is not a package, or is damaged.
    """
    before, after = read_package(base), read_package(new)
    kinds: dict[str, str] = {}
    for name, entry in after.files.items():
        if before.files.get(name) == entry:
            kinds[name] = "same"
            continue
        kinds[name] = "whole"
        if name == layout.EMBEDDINGS_FILE and name in before.files:
            rows = _changed_rows(before.embeddings, after.embeddings)
            if rows is not None and _headers_agree(base / name, new / name):
                kinds[name] = "rows"
                write_bytes(folder / ROWS_FILE, tensor_bytes(rows))
        if kinds[name] == "whole":
            shutil.copyfile(new / name, folder / name)
    shutil.copyfile(new / layout.MANIFEST_FILE, folder / TARGET_FILE)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "base": before.digest,
        "kinds": kinds,
        "files": {path.name: checksum(path) for path in sorted(folder.iterdir())},
    }
    write_json(folder / DELTA_FILE, document)


def _changed_rows(
    before: Mapping[str, Array], after: Mapping[str, Array]
) -> dict[str, Array] | None:
    """Numbers and contents of the rows that differ; None if the tensors are other ones."""
    shapes = [{n: (x.dtype, x.shape) for n, x in tensors.items()} for tensors in (before, after)]
    if shapes[0] != shapes[1]:
        return None
    found: dict[str, Array] = {}
    for name, new in after.items():
        old = before[name]
        # bits are compared: 0 and -0 differ
        rows = [x.reshape(len(x), -1).view(np.uint8) if x.size else None for x in (old, new)]
        if rows[0] is None or rows[1] is None:
            continue
        at = np.flatnonzero((rows[0] != rows[1]).any(axis=1))
        if len(at):
            found[f"{name}.at"], found[f"{name}.rows"] = at.astype(np.int64), new[at]
    return found


def _headers_agree(first: Path, second: Path) -> bool:
    heads = []
    for path in (first, second):
        with path.open("rb") as stream:
            size = stream.read(8)
            heads.append(size + stream.read(int.from_bytes(size, "little")))
    return heads[0] == heads[1]


def apply_delta(package: Path | str, delta: Path | str, out: Path | str | None = None) -> Path:
    """Bring a package up to date.

    The new package is written beside the old one, checked and verified on its golden rows, and
    then takes its place in one step. A crash before that leaves the old package as it was.

    Args:
        package: The package that the delta was made from: a folder or, with ``out``, a tar file.
        delta: A folder or a tar file.
        out: The folder of the new package; None replaces the old one.

    Returns:
        The folder of the new package.

    Raises:
        FileExistsError: Something is at ``out``.
        PackageError: The delta belongs to another package, or something is damaged.
    """
    package, delta = Path(package), Path(delta)
    if out is None:
        _require_folder(package)
    with unpacked(package, layout.ALL_FILES) as old, unpacked(delta, FILES) as changes:
        if out is not None:
            with new_folder(out) as made:
                _build(old, changes, made, (package, delta))
            return Path(out)
        with full_disk_at(package), hidden_folder(package) as made:
            _build(old, changes, made, (package, delta))
            os.chmod(made, 0o755)
            exchange(made, package)
            sync(package.parent)
            shutil.rmtree(made, ignore_errors=True)  # now the old one
    return package


def _require_folder(package: Path) -> None:
    """PackageError unless a new package can take the place of ``package``."""
    if not package.exists():
        raise PackageError(f"{package}: no such folder or file; `seo-rec export` writes one")
    if package.is_symlink() or not package.is_dir():
        kind = "a link" if package.is_symlink() else "a file"
        raise PackageError(
            f"{package}: is {kind}, which is not replaced; name a folder for the new package by "
            "--out"
        )


def _build(package: Path, delta: Path, made: Path, names: tuple[Path, Path]) -> None:
    """Write the new package into the folder ``made``, on disk, and check it.

    Args:
        package, delta: Folders.
        made: An empty folder.
        names: What the user calls package and delta.
    """
    manifest, digest = read_manifest(package)
    check_files(package, manifest["files"])
    document = _read_delta(delta, names[1])
    if document["base"] != digest:
        raise PackageError(
            f"{names[1]}: was not made for the package {names[0]}; apply the deltas in order, or "
            "export the package anew"
        )
    for name, kind in document["kinds"].items():
        if kind == "whole":
            shutil.copyfile(delta / name, made / name)
            continue
        if name not in manifest["files"]:
            raise PackageError(f"{names[1]}: {name} is to be taken from {names[0]}, which lacks it")
        shutil.copyfile(package / name, made / name)
        if kind == "rows":
            _patch(made / name, delta / ROWS_FILE)
    shutil.copyfile(delta / TARGET_FILE, made / layout.MANIFEST_FILE)
    sync_folder(made)
    Predictor.load(made)


def _read_delta(folder: Path, called: Path) -> dict[str, Any]:
    """The document of a delta, whose form and files are checked; the user calls it ``called``."""
    path = folder / DELTA_FILE
    if not path.is_file():
        raise PackageError(
            f"{called}: no {DELTA_FILE} here, so this is no delta{but_is(folder)}; "
            "`seo-rec export RUN --since PACKAGE` makes one"
        )
    where = str(called / DELTA_FILE)
    try:
        doc = json_object(read_json(path), {"format", "version", "base", "kinds", "files"}, where)
        if doc["format"] != FORMAT or type(doc["version"]) is not int or doc["version"] != VERSION:
            raise PackageError(
                f"{where}: format {doc['format']!r} version {doc['version']!r}; this release reads "
                f"{FORMAT!r} version {VERSION}"
            )
        string(doc["base"], f"{where}: base")
        if not isinstance(doc["kinds"], dict) or not isinstance(doc["files"], dict):
            raise PackageError(f"{where}: kinds and files must be objects")
        known = {*layout.REQUIRED, *layout.OPTIONAL}
        for name, kind in doc["kinds"].items():
            rows = kind == "rows" and name == layout.EMBEDDINGS_FILE
            if name not in known or not (rows or kind in ("same", "whole")):
                raise PackageError(f"{where}: kinds[{name!r}] is {kind!r}")
        for name, entry in doc["files"].items():
            at = f"{where}: files[{name!r}]"
            integer(json_object(entry, {"bytes", "sha256"}, at)["bytes"], f"{at}.bytes")
    except PolicyError as error:
        raise PackageError(str(error)) from error
    needed = {TARGET_FILE, *(name for name, kind in doc["kinds"].items() if kind == "whole")}
    needed |= {ROWS_FILE} if "rows" in doc["kinds"].values() else set()
    if set(doc["files"]) != needed:
        raise PackageError(f"{where}: files names {sorted(doc['files'])}; needed {sorted(needed)}")
    check_files(folder, doc["files"], DELTA_FILE)
    return doc


def _patch(file: Path, changes: Path) -> None:
    """Write changed rows into a file of tensors."""
    try:
        rows, tensors = read_tensors(changes), read_tensors(file)
    except ValueError as error:
        raise PackageError(str(error)) from error
    places = tensor_places(file.read_bytes())
    names = {name.removesuffix(".at") for name in rows if name.endswith(".at")}
    if set(rows) != {f"{name}.{part}" for name in names for part in ("at", "rows")}:
        raise PackageError(f"{changes}: holds {sorted(rows)}; needed are pairs of .at and .rows")
    with file.open("r+b") as stream:
        for name in sorted(names):
            at, new = rows[f"{name}.at"], rows[f"{name}.rows"]
            if (old := tensors.get(name)) is None or not (
                fits(at, "i8", None) and fits(new, old.dtype.str, len(at), *old.shape[1:])
            ):
                raise PackageError(f"{changes}: {name!r} does not fit the package")
            if len(at) and not (int(at.min()) >= 0 and int(at.max()) < len(old)):
                raise PackageError(f"{changes}: {name!r} has rows that the package lacks")
            size = new.nbytes // max(len(at), 1)
            for row, content in zip(at.tolist(), new, strict=True):
                stream.seek(places[name][0] + row * size)
                stream.write(content.tobytes())


def exchange(first: Path, second: Path) -> None:
    """Let two folders change places in one step, which no crash can divide.

    Raises:
        PackageError: The system or the file system cannot do that.
    """
    library = ctypes.CDLL(None, use_errno=True)
    rename = getattr(library, "renameat2", None)
    code = errno.ENOSYS
    if rename is not None:
        names = os.fsencode(first), os.fsencode(second)
        if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
        code = ctypes.get_errno()
    raise PackageError(
        f"{second}: cannot be replaced in one step here ({os.strerror(code)}); write the new "
        "package to another folder with --out"
    )
