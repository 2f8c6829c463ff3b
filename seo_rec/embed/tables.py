"""The tables of a policy as TorchRec configs: their names, and where their weights start."""

from __future__ import annotations

import math

from torch import nn
from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType

from seo_rec.embed.remap import row_lookups
from seo_rec.policy import Policy
from seo_rec.settings import INIT_SCALE

DATA_TYPES = {"float32": DataType.FP32, "float16": DataType.FP16, "bfloat16": DataType.BF16}
_MODULES = nn.ModuleDict()  # only to ask which names it takes


def table_key(table: str) -> str:
    """The name of a table's module: its own, unless ``nn.ModuleDict`` refuses that one.

    Column names such as ``type``, ``items`` and ``user.id`` are good table names and no module
    names; they are quoted after a prefix, one to one.
    """
    if "." not in table and not table.startswith("quoted-") and not hasattr(_MODULES, table):
        return table
    return "quoted-" + table.replace("%", "%25").replace(".", "%2E")


def table_configs(
    policy: Policy, init_scale: float = INIT_SCALE, storage: str = "float32"
) -> list[EmbeddingBagConfig]:
    """The policy's tables as TorchRec configs; the features of a table are lookup keys."""
    readers: dict[str, list[str]] = {t.name: [] for t in policy.tables}
    for key, _, lookup in row_lookups(policy):
        readers[lookup.table].append(key)
    start = initial_ranges(policy, init_scale)
    return [
        EmbeddingBagConfig(
            name=table_key(t.name),
            num_embeddings=t.num_rows,
            embedding_dim=t.dim,
            feature_names=readers[t.name],
            pooling=PoolingType.SUM,
            weight_init_min=start[t.name][0],
            weight_init_max=start[t.name][1],
            data_type=DATA_TYPES[storage],
        )
        for t in policy.tables
    ]


def initial_ranges(policy: Policy, init_scale: float) -> dict[str, tuple[float, float]]:
    """Where the weights of each table start: uniform in this range.

    Ranges are such that every feature's vector starts with the variance of a plain row, that of
    [-init_scale, init_scale]. The k factors of a product start wider: variances multiply. The k
    importance weights of an id start around 1 / sqrt(k), and apart, so that ids with the same rows
    do not start alike.
    """
    ranges = {t.name: (-init_scale, init_scale) for t in policy.tables}
    for f in policy.features:
        if f.combine == "mul":
            for k in f.lookups:
                # the map of a projection starts with a third of the variance that keeps lengths
                product = init_scale * (1 if f.project is None else math.sqrt(3.0))
                wide = math.sqrt(3.0) * (product / math.sqrt(3.0)) ** (1 / len(f.lookups))
                ranges[k.table] = (-wide, wide) if len(f.lookups) > 1 else ranges[k.table]
    for f in policy.features:
        if f.weights is not None:
            mean = 1 / math.sqrt(len(f.lookups))
            ranges[f.weights.table] = (0.5 * mean, 1.5 * mean)
    return ranges
