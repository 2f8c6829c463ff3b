"""CCE: rows that are clustered while they train, so that codes are learned and not hashed.

"Clustering the Sketch: Dynamic Compression for Embedding Tables" (Tsang and Ahle).

A feature of many ids has two tables, and ``x = T[c(id)] + T'[h'(id)]``. After some epochs the
vectors of all ids are clustered by k-means: T becomes the centroids, c says which centroid is
nearest, h' is a new hash function, and T' starts again. The last codes are the answer.

Readings of the paper that had to be chosen, and what differs:

* The paper cuts vectors into several columns, each with two tables and codes of its own. Here there
  is one column, because a feature of a policy is a sum or a concatenation and no concatenation of
  sums, and because a further code takes 4 bytes for every id.
* Codes and ids are stored and counted. Where they do not fit for all ids, only the most frequent
  ids have codes; the others have one code in common, whose vector is the mean of theirs, and differ
  by their rows of T'. Hashes of ids may have the codes in place of ids (``address="hash"``).
* T' starts at the mean residuals of the ids that read a row, as in the authors' code, or at zeros.
* The optimizer's state of both tables starts again with every clustering.
* There is no running mean of weights, which would mix rows before and after a clustering.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from seo_rec.data.dataset import DataSet
from seo_rec.embed import table_key
from seo_rec.methods import lookup_seed, provenance
from seo_rec.metrics import Metrics
from seo_rec.model import RecModel, build_model
from seo_rec.policy import Codes, Policy
from seo_rec.policy.allowance import without_unset
from seo_rec.search.by_counts import counts_of
from seo_rec.search.cce_tables import CceSettings, Division, divide
from seo_rec.search.clustering import Points, clustered
from seo_rec.search.found import Found, table_bytes
from seo_rec.search.space import require
from seo_rec.train import Training, eval_stream, fit, optimizers_of, ranks, train_stream
from seo_rec.train.after_step import AfterStep
from seo_rec.train.state import State


def divided(data: DataSet, settings: CceSettings, seed: int) -> Division:
    """:func:`divide` for a prepared data set."""
    return divide(data.schema, counts_of(data), settings, seed)


def require_division(data: DataSet, settings: CceSettings, training: Training) -> None:
    """PolicyError unless the budget has room for a row of each table."""
    divided(data, settings, training.fit.seed)


def check_cce(data: DataSet, settings: CceSettings, training: Training) -> None:
    """ValueError unless all clusterings happen within the epochs of the training."""
    epochs, last = training.fit.epochs, settings.clusterings * settings.every
    require(
        last <= epochs,
        "clusterings",
        settings.clusterings,
        f"1 to {epochs // settings.every}, one after every {settings.every} of {epochs} epochs; "
        "give --set clusterings, --set every, or more --epochs",
    )


class ClusterStep(AfterStep):
    """After epochs: cluster the rows; keep the best weights that there are after the last time.

    Args:
        model: Of the division's policy; its tables, codes and hash functions are changed in place.
        optimizers: Of the model; what they keep of clustered tables becomes zero.
        division: The features and their tables.
        seed: Of k-means.
    """

    def __init__(
        self,
        model: RecModel,
        optimizers: Mapping[str, torch.optim.Optimizer],
        division: Division,
        seed: int,
    ) -> None:
        self.model, self.optimizers, self.division = model, optimizers, division
        self.settings, self.seed = division.settings, seed
        self.epoch = 0
        self.codes: dict[str, Codes] = {n: p.first_codes() for n, p in division.pairs.items()}
        self.history: list[dict[str, Any]] = []
        self.val_auc = float("nan")  # of the best epoch with the last codes, or of the last epoch
        self.best_weights: dict[str, torch.Tensor] = {}

    @property
    def keeps_best(self) -> bool:
        return False

    @property
    def done(self) -> int:
        """Clusterings so far."""
        return len(self.history)

    @property
    def policy(self) -> Policy:
        """The policy with the codes so far."""
        return self.division.policy(self.codes, self.done)

    def after_epoch(self, metrics: Metrics) -> bool:
        """Cluster if it is time; whether another clustering was done or will be."""
        self.epoch += 1
        if self.done < self.settings.clusterings:
            self.val_auc = metrics.auc
            if self.epoch % self.settings.every == 0:
                self._cluster()
            return True
        if not self.best_weights or metrics.auc > self.val_auc:
            self.val_auc = metrics.auc
            self.best_weights = self._weights()
        return False

    def weights(self) -> dict[str, torch.Tensor]:
        """Weights of the policy's model: the best since the last clustering, or the last ones."""
        return self.best_weights or self._weights()

    def _weights(self) -> dict[str, torch.Tensor]:
        return {n: w.detach().cpu().clone() for n, w in self.model.state_dict().items()}

    @torch.no_grad()
    def _cluster(self) -> None:
        errors = {}
        for name, pair in self.division.pairs.items():
            tables = [self._table(n) for n in pair.tables]
            first, second = (t.detach().cpu().numpy() for t in tables)
            s = self.settings
            seed = lookup_seed(self.seed, name, "k-means", self.done) % 2**32
            after = clustered(
                first,
                second,
                self.codes[name].astype(np.int64),
                pair.base_V,
                pair.second_V(self.done),
                pair.second_V(self.done + 1),
                Points(s.points, s.iterations, seed),
                residuals=s.second == "residual",
            )
            for table, rows in zip(tables, (after.first_RD, after.second_SD), strict=True):
                table.copy_(torch.from_numpy(rows))
                self._forget(table)
            self.codes[name] = after.codes_N.astype(np.int32)
            errors[name] = after.error
        self.history.append({"epoch": self.epoch, "val_auc": self.val_auc, "error": errors})
        self.best_weights = {}
        self.model.embedding.readdress(self.policy)

    def _table(self, name: str) -> nn.Parameter:
        weight: nn.Parameter = self.model.embedding.ebc.embedding_bags[table_key(name)].weight
        return weight

    def _forget(self, table: nn.Parameter) -> None:
        """Zero what the optimizers keep of a table."""
        for optimizer in self.optimizers.values():
            for kept in optimizer.state.get(table, {}).values():
                if isinstance(kept, torch.Tensor):
                    kept.zero_()

    # ---- checkpoints -------------------------------------------------------------------

    def tensors(self) -> State:
        """The codes, and the best weights since the last clustering."""
        codes: State = {f"codes.{n}": torch.from_numpy(c) for n, c in self.codes.items()}
        return codes | {f"best.{n}": w for n, w in self.best_weights.items()}

    def values(self) -> dict[str, Any]:
        """What happened so far."""
        auc = None if np.isnan(self.val_auc) else self.val_auc
        return {"epoch": self.epoch, "history": self.history, "val_auc": auc}

    def load(self, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Go on from what ``tensors`` and ``values`` gave."""
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "codes":
                self.codes[rest] = tensor.cpu().numpy()
            else:
                self.best_weights[rest] = tensor
        self.epoch, self.history = int(values["epoch"]), list(values["history"])
        self.val_auc = float("nan") if values["val_auc"] is None else float(values["val_auc"])
        self.model.embedding.readdress(self.policy)


def cce(data: DataSet, settings: CceSettings, training: Training, out: Path | None = None) -> Found:
    """Train two tables per feature, cluster them after epochs; the last codes are the policy.

    ``x_f = T_f[c_f(id)] + T'_f[h'_f(id)]``. The record has, for every clustering, the share of the
    variance of the ids' vectors that it lost (``error``).

    Raises:
        PolicyError: The budget has no room for a row of each table.
        ValueError: The training has fewer epochs than the clusterings need.
    """
    check_cce(data, settings, training)
    f = training.fit
    division = divided(data, settings, f.seed)
    start = division.policy({n: p.first_codes() for n, p in division.pairs.items()}, 0)
    model = build_model(start, data.num_numeric, training.model, f.seed).to(ranks().device)
    optimizers = optimizers_of(model, f)
    step = ClusterStep(model, optimizers, division, f.seed)
    train, val = train_stream(data, f), eval_stream(data, "val")
    # a running mean would mix rows of before and after a clustering
    alone = replace(f, average=0.0, keep_by="auc")
    result = fit(model, train, val, optimizers, alone, out=out, after_step=step, title="cce")
    ended = time.perf_counter()
    told = {**without_unset(asdict(settings)), "seed": f.seed}
    policy = division.policy(step.codes, step.done, provenance(data.schema, "cce", **told))
    record = {
        "clusterings": step.history,
        "ids": {n: len(ids) for n, ids in division.exact.items()},
        "codes": {n: p.bases for n, p in division.pairs.items()},
        "rows": {n: list(p.rows) for n, p in division.pairs.items()},
    }
    return Found(
        policy,
        step.val_auc,
        result.seconds + time.perf_counter() - ended,  # of sessions before a resume as well
        table_bytes(model, optimizers),
        record,
        step.weights(),
    )
