"""What makes a policy one that can be built. Every function raises PolicyError."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from seo_rec.policy.dtypes import DTYPES
from seo_rec.policy.entries import (
    ADDRESS_FIELDS,
    ADDRESSES,
    COMBINES,
    FULL_BITS,
    ID_BITS,
    MAX_COLUMNS,
    MAX_ROWS,
    MAX_SEED,
    MAX_WIDTH,
    Feature,
    Lookup,
    PolicyError,
    Table,
)

if TYPE_CHECKING:
    from seo_rec.policy.policy import Policy

_DEFAULTS = Lookup("")


def check_policy(policy: Policy) -> None:
    """Names, numbers, and that every lookup finds what it reads."""
    sizes = _check_tables(policy)
    names: set[str] = set()
    read: set[str] = set()
    codes_read: set[str] = set()
    for f in policy.features:
        if not f.name or f.name in names:
            raise PolicyError(f"feature name {f.name!r} is empty or used twice; names are unique")
        names.add(f.name)
        _check_feature(policy, f, sizes)
        read |= {k.table for k in f.all_lookups}
        codes_read |= {k.codes for k in f.all_lookups if k.address == "codes"}
    if unread := sorted(set(sizes) - read):
        raise PolicyError(f"tables {unread} are read by no feature; remove them")
    if unread := sorted(set(policy.codes) - codes_read):
        raise PolicyError(f"codes {unread} are read by no lookup; remove them")
    used = {f.name for f in policy.features if any(k.uses_index for k in f.all_lookups)}
    if unused := sorted(set(policy.vocabularies) - used):
        raise PolicyError(
            f"the vocabularies of {unused} are used by no lookup of a feature of that name; "
            "remove them"
        )
    for f in policy.features:
        _check_id_bits(policy, f, f.name in used)
    if twice := sorted(names & set(policy.dropped)):
        raise PolicyError(f"features {twice} are both served and dropped")
    if twice := sorted(set(policy.columns) & set(policy.dropped)):
        raise PolicyError(f"columns {twice} are dropped, and features read them")
    if len(set(policy.dropped)) < len(policy.dropped):
        raise PolicyError(f"dropped names a feature twice: {list(policy.dropped)}")
    if not policy.features:
        raise PolicyError("the policy serves no feature")


def _check_tables(policy: Policy) -> dict[str, Table | int]:
    """Tables and the sizes of flat arrays, by name."""
    found: dict[str, Table | int] = {}
    for t in policy.tables:
        if not t.name or t.name in found:
            raise PolicyError(f"table name {t.name!r} is empty or used twice; names are unique")
        if not 1 <= t.num_rows <= MAX_ROWS:
            raise PolicyError(
                f"table {t.name!r} has num_rows {t.num_rows}; allowed: 1 to {MAX_ROWS}"
            )
        if not 1 <= t.dim <= MAX_WIDTH:
            raise PolicyError(f"table {t.name!r} has dim {t.dim}; allowed: 1 to {MAX_WIDTH}")
        _check_dtype(f"table {t.name!r}", t.dtype)
        found[t.name] = t
    for a in policy.arrays:
        if not a.name or a.name in found:
            raise PolicyError(
                f"array name {a.name!r} is empty or used twice; names of arrays and tables differ"
            )
        if not 1 <= a.size <= MAX_ROWS:
            raise PolicyError(f"array {a.name!r} has size {a.size}; allowed: 1 to {MAX_ROWS}")
        _check_dtype(f"array {a.name!r}", a.dtype)
        found[a.name] = a.size
    for name, codes in policy.codes.items():
        if codes.dtype != np.int32 or codes.ndim != 1 or not codes.size:
            raise PolicyError(
                f"codes {name!r} are {codes.dtype} of shape {codes.shape}; allowed: one dimension "
                "of int32, one or more (`.astype(np.int32)`)"
            )
    return found


def _check_dtype(where: str, dtype: str) -> None:
    if dtype not in DTYPES:
        raise PolicyError(f"{where} has dtype {dtype!r}; allowed: {', '.join(DTYPES)}")


def _check_id_bits(policy: Policy, f: Feature, by_index: bool) -> None:
    """What the vocabulary of a feature holds."""
    where = f"feature {f.name!r}"
    if f.id_bits not in ID_BITS:
        raise PolicyError(f"{where} has id_bits {f.id_bits}; allowed: 64, 32")
    if f.id_bits == FULL_BITS:
        return
    if not by_index:
        raise PolicyError(
            f"{where} has id_bits {f.id_bits} and no lookup by index, so that it has no "
            f"vocabulary; allowed: {FULL_BITS}"
        )
    known = policy.vocabularies[f.name]
    if known.size and not (known[0] >= 0 and known[-1] < 1 << f.id_bits):
        raise PolicyError(
            f"the vocabulary of feature {f.name!r} has numbers from {known[0]} to {known[-1]}; "
            "with id_bits 32 it holds digests, from 0 to 2^32 - 1 "
            "(seo_rec.policy.addresses.digests)"
        )


def _check_sources(f: Feature) -> None:
    """The columns that a feature's ids come from."""
    if not all(f.columns) or len(set(f.columns)) < len(f.columns):
        raise PolicyError(
            f"feature {f.name!r} has columns {list(f.columns)}, of which one is empty or named "
            "twice; name each column once"
        )
    if len(f.columns) > MAX_COLUMNS:
        raise PolicyError(
            f"feature {f.name!r} crosses {len(f.columns)} columns; allowed: {MAX_COLUMNS}"
        )


def _check_feature(policy: Policy, f: Feature, sizes: dict[str, Table | int]) -> None:
    if f.combine not in COMBINES:
        raise PolicyError(
            f"feature {f.name!r} has combine {f.combine!r}; allowed: {', '.join(COMBINES)}"
        )
    _check_sources(f)
    if not f.lookups:
        raise PolicyError(
            f"feature {f.name!r} has no lookups; give it one or list it under dropped"
        )
    for k in f.all_lookups:
        if k.address not in ADDRESSES:
            raise PolicyError(
                f"feature {f.name!r} has address {k.address!r}; allowed: {', '.join(ADDRESSES)}"
            )
        if k.table not in sizes:
            raise PolicyError(
                f"feature {f.name!r} looks up table {k.table!r}; tables: {sorted(sizes)}"
            )
        _check_lookup(policy, f, k, sizes[k.table])
    if any(k.address in ("quotient", "remainder") for k in f.all_lookups):
        _check_digits(policy, f)
    widths = {policy.lookup_width(k) for k in f.lookups}
    if f.combine != "concat" and len(widths) > 1:
        verb = {"sum": "sums", "mul": "multiplies", "weighted_sum": "sums"}[f.combine]
        raise PolicyError(f"feature {f.name!r} {verb} vectors of different widths; use concat")
    if f.project is not None and not 1 <= f.project <= MAX_WIDTH:
        raise PolicyError(
            f"feature {f.name!r} has project {f.project}; allowed: 1 to {MAX_WIDTH}, or none"
        )
    _check_weights(policy, f)


def _check_weights(policy: Policy, f: Feature) -> None:
    if (f.combine == "weighted_sum") != (f.weights is not None):
        raise PolicyError(
            f"feature {f.name!r} has combine {f.combine!r} and "
            f"{'no weights' if f.weights is None else 'weights'}; weights are given if and only if "
            "combine is 'weighted_sum'"
        )
    if f.combine in ("mul", "weighted_sum"):
        if any(k.address == "blocks" for k in f.all_lookups):
            raise PolicyError(
                f"feature {f.name!r} has combine {f.combine!r} and reads blocks; allowed: concat, "
                "sum"
            )
    if f.weights is not None:
        dim = policy.lookup_width(f.weights)
        if dim != len(f.lookups):
            raise PolicyError(
                f"feature {f.name!r} has {len(f.lookups)} lookups and its weights are in table "
                f"{f.weights.table!r} of width {dim}; give it one column per lookup"
            )


def _check_lookup(policy: Policy, f: Feature, k: Lookup, target: Table | int) -> None:
    where = f"feature {f.name!r}"
    uses = ADDRESS_FIELDS[k.address]
    for name in ("seed", "modulus", "block", "width", "codes", "unknown_rows"):
        if name not in uses and getattr(k, name) != getattr(_DEFAULTS, name):
            raise PolicyError(
                f"{where} has {name} {getattr(k, name)!r} with the address {k.address!r}, which "
                f"ignores it; allowed: {getattr(_DEFAULTS, name)!r}"
            )
    if not 0 <= k.seed <= MAX_SEED:
        raise PolicyError(f"{where} has seed {k.seed}; allowed: 0 to 2^63 - 1")
    if (k.address == "blocks") != isinstance(target, int):
        kind = "an array" if isinstance(target, int) else "a table"
        raise PolicyError(
            f"{where} reads {k.table!r} by {k.address}, and it is {kind}; blocks are read from "
            "arrays, everything else from tables"
        )
    if isinstance(target, int):
        if not 1 <= k.width <= MAX_WIDTH:
            raise PolicyError(f"{where} has width {k.width}; allowed: 1 to {MAX_WIDTH}")
        if not 1 <= k.block <= min(k.width, target):
            raise PolicyError(
                f"{where} has block {k.block}; allowed: 1 to {min(k.width, target)} (its width is "
                f"{k.width}, array {k.table!r} has {target} floats)"
            )
    elif k.address in ("quotient", "remainder"):
        most = target.num_rows if k.address == "remainder" else MAX_ROWS
        if not 1 <= k.modulus <= most:
            raise PolicyError(
                f"{where} has {k.address} with modulus {k.modulus}; allowed: 1 to {most}"
            )
    elif k.address == "codes":
        _check_codes(policy, f, k, target)
    elif k.address == "id":
        _check_ids(policy, f, k, target)


def _check_ids(policy: Policy, f: Feature, k: Lookup, table: Table) -> None:
    where, u = f"feature {f.name!r}", k.unknown_rows
    if not 1 <= u <= MAX_ROWS:
        raise PolicyError(f"{where} has unknown_rows {u}; allowed: 1 to {MAX_ROWS}")
    if u == 1 and k.seed:
        raise PolicyError(
            f"{where} has seed {k.seed} with the address 'id' and one row for unknown ids, which "
            "ignores it; allowed: 0, or unknown_rows of 2 or more"
        )
    n = vocabulary_size(policy, f, k)
    if n + u > table.num_rows:
        serve = "row 0 serves" if u == 1 else f"rows 0 to {u - 1} serve"
        raise PolicyError(
            f"{where} has {n} ids and needs {n + u} rows ({serve} unknown ids); table "
            f"{table.name!r} has {table.num_rows}"
        )


def _check_codes(policy: Policy, f: Feature, k: Lookup, table: Table) -> None:
    where = f"feature {f.name!r}"
    codes = policy.codes.get(k.codes)
    if codes is None:
        raise PolicyError(
            f"{where} has codes {k.codes!r}; the policy has codes {sorted(policy.codes)}"
        )
    if k.modulus and k.modulus != codes.size:
        raise PolicyError(
            f"{where} hashes into {k.modulus} rows and codes {k.codes!r} are of {codes.size}; make "
            "modulus that, or 0 for the index of the id"
        )
    if not k.modulus:
        if k.seed:
            raise PolicyError(
                f"{where} has seed {k.seed} with codes of the index (modulus 0), which ignore it; "
                "allowed: 0"
            )
        n = vocabulary_size(policy, f, k)
        if n + 1 > codes.size:
            raise PolicyError(
                f"{where} has {n} ids and needs {n + 1} codes (number 0 serves unknown ids); "
                f"codes {k.codes!r} are {codes.size}"
            )
    if codes.min() < 0 or codes.max() >= table.num_rows:
        raise PolicyError(
            f"codes {k.codes!r} are {codes.min()} to {codes.max()}; table {table.name!r} has rows "
            f"0 to {table.num_rows - 1}"
        )


def _check_digits(policy: Policy, f: Feature) -> None:
    """Quotients and remainders tell all ids apart only if the last quotient does not wrap."""
    k = next(k for k in f.all_lookups if k.address in ("quotient", "remainder"))
    n = vocabulary_size(policy, f, k)
    told = [
        policy.table(k.table).num_rows * k.modulus for k in f.all_lookups if k.address == "quotient"
    ]
    if n + 1 > max(told, default=0):
        raise PolicyError(
            f"feature {f.name!r} has {n} ids, and its quotients tell {max(told, default=0)} "
            f"numbers apart; {n + 1} are needed (rows times modulus of one quotient)"
        )


def vocabulary_size(policy: Policy, f: Feature, k: Lookup) -> int:
    """The number of known ids of a feature whose lookup ``k`` needs them."""
    ids = policy.vocabularies.get(f.name)
    if ids is None:
        raise PolicyError(f"feature {f.name!r} uses the {k.address} address and has no vocabulary")
    if ids.size and not bool(np.all(ids[1:] > ids[:-1])):
        raise PolicyError(f"the vocabulary of feature {f.name!r} is not sorted and distinct")
    return int(ids.size)
