"""Methods that need the training rows, and train nothing: by counts of ids, and by their stream."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from seo_rec.data.dataset import DataSet
from seo_rec.methods.frequent import CLUSTERED, Counts, FrequentSettings, frequent
from seo_rec.methods.managed_collision import Batches
from seo_rec.policy import Policy
from seo_rec.policy.entries import FULL_BITS
from seo_rec.schema import Schema
from seo_rec.search.found import Found
from seo_rec.search.id_batches import id_batches
from seo_rec.search.row_means import cluster_by
from seo_rec.train import Training


class FromBatches(Protocol):
    """A method that reads the ids of the training rows once, batch after batch.

    Args:
        schema: The data set.
        counts: Training ids of every feature, ascending, and how often each occurs.
        batches: The ids of every feature, batch after batch.
        settings: An instance of the method's own settings.
        seed: Salt of the hash functions.
    """

    def __call__(
        self, schema: Schema, counts: Counts, batches: Batches, settings: Any, *, seed: int
    ) -> Policy: ...


def counts_of(data: DataSet, id_bits: int = FULL_BITS) -> Counts:
    """The training ids of every feature, ascending, and how often each occurs.

    With 32 bits their digests; see :meth:`seo_rec.data.dataset.DataSet.counts`.
    """
    return {c.name: data.counts(c.name, id_bits) for c in data.schema.features}


def frequent_ids(
    data: DataSet, settings: FrequentSettings, training: Training, out: Path | None = None
) -> Found:
    """The policy of :func:`seo_rec.methods.frequent` for a data set."""
    started, seed, cluster = time.perf_counter(), training.fit.seed, None
    if settings.tail in CLUSTERED:
        cluster = cluster_by(settings.tail, data, seed, settings.id_bits)
    counts = counts_of(data, settings.id_bits)
    policy = frequent(data.schema, counts, settings, cluster=cluster, seed=seed)
    return Found(policy, None, time.perf_counter() - started, 0, {})


def require_frequent(data: DataSet, settings: FrequentSettings, training: Training) -> None:
    """PolicyError if the budget is too small; bands need as much room as clusters."""
    if settings.tail in CLUSTERED:
        settings = replace(settings, tail="bands")
    frequent_ids(data, settings, training)


def from_batches(
    make: FromBatches, data: DataSet, settings: Any, training: Training, out: Path | None = None
) -> Found:
    """The policy of a method that reads the batches of a training in their order."""
    started = time.perf_counter()
    batches = id_batches(data, training.fit.seed, id_bits=settings.id_bits)
    policy = _made(make, data, settings, training, batches)
    return Found(policy, None, time.perf_counter() - started, 0, {})


def require_budget(make: FromBatches, data: DataSet, settings: Any, training: Training) -> None:
    """PolicyError if the budget is too small, before any row is read."""
    _made(make, data, settings, training, ())


def _made(
    make: FromBatches, data: DataSet, settings: Any, training: Training, batches: Batches
) -> Policy:
    counts = counts_of(data, settings.id_bits)
    return make(data.schema, counts, batches, settings, seed=training.fit.seed)
