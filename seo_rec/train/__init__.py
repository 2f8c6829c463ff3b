"""Training: ``fit`` a model on a stream, over one process or many; evaluate, save and resume.

In: a policy and an opened data set (:func:`fit_policy`), or a model, its streams and its
optimizers (:func:`fit`). Out: the trained model, its metrics, and checkpoints in the run folder.
Begin with :mod:`~seo_rec.train.policy_fit`, then :mod:`~seo_rec.train.loop`;
:mod:`~seo_rec.train.sparse_rows` updates the rows that a batch has read and no others, and
:mod:`~seo_rec.train.sharding` spreads tables over processes by a plan.
"""

from __future__ import annotations

from seo_rec.settings import FitSettings, Training
from seo_rec.train.agreement import DisagreementError, agree
from seo_rec.train.checkpoint import (
    Checkpoints,
    load_tensors,
    open_checkpoint,
    rng_states,
    set_rng_states,
)
from seo_rec.train.distributed import distribute
from seo_rec.train.evaluation import evaluate
from seo_rec.train.loop import fit
from seo_rec.train.lost_ranks import LostRankError, loss_behind, loss_said, lost
from seo_rec.train.memory import TooLargeError, require_memory
from seo_rec.train.optimizers import (
    ROW_OPTIMIZERS,
    inner_model,
    make_optimizers,
    optimizers_of,
)
from seo_rec.train.policy_fit import (
    Start,
    Trained,
    check_policy_fits,
    check_start,
    fit_policy,
    store_,
)
from seo_rec.train.ranks import (
    LaunchError,
    OtherRankError,
    Ranks,
    heard,
    launched,
    ranks,
    said_by_first,
)
from seo_rec.train.run_state import FitResult
from seo_rec.train.saved import CheckpointError
from seo_rec.train.sharding import check_plan, shard, topology_here
from seo_rec.train.sparse_rows import SparseRows
from seo_rec.train.steps import ready
from seo_rec.train.stopping import Preempted
from seo_rec.train.storage import as_recorded, check_storage, storage_for, with_storage
from seo_rec.train.streams import EVAL_BATCH, eval_stream, share_stream, train_stream
from seo_rec.train.weights import read_weights, save_weights, weights_digest

__all__ = [
    "EVAL_BATCH",
    "ROW_OPTIMIZERS",
    "CheckpointError",
    "Checkpoints",
    "DisagreementError",
    "FitResult",
    "FitSettings",
    "LaunchError",
    "LostRankError",
    "OtherRankError",
    "Preempted",
    "Ranks",
    "SparseRows",
    "Start",
    "TooLargeError",
    "Trained",
    "Training",
    "agree",
    "as_recorded",
    "check_plan",
    "check_policy_fits",
    "check_start",
    "check_storage",
    "distribute",
    "eval_stream",
    "evaluate",
    "fit",
    "fit_policy",
    "heard",
    "inner_model",
    "launched",
    "load_tensors",
    "loss_behind",
    "loss_said",
    "lost",
    "make_optimizers",
    "open_checkpoint",
    "optimizers_of",
    "ranks",
    "read_weights",
    "ready",
    "require_memory",
    "rng_states",
    "said_by_first",
    "save_weights",
    "set_rng_states",
    "shard",
    "share_stream",
    "storage_for",
    "store_",
    "topology_here",
    "train_stream",
    "weights_digest",
    "with_storage",
]
