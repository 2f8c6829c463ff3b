"""Methods that give a feature rows and nothing else: SEO's baselines and its trivial policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from seo_rec.methods.origin import provenance
from seo_rec.methods.published import Vocabularies, hashing_trick
from seo_rec.methods.sharing import MULTIPLEXED, Division, Sharing
from seo_rec.policy import Allowance, Feature, Ids, Lookup, Policy, PolicyError, Table
from seo_rec.schema import Schema


def collisionless(schema: Schema, dim: int, vocabularies: Mapping[str, Ids]) -> Policy:
    """One table per feature, one row per training id and one (row 0) for ids never trained.

    The reference without collisions; its size is what the data needs, not a budget.

    Args:
        schema: the data set.
        dim: width of every table.
        vocabularies: sorted distinct training ids of every feature
            (:func:`seo_rec.data.vocabulary.read_vocabulary`).
    """
    tables = tuple(Table(c.name, len(vocabularies[c.name]) + 1, dim) for c in schema.features)
    features = tuple(Feature(c.name, (Lookup(c.name, "id"),)) for c in schema.features)
    used = {c.name: vocabularies[c.name] for c in schema.features}
    return Policy(tables, features, (), used, provenance(schema, "collisionless", dim=dim))


def separate(
    schema: Schema, params: int | Allowance, dim: int, *, rows: str = "even", seed: int = 0
) -> Policy:
    """One hashed table per feature: another name of :func:`~seo_rec.methods.hashing_trick`.

    Args:
        schema: The data set.
        params: Floats of all tables together.
        dim: Width of every table.
        rows: ``even`` gives each feature the same number of rows (SEO, section 4.2);
            ``cardinality`` divides them in proportion to the vocabularies (Unified Embedding).
        seed: Salt of the hash functions.

    Raises:
        PolicyError: The budget is below one row per feature, or ``rows`` is unknown.
    """
    return hashing_trick(schema, params, dim, sharing=Sharing(rows=rows), seed=seed)


def monolithic(schema: Schema, params: int | Allowance, dim: int, *, seed: int = 0) -> Policy:
    """One hashed table for all features (SEO's MSE): another name of the hashing trick.

    Args:
        schema: The data set.
        params: Floats of the table.
        dim: Width of the table.
        seed: Salt of the hash functions.

    Raises:
        PolicyError: The budget is below one row.
    """
    return hashing_trick(schema, params, dim, sharing=MULTIPLEXED, seed=seed)


def multi_size(
    schema: Schema,
    params: int | Allowance,
    dim: int,
    *,
    lookups: int | Mapping[str, int] = 2,
    shared: bool = False,
    sharing: Sharing = MULTIPLEXED,
    vocabularies: Vocabularies | None = None,
    seed: int = 0,
) -> Policy:
    """Shared tables of width ``dim / k``; a feature reads one row of each, or of some of them.

    Unified Embedding's multi-size form: the rows of one id are hashed independently, so two ids
    rarely collide in all of them. With one number for all features it computes what the
    multiplexed ``pq`` computes, and is SEO's trivial policy: every feature, every chunk. With a
    number for each, features have the widths they are given (section 3 of the paper), and begin at
    different tables, so that all are read about as often.

    Args:
        schema: The data set.
        params: Floats of all tables together.
        dim: Width of the widest feature's embedding, a multiple of k.
        lookups: Rows read per id, for all features or for each by its name; k, the number of
            tables, is the largest.
        shared: One seed per feature for all its lookups (then it computes what ``monolithic``
            computes: SEO, Theorem 1) in place of independent ones.
        sharing: Multiplexed; which features stay exact, and which hash alike.
        vocabularies: Sorted training ids of the exact features.
        seed: Salt of the hash functions.

    Raises:
        PolicyError: ``dim`` is not a multiple of k, the budget is too small, or ``lookups`` does
            not give every feature 1 or more.
    """
    if not sharing.multiplexed:
        raise PolicyError("multi-size features share their tables; give a multiplexed sharing")
    names = [c.name for c in schema.features]
    reads = dict.fromkeys(names, lookups) if isinstance(lookups, int) else dict(lookups)
    _check_reads(reads, names, dim)
    k = max(reads.values())
    division = Division(schema, dim, sharing, vocabularies)
    columns = division.groups[0].columns if division.groups else ()
    wanted = [(f"chunk{i}", dim // k, 1.0) for i in range(k)] if columns else []
    tables = division.tables(params, wanted)
    features, first = [], 0
    for c in columns:
        places = range(k) if reads[c.name] == k else range(first, first + reads[c.name])
        first += reads[c.name]
        rows = tuple(
            Lookup(tables[i % k].name, "hash", division.seed(c, seed, 0 if shared else j))
            for j, i in enumerate(places)
        )
        features.append(Feature(c.name, rows))
    told = lookups if isinstance(lookups, int) else {n: reads[n] for n in names}
    arguments = {"params": params, "dim": dim, "lookups": told, "shared": shared, "seed": seed}
    return division.policy("multi-size", arguments, tables, features)


def _check_reads(reads: Mapping[str, int], names: Sequence[str], dim: int) -> None:
    if dim < 1:
        raise PolicyError(f"dim is {dim}; allowed: 1 or more")
    if set(reads) != set(names):
        raise PolicyError(f"lookups of {sorted(reads)}; allowed: one number for each of {names}")
    if few := [n for n, k in reads.items() if k < 1]:
        raise PolicyError(f"lookups of {few} below 1; allowed: 1 or more")
    if dim % max(reads.values()):
        raise PolicyError(f"dim {dim} is not a multiple of lookups {max(reads.values())}")
