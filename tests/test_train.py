"""``fit``: seeds, early stopping, limits, the running mean of the weights, evaluation."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seo_rec import methods
from seo_rec.data.dataset import DataSet
from seo_rec.data.stream import Stream
from seo_rec.metrics import Metrics
from seo_rec.model import ModelSettings, RecModel, build_model
from seo_rec.train import (
    FitSettings,
    Ranks,
    checkpoint,
    evaluate,
    fit,
    loop,
    make_optimizers,
)
from seo_rec.train.average import WeightAverage
from seo_rec.train.loop import AfterStep
from small_fit import SMALL, equal, events, fitted, model_of, settings, weights

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
