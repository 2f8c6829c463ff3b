"""A policy in the place of TorchRec's ``EmbeddingBagCollection``: equal widths, keyed by feature.

Letters: B batch, F features, D the width of every feature, E sum of the policy's widths.
"""

from __future__ import annotations

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor, KeyedTensor

from seo_rec.embed.combine import Project
from seo_rec.embed.rows import PolicyEmbedding
from seo_rec.embed.tables import table_key
from seo_rec.policy import Policy
from seo_rec.settings import INIT_SCALE


class KeyedEmbedding(nn.Module):
    """``KJT[features] -> KeyedTensor[features]``, every feature ``dim`` wide.

    ``out[f] = x_f`` or, where the policy gives ``f`` another width than ``dim``, ``x_f W_f^T`` with
    a learnt ``W_f`` of its own and no bias, so that an empty bag still gives zeros; ``x_f`` is the
    feature's part of :class:`PolicyEmbedding`'s output.

    Takes the place of an ``EmbeddingBagCollection`` in TorchRec's ``DLRM``, ``DLRM_DCN`` and
    ``SimpleDeepFMNN``, which never sees the policy's tables: ``embedding_bag_configs()`` names one
    *virtual* table per feature. ``DistributedModelParallel`` finds and shards the real ones in
    ``rows.ebc``, and starts the shards as ``init_scale`` says.

    Only the policy's served features are in the output and in the configs, in the policy's order.
    The input holds the columns that these features read, each feature's own name unless the policy
    says otherwise. It may hold more, such as those that the policy dropped; they are not read. A
    model sizes itself by the configs, so it needs no change when a search drops a feature.

    Args:
        policy: tables, features and lookups. The bags of a feature are summed.
        dim: D; by default the largest width of the policy's features.
        init_scale: tables start uniform in [-init_scale, init_scale].
        device: where tables and projections are made (``meta`` for planning).
        weighted: whether the input's ids carry weights. The other kind of input is refused,
            since a sharded collection would leave weights out without a word.

    Raises:
        ValueError: ``dim`` is below 1.
    """

    def __init__(
        self,
        policy: Policy,
        dim: int | None = None,
        init_scale: float = INIT_SCALE,
        device: torch.device | None = None,
        weighted: bool = False,
    ) -> None:
        super().__init__()
        if dim is not None and dim < 1:
            raise ValueError(f"dim {dim}; allowed: 1 or more, or None for the policy's own width")
        self.policy = policy
        self.dim = max(policy.widths) if dim is None else dim
        self.features = [f.name for f in policy.features]
        self.check = WeightsCheck(weighted)
        self.rows = PolicyEmbedding(policy, None, init_scale, device, weighted)
        equal = all(width == self.dim for width in policy.widths)
        self.project = None if equal else self._project(device)
        self._device = device or torch.device("cpu")
        self._weighted = weighted
        if self._device.type != "meta":
            self.to(self._device)

    def _project(self, device: torch.device | None) -> Project:
        keys = [table_key(name) for name in self.features]
        targets = [None if width == self.dim else self.dim for width in self.policy.widths]
        return Project(keys, self.policy.widths, targets, device)

    @property
    def device(self) -> torch.device:
        """Where the module was made."""
        return self._device

    @property
    def num_params(self) -> int:
        """Floats to store: the policy's tables and the projections beside them."""
        project = self.project
        return self.policy.num_params + (0 if project is None else project.num_params)

    def is_weighted(self) -> bool:
        return self._weighted

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        """One virtual table per feature, for models that read names and widths from configs.

        Each has one row, because none of them exists; memory is counted by ``num_params`` and
        planned from ``rows.ebc``.
        """
        return [
            EmbeddingBagConfig(
                name=table_key(name),
                num_embeddings=1,
                embedding_dim=self.dim,
                feature_names=[name],
                pooling=PoolingType.SUM,
            )
            for name in self.features
        ]

    def forward(self, features: KeyedJaggedTensor) -> KeyedTensor:
        """``KJT[columns]`` of raw ids -> KeyedTensor of values float32 (B, F * D).

        Raises:
            KeyError: the batch lacks a column that the policy reads.
            ValueError: the batch has weights and the module is not weighted, or the reverse.
        """
        x_BE = self.rows(self.check(features))
        values = x_BE if self.project is None else self.project(x_BE)
        return _keyed(self.features, self.dim, values)


class WeightsCheck(nn.Module):
    """Passes a batch on if it is of the kind expected, with its ids as int64.

    An ``EmbeddingBagCollection`` takes ids of int32 too; hashing needs 64 bits.

    A module rather than a function: ``TrainPipelineSparseDist`` pipelines modules only.
    """

    def __init__(self, weighted: bool) -> None:
        super().__init__()
        self.weighted = weighted

    def forward(self, features: KeyedJaggedTensor) -> KeyedJaggedTensor:
        found = features.weights_or_none() is not None
        if found != self.weighted:
            raise ValueError(
                f"the batch {'has' if found else 'lacks'} weights of ids and the embedding was "
                f"built with weighted={self.weighted}; build it with weighted={found}, or "
                f"{'leave the weights out' if found else 'give weights'}"
            )
        if features.values().dtype == torch.int32:
            return _with_values(features, features.values().long())
        return features


def _with_values(features: KeyedJaggedTensor, values: torch.Tensor) -> KeyedJaggedTensor:
    varies = features.variable_stride_per_key()
    return KeyedJaggedTensor(
        keys=features.keys(),
        values=values,
        weights=features.weights_or_none(),
        lengths=features.lengths(),
        stride=None if varies else features.stride(),
        stride_per_key_per_rank=features.stride_per_key_per_rank() if varies else None,
    )


@torch.fx.wrap  # type: ignore[untyped-decorator]
def _keyed(features: list[str], dim: int, values: torch.Tensor) -> KeyedTensor:
    return KeyedTensor(keys=features, length_per_key=[dim] * len(features), values=values)
