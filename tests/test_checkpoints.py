"""Checkpoints: the newest are kept, and a write cut short leaves the one before."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from checkpoint_files import VALUES, assert_holds, names, save, tensors
from patience import PATIENCE
from seo_rec.data.dataset import DataSet
from seo_rec.train import (
    CheckpointError,
    Checkpoints,
    checkpoint,
)
from small_fit import fitted, settings


def test_the_newest_are_kept(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "checkpoints", keep=3)
    assert kept.latest() is None
    for step in (5, 10, 15, 1000, 2_000_000_000):
        save(kept, step)
    assert kept.steps() == [15, 1000, 2_000_000_000]
    assert_holds(kept.latest(), 2_000_000_000)
    assert_holds(kept.open(15), 15)
    assert names(kept.folder) == ["step-000000015", "step-000001000", "step-2000000000"]
    files = names(kept.folder / "step-000000015")
    assert files == [".metadata", "__0_0.distcp", "complete.json", "index.json", "state.json"]


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    kept.save(5, tensors(6), {})
    save(kept, 5)
    assert_holds(kept.latest(), 5)


def test_later_ones_are_dropped(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        save(kept, step)
    kept.drop_after(1)
    assert kept.steps() == [1]


def test_fit_keeps_as_many_as_asked(tiny_data: DataSet, tmp_path: Path) -> None:
    fitted(tiny_data, settings(checkpoint_every=1, keep=4), tmp_path)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [7, 8, 9, 10]


def test_keep_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep 0; allowed: 1 or more"):
        Checkpoints(tmp_path, keep=0)


def test_what_is_half_written_is_ignored_and_cleared_away(tmp_path: Path) -> None:
    """And what is not ours is left alone."""
    kept = Checkpoints(tmp_path)
    whole = save(kept, 5)
    for half in (".step-000000010.part", "step-000000011"):  # half written; half removed
        shutil.copytree(whole, tmp_path / half)
        (tmp_path / half / "complete.json").unlink()
    for foreign in ("step-000000012.mine", "step-thirteen", "laststep-000000014"):
        shutil.copytree(whole, tmp_path / foreign)
    assert kept.steps() == [5]
    assert_holds(kept.latest(), 5)
    save(kept, 6)
    assert names(tmp_path) == [
        "laststep-000000014",
        "step-000000005",
        "step-000000006",
        "step-000000012.mine",
        "step-thirteen",
    ]


def test_a_removal_cut_short_leaves_no_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = Checkpoints(tmp_path, keep=1)
    old = save(kept, 1)

    def killed(folder: Path, ignore_errors: bool) -> None:
        if folder == old:
            (folder / "state.json").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as slow, pytest.raises(KeyboardInterrupt):
        slow.setattr(checkpoint.shutil, "rmtree", killed)
        save(kept, 2)
    assert old.exists() and kept.steps() == [2]
    save(kept, 3)
    assert names(tmp_path) == ["step-000000003"]


@pytest.mark.parametrize("stage", ["mkdir", "save", "write_json", "rename"])
@pytest.mark.parametrize("background", [False, True])
def test_a_failed_write_leaves_the_one_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: str, background: bool
) -> None:
    kept = Checkpoints(tmp_path, background=background)
    save(kept, 1)
    kept.wait()

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        if stage in ("mkdir", "rename"):
            broken.setattr(Path, stage, full_disk)
        elif stage == "save":  # torch's own writing of a tensor file
            broken.setattr(os, "fsync", full_disk)
        else:
            broken.setattr(checkpoint, "write_json", full_disk)
        said = r"\((rank 0: )?no space is left on the disk\); make room"
        with pytest.raises(CheckpointError, match=rf"step-000000002: cannot be written {said}"):
            kept.save(2, tensors(2), {})
            kept.wait()
    kept.wait()  # said once
    assert kept.steps() == [1]
    assert_holds(kept.latest(), 1)
    save(kept, 3)
    kept.wait()
    assert names(tmp_path) == ["step-000000001", "step-000000003"]


def test_background_saving_copies_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The training goes on while the disk is slow; what is written is the state of the asking."""
    kept, disk = Checkpoints(tmp_path, background=True), threading.Event()
    write = checkpoint.dcp.save

    def slow(*arguments: Any, **more: Any) -> Any:
        assert disk.wait(PATIENCE)
        return write(*arguments, **more)

    monkeypatch.setattr(checkpoint.dcp, "save", slow)
    ours, values = tensors(1), {**VALUES, "step": 1}
    kept.save(1, ours, values)
    ours["w"].fill_(9.0)
    values["step"] = 9
    assert kept.steps() == []
    disk.set()
    kept.wait()
    assert_holds(kept.latest(), 1)
