"""The policy: which embedding tables exist, and how each feature finds its rows in them.

A policy is plain frozen data with a JSON form (``docs/policy-format.md``). Methods and searches
write it, the applier rewrites it; the embedding module, the planner, the exporter and the
reports read it. Nothing else passes between a search and the training that uses its answer.

In: tables and features, or a file. Out: :class:`Policy`, checked. Begin with
:mod:`~seo_rec.policy.entries`, what a policy is made of; :mod:`~seo_rec.policy.addresses` computes
the rows that an id reads, and :mod:`~seo_rec.policy.check` refuses what cannot be built.
"""

from __future__ import annotations

from seo_rec.policy.allowance import Allowance, allowance_of, stored_types, with_precision
from seo_rec.policy.budget import split_rows
from seo_rec.policy.dtypes import DTYPES, row_bytes
from seo_rec.policy.entries import (
    ADDRESSES,
    MAX_CROSS_IDS,
    MAX_ROWS,
    MAX_SEED,
    MISSING_ID,
    Array,
    Budget,
    Codes,
    Feature,
    Ids,
    Lookup,
    PolicyError,
    Table,
)
from seo_rec.policy.policy import Policy
from seo_rec.policy.reading import FORMAT, VERSION
from seo_rec.policy.strict_json import MAX_FILE_BYTES

__all__ = [
    "ADDRESSES",
    "DTYPES",
    "FORMAT",
    "MAX_CROSS_IDS",
    "MAX_FILE_BYTES",
    "MAX_ROWS",
    "MAX_SEED",
    "MISSING_ID",
    "VERSION",
    "Allowance",
    "Array",
    "Budget",
    "Codes",
    "Feature",
    "Ids",
    "Lookup",
    "Policy",
    "PolicyError",
    "Table",
    "allowance_of",
    "row_bytes",
    "split_rows",
    "stored_types",
    "with_precision",
]
