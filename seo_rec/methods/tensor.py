"""Products of a few small tables, mapped to the width: a table of ids that is never stored."""

from __future__ import annotations

from seo_rec.methods.published import Vocabularies
from seo_rec.methods.sharing import PER_FEATURE, Division, Sharing
from seo_rec.policy import Allowance, Feature, Lookup, Policy, PolicyError, Table, allowance_of
from seo_rec.schema import Schema


def tensor(
    schema: Schema,
    params: int | Allowance,
    dim: int,
    *,
    components: int = 3,
    rank: int = 0,
    sharing: Sharing = PER_FEATURE,
    vocabularies: Vocabularies | None = None,
    seed: int = 0,
) -> Policy:
    """``x_f = W_f (G_f1[h_f1(id)] * ... * G_fk[h_fk(id)])``, the product element by element.

    The table of all ids, ``E[i_1, ..., i_k, d] = sum_r G_1[i_1, r] ... G_k[i_k, r] W[d, r]``, is a
    tensor in canonical polyadic form. That is the tensor train of "TT-Rec: Tensor Train Compression
    for Deep Learning Recommendation Models" (Yin et al., 2021) with diagonal inner cores, and with
    hashes in place of the digits of an index, so that no ids are stored. Two ids are told apart
    unless all k hashes agree.

    Args:
        schema: The data set.
        params: The budget in floats, or an allowance in bytes with the type of rows.
        dim: Width of a feature's embedding, floats.
        components: k, 2 or more.
        rank: Width of the small tables, floats; 0 takes ``dim``.
        sharing: Who shares the small tables, and which features stay exact. Every feature has a
            map of its own.
        vocabularies: Sorted training ids of the exact features.
        seed: Salt of the hash functions.

    Raises:
        PolicyError: The budget is too small, or ``components`` or ``rank`` is out of range.
    """
    if components < 2:
        raise PolicyError(f"components={components}; allowed: 2 or more")
    if not 0 <= rank <= 65536:
        raise PolicyError(f"rank={rank}; allowed: 1 to 65536, or 0 for dim {dim}")
    division, width = Division(schema, dim, sharing, vocabularies), rank or dim
    served = sum(len(g.columns) for g in division.groups)
    maps = allowance_of(params).projection(served * width * dim)
    parts = [(f"{g.name}:{j}", g) for g in division.groups for j in range(components)]
    weights = [float(g.weight) for _, g in parts]
    rows = division.rows(params, [width] * len(parts), weights, besides=maps)
    tables = [Table(name, n, width) for (name, _), n in zip(parts, rows, strict=True)]
    features = [
        Feature(
            c.name,
            tuple(
                Lookup(f"{g.name}:{j}", "hash", division.seed(c, seed, j))
                for j in range(components)
            ),
            "mul",
            project=dim,
        )
        for g in division.groups
        for c in g.columns
    ]
    arguments = {
        "params": params,
        "dim": dim,
        "components": components,
        "rank": width,
        "seed": seed,
    }
    return division.policy(division.form("tensor"), arguments, tables, features)
