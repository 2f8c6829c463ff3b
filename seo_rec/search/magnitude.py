"""Magnitude pruning: train a row per id, and keep the longest rows or parts of rows."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from seo_rec.data.dataset import DataSet
from seo_rec.embed import table_key
from seo_rec.methods import provenance
from seo_rec.policy.allowance import without_unset
from seo_rec.search.found import Found, table_bytes
from seo_rec.search.pruned import (
    PrunedSettings,
    best_cells,
    block_norms,
    pruned_policy,
    pruned_weights,
    require_shared_rows,
    told,
    whole_policy,
)
from seo_rec.train import Training, fit_policy, inner_model, optimizers_of, ranks, require_memory


@dataclass(frozen=True)
class MagnitudeSettings(PrunedSettings):
    """Settings of magnitude: train a row per id, keep the parts of rows of the largest norm.

    The norm is the root of the sum of squares over the columns of a block.
    """


def require_magnitude(data: DataSet, settings: MagnitudeSettings, training: Training) -> None:
    """PolicyError or TooLargeError if no policy fits, or the rows of all ids fit no memory."""
    require_shared_rows(len(data.schema.features), settings)
    whole = whole_policy(
        data.schema, data.vocabularies(id_bits=settings.id_bits), settings.dim, settings.id_bits
    )
    require_memory(whole, training.fit, ranks(), search="magnitude")


def magnitude(
    data: DataSet, settings: MagnitudeSettings, training: Training, out: Path | None = None
) -> Found:
    """Train a row per id, and keep the blocks of the largest ``|e_v|_2`` that fit the budget.

    Ids whose rows are pruned read the row of unknown ids.

    Raises:
        PolicyError: The budget has no room for a shared row of every feature.
    """
    require_shared_rows(len(data.schema.features), settings)
    vocabularies = data.vocabularies(id_bits=settings.id_bits)
    whole = whole_policy(data.schema, vocabularies, settings.dim, settings.id_bits)
    trained = fit_policy(data, whole, training, out=out, title="magnitude")
    ended = time.perf_counter()
    model = inner_model(trained.model)
    names = [c.name for c in data.schema.features]
    bags = model.embedding.ebc.embedding_bags
    scores = [block_norms(bags[table_key(n)].weight, settings.blocks, 2) for n in names]
    kept = best_cells(scores, settings)
    seed = training.fit.seed
    origin = provenance(data.schema, "magnitude", **without_unset(asdict(settings)), seed=seed)
    policy = pruned_policy(data.schema, vocabularies, kept, settings, origin)
    state: dict[str, torch.Tensor] = dict(model.state_dict())
    return Found(
        policy,
        trained.result.val.quality,
        trained.result.seconds + time.perf_counter() - ended,
        table_bytes(model, optimizers_of(model, training.fit)),
        told(names, kept),
        pruned_weights(data.schema, state, kept, settings),
    )
