"""What the throughput benchmark trains on: policies of one size, and batches of ids.

Letters: B rows, N dense columns.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.ranks.planner import skewed_policy
from seo_rec import apply, methods
from seo_rec.batch import Batch
from seo_rec.data.dataset import DataSet
from seo_rec.data.stream import Stream
from seo_rec.policy import Policy
from seo_rec.schema import Column, Schema
from seo_rec.search import seo
from seo_rec.train import Ranks

CHUNKS = 4  # of the search: each feature may read up to so many chunk tables
METHODS = ("separate", "monolithic", "multi-size", "exact", "round-robin", "search")
SKEWED = "skewed"


# ---- policies ----------------------------------------------------------------------------


def make_policy(name: str, schema: Schema, params: int, dim: int) -> Policy:
    """The policy of a method, or the ``skewed`` one, at ``params`` floats.

    The search holds as many floats as the models it is searched for (``adjust_hash_buckets``), in
    ``CHUNKS`` chunk tables of half a width that every feature reads. The applier keeps as many
    chunks as multi-size has, chosen by a made-up attention that favours columns of many ids.
    """
    if name == SKEWED:
        return _skewed(schema, params, dim)
    if name == "separate":
        return methods.separate(schema, params, dim)
    if name == "monolithic":
        return methods.monolithic(schema, params, dim)
    if name == "multi-size":
        return methods.multi_size(schema, params, dim)
    settings = search_settings(params, dim)
    space = seo.search_space(schema, settings)
    if name == "search":
        return space
    sizes = torch.tensor([float(c.vocab_size or 0) for c in schema.features])
    noise = torch.rand(len(sizes), CHUNKS, generator=torch.Generator().manual_seed(1))
    alpha = noise + (sizes.argsort().argsort() / len(sizes))[:, None]
    chosen = seo.select(space, alpha, settings.chosen(len(sizes)), min_chunks=1)
    return apply.STRATEGIES[name](chosen, params)


def search_settings(params: int, dim: int) -> seo.SeoSettings:
    return seo.SeoSettings(
        budget_rows=params // dim,
        dim=dim,
        chunk_dim=dim // 2,
        search_dim=CHUNKS * dim // 2,
        adjust_hash_buckets=True,
    )


def _skewed(schema: Schema, params: int, dim: int) -> Policy:
    """``benchmarks.ranks.planner``'s skewed policy for the first columns of ``schema``.

    Raises:
        SystemExit: fewer than four columns.
    """
    names = [c.name for c in schema.features][:24]
    if len(names) < 4:
        raise SystemExit(f"the skewed policy needs 4 features or more; the data has {names}")
    policy = skewed_policy(len(names), dim, rows=params // (8 * dim))
    pairs = zip(policy.features, names, strict=True)
    return replace(policy, features=tuple(replace(f, name=n) for f, n in pairs))


# ---- data --------------------------------------------------------------------------------


def zipf_schema(features: int, vocabulary: int, dense: int) -> Schema:
    """Columns of 4 to ``vocabulary`` ids in geometric steps, and ``dense`` numeric ones."""
    sizes = np.geomspace(4, vocabulary, features).astype(int).tolist()
    columns = [Column(f"f{i}", "categorical", size) for i, size in enumerate(sizes)]
    columns += [Column(f"n{i}", "numeric") for i in range(dense)]
    return Schema("zipf", tuple(columns), "label", {"train": 0}, {"train": 0.5})


def zipf_batches(schema: Schema, exponent: float, rows: int, count: int, seed: int) -> list[Batch]:
    """Batches of one id per feature, id r with frequency ~ (r + 1)^-exponent."""
    rng = np.random.default_rng(seed)
    cumulative = []
    for c in schema.features:
        weights = np.arange(1, (c.vocab_size or 0) + 1, dtype=np.float64) ** -exponent
        cumulative.append(np.cumsum(weights) / weights.sum())
    names = [c.name for c in schema.features]
    batches = []
    for _ in range(count):
        ids = [np.searchsorted(sums, rng.random(rows)) for sums in cumulative]
        sparse = KeyedJaggedTensor(
            keys=names,
            values=torch.from_numpy(np.concatenate(ids).astype(np.int64)),
            lengths=torch.ones(len(names) * rows, dtype=torch.int32),
            stride=rows,
        )
        dense_BN = rng.standard_normal((rows, len(schema.numeric)), dtype=np.float32)
        labels_B = rng.integers(0, 2, rows).astype(np.float32)
        batches.append(Batch(torch.from_numpy(dense_BN), sparse, torch.from_numpy(labels_B)))
    return batches


def data_batches(data: DataSet, rows: int, count: int, here: Ranks) -> list[Batch]:
    """The first shuffled batches of a prepared data set, this rank's share.

    Raises:
        SystemExit: the training split is too small.
    """
    stream = Stream(
        data,
        batch_size=rows,
        shuffle=True,
        rank=here.rank,
        world_size=here.world_size,
        drop_last=True,
    )
    batches = list(itertools.islice(stream, count))
    if len(batches) < count:
        raise SystemExit(
            f"{data.path} has rows for {len(batches)} batches of {rows} rows on {here.world_size} "
            f"ranks; asked: {count}. Take a smaller --batch or --batches"
        )
    return batches
