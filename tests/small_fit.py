"""A small training, for the tests of ``fit``, of the optimizers and of the checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from seo_rec import methods
from seo_rec.data.dataset import DataSet
from seo_rec.data.stream import Stream
from seo_rec.model import ModelSettings, RecModel, build_model
from seo_rec.policy import Policy
from seo_rec.train import (
    FitResult,
    FitSettings,
    fit,
    optimizers_of,
)
from seo_rec.train.loop import AfterStep

SMALL = ModelSettings(hidden=(8,))


def settings(**other: Any) -> FitSettings:
    given = {"epochs": 2, "batch_size": 200, "row_lr": 0.02, "dense_lr": 0.02, "log_every": 1}
    return FitSettings(**{**given, **other})


def policy_of(data: DataSet) -> Policy:
    return methods.multi_size(data.schema, 800, 8, lookups=2, seed=1)


def model_of(data: DataSet, seed: int = 0, model: ModelSettings = SMALL) -> RecModel:
    return build_model(policy_of(data), data.num_numeric, model, seed)


def fitted(
    data: DataSet,
    wanted: FitSettings,
    out: Path | None = None,
    model: ModelSettings = SMALL,
    after_step: AfterStep | None = None,
) -> tuple[RecModel, FitResult]:
    """A small model after ``fit`` with ``wanted``."""
    made = model_of(data, wanted.seed, model)
    train = Stream(data, "train", batch_size=wanted.batch_size, shuffle=True, seed=wanted.seed)
    val = Stream(data, "val", batch_size=64)
    optimizers = optimizers_of(made, wanted)
    return made, fit(made, train, val, optimizers, wanted, out=out, after_step=after_step)


def weights(model: RecModel) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def events(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]
