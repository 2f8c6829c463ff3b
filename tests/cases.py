"""The rows: everything the laws of ``laws.py`` are stated about. A new thing adds one row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from seo_rec import apply, methods
from seo_rec.backbones import AutoIntSettings, DCNSettings, DCNv2Settings, XDeepFMSettings
from seo_rec.methods.cafe import CafeSettings
from seo_rec.methods.frequent import FrequentSettings
from seo_rec.methods.managed_collision import ManagedCollisionSettings
from seo_rec.model import ModelSettings
from seo_rec.policy import Allowance, Array, Feature, Lookup, Policy, Table, allowance_of
from seo_rec.schema import Column, Schema
from seo_rec.search import seo
from seo_rec.search.cce_tables import CceSettings, divide
from seo_rec.search.pruned import PrunedSettings, best_cells, pruned_policy
from spec import cross_id, digest


def schema(*columns: Column) -> Schema:
    return Schema("cases", columns, "label", {"train": 8, "val": 1, "test": 1}, {"train": 0.5})


# ---- data sets ---------------------------------------------------------------------------

SCHEMAS = {
    "three": schema(
        Column("user", "categorical", 40),
        Column("item", "categorical", 400),
        Column("hour", "categorical", 24),
    ),
    "one": schema(Column("only", "categorical", 9)),
    # A numeric column between features, a bag, a feature never seen and one of a single value.
    "mixed": schema(
        Column("user", "categorical", 1000),
        Column("age", "numeric"),
        Column("tags", "multivalent", 12, 2.5),
        Column("never", "categorical", 0),
        Column("constant", "categorical", 1),
    ),
    # Names that nn.ModuleDict, file systems and JSON treat specially.
    "names": schema(
        Column("type", "categorical", 5),
        Column("user.id", "categorical", 5),
        Column("user%2Eid", "categorical", 5),
        Column("quoted-type", "categorical", 5),
        Column("größe: 5/6 \N{SNOWMAN}", "categorical", 5),
    ),
    "forty": schema(*(Column(f"C{i}", "categorical", 1 + i**3) for i in range(40))),
}


def vocabularies(of: Schema) -> dict[str, np.ndarray]:
    """Sorted ids of every feature, small numbers and hashed tokens (from 2^62 on) mixed."""
    found = {}
    for i, c in enumerate(of.features):
        rng = np.random.default_rng(i)
        size = c.vocab_size or 0
        ids = np.concatenate([np.arange(size), 2**62 + rng.integers(0, 2**62, size)])
        found[c.name] = np.sort(rng.permutation(ids)[:size])
    return found


def counts(of: Schema, id_bits: int = 64) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The ids of every feature and how often each occurs: few often, many rarely, with ties.

    With 32 bits the digests of the ids, of which no two are equal here.
    """
    found = {}
    for i, (name, ids) in enumerate(vocabularies(of).items()):
        rank = np.random.default_rng(i).permutation(len(ids)) + 1
        found[name] = ids, (1_000 // rank + 1).astype(np.int64)
        if id_bits == 32:
            digests = np.array([digest(i) for i in ids.tolist()], np.int64)
            order = np.argsort(digests)
            found[name] = digests[order], found[name][1][order]
    return found


def batches(of: Schema, number: int = 12, rows: int = 40) -> list[dict[str, np.ndarray]]:
    """The ids of every feature in some batches, drawn in proportion to their counts."""
    found: list[dict[str, np.ndarray]] = [{} for _ in range(number)]
    for i, (name, (ids, count)) in enumerate(counts(of).items()):
        rng = np.random.default_rng([i, number])
        for batch_ids in found:
            p = count / count.sum() if len(ids) else None
            batch_ids[name] = rng.choice(ids, rows if len(ids) else 0, p=p)
    return found


def by_last_digit(ids: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Clusters for ``frequent``: ids of one last decimal digit, modulo the number of clusters."""
    return {name: of % 10 % count for name, of in ids.items()}


def told(budget: int | Allowance) -> dict[str, Any]:
    """The budget as settings have it."""
    return allowance_of(budget).to_json()


# ---- methods -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Method:
    """``make(schema, params, seed)``; ``exact``: fills the budget; ``seeded``: hashes;
    ``one_row``: at the smallest budget every table has one row.
    """

    make: Callable[[Schema, int, int], Policy]
    exact: bool = True
    seeded: bool = True
    one_row: bool = True


def searched(of: Schema, seed: int, hashing: str = "independent") -> Policy:
    """What a search hands over: chunks chosen by a made-up attention, every feature has some."""
    settings = seo.SeoSettings(dim=8, chunk_dim=2, search_dim=16, chunk_hashing=hashing)
    space = seo.search_space(of, settings, seed)
    F, C = len(space.features), settings.num_chunks
    alpha = torch.rand(F, C, generator=torch.Generator().manual_seed(seed + 1))
    return seo.select(space, alpha, settings.chosen(F), min_chunks=1)


def clustered(of: Schema, params: int) -> Policy:
    """What CCE starts from: random codes and hashed rows, in sum."""
    division = divide(of, counts(of), CceSettings(params=params, dim=4), seed=0)
    return division.policy({n: p.first_codes() for n, p in division.pairs.items()}, 0)


def halves_pruned(of: Schema, params: int) -> Policy:
    """Rows of which some ids have only one half."""
    ids, settings = vocabularies(of), PrunedSettings(params=params, dim=4, blocks=2)
    draw = np.random.default_rng(0)
    scores = [draw.random((len(own), 2)).astype(np.float32) for own in ids.values()]
    return pruned_policy(of, ids, best_cells(scores, settings), settings, {})


def with_digests(params: int | Allowance) -> Allowance:
    """The budget of a policy whose vocabularies hold digests."""
    return replace(allowance_of(params), id_bits=32)


# One name for each way to compute: test_methods.py says which methods have equal policies.
METHODS = {
    "separate": Method(lambda s, p, seed: methods.separate(s, p, 8, seed=seed)),
    "monolithic": Method(lambda s, p, seed: methods.monolithic(s, p, 8, seed=seed)),
    "multi-size-2": Method(lambda s, p, seed: methods.multi_size(s, p, 8, seed=seed)),
    "multi-size-4": Method(lambda s, p, seed: methods.multi_size(s, p, 8, lookups=4, seed=seed)),
    "multi-size-1-to-4": Method(
        lambda s, p, seed: methods.multi_size(
            s, p, 8, lookups={c.name: 4 >> i % 3 for i, c in enumerate(s.features)}, seed=seed
        )
    ),
    "multi-size-shared": Method(
        lambda s, p, seed: methods.multi_size(s, p, 8, shared=True, seed=seed)
    ),
    "collisionless": Method(
        lambda s, p, seed: methods.collisionless(s, 8, vocabularies(s)), exact=False, seeded=False
    ),
    "hashing-trick": Method(lambda s, p, seed: methods.hashing_trick(s, p, 8, seed=seed)),
    "hash-embedding": Method(
        lambda s, p, seed: methods.hash_embedding(s, p, 8, importance=0.2, seed=seed)
    ),
    "multiplexed-hash-embedding": Method(
        lambda s, p, seed: methods.hash_embedding(
            s, p, 8, lookups=3, sharing=methods.MULTIPLEXED, seed=seed
        )
    ),
    "hashednet": Method(lambda s, p, seed: methods.hashed_net(s, p, 8, seed=seed)),
    "multiplexed-hashednet": Method(
        lambda s, p, seed: methods.hashed_net(s, p, 8, sharing=methods.MULTIPLEXED, seed=seed)
    ),
    "robe-3": Method(lambda s, p, seed: methods.robe(s, p, 8, block=3, seed=seed)),
    "multiplexed-robe-4": Method(
        lambda s, p, seed: methods.robe(s, p, 8, block=4, sharing=methods.MULTIPLEXED, seed=seed)
    ),
    "pq-3": Method(lambda s, p, seed: methods.pq(s, p, 8, lookups=3, seed=seed)),
    "qr": Method(
        lambda s, p, seed: methods.qr(s, p, 8, vocabularies=vocabularies(s), seed=seed),
        seeded=False,
        one_row=False,
    ),
    "qr-3": Method(
        lambda s, p, seed: methods.qr(
            s, p, 8, components=3, vocabularies=vocabularies(s), seed=seed
        ),
        seeded=False,
        one_row=False,
    ),
    "multiplexed-qr": Method(
        lambda s, p, seed: methods.qr(s, p, 8, sharing=methods.MULTIPLEXED, seed=seed)
    ),
    "tensor": Method(lambda s, p, seed: methods.tensor(s, p, 8, rank=4, seed=seed)),
    "multiplexed-tensor-2": Method(
        lambda s, p, seed: methods.tensor(
            s, p, 8, components=2, sharing=methods.MULTIPLEXED, seed=seed
        )
    ),
    "frequent": Method(
        lambda s, p, seed: methods.frequent(
            s, counts(s), FrequentSettings(**told(p), dim=8), seed=seed
        ),
        exact=False,
        seeded=False,
    ),
    "frequent-digests": Method(
        lambda s, p, seed: methods.frequent(
            s, counts(s, 32), FrequentSettings(**told(with_digests(p)), dim=4), seed=seed
        ),
        exact=False,
        seeded=False,
    ),
    "frequent-hash": Method(
        lambda s, p, seed: methods.frequent(
            s, counts(s), FrequentSettings(**told(p), dim=4, tail="hash"), seed=seed
        ),
        exact=False,
        seeded=False,
    ),
    "frequent-bands": Method(
        lambda s, p, seed: methods.frequent(
            s, counts(s), FrequentSettings(**told(p), dim=3, tail="bands"), seed=seed
        ),
        exact=False,
        seeded=False,
    ),
    "frequent-clusters": Method(
        lambda s, p, seed: methods.frequent(
            s,
            counts(s),
            FrequentSettings(**told(p), dim=3, tail="label-rate"),
            cluster=by_last_digit,
            seed=seed,
        ),
        exact=False,
        seeded=False,
    ),
    "frequent-hot": Method(
        lambda s, p, seed: methods.frequent(
            s,
            counts(s),
            FrequentSettings(**told(p), dim=4, hot_dim=3, chosen="per-feature"),
            seed=seed,
        ),
        exact=False,
        seeded=False,
    ),
    "managed-collision": Method(
        lambda s, p, seed: methods.managed_collision(
            s,
            counts(s),
            batches(s),
            ManagedCollisionSettings(**told(p), dim=4, interval=3),
            seed=seed,
        ),
        exact=False,
        seeded=False,
    ),
    "managed-collision-hash": Method(
        lambda s, p, seed: methods.managed_collision(
            s,
            counts(s),
            batches(s),
            ManagedCollisionSettings(**told(p), dim=4, evict="lfu", tail_share=0.3),
            seed=seed,
        ),
        exact=False,
        seeded=False,
    ),
    "cafe": Method(
        lambda s, p, seed: methods.cafe(
            s, counts(s), batches(s), CafeSettings(**told(p), dim=4, interval=3), seed=seed
        ),
        exact=False,
        seeded=False,
    ),
    "water-filling": Method(
        lambda s, p, seed: methods.water_filled(
            s, counts(s), p, (1, 2, 4), {c.name: 1 + i for i, c in enumerate(s.features)}, seed=seed
        ),
        exact=False,
        seeded=False,
    ),
    "seo-exact": Method(lambda s, p, seed: apply.exact(searched(s, seed), p)),
    "seo-rr": Method(lambda s, p, seed: apply.round_robin(searched(s, seed), p)),
}

# ---- policies that methods do not make -----------------------------------------------------

VOCABULARY = np.array([0, 3, 7, 2**62 - 2, 2**62, 2**63 - 1])
USER_ITEM = ("user", "item")
CROSSED = np.sort(  # ids of crosses of two columns, and that of a missing value
    [2**62 - 1, *(cross_id((i, j)) for i in VOCABULARY.tolist()[:2] for j in (0, 2**62, 7))]
)
DIGESTS = np.sort(np.array([digest(i) for i in VOCABULARY.tolist()]))

POLICIES = {
    # Widths differ between tables; lookups are not in the order of the tables.
    "mixed-dims": Policy(
        (Table("a", 5, 3), Table("b", 700, 8), Table("c", 11, 1)),
        (
            Feature("user", (Lookup("c", seed=3), Lookup("a", seed=2**63 - 1))),
            Feature("item", (Lookup("b", seed=2**62), Lookup("a"), Lookup("c", seed=9))),
        ),
    ),
    "sum": Policy(
        (Table("a", 6, 4), Table("b", 9, 4), Table("c", 5, 2)),
        (
            Feature("user", (Lookup("b", seed=1), Lookup("a", seed=2)), "sum"),
            Feature("item", (Lookup("c", seed=3), Lookup("b", seed=4))),
            Feature("hour", (Lookup("c", seed=5),), "sum"),
        ),
    ),
    # One table read twice by one feature, with equal and with different seeds.
    "twice": Policy(
        (Table("a", 13, 2),),
        (
            Feature("user", (Lookup("a", seed=1), Lookup("a", seed=1), Lookup("a", seed=2))),
            Feature("item", (Lookup("a", seed=1),)),
        ),
    ),
    "id-and-hash": Policy(
        (Table("a", 7, 2), Table("b", 4, 3), Table("c", 20, 2)),
        (
            Feature("user", (Lookup("b", seed=8), Lookup("a", "id"))),
            Feature("item", (Lookup("c", "id"), Lookup("a", seed=8)), "sum"),
        ),
        vocabularies={"user": VOCABULARY, "item": np.empty(0, np.int64)},
    ),
    # The last rows of a table pruned away, by the index of the id and by its hash.
    "codes": Policy(
        (Table("a", 5, 3), Table("b", 4, 2)),
        (
            Feature("user", (Lookup("a", "codes", codes="by id"), Lookup("b", seed=3))),
            Feature("item", (Lookup("a", "codes", seed=9, modulus=20, codes="by hash"),)),
            Feature("hour", (Lookup("b", "codes", seed=8, modulus=20, codes="by hash"),)),
        ),
        vocabularies={"user": VOCABULARY},
        codes={
            "by id": np.array([0, 4, 3, 0, 0, 1, 2], np.int32),
            "by hash": np.array([0, 1, 2, 3] * 5, np.int32),
        },
    ),
    "project": Policy(
        (Table("a", 30, 3), Table("b", 9, 2)),
        (
            Feature("user", (Lookup("a", seed=1), Lookup("b", seed=2)), project=4),
            Feature("item", (Lookup("a", seed=3), Lookup("a", seed=4)), "sum", 1),
            Feature("hour", (Lookup("b", seed=5),)),
        ),
    ),
    # Two digits of the index, and three.
    "digits": Policy(
        (Table("a", 3, 4), Table("b", 3, 4), Table("c", 2, 4)),
        (
            Feature(
                "user",
                (Lookup("a", "remainder", modulus=3), Lookup("b", "quotient", modulus=3)),
                "mul",
            ),
            Feature(
                "item",
                (
                    Lookup("c", "remainder", modulus=2),
                    Lookup("c", "quotient", modulus=2),
                    Lookup("c", "quotient", modulus=4),
                ),
                "mul",
            ),
            Feature("hour", (Lookup("b", seed=5),), "mul"),
        ),
        vocabularies={"user": VOCABULARY, "item": VOCABULARY},
    ),
    "weighted-sum": Policy(
        (Table("a", 11, 3), Table("p", 17, 2), Table("q", 5, 1)),
        (
            Feature(
                "user",
                (Lookup("a", seed=1), Lookup("a", seed=2)),
                "weighted_sum",
                weights=Lookup("p", seed=3),
            ),
            Feature("item", (Lookup("a", seed=4), Lookup("p", seed=5))),
            Feature("hour", (Lookup("a", seed=6),), "weighted_sum", 2, weights=Lookup("q", seed=7)),
        ),
    ),
    # Blocks of one float, of all, and a last one that is cut; one array shared, one not.
    "blocks": Policy(
        (),
        (
            Feature("user", (Lookup("m", "blocks", 2**63 - 1, block=2, width=5),)),
            Feature("item", (Lookup("m", "blocks", 4, block=1, width=3),), project=2),
            Feature("hour", (Lookup("n", "blocks", 5, block=4, width=4),)),
        ),
        arrays=(Array("m", 50), Array("n", 4)),
    ),
    "rows-and-blocks": Policy(
        (Table("a", 11, 3), Table("p", 6, 2)),
        (
            Feature("user", (Lookup("m", "blocks", 1, block=2, width=3), Lookup("a", seed=2))),
            Feature(
                "item", (Lookup("a", seed=3), Lookup("m", "blocks", 4, block=3, width=3)), "sum"
            ),
            Feature(
                "hour",
                (Lookup("a", seed=6), Lookup("a", seed=7)),
                "weighted_sum",
                weights=Lookup("p", seed=7),
            ),
        ),
        arrays=(Array("m", 40),),
    ),
    # What is served in every type; odd widths, so that numbers of four bits end in half a byte.
    "dtypes": Policy(
        (
            Table("a", 11, 3, "float16"),
            Table("b", 7, 5, "bfloat16"),
            Table("c", 9, 5, "int8"),
            Table("d", 8, 3, "int4"),
            Table("e", 7, 2),
        ),
        (
            Feature("user", (Lookup("a", seed=1), Lookup("b", seed=2), Lookup("c", seed=3))),
            Feature("item", (Lookup("d", seed=4), Lookup("m", "blocks", 5, block=2, width=3))),
            Feature("hour", (Lookup("e", "id"), Lookup("n", "blocks", 6, block=1, width=2))),
        ),
        vocabularies={"hour": VOCABULARY},
        arrays=(Array("m", 31, "int4"), Array("n", 20, "float16")),
    ),
    # Ids outside the vocabulary share one row, two, and five.
    "unknown-rows": Policy(
        (Table("a", 12, 3), Table("b", 9, 3)),
        (
            Feature("user", (Lookup("a", "id", 8, unknown_rows=5), Lookup("b", seed=8))),
            Feature("item", (Lookup("b", "id", 2**63 - 1, unknown_rows=2),), project=2),
            Feature("hour", (Lookup("a", "id"), Lookup("b", "id", 9, unknown_rows=3)), "mul"),
        ),
        vocabularies=dict.fromkeys(("user", "item", "hour"), VOCABULARY),
    ),
    # Two features of one column, and one whose name the data lacks.
    "columns": Policy(
        (Table("a", 40, 3), Table("b", 9, 2)),
        (
            Feature("often", (Lookup("b", seed=1),), columns=("item",)),
            Feature("item", (Lookup("a", seed=2),)),
            Feature("who", (Lookup("a", seed=3), Lookup("b", seed=4)), columns=("user",)),
        ),
    ),
    # Read by hash alone, in one pass.
    "crosses": Policy(
        (Table("a", 50, 3), Table("b", 30, 2)),
        (
            Feature("user", (Lookup("a", seed=1),)),
            Feature("user x item", (Lookup("a", seed=2), Lookup("b", seed=3)), columns=USER_ITEM),
            Feature("item x user", (Lookup("a", seed=2),), columns=("item", "user")),
            Feature("three", (Lookup("b", seed=4),), columns=("hour", *USER_ITEM)),
        ),
    ),
    # Crosses in every other way: product, weighted sum, blocks, codes, projection, index.
    "crosses-of-all-kinds": Policy(
        (Table("a", 40, 3), Table("p", 9, 2), Table("q", 12, 3)),
        (
            Feature("mul", (Lookup("a", seed=1), Lookup("a", seed=2)), "mul", columns=USER_ITEM),
            Feature(
                "sum",
                (Lookup("a", seed=3), Lookup("a", seed=4)),
                "weighted_sum",
                weights=Lookup("p", seed=5),
                columns=("hour", "user"),
            ),
            Feature(
                "codes",
                (Lookup("a", "codes", 9, modulus=20, codes="kept"),),
                project=2,
                columns=("item", "hour"),
            ),
            Feature("m", (Lookup("m", "blocks", 1, block=2, width=5),), columns=("item", "user")),
            Feature("known", (Lookup("q", "id", 6, unknown_rows=4),), columns=USER_ITEM),
            Feature("hour", (Lookup("p", seed=7),)),
        ),
        vocabularies={"known": CROSSED},
        codes={"kept": np.array([0, 1, 2, 3] * 5, np.int32)},
        arrays=(Array("m", 50),),
    ),
    # Vocabularies of digests, read by every address of the index, beside hashes of the ids.
    "digests": Policy(
        (Table("a", 12, 4), Table("b", 9, 4, "int8"), Table("c", 3, 4), Table("d", 40, 4)),
        (
            Feature(
                "user", (Lookup("a", "id", 8, unknown_rows=5), Lookup("d", seed=8)), id_bits=32
            ),
            Feature("item", (Lookup("b", "id"), Lookup("a", seed=3)), "sum", id_bits=32),
            Feature("hour", (Lookup("a", "id"), Lookup("d", seed=1))),
            Feature(
                "digits",
                (Lookup("c", "remainder", modulus=3), Lookup("c", "quotient", modulus=3)),
                "mul",
                columns=("user",),
                id_bits=32,
            ),
            Feature(
                "coded",
                (
                    Lookup("b", "codes", codes="by id"),
                    Lookup("d", "codes", 9, modulus=7, codes="by id"),
                ),
                columns=("item",),
                id_bits=32,
            ),
            Feature(
                "known", (Lookup("b", "id", 6, unknown_rows=2),), columns=USER_ITEM, id_bits=32
            ),
        ),
        vocabularies={
            "user": DIGESTS,
            "item": DIGESTS[:3],
            "hour": VOCABULARY,
            "digits": DIGESTS,
            "coded": DIGESTS,
            "known": np.sort(np.array([digest(i) for i in CROSSED.tolist()]))[:4],
        },
        codes={"by id": np.array([0, 4, 3, 0, 0, 1, 2], np.int32)},
    ),
    "one-row": Policy((Table("a", 1, 1),), (Feature("user", (Lookup("a", seed=5),)),)),
    "dropped": Policy(
        (Table("a", 8, 4),), (Feature("hour", (Lookup("a"),)),), dropped=("user", "item")
    ),
}

# Every policy the embedding laws are stated about: those above, and every method's.
BUILDABLE = {
    **POLICIES,
    **{name: m.make(SCHEMAS["three"], 5_003, 0) for name, m in METHODS.items()},
    "names": methods.separate(SCHEMAS["names"], 400, 4),
    "search-space": searched(SCHEMAS["three"], 5, "shared"),
    "cce": clustered(SCHEMAS["three"], 1_500),
    "pruned": halves_pruned(SCHEMAS["three"], 1_500),
}

# ---- batches -------------------------------------------------------------------------------

ROWS = 9  # rows of a batch


@dataclass(frozen=True)
class Bags:
    """How many ids a bag holds, from 0 to ``most``, and whether each comes with a weight."""

    least: int
    most: int
    weighted: bool = False


BAGS = {
    "single": Bags(1, 1),
    "single-weighted": Bags(1, 1, weighted=True),
    "optional": Bags(0, 1),
    "bags": Bags(0, 4),
    "bags-weighted": Bags(0, 4, weighted=True),
    "empty": Bags(0, 0),
}


def batch(names: tuple[str, ...], bags: Bags, rows: int = ROWS, seed: int = 0) -> KeyedJaggedTensor:
    """Ids of every kind: small, just below and above 2^62, the largest, and known ones."""
    rng = np.random.default_rng([seed, rows, bags.most])
    lengths = rng.integers(bags.least, bags.most + 1, len(names) * rows)
    total = int(lengths.sum())
    kinds = np.stack(
        [
            rng.integers(0, 30, total),
            2**62 + rng.integers(-2, 3, total),
            rng.integers(0, 2**63 - 1, total, endpoint=True),
            rng.choice(VOCABULARY, total),
        ]
    )
    ids = kinds[rng.integers(0, 4, total), np.arange(total)]
    weights = torch.from_numpy(rng.normal(size=total).astype(np.float32))
    return KeyedJaggedTensor(
        keys=list(names),
        values=torch.from_numpy(ids),
        lengths=torch.from_numpy(lengths.astype(np.int32)),
        weights=weights if bags.weighted else None,
    )


# ---- hash tables ---------------------------------------------------------------------------

ROW_COUNTS = (1, 2, 3, 100, 6000, 2**31 - 1)
SEEDS = (0, 1, 0x0123456789ABCDEF, 2**62, 2**63 - 1)

# ---- backbones -----------------------------------------------------------------------------

BACKBONES = {
    "mlp": ModelSettings("mlp", hidden=(16, 8)),
    "mlp-linear": ModelSettings("mlp", hidden=()),
    "mlp-dropout": ModelSettings("mlp", hidden=(16,), dropout=0.5),
    "dcn-v2": ModelSettings("dcn-v2", hidden=(16, 8)),
    "dcn-v2-parallel": ModelSettings(
        "dcn-v2", hidden=(16, 8), interaction=DCNv2Settings(3, structure="parallel")
    ),
    "dcn-v2-low-rank": ModelSettings("dcn-v2", hidden=(16,), interaction=DCNv2Settings(2, rank=2)),
    "dcn-v2-cross": ModelSettings("dcn-v2", hidden=()),
    "dcn": ModelSettings("dcn", hidden=(16, 8)),
    "dcn-cross": ModelSettings("dcn", hidden=(), interaction=DCNSettings(2)),
    "dlrm": ModelSettings("dlrm", hidden=(16, 8)),
    "wide-deep": ModelSettings("wide-deep", hidden=(16, 8)),
    "wide-deep-linear": ModelSettings("wide-deep", hidden=()),
    "deepfm": ModelSettings("deepfm", hidden=(16, 8)),
    "deepfm-fm": ModelSettings("deepfm", hidden=()),
    "fnn": ModelSettings("fnn", hidden=(16, 8)),
    "ipnn": ModelSettings("ipnn", hidden=(16, 8)),
    "xdeepfm": ModelSettings("xdeepfm", hidden=(16,), interaction=XDeepFMSettings((5, 4, 3))),
    "xdeepfm-cin": ModelSettings("xdeepfm", hidden=(), interaction=XDeepFMSettings((5,))),
    "autoint": ModelSettings("autoint", hidden=(16,), interaction=AutoIntSettings(2, 2, 3)),
    "autoint-attention": ModelSettings("autoint", hidden=()),
    "nfm": ModelSettings("nfm", hidden=(16, 8)),
    "nfm-linear": ModelSettings("nfm", hidden=()),
}
