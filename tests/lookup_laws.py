"""The laws of features and lookups: crosses, hashes, and the rows that an id reads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from cases import Bags, batch
from seo_rec import embed
from seo_rec.embed.cross import cross_ids
from seo_rec.embed.remap import hash_rows, vocabulary_rows
from seo_rec.policy import Feature, Lookup, Policy, addresses
from spec import cross_id, digest, reference_hash, reference_mix

# ---- columns -------------------------------------------------------------------------------


def of_features(policy: Policy, columns: KeyedJaggedTensor) -> KeyedJaggedTensor:
    """What the policy's features read, row by row: a product of the bags of their columns."""
    bags = {c: python_bags(columns, c) for c in policy.columns}
    weighted = columns.weights_or_none() is not None
    lengths, ids, weights = [], [], []
    for f in policy.features:
        for of_row in zip(*(bags[c] for c in f.columns), strict=True):
            combined = list(itertools.product(*of_row))
            lengths.append(len(combined))
            for parts in combined:
                of_ids = [i for i, _ in parts]
                ids.append(of_ids[0] if len(parts) == 1 else cross_id(of_ids))
                weights.append(math.prod(w for _, w in parts))
    return KeyedJaggedTensor(
        [f.name for f in policy.features],
        torch.tensor(ids, dtype=torch.int64),
        torch.tensor(weights) if weighted else None,
        lengths=torch.tensor(lengths, dtype=torch.int32),
    )


def python_bags(columns: KeyedJaggedTensor, name: str) -> list[list[tuple[int, float]]]:
    """Ids and weights of every bag of a column; weights of 1 where the batch has none."""
    bag = columns[name]
    weights = bag.weights_or_none()
    ids = bag.values().tolist()
    pairs = list(zip(ids, [1.0] * len(ids) if weights is None else weights.tolist(), strict=True))
    ends = np.cumsum([0, *bag.lengths().tolist()])
    return [pairs[a:b] for a, b in itertools.pairwise(ends)]


def crosses_as_written(ids: Sequence[int]) -> None:
    """``cross_ids`` is the written mix, bit by bit, and leaves its parts alone."""
    parts = [torch.tensor([i, 0]) for i in ids]
    assert cross_ids(parts).tolist() == [cross_id(ids), cross_id([0] * len(ids))]
    assert [p.tolist() for p in parts] == [[i, 0] for i in ids]


def makes_features_as_written(policy: Policy, bags: Bags, seed: int = 0) -> None:
    """Ids, lengths and weights of every feature are those of the slow definition."""
    columns = batch(policy.columns, bags, seed=seed)
    module = embed.PolicyEmbedding(policy)
    if all(f.columns == (f.name,) for f in policy.features):
        assert module.columns is None
        return
    found, wanted = module.columns(columns), of_features(policy, columns)
    assert found.keys() == wanted.keys()
    assert found.stride() == columns.stride()
    assert found.lengths().dtype == columns.lengths().dtype
    assert found.values().tolist() == wanted.values().tolist()
    assert found.lengths().tolist() == wanted.lengths().tolist()
    if bags.weighted:
        torch.testing.assert_close(found.weights(), wanted.weights())
    else:
        assert found.weights_or_none() is None


# ---- remap ---------------------------------------------------------------------------------


def hashes_as_written(seed: int, num_rows: int, ids: Sequence[int]) -> None:
    """``hash_rows`` is the written formula, bit by bit, for numbers and for tensors."""
    wanted = [reference_hash(i, seed, num_rows) for i in ids]
    values = torch.tensor(ids)
    assert hash_rows(values, seed, num_rows).tolist() == wanted
    seeds, rows = torch.full_like(values, seed), torch.full_like(values, num_rows)
    assert hash_rows(values, seeds, rows).tolist() == wanted
    assert values.tolist() == list(ids), "the ids were changed in place"
    assert all(0 <= w < num_rows for w in wanted)


def spreads_evenly(ids: torch.Tensor, seed: int, num_rows: int) -> None:
    """Distinct ids fill the rows like balls thrown at random: chi square within five sigma."""
    rows = hash_rows(ids, seed, num_rows)
    assert int(rows.min()) >= 0
    assert int(rows.max()) < num_rows
    cells = min(num_rows, 1000)
    cell = rows * cells // num_rows
    edges = (np.arange(cells + 1) * num_rows + cells - 1) // cells  # rows of cell c: [e_c, e_c+1)
    expected = np.diff(edges) / num_rows * ids.numel()
    counts = np.bincount(cell.numpy(), minlength=cells)
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_square - (cells - 1)) <= 5 * math.sqrt(2 * (cells - 1)) + 1e-9, chi_square


def collides_afresh(ids: torch.Tensor, seed: int, other: int, num_rows: int) -> None:
    """Ids that share a row under one seed share one under another as rarely as any two ids."""
    first, second = hash_rows(ids, seed, num_rows), hash_rows(ids, other, num_rows)

    def pairs(groups: torch.Tensor) -> int:
        counts = torch.bincount(groups)
        return int((counts * (counts - 1) // 2).sum())

    together, both = pairs(first), pairs(first * num_rows + second)
    expected = together / num_rows
    assert abs(both - expected) <= 5 * math.sqrt(expected), (both, expected)


def reference_rows(policy: Policy, lookup: Lookup, feature: str, ids: Sequence[int]) -> list[int]:
    """Rows of a lookup in Python: the formula of the hash, or a search from the front."""
    bits = next(f.id_bits for f in policy.features if f.name == feature)
    hashes = lookup.address == "hash" or (lookup.address == "codes" and lookup.modulus > 0)
    if bits == 32 and not hashes:
        ids = [digest(i) for i in ids]
    num_rows = next(t.num_rows for t in policy.tables if t.name == lookup.table)

    def index(i: int) -> int:
        known = policy.vocabularies[feature].tolist()
        return known.index(i) + 1 if i in known else 0

    def row(i: int) -> int:
        if lookup.address == "hash":
            return reference_hash(i, lookup.seed, num_rows)
        if lookup.address == "codes":
            base = reference_hash(i, lookup.seed, lookup.modulus) if lookup.modulus else index(i)
            return int(policy.codes[lookup.codes][base])
        if lookup.address == "id":
            u, known = lookup.unknown_rows, index(i)
            return u + known - 1 if known else reference_hash(i, lookup.seed, u)
        if lookup.address == "remainder":
            return index(i) % lookup.modulus
        assert lookup.address == "quotient"
        return index(i) // lookup.modulus % num_rows

    return [row(i) for i in ids]


def rows_in_numpy_as_written(policy: Policy, ids: Sequence[int]) -> None:
    """Rows and blocks without torch, of ids in and outside the vocabularies."""
    ids_V = np.array(ids, dtype=np.int64)
    for f in policy.features:
        for k in f.all_lookups:
            if k.address != "blocks":
                got = addresses.lookup_rows(policy, f, k, ids_V)
                assert got.dtype == np.int64
                assert got.tolist() == reference_rows(policy, k, f.name, ids)
                continue
            seeds = [reference_mix(j ^ k.seed) % 2**63 for j in range(-(-k.width // k.block))]
            assert addresses.block_seeds(k) == seeds
            places = policy.array(k.table).size - k.block + 1
            for seed in seeds:
                wanted = [reference_hash(i, seed, places) for i in ids]
                assert addresses.hash_rows(ids_V, seed, places).tolist() == wanted


def keys_of(feature: Feature) -> list[tuple[str, Lookup]]:
    """The keys under which a feature's lookups reach the tables, importance weights last."""
    keys = [(f"{feature.name}:{j}", k) for j, k in enumerate(feature.lookups)]
    return keys + (
        [] if feature.weights is None else [(f"{feature.name}:weights", feature.weights)]
    )


def of_rows(policy: Policy) -> list[tuple[Feature, str, Lookup]]:
    """Every lookup of a table, with its feature and key, in order."""
    return [(f, key, k) for f in policy.features for key, k in keys_of(f) if k.address != "blocks"]


def combines_ids(feature: Feature) -> bool:
    """Whether the order of combining lookups and summing ids makes a difference."""
    one = len(feature.lookups) == 1
    return feature.combine == "weighted_sum" or (feature.combine == "mul" and not one)


def remaps_as_written(policy: Policy, bags: Bags) -> None:
    """One key per lookup in the policy's order, with the bags and weights of its feature."""
    if not policy.tables:
        return
    features = of_features(policy, batch(policy.columns, bags))
    lookups = embed.PolicyEmbedding(policy).remap(features)
    assert lookups.keys() == [key for _, key, _ in of_rows(policy)]
    per_id = [f.name for f in policy.features if combines_ids(f)]
    split = any(features[name].lengths().max() > 1 for name in per_id)
    padded = max([features.stride(), *(features[n].values().numel() for n in per_id if split)])
    for f, key, k in of_rows(policy):
        bag, got = features[f.name], lookups[key]
        wanted = reference_rows(policy, k, f.name, bag.values().tolist())
        assert got.values().tolist() == wanted
        lengths = [1] * len(wanted) if split and f.name in per_id else bag.lengths().tolist()
        assert got.lengths().tolist() == lengths + [0] * (padded - len(lengths))
        if not bags.weighted:
            assert got.weights_or_none() is None
        elif f.name in per_id:  # their weights wait for what the lookups are combined into
            assert got.weights().tolist() == [1.0] * len(wanted)
        else:
            assert got.weights().tolist() == bag.weights().tolist()


def fast_path_equals_general_path(policy: Policy, bags: Bags) -> None:
    """``_single`` and ``_bags`` give one answer where both apply."""
    if not policy.tables:
        return
    features = of_features(policy, batch(policy.columns, bags))
    remap = embed.PolicyEmbedding(policy).remap
    fast, general = remap(features), remap._bags(features, False, features.stride())
    single = remap._single(features.values().view(len(policy.features), -1))
    assert torch.equal(single.view(-1), general.values())
    assert torch.equal(fast.values(), general.values())
    assert torch.equal(fast.lengths(), general.lengths())
    assert fast.keys() == general.keys()
    if bags.weighted:
        assert torch.equal(fast.weights(), general.weights())


def numbers_the_vocabulary(vocabulary: Sequence[int], ids: Sequence[int]) -> None:
    """1 + rank for the ids of the vocabulary, 0 for all others."""
    wanted = [vocabulary.index(i) + 1 if i in vocabulary else 0 for i in ids]
    known = torch.tensor(vocabulary, dtype=torch.int64)
    assert vocabulary_rows(torch.tensor(ids, dtype=torch.int64), known).tolist() == wanted
