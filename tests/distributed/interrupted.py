"""Runs of the small model on any number of ranks that SIGTERM stops, and what they come to."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from distributed.sharded import MODEL, Trained, plan, policy_of
from patience import PATIENCE
from seo_rec.data.dataset import DataSet
from seo_rec.data.stream import Stream
from seo_rec.model import build_model
from seo_rec.settings import DENSE_OPTIMIZER_NAMES
from seo_rec.train import (
    FitResult,
    FitSettings,
    Preempted,
    distribute,
    fit,
    optimizers_of,
    ranks,
)
from seo_rec.train.after_step import AfterStep
from seo_rec.train.state import Sharded, State, weights_of
from spawn import run_ranks

Pieces = dict[str, tuple[torch.Size, list[tuple[tuple[int, ...], torch.Tensor]]]]


def settings(optimizer: str = "adam", **other: Any) -> FitSettings:
    """Twelve steps of 120 rows; the ninth batch of an epoch is short, and not of equal shares."""
    given = {
        "epochs": 5,
        "max_steps": 12,
        "batch_size": 120,
        "row_optimizer": optimizer,
        "dense_optimizer": optimizer if optimizer in DENSE_OPTIMIZER_NAMES else "adam",
        "row_lr": 2e-3 if optimizer == "adam" else 0.02,  # Adam's steps are of this size
        "dense_lr": 2e-3,
        "average": 0.9,
        "log_every": 1,
    }
    return FitSettings(**{**given, **other})


class Terminated(AfterStep):
    """Stands after each step; after step ``at`` the last rank gets SIGTERM."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, model: Any, step: int) -> None:
        if step == self.at and ranks().rank == ranks().world_size - 1:
            os.kill(os.getpid(), signal.SIGTERM)


def on_ranks(fn: Callable[..., Any], world: int, timeout: float = PATIENCE) -> list[Any]:
    """What ``fn`` returns on every rank; one rank is this process."""
    return [fn()] if world == 1 else run_ranks(fn, world, timeout=timeout)


def build(data: DataSet, wanted: FitSettings, kind: str) -> tuple[Any, dict[str, Any]]:
    """The small model and its optimizers, sharded by the plan ``kind`` if there are more ranks."""
    here, policy = ranks(), policy_of(data)
    model: Any = build_model(policy, data.num_numeric, MODEL, wanted.seed)
    if here.world_size > 1:
        model = distribute(
            model,
            plan(policy, kind, here.world_size),
            here,
            row_optimizer=wanted.row_optimizer,
            row_lr=wanted.row_lr,
            row_l2=wanted.row_l2,
        )
    return model, optimizers_of(model, wanted)


def share(data: DataSet, split: str, batch_size: int, shuffle: bool = False) -> Stream:
    """This rank's part of a split."""
    here = ranks()
    return Stream(
        data,
        split,
        batch_size=here.share(batch_size, "batch_size"),
        shuffle=shuffle,
        rank=here.rank,
        world_size=here.world_size,
    )


def run(
    data: DataSet, wanted: FitSettings, kind: str, out: Path | None, after_step: Any = None
) -> tuple[Any, FitResult]:
    """``fit`` on this rank; the model has the best weights."""
    model, optimizers = build(data, wanted, kind)
    streams = share(data, "train", wanted.batch_size, True), share(data, "val", 48)
    return model, fit(model, *streams, optimizers, wanted, out=out, after_step=after_step)


def train(data: DataSet, wanted: FitSettings, kind: str, world: int, out: Path) -> Trained:
    """``fit`` on ``world`` ranks, resumed if ``out`` holds a run; whole weights, every loss."""

    def on_rank() -> tuple[Pieces, dict[str, Any]]:
        model, result = run(data, wanted, kind, out)
        return pieces(weights_of(model)), vars(result.val)

    answers = on_ranks(on_rank, world)
    assert all(val == answers[0][1] for _, val in answers)  # metrics: equal on all ranks
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train_loss"] for line in lines if line["event"] == "step"]
    return Trained(joined([found for found, _ in answers]), losses, answers[0][1])


def stop(
    data: DataSet, wanted: FitSettings, kind: str, world: int, out: Path, step: int, seen: int = 0
) -> None:
    """As ``train``, but stopped by SIGTERM to one rank after ``step``; every rank says so.

    ``seen``: the step at which the ranks look, if that is later.
    """

    def on_rank() -> str:
        try:
            run(data, wanted, kind, out, Terminated(step))
        except Preempted as error:
            return str(error)
        return "it was not stopped"

    said = on_ranks(on_rank, world)
    expected = f"SIGTERM at step {seen or step}; a checkpoint was written, --resume goes on"
    assert said == [expected] * world


def pieces(state: State) -> Pieces:
    """What this rank holds, in a form that can be sent."""
    return {
        name: (
            value.size(),
            [(p.offsets, p.tensor.clone()) for p in value.pieces]
            if isinstance(value, Sharded)
            else [((0,) * value.dim(), value.clone())],
        )
        for name, value in state.items()
    }


def joined(found: list[Pieces]) -> dict[str, torch.Tensor]:
    """Whole tensors from the pieces of all ranks; NaN where there is none."""
    whole: dict[str, torch.Tensor] = {}
    for rank in found:
        for name, (shape, parts) in rank.items():
            tensor = whole.setdefault(name, torch.full(shape, float("nan")))
            for offsets, part in parts:
                spans = zip(offsets, part.shape, strict=True)
                tensor[tuple(slice(o, o + n) for o, n in spans)] = part
    return whole
