"""How the rows that a search may train on are shared out between its trainings.

Letters: T rows of one whole training, n candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from seo_rec.settings import FitSettings

# finalists, and the part of their trainings; the second form is for trainings of few steps
FINALS = ((8, 1 / 10), (6, 1 / 5), (3, 1 / 2), (2, 1.0))
SHORT_FINALS = ((7, 1 / 5), (3, 1 / 2), (2, 1.0))
FINALS_AT = 4  # a limit of twice as many trainings has room for twice as many finalists
FINALS_SHARE = 9 / 10  # of the rows that are left for candidates
REACH = 0.7  # steps times learning rate of a training that is long enough for narrow rows
GROWN = 0.2  # the same, of the shortest training after which finalists may leave
SMALL = 200_000  # rows of a training of which all candidates' together take minutes
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
    """One round of short trainings, after which candidates leave.

    Args:
        candidates: How many take part.
        steps: Steps of each of their trainings.
    """

    candidates: int
    steps: int


@dataclass(frozen=True)
class Schedule:
    """The trainings of a search with a limit.

    Args:
        screening: A short training of every candidate; None if all are finalists.
        finals: The rounds of the finalists, each of which goes on with the trainings of the round
            before: ``steps`` are those since the beginning.
        rows: Rows that all of them may read together.
        few_steps: Whether the rounds of finalists are :data:`SHORT_FINALS`.
    """

    screening: Round | None
    finals: tuple[Round, ...]
    rows: int
    few_steps: bool = False

    @property
    def rounds(self) -> tuple[Round, ...]:
        """All rounds in their order."""
        return (*((self.screening,) if self.screening else ()), *self.finals)


def haste(fit: FitSettings) -> float:
    """What learning rates of a short training are multiplied by: ``0.7 / (steps * rate)``, 1 to 3.

    Rows begin near 0, and Adam moves a number by about its rate in a step. Until rows have grown,
    wide ones are ahead, because more numbers grow together, so that a short training at the rates
    of a long one ranks policies by their width. Other optimizers have steps of other sizes, and
    keep their rates.

    Args:
        fit: The settings of the training, with its ``max_steps``; 0, no limit, changes nothing. An
            optimizer of ``auto`` counts as Adam, which it is for small tables
            (:func:`seo_rec.settings.settled`).
    """
    adam = fit.row_optimizer in ("auto", "adam", "lazy_adam")
    if not (fit.max_steps and adam and fit.dense_optimizer == "adam"):
        return 1.0
    return min(MOST_HASTE, max(1.0, REACH / (fit.max_steps * fit.row_lr)))


def early_steps(fit: FitSettings) -> int:
    """Steps after which finalists may leave: steps times learning rate is 0.2 then, 1 at least.

    After fewer, rows have hardly left 0, and rows that are read rarely, as with a row for every id,
    least of all. Optimizers other than Adam have steps of other sizes, for which this says 1.
    """
    adam = fit.row_optimizer in ("auto", "adam", "lazy_adam")
    return max(1, math.ceil(GROWN / fit.row_lr)) if adam else 1


def has_few_steps(length: Length, fit: FitSettings) -> bool:
    """Whether a training is so short that rounds cannot rank, and so small that none are needed.

    Rounds cannot rank where rows have hardly left 0 after a fifth of a training
    (:func:`early_steps`), since three candidates are chosen then. It is small up to
    :data:`SMALL` rows.

    Args:
        length: One whole training.
        fit: Its settings.
    """
    fifth = _whole_epochs(SHORT_FINALS[0][1], length.epochs, length)
    return fifth < early_steps(fit) and length.whole <= SMALL


def has_short_finals(length: Length, fit: FitSettings) -> bool:
    """Whether a tenth of a training is too short to tell finalists apart (:data:`SHORT_FINALS`).

    Args:
        length: One whole training.
        fit: Its settings.
    """
    return _finals_of(length, early_steps(fit)) is SHORT_FINALS


def _finals_of(length: Length, early: int) -> tuple[tuple[int, float], ...]:
    """The form of the rounds of finalists, who leave after ``early`` steps at the earliest."""
    tenth = _whole_epochs(FINALS[0][1], length.epochs, length)
    return FINALS if tenth >= early else SHORT_FINALS


def attention_epochs(epochs: int, widths: int, cost: float) -> int:
    """Epochs of each attention that is searched: one at least.

    Together they take a twelfth of the limit; or an eighth, where each has two epochs then at most.

    Args:
        epochs: Epochs of one whole training.
        widths: How many attentions are searched.
        cost: The limit of the whole search, in whole trainings.
    """
    each = cost * epochs / widths
    return min(epochs, max(1, min(2, int(each / 8)), int(each / 12)))


def rounds(
    candidates: int,
    length: Length,
    cost: float,
    spent: int,
    *,
    goes_on: bool = True,
    early: int = 1,
) -> Schedule:
    """The trainings of a search that trains on at most ``cost * T`` rows in all.

    All n candidates are screened by short trainings. The best are finalists (:data:`FINALS`): eight
    of them begin their whole training, six go on after a tenth of it, three after a fifth, and two
    after half of it, to its end. That takes 3.3 T. Where a tenth has too few steps, seven begin and
    three go on after a fifth, which takes 3.3 T, too. Finals are shorter or have fewer finalists
    where the limit has no room for them, and take one round where a training cannot go on or is too
    short. A training has one step at least: the limit holds if every round has room for that.

    Args:
        candidates: n.
        length: One whole training.
        cost: The limit, in whole trainings.
        spent: Rows that other parts of the search train on, such as its attentions.
        goes_on: Whether a training can be continued.
        early: Finalists leave after so many steps at the earliest (:func:`early_steps`), if a fifth
            of a training has as many.
    """
    left = max(0, math.floor(cost * length.whole) - spent)
    if candidates * length.whole <= left:
        return Schedule(None, (Round(candidates, length.steps),), left)
    times = max(1, math.floor(cost / FINALS_AT))
    form = _finals_of(length, early)
    finals = [(min(candidates, times * size), part) for size, part in form]
    if not goes_on:
        finals = finals[-1:]
    found = _finals(finals, length, left)
    if found[0].candidates == candidates:
        return Schedule(None, found, left)
    fewer = [(size, part) for size, part in finals if size < candidates]
    found = _finals(fewer, length, left * FINALS_SHARE)
    each = (left - _rows_of(found, length)) / candidates
    screening = Round(candidates, length.steps_within(each))
    return Schedule(screening, found, left, few_steps=form is SHORT_FINALS)


def _finals(finals: Sequence[tuple[int, float]], length: Length, share: float) -> tuple[Round, ...]:
    """The longest rounds of finalists that read at most ``share`` rows, as many rounds as go.

    They end with epochs, where a training can go on, unless there is room for less than one. Rounds
    that would end with the same epoch are one, with the finalists of the first of them.
    """
    for epochs in range(length.epochs, 0, -1):
        for ladder in _ladders(finals):
            steps = dict[int, int]()  # how many are trained for so many steps
            for size, part in ladder:
                steps.setdefault(_whole_epochs(part, epochs, length), size)
            found = tuple(Round(size, number) for number, size in steps.items())
            if _rows_of(found, length) <= share:
                return found
    size = finals[-1][0]
    return (Round(size, length.steps_within(share / size)),)


def _whole_epochs(part: float, epochs: int, length: Length) -> int:
    """Steps of a part of some epochs, in whole epochs, one at least."""
    return min(max(1, math.floor(part * epochs)) * length.steps_per_epoch, length.steps)


def _ladders(finals: Sequence[tuple[int, float]]) -> Iterator[Sequence[tuple[int, float]]]:
    """The rounds of finalists, with ever fewer in the first one, and then without the first one."""
    for skipped, (size, part) in enumerate(finals):
        others = finals[skipped + 1 :]
        fewest = others[0][0] if others else size - 1
        for fewer in range(size, fewest, -1):
            yield ((fewer, part), *others)


def _rows_of(finals: Sequence[Round], length: Length) -> int:
    """Rows that rounds read of which each goes on with the trainings before it."""
    ends = [0, *(length.rows(r.steps) for r in finals)]
    return sum(
        r.candidates * (end - begin) for r, begin, end in zip(finals, ends, ends[1:], strict=False)
    )
