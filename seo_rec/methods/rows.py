"""Methods that give a feature rows and nothing else: SEO's baselines and its trivial policy."""

from __future__ import annotations

from collections.abc import Mapping

from seo_rec.methods.origin import lookup_seed, provenance
from seo_rec.methods.sharing import ROW_RULES
from seo_rec.policy import Feature, Ids, Lookup, Policy, PolicyError, Table, split_rows
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


def separate(schema: Schema, params: int, dim: int, *, rows: str = "even", seed: int = 0) -> Policy:
    """One hashed table per feature: SEO's ``Separate`` and Unified Embedding's hashing trick.

    Args:
        schema: the data set.
        params: floats of all tables together.
        dim: width of every table.
        rows: ``even`` gives each feature the same number of rows (SEO, section 4.2);
            ``cardinality`` splits them in proportion to the vocabulary (Unified Embedding).
        seed: salt of the hash functions.

    Raises:
        PolicyError: the budget is below one row per feature, or ``rows`` is unknown.
    """
    if rows not in ROW_RULES:
        raise PolicyError(f"rows={rows!r}; allowed: {', '.join(ROW_RULES)}")
    names = [c.name for c in schema.features]
    weights = [1.0 if rows == "even" else max(1, c.vocab_size or 0) for c in schema.features]
    num_rows = split_rows(params, [dim] * len(names), weights)
    tables = tuple(Table(n, r, dim) for n, r in zip(names, num_rows, strict=True))
    features = tuple(Feature(n, (Lookup(n, "hash", lookup_seed(seed, n, 0)),)) for n in names)
    origin = provenance(schema, "separate", params=params, dim=dim, rows=rows, seed=seed)
    return Policy(tables, features, provenance=origin)


def monolithic(schema: Schema, params: int, dim: int, *, seed: int = 0) -> Policy:
    """One hashed table for all features (SEO's MSE): ``params / dim`` rows, a seed per feature."""
    table = Table("shared", split_rows(params, [dim], [1.0])[0], dim)
    features = tuple(
        Feature(c.name, (Lookup("shared", "hash", lookup_seed(seed, c.name, 0)),))
        for c in schema.features
    )
    origin = provenance(schema, "monolithic", params=params, dim=dim, seed=seed)
    return Policy((table,), features, provenance=origin)


def multi_size(
    schema: Schema,
    params: int,
    dim: int,
    *,
    lookups: int | Mapping[str, int] = 2,
    shared: bool = False,
    seed: int = 0,
) -> Policy:
    """Shared tables of width ``dim / k``; a feature reads one row of each, or of some of them.

    Unified Embedding's multi-size form: the rows of one id are hashed independently, so two ids
    rarely collide in all of them. With one number for all features it is also SEO's trivial policy:
    every feature, every chunk. With a number for each, features have the widths they are given
    (section 3 of the paper), and begin at different tables, so that all are read about as often.

    Args:
        schema: the data set.
        params: floats of all tables together.
        dim: width of the widest feature's embedding, a multiple of k.
        lookups: rows read per id, for all features or for each by its name; k, the number of
            tables, is the largest.
        shared: one seed per feature for all its lookups (then it computes what ``monolithic``
            computes: SEO, Theorem 1) in place of independent ones.
        seed: salt of the hash functions.

    Raises:
        PolicyError: ``dim`` is not a multiple of k, the budget is too small, or ``lookups`` does
            not give every feature 1 or more.
    """
    if dim < 1:
        raise PolicyError(f"dim is {dim}; allowed: 1 or more")
    names = [c.name for c in schema.features]
    reads = dict.fromkeys(names, lookups) if isinstance(lookups, int) else dict(lookups)
    if set(reads) != set(names):
        raise PolicyError(f"lookups of {sorted(reads)}; allowed: one number for each of {names}")
    if few := [n for n, k in reads.items() if k < 1]:
        raise PolicyError(f"lookups of {few} below 1; allowed: 1 or more")
    k = max(reads.values())
    if dim % k:
        raise PolicyError(f"dim {dim} is not a multiple of lookups {k}")
    num_rows = split_rows(params, [dim // k] * k, [1.0] * k)
    tables = tuple(Table(f"chunk{i}", r, dim // k) for i, r in enumerate(num_rows))
    features, first = [], 0
    for name in names:
        places = range(k) if reads[name] == k else range(first, first + reads[name])
        first += reads[name]
        features.append(
            Feature(
                name,
                tuple(
                    Lookup(tables[i % k].name, "hash", lookup_seed(seed, name, 0 if shared else j))
                    for j, i in enumerate(places)
                ),
            )
        )
    told = lookups if isinstance(lookups, int) else {n: reads[n] for n in names}
    origin = provenance(
        schema, "multi-size", params=params, dim=dim, lookups=told, shared=shared, seed=seed
    )
    return Policy(tables, tuple(features), provenance=origin)
