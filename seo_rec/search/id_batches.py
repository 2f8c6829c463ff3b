"""The ids of the training rows, batch after batch, as methods read them that see a stream."""

from __future__ import annotations

from collections.abc import Iterator

from seo_rec.data.dataset import DataSet
from seo_rec.policy import Ids
from seo_rec.settings import FitSettings


def id_batches(data: DataSet, settings: FitSettings) -> Iterator[dict[str, Ids]]:
    """The ids of every feature in the batches of the first epoch of a training, in their order.

    Every process reads all rows, so that all of them decide alike.

    Args:
        data: The data set.
        settings: The batch size, over all processes, and the seed of the order.
    """
    stream = data.stream("train", batch_size=settings.batch_size, shuffle=True, seed=settings.seed)
    for batch in stream:
        yield {name: batch.sparse[name].values().numpy() for name in batch.sparse.keys()}
