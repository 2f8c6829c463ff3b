"""Which rows are kept, what a budget allows, and what the tables are without the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from seo_rec.backbones import build_backbone
from seo_rec.model import ModelSettings
from seo_rec.policy import PolicyError
from seo_rec.search.optembed.settings import OptEmbedSettings
from seo_rec.search.optembed.supernet import Kept, Supernet
from seo_rec.search.space import Space

KEPT_WIDTH = 4  # columns that a budget leaves to the mean feature when it takes rows away


@torch.no_grad()
def kept_rows(model: Supernet) -> Kept:
    """Rows that the policy has, of every feature bool (V,): those that count, and the shared one.

    With a budget, of the rows above their thresholds those that are furthest above, as many as fit
    with their ids at the mean width that is left to them: the thresholds of all features rise alike
    until the budget holds.
    """
    s, space = model.settings, model.space
    if not s.prunes:
        return [np.ones(r, bool) for r in space.rows]
    margins = [model.margins(i).cpu().numpy()[1:] for i in range(len(space.names))]
    if s.amount:
        every = np.concatenate(margins)
        order = np.argsort(-every, kind="stable")
        costs = np.repeat(_costs_of_rows(space, s), [len(m) for m in margins])
        room = s.amount - _cost_without_ids(space, s)
        every[order[np.cumsum(costs[order]) > room]] = -np.inf
        margins = np.split(every, np.cumsum([len(m) for m in margins])[:-1])
    return [np.concatenate([[True], margin > 0]) for margin in margins]


def _width_with_rows(s: OptEmbedSettings) -> int:
    """The mean width that the rows which are kept must leave room for."""
    return min(s.max_dim, KEPT_WIDTH) if s.narrows else s.max_dim


def _costs_of_rows(space: Space, s: OptEmbedSettings) -> list[int]:
    """What a further row of every feature takes of the budget, with the id that reads it."""
    row, an_id = s.allowance.row(_width_with_rows(s)), s.allowance.ids(1)
    return [row + an_id * (name in space.vocabularies) for name in space.names]


def _cost_without_ids(space: Space, s: OptEmbedSettings) -> int:
    """What the shared rows of all features and the codes take of the budget."""
    rows = len(space.names) * s.allowance.row(_width_with_rows(s))
    return rows + s.allowance.codes(_num_codes(space))


def with_budget(space: Space, s: OptEmbedSettings) -> OptEmbedSettings:
    """``s`` with the budget in floats that its sparsity is: ``(1 - sparsity) rows D`` at most."""
    if not s.sparsity:
        return s
    full = sum(space.rows) * s.max_dim
    return replace(s, params=max(1, full - math.ceil(s.sparsity * full)), sparsity=0.0)


def require_budget(space: Space, s: OptEmbedSettings) -> None:
    """PolicyError unless a policy within the budget exists, whatever the training finds."""
    if not s.amount:
        return
    if not s.prunes:
        space.require_columns(s.amount)
        return
    least = _cost_without_ids(space, s) + max(_costs_of_rows(space, s))
    if s.amount < least:
        raise PolicyError(
            f"a budget of {s.allowance}; a row of {_width_with_rows(s)} for the pruned ids of each "
            f"of {len(space.names)} features, one of an id, and {_num_codes(space)} codes of "
            f"hashed features take {least}, the smallest feasible budget; raise it, or lower "
            "sparsity"
        )


def with_codes(space: Space) -> Space:
    """Hashed features with a code for every hash, which so far says row ``1 + hash``.

    Pruned ids then read row 0 of all tables.
    """
    codes = {
        name: np.arange(1, r + 1, dtype=np.int32)
        for name, r in zip(space.names, space.rows, strict=True)
        if name not in space.vocabularies
    }
    rows = (r + (n in codes) for n, r in zip(space.names, space.rows, strict=True))
    return replace(space, rows=tuple(rows), codes=codes)


def _num_codes(space: Space) -> int:
    return sum(c.size for c in space.codes.values())


def pruned_space(space: Space, kept: Kept) -> Space:
    """The rows that are left, and their ids; pruned hashes have code 0."""
    vocabularies, codes = dict(space.vocabularies), dict(space.codes)
    for name, rows in zip(space.names, kept, strict=True):
        if name in vocabularies:
            vocabularies[name] = vocabularies[name][rows[1:]]
        elif name in codes:
            row = (np.cumsum(rows, dtype=np.int32) - 1) * rows
            codes[name] = row[codes[name]].astype(np.int32)
    left = tuple(int(k.sum()) for k in kept)
    return replace(space, rows=left, vocabularies=vocabularies, codes=codes)


def require_backbone(
    served: Sequence[int], space: Space, s: OptEmbedSettings, m: ModelSettings
) -> None:
    """PolicyError unless the backbone can be built of the features that have rows left."""
    widths, numeric = [s.max_dim] * len(served), len(space.schema.numeric)
    try:
        build_backbone(m.backbone, numeric, widths, m.hidden, m.dropout, m.interaction)
    except ValueError as error:
        raise PolicyError(
            f"{len(served)} of {len(space.names)} features have rows above their thresholds, too "
            f"few for the backbone {m.backbone!r} ({error}): alpha {s.alpha} or threshold_lr "
            f"{s.threshold_lr} is too large for these data; lower them"
        ) from error
