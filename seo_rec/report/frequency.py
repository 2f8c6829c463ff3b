"""Quality on the samples whose ids are most and least frequent (MLET, section 4.2 and Table 4).

Letters: B samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.table import Table
from sklearn.metrics import average_precision_score

from seo_rec.data.dataset import DataSet
from seo_rec.report.terminal import open_console

SAMPLES = 65_536  # read at a time

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class FrequencySets:
    """Places in a split of the samples with the ``most`` and the ``least`` frequent ids."""

    most: Ints
    least: Ints


@dataclass(frozen=True)
class FrequencyQuality:
    """PR-AUC (average precision) of one model on the two sets and on the whole split."""

    most: float
    least: float
    all: float


def frequency_sets(data: DataSet, split: str, share: float) -> FrequencySets:
    """The ``share`` of a split's samples with the most and with the least frequent ids.

    The frequency of a sample is the product, over the ids of all its features, of the share of
    training rows that hold the id. Samples with ids that no training row holds have frequency 0;
    the more such ids, the less frequent, and otherwise by the product of the others. Of equal
    ones the later in the file counts as the more frequent.

    Raises:
        ValueError: ``share`` is not in (0, 0.5], or leaves no sample.
    """
    if not 0 < share <= 0.5:
        raise ValueError(f"a share of {share} of the samples; allowed: above 0, at most 0.5")
    schema = data.schema
    known = {c.name: data.counts(c.name) for c in schema.features}
    logs: list[Floats] = []
    unseen: list[Ints] = []
    for batch in data.stream(split, batch_size=SAMPLES):
        log_B, unseen_B = np.zeros(batch.num_rows), np.zeros(batch.num_rows, np.int64)
        for name, (ids, counts) in known.items():
            bags = batch.sparse[name]
            sample = np.repeat(np.arange(batch.num_rows), bags.lengths().numpy())
            found, seen = _counts(bags.values().numpy(), ids, counts)
            share_of_rows = np.where(seen, found, 1) / schema.num_rows["train"]
            np.add.at(log_B, sample, np.where(seen, np.log(share_of_rows), 0.0))
            np.add.at(unseen_B, sample, ~seen)
        logs.append(log_B)
        unseen.append(unseen_B)
    order = np.lexsort((np.concatenate(logs), -np.concatenate(unseen)))
    size = int(share * order.size)
    if size < 1:
        raise ValueError(f"a share of {share} of {order.size} samples is none; allowed: more")
    return FrequencySets(np.sort(order[-size:]), np.sort(order[:size]))


def _counts(values: Ints, ids: Ints, counts: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Training rows of each value, and whether there is one."""
    if not ids.size:
        return np.zeros(values.size, np.int64), np.zeros(values.size, np.bool_)
    place = np.minimum(np.searchsorted(ids, values), ids.size - 1)
    seen = (ids[place] == values) & (counts[place] > 0)
    return counts[place], seen


def frequency_quality(logits: Floats, labels: Floats, sets: FrequencySets) -> FrequencyQuality:
    """PR-AUC on both sets and on all samples; NaN where there is no positive one.

    Args:
        logits, labels: of the whole split, in the order of its file.
    """

    def quality(places: Ints | slice) -> float:
        if not labels[places].any():
            return float("nan")
        return float(average_precision_score(labels[places], logits[places]))

    return FrequencyQuality(quality(sets.most), quality(sets.least), quality(slice(None)))


def print_frequency(found: Mapping[str, FrequencyQuality], title: str) -> None:
    """A row per model: its PR-AUC, and by how many per cent that is above the first one's."""
    table = Table(title=title)
    table.add_column("model")
    for name in ("most frequent", "least frequent", "all"):
        table.add_column(name, justify="right")
    first = next(iter(found.values()))
    for model, quality in found.items():
        table.add_row(
            model, *(_cell(*pair) for pair in zip(_row(quality), _row(first), strict=True))
        )
    open_console().print(table)


def _row(quality: FrequencyQuality) -> Sequence[float]:
    return quality.most, quality.least, quality.all


def _cell(value: float, reference: float) -> str:
    return f"{value:.5f} ({100 * (value / reference - 1):+.2f} %)"
