"""The laws of embedding modules, and the reference that they are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from cases import BAGS, Bags, batch
from lookup_laws import of_features, of_rows, reference_rows
from seo_rec import embed
from seo_rec.backbones import BACKBONES
from seo_rec.policy import Lookup, Policy
from spec import reference_hash, reference_mix

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
