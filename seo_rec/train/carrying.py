"""Which row of an earlier model's tables each row of a new model's tables continues.

Letters: R rows of a table of the new policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seo_rec.policy import Feature, Ids, Lookup, Policy
from seo_rec.policy.addresses import known_as, lookup_rows

NEW = -1


@dataclass(frozen=True)
class RowMove:
    """Where the rows of one table come from.

    Args:
        tables: Names of tables of the earlier policy.
        table_R: For each row the number of its table among ``tables``; :data:`NEW` for a row that
            continues none.
        row_R: Its row in that table.
        fresh_R: Whether the row begins as a copy of the row of unknown ids: optimizer state does
            not go with it.
        whole: Whether the table is one earlier table, row by row.
    """

    tables: tuple[str, ...]
    table_R: npt.NDArray[np.int64]
    row_R: npt.NDArray[np.int64]
    fresh_R: npt.NDArray[np.bool_]
    whole: bool = False

    @property
    def carried(self) -> int:
        """Rows that continue an earlier row."""
        return int((self.table_R != NEW).sum())


def row_moves(
    old: Policy,
    new: Policy,
    known: Mapping[str, Ids],
    stand_ins: Mapping[str, Ids] | None = None,
) -> dict[str, RowMove]:
    """For every table of ``new`` that continues tables of ``old``, where its rows come from.

    A table whose readers find their rows as they did is taken over row by row. Otherwise the row
    of an id continues the row that the same lookup of the same feature had for it, if both are of
    one width. Where several ids meet in one row, the last of ``known`` decides, and an id that had
    a row of its own is preferred to a new one. Rows of unknown ids continue such rows.
    Where a renewed table has more of them than before, those begin as the rows of the ids that lost
    theirs.

    Args:
        old: The earlier policy.
        new: The policy to train.
        known: By feature, the ids whose rows are to move, the most important last.
        stand_ins: By feature, those of them that have nothing of the id they stand in for but its
            digest. They decide nothing where a lookup takes whole ids.
    """
    moves = {}
    for table in new.tables:
        readers = list(_readers(old, new, table.name))
        pairs = [r for r in readers if r is not None]
        names = tuple(dict.fromkeys(p.before.table for p in pairs))
        if not names:
            continue
        if len(names) == 1 and all(r is not None and r.same(old, new) for r in readers):
            rows = np.arange(table.num_rows)
            zeros = np.zeros(table.num_rows, np.int64)
            moves[table.name] = RowMove(names, zeros, rows, zeros.astype(bool), whole=True)
        else:
            moves[table.name] = _by_ids(
                old, new, table.num_rows, names, pairs, known, stand_ins or {}
            )
    return moves


@dataclass(frozen=True)
class _Reader:
    """A lookup of a table in the new policy, and the same lookup in the old one."""

    feature_before: Feature
    feature: Feature
    before: Lookup
    after: Lookup

    def same(self, old: Policy, new: Policy) -> bool:
        """Whether every id finds the same row number in a table of the same size."""
        a, b = self.before, self.after
        rows = old.table(a.table).num_rows == new.table(b.table).num_rows
        rule = ("address", "seed", "modulus", "unknown_rows")
        alike = rows and all(getattr(a, name) == getattr(b, name) for name in rule)
        if alike and a.address == "codes":
            alike = np.array_equal(old.codes[a.codes], new.codes[b.codes])
        if alike and a.uses_index:
            name = self.feature.name
            alike = self.feature_before.id_bits == self.feature.id_bits
            alike = alike and np.array_equal(old.vocabularies[name], new.vocabularies[name])
        return alike


def _readers(old: Policy, new: Policy, table: str) -> Iterator[_Reader | None]:
    """Every lookup of a table of ``new``; None where the old policy has no such lookup."""
    before = {f.name: f for f in old.features}
    for f in new.features:
        for j, k in enumerate(f.all_lookups):
            if k.table != table or k.address == "blocks":
                continue
            e = before.get(f.name)
            there = None
            if e is not None and e.columns == f.columns and j < len(e.all_lookups):
                there = e.all_lookups[j]
            fits = there is not None and there.address != "blocks"
            fits = fits and (there is e.weights) == (k is f.weights) if e and there else False
            if fits and e and there and old.table(there.table).dim == new.table(table).dim:
                yield _Reader(e, f, there, k)
            else:
                yield None


def _by_ids(
    old: Policy,
    new: Policy,
    num_rows: int,
    names: tuple[str, ...],
    readers: list[_Reader],
    known: Mapping[str, Ids],
    stand_ins: Mapping[str, Ids],
) -> RowMove:
    table_R = np.full(num_rows, NEW, np.int64)
    row_R = np.zeros(num_rows, np.int64)
    fresh_R = np.zeros(num_rows, bool)
    for r in readers:  # rows of the unknown first: ids with rows of their own win
        if r.before.address in ("id", "codes") and r.after.address in ("id", "codes"):
            if r.before.uses_index and r.after.uses_index:
                mine, theirs = _unknown(old, r.before), _unknown(new, r.after)
                table_R[theirs] = names.index(r.before.table)
                row_R[theirs] = np.resize(mine, len(theirs))
    for newcomers in (True, False):
        for r in readers:
            ids = known.get(r.feature.name, np.zeros(0, np.int64))
            if r.feature.name in stand_ins and not (r.before.uses_index and r.after.uses_index):
                ids = ids[~np.isin(ids, stand_ins[r.feature.name])]
            fresh = _newcomers(old, r, ids)
            ids = ids[fresh == newcomers]
            after = lookup_rows(new, r.feature, r.after, ids)
            before = lookup_rows(old, r.feature_before, r.before, ids)
            if r.after.uses_index:  # ids that stay unknown decide nothing
                named = _is_known(new, r.feature, ids)
                wider = r.before.uses_index and r.after.unknown_rows > r.before.unknown_rows
                wider &= old.table(r.before.table) == new.table(r.after.table)  # it was renewed
                if wider and not newcomers:
                    shared = after[~named]  # ids that lose their row share new ones
                    table_R[shared], row_R[shared] = names.index(r.before.table), before[~named]
                after, before = after[named], before[named]
            table_R[after] = names.index(r.before.table)
            row_R[after] = before
            fresh_R[after] = newcomers
    return RowMove(names, table_R, row_R, fresh_R)


def _unknown(policy: Policy, lookup: Lookup) -> Ids:
    """The rows of ids that are in no vocabulary."""
    if lookup.address == "codes":
        return policy.codes[lookup.codes][:1].astype(np.int64)
    return np.arange(lookup.unknown_rows)


def _newcomers(old: Policy, reader: _Reader, ids: Ids) -> npt.NDArray[np.bool_]:
    """Which ids shared a row of the unknown in the old policy and have one of their own now."""
    if not reader.before.uses_index or not reader.after.uses_index:
        return np.zeros(len(ids), bool)
    return ~_is_known(old, reader.feature_before, ids)


def _is_known(policy: Policy, feature: Feature, ids: Ids) -> npt.NDArray[np.bool_]:
    """Which ids the vocabulary of a feature knows."""
    return np.isin(known_as(ids, feature.id_bits), policy.vocabularies[feature.name])
