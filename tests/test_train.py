"""``fit``: seeds, early stopping, limits, learning rates, optimizers, averages, checkpoints."""

from __future__ import annotations

import builtins
import importlib
import io
import json
import os
import pickle
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from cases import BAGS, BUILDABLE, batch
from hostile import hostile
from seo_rec import methods
from seo_rec.data.dataset import DataSet
from seo_rec.data.stream import Stream
from seo_rec.files import checksum
from seo_rec.metrics import Metrics
from seo_rec.model import ModelSettings, RecModel, build_model
from seo_rec.policy import Policy
from seo_rec.settings import DENSE_OPTIMIZER_NAMES
from seo_rec.train import (
    CheckpointError,
    Checkpoints,
    FitResult,
    FitSettings,
    Ranks,
    SparseRows,
    checkpoint,
    evaluate,
    fit,
    load_tensors,
    loop,
    make_optimizers,
    optimizers_of,
    steps,
)
from seo_rec.train.average import WeightAverage
from seo_rec.train.checkpoint import Saved
from seo_rec.train.checkpoint_index import read_index
from seo_rec.train.loop import AfterStep
from seo_rec.train.state import State

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


# ---- seeds -------------------------------------------------------------------------------


def test_same_seed_same_weights_and_another_seed_others(tiny_data: DataSet) -> None:
    dropped = ModelSettings(hidden=(8,), dropout=0.5)
    first, a = fitted(tiny_data, settings(seed=3), model=dropped)
    torch.manual_seed(12345)  # what a caller did to the global generator does not matter
    torch.rand(7)
    second, b = fitted(tiny_data, settings(seed=3), model=dropped)
    other, c = fitted(tiny_data, settings(seed=4), model=dropped)
    assert equal(weights(first), weights(second))
    clocks = {"seconds_per_epoch": 0.0, "seconds": 0.0}
    assert replace(a, **clocks) == replace(b, **clocks)
    assert not equal(weights(first), weights(other))
    assert a.val != c.val


def test_a_folder_does_not_change_the_result(tiny_data: DataSet, tmp_path: Path) -> None:
    """Writing metrics, checkpoints and best weights takes nothing from the arithmetic."""
    without, a = fitted(tiny_data, settings())
    within, b = fitted(tiny_data, settings(checkpoint_every=2), tmp_path / "run")
    assert equal(weights(without), weights(within))
    assert a.val == b.val


def test_the_backbone_starts_alike_whatever_the_tables(tiny_data: DataSet) -> None:
    schema = tiny_data.schema
    models = [
        build_model(p, len(schema.numeric), SMALL, seed=5)
        for p in (methods.monolithic(schema, 800, 8), methods.separate(schema, 1600, 8))
    ]
    assert equal(*([p.detach() for p in m.backbone.parameters()] for m in models))


# ---- what is learnt ----------------------------------------------------------------------


def test_training_learns(tiny_data: DataSet) -> None:
    _, result = fitted(tiny_data, settings(epochs=8, patience=8, batch_size=32))
    assert result.val.auc > 0.7
    assert result.val.log_loss < 0.55


def test_batches_go_where_the_model_is(tiny_data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a machine with a GPU that the model was not moved to."""
    found = importlib.import_module("seo_rec.train.ranks")
    monkeypatch.setattr(found, "_local_device", lambda: torch.device("cuda", 0))
    model, result = fitted(tiny_data, settings(epochs=1))
    assert evaluate(model, Stream(tiny_data, "val", batch_size=64))[0] == result.val


def test_metrics_jsonl_holds_every_step_and_epoch(tiny_data: DataSet, tmp_path: Path) -> None:
    model, result = fitted(tiny_data, settings(average=0.0), tmp_path)
    train = Stream(tiny_data, "train", batch_size=200)
    steps, epochs = events(tmp_path, "step"), events(tmp_path, "epoch")
    assert [s["step"] for s in steps] == list(range(1, 2 * len(train) + 1))
    assert [e["step"] for e in epochs] == [len(train), 2 * len(train)] and result.steps == 10
    sizes = [200, 200, 200, 200, train.num_rows - 800]
    losses = [s["train_loss"] for s in steps]
    for number, epoch in enumerate(epochs):
        of_epoch = losses[5 * number : 5 * number + 5]
        assert epoch["train_loss"] == pytest.approx(np.average(of_epoch, weights=sizes))
        assert epoch["epoch"] == number and epoch["val_num_rows"] == 102
    again, _, _ = evaluate(model, Stream(tiny_data, "val", batch_size=7))
    assert again.auc == pytest.approx(result.val.auc, abs=1e-12)
    assert result.val.auc == max(e["val_auc"] for e in epochs)
    assert list((tmp_path / "tensorboard").iterdir())


# ---- early stopping and limits -----------------------------------------------------------


class Scripted:
    """Stands for ``evaluate``: gives the scripted AUCs and keeps the weights it was shown."""

    def __init__(self, aucs: list[float]) -> None:
        self.aucs, self.seen = aucs, list[list[torch.Tensor]]()

    def __call__(self, model: RecModel, stream: Stream) -> tuple[Metrics, None, None]:
        self.seen.append(weights(model))
        return Metrics(self.aucs[len(self.seen) - 1], 0.5, 0.9, 1.0, 10), None, None


@pytest.mark.parametrize(
    "aucs, patience, epochs, best",
    [
        ([0.5, 0.6, 0.55, 0.58, 0.9], 2, 4, 1),  # two epochs without a better one
        ([0.5, 0.6, 0.55, 0.61, 0.6, 0.6, 0.9], 2, 6, 3),  # a better one starts the count again
        ([0.5, 0.6, 0.6, 0.6], 2, 4, 1),  # an equal one is not better
        ([0.7, 0.6], 1, 2, 0),
        ([0.4, 0.3, 0.2, 0.1, 0.2], 9, 5, 0),  # patience beyond the last epoch
        ([0.1, 0.2, 0.3], 1, 3, 2),  # ever better: the last
    ],
)
@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("average", [0.0, 0.9])
def test_patience_and_best_weights(
    monkeypatch: pytest.MonkeyPatch,
    tiny_data: DataSet,
    tmp_path: Path,
    aucs: list[float],
    patience: int,
    epochs: int,
    best: int,
    on_disk: bool,
    average: float,
) -> None:
    scripted = Scripted(aucs)
    monkeypatch.setattr(loop, "evaluate", scripted)
    wanted = settings(epochs=len(aucs), patience=patience, batch_size=980, average=average)
    model, result = fitted(tiny_data, wanted, tmp_path if on_disk else None)
    assert (result.epochs, result.best_epoch, len(scripted.seen)) == (epochs, best, epochs)
    assert equal(weights(model), scripted.seen[best])
    assert best == epochs - 1 or not equal(weights(model), scripted.seen[-1])
    assert result.val.auc == aucs[best]


@pytest.mark.parametrize("on_disk", [True, False])
def test_the_best_epoch_may_have_the_lowest_log_loss(
    monkeypatch: pytest.MonkeyPatch, tiny_data: DataSet, tmp_path: Path, on_disk: bool
) -> None:
    """Log loss says which weights are kept, and when the patience ends; the AUC says otherwise."""
    losses, aucs = [0.6, 0.5, 0.4, 0.4, 0.45, 0.3], [0.9, 0.5, 0.6, 0.7, 0.95, 0.8]
    seen: list[list[torch.Tensor]] = []

    def scripted(model: RecModel, stream: Stream) -> tuple[Metrics, None, None]:
        seen.append(weights(model))
        return Metrics(aucs[len(seen) - 1], losses[len(seen) - 1], 0.9, 1.0, 10), None, None

    monkeypatch.setattr(loop, "evaluate", scripted)
    wanted = settings(epochs=6, patience=2, batch_size=980, keep_by="logloss")
    model, result = fitted(tiny_data, wanted, tmp_path if on_disk else None)
    assert (result.epochs, result.best_epoch) == (5, 2)  # an equal one is not better
    assert equal(weights(model), seen[2])
    assert (result.val.auc, result.val.log_loss) == (0.6, 0.4)
    with pytest.raises(ValueError, match="keep_by is 'loss'; allowed: auc, logloss"):
        settings(keep_by="loss")


class Searching(AfterStep):
    """A search that changes after the named epochs and ends with its last weights."""

    keeps_best = False

    def __init__(self, changed_after: Sequence[int]) -> None:
        self.changed_after, self.epochs = changed_after, 0

    def after_epoch(self, metrics: Metrics) -> bool:
        self.epochs += 1
        return self.epochs - 1 in self.changed_after

    def values(self) -> dict[str, Any]:
        return {"epochs": self.epochs}

    def load(self, tensors: Any, values: Any) -> None:
        self.epochs = values["epochs"]


@pytest.mark.parametrize(
    "changed_after, epochs",
    [((), 3), ((1,), 4), ((2,), 5), ((1, 3), 6), ((4,), 3), ((0, 1, 2, 3, 4, 5), 7)],
)
@pytest.mark.parametrize("on_disk", [True, False])
def test_a_search_that_still_changes_goes_on_and_ends_with_its_last_weights(
    monkeypatch: pytest.MonkeyPatch,
    tiny_data: DataSet,
    tmp_path: Path,
    changed_after: tuple[int, ...],
    epochs: int,
    on_disk: bool,
) -> None:
    """The AUC is best after epoch 0 and the patience is two epochs, so nothing else resets it."""
    scripted = Scripted([0.9, 0.5, 0.6, 0.7, 0.4, 0.3, 0.2])
    monkeypatch.setattr(loop, "evaluate", scripted)
    wanted = settings(epochs=7, patience=2, batch_size=980, average=0.0)
    out = tmp_path if on_disk else None
    model, result = fitted(tiny_data, wanted, out, after_step=Searching(changed_after))
    assert (result.epochs, result.best_epoch) == (epochs, 0)
    assert result.val.auc == scripted.aucs[epochs - 1]
    assert equal(weights(model), scripted.seen[-1]) and not (tmp_path / "best").exists()
    if on_disk:  # it has ended, and a resume says the same
        again, repeated = fitted(tiny_data, wanted, out, after_step=Searching(changed_after))
        assert equal(weights(again), scripted.seen[-1]) and len(scripted.seen) == epochs
        assert (repeated.val, repeated.epochs) == (result.val, epochs)


def test_last_weights_are_no_running_mean(tiny_data: DataSet) -> None:
    with pytest.raises(ValueError, match=r"average 0.9 with a search that ends .*allowed: 0"):
        fitted(tiny_data, settings(average=0.9), after_step=Searching(()))


def test_validation_rows_of_one_label_are_refused(
    monkeypatch: pytest.MonkeyPatch, tiny_data: DataSet
) -> None:
    """They have no AUC, and early stopping would keep the first epoch in silence."""
    monkeypatch.setattr(loop, "evaluate", Scripted([float("nan")]))
    with pytest.raises(ValueError, match="the val split has 102 rows of one label only"):
        fitted(tiny_data, settings())


@pytest.mark.parametrize("max_steps, epochs", [(1, 1), (5, 1), (7, 2), (10, 2), (99, 3)])
def test_max_steps(tiny_data: DataSet, max_steps: int, epochs: int) -> None:
    _, result = fitted(tiny_data, settings(epochs=3, patience=3, max_steps=max_steps))
    assert (result.steps, result.epochs) == (min(max_steps, 15), epochs)


def test_a_loss_that_is_not_finite_stops_the_run(tiny_data: DataSet, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"loss became .*lower the learning rates \(--lr;"):
        fitted(tiny_data, settings(row_lr=1e30, row_optimizer="sgd", dense_lr=1e30), tmp_path)


def test_weights_that_overflow_at_the_last_step_stop_the_run(tiny_data: DataSet) -> None:
    """The loss of the only step is finite; what the step left is not, and evaluation tells."""
    with pytest.raises(FloatingPointError, match="not finite"):
        fitted(tiny_data, settings(dense_lr=1e30, row_lr=1e30, batch_size=980, average=0.0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"patience": 0},
        {"batch_size": 0},
        {"keep": 0},
        {"log_every": 0},
        {"row_lr": 0.0},
        {"dense_optimizer": "lazy_adam"},
        {"row_lr": float("nan")},
        {"dense_lr": float("inf")},
        {"row_l2": float("nan")},
        {"row_l2": float("inf")},
        {"seed": 10**20},
        {"dense_lr": -1.0},
        {"warmup_steps": -1},
        {"checkpoint_every": -1},
        {"max_steps": -1},
        {"average": 1.0},
        {"average": -0.1},
        {"row_l2": -1.0},
        {"row_optimizer": "lamb"},
        {"seed": -1},
    ],
    ids=str,
)
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*allowed"):
        FitSettings(**wrong)


# ---- learning rates and optimizers --------------------------------------------------------


@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_learning_rates_rise_linearly(
    monkeypatch: pytest.MonkeyPatch, tiny_data: DataSet, warmup: int
) -> None:
    seen: list[tuple[float, float]] = []
    step = steps._Together.step

    def watched(self: Any) -> None:
        rows, dense = self.optimizers
        seen.append((rows.param_groups[0]["lr"], dense.param_groups[0]["lr"]))
        step(self)

    monkeypatch.setattr(steps._Together, "step", watched)
    fitted(tiny_data, settings(row_lr=0.5, dense_lr=0.1, warmup_steps=warmup))
    factors = [min(1.0, (t + 1) / (warmup + 1)) for t in range(10)]
    np.testing.assert_allclose(seen, [(0.5 * f, 0.1 * f) for f in factors], rtol=1e-12)


def reference_step(name: str, w: Any, g: Any, state: Any, lr: float, t: int) -> Any:
    """One step of a row optimizer in float64, from its paper; returns the new weights."""
    if name == "sgd":
        return w - lr * g
    if name == "adagrad":
        state["sum"] = state.get("sum", 0.0) + g**2
        return w - lr * g / (np.sqrt(state["sum"]) + 1e-8)
    if name == "rowwise_adagrad":
        state["sum"] = state.get("sum", 0.0) + (g**2).mean(1, keepdims=True)
        return w - lr * g / (np.sqrt(state["sum"]) + 1e-8)
    state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
    state["v"] = 0.999 * state.get("v", 0.0) + 0.001 * g**2
    corrected = state["m"] / (1 - 0.9**t), state["v"] / (1 - 0.999**t)
    return w - lr * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)


@pytest.mark.parametrize(
    "name, l2",
    [("adam", 0.0), ("adam", 0.3), ("adagrad", 0.3), ("rowwise_adagrad", 0.3), ("sgd", 0.3)],
)
def test_row_optimizers_do_what_their_papers_say(tiny_data: DataSet, name: str, l2: float) -> None:
    """Three steps on dense gradients against float64; these are the loss's plus ``l2 * w``."""
    model = model_of(tiny_data)
    optimizer = make_optimizers(model, name, 0.1, 0.1, l2)["rows"]
    assert not isinstance(optimizer, SparseRows)
    table = next(model.embedding.ebc.parameters())
    w, state = table.detach().double().numpy(), dict[str, Any]()
    rng = np.random.default_rng(0)
    for t in (1, 2, 3):
        g = rng.normal(size=w.shape)
        g[: len(g) // 2 if t > 1 else 0] = 0.0
        for p in model.embedding.ebc.parameters():
            p.grad = torch.zeros_like(p)
        table.grad = torch.from_numpy(g).float()
        optimizer.step()
        w = reference_step(name, w, table.grad.double().numpy() + l2 * w, state, 0.1, t)
        np.testing.assert_allclose(table.detach().numpy(), w, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["adam", "adagrad", "rowwise_adagrad", "sgd"])
def test_row_optimizers_equal_their_libraries(tiny_data: DataSet, name: str) -> None:
    """One whole training step of a model, to the bit, against the library's plain optimizer."""
    batch = next(iter(Stream(tiny_data, "train", batch_size=50)))
    ours, theirs = model_of(tiny_data), model_of(tiny_data)
    make = {
        "adam": torch.optim.Adam,
        "adagrad": lambda p, lr: torch.optim.Adagrad(p, lr=lr, eps=1e-8),
        "rowwise_adagrad": lambda p, lr: RowWiseAdagrad(p, lr=lr, eps=1e-8),
        "sgd": torch.optim.SGD,
    }[name]
    pairs = [
        (ours, list(make_optimizers(ours, name, 0.1, 0.01).values())),
        (
            theirs,
            [
                make(list(theirs.embedding.ebc.parameters()), lr=0.1),
                torch.optim.Adam(theirs.backbone.parameters(), lr=0.01),
            ],
        ),
    ]
    for model, optimizers in pairs:
        for _ in range(2):
            loss, _ = model(batch)
            model.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
    for a, b in zip(weights(ours), weights(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", DENSE_OPTIMIZER_NAMES)
def test_dense_optimizers_equal_torchs_in_float64(tiny_data: DataSet, name: str) -> None:
    """Three steps of every dense parameter, against torch's plain optimizer and the formulas.

    L2 of the tables does not reach the dense layers.
    """
    model, plain = model_of(tiny_data).double(), model_of(tiny_data).double()
    optimizer = make_optimizers(model, "sgd", 0.1, 0.05, 0.3, dense_optimizer=name)["dense"]
    theirs = {
        "adam": torch.optim.Adam,
        "adagrad": partial(torch.optim.Adagrad, eps=1e-8),
        "sgd": torch.optim.SGD,
    }[name](plain.backbone.parameters(), lr=0.05)
    parameters = list(model.backbone.parameters())
    assert [id(p) for g in optimizer.param_groups for p in g["params"]] == list(map(id, parameters))
    expected = [p.detach().numpy().copy() for p in parameters]
    states: list[dict[str, Any]] = [{} for _ in parameters]
    rng = np.random.default_rng(0)
    for t in (1, 2, 3):
        for i, (p, q) in enumerate(zip(parameters, plain.backbone.parameters(), strict=True)):
            gradient = rng.normal(size=p.shape)
            p.grad, q.grad = torch.from_numpy(gradient), torch.from_numpy(gradient)
            expected[i] = reference_step(name, expected[i], gradient, states[i], 0.05, t)
        optimizer.step()
        theirs.step()
    for p, q, w in zip(parameters, plain.backbone.parameters(), expected, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", DENSE_OPTIMIZER_NAMES)
def test_fit_moves_the_dense_layers_by_their_optimizer(tiny_data: DataSet, name: str) -> None:
    """One step of ``fit`` is one step of torch's own optimizer on the gradient of the batch."""
    wanted = settings(dense_optimizer=name, max_steps=1, average=0.0, epochs=1)
    model, _ = fitted(tiny_data, wanted)
    plain = model_of(tiny_data, wanted.seed)
    kind: dict[str, Any] = {
        "adam": torch.optim.Adam,
        "sgd": torch.optim.SGD,
        "adagrad": partial(torch.optim.Adagrad, eps=1e-8),
    }
    theirs = kind[name](plain.backbone.parameters(), lr=wanted.dense_lr)
    plain.train()
    plain(next(iter(Stream(tiny_data, "train", batch_size=200, shuffle=True))))[0].backward()
    theirs.step()
    for p, q in zip(model.backbone.parameters(), plain.backbone.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["rows-and-blocks", "blocks", "project", "weighted-sum", "codes"])
def test_every_weight_has_one_optimizer_of_its_kind(name):
    """Tables and flat arrays are rows; projections are dense, like the backbone."""
    model = build_model(BUILDABLE[name], 0, ModelSettings(hidden=(4,)), 0)
    optimizers = make_optimizers(model, "rowwise_adagrad", 0.1, 0.1)
    kinds = {
        id(p): kind for kind, o in optimizers.items() for g in o.param_groups for p in g["params"]
    }
    for path, p in model.named_parameters():
        stored = path.startswith(("embedding.ebc.", "embedding.flat."))
        flat = path.startswith("embedding.flat.") and bool(model.embedding.policy.tables)
        assert kinds.pop(id(p)) == ("arrays" if flat else "rows" if stored else "dense"), path
    assert not kinds
    features = batch(model.embedding.policy.columns, BAGS["bags"], rows=40)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    model.backbone(torch.zeros(40, 0), model.embedding(features)).sum().backward()
    for optimizer in optimizers.values():
        optimizer.step()
    assert [n for n, p in model.named_parameters() if torch.equal(p, before[n])] == []


def test_every_parameter_belongs_to_one_optimizer(tiny_data: DataSet) -> None:
    model = model_of(tiny_data)
    held = [
        p
        for o in make_optimizers(model, "adam", 0.1, 0.1).values()
        for group in o.param_groups
        for p in group["params"]
    ]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    assert len(held) == len(list(model.parameters()))


def test_an_unknown_optimizer_is_named(tiny_data: DataSet) -> None:
    with pytest.raises(ValueError, match=r"'lamb'; allowed: auto, adam, lazy_adam, adagrad, row"):
        make_optimizers(model_of(tiny_data), "lamb", 0.1, 0.1)


# ---- the running mean of the weights ------------------------------------------------------


class Journal(AfterStep):
    """Stands after each step and keeps the weights."""

    def __init__(self, model: RecModel) -> None:
        self.weights = [weights(model)]

    def __call__(self, model: Any, step: int) -> None:
        self.weights.append(weights(model))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.998])
def test_the_mean_is_the_recursion(
    monkeypatch: pytest.MonkeyPatch, tiny_data: DataSet, decay: float
) -> None:
    """What is evaluated after T steps is ``m_T``, ``m_t = a_t m_{t-1} + (1 - a_t) w_t``."""
    scripted = Scripted([0.5, 0.6])
    monkeypatch.setattr(loop, "evaluate", scripted)
    model, wanted = model_of(tiny_data), settings(average=decay)
    journal = Journal(model)
    train = Stream(tiny_data, "train", batch_size=200, shuffle=True)
    val = Stream(tiny_data, "val", batch_size=64)
    fit(model, train, val, make_optimizers(model, "adam", 0.02, 0.02), wanted, after_step=journal)
    for i in range(len(journal.weights[0])):
        m = journal.weights[0][i].double().numpy()
        for t in range(1, 11):
            a = min(decay, (1 + t) / (10 + t)) if decay else 0.0
            m = a * m + (1 - a) * journal.weights[t][i].double().numpy()
            if t % 5 == 0:
                seen = scripted.seen[t // 5 - 1][i].numpy()
                np.testing.assert_allclose(seen, m, rtol=1e-5, atol=1e-7)


def test_the_mean_is_put_back_even_after_an_error(tiny_data: DataSet) -> None:
    model = model_of(tiny_data)
    mean, before = WeightAverage(model, 0.5), weights(model)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    own = weights(model)
    with pytest.raises(KeyError), mean.applied():
        assert equal(weights(model), before)
        raise KeyError
    assert equal(weights(model), own)
    assert equal(list(mean.state.values()), before)


def test_no_mean_costs_no_memory(tiny_data: DataSet) -> None:
    model = model_of(tiny_data)
    mean = WeightAverage(model, 0.0)
    assert mean.state == {}
    own, before = [p.data_ptr() for p in model.parameters()], weights(model)
    with mean.applied():
        assert [p.data_ptr() for p in model.parameters()] == own
        assert equal(weights(model), before)
    mean.update(1)
    assert mean.state == {}


# ---- checkpoints ---------------------------------------------------------------------------

VALUES = {"names": ["a", "b"]}


def tensors(number: int) -> State:
    return {"w": torch.full((300,), float(number)), "step": torch.tensor(number)}


def save(kept: Checkpoints, step: int) -> Path:
    """Checkpoint ``step`` of ``tensors(step)``; its folder."""
    kept.save(step, tensors(step), {**VALUES, "step": step})
    return kept.folder / f"step-{step:09d}"


def load(saved: Saved | None) -> tuple[State, dict[str, Any]]:
    """All that a checkpoint holds."""
    assert saved
    into = {name: torch.zeros(size, dtype=dtype) for name, (size, dtype) in saved.sizes.items()}
    load_tensors(saved, into)
    return into, saved.values


def assert_holds(saved: Saved | None, step: int) -> None:
    found, values = load(saved)
    wanted = tensors(step)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[n], wanted[n]) for n in wanted)
    assert values == {**VALUES, "step": step}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_the_newest_are_kept(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "checkpoints", keep=3)
    assert kept.latest() is None
    for step in (5, 10, 15, 1000, 2_000_000_000):
        save(kept, step)
    assert kept.steps() == [15, 1000, 2_000_000_000]
    assert_holds(kept.latest(), 2_000_000_000)
    assert_holds(kept.open(15), 15)
    assert names(kept.folder) == ["step-000000015", "step-000001000", "step-2000000000"]
    files = names(kept.folder / "step-000000015")
    assert files == [".metadata", "__0_0.distcp", "complete.json", "index.json", "state.json"]


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    kept.save(5, tensors(6), {})
    save(kept, 5)
    assert_holds(kept.latest(), 5)


def test_later_ones_are_dropped(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        save(kept, step)
    kept.drop_after(1)
    assert kept.steps() == [1]


def test_fit_keeps_as_many_as_asked(tiny_data: DataSet, tmp_path: Path) -> None:
    fitted(tiny_data, settings(checkpoint_every=1, keep=4), tmp_path)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [7, 8, 9, 10]


def test_keep_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep 0; allowed: 1 or more"):
        Checkpoints(tmp_path, keep=0)


def test_what_is_half_written_is_ignored_and_cleared_away(tmp_path: Path) -> None:
    """And what is not ours is left alone."""
    kept = Checkpoints(tmp_path)
    whole = save(kept, 5)
    for half in (".step-000000010.part", "step-000000011"):  # half written; half removed
        shutil.copytree(whole, tmp_path / half)
        (tmp_path / half / "complete.json").unlink()
    for foreign in ("step-000000012.mine", "step-thirteen", "laststep-000000014"):
        shutil.copytree(whole, tmp_path / foreign)
    assert kept.steps() == [5]
    assert_holds(kept.latest(), 5)
    save(kept, 6)
    assert names(tmp_path) == [
        "laststep-000000014",
        "step-000000005",
        "step-000000006",
        "step-000000012.mine",
        "step-thirteen",
    ]


def test_a_removal_cut_short_leaves_no_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = Checkpoints(tmp_path, keep=1)
    old = save(kept, 1)

    def killed(folder: Path, ignore_errors: bool) -> None:
        if folder == old:
            (folder / "state.json").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as slow, pytest.raises(KeyboardInterrupt):
        slow.setattr(checkpoint.shutil, "rmtree", killed)
        save(kept, 2)
    assert old.exists() and kept.steps() == [2]
    save(kept, 3)
    assert names(tmp_path) == ["step-000000003"]


@pytest.mark.parametrize("stage", ["mkdir", "save", "write_json", "rename"])
@pytest.mark.parametrize("background", [False, True])
def test_a_failed_write_leaves_the_one_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: str, background: bool
) -> None:
    kept = Checkpoints(tmp_path, background=background)
    save(kept, 1)
    kept.wait()

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        if stage in ("mkdir", "rename"):
            broken.setattr(Path, stage, full_disk)
        elif stage == "save":  # torch's own writing of a tensor file
            broken.setattr(os, "fsync", full_disk)
        else:
            broken.setattr(checkpoint, "write_json", full_disk)
        said = r"\((rank 0: )?no space is left on the disk\); make room"
        with pytest.raises(CheckpointError, match=rf"step-000000002: cannot be written {said}"):
            kept.save(2, tensors(2), {})
            kept.wait()
    kept.wait()  # said once
    assert kept.steps() == [1]
    assert_holds(kept.latest(), 1)
    save(kept, 3)
    kept.wait()
    assert names(tmp_path) == ["step-000000001", "step-000000003"]


def test_background_saving_copies_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The training goes on while the disk is slow; what is written is the state of the asking."""
    kept, disk = Checkpoints(tmp_path, background=True), threading.Event()
    write = checkpoint.dcp.save

    def slow(*arguments: Any, **more: Any) -> Any:
        assert disk.wait(20)
        return write(*arguments, **more)

    monkeypatch.setattr(checkpoint.dcp, "save", slow)
    ours, values = tensors(1), {**VALUES, "step": 1}
    kept.save(1, ours, values)
    ours["w"].fill_(9.0)
    values["step"] = 9
    assert kept.steps() == []
    disk.set()
    kept.wait()
    assert_holds(kept.latest(), 1)


# ---- damaged checkpoints --------------------------------------------------------------------

FILES = ("index.json", "__0_0.distcp", ".metadata", "complete.json", "state.json")


def damaged(whole: bytes, other: bytes) -> Iterator[tuple[str, bytes]]:
    """Bytes of a file, spoilt in many ways; ``other``: the file of another checkpoint."""
    yield "empty", b""
    yield "text", b"hello\n"
    yield "json", b"{}"
    yield "json list", b"[[]]"
    yield "replaced", other
    for size in (1, 3, 64, len(whole) // 2, len(whole) - 1):
        yield f"cut at {size}", whole[: min(size, len(whole) - 1)]
    yield "longer", whole + b"\0"
    rng = np.random.default_rng(0)
    for i in range(5):
        yield f"noise {i}", rng.bytes(int(rng.integers(1, 400)))
    for _ in range(40):
        spoilt, at, bit = bytearray(whole), int(rng.integers(len(whole))), int(rng.integers(8))
        spoilt[at] ^= 1 << bit
        yield f"bit {bit} of byte {at}", bytes(spoilt)


def sign(folder: Path) -> None:
    """Make the checksums right, as an attacker would."""
    files = [p for p in folder.iterdir() if p.name != "complete.json"]
    sums = {p.name: checksum(p) for p in files}
    (folder / "complete.json").write_text(json.dumps({"files": sums}))


def refused(folder: Path, what: str) -> bool:
    """Whether loading says so and names the folder; anything else but success fails the test."""
    try:
        load(Checkpoints(folder.parent).latest())
    except CheckpointError as error:
        assert str(folder) in str(error), what
        assert "remove this folder" in str(error) or "is damaged" in str(error), what
        return True
    except BaseException as error:
        pytest.fail(f"{what}: {type(error).__name__}: {error}")
    return False


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    """Every flipped bit of every file is found, except those of complete.json that say the same."""
    kept = Checkpoints(tmp_path / "c")
    path = save(kept, 5) / name
    whole, other = path.read_bytes(), (save(Checkpoints(tmp_path / "d"), 6) / name).read_bytes()
    for what, data in damaged(whole, other):
        path.write_bytes(data)
        if not refused(path.parent, f"{name} {what}"):
            assert json.loads(data) == json.loads(whole)  # as white space
    if name != "complete.json":  # without it there is no checkpoint
        path.unlink()
        assert refused(path.parent, f"{name} is missing")


@pytest.mark.parametrize("name", FILES[:2])
def test_damage_with_matching_checksums_never_escapes(tmp_path: Path, name: str) -> None:
    """Whatever bytes an attacker signs: a checkpoint, or an error that names the folder."""
    path = save(Checkpoints(tmp_path / "c"), 5) / name
    whole, other = path.read_bytes(), (save(Checkpoints(tmp_path / "d"), 6) / name).read_bytes()
    found = 0
    for what, data in damaged(whole, other):
        path.write_bytes(data)
        sign(path.parent)
        found += refused(path.parent, f"{name} {what}")
    assert found > 15
    path.unlink()
    sign(path.parent)
    assert refused(path.parent, f"{name} is missing")


class Evil:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.parts = (call, arguments)

    def __reduce__(self) -> Any:
        return self.parts


def evil(mark: Path) -> list[Evil]:
    return [
        Evil(os.system, f"touch {mark}"),
        Evil(builtins.eval, f"open({str(mark)!r}, 'w')"),
        Evil(Path.touch, mark),
        Evil(getattr, Evil(__import__, "os"), "system"),
        Evil(torch.load, str(mark)),
    ]


# A reader that knows only the classes of an index still sets attributes of these classes:
# PROTO 2, GLOBAL pathlib PosixPath, {'rename': 'nothing'} as its state, BUILD, STOP
PATCHES_A_CLASS = b"\x80\x02cpathlib\nPosixPath\nN}U\x06renameU\x07nothings\x86b."


def test_torchs_index_is_never_read(tmp_path: Path) -> None:
    """Whatever a stranger puts there and signs: the tensors are as they were, and no code runs."""
    mark, folder = tmp_path / "owned", save(Checkpoints(tmp_path / "c"), 5)
    before = dict(vars(type(tmp_path)))
    for attack in (*map(pickle.dumps, evil(mark)), PATCHES_A_CLASS, b"", b"hello"):
        (folder / ".metadata").write_bytes(attack)
        sign(folder)
        assert_holds(Checkpoints(folder.parent).latest(), 5)
    assert not mark.exists()
    assert dict(vars(type(tmp_path))) == before


def test_the_attack_on_classes_works_where_a_pickle_is_read() -> None:
    """So that the test above cannot pass for want of an attack."""
    patched = type("PosixPath", (), {"rename": "something"})

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            assert (module, name) == ("pathlib", "PosixPath")
            return patched

    Reader(io.BytesIO(PATCHES_A_CLASS)).load()
    assert patched.rename == "nothing"  # type: ignore[attr-defined]


def test_the_index_says_what_torch_knows(tmp_path: Path) -> None:
    """Against torch's own index, which torch reads."""
    folder = save(Checkpoints(tmp_path / "c"), 5)
    ours, theirs = read_index(folder), dcp.FileSystemReader(folder).read_metadata()
    assert ours.storage_data == theirs.storage_data
    assert ours.state_dict_metadata.keys() == theirs.state_dict_metadata.keys()
    for name, entry in theirs.state_dict_metadata.items():
        mine = ours.state_dict_metadata[name]
        assert isinstance(mine, TensorStorageMetadata) and isinstance(entry, TensorStorageMetadata)
        assert (mine.size, mine.chunks) == (entry.size, entry.chunks)
        assert mine.properties.dtype == entry.properties.dtype


def test_checkpoints_of_earlier_releases_are_refused(tmp_path: Path) -> None:
    folder = save(Checkpoints(tmp_path / "c"), 5)
    (folder / "index.json").unlink()
    sign(folder)
    with pytest.raises(CheckpointError, match="written by an earlier release"):
        Checkpoints(folder.parent).latest()


def test_a_strangers_index_is_checked_by_type_and_shape(tmp_path: Path) -> None:
    """Every value of a signed index, replaced by values of other types and shapes."""
    folder = save(Checkpoints(tmp_path / "c"), 5)
    document = json.loads((folder / "index.json").read_text())
    for what, spoilt in hostile(document):
        (folder / "index.json").write_text(json.dumps(spoilt))
        sign(folder)
        into = {name: torch.zeros_like(tensor) for name, tensor in tensors(5).items()}
        with pytest.raises(CheckpointError, match="step-000000005"):
            load_tensors(opened(folder), into)
            pytest.fail(what)


def opened(folder: Path) -> Saved:
    saved = Checkpoints(folder.parent).latest()
    assert saved
    return saved


def test_an_index_that_reads_elsewhere_is_refused(tmp_path: Path) -> None:
    """Another path is another checkpoint's file."""
    folder = save(Checkpoints(tmp_path / "c"), 5)
    other = save(Checkpoints(tmp_path / "d"), 6)
    for path in (other / "__0_0.distcp", "../../d/step-000000006/__0_0.distcp", "unlisted"):
        change_places(folder, file=str(path))
        shutil.copy(other / "__0_0.distcp", folder / "unlisted")
        sign(folder)
        marker = json.loads((folder / "complete.json").read_text())
        marker["files"].pop("unlisted")
        (folder / "complete.json").write_text(json.dumps(marker))
        with pytest.raises(CheckpointError, match=r"step-000000005.*does not list"):
            Checkpoints(folder.parent).latest()


def change_places(folder: Path, **values: Any) -> None:
    """Change where the chunks of all tensors lie, by a checkpoint's index."""
    document = json.loads((folder / "index.json").read_text())
    for tensor in document["tensors"].values():
        for chunk in tensor["chunks"]:
            chunk.update(values)
    (folder / "index.json").write_text(json.dumps(document))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "plain-pickle"])
def test_a_strangers_tensors_run_no_code(tmp_path: Path, legacy: bool) -> None:
    """In place of a tensor; the index gives their place and length, the checksums match."""
    mark, folder = tmp_path / "owned", save(Checkpoints(tmp_path / "c"), 5)
    for call in evil(mark):
        for content in (call, {"w": call}, [torch.zeros(300), call]):
            path = folder / "__0_0.distcp"
            if legacy:
                path.write_bytes(pickle.dumps(content))
            else:
                torch.save(content, path)
            change_places(folder, offset=0, length=path.stat().st_size)
            sign(folder)
            assert refused(folder, str(call.parts))
    assert not mark.exists()


def test_a_marker_that_names_other_folders_is_refused(tmp_path: Path) -> None:
    folder = save(Checkpoints(tmp_path), 5)
    (tmp_path / "secret").write_text("x")
    marker = json.loads((folder / "complete.json").read_text())
    for name in ("../secret", str(tmp_path / "secret"), "..", "."):
        files = {**marker["files"], name: checksum(tmp_path / "secret")}
        (folder / "complete.json").write_text(json.dumps({"files": files}))
        assert refused(folder, name)
    for files in ({}, {"state.json": marker["files"]["state.json"]}):
        (folder / "complete.json").write_text(json.dumps({"files": files}))
        with pytest.raises(CheckpointError, match=r"does not list state\.json and index\.json"):
            Checkpoints(tmp_path).latest()


# ---- damaged checkpoints of a run -----------------------------------------------------------


def test_a_damaged_checkpoint_stops_the_resume(tiny_data: DataSet, tmp_path: Path) -> None:
    """And as the message says: without the damaged one the run goes on from the one before."""
    fitted(tiny_data, settings(checkpoint_every=2), tmp_path / "whole")
    fitted(tiny_data, settings(checkpoint_every=2, max_steps=8), tmp_path / "run")
    newest = tmp_path / "run/checkpoints/step-000000008"
    data = (newest / "__0_0.distcp").read_bytes()
    (newest / "__0_0.distcp").write_bytes(data[:1000])
    with pytest.raises(CheckpointError, match=r"step-000000008: cannot be read"):
        fitted(tiny_data, settings(checkpoint_every=2), tmp_path / "run")
    shutil.rmtree(newest)
    fitted(tiny_data, settings(checkpoint_every=2), tmp_path / "run")
    best = [load(Checkpoints(tmp_path / name / "best").latest())[0] for name in ("whole", "run")]
    assert best[0].keys() == best[1].keys()
    for name in best[0]:
        assert torch.equal(best[0][name], best[1][name]), name


@pytest.mark.parametrize(
    "what", ["{}", "[]", "progress", "stream", "after_step", "another model's tensors"]
)
def test_a_signed_checkpoint_that_does_not_fit_stops_the_resume(
    tiny_data: DataSet, tmp_path: Path, what: str
) -> None:
    fitted(tiny_data, settings(max_steps=2), tmp_path)
    newest = tmp_path / "checkpoints/step-000000002"
    values = json.loads((newest / "state.json").read_text())
    if what == "another model's tensors":
        other = save(Checkpoints(tmp_path / "c"), 5)
        for name in (".metadata", "__0_0.distcp"):
            shutil.copy(other / name, newest / name)
    else:
        document = json.loads(what) if what in ("{}", "[]") else {**values, what: {"apples": 3}}
        (newest / "state.json").write_text(json.dumps(document))
    sign(newest)
    if what == "after_step":  # nothing here reads it
        fitted(tiny_data, settings(max_steps=3), tmp_path)
        return
    with pytest.raises(CheckpointError, match=r"step-000000002: "):
        fitted(tiny_data, settings(max_steps=3), tmp_path)


@pytest.mark.parametrize(
    "part, field, value, allowed",
    [
        ("progress", "epoch", 1.5, "epoch of progress is 1.5; allowed: a whole number"),
        ("progress", "step", True, "step of progress is True; allowed: a whole number"),
        ("progress", "best_auc", "0.7", "best_auc of progress is '0.7'; allowed: a number"),
        ("progress", "seconds_per_epoch", [1.0, None], "allowed: a list of numbers"),
        ("progress", "seconds_per_epoch", 1.0, "allowed: a list of numbers"),
        ("stream", "epoch", 1.5, "epoch is 1.5; it must be a whole number"),
        ("stream", "seed", None, "seed is None; it must be a whole number"),
    ],
)
def test_a_signed_value_of_another_type_stops_the_resume(
    tiny_data: DataSet, tmp_path: Path, part: str, field: str, value: Any, allowed: str
) -> None:
    """When it is read, not an epoch later."""
    fitted(tiny_data, settings(max_steps=2), tmp_path)
    newest = tmp_path / "checkpoints/step-000000002"
    values = json.loads((newest / "state.json").read_text())
    assert field in values[part]
    values[part][field] = value
    (newest / "state.json").write_text(json.dumps(values))
    sign(newest)
    with pytest.raises(CheckpointError, match=rf"step-000000002: .*{re.escape(allowed)}"):
        fitted(tiny_data, settings(max_steps=3), tmp_path)


def test_signed_metrics_of_another_type_are_named(tiny_data: DataSet, tmp_path: Path) -> None:
    fitted(tiny_data, settings(max_steps=2), tmp_path)
    best = tmp_path / "best/step-000000002"
    values = json.loads((best / "state.json").read_text())
    values["val"]["auc"] = "good"
    (best / "state.json").write_text(json.dumps(values))
    sign(best)
    with pytest.raises(CheckpointError, match=r"best/step-000000002: .*auc of val is 'good'"):
        fitted(tiny_data, settings(max_steps=2), tmp_path)


def test_fewer_steps_than_were_made_before_the_first_evaluation(
    tiny_data: DataSet, tmp_path: Path
) -> None:
    """Nothing was evaluated, so there are no weights to end with; after that, the best are."""
    run = settings(checkpoint_every=2)
    with pytest.MonkeyPatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(loop, "evaluate", interrupt)
        fitted(tiny_data, run, tmp_path)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [2, 4]
    with pytest.raises(ValueError, match=r"max_steps is 3 and the run stands at step 4, .*than 4"):
        fitted(tiny_data, replace(run, max_steps=3), tmp_path)
    assert fitted(tiny_data, replace(run, max_steps=6), tmp_path)[1].steps == 6
    assert fitted(tiny_data, replace(run, max_steps=3), tmp_path)[1].steps == 6


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_best_weights_after_the_checkpoint_are_forgotten(
    tiny_data: DataSet, tmp_path: Path
) -> None:
    """Otherwise another number of ranks, to which they are not the best, would leave them last."""
    _, result = fitted(tiny_data, settings(max_steps=4), tmp_path)
    best = Checkpoints(tmp_path / "best")
    save(best, 9)
    _, result = fitted(tiny_data, settings(max_steps=5), tmp_path)
    assert result.steps == 5 and 9 not in best.steps()


# ---- generators -------------------------------------------------------------------------------


def test_the_generator_of_a_gpu_is_saved_and_restored(monkeypatch):
    """Dropout on a GPU draws from the GPU's own generator."""
    device, states = torch.device("cuda", 1), {}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda at: torch.full((16,), at.index))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, at: states.update({at: state}))
    saved = checkpoint.rng_states(Ranks(3, 4, 4, device))
    assert set(saved) == {"rng.3", "rng.cuda.3"}
    drawn = torch.rand(2)
    checkpoint.set_rng_states(saved, Ranks(3, 4, 4, device))
    assert torch.equal(torch.rand(2), drawn)
    assert torch.equal(states[device], torch.full((16,), 1))
    assert set(checkpoint.rng_states(Ranks())) == {"rng.0"}


# ---- evaluation ----------------------------------------------------------------------------


def test_evaluation_drops_nothing_out(tiny_data: DataSet) -> None:
    """A model that comes from training is scored as a whole, row by row and in file order."""
    model = model_of(tiny_data, model=replace(SMALL, dropout=0.5)).train()
    found, logits, labels = evaluate(model, tiny_data.stream("val", batch_size=40))
    with torch.no_grad():
        (every,) = tiny_data.stream("val", batch_size=1000)
        wanted = model.eval()(every)[1]
        dropped = model.train()(every)[1]
    torch.testing.assert_close(torch.from_numpy(logits), wanted)
    assert not torch.allclose(dropped, wanted)  # else this test says nothing
    assert np.array_equal(labels, every.labels_B.numpy())
    assert found.num_rows == len(labels) == every.num_rows
