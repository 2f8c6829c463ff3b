"""What is tuned: the names, their ranges, and a training with other values of them.

The names are those of options, so that the best values can be given to any command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)

from seo_rec.settings import HALVES, LARGEST_DENSE, FitSettings, Training, settled

TUNED_NAMES = ("l2", "l2-on", "lr", "dense-lr", "dropout", "dim", "batch-size")
Value = float | int | str
Values = Mapping[str, Value]

NO_L2 = 1e-7  # the least L2 of the range stands for none
RANGES = {"l2": (NO_L2, 1e-2), "lr": (3e-4, 2e-2), "dense-lr": (1e-4, 1e-2)}
LARGEST_DROPOUT = 0.5
WIDTHS = (4, 8, 16, 32)
BATCHES = (128, 256, 512, 1024, 2048, 4096, 8192)
LEAST_STEPS, MOST_STEPS = 10, 4_000  # of an epoch, with the batches that are tried
USUAL_BATCH = 2048  # from which on a batch may have any number of steps


@dataclass(frozen=True)
class Subject:
    """A training and a width, in which some values are replaced by others.

    Args:
        training: The model and how it is trained.
        dim: Width of a feature's embedding, in floats.
        floats: Floats of the tables, which decide what ``auto`` means.
    """

    training: Training
    dim: int
    floats: int

    @property
    def values(self) -> dict[str, Value]:
        """The values of everything that can be tuned."""
        fit = settled(self.training.fit, self.floats)
        return {
            "l2": fit.row_l2,
            "l2-on": fit.l2_on,
            "lr": self.training.fit.row_lr,
            "dense-lr": fit.dense_lr,
            "dropout": self.training.model.dropout,
            "dim": self.dim,
            "batch-size": fit.batch_size,
        }

    def with_values(self, values: Values) -> Subject:
        """The subject with other values of some names.

        Raises:
            ValueError: A value is not allowed, or does not go with the others.
        """
        fit, model = self.training.fit, self.training.model
        names = {"l2": "row_l2", "l2-on": "l2_on", "lr": "row_lr", "dense-lr": "dense_lr"}
        names["batch-size"] = "batch_size"
        changes = {names[name]: value for name, value in values.items() if name in names}
        fit = replace(fit, **changes)  # type: ignore[arg-type]
        if "dropout" in values:
            model = replace(model, dropout=float(values["dropout"]))
        dim = int(values.get("dim", self.dim))
        return replace(self, training=replace(self.training, model=model, fit=fit), dim=dim)


def check_names(names: Sequence[str]) -> None:
    """ValueError for a name that cannot be tuned, or that is given twice, or for no name."""
    if not names or len(set(names)) < len(names) or set(names) - set(TUNED_NAMES):
        raise ValueError(
            f"tune {', '.join(names) or 'nothing'}; allowed, each once: {', '.join(TUNED_NAMES)}"
        )


def space(
    subject: Subject, names: Sequence[str], rows: int, widths: Sequence[int]
) -> dict[str, BaseDistribution]:
    """The range of every name that has more than one value.

    A range holds the value of the subject, so that its training is one of the trials.

    Args:
        subject: What is tuned.
        names: Some of :data:`TUNED_NAMES`.
        rows: Training rows.
        widths: Widths for which there is a policy.
    """
    now = subject.values
    choices: dict[str, Sequence[Value]] = {
        "l2-on": _l2_forms(subject),
        "dim": sorted({*widths, subject.dim}),
        "batch-size": sorted({*_batches(rows), int(now["batch-size"])}),
    }
    found: dict[str, BaseDistribution] = {}
    for name in TUNED_NAMES:
        if name not in names:
            continue
        if name in choices:
            if len(choices[name]) > 1:
                found[name] = CategoricalDistribution(tuple(choices[name]))
        elif name == "dropout":
            found[name] = FloatDistribution(0.0, max(LARGEST_DROPOUT, float(now[name])))
        else:
            low, high = RANGES[name]
            value = float(now[name]) or low
            found[name] = FloatDistribution(min(low, value), max(high, value), log=True)
    return found


def as_parameters(values: Values, ranges: Mapping[str, BaseDistribution]) -> dict[str, Value]:
    """Values as points of the ranges: no L2 is :data:`NO_L2` in its logarithmic range."""
    return {n: NO_L2 if n == "l2" and not values[n] else values[n] for n in ranges}


def as_values(parameters: Values) -> dict[str, Value]:
    """Points of the ranges as values; the inverse of :func:`as_parameters`."""
    return {n: 0.0 if n == "l2" and v == NO_L2 else v for n, v in parameters.items()}


def _batches(rows: int) -> list[int]:
    """Powers of two that give an epoch neither a handful of steps nor very many."""
    most = {b: rows / b if b >= USUAL_BATCH else MOST_STEPS for b in BATCHES}
    return [b for b in BATCHES if LEAST_STEPS <= rows / b <= most[b]]


def _l2_forms(subject: Subject) -> Sequence[str]:
    """The rows on which L2 can act, with the optimizer that the settings ask for."""
    fit: FitSettings = subject.training.fit
    now = settled(fit, subject.floats).l2_on
    if fit.row_optimizer == "adam":
        return (now,)
    by_rows = ("read", "frequency")
    small = subject.floats <= LARGEST_DENSE and fit.storage not in HALVES
    every = ("all", *by_rows) if small and fit.row_optimizer != "lazy_adam" else by_rows
    return every if now in every else (now, *every)
