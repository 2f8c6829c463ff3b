"""The types in which tables are served, applied to trained floats.

``docs/policy-format.md`` defines the types; :mod:`seo_rec.policy.dtypes` is the reference.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch

from seo_rec.embed.rows import PolicyEmbedding, table_key
from seo_rec.policy import DTYPES, Policy, with_precision
from seo_rec.policy.dtypes import dequantize_rows, quantize_rows

Array = npt.NDArray[Any]

PRECISIONS = DTYPES

__all__ = ["PRECISIONS", "float_weights", "serve_stored_", "with_precision"]


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


@torch.no_grad()
def serve_stored_(embedding: PolicyEmbedding, policy: Policy) -> None:
    """Put tables and arrays through the types of ``policy``, so that they are as they are served.

    Args:
        embedding: Whole, with tables of one layer.
        policy: The one that it was built from, with the types.

    Raises:
        ValueError: A type cannot hold the numbers of a table.
    """
    for t in policy.tables:
        weight = embedding.ebc.embedding_bags[table_key(t.name)].weight
        weight.copy_(_through(weight, t.dtype))
    if embedding.flat is not None:
        parts = embedding.flat.weight.view(-1).split([a.size for a in policy.arrays])
        for a, part in zip(policy.arrays, parts, strict=True):
            part.copy_(_through(part[None, :], a.dtype)[0])


def _through(weight_nd: torch.Tensor, dtype: str) -> torch.Tensor:
    if dtype == "float32":
        return weight_nd
    floats = _numpy(weight_nd)
    stored = quantize_rows(floats, dtype)
    return torch.from_numpy(dequantize_rows(stored, floats.shape[1], dtype))


def _numpy(tensor: torch.Tensor) -> Array:
    return tensor.detach().cpu().numpy()
