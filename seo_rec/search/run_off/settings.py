"""How a run-off chooses between candidates."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from seo_rec.settings import Training

# of a run-off's candidates and winner, without and with a limit; a change is another search
RULE, LIMITED_RULE = 5, 11
SHORT_RULE = 2  # besides, where a tenth of a training is too short; the first was not recorded
ROOM_FOR_ALL = 1000.0  # a limit in which every candidate and attention is trained in full


@dataclass(frozen=True)
class RunOff:
    """How a search chooses between its candidates, on validation rows.

    The best of many candidates is partly the luckiest, so a candidate must beat the policy that it
    would replace clearly. The first to beat is the plain policy of ``dim / chunk_dim`` lookups, or
    one of both kinds (:func:`seo_rec.search.run_off.plain.both`) where that fits and has the better
    mean AUC of two trainings. One lookup of full width, the method ``monolithic``, is a candidate
    too, because Corollary 1 of SEO compares with it.

    With a ``cost`` the candidates are trained in rounds of successive halving
    (:mod:`seo_rec.search.run_off.halving`), and there are more of them
    (:data:`seo_rec.search.run_off.proposals.PROPOSALS`).

    Args:
        epochs: Each candidate is trained for at most so many epochs.
        standard_errors: A candidate replaces another if its AUC is higher by so many errors.
        chunk_dims: Widths of chunks that are searched besides the width chunk_dim.
        trivial_lookups: Lookups per feature of the further plain candidates.
        by_id: Whether policies are candidates that store ids: a row for every one, and frequent.
        frequent: Whether rows for the most frequent ids are candidates, dim and chunk_dim wide.
        divide: Whether a division of rows and width by each attention is a candidate (seo-divide).
        cost: The search trains on at most so many times the rows of a training; 0: no limit.
        in_full: Whether a search with a cost exceeds it where a training has few steps.
        tune: Whether L2 and learning rates are chosen first, for each family of policies.
    """

    epochs: int = 20
    standard_errors: float = 2.0
    chunk_dims: tuple[int, ...] = (8, 4)
    trivial_lookups: tuple[int, ...] = (1, 2, 4, 8)
    by_id: bool = True
    frequent: bool = True
    divide: bool = False
    cost: float = 4.0
    in_full: bool = True
    tune: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.standard_errors < 0:
            raise ValueError(
                f"run-off of epochs {self.epochs} and standard_errors {self.standard_errors}; "
                "allowed: epochs 1 or more, standard_errors 0 or more"
            )
        if self.cost != 0 and not 1 <= self.cost < math.inf:
            raise ValueError(
                f"run-off of cost {self.cost}; allowed: 0 (every candidate is trained in full), or "
                "1 or more times the rows of one training"
            )
        if self.tune and not self.cost:
            raise ValueError(
                "run-off with tune and cost 0; allowed: tune with a cost of 1 or more, of which it "
                "takes a share"
            )
        if any(n < 1 for n in (*self.chunk_dims, *self.trivial_lookups)):
            raise ValueError(
                f"run-off of chunk_dims {self.chunk_dims} and trivial_lookups "
                f"{self.trivial_lookups}; allowed: numbers of 1 or more"
            )

    def to_json(self) -> dict[str, Any]:
        """JSON values, and the rule by which a winner is found.

        ``divide`` is there only where it is set, ``cost`` and ``tune`` only where there is a
        limit, and ``in_full`` only where it is turned off, as it was recorded before they came.
        """
        values = {**asdict(self), "rule": LIMITED_RULE if self.cost else RULE}
        if not values["divide"]:
            del values["divide"]
        if not self.cost or self.in_full:
            del values["in_full"]
        if not self.cost:
            del values["cost"], values["tune"]
        return values

    def shortened(self, training: Training) -> Training:
        """One whole training of a candidate, of at most ``epochs`` epochs."""
        fit = training.fit
        return replace(training, fit=replace(fit, epochs=min(self.epochs, fit.epochs)))
