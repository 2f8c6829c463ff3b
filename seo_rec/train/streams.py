"""The rows that a process trains on and scores: its share of the splits of a data set."""

from __future__ import annotations

from collections.abc import Sequence

from seo_rec.data.dataset import DataSet
from seo_rec.data.stream import Stream
from seo_rec.settings import FitSettings
from seo_rec.train.ranks import ranks

EVAL_BATCH = 8192  # rows over all processes


def train_stream(
    data: DataSet, settings: FitSettings, columns: Sequence[str] | None = None, split: str = "train"
) -> Stream:
    """This process's share of a split in shuffled order, in batches of the settings' size.

    Args:
        data: The data set.
        settings: Batch size, over all processes, and the seed of the order.
        columns: The features that are read; None reads all of them.
        split: ``train``, or ``val`` for searches that also train on held-out rows.

    Raises:
        ValueError: The batch cannot be shared out evenly.
    """
    here = ranks()
    return data.stream(
        split,
        batch_size=here.share(settings.batch_size, "batch_size"),
        shuffle=True,
        seed=settings.seed,
        rank=here.rank,
        world_size=here.world_size,
        columns=columns,
    )


def eval_stream(data: DataSet, split: str, columns: Sequence[str] | None = None) -> Stream:
    """This process's share of a split, in file order."""
    return share_stream(data, split, max(ranks().world_size, EVAL_BATCH), columns)


def share_stream(
    data: DataSet, split: str, rows: int, columns: Sequence[str] | None = None
) -> Stream:
    """This process's share of a split, in file order, in batches of ``rows`` over all processes."""
    here = ranks()
    return data.stream(
        split,
        batch_size=rows // here.world_size,
        rank=here.rank,
        world_size=here.world_size,
        columns=columns,
    )
