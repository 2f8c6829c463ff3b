"""``--crosses``: combinations of columns as further features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seo_rec.data.crosses import CrossedData
    from seo_rec.data.dataset import DataSet


def crossed(data: DataSet, text: str, seed: int) -> CrossedData:
    """The data set with the crosses that ``--crosses`` asks for.

    Args:
        data: The data set.
        text: The value of the option.
        seed: Of the run, for the rows by which pairs are ranked.

    Raises:
        DataError: The text asks for nothing that the data have.
    """
    from seo_rec.data.crosses import with_crosses
    from seo_rec.search.proposals import crosses_of

    return with_crosses(data, crosses_of(data, text, seed))


def all_crossed(data: Sequence[DataSet], text: str, seed: int) -> tuple[CrossedData, ...]:
    """Splits of one data set with the same crosses; numbers and ``all`` look at the first split.

    Args:
        data: The splits.
        text: The value of ``--crosses``; empty: there are none, and nothing comes back.
        seed: See :func:`crossed`.

    Raises:
        DataError: The text asks for nothing that the data have.
    """
    if not text:
        return ()
    from seo_rec.data.crosses import with_crosses
    from seo_rec.search.proposals import crosses_of

    crosses = crosses_of(data[0], text, seed)
    return tuple(with_crosses(one, crosses) for one in data) if crosses else ()
