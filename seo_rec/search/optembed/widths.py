"""The evolution of widths: each candidate is scored by the frozen supernet.

Letters: C candidates, E = F D columns of all features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from seo_rec.data.stream import Stream
from seo_rec.metrics import binary_metrics
from seo_rec.policy import Allowance
from seo_rec.search.evolution import Candidate, Evolution, Evolved, evolve, evolved_so_far
from seo_rec.search.optembed.rows import pruned_space
from seo_rec.search.optembed.supernet import Kept, Supernet
from seo_rec.search.space import Space
from seo_rec.train import ranks


@torch.no_grad()
def score(model: Supernet, val: Stream, candidates: Sequence[Candidate]) -> list[float]:
    """Validation AUC of the supernet at the widths of each candidate, in one pass over the rows.

    Args:
        model: The supernet.
        val: This process's share of the rows; all processes call this at once.
        candidates: The same in all processes.
    """
    model.eval()
    everywhere = ranks()
    device = everywhere.device
    masks_CE = model.column_mask(torch.tensor(candidates, device=device))
    logits: list[list[npt.NDArray[np.float32]]] = [[] for _ in candidates]
    labels, weights = [], []
    for batch in val:
        labels.append(batch.labels_B.numpy())
        weights.append(batch.row_weights.numpy())
        here = batch.to(device)
        x_BE = model.embed(here.sparse)
        for mask_E, scored in zip(masks_CE, logits, strict=True):
            scored.append(model.backbone(here.dense_BN, x_BE * mask_E).cpu().numpy())
    y, w = _of_all(labels), _of_all(weights)
    scored_C = [_of_all(z) for z in logits]
    return everywhere.on_first(lambda: [binary_metrics(z, y, w).auc for z in scored_C])


def _of_all(parts: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """The values of all processes one after the other, which is another order than the rows'."""
    return np.concatenate(ranks().gather(np.concatenate(parts)))


def search_widths(
    model: Supernet, kept: Kept, served: Sequence[int], val: Stream, seed: int, state: Path | None
) -> tuple[Candidate, float, Evolved]:
    """A width for every feature, 0 for those not ``served``, its AUC, and how it was found."""
    s = model.settings

    def of_all(candidate: Sequence[int]) -> Candidate:
        widths = dict(zip(served, candidate, strict=True))
        return tuple(widths.get(i, 0) for i in range(len(kept)))

    if not s.narrows:
        widest = of_all([s.max_dim] * len(served))
        return widest, score(model, val, [widest])[0], Evolved()
    left, most = pruned_space(model.space, kept), [s.max_dim] * len(kept)
    plan = Evolution(
        tuple(left.rows[i] for i in served),
        s.max_dim,
        _left_to_rows(left, served, s.allowance),
        s.generations,
        s.mutations,
        s.crossovers,
        s.mutation_rate,
        s.parents,
        seed,
    )
    here = ranks()
    begun = here.on_first(lambda: evolved_so_far(plan, state))
    evolved = evolve(
        plan,
        lambda found: score(model, val, [of_all(c) for c in found]),
        state if here.first else None,
        begun,
    )
    best = evolved.ranked(plan)[0]
    found = of_all(best)
    if s.amount and s.fill:
        filled = tuple(left.fill([float(d) for d in found], s.amount, most))
        if filled != found:
            return filled, score(model, val, [filled])[0], evolved
    return found, evolved.scores[evolved.candidates.index(best)], evolved


def _left_to_rows(left: Space, served: Sequence[int], allowance: Allowance) -> Allowance:
    """What ids and codes of the features that are served leave of the budget to their rows."""
    if not allowance.amount:
        return allowance
    names = [left.names[i] for i in served]
    ids = sum(len(left.vocabularies.get(name, ())) for name in names)
    codes = sum(len(left.codes.get(name, ())) for name in names)
    return allowance.with_amount(allowance.amount - allowance.ids(ids) - allowance.codes(codes))
