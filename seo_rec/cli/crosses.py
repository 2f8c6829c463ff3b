"""``--crosses``: combinations of columns as further features."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seo_rec.data.crosses import CrossedData
    from seo_rec.data.dataset import DataSet


def crossed(data: DataSet, text: str) -> CrossedData:
    """The data set with the crosses that ``--crosses`` asks for.

    Raises:
        DataError: The text asks for nothing that the data have.
    """
    from seo_rec.data.crosses import read_crosses, with_crosses
    from seo_rec.schema import DataError

    asked = read_crosses(text, data.schema)
    if isinstance(asked, int | str):
        raise DataError(f"--crosses {text}; allowed: names, as a*b,c*d")
    return with_crosses(data, asked)
