"""Synthetic click data with planted structure and known truth, for demos, tests and benchmarks.

    logit = intercept + signal * sum_c sqrt(share_c) z_c,    label ~ Bernoulli(sigmoid(logit))

where each component z_c has mean 0 and variance 1 and comes from one kind of column:

    strong  pairs a < b of  <u_a[x_a], u_b[x_b]> / sqrt(min(rank_a, rank_b)), and a bias per id:
            many ids, and they need rank_a embedding dimensions (rank halves every two columns)
    weak    a bias per id, 4 to ``weak_vocab`` ids: one dimension is enough
    bag     the mean bias of the ids of a multivalent column
    number  a weighted sum of normal numeric columns
    noise   nothing: very many Zipf ids, which only take room in shared tables

A missing value adds nothing. The Bayes AUC, which no model can pass except by chance, and the
role, rank and share of every column are stored in ``schema.options["truth"]``.

With :class:`Churn` the rows come day after day, equally many each. From one day to the next some
ids of the strong and noise columns vanish, and new ones, with biases and vectors of their own,
enter at random places of the popularity order; the ids that stay keep their order. The means and
variances of the z_c are then taken from the first day. The first n days of a world are the same
however many follow. A temporal split cuts the days in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seo_rec.data.prepare import prepare
from seo_rec.data.rawfile import BadRows, Intake
from seo_rec.data.source import Source
from seo_rec.data.split import Split
from seo_rec.data.synthetic_world import (
    BLOCK_ROWS,
    DAYS,
    ROWS,
    Churn,
    PlantedModel,
    World,
    require_synthetic,
)
from seo_rec.data.vocabulary import Pruning
from seo_rec.schema import SPLITS, Schema

__all__ = ["Churn", "synthetic"]


def synthetic(
    out: Path | str,
    *,
    rows: int = 200_000,
    seed: int = 1,
    strong: int = 4,
    weak: int = 6,
    noise: int = 6,
    numeric: int = 2,
    multivalent: int = 0,
    strong_vocab: int = 300,
    weak_vocab: int = 200,
    noise_vocab: int = 20_000,
    rank: int = 4,
    signal: float = 2.0,
    zipf: float = 1.0,
    missing_rate: float = 0.0,
    label_rate: float = 0.25,
    churn: Churn = Churn(),
    split: Split = Split(),
    progress: bool = False,
) -> Schema:
    """Write a synthetic data set; the same arguments give the same bytes.

    Args:
        rows: number of rows over all splits.
        seed: decides the world and the rows.
        strong, weak, noise, numeric, multivalent: number of columns of each kind.
        strong_vocab, weak_vocab, noise_vocab: ids per column; weak columns go from 4 ids up to
            ``weak_vocab`` in geometric steps, multivalent ones have ``weak_vocab``.
        rank: dimension of the latent vectors of the first two strong columns.
        signal: standard deviation of the logit.
        zipf: exponent s of the id frequencies, p(r) ~ r^-s.
        missing_rate: share of missing categorical values (null, an empty bag).
        label_rate: share of positive labels aimed at.
        churn: days, and how ids come and go; by default one day.

    Raises:
        DataError: a setting is out of its range.
    """
    require_synthetic(rows >= 1, "rows", rows, "1 or more")
    require_synthetic(0 <= seed < 2**63, "seed", seed, "0 to 2^63 - 1")
    require_synthetic(rows % churn.days == 0, "rows", rows, f"a multiple of the {churn.days} days")
    world = World(
        strong, weak, noise, numeric, multivalent, strong_vocab, weak_vocab, noise_vocab,
        rank, signal, zipf, missing_rate, label_rate,
    )  # fmt: skip
    model = PlantedModel(world, seed)
    truth = model.truth()
    logits = np.zeros(rows, np.float32)
    clicks = np.zeros(rows, np.bool_)
    per_day = rows // churn.days
    sizes: list[dict[str, int]] = []

    def read(_: Intake) -> Iterator[Any]:
        block = 0
        for day in range(churn.days):
            if day:
                model.next_day(np.random.default_rng([seed, DAYS, day]), churn)
            sizes.append(model.churning_ids)
            for first in range(day * per_day, (day + 1) * per_day, BLOCK_ROWS):
                num = min(BLOCK_ROWS, (day + 1) * per_day - first)
                rng = np.random.default_rng([seed, ROWS, block])
                table, logit_B, label_B = model.draw(rng, num)
                logits[first : first + num] = logit_B
                clicks[first : first + num] = label_B
                block += 1
                yield table

    def findings() -> Mapping[str, Any]:
        place = split.assign(0, rows, rows)
        aucs = {
            name: _auc(logits[place == index], clicks[place == index])
            for index, name in enumerate(SPLITS)
        }
        found = {**truth, "bayes_auc": aucs}
        if churn.days > 1:
            found["days"] = _by_day(logits, clicks, sizes)
        return {"truth": found}

    options = {"rows": rows, "seed": seed, **asdict(world), "missing": "empty"}
    if churn.days > 1:  # a world of one day is recorded as it always was
        options["churn"] = asdict(churn)
    source = Source(
        dataset="synthetic",
        columns=model.columns,
        label="label",
        paths=(),
        read=read,
        options=options,
        findings=findings,
    )
    return prepare(
        source, out, split=split, pruning=Pruning(), bad_rows=BadRows(), progress=progress
    )


def _auc(score: npt.NDArray[np.float32], label: npt.NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve; None if there is only one class."""
    positives = int(label.sum())
    negatives = len(label) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2  # the mean rank of equal scores
    rank_sum = float(middle[inverse[label]].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def _by_day(
    logits: npt.NDArray[np.float32],
    clicks: npt.NDArray[np.bool_],
    sizes: Sequence[Mapping[str, int]],
) -> dict[str, Any]:
    """Ids of the churning columns, and AUC and log loss of the true probabilities, by day."""
    z_DB = logits.reshape(len(sizes), -1).astype(np.float64)
    y_DB = clicks.reshape(z_DB.shape)
    return {
        "ids": {name: [day[name] for day in sizes] for name in sizes[0]},
        "bayes_auc": [_auc(z, y) for z, y in zip(logits.reshape(z_DB.shape), y_DB, strict=True)],
        "bayes_log_loss": (np.logaddexp(0.0, z_DB) - y_DB * z_DB).mean(axis=1).tolist(),
    }
