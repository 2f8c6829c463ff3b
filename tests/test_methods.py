"""Laws of the published methods, and of how a budget becomes rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import laws
from cases import METHODS, SCHEMAS, vocabularies
from seo_rec import embed, methods
from seo_rec.embed.remap import addressed_rows
from seo_rec.methods import PlainSettings, find_method
from seo_rec.methods.published import digits, smallest_digits
from seo_rec.policy import DTYPES, Feature, Lookup, Policy, PolicyError, Table, split_rows

schemas = pytest.mark.parametrize("schema", SCHEMAS)
all_methods = pytest.mark.parametrize("method", METHODS)
exact_methods = pytest.mark.parametrize("method", [n for n, m in METHODS.items() if m.exact])
seeded_methods = pytest.mark.parametrize("method", [n for n, m in METHODS.items() if m.seeded])


@all_methods
@schemas
def test_every_column_is_served_or_dropped(method, schema):
    laws.serves_every_column(METHODS[method], SCHEMAS[schema])


@exact_methods
@schemas
def test_the_budget_is_filled(method, schema):
    for params in (400, 401, 407, 1_000, 10_007, 9_999_991):
        laws.fills_the_budget(METHODS[method], SCHEMAS[schema], params)


@exact_methods
@schemas
def test_the_smallest_budget_is_named(method, schema):
    laws.names_the_smallest_budget(METHODS[method], SCHEMAS[schema])


# Every exact method on every schema, and each of both with every type of rows, in turn.
TYPED = [
    (method, schema, DTYPES[(i + j) % len(DTYPES)])
    for i, method in enumerate(name for name, m in METHODS.items() if m.exact)
    for j, schema in enumerate(SCHEMAS)
]


@pytest.mark.parametrize("method, schema, precision", TYPED)
def test_a_budget_in_bytes_is_filled(method, schema, precision):
    for num_bytes in (1, 1_601, 10_007, 999_991):
        laws.fills_the_bytes(METHODS[method], SCHEMAS[schema], num_bytes, precision)


@exact_methods
@pytest.mark.parametrize("precision", DTYPES)
def test_bytes_are_allotted_as_floats(method, precision):
    laws.bytes_are_allotted_as_floats(METHODS[method], SCHEMAS["three"], precision)


@all_methods
@schemas
def test_methods_are_deterministic(method, schema, tmp_path):
    laws.is_deterministic(METHODS[method], SCHEMAS[schema], tmp_path)


@seeded_methods
@schemas
def test_seeds_follow_the_seed(method, schema):
    laws.seeds_follow_the_seed(METHODS[method], SCHEMAS[schema])


@schemas
def test_separate_is_even(schema):
    rows = [t.num_rows for t in methods.separate(SCHEMAS[schema], 10_007, 8).tables]
    assert max(rows) - min(rows) <= 1


def test_separate_follows_the_cardinality():
    tables = methods.separate(SCHEMAS["three"], 8 * 464, 8, rows="cardinality").tables
    assert [t.num_rows for t in tables] == [40, 400, 24]
    with pytest.raises(PolicyError, match=r"rows='odd'; allowed: even, cardinality"):
        methods.separate(SCHEMAS["three"], 1000, 8, rows="odd")


def test_multi_size_divides_the_width():
    policy = methods.multi_size(SCHEMAS["three"], 800, 8, lookups=4)
    assert [(t.num_rows, t.dim) for t in policy.tables] == [(100, 2)] * 4
    assert policy.widths == (8, 8, 8)
    with pytest.raises(PolicyError, match="dim 8 is not a multiple of lookups 3"):
        methods.multi_size(SCHEMAS["three"], 800, 8, lookups=3)
    with pytest.raises(PolicyError, match=r"below 1; allowed: 1 or more"):
        methods.multi_size(SCHEMAS["three"], 800, 8, lookups=0)


def test_multi_size_with_a_number_for_each_feature():
    policy = methods.multi_size(
        SCHEMAS["three"], 800, 8, lookups={"user": 4, "item": 2, "hour": 1}, seed=3
    )
    assert policy.widths == (8, 4, 2) and policy.num_params == 800
    read = {f.name: [k.table for k in f.lookups] for f in policy.features}
    # the widest reads every table; those after it begin where the one before ended
    assert read["user"] == ["chunk0", "chunk1", "chunk2", "chunk3"]
    assert read["item"] == ["chunk0", "chunk1"] and read["hour"] == ["chunk2"]
    # the j-th row of a feature has the same hash in every such policy
    whole = methods.multi_size(SCHEMAS["three"], 800, 8, lookups=4, seed=3)
    for one, all_of_them in zip(policy.features, whole.features, strict=True):
        seeds = [k.seed for k in all_of_them.lookups]
        assert [k.seed for k in one.lookups] == seeds[: len(one.lookups)]


@pytest.mark.parametrize("name, dim", [("multi-size-2", 4), ("multi-size", 4)])
def test_named_multi_size_takes_numbers_for_some_features(name: str, dim: int) -> None:
    """Tables stay as wide as without them, and the feature that is not named keeps its lookups."""
    settings = PlainSettings(params=800, dim=dim, chunk_dim=2, lookups=("user:4", "hour:1"))
    found = find_method(name).policy(SCHEMAS["three"], settings, {}, 3)
    reads = {"user": 4, "item": 2, "hour": 1}
    assert found == methods.multi_size(SCHEMAS["three"], 800, 8, lookups=reads, seed=3)


@pytest.mark.parametrize(
    "name, lookups, says",
    [
        ("pq-2", ("user:4",), "lookups with method pq-2; allowed: with multi-size"),
        ("multi-size", ("nobody:4",), "lookups 'nobody:4'; allowed: FEATURE:NUMBER"),
        ("multi-size", ("user:0",), "with a number of 1 or more"),
        ("multi-size", ("user",), "a feature of user, item, hour"),
        ("multi-size", ("user:4", "user:2"), "each feature once"),
        ("multi-size-3", ("user:4",), "dim 8; allowed: a multiple of the 3 lookups"),
    ],
)
def test_numbers_of_lookups_that_do_not_fit(name: str, lookups: tuple[str, ...], says: str) -> None:
    settings = PlainSettings(params=800, dim=8, chunk_dim=2, lookups=lookups)
    with pytest.raises(ValueError, match=says):
        find_method(name).policy(SCHEMAS["three"], settings, {}, 3)


@schemas
def test_collisionless_has_a_row_per_id_and_one_more(schema):
    of = SCHEMAS[schema]
    policy = methods.collisionless(of, 8, vocabularies(of))
    assert [t.num_rows for t in policy.tables] == [of.vocab_size(c.name) + 1 for c in of.features]
    assert all(k.address == "id" for f in policy.features for k in f.lookups)


# ---- what the published methods compute, in closed form --------------------------------------

IDS = torch.tensor([0, 1, 5, 7, 2**62 + 9])
PER_FEATURE, MULTIPLEXED = methods.PER_FEATURE, methods.MULTIPLEXED
SHARINGS = pytest.mark.parametrize("sharing", [PER_FEATURE, MULTIPLEXED])


def doubles(policy: Policy, feature: str = "item") -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What a module gives ``IDS`` of one feature, and its weights in the policy's order."""
    module = laws.built(policy)
    names = [f.name for f in policy.features]
    batch = laws.KeyedJaggedTensor(
        names, IDS.repeat(len(names)), lengths=torch.ones(len(names) * len(IDS)).int()
    )
    x = module(batch).split(policy.widths, 1)[names.index(feature)]
    weights = laws.table_weights(module) if policy.tables else [module.flat.weight.view(-1)]
    return x.detach().double(), [w.detach().double() for w in weights]


def hashes(policy: Policy, table: str, seed: int) -> torch.Tensor:
    num_rows = next(t.num_rows for t in policy.tables if t.name == table)
    return torch.tensor([laws.reference_hash(i, seed, num_rows) for i in IDS.tolist()])


def found(policy: Policy, feature: str = "item") -> Feature:
    return next(f for f in policy.features if f.name == feature)


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)


@SHARINGS
def test_hash_embedding_is_a_weighted_sum(sharing):
    policy = methods.hash_embedding(SCHEMAS["three"], 900, 6, lookups=3, sharing=sharing, seed=4)
    x, weights = doubles(policy)
    by_name = dict(zip((t.name for t in policy.tables), weights, strict=True))
    f = found(policy)
    P = by_name[f.weights.table][hashes(policy, f.weights.table, f.weights.seed)]
    T = by_name[f.lookups[0].table]
    rows = [hashes(policy, k.table, k.seed) for k in f.lookups]
    assert len({k.table for k in f.lookups}) == 1
    close(x, sum(P[:, [j]] * T[rows[j]] for j in range(3)))


@SHARINGS
def test_pq_joins_parts(sharing):
    policy = methods.pq(SCHEMAS["three"], 900, 6, lookups=3, sharing=sharing, seed=4)
    x, weights = doubles(policy)
    by_name = dict(zip((t.name for t in policy.tables), weights, strict=True))
    parts = [by_name[k.table][hashes(policy, k.table, k.seed)] for k in found(policy).lookups]
    assert torch.equal(x, torch.cat(parts, 1))


def test_qr_multiplies_the_rows_of_remainder_and_quotient():
    known = {c.name: np.arange(c.vocab_size) for c in SCHEMAS["three"].features}
    policy = methods.qr(SCHEMAS["three"], 1200, 6, vocabularies=known)
    x, weights = doubles(policy)
    (R, Q) = [w for t, w in zip(policy.tables, weights, strict=True) if t.name.startswith("item:")]
    index = torch.tensor([1, 2, 6, 8, 0])  # the last id is unknown
    close(x, R[index % len(R)] * Q[index // len(R)])


def test_multiplexed_qr_multiplies_hashed_rows():
    policy = methods.qr(SCHEMAS["three"], 900, 6, components=3, sharing=MULTIPLEXED, seed=4)
    x, weights = doubles(policy)
    factors = [
        w[hashes(policy, k.table, k.seed)]
        for w, k in zip(weights, found(policy).lookups, strict=True)
    ]
    close(x, factors[0] * factors[1] * factors[2])


@pytest.mark.parametrize("block", [1, 2, 3, 4, 7])
@SHARINGS
def test_robe_reads_blocks_of_one_array(sharing, block):
    """Float i of an id is ``A[start + hash(id, seed of block i // Z) + i % Z]``."""
    policy = methods.robe(SCHEMAS["three"], 900, 7, block=block, sharing=sharing, seed=4)
    x, (array,) = doubles(policy)
    (k,) = found(policy).lookups
    sizes = [a.size for a in policy.arrays]
    start = sum(sizes[: [a.name for a in policy.arrays].index(k.table)])
    size = next(a.size for a in policy.arrays if a.name == k.table)
    for row, value in zip(x, IDS.tolist(), strict=True):
        for i in range(7):
            seed = laws.reference_mix(k.seed ^ (i // block)) % 2**63
            first = laws.reference_hash(value, seed, size - block + 1)
            assert row[i] == array[start + first + i % block]


def test_hashednet_is_robe_with_blocks_of_one():
    for sharing in (PER_FEATURE, MULTIPLEXED):
        net = methods.hashed_net(SCHEMAS["three"], 901, 7, sharing=sharing, seed=4)
        blocks = methods.robe(SCHEMAS["three"], 901, 7, block=1, sharing=sharing, seed=4)
        assert net == blocks
        assert net.num_params == 901


def test_the_methods_meet_where_they_are_the_same():
    of = SCHEMAS["three"]
    plain = methods.separate(of, 900, 6, rows="cardinality", seed=3)
    assert methods.hashing_trick(of, 900, 6, seed=3) == plain
    assert methods.pq(of, 900, 6, lookups=1, seed=3) == plain
    even = methods.Sharing(rows="even")
    assert methods.hashing_trick(of, 900, 6, sharing=even, seed=3) == methods.separate(
        of, 900, 6, seed=3
    )
    unified = methods.hashing_trick(of, 900, 6, sharing=MULTIPLEXED, seed=3)
    assert unified == methods.monolithic(of, 900, 6, seed=3)
    many = methods.pq(of, 900, 6, lookups=3, sharing=MULTIPLEXED, seed=3)
    multi = methods.multi_size(of, 900, 6, lookups=3, seed=3)
    assert [(t.num_rows, t.dim) for t in many.tables] == [(t.num_rows, t.dim) for t in multi.tables]
    for f, g in zip(many.features, multi.features, strict=True):
        assert [k.seed for k in f.lookups] == [k.seed for k in g.lookups]


@pytest.mark.parametrize("method", [n for n, m in METHODS.items() if m.exact])
def test_every_method_starts_with_the_variance_of_a_plain_row(method):
    """A product of small factors would start at almost nothing, and hardly learn."""
    policy = METHODS[method].make(SCHEMAS["three"], 40_000, 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = embed.PolicyEmbedding(policy, init_scale=0.05)
    ids = torch.arange(2000).repeat(3)
    names = [f.name for f in policy.features]
    x = module(laws.KeyedJaggedTensor(names, ids, lengths=torch.ones(6000).int()))
    for f, part in zip(policy.features, x.split(policy.widths, 1), strict=True):
        if not any(k.address in ("remainder", "quotient") for k in f.lookups):  # few rows: noisy
            assert 0.5 < float(part.detach().var()) / (0.05**2 / 3) < 2, f.name


# ---- their hyper-parameters ------------------------------------------------------------------


@given(st.integers(1, 10**9), st.integers(2, 5), st.integers(0, 10**6))
@example(1, 2, 0)
@example(3, 2, 0)
@example(10**9, 2, 10**9)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_digits_tell_all_ids_apart_and_use_every_row(count, number, more):
    least = smallest_digits(count, number)
    assert math.prod(least) >= count
    assert sum(least) <= number * math.ceil(count ** (1 / number) + 1e-9)
    sizes = digits(count, number, sum(least) + more)
    assert len(sizes) == number
    assert min(sizes) >= 1
    assert sum(sizes) == sum(least) + more
    assert math.prod(sizes) >= count


@pytest.mark.parametrize("components", [2, 3, 4])
def test_qr_gives_no_two_ids_the_same_rows(components):
    of = SCHEMAS["three"]
    policy = methods.qr(of, 1500, 4, components=components, vocabularies=vocabularies(of))
    remap = embed.PolicyEmbedding(policy).remap
    for f in policy.features:
        ids = torch.from_numpy(policy.vocabularies[f.name])
        rows = [addressed_rows(k, policy.table(k.table).num_rows, ids, ids) for k in f.lookups]
        codes = torch.stack(rows, dim=1)
        assert len(torch.unique(codes, dim=0)) == len(ids)
        assert (
            codes.max(0).values < torch.tensor([policy.table(k.table).num_rows for k in f.lookups])
        ).all()
    assert len(remap.keys) == 3 * components


def test_importance_weights_get_their_share():
    for p in (0.05, 0.1, 0.2):
        policy = methods.hash_embedding(SCHEMAS["three"], 100_000, 8, lookups=2, importance=p)
        weights = sum(t.num_rows * t.dim for t in policy.tables if t.name.endswith("importance"))
        assert weights / policy.num_params == pytest.approx(p, rel=0.01)


def test_rows_follow_the_cardinality():
    flat = methods.hashed_net(SCHEMAS["three"], 4640, 8)
    assert [a.size for a in flat.arrays] == [400, 4000, 240]
    even = methods.hashed_net(SCHEMAS["three"], 4641, 8, sharing=methods.Sharing(rows="even"))
    assert [a.size for a in even.arrays] == [1547] * 3


PUBLISHED = {
    "hashing-trick": methods.hashing_trick,
    "hash-embedding": methods.hash_embedding,
    "hashednet": methods.hashed_net,
    "robe": methods.robe,
    "pq": methods.pq,
    "qr": methods.qr,
    "tensor": methods.tensor,
}


@pytest.mark.parametrize("multiplexed", [False, True])
@pytest.mark.parametrize("name", PUBLISHED)
def test_small_features_are_kept_exact(name, multiplexed):
    """``hour`` has 24 ids: a row for each and one more, paid for by the budget."""
    of = SCHEMAS["three"]
    sharing = methods.Sharing(multiplexed=multiplexed, exact_below=24)
    policy = PUBLISHED[name](of, 3000, 8, sharing=sharing, vocabularies=vocabularies(of))
    assert [f.name for f in policy.features] == ["user", "item", "hour"]
    exact = policy.features[2]
    assert exact == Feature("hour", (Lookup("hour", "id"),))
    assert policy.table("hour") == Table("hour", 25, 8)
    assert set(policy.vocabularies) == (
        {"hour", "user", "item"} if not multiplexed and name == "qr" else {"hour"}
    )
    assert 0 <= 3000 - policy.num_params < 8
    with pytest.raises(PolicyError, match="200 of them for exact tables; the smallest") as caught:
        PUBLISHED[name](of, 200, 8, sharing=sharing, vocabularies=vocabularies(of))
    smallest = int(str(caught.value).rsplit(maxsplit=1)[1])
    made = PUBLISHED[name](of, smallest, 8, sharing=sharing, vocabularies=vocabularies(of))
    assert made.num_params == smallest
    with pytest.raises(PolicyError, match=r"exact_below=24 needs the training ids of \['hour'\]"):
        PUBLISHED[name](of, 3000, 8, sharing=sharing)


def test_features_of_one_vocabulary_may_share_their_hash():
    sharing = methods.Sharing(multiplexed=True, same_hash=(("item", "hour"),))
    policy = methods.pq(SCHEMAS["three"], 900, 8, sharing=sharing, seed=1)
    user, item, hour = (tuple(k.seed for k in f.lookups) for f in policy.features)
    assert item == hour != user
    assert (
        methods.pq(SCHEMAS["three"], 900, 8, sharing=MULTIPLEXED, seed=1).features[0]
        == (policy.features[0])
    )
    assert policy.provenance["arguments"]["sharing"]["same_hash"] == [["item", "hour"]]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda s: methods.qr(s, 900, 8, components=1), "components=1; .* `collisionless`"),
        (lambda s: methods.qr(s, 900, 8), "qr needs the training ids of .*'user', 'item', 'hour'"),
        (lambda s: methods.pq(s, 900, 8, lookups=9), "lookups=9; allowed: 1 to dim 8"),
        (lambda s: methods.pq(s, 900, 8, lookups=0), "lookups=0; allowed"),
        (lambda s: methods.robe(s, 900, 8, block=9), "block=9; allowed: 1 to dim 8"),
        (lambda s: methods.robe(s, 900, 8, block=0), "block=0"),
        (lambda s: methods.hash_embedding(s, 900, 8, lookups=0), "lookups=0"),
        (lambda s: methods.hash_embedding(s, 900, 8, importance=1.0), "importance=1.0; allowed"),
        (lambda s: methods.Sharing(rows="odd"), "rows='odd'; allowed: even, cardinality"),
        (lambda s: methods.Sharing(multiplexed=True, rows="even"), "do not divide rows"),
        (lambda s: methods.Sharing(same_hash=(("a", "b"), ("a",))), "names a feature twice"),
        (
            lambda s: methods.pq(
                s, 900, 8, sharing=methods.Sharing(multiplexed=True, same_hash=(("item", "x"),))
            ),
            r"same_hash names \['x'\]; the features are",
        ),
        (
            lambda s: methods.pq(s, 900, 8, sharing=methods.Sharing(same_hash=(("item", "user"),))),
            "would change nothing; allowed with multiplexed methods",
        ),
        (
            lambda s: methods.pq(
                s,
                900,
                8,
                sharing=methods.Sharing(
                    multiplexed=True, exact_below=24, same_hash=(("item", "hour"),)
                ),
                vocabularies=vocabularies(s),
            ),
            r"same_hash names \['hour'\], which exact_below=24 gives a row per id",
        ),
        (
            lambda s: methods.multi_size(s, 900, 8, lookups={"user": 4, "item": 2}),
            r"lookups of \['item', 'user'\]; allowed: one number for each of .*'hour'",
        ),
        (
            lambda s: methods.multi_size(s, 900, 8, lookups={"user": 4, "item": 2, "hour": 0}),
            r"lookups of \['hour'\] below 1",
        ),
    ],
)
def test_what_a_method_refuses(make, message):
    with pytest.raises(PolicyError, match=message):
        make(SCHEMAS["three"])


def test_lookup_seeds():
    """63 bits, and a fixed function: these numbers must never change, saved policies hold them."""
    assert methods.lookup_seed(0, "C1", 0) == 3084233289169470033
    seeds = {methods.lookup_seed(s, f"C{i}", j) for s in range(9) for i in range(9) for j in (0, 1)}
    assert len(seeds) == 162
    assert all(0 <= s < 2**63 for s in seeds)
    assert max(s.bit_length() for s in seeds) == 63


def test_provenance_says_how_to_make_it_again():
    """``separate`` is the hashing trick with even rows, and says so."""
    policy = methods.separate(SCHEMAS["three"], 1000, 8, seed=5)
    assert policy.provenance["method"] == "hashing-trick"
    arguments = dict(policy.provenance["arguments"])
    sharing = arguments.pop("sharing")
    assert arguments == {"params": 1000, "dim": 8, "seed": 5} and sharing["rows"] == "even"
    assert policy.provenance["data_fingerprint"] == SCHEMAS["three"].fingerprint
    groups = tuple(map(tuple, sharing.pop("same_hash")))
    same = methods.Sharing(**sharing, same_hash=groups)
    assert methods.hashing_trick(SCHEMAS["three"], sharing=same, **arguments) == policy


# ---- split_rows ----------------------------------------------------------------------------

tables = st.lists(
    st.tuples(
        st.integers(1, 64) | st.sampled_from([1, 8, 16]),
        st.integers(0, 10**7) | st.floats(0.001, 1e6),
    ),
    min_size=1,
    max_size=30,
).filter(lambda rows: any(w for _, w in rows))


@given(tables, st.integers(0, 2**40) | st.integers(0, 3000))
@example([(1, 1000), (1, 1000), *[(1, 1)] * 100], 48)  # floors of one row overdraw the budget
@example([(1, 10**7), (64, 0), (64, 0)], 0)
@example([(8, 1 / 3), (8, 2 / 3), (1, 1e-3)], 2**40 - 17)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_rows_of_any_budget(of, above):
    dims, weights = [d for d, _ in of], [w for _, w in of]
    budget = sum(dims) + above
    rows = split_rows(budget, dims, weights)
    laws.splits_fairly(budget, dims, weights, rows)


def test_tables_of_equal_weight_get_equal_rows_when_small_ones_overdraw():
    """1000 tables whose share is half a row take a row each; the two large ones pay alike."""
    rows = split_rows(1500, [1] * 1002, [1000.0] * 2 + [1.0] * 1000)
    assert rows == [250, 250] + [1] * 1000


def test_a_table_of_no_weight_gets_one_row():
    assert split_rows(100, [1, 1, 1], [1, 1, 0]) == [50, 49, 1]


def test_rows_refuse_what_cannot_be_split():
    with pytest.raises(PolicyError, match="smallest feasible budget is 24"):
        split_rows(23, [8, 16], [1, 1])
    for weights in ([0, 0], [-1, 2]):
        with pytest.raises(PolicyError, match="allowed: 0 or more, and one above 0"):
            split_rows(100, [8, 16], weights)
