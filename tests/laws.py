"""The laws: what must hold for every row of ``cases.py``.

Each function states one law in its docstring and fails if the case given breaks it. The references
are written anew here, in Python's own integers or in float64, and share no code with the product.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from cases import BAGS, Bags, Method, batch
from seo_rec import apply, embed
from seo_rec.backbones import BACKBONES
from seo_rec.embed.cross import cross_ids
from seo_rec.embed.remap import hash_rows, vocabulary_rows
from seo_rec.model import ModelSettings
from seo_rec.policy import Allowance, Feature, Lookup, Policy, PolicyError, addresses
from seo_rec.policy.dtypes import quantize_rows
from seo_rec.schema import Schema
from spec import cross_id, reference_hash, reference_mix

# ---- policy --------------------------------------------------------------------------------


def round_trip(policy: Policy, folder: Path) -> None:
    """Saved and loaded it is the same policy, and saved again the same bytes."""
    policy.save(folder / "a.json")
    loaded = Policy.load(folder / "a.json")
    assert loaded == policy
    assert dict(loaded.provenance) == dict(policy.provenance)
    assert (loaded.budget, loaded.decision) == (policy.budget, policy.decision)
    assert set(loaded.vocabularies) == set(policy.vocabularies)
    for name, ids in policy.vocabularies.items():
        assert loaded.vocabularies[name].dtype == np.int64
        np.testing.assert_array_equal(loaded.vocabularies[name], ids)
    assert set(loaded.codes) == set(policy.codes)
    for name, codes in policy.codes.items():
        assert loaded.codes[name].dtype == np.int32
        np.testing.assert_array_equal(loaded.codes[name], codes)
    loaded.save(folder / "b.json")
    assert (folder / "a.json").read_bytes() == (folder / "b.json").read_bytes()


def counts_what_is_built(policy: Policy) -> None:
    """``num_params`` is the number of floats the embedding module trains, to the last one."""
    module = embed.PolicyEmbedding(policy)
    codes = sum(c.size for c in policy.codes.values())
    assert policy.num_params == codes + sum(p.numel() for p in module.parameters())
    shapes = sorted(tuple(bag.weight.shape) for bag in module.ebc.embedding_bags.values())
    assert shapes == sorted((t.num_rows, t.dim) for t in policy.tables)
    blocks = [k for f in policy.features for k in f.lookups if k.address == "blocks"]
    assert policy.num_lookups == len(module.remap.keys) + len(blocks)
    assert module.dims == policy.widths


def counts_what_is_stored(policy: Policy) -> None:
    """``num_bytes`` is the length of all that is written to serve: every row, id and code."""
    module = embed.PolicyEmbedding(policy)
    weights = {n: w.detach().numpy() for n, w in stored_weights(module).items()}
    stored = [quantize_rows(weights.pop(t.name), t.dtype) for t in policy.tables]
    stored += [quantize_rows(weights.pop(a.name)[None, :], a.dtype) for a in policy.arrays]
    stored += weights.values()  # projections, float32
    stored += [ids.astype(np.int64) for ids in policy.vocabularies.values()]
    stored += [codes.astype(np.int32) for codes in policy.codes.values()]
    assert policy.num_bytes == sum(part.nbytes for part in stored)
    if {x.dtype for x in (*policy.tables, *policy.arrays)} == {"float32"}:
        ids = sum(len(v) for v in policy.vocabularies.values())
        assert policy.num_bytes == 4 * policy.num_params + 8 * ids


# ---- methods -------------------------------------------------------------------------------


def affordable(method: Method, schema: Schema, params: int, seed: int = 0) -> Policy:
    """The policy at ``params``, or at the smallest budget that the method says it needs."""
    try:
        return method.make(schema, params, seed)
    except PolicyError as error:
        smallest = int(str(error).rsplit(maxsplit=1)[1])
    assert smallest > params
    return method.make(schema, smallest, seed)


def serves_every_column(method: Method, schema: Schema) -> None:
    """Every feature of the data set is served or named as dropped, once and in order."""
    policy = affordable(method, schema, 10_007)
    served = [f.name for f in policy.features]
    assert sorted([*served, *policy.dropped]) == sorted(c.name for c in schema.features)
    assert served == [c.name for c in schema.features if c.name in served]


def fills_the_budget(method: Method, schema: Schema, params: int) -> None:
    """Never a float above the budget, and less than one row of any table below it."""
    policy = affordable(method, schema, params)
    if policy.num_params > params:  # the smallest there is
        return
    assert 0 <= params - policy.num_params < min((t.dim for t in policy.tables), default=1)


def names_the_smallest_budget(method: Method, schema: Schema) -> None:
    """A budget that is too small is refused with the smallest feasible one, which works."""
    try:
        method.make(schema, 0, 0)
    except PolicyError as error:
        smallest = int(str(error).rsplit(maxsplit=1)[1])
    else:
        raise AssertionError("a budget of nothing was accepted")
    policy = method.make(schema, smallest, 0)
    assert policy.num_params == smallest
    assert {t.num_rows for t in policy.tables} <= {1} or not method.one_row
    try:
        method.make(schema, smallest - 1, 0)
    except PolicyError:
        return
    raise AssertionError(f"a budget of {smallest - 1} was accepted")


def is_deterministic(method: Method, schema: Schema, folder: Path) -> None:
    """The same arguments give the same bytes."""
    for name in ("a.json", "b.json"):
        affordable(method, schema, 10_007, 3).save(folder / name)
    assert (folder / "a.json").read_bytes() == (folder / "b.json").read_bytes()


def seeds_follow_the_seed(method: Method, schema: Schema) -> None:
    """Another seed gives other hash functions; no two features hash alike."""
    seeds = []
    for seed in (0, 1):
        policy = method.make(schema, 10_007, seed)
        by_feature = [{k.seed for k in f.all_lookups} for f in policy.features]
        assert sum(len(s) for s in by_feature) == len(set().union(*by_feature))
        seeds.append(set().union(*by_feature))
    assert not seeds[0] & seeds[1]


def affordable_in_bytes(
    method: Method, schema: Schema, num_bytes: int, precision: str
) -> tuple[Policy, int]:
    """The policy at so many bytes or at the smallest budget that works, and that budget."""
    try:
        return method.make(schema, Allowance(num_bytes, "bytes", precision), 0), num_bytes
    except PolicyError as error:
        smallest = int(str(error).rsplit(maxsplit=1)[1])
    assert smallest > num_bytes
    return method.make(schema, Allowance(smallest, "bytes", precision), 0), smallest


def bytes_of_a_row(dim: int, precision: str) -> int:
    """Bytes of a stored row, written anew from ``docs/policy-format.md``."""
    bits = {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, "int4": 4}[precision]
    return math.ceil(bits * dim / 8) + (4 if bits <= 8 else 0)


def fills_the_bytes(method: Method, schema: Schema, num_bytes: int, precision: str) -> None:
    """Never a byte above the budget, and less than one stored row of any table below it.

    Everything is stored in the precision. A flat array leaves less than two bytes per float.
    """
    policy, budget = affordable_in_bytes(method, schema, num_bytes, precision)
    assert {x.dtype for x in (*policy.tables, *policy.arrays)} == {precision}
    step = min((bytes_of_a_row(t.dim, precision) for t in policy.tables), default=4)
    assert 0 <= budget - policy.num_bytes < step, (budget, policy.num_bytes)


def bytes_are_allotted_as_floats(method: Method, schema: Schema, precision: str) -> None:
    """Tables have the same shares of the rows in bytes as in floats, within one row.

    The floats are the ones that the policy in bytes holds, so both have equally many.
    """
    in_bytes, _ = affordable_in_bytes(method, schema, 10**6, precision)
    in_floats = method.make(schema, in_bytes.num_params, 0)
    for a, b in zip(in_bytes.tables, in_floats.tables, strict=True):
        assert (a.name, a.dim) == (b.name, b.dim)
        assert abs(a.num_rows - b.num_rows) <= 2, (a, b)


# ---- split_rows ----------------------------------------------------------------------------


def splits_fairly(budget: int, dims: Sequence[int], weights: Sequence[float], rows: list[int]):
    """Every table has a row, the budget is filled, and rows follow the weights.

    Where every table's share is worth a row, each gets its share within one row of the widest
    table. Otherwise the ratio of rows to weight of any two tables with more than one row, and of
    one width, is the same within one row.
    """
    floats = [r * d for r, d in zip(rows, dims, strict=True)]
    assert min(rows) >= 1
    assert 0 <= budget - sum(floats) < min(dims)
    shares = [budget * w / sum(weights) for w in weights]
    if all(s >= d for s, d in zip(shares, dims, strict=True)):
        for got, share in zip(floats, shares, strict=True):
            assert abs(got - share) <= max(dims) + 1e-6 * share, (got, share)
    if len(set(dims)) == 1:
        for i, j in np.ndindex(len(rows), len(rows)):
            if rows[i] > 1 and weights[i] > 0:
                assert rows[j] + 1 >= (rows[i] - 1) * weights[j] / weights[i] - 1e-6, (i, j)


# ---- apply ---------------------------------------------------------------------------------


def keeps_what_was_chosen(searched: Policy, applied: Policy) -> None:
    """Features, their number of chunks, widths and seeds are those of the search."""
    assert applied.dropped == searched.dropped
    assert applied.widths == searched.widths
    for before, after in zip(searched.features, applied.features, strict=True):
        assert (before.name, before.combine) == (after.name, after.combine)
        assert [k.seed for k in before.lookups] == [k.seed for k in after.lookups]


def balances_slots(policy: Policy) -> None:
    """No feature reads a slot twice; the slots' numbers of readers differ by at most one."""
    load = {t.name: 0 for t in policy.tables}
    for f in policy.features:
        assert len({k.table for k in f.lookups}) == len(f.lookups)
        for k in f.lookups:
            load[k.table] += 1
    assert max(load.values()) - min(load.values()) <= 1
    rows = [t.num_rows for t in policy.tables]
    assert max(rows) - min(rows) <= 1


def applying_twice_changes_nothing(searched: Policy, strategy: str, params: int) -> None:
    """An applied policy, applied again at the same budget, is itself."""
    once = apply.STRATEGIES[strategy](searched, params)
    assert apply.STRATEGIES[strategy](once, params) == once


# ---- Theorem 1 of SEO ----------------------------------------------------------------------


def cut_by_columns(monolithic: Policy, trivial: Policy) -> tuple[nn.Module, nn.Module]:
    """A monolithic embedding and a trivial one that holds its table cut into chunks."""
    whole, chunks = built(monolithic), built(trivial)
    (W,) = table_weights(whole)
    with torch.no_grad():
        for bag, columns in zip(
            chunks.ebc.embedding_bags.values(),
            W.split([t.dim for t in trivial.tables], dim=1),
            strict=True,
        ):
            bag.weight.copy_(columns)
    return whole, chunks


def monolithic_is_a_trivial_policy(monolithic: Policy, trivial: Policy, bags: Bags) -> None:
    """Theorem 1, inclusion: for any weights of the monolithic model there are weights of the
    trivial policy, its columns, that compute the same embeddings and logits to the bit.
    """
    assert monolithic.num_params == trivial.num_params
    assert monolithic.widths == trivial.widths
    whole, chunks = cut_by_columns(monolithic, trivial)
    features = batch(tuple(f.name for f in monolithic.features), bags)
    x_BE = whole(features)
    assert torch.equal(chunks(features), x_BE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        backbone = BACKBONES["mlp"](2, monolithic.widths, (16, 8), 0.0)
    dense_BN = torch.ones(features.stride(), 2)
    assert torch.equal(backbone(dense_BN, chunks(features)), backbone(dense_BN, x_BE))


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


# ---- embedding -----------------------------------------------------------------------------


def built(policy: Policy) -> embed.PolicyEmbedding:
    """The module of ``policy`` with weights that differ everywhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return embed.PolicyEmbedding(policy, init_scale=1.0)


def reference_embedding(
    policy: Policy, features: KeyedJaggedTensor, weights: dict[str, torch.Tensor]
) -> torch.Tensor:
    """``x_BE`` id by id, from the definition, in the dtype of ``weights``.

    Args:
        weights: by the name of the table or array; of a feature's projection by ``("project",
            feature)``.
    """
    dtype = next(iter(weights.values())).dtype
    parts = []
    for f in policy.features:
        bag = features[f.name]
        ids = bag.values().tolist()
        vectors = [reference_vectors(policy, k, f.name, ids, weights) for k in f.lookups]
        if f.combine == "concat":
            combined = torch.cat(vectors, dim=1)
        elif f.combine == "mul":
            combined = torch.stack(vectors).prod(dim=0)
        else:
            factors = torch.ones(len(ids), len(vectors), dtype=dtype)
            if f.weights is not None:
                factors = reference_vectors(policy, f.weights, f.name, ids, weights)
            combined = sum(v * factors[:, [j]] for j, v in enumerate(vectors))
        if bag.weights_or_none() is not None:
            combined = combined * bag.weights().to(dtype)[:, None]
        lengths = bag.lengths().tolist()
        x = torch.stack([piece.sum(0) for piece in combined.split(lengths)])
        parts.append(x if f.project is None else x @ weights["project", f.name].T)
    return torch.cat(parts, dim=1)


def reference_vectors(
    policy: Policy,
    lookup: Lookup,
    feature: str,
    ids: Sequence[int],
    weights: dict[str, torch.Tensor],
) -> torch.Tensor:
    """The vector that ``lookup`` gives each id, one per line."""
    if lookup.address == "blocks":
        array = weights[lookup.table]
        places = torch.tensor([reference_floats(lookup, len(array), i) for i in ids]).long()
        return array[places.view(-1, lookup.width)]
    rows = reference_rows(policy, lookup, feature, ids)
    return weights[lookup.table][torch.tensor(rows, dtype=torch.int64)]


def reference_floats(lookup: Lookup, size: int, value: int) -> list[int]:
    """The places in the array of every float of an id's vector."""
    found = []
    for i in range(lookup.width):
        j, s = divmod(i, lookup.block)
        seed = reference_mix(lookup.seed ^ j) % 2**63
        found.append(reference_hash(value, seed, size - lookup.block + 1) + s)
    return found


def stored_weights(
    module: embed.PolicyEmbedding, gradients: bool = False
) -> dict[str, torch.Tensor]:
    """What a module trains, by name as :func:`reference_embedding` wants it; or its gradients."""

    def of(parameter: nn.Parameter) -> torch.Tensor:
        if gradients:
            assert parameter.grad is not None
        return parameter.grad if gradients else parameter

    policy = module.policy
    weights = map(of, table_weights(module))
    found = dict(zip((t.name for t in policy.tables), weights, strict=True))
    if policy.arrays:
        parts = of(module.flat.weight).view(-1).split([a.size for a in policy.arrays])
        found |= {a.name: part for a, part in zip(policy.arrays, parts, strict=True)}
    for f in policy.features:
        if f.project is not None:
            found["project", f.name] = of(module.project.linear[embed.table_key(f.name)].weight)
    return found


def table_weights(module: embed.PolicyEmbedding) -> list[torch.Tensor]:
    """The weights in the order of the policy's tables, found by the order of the collection."""
    return [bag.weight for bag in module.ebc.embedding_bags.values()]


def equals_the_reference(policy: Policy, bags: Bags) -> None:
    """Forward and every table's gradient are those of ``embedding_bag`` in float64."""
    module = built(policy)
    columns = batch(policy.columns, bags)
    features = of_features(policy, columns)
    weights = stored_weights(module)
    doubles = {name: w.detach().double().requires_grad_() for name, w in weights.items()}
    x_BE = module(columns)
    wanted = reference_embedding(policy, features, doubles)
    assert x_BE.dtype == torch.float32
    assert x_BE.shape == (features.stride(), sum(policy.widths))
    torch.testing.assert_close(x_BE.double(), wanted, rtol=1e-5, atol=1e-5)
    upstream = torch.randn(x_BE.shape, generator=torch.Generator().manual_seed(2))
    x_BE.backward(upstream)
    wanted.backward(upstream.double())
    gradients = stored_weights(module, gradients=True)
    for name, double in doubles.items():
        torch.testing.assert_close(gradients[name].double(), double.grad, rtol=1e-5, atol=1e-5)


def equals_torchrec(policy: Policy, bags: Bags) -> None:
    """Our one call computes what TorchRec's own collection computes from the same lookups."""
    module = built(policy)
    assert type(module.ebc) is EmbeddingBagCollection
    columns = batch(policy.columns, bags)
    features = of_features(policy, columns)
    if not policy.tables:
        return
    pooled = module.ebc(module.remap(features))
    lookups_VE = torch.cat([pooled[key] for key in module.remap.keys], dim=1)
    blocks_BE = None if module.flat is None else module.flat(features)
    theirs = lookups_VE
    if module.combine is not None:
        theirs = module.combine(lookups_VE, blocks_BE, features)
    theirs = theirs if module.project is None else module.project(theirs)
    ours = module(columns)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2))
    weights = table_weights(module)
    for got, wanted in zip(
        torch.autograd.grad(ours, weights, upstream),
        torch.autograd.grad(theirs, weights, upstream),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def rows(features: KeyedJaggedTensor, order: Sequence[int]) -> KeyedJaggedTensor:
    """The batch with its rows in another order (or fewer, or repeated)."""
    values, lengths, weights = [], [], []
    for key in features.keys():
        bag = features[key]
        starts = [0, *bag.lengths().cumsum(0).tolist()]
        for b in order:
            values.append(bag.values()[starts[b] : starts[b + 1]])
            lengths.append(starts[b + 1] - starts[b])
            if bag.weights_or_none() is not None:
                weights.append(bag.weights()[starts[b] : starts[b + 1]])
    return KeyedJaggedTensor(
        keys=features.keys(),
        values=torch.cat(values),
        lengths=torch.tensor(lengths, dtype=torch.int32),
        weights=torch.cat(weights) if weights else None,
    )


def permuting_the_batch_permutes_rows(policy: Policy, bags: Bags) -> None:
    """``x[order] = forward(batch[order])``, also when rows repeat or go away.

    Bit for bit but for matrix products, whose order of summation depends on the number of rows.
    """
    tolerance = 1e-6 if any(f.project for f in policy.features) else 0.0
    module = built(policy)
    features = batch(policy.columns, bags)
    x_BE = module(features)
    for order in ([8, 7, 6, 5, 4, 3, 2, 1, 0], [4], [1, 1, 5, 0, 8, 3, 3]):
        torch.testing.assert_close(
            module(rows(features, order)), x_BE[order], rtol=tolerance, atol=tolerance
        )


def empty_bag_gives_zeros(policy: Policy) -> None:
    """Where a bag is empty the feature's slice is zero; elsewhere it is not."""
    columns = batch(policy.columns, BAGS["optional"])
    features = of_features(policy, columns)
    parts = built(policy)(columns).split(policy.widths, dim=1)
    for f, part in zip(policy.features, parts, strict=True):
        empty = features[f.name].lengths() == 0
        assert not part[empty].any()
        assert part[~empty].abs().sum(1).gt(0).all()


def ids_move_only_their_slice(policy: Policy, bags: Bags) -> None:
    """Other ids in one column change no slice but those of the features that read it, in no row."""
    names = policy.columns
    module = built(policy)
    for i, name in enumerate(names):
        before = batch(names, bags)
        other = before.values().clone()
        a, b = before.offset_per_key()[i : i + 2]
        other[a:b] = torch.arange(100, 100 + b - a)
        after = KeyedJaggedTensor(
            list(names), other, before.weights_or_none(), lengths=before.lengths()
        )
        parts = module(before).split(policy.widths, 1)
        moved = module(after).split(policy.widths, 1)
        for f, x, y in zip(policy.features, parts, moved, strict=True):
            assert name in f.columns or torch.equal(x, y), (name, f.name)


def every_table_gets_gradient(policy: Policy) -> None:
    """A batch with ids for every feature moves every table, and only rows it read."""
    module = built(policy)
    columns = batch(policy.columns, BAGS["bags"], rows=40)
    features = of_features(policy, columns)
    module(columns).sum().backward()
    for t, w in zip(policy.tables, table_weights(module), strict=True):
        read = {
            row
            for f, _, k in of_rows(policy)
            if k.table == t.name
            for row in reference_rows(policy, k, f.name, features[f.name].values().tolist())
        }
        assert set(w.grad.abs().sum(1).nonzero().flatten().tolist()) == read, t
    for a in policy.arrays:
        read = {
            place
            for f in policy.features
            for k in f.lookups
            if k.table == a.name
            for value in features[f.name].values().tolist()
            for place in reference_floats(k, a.size, value)
        }
        grad = stored_weights(module, gradients=True)[a.name]
        assert set(grad.nonzero().flatten().tolist()) == read, a


def key_order_does_not_matter(policy: Policy, bags: Bags) -> None:
    """Columns in another order, or among others, give the same ``x_BE``."""
    names = policy.columns
    module = built(policy)
    features = batch(names, bags)
    more = batch(("other",), bags, seed=7)
    order = [*reversed(names), "other"]
    parts = [(more if n == "other" else features)[n] for n in order]
    shuffled = KeyedJaggedTensor(
        keys=order,
        values=torch.cat([p.values() for p in parts]),
        lengths=torch.cat([p.lengths() for p in parts]).to(torch.int32),
        weights=torch.cat([p.weights() for p in parts]) if bags.weighted else None,
    )
    assert torch.equal(module(shuffled), module(features))


# ---- backbones -----------------------------------------------------------------------------

DIMS = (3, 1, 4)


def backbone(
    make: Callable[..., nn.Module], settings: ModelSettings, num_dense: int
) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """The backbone and inputs for it, all from a fixed seed; inputs need no random generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        own = () if settings.interaction is None else (settings.interaction,)
        module = make(num_dense, DIMS, settings.hidden, settings.dropout, *own)
    steps = torch.arange(6.0)[:, None]
    dense_BN = torch.cos(steps + torch.arange(num_dense))
    x_BE = torch.sin(steps * 3 + torch.arange(float(sum(DIMS))))
    return module, dense_BN, x_BE


def rows_never_mix(make: Callable[..., nn.Module], settings: ModelSettings, num_dense: int):
    """Permuting the batch permutes the logits; a row alone has the logit it has among others."""
    module, dense_BN, x_BE = backbone(make, settings, num_dense)
    module.eval()
    logits_B = module(dense_BN, x_BE)
    assert logits_B.shape == (6,)
    for order in ([5, 4, 3, 2, 1, 0], [2], [0, 0, 3]):
        torch.testing.assert_close(module(dense_BN[order], x_BE[order]), logits_B[order])


def every_parameter_gets_gradient(
    make: Callable[..., nn.Module], settings: ModelSettings, num_dense: int
) -> None:
    """Every parameter, and every input column, moves the logits."""
    module, dense_BN, x_BE = backbone(make, settings, num_dense)
    module.eval()
    dense_BN.requires_grad_()
    x_BE.requires_grad_()
    (module(dense_BN, x_BE) * torch.arange(1.0, 7.0)).sum().backward()
    for name, p in module.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name
    for column in (*(dense_BN.grad.unbind(1) if num_dense else ()), *x_BE.grad.unbind(1)):
        assert column.abs().sum() > 0
