"""The embedding methods that "Unified Embedding" (Coleman et al., NeurIPS 2023) multiplexes.

Each is one function for both forms; :class:`Sharing` is the switch. ``docs/methods.md`` says what
each computes and when to use it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seo_rec.methods.sharing import PER_FEATURE, Division, Sharing
from seo_rec.policy import (
    Allowance,
    Array,
    Feature,
    Ids,
    Lookup,
    Policy,
    PolicyError,
    Table,
)
from seo_rec.schema import Schema

Vocabularies = Mapping[str, Ids]


def hashing_trick(
    schema: Schema,
    params: int | Allowance,
    dim: int,
    *,
    sharing: Sharing = PER_FEATURE,
    vocabularies: Vocabularies | None = None,
    seed: int = 0,
) -> Policy:
    """``x_f = T_f[h_f(id)]``; multiplexed (one T) it is Unified Embedding.

    Args:
        schema: the data set.
        params: budget, in floats of everything that is stored; or an allowance in bytes, which
            counts ids too and says in which type rows are stored.
        dim: width of a feature's embedding.
        sharing: who shares tables, and which features stay exact.
        vocabularies: sorted training ids of the exact features.
        seed: salt of the hash functions.

    Raises:
        PolicyError: the budget is too small (the message names the smallest feasible one), or
            vocabularies are lacking.
    """
    division = Division(schema, dim, sharing, vocabularies)
    tables = _k_tables(division, params, [dim])
    features = _k_hashes(division, 1, "concat", seed)
    arguments = {"params": params, "dim": dim, "seed": seed}
    return division.policy(division.form("hashing-trick"), arguments, tables, features)


def hash_embedding(
    schema: Schema,
    params: int | Allowance,
    dim: int,
    *,
    lookups: int = 2,
    importance: float = 0.1,
    sharing: Sharing = PER_FEATURE,
    vocabularies: Vocabularies | None = None,
    seed: int = 0,
) -> Policy:
    """``x_f = sum_j P_f[h_f(id)]_j T_f[h_fj(id)]``: k rows of one table, weighted by learnt P.

    From "Hash Embeddings for Efficient Word Representations" (Svenstrup et al., 2017).

    Args:
        schema, params, dim, sharing, vocabularies, seed: as in :func:`hashing_trick`.
        lookups: k, rows read per id, and width of the table of importance weights.
        importance: p, the share of the budget that goes to importance weights.

    Raises:
        PolicyError: as there; ``lookups`` below 1, ``importance`` not between 0 and 1.
    """
    if lookups < 1:
        raise PolicyError(f"lookups={lookups}; allowed: 1 or more")
    if not 0 < importance < 1:
        raise PolicyError(f"importance={importance}; allowed: between 0 and 1, both excluded")
    division = Division(schema, dim, sharing, vocabularies)
    wanted: list[tuple[str, int, float]] = []
    for g in division.groups:
        wanted.append((g.name, dim, g.weight * (1 - importance)))
        wanted.append((_part(g.name, "importance"), lookups, g.weight * importance))
    features = []
    for g in division.groups:
        for c in g.columns:
            rows = [Lookup(g.name, "hash", division.seed(c, seed, j)) for j in range(lookups)]
            weights = Lookup(
                _part(g.name, "importance"), "hash", division.seed(c, seed, "importance")
            )
            features.append(Feature(c.name, tuple(rows), "weighted_sum", weights=weights))
    arguments = {
        "params": params,
        "dim": dim,
        "lookups": lookups,
        "importance": importance,
        "seed": seed,
    }
    tables = division.tables(params, wanted)
    return division.policy(division.form("hash-embedding"), arguments, tables, features)


def hashed_net(
    schema: Schema,
    params: int | Allowance,
    dim: int,
    *,
    sharing: Sharing = PER_FEATURE,
    vocabularies: Vocabularies | None = None,
    seed: int = 0,
) -> Policy:
    """``x_f[i] = A_f[h_fi(id)]``: every float from a place of its own in a flat array.

    From "Compressing Neural Networks with the Hashing Trick" (Chen et al., 2015), for embeddings.
    Arguments and errors are the same as in :func:`hashing_trick`.
    """
    arguments = {"params": params, "dim": dim, "seed": seed}
    division = Division(schema, dim, sharing, vocabularies)
    return _flat(division, "hashednet", arguments, 1)


def robe(
    schema: Schema,
    params: int | Allowance,
    dim: int,
    *,
    block: int = 8,
    sharing: Sharing = PER_FEATURE,
    vocabularies: Vocabularies | None = None,
    seed: int = 0,
) -> Policy:
    """``x_f[i] = A_f[h_{f,i div Z}(id) + i mod Z]``: blocks of Z neighbours of a flat array.

    From "Random Offset Block Embedding Array" (Desai et al., 2022). Blocks do not wrap around.

    Args:
        schema, params, dim, sharing, vocabularies, seed: as in :func:`hashing_trick`.
        block: Z; an id makes ``ceil(dim / Z)`` lookups, the last one shorter.

    Raises:
        PolicyError: as there; ``block`` is not from 1 to ``dim``.
    """
    if not 1 <= block <= dim:
        raise PolicyError(f"block={block}; allowed: 1 to dim {dim}")
    arguments = {"params": params, "dim": dim, "block": block, "seed": seed}
    division = Division(schema, dim, sharing, vocabularies)
    return _flat(division, "robe", arguments, block)


def _flat(division: Division, method: str, arguments: Mapping[str, Any], block: int) -> Policy:
    groups = division.groups
    weights = [g.weight for g in groups]
    sizes = division.floats(arguments["params"], weights, [block] * len(groups))
    arrays = [Array(g.name, size) for g, size in zip(groups, sizes, strict=True)]
    features = []
    for g in groups:
        for c in g.columns:
            seed = division.seed(c, arguments["seed"], 0)
            lookup = Lookup(g.name, "blocks", seed, block=block, width=arguments["dim"])
            features.append(Feature(c.name, (lookup,)))
    return division.policy(division.form(method), arguments, (), features, arrays)


def pq(
    schema: Schema,
    params: int | Allowance,
    dim: int,
    *,
    lookups: int = 2,
    sharing: Sharing = PER_FEATURE,
    vocabularies: Vocabularies | None = None,
    seed: int = 0,
) -> Policy:
    """``x_f = [T_f1[h_f1(id)], ..., T_fk[h_fk(id)]]``: k narrow tables, side by side.

    With one lookup it is the hashing trick; multiplexed it is multi-size Unified Embedding.

    Args:
        schema, params, dim, sharing, vocabularies, seed: as in :func:`hashing_trick`.
        lookups: k; where it does not divide ``dim`` the first tables are one float wider.

    Raises:
        PolicyError: as there; ``lookups`` is not from 1 to ``dim``.
    """
    if not 1 <= lookups <= dim:
        raise PolicyError(f"lookups={lookups}; allowed: 1 to dim {dim}")
    division = Division(schema, dim, sharing, vocabularies)
    widths = [dim // lookups + (j < dim % lookups) for j in range(lookups)]
    arguments = {"params": params, "dim": dim, "lookups": lookups, "seed": seed}
    tables = _k_tables(division, params, widths)
    features = _k_hashes(division, lookups, "concat", seed)
    return division.policy(division.form("pq"), arguments, tables, features)


def qr(
    schema: Schema,
    params: int | Allowance,
    dim: int,
    *,
    components: int = 2,
    sharing: Sharing = PER_FEATURE,
    vocabularies: Vocabularies | None = None,
    seed: int = 0,
) -> Policy:
    """``x_f = T_f1[d_1(id)] * ... * T_fk[d_k(id)]``, element by element.

    From "Compositional Embeddings Using Complementary Partitions" (Shi et al., 2020). Per feature
    the d_j are the digits of the id's index, remainder first, so that no two ids read the same
    rows; the first table gets all rows that the others do not need. Multiplexed they are hashes.

    Args:
        schema, params, dim, sharing, seed: as in :func:`hashing_trick`.
        components: k, 2 or more: with one, a code without collisions is a row per id.
        vocabularies: sorted training ids of all features (multiplexed: of the exact ones).

    Raises:
        PolicyError: as there; ``components`` below 2.
    """
    if components < 2:
        raise PolicyError(
            f"components={components}; allowed: 2 or more (one component is a row per id and "
            "cannot compress: that is `collisionless`)"
        )
    division = Division(schema, dim, sharing, vocabularies)
    arguments = {"params": params, "dim": dim, "components": components, "seed": seed}
    if sharing.multiplexed:
        tables = _k_tables(division, params, [dim] * components)
        features = _k_hashes(division, components, "mul", seed)
        return division.policy(division.form("qr"), arguments, tables, features)
    columns = [g.columns[0] for g in division.groups]
    division.require_vocabularies(columns, "qr")
    counts = [len(division.vocabularies[c.name]) + 1 for c in columns]
    least = [sum(smallest_digits(n, components)) for n in counts]
    weights = [g.weight for g in division.groups]
    ids = sum(counts) - len(counts)
    rows = division.rows(params, [dim] * len(columns), weights, least, ids)
    made, features = [], []
    for c, n, total in zip(columns, counts, rows, strict=True):
        sizes = digits(n, components, total)
        lookups, modulus = [], 1
        for j, size in enumerate(sizes):
            name = _part(c.name, j)
            made.append(Table(name, size, dim))
            if j == 0:
                lookups.append(Lookup(name, "remainder", modulus=size))
            else:
                lookups.append(Lookup(name, "quotient", modulus=modulus))
            modulus *= size
        features.append(Feature(c.name, tuple(lookups), "mul"))
    return division.policy(division.form("qr"), arguments, made, features)


def smallest_digits(count: int, digits: int) -> list[int]:
    """Sizes of few rows whose product is ``count`` or more, all as alike as can be."""
    sizes = []
    for left in range(digits, 0, -1):
        size = max(1, round(count ** (1 / left)))
        while size**left < count:
            size += 1
        while size > 1 and (size - 1) ** left >= count:
            size -= 1
        sizes.append(size)
        count = -(-count // size)
    return sizes


def digits(count: int, number: int, rows: int) -> list[int]:
    """Sizes of ``number`` digits, ``rows`` in all, whose product is ``count`` or more.

    The first one is large: its rows are shared by the fewest ids. ``rows`` is at
    least ``sum(smallest_digits(count, number))``.
    """

    def rest(first: int) -> list[int]:
        return smallest_digits(-(-count // first), number - 1)

    low, high = smallest_digits(count, number)[0], rows
    while low < high:  # what the first digit gains, the others lose at most (but for rounding)
        middle = (low + high + 1) // 2
        if middle + sum(rest(middle)) <= rows:
            low = middle
        else:
            high = middle - 1
    others = rest(low)
    return [rows - sum(others), *others]


def _k_tables(
    division: Division, params: int | Allowance, widths: Sequence[int]
) -> tuple[Table, ...]:
    k = len(widths)
    return division.tables(
        params,
        [
            (_part(g.name, j) if k > 1 else g.name, width, g.weight * width / sum(widths))
            for g in division.groups
            for j, width in enumerate(widths)
        ],
    )


def _k_hashes(division: Division, k: int, combine: str, seed: int) -> list[Feature]:
    return [
        Feature(
            c.name,
            tuple(
                Lookup(_part(g.name, j) if k > 1 else g.name, "hash", division.seed(c, seed, j))
                for j in range(k)
            ),
            combine,
        )
        for g in division.groups
        for c in g.columns
    ]


def _part(group: str, part: object) -> str:
    return f"{group}:{part}"
