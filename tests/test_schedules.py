"""Learning-rate schedules, gradient clipping and class weights, each against its formula."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distributed import sharded
from seo_rec import recipes
from seo_rec.batch import Batch
from seo_rec.data.dataset import DataSet
from seo_rec.data.stream import Stream
from seo_rec.model import ModelSettings, build_model
from seo_rec.search import find
from seo_rec.train import FitSettings, SparseRows, Training, fit, make_optimizers, steps
from seo_rec.train.schedule import rate_factor, total_steps

SMALL = ModelSettings(hidden=(8,))


def settings(**other: Any) -> FitSettings:
    given = {"epochs": 2, "batch_size": 200, "row_lr": 0.02, "dense_lr": 0.02, "average": 0.0}
    return FitSettings(**{**given, **other})


# ---- learning rates --------------------------------------------------------------------------


@pytest.mark.parametrize("warmup, total", [(0, 10), (3, 10), (9, 10), (12, 10), (0, 1)])
def test_a_cosine_is_its_closed_form(warmup: int, total: int) -> None:
    """Written as the square of a half-angle cosine, which is the same function."""
    wanted = settings(schedule="cosine", warmup_steps=warmup)
    found = [rate_factor(t, wanted, total) for t in range(total)]
    rising = [(t + 1) / (warmup + 1) for t in range(min(warmup, total))]
    left = total - warmup
    falling = [math.cos(math.pi * s / left / 2) ** 2 for s in range(max(0, left))]
    assert found == pytest.approx(rising + falling, abs=1e-12)
    if left > 0:
        assert rate_factor(total, wanted, total) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("optimizer", ["adam", "lazy_adam"])
@pytest.mark.parametrize("max_steps", [0, 7])
def test_every_optimizer_follows_the_schedule(
    monkeypatch: pytest.MonkeyPatch, tiny_data: DataSet, optimizer: str, max_steps: int
) -> None:
    """5 steps an epoch, so that there are ten of them, or seven with ``max_steps``."""
    seen: list[list[float]] = []
    step = steps._Together.step

    def watched(self: Any) -> None:
        seen.append([o.param_groups[0]["lr"] for o in self.optimizers])
        step(self)

    monkeypatch.setattr(steps._Together, "step", watched)
    wanted = settings(
        row_optimizer=optimizer, schedule="cosine", warmup_steps=2, max_steps=max_steps
    )
    model = build_model(policy_of(tiny_data), tiny_data.num_numeric, SMALL, 0)
    trained(model, tiny_data, wanted)
    total = max_steps or 10
    assert total_steps(wanted, 5) == total == len(seen)
    factors = [(t + 1) / 3 for t in range(2)]
    factors += [math.cos(math.pi * s / (total - 2) / 2) ** 2 for s in range(total - 2)]
    np.testing.assert_allclose(seen, [[0.02 * f] * 2 for f in factors], rtol=1e-9)


def policy_of(data: DataSet) -> Any:
    return recipes.method_policy("multi-size", data, 800, 8)


def trained(model: Any, data: DataSet, wanted: FitSettings) -> dict[str, Any]:
    """``fit``; the optimizers."""
    optimizers = make_optimizers(model, wanted.row_optimizer, wanted.row_lr, wanted.dense_lr)
    train = Stream(data, "train", batch_size=wanted.batch_size, shuffle=True)
    fit(model, train, Stream(data, "val", batch_size=64), optimizers, wanted)
    return optimizers


# ---- clipping --------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_clipping_is_that_of_torch(tiny_data: DataSet, optimizer: str) -> None:
    """Beside a loop by hand, with dense gradients of tables (adam) and with sparse ones (sgd)."""
    wanted = settings(row_optimizer=optimizer, epochs=1, clip_norm=0.05, row_lr=0.1)
    model = build_model(policy_of(tiny_data), tiny_data.num_numeric, SMALL, 0)
    optimizers = trained(model, tiny_data, wanted)
    assert isinstance(optimizers["rows"], SparseRows) is (optimizer == "sgd")

    other = build_model(policy_of(tiny_data), tiny_data.num_numeric, SMALL, 0)
    tables = list(other.embedding.ebc.parameters())
    dense = [p for p in other.parameters() if not any(p is t for t in tables)]
    assert other.embedding.project is None and len(dense) == 4
    kind: Any = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]
    by_hand = kind(tables, lr=0.1), torch.optim.Adam(dense, lr=0.02)
    norms = []
    for batch in Stream(tiny_data, "train", batch_size=200, shuffle=True):
        for one in by_hand:
            one.zero_grad()
        other(batch)[0].backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(dense, 0.05)))
        for one in by_hand:
            one.step()
    assert max(norms) > 0.1  # it was clipped
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6)


def test_the_rows_of_tables_are_not_clipped(tiny_data: DataSet) -> None:
    """One step of SGD moves the tables by the whole gradient, and the dense layers by little."""
    found = {}
    for clip in (0.0, 1e-3):
        wanted = settings(row_optimizer="sgd", row_lr=1.0, max_steps=1, clip_norm=clip)
        model = build_model(policy_of(tiny_data), tiny_data.num_numeric, SMALL, 0)
        optimizers = make_optimizers(model, "sgd", 1.0, 0.02)
        optimizers["dense"] = torch.optim.SGD(model.backbone.parameters(), lr=1.0)
        train = Stream(tiny_data, "train", batch_size=200, shuffle=True)
        fit(model, train, Stream(tiny_data, "val", batch_size=64), optimizers, wanted)
        found[clip] = model
    start = build_model(policy_of(tiny_data), tiny_data.num_numeric, SMALL, 0)
    moved = {
        clip: [
            sum(float((a - b).detach().square().sum()) for a, b in zip(p, q, strict=True)) ** 0.5
            for p, q in (
                (model.embedding.parameters(), start.embedding.parameters()),
                (model.backbone.parameters(), start.backbone.parameters()),
            )
        ]
        for clip, model in found.items()
    }
    assert moved[0.0][0] > 1e-3
    assert moved[1e-3][0] == pytest.approx(moved[0.0][0], rel=1e-6)
    assert moved[1e-3][1] == pytest.approx(1e-3, rel=1e-3)
    assert moved[0.0][1] > 1e-2


# ---- class weights ---------------------------------------------------------------------------


def repeated(batch: Batch, times: int) -> Batch:
    """The batch with each positive row ``times`` times; its losses are divided as before."""
    once = torch.arange(batch.num_rows)
    index = once.repeat_interleave(torch.where(batch.labels_B == 1, times, 1))
    keys = batch.sparse.keys()
    bags = [batch.sparse[key].to_dense() for key in keys]
    chosen = [[bag[i] for i in index.tolist()] for bag in bags]
    lengths = torch.tensor([len(bag) for feature in chosen for bag in feature])
    values = torch.cat([bag for feature in chosen for bag in feature])
    sparse = type(batch.sparse)(keys, values, lengths=lengths, stride=len(index))
    dense, labels = batch.dense_BN[index], batch.labels_B[index]
    return Batch(dense, sparse, labels, mean_rows=batch.mean_rows)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_weight_of_three_is_three_rows(tiny_data: DataSet, optimizer: str) -> None:
    """The loss and every gradient, of dense tables and of the rows of sparse ones."""
    batch = next(iter(Stream(tiny_data, "train", batch_size=150)))
    assert 0 < batch.labels_B.sum() < 150
    found = []
    for weight, of in ((3.0, batch), (1.0, repeated(batch, 3))):
        model = replace(SMALL, positive_weight=weight)
        made = build_model(policy_of(tiny_data), tiny_data.num_numeric, model, 0)
        optimizers = make_optimizers(made, optimizer, 0.5, 0.5)
        loss, _ = made(of)
        loss.backward()
        for one in optimizers.values():
            one.step()
        found.append((loss.item(), [p.detach() for p in made.parameters()]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    # a first step of Adam has the size of the rate, whatever the gradient, unless this is tiny
    for a, b in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5 if optimizer == "sgd" else 2e-3)


def test_weights_of_one_change_nothing(tiny_data: DataSet) -> None:
    batch = next(iter(Stream(tiny_data, "train", batch_size=150)))
    made = build_model(policy_of(tiny_data), tiny_data.num_numeric, SMALL, 0)
    loss, logits = made(batch)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.labels_B)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)


# ---- several processes -----------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_two_processes_train_as_one(
    tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    monkeypatch.setattr(sharded, "MODEL", ModelSettings(hidden=(8,), positive_weight=4.0))
    wanted = settings(
        row_optimizer=optimizer,
        row_lr=2e-3 if optimizer == "adam" else 0.02,
        dense_lr=2e-3,
        epochs=1,
        batch_size=120,
        schedule="cosine",
        warmup_steps=2,
        clip_norm=0.05,
        log_every=1,
    )
    one = sharded.train(tiny_data, wanted, "", 1, tmp_path / "one")
    two = sharded.train(tiny_data, wanted, "mixed", 2, tmp_path / "two")
    assert two.losses == pytest.approx(one.losses, abs=1e-6)
    for name, weight in one.weights.items():
        torch.testing.assert_close(two.weights[name], weight, atol=1e-6, rtol=0)


# ---- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values, message",
    [
        ({"schedule": "step"}, "schedule is 'step'; allowed: constant, cosine"),
        ({"clip_norm": -1.0}, "clip_norm is -1.0"),
        ({"clip_norm": math.nan}, "clip_norm is nan"),
    ],
)
def test_values_that_are_not_allowed(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FitSettings(**values)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
def test_weights_that_are_not_allowed(weight: float) -> None:
    with pytest.raises(ValueError, match="positive_weight"):
        ModelSettings(positive_weight=weight)


def test_a_run_of_before_says_the_same_of_itself() -> None:
    """So that it goes on; what is used is said."""
    assert {"schedule", "clip_norm"}.isdisjoint(FitSettings().as_json())
    assert "positive_weight" not in ModelSettings().as_json()
    used = FitSettings(schedule="cosine", clip_norm=1.0)
    assert FitSettings(**json.loads(json.dumps(used.as_json()))) == used
    model = ModelSettings(positive_weight=2.0)
    assert ModelSettings.from_json(json.loads(json.dumps(model.as_json()))) == model


@pytest.mark.parametrize("method", ["dimgrow", "optembed"])
def test_searches_with_a_loss_of_their_own_refuse_weights(
    tiny_data: DataSet, tmp_path: Path, method: str
) -> None:
    training = Training(ModelSettings(hidden=(8,), positive_weight=2.0), settings())
    chosen = find(method).settings_at(1600, 8, training)
    with pytest.raises(ValueError, match=r"positive_weight is 2\.0; allowed: 1"):
        recipes.search(method, tiny_data, tmp_path / "s", chosen, training)
    assert not (tmp_path / "s").exists()
