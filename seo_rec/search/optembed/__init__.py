"""OptEmbed: which rows of every table to keep, and how wide each table is, from one supernet.

In: an opened data set and :class:`OptEmbedSettings`. Out: :class:`~seo_rec.search.found.Found`.
Begin with :func:`optembed` (:mod:`~seo_rec.search.optembed.search`);
:mod:`~seo_rec.search.optembed.supernet` is the model, :mod:`~seo_rec.search.optembed.rows` and
:mod:`~seo_rec.search.optembed.widths` decide.

"OptEmbed: Learning Optimal Embedding Table for Click-through Rate Prediction".
Letters: B batch, F features, V rows of a table, D full width, E = F D, Z = dense columns and E,
C candidates.

Phase 1 trains the supernet: a row v of feature f counts as ``S(|e_v|_1 - t_f) e_v`` with a learnt
threshold ``t_f`` per feature, and of the vector of every sample and feature the first i columns
count, i uniform from 1 to D. Phase 2 freezes it and evolves the widths by validation AUC. Phase 3
trains the policy like any other, from scratch or from weights that this search writes.

Readings of the paper that had to be chosen, and what differs:

* A pruned id reads row 0 of a table, like the ids which training never saw, so that serving needs
  no mask. That row is a zero in the supernet, as in the paper (``pruned="zero"``), or a vector of
  its own (``"shared"``). Training the policy trains it in both cases, and it counts in the budget.
* Where a feature has a row per id, the policy stores the ids that are left as its vocabulary,
  which takes less space than a code for every id. Where it is hashed, codes say which row a hash
  has; each of them takes a float, or 4 bytes, of the budget.
* A feature of which no row is left is dropped, unless its shared row is a vector.
* The norm is taken over all D columns, whatever the widths of the sample.
* A budget is not part of the method, nor is a target sparsity. With one, rows of the smallest
  ``|e_v|_1 - t_f`` go until the others could be ``KEPT_WIDTH`` wide, candidates above the
  budget lose columns, and the best one is widened in proportion until the budget is filled. In
  bytes a row is counted as it is stored, with its id; the supernet is trained in float32.
* The best candidate is that of all generations; of equal AUC the smaller.
* Several processes hold the whole supernet each and train it on their rows, with the widths that
  one process would draw for them (unless dropout draws numbers in between). Each scores its share
  of the validation rows; what is kept and chosen is decided by the first one.
* The rows that are kept, and the supernet that widths are evolved on, are those of the running mean
  of weights and thresholds at the best epoch (``average``, 0: of the weights themselves).
"""

from __future__ import annotations

from seo_rec.search.optembed.gates import sparsity, unit_step
from seo_rec.search.optembed.rows import (
    KEPT_WIDTH,
    kept_rows,
    pruned_space,
    require_backbone,
    require_budget,
    with_budget,
    with_codes,
)
from seo_rec.search.optembed.search import STATE_FILE, Searched, optembed, search_supernet
from seo_rec.search.optembed.settings import PRUNED, VARIANTS, WEIGHTS, OptEmbedSettings
from seo_rec.search.optembed.supernet import Kept, KeptDraws, Supernet, make_optimizers
from seo_rec.search.optembed.weights import check_weights, policy_weights
from seo_rec.search.optembed.widths import score

__all__ = [
    "KEPT_WIDTH",
    "PRUNED",
    "STATE_FILE",
    "VARIANTS",
    "WEIGHTS",
    "Kept",
    "KeptDraws",
    "OptEmbedSettings",
    "Searched",
    "Supernet",
    "check_weights",
    "kept_rows",
    "make_optimizers",
    "optembed",
    "policy_weights",
    "pruned_space",
    "require_backbone",
    "require_budget",
    "score",
    "search_supernet",
    "sparsity",
    "unit_step",
    "with_budget",
    "with_codes",
]
