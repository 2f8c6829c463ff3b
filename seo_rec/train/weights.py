"""Weights to start a training from, as a file that cannot run code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn


def save_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write named tensors to ``path``, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **{n: t.cpu().numpy() for n, t in weights.items()})
    part.replace(path)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """What ``save_weights`` wrote.

    Raises:
        ValueError: it is no such file, or damaged.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except Exception as error:  # there is no end to what damaged bytes make a reader raise
        reason = "objects, not numbers" if "pickle" in str(error) else type(error).__name__
        raise ValueError(
            f"{path}: not a file of weights ({reason}); give the weights.npz of a search, or "
            "search again"
        ) from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Start ``model`` from the weights in ``path``.

    Raises:
        ValueError: they are those of another model.
    """
    found = read_weights(path)
    own = model.state_dict()
    shared = set(own) & set(found)
    other = {n for n in shared if (own[n].shape, own[n].dtype) != (found[n].shape, found[n].dtype)}
    wrong = sorted(set(own) ^ set(found) | other)
    if wrong:
        raise ValueError(
            f"{path}: weights of another model (they differ in {', '.join(wrong[:3])}); give the "
            "policy, the backbone and the hidden layers of the search that wrote them"
        )
    model.load_state_dict(found)


def weights_digest(path: Path) -> str:
    """SHA-256 of a file of weights, by which a run knows it again."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
