"""Training: ``fit`` a model on a stream, over one process or many; evaluate, save and resume."""

from __future__ import annotations

from seo_rec.settings import FitSettings
from seo_rec.train.checkpoint import (
    CheckpointError,
    Checkpoints,
    claimed,
    load_tensors,
    open_checkpoint,
    rng_states,
    set_rng_states,
)
from seo_rec.train.distributed import distribute
from seo_rec.train.loop import BEST_FOLDER, FitResult, Preempted, evaluate, fit
from seo_rec.train.optimizers import ROW_OPTIMIZERS, inner_model, make_optimizers
from seo_rec.train.ranks import (
    LaunchError,
    OtherRankError,
    Ranks,
    launched,
    ranks,
    said_by_first,
)

__all__ = [
    "BEST_FOLDER",
    "ROW_OPTIMIZERS",
    "CheckpointError",
    "Checkpoints",
    "FitResult",
    "FitSettings",
    "LaunchError",
    "OtherRankError",
    "Preempted",
    "Ranks",
    "claimed",
    "distribute",
    "evaluate",
    "fit",
    "inner_model",
    "launched",
    "load_tensors",
    "make_optimizers",
    "open_checkpoint",
    "ranks",
    "rng_states",
    "said_by_first",
    "set_rng_states",
]
