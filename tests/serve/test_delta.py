"""A delta makes of one package the other, bit for bit, or leaves the old one whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from served import parts_of

from cases import BUILDABLE, POLICIES
from patience import PATIENCE
from seo_rec.serve import PackageError, Predictor
from seo_rec.serve.archive import write_tar
from seo_rec.serve.delta import apply_delta, exchange, write_delta
from seo_rec.serve.writing import write_package

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("dtypes", "codes", "crosses-of-all-kinds", "project")


def bytes_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def trained_on(parts):
    """The parts after some more training: a few rows, a projection, the backbone."""
    embeddings = {name: value.copy() for name, value in parts.embeddings.items()}
    for i, (name, value) in enumerate(sorted(embeddings.items())):
        if name.startswith("rows.float32"):
            value[i % len(value)] += np.float32(0.25)
            value[-1] *= np.float32(-1)
        elif name.startswith("rows.int"):
            value[1, 0] ^= 3
        elif name.startswith("array.") and value.dtype == np.float32:
            value[5 % len(value)] += 1
        elif name.startswith("project."):
            value[0] += np.float32(0.5)
    return replace(parts, embeddings=embeddings)


def rescored(parts, folder):
    """The parts with the scores that their own package gives, made in ``folder`` for a while."""
    from seo_rec.serve import read_package
    from seo_rec.serve.scorer import NumpyScorer, scores_of

    folder.mkdir()
    write_package(folder, parts)
    scores = scores_of(NumpyScorer(read_package(folder)).logits(parts.golden))
    shutil.rmtree(folder)
    return replace(parts, scores=scores)


def with_delta(folder, before, after=None):
    """Below a folder ``old``, ``new`` and ``delta``: two packages and what makes one of the other.

    Without ``after`` the new package is what some more training makes of the old one.
    """
    if after is None:
        after = rescored(trained_on(before), folder / "scratch")
    old, new, changes = (folder / name for name in ("old", "new", "delta"))
    for made in (old, new, changes):
        made.mkdir()
    write_package(old, before)
    write_package(new, after)
    write_delta(old, new, changes)
    return old, new, changes


@pytest.fixture(params=NAMES)
def packages(request, tmp_path):
    """Folders of a package, of the one after it, and of the delta between them."""
    return with_delta(tmp_path, parts_of(POLICIES[request.param])[0])


@pytest.fixture
def few(tmp_path):
    """The same of one small policy."""
    return with_delta(tmp_path, parts_of(POLICIES["sum"])[0])


def test_the_result_equals_a_full_export(packages, tmp_path):
    old, new, changes = packages
    before = bytes_of(old)
    assert apply_delta(old, changes, tmp_path / "made") == tmp_path / "made"
    assert bytes_of(tmp_path / "made") == bytes_of(new)
    assert bytes_of(old) == before
    write_tar(changes, tmp_path / "delta.tar")
    apply_delta(old, tmp_path / "delta.tar")
    assert bytes_of(old) == bytes_of(new)
    assert {p.name for p in tmp_path.iterdir()} == {"old", "new", "delta", "made", "delta.tar"}


QUICK = ("cce", "frequent-bands")
OTHERS = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in BUILDABLE]


@pytest.mark.parametrize("name", OTHERS)
def test_a_delta_of_every_policy(name, tmp_path):
    old, new, changes = with_delta(tmp_path, parts_of(BUILDABLE[name])[0])
    assert bytes_of(old) != bytes_of(new)
    apply_delta(old, changes)
    assert bytes_of(old) == bytes_of(new)


def test_only_changed_rows_are_in_it(tmp_path):
    policy = POLICIES["one-row"]
    policy = replace(policy, tables=(replace(policy.tables[0], num_rows=50_000, dim=8),))
    _, new, changes = with_delta(tmp_path, parts_of(policy)[0])
    size = sum(path.stat().st_size for path in changes.iterdir())
    assert size < 0.03 * sum(path.stat().st_size for path in new.iterdir())
    kinds = json.loads((changes / "delta.json").read_text())["kinds"]
    assert kinds["embeddings.safetensors"] == "rows" and kinds["backbone.json"] == "same"


def test_a_zero_that_changes_its_sign_is_a_change(tmp_path):
    """The result is equal to the bit, so 0 and -0 are two numbers."""
    parts, _ = parts_of(POLICIES["sum"])
    both = []
    for zero in (0.0, -0.0):
        rows = parts.embeddings["rows.float32.4"].copy()
        rows[2, 1] = zero
        changed = replace(parts, embeddings={**parts.embeddings, "rows.float32.4": rows})
        both.append(rescored(changed, tmp_path / "scratch"))
    old, new, changes = with_delta(tmp_path, *both)
    apply_delta(old, changes)
    assert bytes_of(old) == bytes_of(new)


def test_a_package_of_another_form_is_taken_whole(tmp_path):
    both = (parts_of(POLICIES[name])[0] for name in ("sum", "digits"))
    old, new, changes = with_delta(tmp_path, *both)
    apply_delta(old, changes)
    assert bytes_of(old) == bytes_of(new)


def test_a_delta_that_does_not_belong_is_refused(packages):
    """Another package, and its own package a second time."""
    old, new, changes = packages
    before = bytes_of(new)
    with pytest.raises(PackageError, match="was not made for the package"):
        apply_delta(new, changes)
    assert bytes_of(new) == before
    apply_delta(old, changes)
    with pytest.raises(PackageError, match="was not made for the package"):
        apply_delta(old, changes)
    assert bytes_of(old) == before
    with pytest.raises(PackageError, match=r"no delta\.json here, so this is no delta"):
        apply_delta(old, new)


STEPS = ("_read_delta", "_patch", "exchange", "shutil.copyfile", "Predictor.load", "os.chmod")


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_leaves_the_old_package_whole(step, few, tmp_path):
    old, new, changes = few
    before = bytes_of(old)

    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    with pytest.MonkeyPatch.context() as patch:
        place, _, name = f"seo_rec.serve.delta.{step}".rpartition(".")
        patch.setattr(f"{place}.{name}", crash)
        with pytest.raises(Crash):
            apply_delta(old, changes)
    assert bytes_of(old) == before
    assert {p.name for p in tmp_path.iterdir()} == {"old", "new", "delta"}
    Predictor.load(old)
    apply_delta(old, changes)
    assert bytes_of(old) == bytes_of(new)


# Applies a delta and is killed at the step that is named.
KILLED = """
import os, signal, sys
from seo_rec.serve import delta

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

place, _, name = sys.argv[3].rpartition(".")
setattr(getattr(delta, place) if place else delta, name, kill)
delta.apply_delta(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("step, applied", [("exchange", False), ("shutil.rmtree", True)])
def test_what_a_killed_process_leaves_is_removed_by_the_next(step, applied, few, tmp_path):
    old, new, changes = few
    before = bytes_of(old)
    command = [sys.executable, "-c", KILLED, str(old), str(changes), step]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, timeout=PATIENCE)
    assert done.returncode == -signal.SIGKILL
    assert bytes_of(old) == (bytes_of(new) if applied else before)
    names = {p.name for p in tmp_path.iterdir()}
    assert len(names) == 4 and names > {"old", "new", "delta"}
    if applied:
        with pytest.raises(PackageError, match="was not made for the package"):
            apply_delta(old, changes)
    else:
        apply_delta(old, changes)
    assert bytes_of(old) == bytes_of(new)
    assert {p.name for p in tmp_path.iterdir()} == {"old", "new", "delta"}


def test_the_new_package_is_on_disk_before_it_takes_its_place(few, monkeypatch):
    old, new, changes = few
    synced, at_exchange = set(), set()
    sync = os.fsync

    def noted(handle):
        synced.add(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        sync(handle)

    def exchanged(first, second):
        at_exchange.update(synced, [f"in place: {first.name in synced}"])
        exchange(first, second)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr("seo_rec.serve.delta.exchange", exchanged)
    apply_delta(old, changes)
    assert at_exchange >= {*bytes_of(new), "in place: True"}


def test_packages_that_are_not_replaced(few, tmp_path):
    """The advice works: with --out the delta is applied to a tar file and by a link."""
    old, new, changes = few
    tar, link = tmp_path / "old.tar", tmp_path / "link"
    write_tar(old, tar)
    link.symlink_to(old)
    for package, kind in ((tar, "a file"), (link, "a link")):
        with pytest.raises(PackageError, match=f"is {kind}, which is not replaced; .* by --out"):
            apply_delta(package, changes)
        out = tmp_path / f"of-{package.name}"
        assert apply_delta(package, changes, out) == out
        assert bytes_of(out) == bytes_of(new)
    for out in (None, tmp_path / "out"):
        with pytest.raises(PackageError, match="nowhere: no such folder or file; `seo-rec export`"):
            apply_delta(tmp_path / "nowhere", changes, out)
    write_tar(new, tar)
    with pytest.raises(PackageError, match=r"was not made for the package .*/old\.tar;"):
        apply_delta(tar, changes, tmp_path / "out")


def test_readers_of_the_old_package_go_on(packages):
    """Their tables are mapped from files that are not written to."""
    old, _, changes = packages
    predictor = Predictor.load(old, "numpy")
    golden = predictor.package.golden
    before = predictor.score(golden.inputs)
    apply_delta(old, changes)
    np.testing.assert_array_equal(predictor.score(golden.inputs), before)


def test_where_folders_cannot_change_places(tmp_path, monkeypatch):
    with pytest.raises(PackageError, match=r"cannot be replaced in one step here .* with --out"):
        exchange(tmp_path / "nothing", tmp_path)


@pytest.mark.slow
def test_command_line(clicks, seo_rec, tmp_path):
    """export --since, --tar and apply-delta: the run itself, so nothing but the manifest is new."""
    base = tmp_path / "int8"
    assert (
        seo_rec("export", clicks.run, "--out", base, "--precision", "int8", "--format", "none").code
        == 0
    )
    done = seo_rec("export", clicks.run, "--out", tmp_path / "d", "--since", base)
    assert done.code == 0 and f"{tmp_path / 'd'}: delta of" in done.out, done.err
    done = seo_rec("apply-delta", base, tmp_path / "d")
    assert done.code == 0 and "up to date" in done.out, done.err
    assert bytes_of(base) == bytes_of(clicks.package)
    tar = tmp_path / "package.tar"
    done = seo_rec("export", clicks.run, "--out", tar, "--tar", "--format", "none")
    assert done.code == 0, done.err
    one = Predictor.load(tar)
    golden = one.package.golden
    two = Predictor.load(clicks.package, "numpy")
    np.testing.assert_array_equal(one.score(golden.inputs), two.score(golden.inputs))
    for options, message in (
        (("--out", base), "exists and is not empty; choose another --out"),
        (("--out", tar, "--tar"), "exists; choose another --out"),
        (
            ("--out", tmp_path / "x", "--format", "pickle"),
            "--format pickle; allowed: onnx, aoti",
        ),
        (
            ("--out", tmp_path / "x", "--format", "none,onnx"),
            "--format none; allowed: onnx, aoti; none alone, or triton alone",
        ),
        (("--out", tmp_path / "x", "--precision", "int2"), "precision 'int2'; allowed: float32"),
        (("--out", tmp_path / "x", "--data", tmp_path), "or name the prepared data by --data"),
        (("--out", tmp_path / "x", "--since", tmp_path), "so this is no package"),
    ):
        done = seo_rec("export", clicks.run, *options)
        assert done.code == 2 and message in done.err, done.err
    assert not (tmp_path / "x").exists()
