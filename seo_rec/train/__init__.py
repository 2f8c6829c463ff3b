"""Training: ``fit`` a model on a stream, evaluate it, save and resume."""

from __future__ import annotations

from seo_rec.train.checkpoint import CheckpointError, Checkpoints
from seo_rec.train.loop import FitResult, FitSettings, evaluate, fit
from seo_rec.train.optimizers import ROW_OPTIMIZERS, make_optimizers

__all__ = [
    "ROW_OPTIMIZERS",
    "CheckpointError",
    "Checkpoints",
    "FitResult",
    "FitSettings",
    "evaluate",
    "fit",
    "make_optimizers",
]
