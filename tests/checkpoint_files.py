"""Checkpoints of made-up tensors: saved, loaded, compared, and signed anew after a change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from seo_rec.files import checksum
from seo_rec.train import (
    Checkpoints,
    load_tensors,
)
from seo_rec.train.checkpoint import Saved
from seo_rec.train.state import State

# ---- checkpoints ---------------------------------------------------------------------------


VALUES = {"names": ["a", "b"]}


def tensors(number: int) -> State:
    return {"w": torch.full((300,), float(number)), "step": torch.tensor(number)}


def save(kept: Checkpoints, step: int) -> Path:
    """Checkpoint ``step`` of ``tensors(step)``; its folder."""
    kept.save(step, tensors(step), {**VALUES, "step": step})
    return kept.folder / f"step-{step:09d}"


def load(saved: Saved | None) -> tuple[State, dict[str, Any]]:
    """All that a checkpoint holds."""
    assert saved
    into = {name: torch.zeros(size, dtype=dtype) for name, (size, dtype) in saved.sizes.items()}
    load_tensors(saved, into)
    return into, saved.values


def assert_holds(saved: Saved | None, step: int) -> None:
    found, values = load(saved)
    wanted = tensors(step)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[n], wanted[n]) for n in wanted)
    assert values == {**VALUES, "step": step}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# ---- damaged checkpoints --------------------------------------------------------------------


def sign(folder: Path) -> None:
    """Make the checksums right, as an attacker would."""
    files = [p for p in folder.iterdir() if p.name != "complete.json"]
    sums = {p.name: checksum(p) for p in files}
    (folder / "complete.json").write_text(json.dumps({"files": sums}))
