"""Places where a run can be killed, and what two runs have come to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seo_rec.train import checkpoint

CLOCKS = {
    "seconds",
    "seconds_per_epoch",
    "epoch_seconds",
    "search_seconds",
    "examples_per_s",
    "command",
    "environment",
}


class Killed(BaseException):
    """Stands for SIGKILL: not an Exception, so that no handler takes it for a mistake."""


class Fuse:
    """Counts the places where a run can be killed, and kills it at place ``at``."""

    def __init__(self) -> None:
        self.count, self.at = 0, 0
        self.at_place = ""
        self.places: list[str] = []

    def burn(self, place: str) -> None:
        self.count += 1
        self.places.append(place)
        if self.count == self.at or place == self.at_place:
            raise Killed(place)

    def light(self, at: int, place: str = "") -> None:
        """Kill at the ``at``-th place from now on, or at this one; 0: never."""
        self.count, self.at, self.at_place, self.places = 0, at, place, []


def called(folder: Path) -> str:
    """A checkpoint's short name: ``best 5``, ``checkpoints 5``."""
    step = folder.name.removeprefix(".").removesuffix(".part").removeprefix("step-")
    return f"{folder.parent.name} {int(step)}"


def outcome(out: Path) -> dict[str, Any]:
    """Everything a run left that must not depend on how often it was killed."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.name.startswith(".step-"):
            found[name] = "left behind"
        elif path.parent.name.startswith("step-"):
            if path.name == "complete.json":
                found[name] = contents(path.parent)
        elif path.name == "metrics.jsonl" or path.name == "results.jsonl":
            found[name] = [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.suffix == ".json":
            found[name] = _timeless(json.loads(path.read_text()))
        elif path.suffix == ".npy":
            found[name] = torch.from_numpy(np.load(path, allow_pickle=False))
    assert found, f"{out} holds no outcome"
    return found


def contents(folder: Path) -> dict[str, Any]:
    """Values and tensors of a checkpoint, its files verified."""
    saved = checkpoint.open_checkpoint(folder)
    tensors = {name: torch.zeros(size, dtype=dtype) for name, (size, dtype) in saved.sizes.items()}
    checkpoint.load_tensors(saved, tensors)
    return {"values": _timeless(saved.values), "tensors": tensors}


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in CLOCKS}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Places in which two outcomes differ; tensors must be equal to the bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        found = [f"{where}/{k} is in one only" for k in sorted(set(a) ^ set(b))]
        for k in sorted(set(a) & set(b)):
            found += differences(a[k], b[k], f"{where}/{k}")
        return found
    if isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return [f"{where}: {len(a)} and {len(b)} entries"]
        return [d for i in range(len(a)) for d in differences(a[i], b[i], f"{where}[{i}]")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
        return [] if same else [f"{where}: tensors differ"]
    return [] if a == b or (a != a and b != b) else [f"{where}: {a!r} and {b!r}"]
