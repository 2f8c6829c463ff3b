"""Laws of files that are whole or absent, and of the schema file."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cases import SCHEMAS
from seo_rec import files
from seo_rec.files import (
    NoSpaceError,
    append_line,
    new_folder,
    said,
    whole_file,
    write_json,
    write_text,
)
from seo_rec.schema import Column, DataError, Schema, read_schema


def left_behind(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*"))


# ---- write_text ----------------------------------------------------------------------------


def test_write_text_writes_and_replaces(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    for text in ("one\n", "größer \N{SNOWMAN}\n", "", "line\r\nline\n"):
        write_text(path, text)
        assert path.read_bytes() == text.encode("utf-8")
    assert left_behind(path.parent) == ["a.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


class Killed(BaseException):
    """Not an Exception, as KeyboardInterrupt and SystemExit."""


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
def test_an_interrupted_write_leaves_the_old_content(tmp_path, monkeypatch, step):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def killed(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(files.os, step, killed)
    with pytest.raises(Killed):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert left_behind(tmp_path) == ["a.txt"]


def test_text_that_cannot_be_written_leaves_the_old_content(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert left_behind(tmp_path) == ["a.txt"]


def test_the_content_is_on_disk_before_the_name_is(tmp_path, monkeypatch):
    """fsync comes before replace: after a power cut the name never stands for an empty file."""
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            files.os, name, lambda *a, real=real, name=name: (calls.append(name), real(*a))[1]
        )
    write_text(tmp_path / "a.txt", "text")
    assert calls == ["fsync", "replace"]


def test_write_json_is_sorted_and_ends_in_a_line_feed(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None, "ü"]})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == {"b": 1, "a": [1.5, None, "ü"]}
    assert text.index('"a"') < text.index('"b"')
    assert text.endswith("}\n")
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert (tmp_path / "a.json").read_text() == text


# ---- append_line ---------------------------------------------------------------------------


def test_append_line_adds_lines(tmp_path):
    path = tmp_path / "new" / "a.jsonl"
    for line in ("one", "zwölf"):
        append_line(path, line)
    assert path.read_text(encoding="utf-8") == "one\nzwölf\n"


@pytest.mark.parametrize("before", ["", "whole\n", "whole\ncut sho", "c"])
def test_append_line_closes_a_line_cut_short(tmp_path, before):
    path = tmp_path / "a.jsonl"
    path.write_text(before)
    append_line(path, "next")
    assert path.read_text().splitlines() == [*before.splitlines(), "next"]
    assert path.read_text().startswith(before)
    assert path.read_text().endswith("\nnext\n" if before else "next\n")


# ---- new_folder ----------------------------------------------------------------------------


def test_new_folder_appears_whole(tmp_path):
    path = tmp_path / "deep" / "out"
    with new_folder(path) as folder:
        (folder / "a").write_text("a")
        (folder / "sub").mkdir()
        assert not path.exists()
    assert left_behind(tmp_path / "deep") == ["a", "out", "sub"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


@pytest.mark.parametrize("error", [ValueError, Killed, KeyboardInterrupt])
@pytest.mark.parametrize("exists", [False, True])
def test_new_folder_leaves_nothing_on_an_error(tmp_path, error, exists):
    path = tmp_path / "out"
    if exists:
        path.mkdir()

    def fill() -> None:
        with new_folder(path) as folder:
            (folder / "a").write_text("a")
            raise error

    with pytest.raises(error):
        fill()
    assert left_behind(tmp_path) == (["out"] if exists else [])


def test_new_folder_takes_the_place_of_an_empty_one(tmp_path):
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("a")
    assert left_behind(tmp_path) == ["a", "out"]


@pytest.mark.parametrize("kind", ["file", "full folder"])
def test_new_folder_never_overwrites(tmp_path, kind):
    path = tmp_path / "out"
    if kind == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "mine").write_text("mine")
    before = left_behind(tmp_path)
    with pytest.raises(FileExistsError, match="choose another --out"), new_folder(path):
        raise AssertionError("the block must not run")
    assert left_behind(tmp_path) == before


def test_new_folder_goes_where_a_link_points(tmp_path):
    (tmp_path / "disk" / "empty").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "empty")
    with new_folder(tmp_path / "out") as folder:
        assert folder.parent == tmp_path / "disk"
        (folder / "a").write_text("a")
    assert (tmp_path / "out").is_symlink() and (tmp_path / "out" / "a").read_text() == "a"
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["empty"]


def test_a_mount_point_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    """The system says so where the folder is to be moved."""
    path, rename = tmp_path / "mounted", os.rename
    path.mkdir()

    def busy(old, new):
        if Path(old) == path:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(old))
        rename(old, new)

    monkeypatch.setattr("os.rename", busy)
    with pytest.raises(OSError, match="busy") as caught, new_folder(path):
        pytest.fail("the block was entered")
    assert "name a folder below it" in said(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["mounted"]


@pytest.mark.parametrize("writing", [whole_file, new_folder], ids=["file", "folder"])
def test_a_full_disk_is_told_with_its_place(writing, tmp_path):
    """Libraries as pyarrow say what failed and not where."""
    with pytest.raises(NoSpaceError) as caught, writing(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "Error writing bytes to file")
    assert said(caught.value) == (
        f"{tmp_path / 'out'}: no space is left on the disk; make room or choose another place"
    )
    assert left_behind(tmp_path) == []


def test_an_empty_folder_is_still_there_after_an_error(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out"):
        assert list((tmp_path / "out").iterdir()) == []
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


KILLED = """
import os, signal, sys
from seo_rec.files import new_folder
with new_folder(sys.argv[1]) as folder:
    (folder / "rows").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    """And nothing else: neither what a living process fills, nor what only looks alike."""
    out, other = tmp_path / "out", tmp_path / "out2"
    for path in (out, other):
        done = subprocess.run([sys.executable, "-c", KILLED, str(path)])
        assert done.returncode == -signal.SIGKILL
    (tmp_path / ".out.mine").mkdir()
    left = sorted(p.name for p in tmp_path.iterdir())
    assert len(left) == 3
    with new_folder(out) as living:
        (living / "a").touch()
        with pytest.raises(RuntimeError), new_folder(out):
            assert len(list(tmp_path.glob(".out.*.part"))) == 2
            raise RuntimeError
        assert (living / "a").exists()
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {"out", ".out.mine", *(n for n in left if n.startswith(".out2."))}


# ---- schema.json ---------------------------------------------------------------------------


@pytest.mark.parametrize("schema", SCHEMAS)
def test_schema_round_trip(schema, tmp_path):
    of = SCHEMAS[schema]
    write_json(tmp_path / "schema.json", of.to_json())
    loaded = read_schema(tmp_path)
    assert loaded == of
    assert loaded.fingerprint == of.fingerprint
    assert loaded.to_json() == of.to_json()


def test_schema_parts():
    of = SCHEMAS["mixed"]
    assert [c.name for c in of.features] == ["user", "tags", "never", "constant"]
    assert [c.name for c in of.numeric] == ["age"]
    assert (of.vocab_size("tags"), of.vocab_size("never")) == (12, 0)
    for name in ("age", "label", "nobody"):
        with pytest.raises(KeyError, match=f"'{name}' is not a feature; allowed: "):
            of.vocab_size(name)


def test_fingerprint_sees_data_and_not_versions():
    doc = SCHEMAS["three"].to_json()
    fingerprint = Schema.from_json(doc).fingerprint
    assert Schema.from_json({**doc, "versions": {"numpy": "9"}}).fingerprint == fingerprint
    for key, value in (
        ("columns", doc["columns"][:2]),
        ("num_rows", {"train": 9}),
        ("split", {"seed": 1}),
        ("options", {"min_count": 2}),
        ("sources", [{"sha256": "0"}]),
    ):
        assert Schema.from_json({**doc, key: value}).fingerprint != fingerprint, key


def test_columns_are_checked():
    with pytest.raises(DataError, match="column 'a' has kind 'text'; allowed: categorical"):
        Column("a", "text")
    for size in (None, -1):
        with pytest.raises(DataError, match=f"needs a vocab_size >= 0, got {size}"):
            Column("a", "categorical", size)
    twice = (Column("a", "numeric"), Column("a", "numeric"))
    with pytest.raises(DataError, match=r"more than once: \['a'\]"):
        Schema("d", twice, "label", {}, {})
    with pytest.raises(DataError, match=r"more than once: \['label'\]"):
        Schema("d", (Column("label", "numeric"),), "label", {}, {})


GOOD = SCHEMAS["three"].to_json()
BAD_SCHEMAS: dict[str, tuple[Any, str]] = {
    "version 2": ({**GOOD, "version": 2}, "schema version 2; this release reads 1"),
    "no version": ({k: v for k, v in GOOD.items() if k != "version"}, "version None"),
    "unknown key": ({**GOOD, "colour": 1}, r"unknown keys \['colour'\]"),
    "missing key": ({k: v for k, v in GOOD.items() if k != "label"}, r"missing keys \['label'\]"),
    "unknown column key": ({**GOOD, "columns": [{"name": "a", "typ": 1}]}, "bad column entry"),
    "a column that is no object": ({**GOOD, "columns": [3]}, "bad column entry"),
    "columns that are no list": ({**GOOD, "columns": None}, "columns is None; allowed: a list"),
    "a list": ([1], "must be an object, got list"),
    "null": (None, "must be an object, got NoneType"),
}


@pytest.mark.parametrize("name", BAD_SCHEMAS)
def test_bad_schemas_are_refused(name, tmp_path):
    doc, message = BAD_SCHEMAS[name]
    (tmp_path / "schema.json").write_text(json.dumps(doc))
    with pytest.raises(DataError, match=message) as caught:
        read_schema(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 1,}', b"\xff\xfe{}"])
def test_a_damaged_schema_file_is_refused(content, tmp_path):
    (tmp_path / "schema.json").write_bytes(content)
    with pytest.raises(DataError, match=r"schema\.json"):
        read_schema(tmp_path)


def test_a_folder_without_a_schema_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no schema\.json here.*seo-rec prepare"):
        read_schema(tmp_path)
