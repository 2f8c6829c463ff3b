"""TorchRec's own models around ``embed.build``, and a policy with one of everything."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torchrec.models.deepfm import SimpleDeepFMNN
from torchrec.models.dlrm import DLRM, DLRM_DCN

from cases import Bags, batch
from seo_rec.batch import Batch
from seo_rec.policy import Array, Feature, Lookup, Policy, Table

DENSE = 3  # dense columns of a batch
IDS_PATH = "sparse_arch.embedding_bag_collection.rows.ebc"  # of the tables, in each of the models

# Shared tables, four widths of features, a sum, a dropped feature; 4 divides every width.
POLICY = Policy(
    (Table("a", 40, 8), Table("b", 30, 8), Table("c", 50, 4), Table("d", 7, 4)),
    (
        Feature("user", (Lookup("a", seed=1), Lookup("c", seed=2))),
        Feature("item", (Lookup("b", seed=3), Lookup("a", seed=4)), "sum"),
        Feature("hour", (Lookup("d", seed=5),)),
        Feature("tags", (Lookup("c", seed=6), Lookup("b", seed=7), Lookup("d", seed=8))),
    ),
    dropped=("noise",),
)
# The same tables read in the other ways: digits excepted, every address and combine.
SPECIAL = Policy(
    (Table("a", 40, 8), Table("b", 30, 8), Table("c", 50, 4), Table("d", 7, 4)),
    (
        Feature("user", (Lookup("a", seed=1), Lookup("b", seed=2)), "mul"),
        Feature("item", (Lookup("c", seed=3),) * 4, "weighted_sum", weights=Lookup("d", seed=4)),
        Feature("hour", (Lookup("a", "codes", 5, modulus=60, codes="kept"),), project=5),
        Feature("tags", (Lookup("m", "blocks", 6, block=3, width=8), Lookup("b", seed=7))),
    ),
    dropped=("noise",),
    codes={"kept": np.arange(60, dtype=np.int32) % 40},
    arrays=(Array("m", 70),),
)
ITEM_USER = ("item", "user")
# Crosses, a column that two features read, one that none is named after, rows for unknown ids.
CROSSES = Policy(
    (Table("a", 40, 8), Table("b", 30, 8), Table("c", 50, 4), Table("d", 7, 4)),
    (
        Feature("user", (Lookup("a", seed=1), Lookup("c", seed=2))),
        Feature(
            "pair", (Lookup("a", seed=3), Lookup("b", seed=4)), "mul", columns=("item", "user")
        ),
        Feature("hour", (Lookup("b", seed=5), Lookup("m", "blocks", 6, block=3, width=8))),
        Feature("known", (Lookup("c", "id", 7, unknown_rows=9),), columns=("user", "tags")),
        Feature("word", (Lookup("d", seed=8),), columns=("tags",)),
    ),
    dropped=("noise",),
    vocabularies={"known": np.array([2**62 - 1, 2**62, 2**63 - 1])},
    arrays=(Array("m", 70),),
)
NAMES = ("noise", "tags", "hour", "item", "user")  # of a batch: another order, and one more

MODELS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "dlrm": lambda e: DLRM(e, DENSE, [8, e.dim], [8, 1]),
    "dlrm-dcn": lambda e: DLRM_DCN(
        e, DENSE, [8, e.dim], [8, 1], dcn_num_layers=2, dcn_low_rank_dim=4
    ),
    "deepfm": lambda e: SimpleDeepFMNN(DENSE, e, hidden_layer_size=8, deep_fm_dimension=4),
}


class WithLoss(nn.Module):
    """``Batch -> (loss, scores_B)``, the form that TorchRec's pipelines take."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.ends_in_sigmoid = isinstance(model, SimpleDeepFMNN)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        scores_B = self.model(batch.dense_BN, batch.sparse).squeeze(-1)
        if self.ends_in_sigmoid:
            return F.binary_cross_entropy(scores_B, batch.labels_B), scores_B
        return F.binary_cross_entropy_with_logits(scores_B, batch.labels_B), scores_B


def clicks(rows: int, seed: int, bags: Bags, dense: int = DENSE) -> Batch:
    """A batch with every kind of id and labels that its dense columns tell."""
    made = torch.Generator().manual_seed(seed)
    dense_BN = torch.randn(rows, dense, generator=made)
    labels_B = (dense_BN[:, 0] > 0).float()
    return Batch(dense_BN, batch(NAMES, bags, rows=rows, seed=seed), labels_B)
