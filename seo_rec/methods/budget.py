"""A budget for those who have not chosen one yet."""

from __future__ import annotations

from seo_rec.schema import Schema

LEAST_ROWS = 16  # of every feature


def proposed_budget(schema: Schema, dim: int) -> int:
    """Half of the floats that one row for every training id takes, ``dim`` floats wide.

    ``max(floor(sum of ids / 2), 16 F) * dim``: whole rows, and 16 for each of the F features at
    least. At that size features have to share or to be narrower, so methods differ.

    Args:
        schema: Of the data set.
        dim: Width of a row, in floats.

    Returns:
        The budget in parameters (floats).
    """
    return max(_half_of_ids(schema), LEAST_ROWS * len(schema.features)) * dim


def reason_of_proposal(schema: Schema) -> str:
    """Which of its two parts decides :func:`proposed_budget`, in words."""
    if _half_of_ids(schema) < LEAST_ROWS * len(schema.features):
        return f"{LEAST_ROWS} rows for each feature, the least that is proposed"
    return "half of what a row for every training id takes"


def _half_of_ids(schema: Schema) -> int:
    return sum(column.vocab_size or 0 for column in schema.features) // 2
