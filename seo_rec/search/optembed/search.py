"""The search itself: train the supernet, keep rows, evolve widths, write the policy."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from seo_rec.data.dataset import DataSet
from seo_rec.model import build_model
from seo_rec.policy import PolicyError
from seo_rec.search.evolution import Evolved
from seo_rec.search.found import Found, embedding_bytes
from seo_rec.search.optembed.rows import (
    kept_rows,
    pruned_space,
    require_backbone,
    require_budget,
    with_budget,
    with_codes,
)
from seo_rec.search.optembed.settings import OptEmbedSettings
from seo_rec.search.optembed.supernet import Kept, KeptDraws, Supernet, make_optimizers
from seo_rec.search.optembed.weights import check_weights, loses_dense_vectors, policy_weights
from seo_rec.search.optembed.widths import search_widths
from seo_rec.search.space import open_space
from seo_rec.train import Training, eval_stream, fit, ranks, train_stream
from seo_rec.train.replicas import SharedDraws

log = logging.getLogger(__name__)
STATE_FILE = "evolution.json"


@dataclass(frozen=True)
class Searched:
    """A supernet at the rows and widths that were found, ``dims`` 0 where none is left."""

    model: Supernet
    kept: Kept
    dims: tuple[int, ...]
    val_auc: float
    evolved: Evolved
    seconds: float
    peak_bytes: int


def search_supernet(
    data: DataSet, settings: OptEmbedSettings, training: Training, out: Path | None = None
) -> Searched:
    """Phases 1 and 2; the supernet computes with what was found only.

    Raises:
        PolicyError: the budget cannot be met, or too few features have a row above its threshold.
    """
    f, model_settings = training.fit, training.model
    check_weights(settings, model_settings)
    space = open_space(data, settings, f.seed)
    s = with_budget(space, settings)
    if s.prunes:
        space = with_codes(space)
    require_budget(space, s)
    train, val = train_stream(data, f), eval_stream(data, "val")
    whole = space.policy([s.max_dim] * len(space.names))
    plain = build_model(whole, len(space.schema.numeric), model_settings, f.seed)
    here, draws = ranks(), SharedDraws(f.seed, ranks())
    model = Supernet(plain, space, s, draws).to(here.device)
    optimizers = make_optimizers(model, f)
    step = KeptDraws(draws)
    result = fit(model, train, val, optimizers, f, out=out, after_step=step, title="optembed")
    kept = here.on_first(lambda: kept_rows(model))
    served = model.freeze(kept)
    if s.prunes and not any(bool(kept[i][1:].any()) for i in served):
        raise PolicyError(
            f"no row of any feature is above its threshold: alpha {s.alpha} or threshold_lr "
            f"{s.threshold_lr} is too large for these data; lower them"
        )
    require_backbone(served, space, s, model_settings)
    state = out / STATE_FILE if out else None
    dims, val_auc, evolved = search_widths(model, kept, served, val, f.seed, state)
    model.dims = dims
    peak = embedding_bytes(model.tables, [optimizers["rows"]])
    return Searched(model, kept, dims, val_auc, evolved, result.seconds + evolved.seconds, peak)


def optembed(
    data: DataSet, settings: OptEmbedSettings, training: Training, out: Path | None = None
) -> Found:
    """Rows above their thresholds, at the widths of the best candidate.

    ``sparsity`` of the record is ``1 - floats / (rows D)``.

    Raises:
        PolicyError: the budget cannot be met, or too few features have a row above its threshold.
        ValueError: ``weights`` of a backbone that cannot be sliced.
    """
    searched = search_supernet(data, settings, training, out)
    model_settings = training.model
    model, dims, s = searched.model, searched.dims, searched.model.settings
    space, numeric = model.space, len(model.space.schema.numeric)
    left = pruned_space(space, searched.kept)
    origin = space.origin("optembed", dims, asdict(settings))
    room = s.amount if s.fill and s.weights == "none" else 0
    policy = left.policy(dims, room, origin)
    weights: dict[str, torch.Tensor] = {}
    if s.weights == "trained" and loses_dense_vectors(dims, numeric, model_settings, s.max_dim):
        log.warning(
            "no weights: the vectors of dense columns have %d columns and no feature has more than "
            "%d, so that the policy's model cannot compute what the supernet does",
            s.max_dim,
            max(dims),
        )
    elif s.weights != "none":
        state = dict(model.state_dict())
        if s.weights == "initial":
            whole = space.policy([s.max_dim] * len(dims))
            state = build_model(whole, numeric, model_settings, training.fit.seed).state_dict()
        weights = policy_weights(model, searched.kept, dims, model_settings, state)
    by_name = dict(zip(space.names, range(len(dims)), strict=True))
    record = {
        "sparsity": 1 - policy.num_params / (sum(space.rows) * s.max_dim),
        "rows": {name: [int(searched.kept[i].sum()), space.rows[i]] for name, i in by_name.items()},
        "dims": {name: dims[i] for name, i in by_name.items()},
        "thresholds": {
            name: model.thresholds_F[i].item() for name, i in by_name.items() if s.prunes
        },
        "candidates": len(searched.evolved.candidates),
        "generations": searched.evolved.history,
    }
    return Found(policy, searched.val_auc, searched.seconds, searched.peak_bytes, record, weights)
