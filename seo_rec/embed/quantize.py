"""The types in which tables are served, applied to trained floats.

``docs/policy-format.md`` defines the types; :mod:`seo_rec.policy.dtypes` is the reference.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy.typing as npt
import torch

from seo_rec.embed.rows import PolicyEmbedding
from seo_rec.embed.tables import table_key
from seo_rec.policy import Policy
from seo_rec.policy.dtypes import dequantize_rows, quantize_rows

Array = npt.NDArray[Any]


def float_weights(embedding: PolicyEmbedding) -> dict[str, Array]:
    """float32 of every table and array by its name, and of projections by ``project.<number>``."""
    policy = embedding.policy
    bags = embedding.ebc.embedding_bags
    found = {t.name: _numpy(bags[table_key(t.name)].weight) for t in policy.tables}
    if embedding.flat is not None:
        parts = embedding.flat.weight.view(-1).split([a.size for a in policy.arrays])
        found |= {a.name: _numpy(part) for a, part in zip(policy.arrays, parts, strict=True)}
    if embedding.project is not None:
        maps = embedding.project.linear
        for i, f in enumerate(policy.features):
            if f.project is not None:
                found[f"project.{i}"] = _numpy(maps[table_key(f.name)].get_parameter("weight"))
    return found


def serve_stored_(embedding: PolicyEmbedding, policy: Policy) -> None:
    """Put tables and arrays through the types of ``policy``, so that they are as they are served.

    Args:
        embedding: Whole, with tables of one layer.
        policy: The one that it was built from, with the types.

    Raises:
        ValueError: A type cannot hold the numbers of a table.
    """
    floats = float_weights(embedding)
    dtypes = {t.name: t.dtype for t in policy.tables} | {a.name: a.dtype for a in policy.arrays}
    rounded = ((name, _through(floats[name], dtype)) for name, dtype in dtypes.items())
    put_floats_(embedding, rounded)


@torch.no_grad()
def put_floats_(embedding: PolicyEmbedding, floats: Iterable[tuple[str, Array]]) -> None:
    """Put other numbers in the place of trained ones.

    Args:
        embedding: Whole, with tables of one layer.
        floats: float32 of tables (n, d) and arrays (size,), each behind its name.
    """
    policy = embedding.policy
    bags = embedding.ebc.embedding_bags
    weights = {t.name: bags[table_key(t.name)].weight for t in policy.tables}
    if embedding.flat is not None:
        parts = embedding.flat.weight.view(-1).split([a.size for a in policy.arrays])
        weights |= {a.name: part for a, part in zip(policy.arrays, parts, strict=True)}
    for name, values in floats:
        weights[name].copy_(torch.from_numpy(values))


def _through(floats: Array, dtype: str) -> Array:
    if dtype == "float32":
        return floats
    rows = floats if floats.ndim == 2 else floats[None, :]
    stored = quantize_rows(rows, dtype)
    return dequantize_rows(stored, rows.shape[1], dtype).reshape(floats.shape)


def _numpy(tensor: torch.Tensor) -> Array:
    return tensor.detach().float().cpu().numpy()
