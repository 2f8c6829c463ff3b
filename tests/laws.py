"""The laws: what must hold for every row of ``cases.py``.

Each function states one law in its docstring and fails if the case given breaks it. The references
are written anew here, in Python's own integers or in float64, and share no code with the product.
The laws of lookups and of embeddings stand in files of their own and are reached from here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cases import Method
from embedding_laws import *  # noqa: F403
from embedding_laws import stored_weights
from lookup_laws import *  # noqa: F403
from seo_rec import apply, embed
from seo_rec.model import ModelSettings
from seo_rec.policy import Allowance, Policy, PolicyError
from seo_rec.policy.dtypes import quantize_rows
from seo_rec.schema import Schema

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
    bits = {f.name: f.id_bits for f in policy.features}
    kinds = {64: np.int64, 32: np.uint32}
    stored += [ids.astype(kinds[bits[n]]) for n, ids in policy.vocabularies.items()]
    stored += [codes.astype(np.int32) for codes in policy.codes.values()]
    assert policy.num_bytes == sum(part.nbytes for part in stored)
    if {x.dtype for x in (*policy.tables, *policy.arrays)} == {"float32"}:
        ids = sum(len(v) * bits[n] // 8 for n, v in policy.vocabularies.items())
        assert policy.num_bytes == 4 * policy.num_params + ids


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
