"""``embed.build`` in the place of an ``EmbeddingBagCollection``, and a policy made of one."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchrec.models.dlrm import DLRM
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from cases import BAGS, BUILDABLE, Bags, batch
from real_data import real_data
from seo_rec import embed, methods
from seo_rec.data.criteo import prepare_criteo
from seo_rec.data.dataset import open_data
from seo_rec.data.stream import Stream
from seo_rec.policy import Policy, PolicyError
from torchrec_models import MODELS, NAMES, POLICY, WithLoss, clicks

DIMS = (None, 5)


def built(policy: Policy, dim: int | None = None, weighted: bool = False) -> embed.KeyedEmbedding:
    """Weights that differ everywhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return embed.build(policy, dim, init_scale=1.0, weighted=weighted)


# ---- the module ----------------------------------------------------------------------------


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("policy", BUILDABLE)
def test_a_feature_is_its_slice_of_the_rows_projected(policy, dim):
    """``out[f] = x_f`` where the width is right, else ``x_f W_f^T``; exactly these features."""
    for bags in BAGS.values():
        is_its_slice_projected(BUILDABLE[policy], dim, bags)


def is_its_slice_projected(policy: Policy, dim: int | None, bags: Bags) -> None:
    module = built(policy, dim, bags.weighted)
    features = batch(policy.columns, bags)
    out = module(features)
    assert isinstance(out, KeyedTensor)
    parts = module.rows(features).split(list(policy.widths), dim=1)
    found = out.to_dict()
    assert list(found) == out.keys() == [f.name for f in policy.features]
    for f, x in zip(policy.features, parts, strict=True):
        if x.shape[1] != module.dim:
            x = x @ module.project.linear[embed.table_key(f.name)].weight.T
        torch.testing.assert_close(found[f.name], x)
        assert found[f.name].shape == (features.stride(), module.dim)


@pytest.mark.parametrize("policy", BUILDABLE)
def test_num_params_counts_tables_and_projections(policy):
    policy = BUILDABLE[policy]
    for dim in DIMS:
        module = embed.build(policy, dim)
        codes = sum(c.size for c in policy.codes.values())
        assert module.num_params == codes + sum(p.numel() for p in module.parameters())
        other = [w for w in policy.widths if w != module.dim]
        assert module.num_params == policy.num_params + module.dim * sum(other)


def test_by_default_the_largest_width_and_no_projection_of_equal_ones():
    assert embed.build(POLICY).dim == max(POLICY.widths) == 16
    equal = embed.build(BUILDABLE["multi-size-2"])
    assert (equal.dim, equal.project) == (8, None)
    assert list(embed.build(POLICY, 12).project.linear) == ["item", "hour", "tags"]


def test_a_dim_below_one_is_refused():
    with pytest.raises(ValueError, match=r"dim 0; allowed: 1 or more, or None"):
        embed.build(POLICY, 0)


def test_configs_name_the_served_features_and_one_width():
    configs = embed.build(POLICY).embedding_bag_configs()
    assert [c.feature_names for c in configs] == [[f.name] for f in POLICY.features]
    assert {c.embedding_dim for c in configs} == {16}
    assert "noise" not in [n for c in configs for n in c.feature_names]


def test_features_that_the_policy_drops_are_not_read():
    module = built(POLICY)
    features = clicks(9, 0, BAGS["bags"]).sparse
    without = features.permute([NAMES.index(n) for n in NAMES if n != "noise"])
    assert torch.equal(module(features).values(), module(without).values())
    assert module(features).keys() == [f.name for f in POLICY.features]


def test_an_empty_bag_gives_zeros_even_when_projected():
    values = built(POLICY, 12)(batch(NAMES, BAGS["empty"])).values()
    assert values.shape == (9, 4 * 12)
    assert not values.any()


@pytest.mark.parametrize("weighted", [False, True])
def test_batches_of_the_other_kind_are_refused(weighted):
    module = built(POLICY, weighted=weighted)
    assert module.is_weighted() == module.rows.ebc.is_weighted() == weighted
    module(batch(NAMES, BAGS["bags-weighted" if weighted else "bags"]))
    with pytest.raises(
        ValueError, match=rf"weights of ids .* build it with weighted={not weighted}"
    ):
        module(batch(NAMES, BAGS["bags" if weighted else "bags-weighted"]))


def test_a_missing_feature_is_named():
    with pytest.raises(KeyError, match=r"lacks features \['tags'\]"):
        built(POLICY)(batch(("user", "item", "hour"), BAGS["single"]))


def test_on_the_meta_device_nothing_is_allocated():
    module = embed.build(POLICY, 12, device=torch.device("meta"))
    assert {p.device.type for p in module.parameters()} == {"meta"}
    assert module.device == torch.device("meta")
    assert embed.build(POLICY).device == torch.device("cpu")


def test_tables_start_as_told_here_and_in_shards():
    module = embed.build(POLICY, init_scale=0.25)
    for config in module.rows.ebc.embedding_bag_configs():
        weight = module.rows.ebc.embedding_bags[config.name].weight
        assert 0.2 < weight.abs().max() <= 0.25
        shard = torch.empty(200)
        config.init_fn(shard)  # what TorchRec does to a shard
        assert 0.2 < shard.abs().max() <= 0.25


# ---- TorchRec's models ---------------------------------------------------------------------


@pytest.mark.parametrize("bags", ["single", "bags"])
@pytest.mark.parametrize("model", MODELS)
def test_torchrec_models_train(model, bags):
    """Every parameter gets gradient and the loss of a fixed batch falls."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trained = WithLoss(MODELS[model](embed.build(POLICY)))
    data = clicks(64, 0, BAGS[bags])
    optimizer = torch.optim.Adam(trained.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss, scores_B = trained(data)
        assert scores_B.shape == (64,)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert [n for n, p in trained.named_parameters() if not p.grad.any()] == []
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.slow
def test_dlrm_learns_the_criteo_sample(tmp_path):
    """One pass over 16,000 rows with a shared policy: the loss on what comes next falls."""
    with (real_data("criteo-sample") / "train.txt").open("rb") as whole:
        (tmp_path / "train.txt").write_bytes(b"".join(next(whole) for _ in range(16_000)))
    schema = prepare_criteo(tmp_path / "train.txt", tmp_path / "data")
    policy = methods.multi_size(schema, 200_000, 16, lookups=4)
    stream = Stream(open_data(tmp_path / "data"), "train", batch_size=256, shuffle=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        embedding = embed.build(policy)
        dense = len(schema.numeric)
        model = WithLoss(DLRM(embedding, dense, [64, embedding.dim], [64, 1]))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for data in stream:
        optimizer.zero_grad()
        loss, _ = model(data)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert len(losses) >= 45
    assert np.mean(losses[-10:]) < np.mean(losses[:5]) - 0.03


# ---- a policy made of an existing model's tables ----------------------------------------------

TABLES = [
    EmbeddingBagConfig(name="users", num_embeddings=40, embedding_dim=4, feature_names=["u", "v"]),
    EmbeddingBagConfig(name="goods", num_embeddings=25, embedding_dim=6, feature_names=["item"]),
    EmbeddingBagConfig(name="more", num_embeddings=11, embedding_dim=2, feature_names=["v"]),
]


def raw(names: tuple[str, ...], rows: int, ids: dict[str, int]) -> KeyedJaggedTensor:
    """Bags of 0 to 3 row numbers below ``ids[name]``; the first is 0, the second the largest."""
    rng = np.random.default_rng(0)
    lengths = [rng.integers(0, 4, rows) for _ in names]
    values = [rng.integers(0, ids[n], k.sum()) for n, k in zip(names, lengths, strict=True)]
    for n, v in zip(names, values, strict=True):
        v[:2] = 0, ids[n] - 1
    return KeyedJaggedTensor(
        list(names),
        torch.from_numpy(np.concatenate(values)),
        lengths=torch.from_numpy(np.concatenate(lengths)),
    )


def test_a_policy_of_tables_computes_what_the_tables_compute():
    """Row for row, shared tables and features in two tables included; and as many floats."""
    collection = EmbeddingBagCollection(tables=TABLES)
    policy = Policy.from_embedding_bag_configs(collection.embedding_bag_configs())
    assert policy.num_params == sum(p.numel() for p in collection.parameters())
    module = embed.build(policy, 6)
    module.rows.ebc.load_state_dict(collection.state_dict())
    features = raw(("u", "v", "item"), 50, {"u": 40, "v": 11, "item": 25})
    theirs = collection(features).to_dict()
    ours = module.rows(features).split(list(policy.widths), dim=1)
    found = dict(zip([f.name for f in policy.features], ours, strict=True))
    torch.testing.assert_close(found["u"], theirs["u"])
    torch.testing.assert_close(found["item"], theirs["item"])
    torch.testing.assert_close(found["v"], torch.cat([theirs["v@users"], theirs["v@more"]], 1))


def test_the_policy_of_tables_is_saved_as_any(tmp_path):
    policy = Policy.from_embedding_bag_configs(TABLES)
    policy.save(tmp_path / "p.json")
    loaded = Policy.load(tmp_path / "p.json")
    assert loaded == policy
    np.testing.assert_array_equal(loaded.vocabularies["u"], np.arange(1, 40))
    np.testing.assert_array_equal(loaded.vocabularies["v"], np.arange(1, 11))


def test_hashed_the_tables_stay_and_equal_ids_share_rows():
    policy = Policy.from_embedding_bag_configs(TABLES, address="hash")
    assert policy.tables == Policy.from_embedding_bag_configs(TABLES).tables
    assert not policy.vocabularies
    ids = torch.arange(2**62, 2**62 + 5)
    features = KeyedJaggedTensor(["u", "v", "item"], ids.repeat(3), lengths=torch.ones(15).int())
    out = built(policy, 4)(features).to_dict()
    parts = built(policy, 4).rows(features).split(list(policy.widths), dim=1)
    assert torch.equal(out["u"], parts[1][:, :4])  # v's first table is u's


def test_a_table_without_feature_names_is_read_by_its_own():
    config = SimpleNamespace(name="t", num_embeddings=3, embedding_dim=2, feature_names=[])
    assert [f.name for f in Policy.from_embedding_bag_configs([config]).features] == ["t"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"pooling": PoolingType.MEAN}, r"table 't' has pooling MEAN; .* set pooling=SUM"),
        ({"feature_names": ["f", "f"]}, r"table 't' names a feature twice"),
        ({"num_embeddings": 0}, r"table 't' has num_rows 0"),
        ({"embedding_dim": 0}, r"table 't' has dim 0"),
    ],
)
def test_tables_that_no_policy_has_are_refused(change, message):
    plain = {"name": "t", "num_embeddings": 3, "embedding_dim": 2, "feature_names": ["f"]}
    with pytest.raises(PolicyError, match=message):
        Policy.from_embedding_bag_configs([SimpleNamespace(**{**plain, **change})])


def test_no_tables_and_unknown_addresses_are_refused():
    with pytest.raises(PolicyError, match="serves no feature"):
        Policy.from_embedding_bag_configs([])
    with pytest.raises(PolicyError, match="address 'row'; allowed: hash, id"):
        Policy.from_embedding_bag_configs(TABLES, address="row")


@pytest.mark.parametrize("weighted", [False, True])
def test_ids_of_32_bits_are_read_as_those_of_64(weighted):
    """An ``EmbeddingBagCollection`` takes both; weights, empty bags and lengths stay."""
    policy = BUILDABLE["multi-size-2"]
    columns, found = [f.name for f in policy.features], []
    lengths = torch.tensor([i % 3 for i in range(4 * len(columns))], dtype=torch.int32)
    ids = torch.arange(int(lengths.sum())) * 12_345
    weights = torch.linspace(0.5, 2, len(ids)) if weighted else None
    embedding = built(policy, weighted=weighted)
    for dtype in (torch.int64, torch.int32):
        kjt = KeyedJaggedTensor(columns, ids.to(dtype), weights=weights, lengths=lengths)
        found.append(embedding(kjt).values())
    assert torch.equal(*found) and found[0].abs().sum() > 0
