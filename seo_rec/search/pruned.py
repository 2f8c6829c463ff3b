"""The policy of a model whose rows, or parts of rows, were pruned by a score.

Letters: F features, V ids of a feature, J blocks of columns that a row is cut into.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from seo_rec.embed import table_key
from seo_rec.policy import (
    Allowance,
    Codes,
    Feature,
    Ids,
    Lookup,
    Policy,
    PolicyError,
    Table,
)
from seo_rec.policy.allowance import allowance_from
from seo_rec.policy.entries import FULL_BITS
from seo_rec.schema import Schema
from seo_rec.search.space import require

Scores = npt.NDArray[np.float32]
Kept = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PrunedSettings:
    """Settings of searches that train a row per id and keep the best of them.

    Args:
        params: Budget in parameters (floats), in which ids are free.
        num_bytes: Budget in bytes to serve, ids included, in place of params; 0: params says it.
        precision: The type in which rows are stored.
        id_bits: Bits of an id in a vocabulary: 64, or 32 for its digest.
        dim: Width of a row, in floats.
        blocks: Parts of equal width of a row, each of which is kept or not; 1 keeps whole rows.
    """

    params: int = 0
    num_bytes: int = field(default=0, kw_only=True)
    precision: str = field(default="float32", kw_only=True)
    id_bits: int = field(default=FULL_BITS, kw_only=True)
    dim: int = 16
    blocks: int = 1

    def __post_init__(self) -> None:
        allowance_from(self.params, self.num_bytes, self.precision, self.id_bits)
        require(1 <= self.dim <= 65536, "dim", self.dim, "1 to 65536")
        good = self.blocks >= 1 and self.dim % self.blocks == 0
        require(good, "blocks", self.blocks, f"a divisor of dim {self.dim}")

    @property
    def allowance(self) -> Allowance:
        """The budget and the precision."""
        return allowance_from(self.params, self.num_bytes, self.precision, self.id_bits)


def whole_policy(
    schema: Schema, vocabularies: Mapping[str, Ids], dim: int, id_bits: int = FULL_BITS
) -> Policy:
    """A row for every training id (or digest), and one for all others, of every feature."""
    names = [c.name for c in schema.features]
    tables = tuple(Table(n, len(vocabularies[n]) + 1, dim) for n in names)
    features = tuple(Feature(n, (Lookup(n, "id"),), id_bits=id_bits) for n in names)
    return Policy(tables, features, (), {n: vocabularies[n] for n in names})


def cost_of_shared_rows(num_features: int, s: PrunedSettings) -> int:
    """What the shared row of every feature takes, in floats or bytes, with its codes."""
    allowance = s.allowance
    codes = s.blocks * allowance.codes(1) if s.blocks > 1 else 0
    return num_features * (s.blocks * allowance.row(s.dim // s.blocks) + codes)


def require_shared_rows(num_features: int, s: PrunedSettings, optional: bool = False) -> None:
    """PolicyError unless the budget has room for a shared row of each feature.

    Args:
        num_features: F.
        s: The budget and the blocks.
        optional: Whether there may be no budget.
    """
    least, allowance = cost_of_shared_rows(num_features, s), s.allowance
    if allowance.amount < least and (allowance.amount or not optional):
        raise PolicyError(
            f"a budget of {allowance} is too small for the shared rows of {num_features} features; "
            f"the smallest feasible budget is {least}"
        )


def best_cells(scores: Sequence[Scores], s: PrunedSettings) -> list[Kept]:
    """Which blocks of which ids are kept: the best of all features that fit.

    Blocks are taken by falling score (ties: the first feature, id and block) as long as everything
    stored fits: a row of ``dim / blocks`` floats for each, and with the first block of an id the id
    itself and, with several blocks, a code for each of them. Without a budget all blocks of a score
    above 0 are kept.

    Args:
        scores: Of every feature, float32 (V, J).
        s: The budget and the blocks.

    Returns:
        Of every feature, bool (V, J).
    """
    if not s.allowance.amount:
        return [score > 0 for score in scores]
    flat = np.concatenate([score.reshape(-1) for score in scores])
    order = np.argsort(-flat, kind="stable")
    id_of = order // s.blocks
    first = np.zeros(len(order), bool)
    first[np.unique(id_of, return_index=True)[1]] = True
    allowance = s.allowance
    of_id = allowance.ids(1) + (s.blocks * allowance.codes(1) if s.blocks > 1 else 0)
    takes = np.cumsum(allowance.row(s.dim // s.blocks) + of_id * first)
    room = allowance.amount - cost_of_shared_rows(len(scores), s)
    kept = np.zeros(len(flat), bool)
    kept[order[: int(np.searchsorted(takes, room, side="right"))]] = True
    parts = np.split(kept, np.cumsum([score.size for score in scores])[:-1])
    return [part.reshape(score.shape) for part, score in zip(parts, scores, strict=True)]


def pruned_policy(
    schema: Schema,
    vocabularies: Mapping[str, Ids],
    kept: Sequence[Kept],
    s: PrunedSettings,
    origin: Mapping[str, Any],
) -> Policy:
    """Ids that are kept have rows; row 0 of a table is read by all others, also by new ids.

    With one block ids are kept as a vocabulary. With several, every block is a table of its own,
    which codes of the ids say the row in; an id of which only some blocks are kept reads row 0 in
    the other tables.
    """
    tables, features, known = list[Table](), list[Feature](), dict[str, Ids]()
    codes: dict[str, Codes] = {}
    for c, kept_VJ in zip(schema.features, kept, strict=True):
        some = kept_VJ.any(1)
        known[c.name] = vocabularies[c.name][some]
        lookups = []
        for j, table in enumerate(_tables(c.name, s)):
            mine = kept_VJ[some, j]
            tables.append(Table(table, 1 + int(mine.sum()), s.dim // s.blocks))
            if s.blocks == 1:
                lookups.append(Lookup(table, "id"))
                continue
            rows = np.where(mine, np.cumsum(mine), 0)
            codes[table] = np.concatenate([[0], rows]).astype(np.int32)
            lookups.append(Lookup(table, "codes", codes=table))
        features.append(Feature(c.name, tuple(lookups)))
    made = Policy(tuple(tables), tuple(features), (), known, origin, codes)
    return s.allowance.typed(made)


def _tables(name: str, s: PrunedSettings) -> list[str]:
    """The table of every block of a feature."""
    return [name] if s.blocks == 1 else [f"{name}:{j}" for j in range(s.blocks)]


def pruned_weights(
    schema: Schema,
    state: Mapping[str, torch.Tensor],
    kept: Sequence[Kept],
    s: PrunedSettings,
) -> dict[str, torch.Tensor]:
    """Weights of the policy's own model: the blocks of rows that are kept, and rows 0.

    Args:
        schema: The data set.
        state: Of the model of :func:`whole_policy`, by the names of ``RecModel.state_dict()``.
        kept: Of every feature, bool (V, J).
        s: The blocks.
    """
    width = s.dim // s.blocks
    found = {n: w.detach().cpu().clone() for n, w in state.items() if n.startswith("backbone.")}
    for c, kept_VJ in zip(schema.features, kept, strict=True):
        whole = state[_weight(c.name)].detach().cpu()
        for j, table in enumerate(_tables(c.name, s)):
            rows = torch.from_numpy(np.concatenate([[True], kept_VJ[:, j]]))
            found[_weight(table)] = whole[rows, j * width : (j + 1) * width].clone()
    return found


def _weight(table: str) -> str:
    return f"embedding.ebc.embedding_bags.{table_key(table)}.weight"


def block_norms(rows_VD: torch.Tensor, blocks: int, order: int) -> Scores:
    """``|e_v[block j]|`` of every id, float32 (V, J); row 0, of unknown ids, is left out.

    Args:
        rows_VD: The table of a feature, its first row included.
        blocks: J.
        order: 1 for the sum of absolute values, 2 for the root of the sum of squares.
    """
    cut = rows_VD.detach()[1:].reshape(len(rows_VD) - 1, blocks, -1)
    norms: Scores = torch.linalg.vector_norm(cut, ord=order, dim=2).cpu().numpy()
    return norms


def told(names: Sequence[str], kept: Sequence[Kept]) -> dict[str, Any]:
    """What a search records of the ids: how many are kept of how many, and of every block."""
    return {
        "ids": {n: [int(k.any(1).sum()), len(k)] for n, k in zip(names, kept, strict=True)},
        "blocks": {n: k.sum(0).tolist() for n, k in zip(names, kept, strict=True)},
    }
