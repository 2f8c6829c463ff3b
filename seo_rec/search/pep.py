"""PEP: thresholds that are learned with the rows, and shrink them.

"Learnable Embedding Sizes for Recommender Systems" (Liu, Gao, Chen, Jin and Li).
Letters: B batch, F features, V rows of a table, D full width.

While the search trains, a number e of a table counts as ``sign(e) max(0, |e| - sigmoid(s))`` with a
learned threshold s. The paper then stores the numbers that are not zero, one by one.

Readings of the paper that had to be chosen, and what differs:

* A policy has no single numbers. What is kept are whole rows, or blocks of columns of rows: those
  with the largest sum of shrunk absolute values. Places of single numbers would have to be stored
  as well, which takes as much as the numbers themselves where these are stored in 8 bits.
* Thresholds are learned by Adam at a rate of their own (``threshold_lr``).
* The policy is trained from new weights like any other; the paper starts from its first weights.
* Weights, thresholds and shrunk rows are those of the running mean at the best epoch (``average``,
  0: the weights themselves).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from seo_rec.batch import Batch
from seo_rec.data.dataset import DataSet
from seo_rec.embed import table_key
from seo_rec.methods import provenance
from seo_rec.model import RecModel, build_model
from seo_rec.policy.allowance import without_unset
from seo_rec.search.found import Found, embedding_bytes
from seo_rec.search.pruned import (
    PrunedSettings,
    best_cells,
    block_norms,
    pruned_policy,
    pruned_weights,
    require_shared_rows,
    told,
    whole_policy,
)
from seo_rec.search.space import require
from seo_rec.settings import FitSettings, require_dense, settled
from seo_rec.train import (
    ROW_OPTIMIZERS,
    Training,
    eval_stream,
    fit,
    ranks,
    require_memory,
    train_stream,
)

THRESHOLDS = ("global", "feature", "column")


@dataclass(frozen=True)
class PepSettings(PrunedSettings):
    """Settings of PEP: learned thresholds shrink the rows, and the largest that are left stay.

    Args:
        per: Whether there is one threshold, one per feature, or one per column of every feature.
        start: The thresholds s before training; numbers are shrunk by sigmoid(s).
        threshold_lr: Learning rate (Adam) of the thresholds.
    """

    per: str = "column"
    start: float = -8.0
    threshold_lr: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.per in THRESHOLDS, "per", self.per, ", ".join(THRESHOLDS))
        require(-30 <= self.start <= 0, "start", self.start, "-30 to 0")
        require(self.threshold_lr > 0, "threshold_lr", self.threshold_lr, "above 0")


def shrunk(rows_VD: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """``sign(e) max(0, |e| - sigmoid(s))``, float32 (V, D).

    Args:
        rows_VD: e.
        threshold: s, of a shape that broadcasts against the rows.
    """
    return rows_VD.sign() * torch.relu(rows_VD.abs() - torch.sigmoid(threshold))


class ShrunkModel(nn.Module):
    """``Batch -> (loss, logits_B)`` of a model whose tables are shrunk by learned thresholds.

    Args:
        model: Of a row per id, with its initial weights.
        names: The features, each with a table of its name.
        settings: Of the search.
    """

    def __init__(self, model: RecModel, names: list[str], settings: PepSettings) -> None:
        super().__init__()
        self.embedding, self.backbone = model.embedding, model.backbone
        self.positive_weight = model.positive_weight
        self.names = names
        features = 1 if settings.per == "global" else len(names)
        columns = settings.dim if settings.per == "column" else 1
        start = torch.full((features, columns), float(settings.start))
        self.thresholds_FD = nn.Parameter(start)

    @property
    def tables(self) -> list[nn.Parameter]:
        """Weights (V, D) of every feature."""
        bags = self.embedding.ebc.embedding_bags
        return [bags[table_key(name)].weight for name in self.names]

    def shrunk_table(self, feature: int) -> torch.Tensor:
        """The rows of a feature as they count, (V, D)."""
        threshold_D = self.thresholds_FD[feature if len(self.thresholds_FD) > 1 else 0]
        return shrunk(self.tables[feature], threshold_D)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        batched = self.embedding.batched
        assert batched is not None
        tables = [self.shrunk_table(i) for i in range(len(self.names))]
        x_BE = batched(tables, self.embedding.remap(batch.sparse))
        logits_B = self.backbone(batch.dense_BN, x_BE)
        return batch.loss(logits_B, self.positive_weight), logits_B


def make_optimizers(
    model: ShrunkModel, s: PepSettings, f: FitSettings
) -> dict[str, torch.optim.Optimizer]:
    """``rows`` and ``dense`` as for any model, and Adam for the thresholds."""
    f = settled(f, 0)
    make = ROW_OPTIMIZERS[f.row_optimizer]
    return {
        "rows": make(model.tables, f.row_lr, f.row_l2),
        "dense": torch.optim.Adam(model.backbone.parameters(), lr=f.dense_lr, fused=True),
        "thresholds": torch.optim.Adam([model.thresholds_FD], lr=s.threshold_lr),
    }


def check_pep(data: DataSet, settings: PepSettings, training: Training) -> None:
    """ValueError where the training asks for what only acts on the rows of a batch."""
    require_dense(training.fit, "pep")


def require_pep(data: DataSet, settings: PepSettings, training: Training) -> None:
    """PolicyError or TooLargeError if no policy fits, or the rows of all ids fit no memory."""
    require_shared_rows(len(data.schema.features), settings, optional=True)
    whole = whole_policy(
        data.schema, data.vocabularies(id_bits=settings.id_bits), settings.dim, settings.id_bits
    )
    require_memory(whole, training.fit, ranks(), search="pep", shared=False)


def pep(data: DataSet, settings: PepSettings, training: Training, out: Path | None = None) -> Found:
    """Train rows and thresholds together, and keep the blocks of the largest norm that fit.

    The norm is the sum of the shrunk absolute values, and only blocks of a norm above 0 are kept
    where there is no budget. ``nonzero`` of the record is the share of the numbers of all rows that
    are not zero, and ``shrunk_by`` the mean of ``sigmoid(s)`` of every feature.

    Raises:
        PolicyError: The budget has no room for a shared row of every feature.
        ValueError: The training asks for what acts on the rows of a batch.
    """
    check_pep(data, settings, training)
    require_shared_rows(len(data.schema.features), settings, optional=True)
    f, vocabularies = training.fit, data.vocabularies(id_bits=settings.id_bits)
    names = [c.name for c in data.schema.features]
    whole = whole_policy(data.schema, vocabularies, settings.dim, settings.id_bits)
    plain = build_model(whole, data.num_numeric, training.model, f.seed)
    model = ShrunkModel(plain, names, settings).to(ranks().device)
    optimizers = make_optimizers(model, settings, f)
    train, val = train_stream(data, f), eval_stream(data, "val")
    result = fit(model, train, val, optimizers, f, out=out, title="pep")
    ended = time.perf_counter()
    with torch.no_grad():
        tables = [model.shrunk_table(i) for i in range(len(names))]
        by_feature = torch.sigmoid(model.thresholds_FD).mean(1).expand(len(names)).tolist()
    kept = best_cells([block_norms(t, settings.blocks, 1) for t in tables], settings)
    origin = provenance(data.schema, "pep", **without_unset(asdict(settings)), seed=f.seed)
    policy = pruned_policy(data.schema, vocabularies, kept, settings, origin)
    state = dict(plain.state_dict())
    for name, table in zip(names, tables, strict=True):
        state[f"embedding.ebc.embedding_bags.{table_key(name)}.weight"] = table
    record = {
        **told(names, kept),
        "nonzero": sum(int(t.count_nonzero()) for t in tables) / sum(t.numel() for t in tables),
        "shrunk_by": dict(zip(names, by_feature, strict=True)),
    }
    return Found(
        policy,
        result.val.quality,
        result.seconds + time.perf_counter() - ended,
        embedding_bytes(model.tables, [optimizers["rows"]]),
        record,
        pruned_weights(data.schema, state, kept, settings),
    )
