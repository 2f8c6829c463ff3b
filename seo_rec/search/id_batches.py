"""The ids of the training rows, batch after batch, as methods read them that see a stream."""

from __future__ import annotations

from collections.abc import Iterator

from seo_rec.data.dataset import DataSet
from seo_rec.policy import Ids
from seo_rec.policy.addresses import known_as
from seo_rec.policy.entries import FULL_BITS

BATCH_ROWS = 2048  # whatever the batches of a training are, so that a method gives one policy


def id_batches(
    data: DataSet, seed: int, rows: int = BATCH_ROWS, id_bits: int = FULL_BITS
) -> Iterator[dict[str, Ids]]:
    """The ids of every feature in the rows of the first epoch of a training, in their order.

    Every process reads all rows, so that all of them decide alike.

    Args:
        data: The data set.
        seed: Of the order of the training.
        rows: Rows of a batch; the last one may have fewer.
        id_bits: 32 for the digests of the ids.
    """
    names = [c.name for c in data.schema.features]
    for batch in data.stream("train", batch_size=rows, shuffle=True, seed=seed):
        yield {name: known_as(batch.sparse[name].values().numpy(), id_bits) for name in names}
