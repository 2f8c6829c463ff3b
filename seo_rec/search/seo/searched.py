"""SEO stage 1: the training of the search model, and what it found."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from seo_rec.data.dataset import DataSet
from seo_rec.documents import read_object
from seo_rec.files import write_json
from seo_rec.model import build_model
from seo_rec.plan import rates_of
from seo_rec.policy import Policy
from seo_rec.policy.allowance import without_unset
from seo_rec.runs import claim_run
from seo_rec.runs.layout import RESULT_FILE
from seo_rec.search.seo.attention import (
    gate_optimizers,
    logit_step,
    make_gate,
    search_space,
    temperature_at,
)
from seo_rec.search.seo.settings import SeoSettings
from seo_rec.search.worth import worth_of_features
from seo_rec.train import (
    Training,
    eval_stream,
    evaluate,
    fit,
    inner_model,
    optimizers_of,
    ranks,
    shard,
    train_stream,
)
from seo_rec.train.optimizers import DENSE_NS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Searched:
    """A searched attention, and the quality and cost of its search model.

    Args:
        space: The policy of the search model.
        alpha: Attention of every feature and chunk, (F, C), summing to one.
        val_auc: Validation AUC of the search model.
        seconds: Time of the training.
        seconds_per_epoch: Median training time of an epoch.
        worth: Of every feature, by :func:`~seo_rec.search.worth.worth_of_features`; None with a
            down projection, which mixes the features.
        test_auc: Its test AUC, where it was asked for.
    """

    space: Policy
    alpha: torch.Tensor
    val_auc: float
    seconds: float
    seconds_per_epoch: float
    worth: tuple[float, ...] | None = None
    test_auc: float | None = None

    def on_columns(self, data: DataSet, settings: SeoSettings, seed: int) -> Searched:
        """The same attention over the columns of ``data`` alone, the first ones of its features.

        A softmax over some entries is the one over all of them, divided by its sum there.
        """
        space = search_space(data.schema, settings, seed)
        F = len(space.features)
        alpha = self.alpha[:F] / self.alpha[:F].sum()
        worth = None if self.worth is None else self.worth[:F]
        return replace(self, space=space, alpha=alpha, worth=worth)

    def to_json(self) -> dict[str, Any]:
        """JSON values of all but the space."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        del values["space"]
        return {**values, "alpha": self.alpha.tolist()}


def search_attention(
    data: DataSet,
    settings: SeoSettings,
    training: Training,
    out: Path,
    *,
    reads_test_rows: bool = False,
) -> Searched:
    """SEO stage 1: train the search model; its attention and its own AUC.

    It works in a folder of ``out`` whose name depends on all settings. A result that is there is
    read, and an unfinished search is resumed. Test rows are read only with ``reads_test_rows``.
    """
    seed = training.fit.seed
    asked = asked_of("attention", data, without_unset(asdict(settings)), training)
    asked |= {"test_rows": True} if reads_test_rows else {}
    folder = out / f"attention-{settings.chunk_dim}-seed{seed}-{key_of(asked)}"
    here = ranks()
    finished = here.on_first(lambda: _finished(folder, asked))
    space = search_space(data.schema, settings, seed)
    if finished:
        finished |= {"alpha": torch.tensor(finished["alpha"])}
        if finished.get("worth") is not None:
            finished |= {"worth": tuple(finished["worth"])}
        return Searched(space, **finished)
    searched = _train_attention(data, space, settings, training, folder, reads_test_rows)
    here.on_first(lambda: write_json(folder / RESULT_FILE, searched.to_json()))
    return searched


def asked_of(
    kind: str, data: DataSet, settings: Mapping[str, Any], training: Training
) -> dict[str, Any]:
    """Everything that decides a part of the search."""
    return {
        "kind": kind,
        "data": str(data.path),
        "data_fingerprint": data.fingerprint,
        "seo": settings,
        "model": training.model.as_json(),
        "fit": training.fit.as_json(),
    }


def key_of(asked: Mapping[str, Any]) -> str:
    """8 hexadecimal digits, by which a folder that several searches share tells them apart."""
    identity = {key: value for key, value in asked.items() if key != "data"}  # a path
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def _train_attention(
    data: DataSet,
    space: Policy,
    settings: SeoSettings,
    training: Training,
    folder: Path,
    reads_test_rows: bool,
) -> Searched:
    fit_settings = training.fit
    gate = make_gate(data.schema, settings, fit_settings.seed)
    whole = build_model(space, data.num_numeric, training.model, fit_settings.seed, gate)
    train, val = train_stream(data, fit_settings), eval_stream(data, "val")
    model = shard(whole, fit_settings, rates=rates_of(data.schema))
    optimizers = optimizers_of(model, fit_settings)
    optimizers |= gate_optimizers(gate, settings, fit_settings.dense_lr)
    numbers = sum(p.numel() for p in gate.parameters())
    log.info(
        "%d numbers of the attention have dense gradients: each step passes over all of them, "
        "about %.3g ms more",
        numbers,
        numbers * DENSE_NS / 1e6,
    )
    step = logit_step(gate, settings, data, fit_settings, len(train))
    title = f"attention over chunks of {settings.chunk_dim}"
    result = fit(
        model, train, val, optimizers, fit_settings, out=folder, after_step=step, title=title
    )
    # the attention belongs to the best weights, and has the temperature of their step
    best_step = min(result.steps, (result.best_epoch + 1) * len(train))
    gate.temperature = temperature_at(settings, best_step, fit_settings.epochs * len(train))
    test_auc = evaluate(model, eval_stream(data, "test"))[0].auc if reads_test_rows else None
    worth = None
    if gate.projection is None:
        shuffled = train_stream(data, fit_settings, split="val")
        worth = tuple(worth_of_features(inner_model(model), space.widths, shuffled))
    return Searched(
        space,
        gate.alpha().detach().cpu(),
        result.val.quality,
        result.seconds,
        result.seconds_per_epoch,
        worth,
        test_auc,
    )


def _finished(folder: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a finished search in ``folder`` came to; claims the folder otherwise."""
    claim_run(folder, asked, resume=True)
    result = folder / RESULT_FILE
    numbers = ("val_auc", "seconds", "seconds_per_epoch")
    wanted = {"alpha": list, **dict.fromkeys(numbers, float)}
    return read_object(result, wanted) if result.exists() else None
