"""SEO stage 1: learn which chunks of one shared table each feature should read.

In: an opened data set and :class:`SeoSearch`. Out: :class:`~seo_rec.search.found.Found`. Begin
with :func:`seo`, the search and its run-off; :mod:`~seo_rec.search.seo.attention` is the gate that
learns, :mod:`~seo_rec.search.seo.selection` makes a policy of it.

Letters: B batch, F features, C chunks of the shared table (N' in the paper), D width of a chunk.

Readings of "Shared Embedding Optimization: A Two-Stage Approach" that had to be chosen, each an
option of :class:`SeoSettings`:

* Equation 1 makes the mean attention ``1/(F C)``, so equation 2 shrinks every embedding by that
  factor. ``attention_scale="mean-one"`` (default) multiplies by ``F C``, which keeps the scale of
  a model without attention; ``"paper"`` takes the equation as it stands.
* "The chunk indices with the highest attention": one ranking of all ``F C`` entries, cut at
  ``total_chunks`` (default ``F * dim / chunk_dim``, the width the monolithic model reads).
  ``min_chunks`` of each feature's best chunks are taken first; 0 is the plain ranking, and
  ``dim / chunk_dim`` gives every feature its own best chunks alone (top-k for each feature).
* "M is the target number of chunks of the final model": ``total_chunks``.
* How a value finds its row in a chunk: ``chunk_hashing="shared"`` is one row number for all chunks
  of a value, as in a table that is cut column-wise (Theorem 1 holds to the bit);
  ``"independent"`` (default) hashes each chunk with a seed of its own.
* "Once the search model has converged": the attention is read after the best validation epoch, from
  the running mean of the logits where a mean of the weights is kept. With ``temperature_end``, tau
  falls over the largest number of epochs, and early stopping may end the search before.
* The slots that round robin deals: as many as there are chunk tables in the policy, up to C
  (Definition 1 has D / chunk_dim).
* What trains the logits: ``search_split="train"`` as the other weights, or ``"held-out"``, by
  alternate steps on validation rows after ``warmup_epochs``.
"""

from __future__ import annotations

from seo_rec.search.seo.attention import (
    Attention,
    gate_optimizers,
    logit_step,
    make_gate,
    search_space,
)
from seo_rec.search.seo.division import by_worth, by_worth_with_crosses, divided
from seo_rec.search.seo.search import check_seo, require_space, rule_of_short, seo
from seo_rec.search.seo.searched import Searched, search_attention
from seo_rec.search.seo.selection import by_frequency, by_id, select
from seo_rec.search.seo.settings import AUTO, MOSTLY, SeoSearch, SeoSettings

__all__ = [
    "AUTO",
    "MOSTLY",
    "Attention",
    "Searched",
    "SeoSearch",
    "SeoSettings",
    "by_frequency",
    "by_id",
    "by_worth",
    "by_worth_with_crosses",
    "check_seo",
    "divided",
    "gate_optimizers",
    "logit_step",
    "make_gate",
    "require_space",
    "rule_of_short",
    "search_attention",
    "search_space",
    "select",
    "seo",
]
