"""How the rows that a search may train on are shared out between its trainings.

Letters: T rows of one whole training, n candidates, k finalists.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from seo_rec.settings import FitSettings

FINALISTS = 4
NO_SCREENING = 2 * FINALISTS  # so many candidates, or fewer, all go to the last round
ONE_SCREENING = 9  # so many, or fewer, are screened once
REACH = 0.7  # steps times learning rate of a training that is long enough for narrow rows
MOST_HASTE = 3.0  # times the learning rates of a training that is too short


@dataclass(frozen=True)
class Length:
    """The length of one whole training, in steps and in rows.

    Args:
        epochs: Its epochs.
        steps_per_epoch: Steps of an epoch.
        rows_per_epoch: Training rows of the data set.
        batch_size: Rows of a step; the last step of an epoch may have fewer.
        max_steps: The training ends after so many steps, whatever the epoch; 0: no limit.
    """

    epochs: int
    steps_per_epoch: int
    rows_per_epoch: int
    batch_size: int
    max_steps: int = 0

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        steps = self.epochs * self.steps_per_epoch
        return min(steps, self.max_steps or steps)

    @property
    def whole(self) -> int:
        """T: rows of the whole training, a row that is read in two epochs counted twice."""
        return self.rows(self.steps)

    def rows(self, steps: int) -> int:
        """Rows that the first ``steps`` steps of a training read."""
        epochs, rest = divmod(steps, self.steps_per_epoch)
        return epochs * self.rows_per_epoch + min(rest * self.batch_size, self.rows_per_epoch)

    def steps_within(self, rows: float) -> int:
        """The most steps that read at most ``rows`` rows, from 1 to a whole training."""
        low, high = 1, self.steps
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.rows(middle) <= rows else (low, middle - 1)
        return low


@dataclass(frozen=True)
class Round:
    """One round of successive halving.

    Args:
        candidates: How many take part.
        steps: Steps of each of their trainings.
        trainings: Trainings of each at most, with seeds of their own.
    """

    candidates: int
    steps: int
    trainings: int = 1


def haste(fit: FitSettings) -> float:
    """What learning rates of a short training are multiplied by: ``0.7 / (steps * rate)``, 1 to 3.

    Rows begin near 0, and Adam moves a number by about its rate in a step. Until rows have grown,
    wide ones are ahead, because more numbers grow together, so that a short training at the rates
    of a long one ranks policies by their width. Other optimizers have steps of other sizes, and
    keep their rates.

    Args:
        fit: The settings of the training, with its ``max_steps``; 0, no limit, changes nothing.
    """
    adam = fit.row_optimizer in ("auto", "adam", "lazy_adam")
    if not (fit.max_steps and adam and fit.dense_optimizer == "adam"):
        return 1.0
    return min(MOST_HASTE, max(1.0, REACH / (fit.max_steps * fit.row_lr)))


def attention_epochs(epochs: int, widths: int, cost: float) -> int:
    """Epochs of each attention that is searched: together an eighth of the limit, at least one.

    Args:
        epochs: Epochs of one whole training.
        widths: How many attentions are searched.
        cost: The limit of the whole search, in whole trainings.
    """
    return min(epochs, max(1, int(cost / 8 * epochs / widths)))


def rounds(candidates: int, length: Length, cost: float, spent: int) -> tuple[Round, ...]:
    """The rounds of a search that trains on at most ``cost * T`` rows in all.

    The candidates are screened twice, on as many rows each time: all n, and ``sqrt(k n)`` of them,
    rounded up; ``ONE_SCREENING`` or fewer are screened once. The k = ``FINALISTS`` that are left
    take half of the rows, because each may be trained twice. ``NO_SCREENING`` or fewer candidates
    are compared at once. A training has one step at least: the
    limit holds if every round has room for that.

    Args:
        candidates: n.
        length: One whole training.
        cost: The limit, in whole trainings.
        spent: Rows that other parts of the search train on, such as its attentions.
    """
    left = max(0.0, cost * length.whole - spent)
    finalists = candidates if candidates <= NO_SCREENING else FINALISTS
    sizes = [candidates] if candidates > finalists else []
    if candidates > ONE_SCREENING:
        sizes.append(math.ceil(math.sqrt(finalists * candidates)))
    for_final = left / 2 if sizes else left
    found = [Round(n, length.steps_within((left - for_final) / len(sizes) / n)) for n in sizes]
    final = length.steps_within(for_final / (2 * max(1, finalists)))
    return (*found, Round(finalists, final, 2))


def rows_of(schedule: Sequence[Round], length: Length) -> int:
    """The most rows that a schedule trains on."""
    return sum(r.candidates * r.trainings * length.rows(r.steps) for r in schedule)
