"""Scores and logits of candidates, as a run-off keeps them in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seo_rec.documents import read_object

Floats = npt.NDArray[np.float32]
Score = dict[str, Any]


def read_score(path: Path) -> Score:
    """What is kept of a candidate's training; ValueError names a damaged file."""
    return read_object(path, {"val_auc": float, "params": int, "seconds": float})


def read_logits(path: Path) -> Floats:
    """The validation logits of a candidate's training; ValueError names a damaged file."""
    try:
        logits = np.load(path, allow_pickle=False)
        if logits.ndim != 1 or not np.issubdtype(logits.dtype, np.floating):
            raise ValueError(f"{logits.dtype} of shape {logits.shape}")
    except Exception as error:  # there is no end to what damaged bytes make a reader raise
        raise ValueError(
            f"{path}: no validation logits ({type(error).__name__}); remove it and its .json, and "
            "the candidate is trained again"
        ) from error
    return logits
