"""Packages, deltas and archives that were damaged or made to do harm: one clear error each.

Two kinds of damage: a *bit* that flips or a file that is cut, which the checksums notice; and a
*forgery*, whose checksums were made to fit, so that only the reader's own checks are left.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import parts_of

from cases import BACKBONES, POLICIES
from seo_rec.schema import DataError
from seo_rec.serve import PackageError, Predictor
from seo_rec.serve.archive import write_tar
from seo_rec.serve.delta import apply_delta, write_delta
from seo_rec.serve.layout import GOLDEN_TOLERANCE
from seo_rec.serve.writing import write_package

EDGES = (
    -1,
    0,
    1,
    2**31,
    2**63,
    10**30,
    1.5,
    True,
    None,
    "",
    "x",
    [],
    {},
    "../x",
    "a/b",
    "\0",
    "9" * 400,
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package with a table of every type, an array, codes, a vocabulary and a projection."""
    folder = tmp_path_factory.mktemp("hostile") / "package"
    folder.mkdir()
    parts, _ = parts_of(POLICIES["crosses-of-all-kinds"], BACKBONES["dcn-v2"])
    write_package(folder, parts)
    Predictor.load(folder)
    return folder


def forged(folder: Path) -> None:
    """Make sizes and checksums of the manifest fit the files, as an attacker would."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in manifest["files"]:
        content = (folder / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        manifest["files"][name] = {"bytes": len(content), "sha256": digest}
    path.write_text(json.dumps(manifest))


def refused(folder: Path) -> str:
    """The one line that loading gives; anything but a PackageError fails the test."""
    with pytest.raises(PackageError) as error:
        Predictor.load(folder, "numpy")
    message = str(error.value)
    assert message and len(message) < 4_000
    return message


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Where the values of a JSON document are."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else []
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def changed(document: Any, path: tuple, value: Any) -> Any:
    copy = json.loads(json.dumps(document))
    target = copy
    for key in path[:-1]:
        target = target[key]
    if value is ...:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return copy


def scores_or_error(folder: Path, wanted: np.ndarray, inputs: Any) -> str | None:
    """An error in words, or scores as they were: nothing else may come of a forged package."""
    try:
        predictor = Predictor.load(folder, "numpy")
    except PackageError as error:
        return str(error)
    np.testing.assert_allclose(predictor.score(inputs), wanted, rtol=0, atol=GOLDEN_TOLERANCE)
    return None


# what a change of does not matter to a score: it is said to people, or nobody reads it
FREE = {
    "provenance", "decision", "budget", "rules", "dataset", "label", "metrics", "versions", "data",
    "model", "precision", "text", "dropped",
}  # fmt: skip


@pytest.mark.parametrize(
    "file", ["manifest.json", "policy.json", "preparation.json", "backbone.json"]
)
def test_forged_documents(file, package, tmp_path):
    """Every value of every document replaced by others: refused, or without effect on a score."""
    golden = Predictor.load(package, "numpy").package.golden
    wanted = Predictor.load(package, "numpy").score(golden.inputs)
    folder = tmp_path / "package"
    shutil.copytree(package, folder)
    document = json.loads((package / file).read_text())
    rng = np.random.default_rng(0)
    count = quiet = 0
    for path in places(document):
        for number in [-1, int(rng.integers(0, len(EDGES)))]:
            value = ... if number < 0 else EDGES[number]
            if number < 0 and isinstance(path[-1], int):
                continue
            if changed(document, path, value) == document:
                continue
            (folder / file).write_text(json.dumps(changed(document, path, value)))
            if file != "manifest.json":
                forged(folder)
            message = scores_or_error(folder, wanted, golden.inputs)
            count += 1
            if message is None:
                quiet += 1
                assert {str(key) for key in path} & (FREE | {"name", "seed", "examples"}), (
                    path,
                    value,
                )
    assert count > 40 and quiet < count / 2


def test_flipped_bits(package, tmp_path):
    """A bit of any file, its first and its last byte, a cut and a longer tail."""
    folder = tmp_path / "package"
    rng = np.random.default_rng(1)
    for name in sorted(p.name for p in package.iterdir()):
        content = (package / name).read_bytes()
        spots = [0, len(content) - 1, *rng.integers(0, len(content), 8).tolist()]
        damaged = [content[:-1], content[: len(content) // 2], b"", content + b"\0"]
        for at in spots:
            bits = bytearray(content)
            bits[at] ^= 1 << int(rng.integers(0, 8))
            damaged.append(bytes(bits))
        for bad in damaged:
            shutil.copytree(package, folder)
            (folder / name).write_bytes(bad)
            if (
                name == "manifest.json"
            ):  # it has no checksum of its own: refused, or the same scores
                golden = Predictor.load(package, "numpy").package.golden
                wanted = Predictor.load(package, "numpy").score(golden.inputs)
                scores_or_error(folder, wanted, golden.inputs)
            else:
                assert name in refused(folder)
            shutil.rmtree(folder)


def test_forged_tensors(package, tmp_path):
    """Bytes of headers and of numbers, with checksums that fit: never another score in silence."""
    golden = Predictor.load(package, "numpy").package.golden
    wanted = Predictor.load(package, "numpy").score(golden.inputs)
    folder = tmp_path / "package"
    rng = np.random.default_rng(2)
    for name in ("embeddings.safetensors", "backbone.safetensors", "golden.safetensors"):
        content = (package / name).read_bytes()
        header = 8 + int.from_bytes(content[:8], "little")
        for i in range(30):
            end = header if i < 20 else len(content)
            at = int(rng.integers(0, end))
            bits = bytearray(content)
            bits[at] = int(rng.integers(0, 256))
            shutil.copytree(package, folder)
            (folder / name).write_bytes(bytes(bits))
            forged(folder)
            # a row that no golden row reads may differ; the scores of these may not
            scores_or_error(folder, wanted, golden.inputs)
            shutil.rmtree(folder)


HEADERS = (
    (2**63 - 1).to_bytes(8, "little"),
    (100_000_001).to_bytes(8, "little"),
    b"\0" * 8,
    b"\xff" * 8,
)


@pytest.mark.parametrize("size", HEADERS)
def test_headers_that_claim_too_much(size, package, tmp_path):
    folder = tmp_path / "package"
    shutil.copytree(package, folder)
    file = folder / "embeddings.safetensors"
    file.write_bytes(size + file.read_bytes()[8:])
    forged(folder)
    assert "embeddings.safetensors: not a safetensors file" in refused(folder)


SHAPES = (
    {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]},
    {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
    {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**60]},
    {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
    {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]},
    {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]},
    {"dtype": "BOOL", "shape": [4], "data_offsets": [0, 4]},
    {"dtype": "F32", "shape": [1]},
    7,
    None,
)


@pytest.mark.parametrize("entry", SHAPES, ids=str)
def test_tensors_that_lie(entry, package, tmp_path):
    folder = tmp_path / "package"
    shutil.copytree(package, folder)
    for body in (b"", b"\0" * 4, b"\0" * 8):
        head = json.dumps({"rows.float32.3": entry}).encode()
        (folder / "embeddings.safetensors").write_bytes(
            len(head).to_bytes(8, "little") + head + body
        )
        forged(folder)
        refused(folder)


NAMES = (
    "../outside",
    "/etc/passwd",
    "a/b",
    "..",
    ".",
    "",
    "a\\b",
    "pkg\0x",
    "x" * 300,
    "notes.txt",
)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_files(name, package, tmp_path):
    """A manifest that names anything but the files of the format, and a file it does not name."""
    folder = tmp_path / "package"
    shutil.copytree(package, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "files names" in refused(folder)


def test_what_is_no_file(package, tmp_path):
    for make in (
        lambda path: path.mkdir(),
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to(package / "policy.json"),
    ):
        folder = tmp_path / "package"
        shutil.copytree(package, folder)
        (folder / "policy.json").unlink()
        make(folder / "policy.json")
        assert "is no regular file" in refused(folder)
        (folder / "extra").write_text("x")
        assert "holds ['extra'], which manifest.json does not name" in refused(folder)
        shutil.rmtree(folder)
    assert "so this is no package" in refused(tmp_path)
    with pytest.raises(PackageError, match="no such folder or file"):
        Predictor.load(tmp_path / "nothing")


DOCUMENTS = (
    b"", b"null", b"[]", b"7", b"\xff\xfe", b"{", b'{"a": NaN}', b'{"a": 1e999}',
    b'{"a": 1, "a": 2}', b"[" * 100_000, b'{"a":' * 50_000, b'"' + b"x" * 100, b"1" * 5_000,
)  # fmt: skip


@pytest.mark.parametrize("content", DOCUMENTS, ids=lambda c: repr(c[:12]))
def test_documents_that_are_none(content, package, tmp_path):
    folder = tmp_path / "package"
    for name in ("manifest.json", "policy.json", "preparation.json", "backbone.json"):
        shutil.copytree(package, folder)
        (folder / name).write_bytes(content)
        if name != "manifest.json":
            forged(folder)
        assert name in refused(folder)
        shutil.rmtree(folder)


# ---- archives ------------------------------------------------------------------------------


def archive_of(members: list[tuple[tarfile.TarInfo, bytes]], path: Path, mode: str = "w:") -> Path:
    with tarfile.open(path, mode) as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))
    return path


def member(name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, **more: Any):
    info = tarfile.TarInfo(name)
    info.size, info.type = len(content), kind
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


ARCHIVES: dict[str, Callable[[], list]] = {
    "above": lambda: [member("../manifest.json")],
    "absolute": lambda: [member("/manifest.json")],
    "link": lambda: [member("manifest.json", b"", tarfile.SYMTYPE, linkname="/etc/passwd")],
    "hard link": lambda: [member("manifest.json", b"", tarfile.LNKTYPE, linkname="policy.json")],
    "device": lambda: [member("manifest.json", b"", tarfile.CHRTYPE)],
    "folder": lambda: [member("manifest.json", b"", tarfile.DIRTYPE)],
    "pipe": lambda: [member("manifest.json", b"", tarfile.FIFOTYPE)],
    "twice": lambda: [member("policy.json"), member("policy.json")],
    "another": lambda: [member("setup.py")],
    "sparse": lambda: [member("policy.json", b"x" * 512, tarfile.GNUTYPE_SPARSE)],
    "many": lambda: [member("policy.json")] * 100,
    "nothing": list,
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives(kind, package, tmp_path):
    """As a package and as a delta of a good package."""
    path = archive_of(ARCHIVES[kind](), tmp_path / "package.tar")
    refused(path)
    assert [p.name for p in tmp_path.iterdir()] == ["package.tar"]
    with pytest.raises(PackageError, match=r"^\S+/package\.tar: "):
        apply_delta(package, path, tmp_path / "made")
    assert [p.name for p in tmp_path.iterdir()] == ["package.tar"]


def test_archives_that_swell_or_lie(package, tmp_path):
    """Compressed ones are not opened at all; sizes beyond the file are refused."""
    zeros = [member("policy.json", b"\0" * 5_000_000)]
    for mode in ("gz", "bz2", "xz"):
        path = archive_of(zeros, tmp_path / f"package.{mode}", f"w:{mode}")
        assert "not an uncompressed tar file" in refused(path)
    good = tmp_path / "package.tar"
    write_tar(package, good)
    whole = Predictor.load(good, "numpy")
    golden, wanted = whole.package.golden, whole.score(whole.package.golden.inputs)
    content = good.read_bytes()
    lying = tarfile.TarInfo("policy.json")
    lying.size = 1 << 40
    for bad in (lying.tobuf(tarfile.GNU_FORMAT), lying.tobuf(tarfile.PAX_FORMAT) + content):
        (tmp_path / "bad.tar").write_bytes(bad + b"\0" * 1024)
        refused(tmp_path / "bad.tar")
    rng = np.random.default_rng(3)
    for _ in range(30):
        bits = bytearray(content)
        bits[int(rng.integers(0, len(bits)))] ^= 1 << int(rng.integers(0, 8))
        (tmp_path / "bad.tar").write_bytes(bytes(bits))
        with contextlib.suppress(PackageError):  # a bit of the padding changes nothing
            found = Predictor.load(tmp_path / "bad.tar", "numpy").score(golden.inputs)
            np.testing.assert_array_equal(found, wanted)
    for size in (1, 100, 511, 512, 1000, len(content) // 2):
        (tmp_path / "bad.tar").write_bytes(content[:size])
        refused(tmp_path / "bad.tar")


# ---- deltas --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def changes(package, tmp_path_factory) -> Path:
    """A delta from the package to one of other rows."""
    folder = tmp_path_factory.mktemp("changes")
    (folder / "new").mkdir()
    (folder / "delta").mkdir()
    from test_delta import rescored, trained_on

    parts, _ = parts_of(POLICIES["crosses-of-all-kinds"], BACKBONES["dcn-v2"])
    write_package(folder / "new", rescored(trained_on(parts), folder / "scratch"))
    write_delta(package, folder / "new", folder / "delta")
    return folder / "delta"


def delta_refused(package: Path, delta: Path, out: Path) -> None:
    with pytest.raises(PackageError) as error:
        apply_delta(package, delta, out)
    assert str(error.value) and not out.exists()


def forged_delta(folder: Path) -> None:
    document = json.loads((folder / "delta.json").read_text())
    for name in document["files"]:
        content = (folder / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        document["files"][name] = {"bytes": len(content), "sha256": digest}
    (folder / "delta.json").write_text(json.dumps(document))


def test_damaged_deltas(package, changes, tmp_path):
    """Bits of every file; with and without checksums that fit, the result would be another one."""
    rng = np.random.default_rng(4)
    folder, out = tmp_path / "delta", tmp_path / "made"
    names = sorted(p.name for p in changes.iterdir())
    new = Predictor.load(apply_delta(package, changes, tmp_path / "new"), "numpy")
    updated = new.score(new.package.golden.inputs)
    assert {"delta.json", "rows.safetensors", "target-manifest.json"} <= set(names)
    for name in names:
        content = (changes / name).read_bytes()
        for i in range(12):
            bits = bytearray(content)
            bits[int(rng.integers(0, len(bits)))] ^= 1 << int(rng.integers(0, 8))
            shutil.copytree(changes, folder)
            (folder / name).write_bytes(bytes(bits))
            if i % 2 and name != "delta.json":
                forged_delta(folder)
            if name == "target-manifest.json" and i % 2:
                with contextlib.suppress(PackageError):  # parts of it are for people only
                    made = Predictor.load(apply_delta(package, folder, out), "numpy")
                    np.testing.assert_array_equal(made.score(made.package.golden.inputs), updated)
                    shutil.rmtree(out)
            else:
                delta_refused(package, folder, out)
            shutil.rmtree(folder)
        shutil.copytree(changes, folder)
        (folder / name).unlink()
        delta_refused(package, folder, out)
        shutil.rmtree(folder)


def test_forged_delta_documents(package, changes, tmp_path):
    folder, out = tmp_path / "delta", tmp_path / "made"
    document = json.loads((changes / "delta.json").read_text())
    rng = np.random.default_rng(5)
    shutil.copytree(changes, folder)
    for path in places(document):
        for number in [-1, *rng.choice(len(EDGES), 2, replace=False).tolist()]:
            value = ... if number < 0 else EDGES[number]
            (folder / "delta.json").write_text(json.dumps(changed(document, path, value)))
            delta_refused(package, folder, out)
    rows = {"rows.float32.3.at": np.array([2**40]), "rows.float32.3.rows": np.ones((1, 3), "f4")}
    from seo_rec.serve.tensors import tensor_bytes

    for bad in (
        rows,
        {**rows, "rows.float32.3.at": np.array([-1])},
        {**rows, "rows.float32.3.rows": np.ones((2, 3), "f4")},
        {**rows, "rows.float32.3.rows": np.ones((1, 2), "f4")},
        {"rows.float32.3.at": np.array([0])},
        {"nothing.at": np.array([0]), "nothing.rows": np.ones((1, 3), "f4")},
    ):
        (folder / "delta.json").write_text(json.dumps(document))
        (folder / "rows.safetensors").write_bytes(tensor_bytes(bad))
        forged_delta(folder)
        delta_refused(package, folder, out)


# ---- backbones that would run for ever, or eat the memory ----------------------------------

STEPS = (
    {"op": "reshape", "in": ["embeddings"], "out": "y", "shape": [2**31 - 1]},
    {"op": "part", "in": ["embeddings"], "out": "y", "axis": 0, "start": 0, "size": 2**31 - 1},
    {"op": "matmul", "in": ["dense", "dense"], "out": "y"},
    {"op": "transpose", "in": ["dense"], "out": "y", "order": [0, 0]},
    {"op": "squeeze", "in": ["embeddings"], "out": "y", "axis": 1},
    {"op": "take", "in": ["dense", "dense"], "out": "y", "axis": 1},
    {"op": "sum", "in": ["dense"], "out": "y", "axis": 7},
    {"op": "concatenate", "in": ["dense"] * 20_000, "out": "y", "axis": 0},
    {"op": "eval", "in": ["dense"], "out": "y"},
    {"op": "__import__", "in": ["dense"], "out": "y"},
)


@pytest.mark.parametrize("step", STEPS, ids=lambda s: s["op"])
def test_backbones(step, package, tmp_path):
    folder = tmp_path / "package"
    shutil.copytree(package, folder)
    document = json.loads((folder / "backbone.json").read_text())
    document["steps"].append(step)
    document["output"] = "y"
    (folder / "backbone.json").write_text(json.dumps(document))
    forged(folder)
    refused(folder)


def test_rows_of_requests(package):
    """Numbers that are not finite, ids and bags of every size, and combinations without end."""
    predictor = Predictor.load(package, "numpy")
    row = {"n0": [1.0], "n1": [2.0], "user": [["1"]], "item": [["2"]], "hour": [["3"]]}
    assert predictor(row).shape == (1,)
    for bad, message in (
        ({"n0": [float("inf")]}, "row 0, column 'n0': not a finite number"),
        ({"n0": ["many"]}, "row 0, column 'n0': not a number"),
        ({"user": [[1.5]]}, "row 0, column 'user': a number in the list is not whole"),
        ({"user": [["a"] * 200], "item": [["b"] * 2]}, "more combinations than 256"),
        ({"user": [{"a": 1}]}, "multivalent column 'user' has type struct"),
    ):
        with pytest.raises(DataError, match=message):
            predictor({**row, **bad})
    for good in (
        {"n0": [float("nan")], "n1": [None]},
        {"user": [[2**63 - 1, 0, -1]]},
        {"user": [[]], "item": [None]},
        {"hour": [["3"] * 100_000], "user": [[]], "item": [[]]},
    ):
        score = predictor({**row, **good})
        assert score.shape == (1,) and 0 <= score[0] <= 1
