"""A small model, plans made by hand for it, and a run of it on any number of ranks."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seo_rec.data.dataset import DataSet
from seo_rec.data.stream import Stream
from seo_rec.model import ModelSettings, build_model
from seo_rec.plan import Placement, Shard
from seo_rec.policy import Array, Feature, Lookup, Policy, Table
from seo_rec.train import FitSettings, distribute, fit, make_optimizers, ranks
from seo_rec.train.after_step import AfterStep
from seo_rec.train.state import Sharded, weights_of
from spawn import run_ranks

MODEL = ModelSettings(hidden=(8,))
MACHINE_PLANS = ("table_row_wise", "grid_shard")  # on machines of two ranks
PLANS = ("table_wise", "column_wise", "row_wise", "data_parallel", "mixed", "one_rank")


def policy_of(data: DataSet) -> Policy:
    """Tables of several shapes, some read by several features, one feature with three lookups."""
    tables = (Table("a", 41, 8), Table("b", 24, 8), Table("c", 17, 8), Table("d", 10, 4))
    names = [c.name for c in data.schema.features]
    choices = (("a", "b"), ("b", "c", "d"), ("a", "d"), ("c",))
    features = tuple(
        Feature(
            name,
            tuple(Lookup(t, "hash", 100 * i + j + 1) for j, t in enumerate(choices[i % 4])),
        )
        for i, name in enumerate(names)
    )
    return Policy(tables, features)


def all_kinds_of(data: DataSet, turn: int = 0) -> Policy:
    """Every combine and most addresses; another ``turn`` gives the bags of many ids another one."""
    tables = (Table("a", 41, 8), Table("b", 24, 8), Table("c", 17, 8), Table("p", 10, 2))
    features = []
    for i, column in enumerate(reversed(data.schema.features)):
        two = (Lookup("b", seed=10 * i + 1), Lookup("c", seed=10 * i + 2))
        code = Lookup("c", "codes", 10 * i + 3, modulus=50, codes="kept")
        features.append(
            (
                Feature(column.name, two, "mul"),
                Feature(column.name, two, "weighted_sum", weights=Lookup("p", seed=10 * i + 4)),
                Feature(column.name, (code, Lookup("a", seed=10 * i + 5)), project=6),
                Feature(column.name, (Lookup("m", "blocks", 10 * i + 6, block=3, width=8),)),
            )[(i + turn) % 4]
        )
    codes = {"kept": np.arange(50, dtype=np.int32) % 17}
    return Policy(tables, tuple(features), codes=codes, arrays=(Array("m", 60),))


def flat_only(data: DataSet) -> Policy:
    """No table at all: nothing to shard."""
    features = tuple(
        Feature(c.name, (Lookup("m", "blocks", i + 1, block=2, width=4),))
        for i, c in enumerate(data.schema.features)
    )
    return Policy((), features, arrays=(Array("m", 99),))


def plan(policy: Policy, kind: str, world: int) -> tuple[Placement, ...]:
    """A plan of one kind for every table, or ``mixed``; ``one_rank`` puts all on the last rank."""
    kinds = ("column_wise", "row_wise", "data_parallel", "table_wise")
    placements = []
    for i, t in enumerate(policy.tables):
        its_kind = kinds[i % 4] if kind == "mixed" else kind
        if its_kind == "column_wise" and t.dim < 8:
            its_kind = "table_wise"
        if its_kind == "table_wise":
            shards = (Shard(i % world, 0, 0, t.num_rows, t.dim),)
        elif its_kind == "one_rank":
            its_kind, shards = "table_wise", (Shard(world - 1, 0, 0, t.num_rows, t.dim),)
        elif its_kind == "column_wise":
            shards = tuple(Shard((i + j) % world, 0, 4 * j, t.num_rows, 4) for j in range(2))
        elif its_kind in MACHINE_PLANS:
            cuts = 2 if its_kind == "grid_shard" and t.dim > 4 else 1
            block, width = -(-t.num_rows // 2), t.dim // cuts
            shards = tuple(
                Shard(
                    2 * ((i + c) % (world // 2)) + r,
                    r * block,
                    c * width,
                    min(block, t.num_rows - r * block),
                    width,
                )
                for c in range(cuts)
                for r in range(2)
            )
        elif its_kind == "row_wise":
            block = -(-t.num_rows // world)
            starts = [min(r * block, t.num_rows) for r in range(world + 1)]
            shards = tuple(
                Shard(r, starts[r], 0, starts[r + 1] - starts[r], t.dim) for r in range(world)
            )
        else:
            shards = ()
        placements.append(Placement(t.name, its_kind, shards))
    return tuple(placements)


@dataclass(frozen=True)
class Trained:
    """Whole weights at the end of a run (those of its best epoch) and after its last step, the
    loss of every step, and the validation metrics."""

    weights: dict[str, torch.Tensor]
    losses: list[float]
    val: dict[str, Any]
    last: dict[str, torch.Tensor] = field(default_factory=dict)


def train(
    data: DataSet,
    settings: FitSettings,
    kind: str,
    world: int,
    out: Path,
    timeout: float = 100,
    policy: Policy | None = None,
) -> Trained:
    """``fit`` on ``world`` ranks under the plan ``kind``; world 1 is one unsharded process."""
    policy = policy_of(data) if policy is None else policy
    pieces = (
        [_train(data, policy, settings, kind, out)]
        if world == 1
        else run_ranks(_train, world, data, policy, settings, kind, out, timeout=timeout)
    )
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train_loss"] for line in lines if line["event"] == "step"]
    weights, last = (_whole([found[i] for found in pieces]) for i in (0, 1))
    return Trained(weights, losses, pieces[0][2], last)


def _whole(pieces: list[Any]) -> dict[str, torch.Tensor]:
    """Weights by name from the parts that every rank has of them."""
    weights: dict[str, torch.Tensor] = {}
    for name, (shape, parts) in (item for found in pieces for item in found.items()):
        whole = weights.setdefault(name, torch.full(shape, float("nan")))
        for offsets, part in parts:
            at = tuple(slice(o, o + n) for o, n in zip(offsets, part.shape, strict=True))
            whole[at] = part
    return weights


def _parts(model: Any) -> dict[str, Any]:
    """A copy of this rank's part of every weight, with the whole one's size."""
    found = {}
    for name, value in weights_of(model).items():
        parts = (
            [(p.offsets, p.tensor.clone()) for p in value.pieces]
            if isinstance(value, Sharded)
            else [((0,) * value.dim(), value.clone())]
        )
        found[name] = (value.size(), parts)
    return found


class _Last(AfterStep):
    """An ``after_step`` that keeps the weights after one step."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.parts: dict[str, Any] = {}

    def __call__(self, model: Any, step: int) -> None:
        if step == self.step:
            self.parts = _parts(model)


def _train(data: DataSet, policy: Policy, settings: FitSettings, kind: str, out: Path) -> Any:
    if kind in MACHINE_PLANS:
        os.environ["LOCAL_WORLD_SIZE"] = "2"
    here = ranks()
    storage = settings.storage
    whole = build_model(policy, data.num_numeric, MODEL, settings.seed, storage=storage)
    model: Any = whole
    if here.world_size > 1:
        model = distribute(
            whole,
            plan(policy, kind, here.world_size),
            here,
            row_optimizer=settings.row_optimizer,
            row_lr=settings.row_lr,
            row_l2=settings.row_l2,
            l2_on=settings.l2_on,
        )
    optimizers = make_optimizers(
        model,
        settings.row_optimizer,
        settings.row_lr,
        settings.dense_lr,
        settings.row_l2,
        settings.l2_on,
        settings.dense_optimizer,
    )
    share = {"rank": here.rank, "world_size": here.world_size}
    streams = [
        Stream(data, split, batch_size=here.share(size, "batch_size"), shuffle=shuffle, **share)
        for split, size, shuffle in (("train", settings.batch_size, True), ("val", 64, False))
    ]
    last = _Last(settings.max_steps)
    result = fit(model, streams[0], streams[1], optimizers, settings, out=out, after_step=last)
    return _parts(model), last.parts, vars(result.val)
