"""DimGrow: grow every feature's embedding column by column, as long as its columns matter.

In: an opened data set and :class:`DimGrowSettings`. Out: :class:`~seo_rec.search.found.Found`.
Begin with :func:`dimgrow` (:mod:`~seo_rec.search.dimgrow.search`);
:mod:`~seo_rec.search.dimgrow.schedule` has what happens after every step.

Letters: B batch, F features, V rows of a table, D columns in use over all features, H width of
the adaptation layer.

Readings of "DimGrow: Memory-Efficient Field-level Embedding Dimension Search" that had to be
chosen; :class:`DimGrowSettings` has the settings:

* A column is a parameter of its own, (V,): growing allocates one column and copies nothing, and
  the optimizer's state of the others stays where it is. A column is never freed.
* "Any gate falls below T_down: reduce the dimension by one": the column of the lowest gate goes,
  which need not be the last. When the feature grows again, an idle column is used before a new
  one is made; its gate starts at 0.5 again, or it would fall out at once.
* The k of the decaying penalty ``|g| / (k + 1)`` counts the columns in use from 1.
* ``alpha`` weighs the sum over all gates. The authors' code weighs the mean over them; their
  strength is about 1e-3 on MovieLens-1M and 1e-4 or less on Criteo.
* In evaluation the mean of a column over the training rows takes the place of its shuffled part.
  The rows of a batch never mix, so sorted rows (some hundred users in a batch) score as any others.
* "After convergence": the search ends after ``epochs``, or after ``patience`` epochs in which
  neither the validation AUC rose nor the number of gates above 0.5 of any feature changed. The
  gates are those of the end; ``gates_of="best"`` takes those of the epoch after which the search's
  own model had its best validation AUC. No running mean of weights is kept.
* Several processes hold the whole model each and train it on their rows. A column is shuffled over
  the rows of all of them, so the search is that of one process (dropout draws other numbers).
* What trains the gates: ``gate_split="held-out"`` as in the public code, one Adam step on a batch
  of validation rows after each training step, or ``"train"``, together with the weights.
"""

from __future__ import annotations

from seo_rec.search.dimgrow.gates import gated, mean_reads, penalty, shuffle_columns
from seo_rec.search.dimgrow.growth import Growth, make_optimizers
from seo_rec.search.dimgrow.model import Dimension, GrowingModel
from seo_rec.search.dimgrow.schedule import KEPT, Answer, DimGrowStep
from seo_rec.search.dimgrow.search import dimgrow
from seo_rec.search.dimgrow.settings import (
    ADAPTS,
    GATES_OF,
    DimGrowSettings,
    adapt_of,
    check_adapt,
    check_fit,
)
from seo_rec.search.dimgrow.weights import found_weights

__all__ = [
    "ADAPTS",
    "GATES_OF",
    "KEPT",
    "Answer",
    "DimGrowSettings",
    "DimGrowStep",
    "Dimension",
    "GrowingModel",
    "Growth",
    "adapt_of",
    "check_adapt",
    "check_fit",
    "dimgrow",
    "found_weights",
    "gated",
    "make_optimizers",
    "mean_reads",
    "penalty",
    "shuffle_columns",
]
