"""Laws of crosses: ids to the bit, bags in order, and what no cross may do."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

import laws
from cases import BAGS, BUILDABLE, POLICIES, batch
from seo_rec import embed
from seo_rec.data.dataset import open_data
from seo_rec.embed.cross import Columns, cross_ids, needs_columns
from seo_rec.model import ModelSettings
from seo_rec.policy import MAX_CROSS_IDS, MISSING_ID, Feature, Lookup, Policy, Table
from seo_rec.runs import RunError
from seo_rec.train import (
    FitSettings,
    Training,
    check_policy_fits,
    eval_stream,
    evaluate,
    fit_policy,
)
from spec import cross_id

EDGES = [0, 1, 2**31, 2**62 - 2, 2**62 - 1, 2**62, 2**63 - 1]
ids = st.integers(0, 2**63 - 1) | st.sampled_from(EDGES)
CROSSED = [name for name, p in BUILDABLE.items() if any(f.is_cross for f in p.features)]


def cross_of(*columns: str) -> Policy:
    return Policy((Table("t", 50, 2),), (Feature("x", (Lookup("t"),), columns=columns),))


def kjt(bags: dict[str, list[list[int]]], weights: torch.Tensor | None = None) -> KeyedJaggedTensor:
    """A batch of these bags, row by row."""
    return KeyedJaggedTensor(
        list(bags),
        torch.tensor([i for c in bags.values() for bag in c for i in bag], dtype=torch.int64),
        weights,
        lengths=torch.tensor([len(bag) for c in bags.values() for bag in c], dtype=torch.int32),
    )


@given(st.lists(ids, min_size=2, max_size=8))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_ids_are_the_written_mix(parts):
    laws.crosses_as_written(parts)


@given(st.lists(ids, min_size=2, max_size=4))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_missing_part_makes_the_missing_id_and_nothing_else_does(parts):
    found = int(cross_ids([torch.tensor(i) for i in parts]))
    assert found == MISSING_ID if MISSING_ID in parts else found >= 2**62


bags_of_rows = st.lists(
    st.tuples(*[st.lists(ids, max_size=3)] * 3), min_size=1, max_size=5
)  # of three columns


@given(bags_of_rows, st.permutations("abc"), st.integers(2, 3), st.booleans())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_bags_are_crossed_element_by_element(rows, order, number, weighted):
    """In the order of ``itertools.product``, whatever the order of the columns in the batch."""
    bags = {c: [row[i] for row in rows] for i, c in enumerate("abc")}
    columns = list(order[:number])
    total = sum(len(bag) for c in bags.values() for bag in c)
    weights = torch.arange(1.0, total + 1) if weighted else None
    found = Columns(cross_of(*columns))(kjt(bags, weights))
    left = iter(range(1, total + 1))
    weight_of = {c: [[next(left) for _ in bag] for bag in bags[c]] for c in bags}
    wanted, factors, lengths = [], [], []
    for r in range(len(rows)):
        combined = list(itertools.product(*(bags[c][r] for c in columns)))
        wanted += [cross_id(parts) for parts in combined]
        lengths.append(len(combined))
        products = itertools.product(*(weight_of[c][r] for c in columns))
        factors += [math.prod(p) for p in products]
    assert found.values().tolist() == wanted
    assert found.lengths().tolist() == lengths
    assert (found.weights().tolist() == factors) if weighted else found.weights_or_none() is None


@pytest.mark.parametrize("policy", CROSSED)
def test_features_are_made_of_columns_as_written(policy):
    for bags, seed in itertools.product(BAGS.values(), range(3)):
        laws.makes_features_as_written(BUILDABLE[policy], bags, seed)


def test_policies_without_crosses_have_nothing_new_to_do():
    plain = [n for n, p in BUILDABLE.items() if not needs_columns(p)]
    assert set(BUILDABLE) - set(plain) == {"columns", "crosses", "crosses-of-all-kinds", "digests"}
    for name in plain:
        assert embed.PolicyEmbedding(BUILDABLE[name]).columns is None


def test_a_batch_of_no_rows():
    names = POLICIES["crosses"].columns
    none = torch.empty(0)
    features = KeyedJaggedTensor(list(names), none.long(), lengths=none.int(), stride=0)
    module = laws.built(POLICIES["crosses"])
    assert module(features).shape == (0, sum(module.policy.widths))


def test_ids_of_crosses_are_told_apart_and_spread_evenly():
    """A grid of small numbers, which differ in few bits: no two pairs alike, rows filled evenly."""
    a, b = torch.meshgrid(torch.arange(300), torch.arange(200), indexing="ij")
    found = cross_ids([a.flatten(), b.flatten()])
    assert len(found.unique()) == 60_000
    for seed, num_rows in itertools.product((0, 1, 2**62), (3, 100, 6000)):
        laws.spreads_evenly(found, seed, num_rows)
    tokens = cross_ids([2**62 + a.flatten(), 2**62 + b.flatten()])
    laws.spreads_evenly(tokens, 5, 100)
    assert len(torch.cat([found, tokens]).unique()) == 120_000


def test_order_and_number_of_columns_matter():
    """As many ids as there are different sequences of ids, orders and lengths mixed."""
    a, b, zero = torch.arange(2000), torch.arange(2000).flip(0), torch.zeros(2000).long()
    sequences: set[tuple[int, ...]] = set()
    found: set[int] = set()
    for parts in ([a, b], [b, a], [zero, a], [a, zero], [zero, zero, a], [a, zero, zero]):
        sequences |= set(zip(*(p.tolist() for p in parts), strict=True))
        found |= set(cross_ids(parts).tolist())
    assert len(found) == len(sequences) > 9_000


def test_too_many_combinations_are_refused():
    """And named exactly; as many as allowed pass, and an empty bag makes none of any number."""
    columns = Columns(cross_of("a", "b"))
    ok = {"a": [[1], list(range(16)), list(range(999))], "b": [[2], list(range(16)), []]}
    assert columns(kjt(ok)).lengths().tolist() == [1, MAX_CROSS_IDS, 0]
    bad = {"a": [[1], list(range(20))], "b": [[2], list(range(13))]}
    with pytest.raises(ValueError, match=r"'x' crosses columns \['a', 'b'\].* 20 x 13 = 260 comb"):
        columns(kjt(bad))
    with pytest.raises(ValueError, match=r"in row 1 of the batch; allowed: 256\. Cut the bags"):
        columns(kjt(bad))


def test_products_beyond_64_bits_are_refused_too():
    """Not taken for a small number that is left of them."""
    bag, names = list(range(256)), "abcdefgh"  # 256^8 = 2^64
    with pytest.raises(ValueError, match=f"= {256**8} combinations in row 0"):
        Columns(cross_of(*names))(kjt({n: [bag] for n in names}))


def test_bags_of_single_columns_may_have_any_length():
    policy = Policy(
        (Table("t", 50, 2),),
        (
            Feature("a", (Lookup("t"),)),
            Feature("x", (Lookup("t"),), columns=("b", "c")),
        ),
    )
    long = list(range(MAX_CROSS_IDS + 9))
    found = Columns(policy)(kjt({"a": [long], "b": [[1, 2]], "c": [[3]]}))
    assert found.lengths().tolist() == [len(long), 2]


def test_missing_columns_are_named():
    module = laws.built(POLICIES["crosses"])
    with pytest.raises(KeyError, match=r"lacks columns \['item'\]; it has \['user', 'hour'\]"):
        module(batch(("user", "hour"), BAGS["bags"]))


@pytest.mark.parametrize("bags", ["single-weighted", "bags-weighted"])
def test_weights_get_the_gradients_of_products(bags):
    policy = POLICIES["crosses"]
    columns = batch(policy.columns, BAGS[bags])
    leaf = columns.weights().clone().double().requires_grad_()
    given = KeyedJaggedTensor(columns.keys(), columns.values(), leaf, lengths=columns.lengths())

    def sums(weights: torch.Tensor) -> torch.Tensor:
        made = Columns(policy)(
            KeyedJaggedTensor(given.keys(), given.values(), weights, lengths=given.lengths())
        )
        return made.weights()

    assert torch.autograd.gradcheck(sums, (leaf,))


def test_a_cross_tells_apart_what_its_columns_cannot():
    """Labels that are the exclusive or of two columns are learnt by a cross alone."""
    rng = np.random.default_rng(0)
    a, b = (torch.from_numpy(rng.integers(0, 2, 400)) for _ in range(2))
    labels = (a ^ b).float()
    columns = KeyedJaggedTensor(
        ["a", "b"], torch.cat([a, b]), lengths=torch.ones(800, dtype=torch.int32)
    )
    table = Table("t", 500, 1)
    alone = [Feature(c, (Lookup("t", seed=i),)) for i, c in enumerate("ab")]
    crossed = [Feature("ab", (Lookup("t", seed=3),), columns=("a", "b"))]
    losses = []
    for features in (alone, crossed):
        module = laws.built(Policy((table,), tuple(features)))
        optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
        for _ in range(150):
            optimizer.zero_grad()
            logits = module(columns).sum(1)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[1] < 0.05 < 0.6 < losses[0]


def test_a_policy_must_account_for_the_columns_of_the_data(tiny):
    """Every column is read or dropped, by whatever feature; no feature reads any other."""
    data = open_data(tiny)
    first, second, *others = (c.name for c in data.schema.features)
    crossed = replace(cross_of(first, second), dropped=tuple(others))
    check_policy_fits(data, crossed)
    with pytest.raises(RunError, match=rf"says nothing about features \['{others[0]}'\]"):
        check_policy_fits(data, replace(crossed, dropped=tuple(others[1:])))
    unknown = replace(cross_of(first, "unheard"), dropped=(second, *others))
    with pytest.raises(RunError, match=r"reads columns \['unheard'\] that the data lacks"):
        check_policy_fits(data, unknown)


def test_a_model_with_a_cross_is_fitted_from_the_stream(tiny, tmp_path):
    """From parquet to scores: the stream is asked for columns, which are no names of features."""
    data = open_data(tiny)
    names = [c.name for c in data.schema.features]
    policy = Policy(
        (Table("t", 300, 4),),
        (
            Feature("pair", (Lookup("t", seed=1),), columns=(names[1], names[0])),
            Feature("again", (Lookup("t", seed=2),), columns=(names[0],)),
            Feature(names[2], (Lookup("t", seed=3),)),
        ),
        dropped=tuple(names[3:]),
    )
    training = Training(ModelSettings(hidden=(8,)), FitSettings(epochs=1, batch_size=64))
    found = fit_policy(data, policy, training, out=tmp_path)
    metrics, _, _ = evaluate(found.model, eval_stream(data, "test", policy.columns))
    assert 0 < metrics.auc < 1
