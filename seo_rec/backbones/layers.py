"""Parts that several backbones share.

Letters: B batch, N dense columns, F features, E sum of the features' widths, Z = N + E,
V vectors, D their common width, P pairs of vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

RELU = partial(nn.ReLU, inplace=True)


class Inputs(nn.Module):
    """``[dense, x]``, after a check that both have the widths the backbone was built for.

    Args:
        num_dense: N.
        dims: widths of the features; their sum is E.

    Raises:
        ValueError: a width or a number of columns that no data set has.
    """

    def __init__(self, num_dense: int, dims: Sequence[int]) -> None:
        super().__init__()
        if num_dense < 0 or not dims or min(dims) < 1:
            raise ValueError(
                f"{num_dense} dense columns and features of widths {tuple(dims)}; allowed: 0 or "
                "more columns, one feature or more, widths of 1 or more"
            )
        self.num_dense = num_dense
        self.dims = tuple(dims)
        self.width = num_dense + sum(dims)

    def check(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> None:
        """Raises: ValueError: not as many columns as the constructor was told."""
        if (dense_BN.shape[1], x_BE.shape[1]) != (self.num_dense, self.width - self.num_dense):
            raise ValueError(
                f"{tuple(dense_BN.shape)} dense values and {tuple(x_BE.shape)} of embeddings; "
                f"this backbone was built for {self.num_dense} dense columns and features of "
                f"widths {self.dims}, together {self.width - self.num_dense}; build it anew for "
                "other data or another policy"
            )

    def forward(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, N) and (B, E). Returns: z_BZ float32 (B, N + E)."""
        self.check(dense_BN, x_BE)
        return torch.cat([dense_BN, x_BE], dim=1) if self.num_dense else x_BE


class FeatureVectors(nn.Module):
    """One vector of width D for every feature, and ``value * vector`` for every dense column.

    D is the width of the widest feature. A narrower feature goes through a linear map of its own,
    ``v_f = W_f x_f`` with W_f (D, d_f); a feature of width D is taken as it is, so a policy of
    equal widths has no such maps. Maps and vectors of dense columns are parameters of the
    backbone: they do not grow with the vocabularies and are no part of the embedding budget.

    Args:
        num_dense: N, dense columns that get a vector.
        dims: widths of the features.
    """

    def __init__(self, num_dense: int, dims: Sequence[int]) -> None:
        super().__init__()
        self.dims = list(dims)
        self.width = max(dims)
        self.num_vectors = len(dims) + num_dense
        self.projections = nn.ModuleList(
            nn.Identity() if d == self.width else nn.Linear(d, self.width, bias=False) for d in dims
        )
        self.dense_ND = nn.Parameter(torch.empty(num_dense, self.width)) if num_dense else None
        if self.dense_ND is not None:
            nn.init.xavier_uniform_(self.dense_ND)

    def forward(self, dense_BN: torch.Tensor, x_BE: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, N) and (B, E). Returns: v_BVD float32, features before columns."""
        if min(self.dims) == self.width:
            v_BVD = x_BE.unflatten(1, (len(self.dims), self.width))
        else:
            parts = zip(self.projections, x_BE.split(self.dims, dim=1), strict=True)
            v_BVD = torch.stack([project(x_BD) for project, x_BD in parts], dim=1)
        if self.dense_ND is None:
            return v_BVD
        return torch.cat([v_BVD, dense_BN[:, :, None] * self.dense_ND], dim=1)


class PairProducts(nn.Module):
    """``<v_i, v_j>`` for all i < j, in the order (0, 1), (0, 2), ..., (1, 2), ...

    As in TorchRec's InteractionArch, in half its time on a CPU: one index into a flat matrix.

    Args:
        num_vectors: V, at least 2.
    """

    pairs_P: torch.Tensor

    def __init__(self, num_vectors: int) -> None:
        super().__init__()
        require_pairs(num_vectors)
        row, column = torch.triu_indices(num_vectors, num_vectors, offset=1)
        self.register_buffer("pairs_P", row * num_vectors + column, persistent=False)
        self.num_pairs = len(row)

    def forward(self, v_BVD: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, V, D). Returns: float32 (B, P)."""
        return (v_BVD @ v_BVD.mT).flatten(1).index_select(1, self.pairs_P)


class CrossBesideDeep(nn.Module):
    """``W [cross(z), deep(z)] + b``: the parallel form of both DCN papers.

    Args:
        cross: keeps the width of its input.
        width: Z.
        hidden: widths of the deep network; without any there is only the cross network.
        dropout: probability of dropping a hidden unit in training.
    """

    def __init__(self, cross: nn.Module, width: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.cross = cross
        self.deep = nn.Sequential(*hidden_layers(width, hidden, dropout)) if hidden else None
        self.last = nn.Linear(width + (hidden[-1] if hidden else 0), 1)

    def forward(self, z_BZ: torch.Tensor) -> torch.Tensor:
        """Args: float32 (B, Z). Returns: logits float32 (B, 1)."""
        crossed = self.cross(z_BZ)
        if self.deep is None:
            return self.last(crossed)
        return self.last(torch.cat([crossed, self.deep(z_BZ)], dim=1))


def pair_sum(v_BVD: torch.Tensor) -> torch.Tensor:
    """``sum over i < j of v_i * v_j``, as ``((sum v)^2 - sum v^2) / 2``.

    Summed over D it is the pairwise term of a factorization machine. TorchRec's
    FactorizationMachine is another thing on such vectors: it multiplies every number with every
    other, also within one vector.

    Args: float32 (B, V, D). Returns: float32 (B, D).
    """
    return 0.5 * (v_BVD.sum(1).square() - v_BVD.square().sum(1))


def require_pairs(num_vectors: int) -> None:
    """Raises: ValueError: fewer than two vectors."""
    if num_vectors < 2:
        raise ValueError(
            f"{num_vectors} feature vector has no pair to interact; allowed: two or more features "
            "or dense columns; use backbone mlp"
        )


def hidden_layers(
    width: int, hidden: Sequence[int], dropout: float, activation: Callable[[], nn.Module] = RELU
) -> list[nn.Module]:
    """Linear, activation and dropout for every width of ``hidden``."""
    layers: list[nn.Module] = []
    for units in hidden:
        layers += [nn.Linear(width, units), activation()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = units
    return layers


def logit_layers(
    width: int, hidden: Sequence[int], dropout: float, activation: Callable[[], nn.Module] = RELU
) -> nn.Sequential:
    """``hidden_layers`` and a linear map to one logit: (B, width) to (B, 1)."""
    layers = hidden_layers(width, hidden, dropout, activation)
    return nn.Sequential(*layers, nn.Linear(hidden[-1] if hidden else width, 1))
