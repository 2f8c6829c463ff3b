"""Damaged and hostile checkpoints: named by their file, never run as code, never resumed from."""

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from checkpoint_files import assert_holds, load, save, sign, tensors
from hostile import hostile
from seo_rec.data.dataset import DataSet
from seo_rec.files import checksum
from seo_rec.train import (
    CheckpointError,
    Checkpoints,
    load_tensors,
    loop,
)
from seo_rec.train.checkpoint import Saved
from seo_rec.train.checkpoint_index import read_index
from small_fit import fitted, settings

# ---- damaged checkpoints --------------------------------------------------------------------


FILES = ("index.json", "__0_0.distcp", ".metadata", "complete.json", "state.json")


def damaged(whole: bytes, other: bytes) -> Iterator[tuple[str, bytes]]:
    """Bytes of a file, spoilt in many ways; ``other``: the file of another checkpoint."""
    yield "empty", b""
    yield "text", b"hello\n"
    yield "json", b"{}"
    yield "json list", b"[[]]"
    yield "replaced", other
    for size in (1, 3, 64, len(whole) // 2, len(whole) - 1):
        yield f"cut at {size}", whole[: min(size, len(whole) - 1)]
    yield "longer", whole + b"\0"
    rng = np.random.default_rng(0)
    for i in range(5):
        yield f"noise {i}", rng.bytes(int(rng.integers(1, 400)))
    for _ in range(40):
        spoilt, at, bit = bytearray(whole), int(rng.integers(len(whole))), int(rng.integers(8))
        spoilt[at] ^= 1 << bit
        yield f"bit {bit} of byte {at}", bytes(spoilt)


def refused(folder: Path, what: str) -> bool:
    """Whether loading says so and names the folder; anything else but success fails the test."""
    try:
        load(Checkpoints(folder.parent).latest())
    except CheckpointError as error:
        assert str(folder) in str(error), what
        assert "remove this folder" in str(error) or "is damaged" in str(error), what
        return True
    except BaseException as error:
        pytest.fail(f"{what}: {type(error).__name__}: {error}")
    return False


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    """Every flipped bit of every file is found, except those of complete.json that say the same."""
    kept = Checkpoints(tmp_path / "c")
    path = save(kept, 5) / name
    whole, other = path.read_bytes(), (save(Checkpoints(tmp_path / "d"), 6) / name).read_bytes()
    for what, data in damaged(whole, other):
        path.write_bytes(data)
        if not refused(path.parent, f"{name} {what}"):
            assert json.loads(data) == json.loads(whole)  # as white space
    if name != "complete.json":  # without it there is no checkpoint
        path.unlink()
        assert refused(path.parent, f"{name} is missing")


@pytest.mark.parametrize("name", FILES[:2])
def test_damage_with_matching_checksums_never_escapes(tmp_path: Path, name: str) -> None:
    """Whatever bytes an attacker signs: a checkpoint, or an error that names the folder."""
    path = save(Checkpoints(tmp_path / "c"), 5) / name
    whole, other = path.read_bytes(), (save(Checkpoints(tmp_path / "d"), 6) / name).read_bytes()
    found = 0
    for what, data in damaged(whole, other):
        path.write_bytes(data)
        sign(path.parent)
        found += refused(path.parent, f"{name} {what}")
    assert found > 15
    path.unlink()
    sign(path.parent)
    assert refused(path.parent, f"{name} is missing")


class Evil:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.parts = (call, arguments)

    def __reduce__(self) -> Any:
        return self.parts


def evil(mark: Path) -> list[Evil]:
    return [
        Evil(os.system, f"touch {mark}"),
        Evil(builtins.eval, f"open({str(mark)!r}, 'w')"),
        Evil(Path.touch, mark),
        Evil(getattr, Evil(__import__, "os"), "system"),
        Evil(torch.load, str(mark)),
    ]


# A reader that knows only the classes of an index still sets attributes of these classes:
# PROTO 2, GLOBAL pathlib PosixPath, {'rename': 'nothing'} as its state, BUILD, STOP
PATCHES_A_CLASS = b"\x80\x02cpathlib\nPosixPath\nN}U\x06renameU\x07nothings\x86b."


def test_torchs_index_is_never_read(tmp_path: Path) -> None:
    """Whatever a stranger puts there and signs: the tensors are as they were, and no code runs."""
    mark, folder = tmp_path / "owned", save(Checkpoints(tmp_path / "c"), 5)
    before = dict(vars(type(tmp_path)))
    for attack in (*map(pickle.dumps, evil(mark)), PATCHES_A_CLASS, b"", b"hello"):
        (folder / ".metadata").write_bytes(attack)
        sign(folder)
        assert_holds(Checkpoints(folder.parent).latest(), 5)
    assert not mark.exists()
    assert dict(vars(type(tmp_path))) == before


def test_the_attack_on_classes_works_where_a_pickle_is_read() -> None:
    """So that the test above cannot pass for want of an attack."""
    patched = type("PosixPath", (), {"rename": "something"})

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            assert (module, name) == ("pathlib", "PosixPath")
            return patched

    Reader(io.BytesIO(PATCHES_A_CLASS)).load()
    assert patched.rename == "nothing"  # type: ignore[attr-defined]


def test_the_index_says_what_torch_knows(tmp_path: Path) -> None:
    """Against torch's own index, which torch reads."""
    folder = save(Checkpoints(tmp_path / "c"), 5)
    ours, theirs = read_index(folder), dcp.FileSystemReader(folder).read_metadata()
    assert ours.storage_data == theirs.storage_data
    assert ours.state_dict_metadata.keys() == theirs.state_dict_metadata.keys()
    for name, entry in theirs.state_dict_metadata.items():
        mine = ours.state_dict_metadata[name]
        assert isinstance(mine, TensorStorageMetadata) and isinstance(entry, TensorStorageMetadata)
        assert (mine.size, mine.chunks) == (entry.size, entry.chunks)
        assert mine.properties.dtype == entry.properties.dtype


def test_checkpoints_of_earlier_releases_are_refused(tmp_path: Path) -> None:
    folder = save(Checkpoints(tmp_path / "c"), 5)
    (folder / "index.json").unlink()
    sign(folder)
    with pytest.raises(CheckpointError, match="written by an earlier release"):
        Checkpoints(folder.parent).latest()


def test_a_strangers_index_is_checked_by_type_and_shape(tmp_path: Path) -> None:
    """Every value of a signed index, replaced by values of other types and shapes."""
    folder = save(Checkpoints(tmp_path / "c"), 5)
    document = json.loads((folder / "index.json").read_text())
    for what, spoilt in hostile(document):
        (folder / "index.json").write_text(json.dumps(spoilt))
        sign(folder)
        into = {name: torch.zeros_like(tensor) for name, tensor in tensors(5).items()}
        with pytest.raises(CheckpointError, match="step-000000005"):
            load_tensors(opened(folder), into)
            pytest.fail(what)


def opened(folder: Path) -> Saved:
    saved = Checkpoints(folder.parent).latest()
    assert saved
    return saved


def test_an_index_that_reads_elsewhere_is_refused(tmp_path: Path) -> None:
    """Another path is another checkpoint's file."""
    folder = save(Checkpoints(tmp_path / "c"), 5)
    other = save(Checkpoints(tmp_path / "d"), 6)
    for path in (other / "__0_0.distcp", "../../d/step-000000006/__0_0.distcp", "unlisted"):
        change_places(folder, file=str(path))
        shutil.copy(other / "__0_0.distcp", folder / "unlisted")
        sign(folder)
        marker = json.loads((folder / "complete.json").read_text())
        marker["files"].pop("unlisted")
        (folder / "complete.json").write_text(json.dumps(marker))
        with pytest.raises(CheckpointError, match=r"step-000000005.*does not list"):
            Checkpoints(folder.parent).latest()


def change_places(folder: Path, **values: Any) -> None:
    """Change where the chunks of all tensors lie, by a checkpoint's index."""
    document = json.loads((folder / "index.json").read_text())
    for tensor in document["tensors"].values():
        for chunk in tensor["chunks"]:
            chunk.update(values)
    (folder / "index.json").write_text(json.dumps(document))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "plain-pickle"])
def test_a_strangers_tensors_run_no_code(tmp_path: Path, legacy: bool) -> None:
    """In place of a tensor; the index gives their place and length, the checksums match."""
    mark, folder = tmp_path / "owned", save(Checkpoints(tmp_path / "c"), 5)
    for call in evil(mark):
        for content in (call, {"w": call}, [torch.zeros(300), call]):
            path = folder / "__0_0.distcp"
            if legacy:
                path.write_bytes(pickle.dumps(content))
            else:
                torch.save(content, path)
            change_places(folder, offset=0, length=path.stat().st_size)
            sign(folder)
            assert refused(folder, str(call.parts))
    assert not mark.exists()


def test_a_marker_that_names_other_folders_is_refused(tmp_path: Path) -> None:
    folder = save(Checkpoints(tmp_path), 5)
    (tmp_path / "secret").write_text("x")
    marker = json.loads((folder / "complete.json").read_text())
    for name in ("../secret", str(tmp_path / "secret"), "..", "."):
        files = {**marker["files"], name: checksum(tmp_path / "secret")}
        (folder / "complete.json").write_text(json.dumps({"files": files}))
        assert refused(folder, name)
    for files in ({}, {"state.json": marker["files"]["state.json"]}):
        (folder / "complete.json").write_text(json.dumps({"files": files}))
        with pytest.raises(CheckpointError, match=r"does not list state\.json and index\.json"):
            Checkpoints(tmp_path).latest()


# ---- damaged checkpoints of a run -----------------------------------------------------------


def test_a_damaged_checkpoint_stops_the_resume(tiny_data: DataSet, tmp_path: Path) -> None:
    """And as the message says: without the damaged one the run goes on from the one before."""
    fitted(tiny_data, settings(checkpoint_every=2), tmp_path / "whole")
    fitted(tiny_data, settings(checkpoint_every=2, max_steps=8), tmp_path / "run")
    newest = tmp_path / "run/checkpoints/step-000000008"
    data = (newest / "__0_0.distcp").read_bytes()
    (newest / "__0_0.distcp").write_bytes(data[:1000])
    with pytest.raises(CheckpointError, match=r"step-000000008: cannot be read"):
        fitted(tiny_data, settings(checkpoint_every=2), tmp_path / "run")
    shutil.rmtree(newest)
    fitted(tiny_data, settings(checkpoint_every=2), tmp_path / "run")
    best = [load(Checkpoints(tmp_path / name / "best").latest())[0] for name in ("whole", "run")]
    assert best[0].keys() == best[1].keys()
    for name in best[0]:
        assert torch.equal(best[0][name], best[1][name]), name


@pytest.mark.parametrize(
    "what", ["{}", "[]", "progress", "stream", "after_step", "another model's tensors"]
)
def test_a_signed_checkpoint_that_does_not_fit_stops_the_resume(
    tiny_data: DataSet, tmp_path: Path, what: str
) -> None:
    fitted(tiny_data, settings(max_steps=2), tmp_path)
    newest = tmp_path / "checkpoints/step-000000002"
    values = json.loads((newest / "state.json").read_text())
    if what == "another model's tensors":
        other = save(Checkpoints(tmp_path / "c"), 5)
        for name in (".metadata", "__0_0.distcp"):
            shutil.copy(other / name, newest / name)
    else:
        document = json.loads(what) if what in ("{}", "[]") else {**values, what: {"apples": 3}}
        (newest / "state.json").write_text(json.dumps(document))
    sign(newest)
    if what == "after_step":  # nothing here reads it
        fitted(tiny_data, settings(max_steps=3), tmp_path)
        return
    with pytest.raises(CheckpointError, match=r"step-000000002: "):
        fitted(tiny_data, settings(max_steps=3), tmp_path)


@pytest.mark.parametrize(
    "part, field, value, allowed",
    [
        ("progress", "epoch", 1.5, "epoch of progress is 1.5; allowed: a whole number"),
        ("progress", "step", True, "step of progress is True; allowed: a whole number"),
        ("progress", "best_auc", "0.7", "best_auc of progress is '0.7'; allowed: a number"),
        ("progress", "seconds_per_epoch", [1.0, None], "allowed: a list of numbers"),
        ("progress", "seconds_per_epoch", 1.0, "allowed: a list of numbers"),
        ("stream", "epoch", 1.5, "epoch is 1.5; it must be a whole number"),
        ("stream", "seed", None, "seed is None; it must be a whole number"),
    ],
)
def test_a_signed_value_of_another_type_stops_the_resume(
    tiny_data: DataSet, tmp_path: Path, part: str, field: str, value: Any, allowed: str
) -> None:
    """When it is read, not an epoch later."""
    fitted(tiny_data, settings(max_steps=2), tmp_path)
    newest = tmp_path / "checkpoints/step-000000002"
    values = json.loads((newest / "state.json").read_text())
    assert field in values[part]
    values[part][field] = value
    (newest / "state.json").write_text(json.dumps(values))
    sign(newest)
    with pytest.raises(CheckpointError, match=rf"step-000000002: .*{re.escape(allowed)}"):
        fitted(tiny_data, settings(max_steps=3), tmp_path)


def test_signed_metrics_of_another_type_are_named(tiny_data: DataSet, tmp_path: Path) -> None:
    fitted(tiny_data, settings(max_steps=2), tmp_path)
    best = tmp_path / "best/step-000000002"
    values = json.loads((best / "state.json").read_text())
    values["val"]["auc"] = "good"
    (best / "state.json").write_text(json.dumps(values))
    sign(best)
    with pytest.raises(CheckpointError, match=r"best/step-000000002: .*auc of val is 'good'"):
        fitted(tiny_data, settings(max_steps=2), tmp_path)


def test_fewer_steps_than_were_made_before_the_first_evaluation(
    tiny_data: DataSet, tmp_path: Path
) -> None:
    """Nothing was evaluated, so there are no weights to end with; after that, the best are."""
    run = settings(checkpoint_every=2)
    with pytest.MonkeyPatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(loop, "evaluate", interrupt)
        fitted(tiny_data, run, tmp_path)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [2, 4]
    with pytest.raises(ValueError, match=r"max_steps is 3 and the run stands at step 4, .*than 4"):
        fitted(tiny_data, replace(run, max_steps=3), tmp_path)
    assert fitted(tiny_data, replace(run, max_steps=6), tmp_path)[1].steps == 6
    assert fitted(tiny_data, replace(run, max_steps=3), tmp_path)[1].steps == 6


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_best_weights_after_the_checkpoint_are_forgotten(
    tiny_data: DataSet, tmp_path: Path
) -> None:
    """Otherwise another number of ranks, to which they are not the best, would leave them last."""
    _, result = fitted(tiny_data, settings(max_steps=4), tmp_path)
    best = Checkpoints(tmp_path / "best")
    save(best, 9)
    _, result = fitted(tiny_data, settings(max_steps=5), tmp_path)
    assert result.steps == 5 and 9 not in best.steps()
