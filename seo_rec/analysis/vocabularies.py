"""Some of a data set's features, and their training ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from seo_rec.data.dataset import DataSet
from seo_rec.policy import Ids
from seo_rec.schema import Schema

Vocabularies = dict[str, tuple[Ids, Ids]]


def only(schema: Schema, features: Sequence[str]) -> Schema:
    """The schema with these features alone, and all numeric columns; with all if none is named.

    Raises:
        ValueError: an unknown feature.
    """
    names = [c.name for c in schema.features]
    if unknown := [f for f in features if f not in names]:
        raise ValueError(f"features {unknown}; allowed: {', '.join(names)}")
    if not names:
        raise ValueError("the data set has no feature; allowed: 1 or more")
    kept = [c for c in schema.columns if c.kind == "numeric" or not features or c.name in features]
    return replace(schema, columns=tuple(kept))


def vocabularies_of(data: DataSet, schema: Schema) -> Vocabularies:
    """Sorted training ids and their counts, of every feature that has some."""
    return {c.name: data.counts(c.name) for c in schema.features if c.vocab_size}
