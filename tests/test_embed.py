"""Laws of the embedding module, for every policy of the cases and every kind of bag."""

from __future__ import annotations

import pytest
import torch

import laws
from cases import BAGS, BUILDABLE, POLICIES, SCHEMAS, batch
from seo_kernels import chunk_bag, native
from seo_rec import embed, methods
from seo_rec.embed.tables import table_key
from seo_rec.policy import Feature, Lookup, Policy, Table
from seo_rec.search.seo import SeoSettings, make_gate, search_space

policies = pytest.mark.parametrize("policy", BUILDABLE)


@policies
def test_num_params_is_what_is_built(policy):
    laws.counts_what_is_built(BUILDABLE[policy])


@policies
def test_num_bytes_is_what_is_stored(policy):
    laws.counts_what_is_stored(BUILDABLE[policy])


@policies
def test_forward_and_gradients_equal_the_reference(policy):
    for bags in BAGS.values():
        laws.equals_the_reference(BUILDABLE[policy], bags)


@policies
def test_forward_and_gradients_equal_torchrec(policy):
    for bags in (b for b in BAGS.values() if not b.weighted):
        laws.equals_torchrec(BUILDABLE[policy], bags)


@policies
def test_permuting_the_batch_permutes_rows(policy):
    for bags in BAGS.values():
        laws.permuting_the_batch_permutes_rows(BUILDABLE[policy], bags)


@policies
def test_empty_bag_gives_zeros(policy):
    laws.empty_bag_gives_zeros(BUILDABLE[policy])


@policies
def test_ids_move_only_their_slice(policy):
    for bags in ("single", "bags-weighted"):
        laws.ids_move_only_their_slice(BUILDABLE[policy], BAGS[bags])


@policies
def test_every_table_gets_gradient(policy):
    laws.every_table_gets_gradient(BUILDABLE[policy])


@policies
def test_key_order_does_not_matter(policy):
    for bags in BAGS.values():
        laws.key_order_does_not_matter(BUILDABLE[policy], bags)


def test_a_batch_of_no_rows():
    policy = BUILDABLE["mixed-dims"]
    features = laws.KeyedJaggedTensor(
        ["user", "item"], torch.empty(0).long(), lengths=torch.empty(0).int(), stride=0
    )
    assert laws.built(policy)(features).shape == (0, sum(policy.widths))


def test_one_module_serves_batches_of_any_kind_in_turn():
    """The buffers it keeps between calls never leak into the next batch."""
    module = laws.built(BUILDABLE["mixed-dims"])
    for rows in (9, 3, 9, 20):
        for bags in BAGS.values():
            features = batch(("user", "item"), bags, rows=rows)
            assert torch.equal(module(features), laws.built(module.policy)(features))


def test_embeddings_start_within_the_scale():
    for scale in (0.5, 0.01):
        for w in laws.table_weights(embed.PolicyEmbedding(BUILDABLE["separate"], init_scale=scale)):
            assert w.abs().max() <= scale
            assert w.abs().max() > 0.9 * scale
            assert abs(float(w.detach().mean())) < 0.2 * scale


def test_on_the_meta_device_nothing_is_allocated():
    module = embed.PolicyEmbedding(
        methods.monolithic(SCHEMAS["three"], 2**33, 8), device=torch.device("meta")
    )
    assert [w.device.type for w in laws.table_weights(module)] == ["meta"]


class Doubles:
    """A gate: every lookup twice as large."""

    def widths(self, policy):
        return (*policy.widths, 1)

    def __call__(self, lookups_BE):
        return torch.nn.functional.pad(lookups_BE * 2, (0, 1))


def test_a_gate_sees_the_lookups_and_names_the_widths():
    policy = BUILDABLE["mixed-dims"]
    features = batch(("user", "item"), BAGS["bags"])
    module = embed.PolicyEmbedding(policy, Doubles())
    plain = embed.PolicyEmbedding(policy)
    plain.load_state_dict(module.state_dict())
    assert module.dims == (*policy.widths, 1)
    assert torch.equal(module(features)[:, :-1], plain(features) * 2)


@pytest.mark.parametrize("name", ["project", "digits", "weighted-sum", "blocks", "rows-and-blocks"])
def test_a_gate_is_refused_where_it_would_leave_something_out(name):
    with pytest.raises(ValueError, match="a gate takes the place of combine and project"):
        embed.PolicyEmbedding(BUILDABLE[name], Doubles())


@pytest.mark.parametrize("combine", ["concat", "sum", "mul", "weighted_sum"])
@pytest.mark.parametrize("project", [None, 2])
def test_a_bag_is_the_weighted_sum_of_its_ids(combine, project):
    """Combined id by id, then pooled: each id of a bag counts as it would alone in one."""
    weights = Lookup("p", seed=9) if combine == "weighted_sum" else None
    lookups = (Lookup("a", seed=1), Lookup("b", seed=2))
    table = Table("p", 7, 2) if weights else None
    policy = Policy(
        (Table("a", 30, 3), Table("b", 30, 3), *([table] if table else [])),
        (
            Feature("bag", lookups, combine, project, weights),
            Feature("other", (Lookup("a", seed=5),)),
        ),
    )
    module = laws.built(policy)
    ids, factors = torch.tensor([3, 2**62, 3, 11]), torch.tensor([0.5, -2.0, 1.0, 3.0])
    others, ones = torch.tensor([1, 1]), torch.ones(2)

    def x(lengths, ids, factors):
        batch = laws.KeyedJaggedTensor(
            ["bag", "other"],
            torch.cat([ids, others[: len(lengths)]]),
            torch.cat([factors, ones[: len(lengths)]]),
            lengths=torch.tensor([*lengths, *[1] * len(lengths)], dtype=torch.int32),
        )
        return module(batch)[:, : policy.widths[0]]

    alone = torch.cat([x([1], ids[[i]], torch.ones(1)) for i in range(4)])
    both = x([3, 1], ids, factors)
    torch.testing.assert_close(both[0], (alone[:3] * factors[:3, None]).sum(0))
    torch.testing.assert_close(both[1], alone[3] * 3.0)
    torch.testing.assert_close(x([0, 1], ids[:1], factors[:1])[0], torch.zeros_like(both[0]))


# ---- everything in one pass -------------------------------------------------------------------


class Switch:
    """Whether a CPU goes in one pass; ``passes`` counts them.

    A test that turns it on is skipped where the C kernels, which alone do it, were not built.
    """

    def __init__(self, monkeypatch):
        self.patch, self.passes = monkeypatch, 0
        monkeypatch.setattr("seo_rec.embed.chunks.chunk_bag", self.counted)
        self.turn(on=False)

    def counted(self, *arguments):
        self.passes += 1
        return chunk_bag(*arguments)

    def turn(self, on):
        if on and native.missing():
            pytest.skip(f"no pass on a CPU without the C kernels: {native.missing()}")
        self.patch.setattr("seo_rec.embed.rows.IN_ONE_PASS", ("cpu",) if on else ("cuda",))
        self.passes = 0


@pytest.fixture
def one_pass(monkeypatch):
    return Switch(monkeypatch)


BY_HASH = [name for name in BUILDABLE if laws.built(BUILDABLE[name]).chunks is not None]


def outcome(module, features):
    """``x_BE``, and the gradients of all that the module trains and of the weights of ids."""
    weights = features.weights_or_none()
    leaf = None if weights is None else weights.clone().requires_grad_()
    x_BE = module(
        laws.KeyedJaggedTensor(features.keys(), features.values(), leaf, lengths=features.lengths())
    )
    leaves = [*module.parameters(), *([] if leaf is None else [leaf])]
    upstream = torch.randn(x_BE.shape, generator=torch.Generator().manual_seed(2))
    return [x_BE, *torch.autograd.grad(x_BE, leaves, upstream.to(x_BE.device))]


def same_outcome(one_pass, module, features):
    wanted = outcome(module, features)
    assert one_pass.passes == 0
    one_pass.turn(on=True)
    found = outcome(module, features)
    assert one_pass.passes == 1
    one_pass.turn(on=False)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.gpu
@policies
def test_a_gpu_gives_what_a_cpu_gives(policy, one_pass):
    module = laws.built(BUILDABLE[policy])
    features = batch(module.policy.columns, BAGS["bags-weighted"])
    wanted = outcome(module, features)
    found = outcome(module.cuda(), features.to(torch.device("cuda")))
    assert one_pass.passes == (policy in BY_HASH)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dims", [(1, 3, 6), (4, 8, 5), (2, 2, 2)])
def test_rows_filled_up_to_fours_change_neither_output_nor_gradients(dims, monkeypatch):
    monkeypatch.setattr("seo_rec.embed.rows.IN_ONE_PASS", ())
    names = ("a", "b", "c")
    tables = [Table(n, 20, d) for n, d in zip(names, dims, strict=True)]
    first, *others = (Feature(n, (Lookup(n, "hash", i),)) for i, n in enumerate(names))
    twice = Feature("a", (*first.lookups, Lookup("c", "hash", 7)))
    module = laws.built(Policy(tables, [twice, *others]))
    seen = []
    op = torch.ops.fbgemm.dense_embedding_codegen_lookup_function
    wrapped = lambda **given: seen.append(given) or op(**given)  # noqa: E731
    monkeypatch.setattr(torch.ops.fbgemm, "dense_embedding_codegen_lookup_function", wrapped)
    for bags in BAGS.values():
        features = batch(names, bags)
        wanted = outcome(module, features)
        monkeypatch.setattr("seo_rec.embed.batched.IN_FOURS", ("cpu",))
        found = outcome(module, features)
        monkeypatch.setattr("seo_rec.embed.batched.IN_FOURS", ("cuda",))
        for ours, theirs in zip(found, wanted, strict=True):
            assert torch.equal(ours, theirs)
        exact, filled = seen[-2:]
        assert exact["D_offsets"].diff().tolist() == [dims[i] for i in (0, 2, 1, 2)]
        assert not any(int(x) % 4 for x in filled["D_offsets"])
        assert not any(int(x) % 4 for x in filled["weights_offsets"])


def test_which_policies_go_in_one_pass():
    assert {"seo-exact", "seo-rr", "search-space", "mixed-dims", "sum", "twice"} <= set(BY_HASH)
    assert {"project", "separate", "monolithic", "multi-size-2", "one-row"} <= set(BY_HASH)
    others = {"collisionless", "id-and-hash", "digits", "weighted-sum", "blocks", "qr"}
    assert not (others | {"hash-embedding", "rows-and-blocks"}) & set(BY_HASH)


@pytest.mark.parametrize("policy", BY_HASH)
def test_one_pass_changes_neither_output_nor_gradients(policy, one_pass):
    module = laws.built(BUILDABLE[policy])
    names = module.policy.columns
    for bags in BAGS.values():
        same_outcome(one_pass, module, batch(names, bags))
    same_outcome(one_pass, module, batch(names, BAGS["bags-weighted"], rows=0))


@pytest.mark.parametrize("policy", ["seo-exact", "seo-rr", "search-space", "mixed-dims"])
def test_one_pass_equals_the_reference(policy, one_pass):
    one_pass.turn(on=True)
    for bags in BAGS.values():
        laws.equals_the_reference(BUILDABLE[policy], bags)
    assert one_pass.passes == len(BAGS)


@pytest.mark.parametrize("projected", [False, True], ids=["scaled", "projected"])
@pytest.mark.parametrize("hashing", ["shared", "independent"])
def test_one_pass_takes_the_attention_along(hashing, projected, one_pass, monkeypatch):
    settings = SeoSettings(
        budget_rows=30,
        dim=8,
        chunk_dim=2,
        search_dim=16,
        chunk_hashing=hashing,
        use_down_projection=projected,
    )
    policy, gate = search_space(SCHEMAS["three"], settings), make_gate(SCHEMAS["three"], settings)
    torch.nn.init.normal_(gate.logits, generator=torch.Generator().manual_seed(3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = embed.PolicyEmbedding(policy, gate, init_scale=1.0)
    names = tuple(f.name for f in policy.features)
    for bags in BAGS.values():
        same_outcome(one_pass, module, batch(names, bags))
    one_pass.turn(on=True)
    calls = []
    monkeypatch.setattr(gate, "forward", lambda x_BE: calls.append(x_BE) or x_BE)
    module(batch(names, BAGS["bags"]))
    assert len(calls) == projected  # without a projection nothing is left to multiply


def test_any_other_gate_follows_the_pass(one_pass):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = embed.PolicyEmbedding(BUILDABLE["mixed-dims"], Doubles())
    same_outcome(one_pass, module, batch(("user", "item"), BAGS["bags-weighted"]))


def test_two_layers_go_in_one_pass_as_well(one_pass):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = embed.PolicyEmbedding(
            BUILDABLE["seo-exact"], init_scale=1.0, mlet=methods.Mlet(dim=5)
        )
    names = module.policy.columns
    same_outcome(one_pass, module, batch(names, BAGS["bags-weighted"]))


def test_a_batch_in_another_order_goes_the_long_way(one_pass):
    one_pass.turn(on=True)
    laws.key_order_does_not_matter(BUILDABLE["seo-exact"], BAGS["bags-weighted"])
    module = laws.built(BUILDABLE["mixed-dims"])
    one_pass.passes = 0
    module(batch(("item", "user"), BAGS["bags"]))
    assert one_pass.passes == 0
    with pytest.raises(KeyError, match="lacks features"):
        module(batch(("item",), BAGS["bags"]))


def test_table_names_become_module_names_one_to_one():
    names = ["C1", "type", "user.id", "user%2Eid", "quoted-type", "quoted-user%2Eid", "%"]
    keys = [table_key(n) for n in names]
    assert len(set(keys)) == len(names)
    assert keys[0] == "C1"
    modules = torch.nn.ModuleDict({k: torch.nn.Identity() for k in keys})
    assert len(modules) == len(names)


def test_state_holds_the_tables_and_nothing_else():
    """Seeds, row counts, vocabularies and codes come from the policy, never from a checkpoint."""
    for policy in POLICIES.values():
        state = embed.PolicyEmbedding(policy).state_dict()
        codes = sum(c.size for c in policy.codes.values())
        assert sum(v.numel() for v in state.values()) + codes == policy.num_params
