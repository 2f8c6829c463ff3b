"""The type in which tables are trained: the rule of ``--storage auto``, and what has no 16 bits.

``auto`` takes the type of the policy where that has 16 bits and nothing else about the training
changes by it: the optimizer updates the rows of a batch in float32, too.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from seo_rec.documents import read_object
from seo_rec.plan import CACHED, Plan
from seo_rec.policy import Policy
from seo_rec.policy.allowance import stored_types
from seo_rec.runs.layout import RUN_FILE
from seo_rec.settings import AUTO_STORAGE, HALVES, Training, settled
from seo_rec.train.ranks import ranks

if TYPE_CHECKING:
    from seo_rec.train.policy_fit import Start

progress = logging.getLogger("seo_rec.progress")


@dataclass(frozen=True)
class Storage:
    """What ``auto`` comes to.

    Args:
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        why: The reason, for people; empty where no table of the policy has 16 bits.
    """

    dtype: str
    why: str = ""


def storage_for(
    policy: Policy | None,
    training: Training,
    start: Start | None = None,
    *,
    device: str = "cpu",
) -> Storage:
    """The type of the tables of a training with ``--storage auto``.

    Args:
        policy: What is trained; None with an earlier run.
        training: The model and how it is trained.
        start: A plan, initial weights or an earlier run.
        device: ``cpu`` or ``cuda``.
    """
    if start is not None and start.earlier is not None:
        return Storage(start.earlier.training.fit.storage, f"as {start.earlier.run} has them")
    assert policy is not None
    types = stored_types(policy)
    if not any(name in HALVES for name in types):
        return Storage("float32")
    if why := _kept_in_float32(policy, training, start, device):
        return Storage("float32", why)
    return Storage(types[0], "as the policy stores them")


def _kept_in_float32(policy: Policy, training: Training, start: Start | None, device: str) -> str:
    """Why tables of a policy with 16 bits are trained in float32; empty if they are not."""
    types = stored_types(policy)
    if len(types) > 1:
        return f"since the policy has rows of {' and of '.join(types)}"
    if policy.arrays:
        return "since flat arrays have dense gradients"
    if training.model.mlet is not None:
        return "since MLET trains products of two layers"
    fit = settled(training.fit, policy.num_params)
    if fit.has_dense_gradients or training.fit.l2_on == "all":
        mover = "--l2-on all" if training.fit.l2_on == "all" else fit.table_update
        return f"since every step moves all rows ({mover})"
    if start is not None and start.weights:
        return "since --weights are float32"
    if start is not None and start.plan:
        placements = Plan.load(start.plan).placements
        if any(not p.shards or p.compute_kernel in CACHED for p in placements):
            return f"since {start.plan} has tables that are trained in float32 only"
    if device != "cpu":
        return "since GPUs update float32 within the backward pass"
    return ""


def with_storage(
    training: Training, policy: Policy | None, start: Start | None = None, out: Path | None = None
) -> Training:
    """The training with the type of its tables decided.

    A run that is in ``out`` already keeps the type that it recorded; a run of a release that had no
    ``auto`` recorded float32 by saying nothing. A message says what was decided for a policy of
    16 bits, if there is an ``out``.

    Args:
        training: The model and how it is trained.
        policy: What is trained; None with an earlier run.
        start: A plan, initial weights or an earlier run.
        out: The run folder.
    """
    training = as_recorded(training, out)
    if training.fit.storage != AUTO_STORAGE:
        return training
    here = ranks()
    chosen = storage_for(policy, training, start, device=here.device.type)
    if out is not None and here.first and chosen.why:
        progress.info("tables are trained in %s, %s (--storage)", chosen.dtype, chosen.why)
    return replace(training, fit=replace(training.fit, storage=chosen.dtype))


def as_recorded(training: Training, out: Path | None) -> Training:
    """The training, with the storage that the run in ``out`` recorded in place of ``auto``.

    Raises:
        ValueError: The ``run.json`` of ``out`` is damaged.
    """
    if training.fit.storage != AUTO_STORAGE or out is None:
        return training

    def recorded() -> str:
        path = out / RUN_FILE
        if not path.exists():
            return AUTO_STORAGE
        fit = read_object(path, {}).get("fit")
        return str(fit.get("storage", "float32")) if isinstance(fit, dict) else AUTO_STORAGE

    return replace(training, fit=replace(training.fit, storage=recorded()))


def check_storage(policy: Policy, training: Training) -> None:
    """ValueError if tables of 16 bits are asked for where a gradient is dense."""
    storage = training.fit.storage
    if storage not in HALVES:
        return
    if policy.arrays or not policy.tables:
        raise ValueError(
            f"--storage {storage} with a policy of {len(policy.arrays)} flat arrays, whose "
            "gradients are dense; allowed: --storage float32, or a policy of tables"
        )
    if training.model.mlet is not None:
        raise ValueError(
            f"--storage {storage} with --mlet-dim {training.model.mlet.dim}, whose tables are "
            "products of two layers; allowed: --storage float32, or no --mlet-dim"
        )
