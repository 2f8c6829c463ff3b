"""Checkpoints of a run: whole or absent, the newest ``keep`` of them.

A checkpoint is one file of tensors, numbers and strings, ``checkpoints/step-<n>.pt``. It is read
with ``weights_only``, so a file from a stranger cannot run code.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read; the message names the file and the way out."""


class Checkpoints:
    """The checkpoint files of one run folder.

    Args:
        folder: where ``step-<n>.pt`` files live; made when first needed.
        keep: how many of the newest to keep.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep {keep}; allowed: 1 or more checkpoints")
        self.folder = folder
        self.keep = keep

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        return sorted(int(p.stem.removeprefix("step-")) for p in self.folder.glob("step-*.pt"))

    def save(self, step: int, state: dict[str, Any]) -> None:
        save_tensors(self.folder / f"step-{step:09d}.pt", state)
        for old in self.steps()[: -self.keep]:
            (self.folder / f"step-{old:09d}.pt").unlink(missing_ok=True)

    def latest(self) -> dict[str, Any] | None:
        """The newest checkpoint, or None if there is none."""
        steps = self.steps()
        return load_tensors(self.folder / f"step-{steps[-1]:09d}.pt") if steps else None


def save_tensors(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path`` under a temporary name, flush it to disk, rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_tensors(path: Path) -> dict[str, Any]:
    """Read what :func:`save_tensors` wrote.

    Raises:
        CheckpointError: the file is damaged or holds more than tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if spoilt := archive.testzip():  # torch.load does not look at the checksums
                raise zipfile.BadZipFile(f"wrong checksum of {spoilt}")
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    except MemoryError:
        raise
    except Exception as error:  # there is no end to what damaged bytes make a reader raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(
            f"{path}: cannot be read ({reason}); remove this file to resume from the checkpoint "
            "before it"
        ) from error
    return state
