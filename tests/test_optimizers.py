"""Optimizers: learning rates, each rule against its paper and its library, one for every weight."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from cases import BAGS, BUILDABLE, batch
from seo_rec.data.dataset import DataSet
from seo_rec.data.stream import Stream
from seo_rec.model import ModelSettings, build_model
from seo_rec.settings import DENSE_OPTIMIZER_NAMES
from seo_rec.train import (
    SparseRows,
    make_optimizers,
    steps,
)
from small_fit import fitted, model_of, settings, weights


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


@pytest.mark.parametrize("name, lines", [("rows-and-blocks", 1), ("codes", 0)])
def test_what_is_dense_beside_sparse_rows_is_said(
    name: str, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    model = build_model(BUILDABLE[name], 0, ModelSettings(hidden=(4,)), 0)
    dense = 0 if model.embedding.flat is None else model.embedding.flat.weight.numel()
    assert (dense > 0) == bool(lines)
    with caplog.at_level("INFO", logger="seo_rec.train.optimizers"):
        make_optimizers(model, "rowwise_adagrad", 0.1, 0.1)
    found = [x for x in caplog.messages if "have dense gradients" in x]
    assert len(found) == lines
    assert all(x.startswith(f"{dense} floats of arrays") and "ms more" in x for x in found)


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
