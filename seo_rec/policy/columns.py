"""A policy for data that gained or lost columns since it was made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from statistics import median_low

from seo_rec.policy.entries import Feature, Lookup, PolicyError, Table
from seo_rec.policy.policy import Policy
from seo_rec.schema import Column, Schema


@dataclass(frozen=True)
class ColumnChange:
    """What a policy gained and lost to fit other columns.

    Args:
        added: New features.
        lost: Features that the data no longer has all columns for.
        more_bytes: Bytes of the new policy less those of the old one.
    """

    added: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    more_bytes: int = 0


def adapted(policy: Policy, schema: Schema) -> tuple[Policy, ColumnChange]:
    """The policy without features whose columns are gone, and with a feature for each new column.

    If all features of the policy read the same shared tables by hash, a new column reads them too,
    with seeds of its own, and costs no bytes. Otherwise it gets a hashed table of its own, as wide
    as the policy's first feature, with a row for each of its ids, up to the median number of rows
    of the policy's tables.

    Args:
        policy: Made for earlier data.
        schema: The columns of the new data.

    Raises:
        PolicyError: No feature of the policy is left.
    """
    present = {c.name for c in schema.features}
    kept = tuple(f for f in policy.features if set(f.columns) <= present)
    lost = tuple(f.name for f in policy.features if f not in kept)
    said = {*(c for f in kept for c in f.columns), *policy.dropped}
    new = [c for c in schema.features if c.name not in said]
    if not lost and not new:
        return policy, ColumnChange()
    if not kept:
        raise PolicyError(
            f"the data has none of the columns {sorted(policy.columns)} that the policy reads; it "
            f"has {sorted(present)}"
        )
    shared = _shared_lookups(policy)
    tables, features = list(policy.tables), list(kept)
    for column in new:
        if shared:
            lookups = tuple(
                replace(k, seed=_seed(column.name, i)) for i, k in enumerate(shared.lookups)
            )
            features.append(replace(shared, name=column.name, columns=(), lookups=lookups))
        else:
            table = _own_table(policy, column, {t.name for t in tables})
            tables.append(table)
            lookup = Lookup(table.name, "hash", _seed(column.name, 0))
            features.append(Feature(column.name, (lookup,)))
    made = _without_unread(policy, tables, features)
    names = tuple(c.name for c in new)
    return made, ColumnChange(names, lost, made.num_bytes - policy.num_bytes)


def _shared_lookups(policy: Policy) -> Feature | None:
    """A feature as whose copy a new one costs nothing: all read the same tables by hash."""
    first = policy.features[0]
    read = [[k.table for k in f.all_lookups] for f in policy.features]
    hashed = all(k.address == "hash" for f in policy.features for k in f.all_lookups)
    alike = all(tables == read[0] for tables in read) and len(read) > 1
    plain = first.project is None and first.weights is None
    return first if hashed and alike and plain else None


def _own_table(policy: Policy, column: Column, taken: set[str]) -> Table:
    name = column.name
    while name in taken or any(a.name == name for a in policy.arrays):
        name += "'"
    most = median_low([t.num_rows for t in policy.tables]) if policy.tables else 1024
    rows = max(1, min(most, (column.vocab_size or 0) + 1))
    dtype = policy.tables[0].dtype if policy.tables else "float32"
    return Table(name, rows, policy.widths[0], dtype)


def _seed(name: str, lookup: int) -> int:
    """A seed that depends on the name alone, so that a column hashes alike wherever it is added."""
    digest = hashlib.sha256(f"{name}\x1f{lookup}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _without_unread(policy: Policy, tables: list[Table], features: list[Feature]) -> Policy:
    read = {k.table for f in features for k in f.all_lookups}
    codes = {k.codes for f in features for k in f.all_lookups if k.address == "codes"}
    indexed = {f.name for f in features if any(k.uses_index for k in f.all_lookups)}
    return replace(
        policy,
        tables=tuple(t for t in tables if t.name in read),
        arrays=tuple(a for a in policy.arrays if a.name in read),
        features=tuple(features),
        vocabularies={n: v for n, v in policy.vocabularies.items() if n in indexed},
        codes={n: c for n, c in policy.codes.items() if n in codes},
    )
