"""DimGrow: tables that really grow."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from growing_tables import FIT, SETTINGS, growing
from seo_rec.data.dataset import DataSet
from seo_rec.embed import PolicyEmbedding
from seo_rec.search.dimgrow import (
    GrowingModel,
    Growth,
    make_optimizers,
)
from seo_rec.search.space import open_space


def test_sgd_moves_dense_layers_and_the_adaptation_of_new_columns(tiny_data: DataSet) -> None:
    model, growth = growing(tiny_data)
    fit = replace(FIT, dense_optimizer="sgd", dense_lr=0.1)
    growth.optimizers = make_optimizers(model, fit)
    growth._grow(0)
    moved = [*model.backbone.parameters(), *(d.adapt_H for d in model.in_use())]
    before = [p.detach().clone() for p in moved]
    loss, _ = model(next(iter(tiny_data.stream("train", batch_size=300))))
    loss.backward()
    growth.optimizers["dense"].step()
    assert len(growth.optimizers["dense"].param_groups[0]["params"]) == len(moved)
    for p, old in zip(moved, before, strict=True):
        assert p.grad is not None
        assert torch.equal(p.detach(), torch.add(old, p.grad, alpha=-0.1))


def set_gate(model: GrowingModel, feature: int, column: int, gate: float) -> None:
    with torch.no_grad():
        theta = math.log(gate / (1 - gate)) / model.settings.tau
        model.dimension(feature, column).theta.fill_(theta)


def train_once(model: GrowingModel, growth: Growth, data: DataSet) -> None:
    model.train()
    loss, _ = model(next(iter(data.stream("train", batch_size=300))))
    for optimizer in growth.optimizers.values():
        optimizer.zero_grad()
    loss.backward()
    for optimizer in growth.optimizers.values():
        optimizer.step()


def test_growing_adds_one_column_and_disturbs_nothing(tiny_data: DataSet) -> None:
    model, growth = growing(tiny_data)
    train_once(model, growth, tiny_data)
    before = dict(model.named_parameters())
    values = {name: p.detach().clone() for name, p in before.items()}
    rows = growth.optimizers["rows"]
    moments = {id(p): s["exp_avg"].clone() for p, s in rows.state.items()}
    set_gate(model, 2, 0, 0.7)
    values["columns.2.0.theta"] = model.dimension(2, 0).theta.detach().clone()
    growth(1)
    assert model.dims == [1, 1, 2, 1, 1, 1, 1] and growth.events == [(1, model.space.names[2], 2)]
    after = dict(model.named_parameters())
    assert set(after) - set(before) == {
        f"columns.2.1.{n}" for n in ("values_V", "adapt_H", "theta")
    }
    assert after["columns.2.1.values_V"].shape == (model.space.rows[2],)
    for name, parameter in before.items():
        assert after[name] is parameter and torch.equal(parameter, values[name])
    assert all(torch.equal(rows.state[p]["exp_avg"], moments[id(p)]) for p in rows.state)
    train_once(model, growth, tiny_data)
    new = model.dimension(2, 1)
    assert rows.state[new.values_V]["step"] == 1  # its own bias correction
    assert rows.state[model.dimension(2, 0).values_V]["step"] == 2
    assert growth.optimizers["dense"].state[new.adapt_H]["step"] == 1
    assert growth.optimizers["gate"].state[new.theta]["step"] == 1


def test_the_lowest_gate_goes_and_comes_back_before_a_new_column(tiny_data: DataSet) -> None:
    model, growth = growing(tiny_data)
    for _ in range(2):
        for k in range(model.dims[0]):
            set_gate(model, 0, k, 0.9)
        growth(1)
    assert model.used[0] == [0, 1, 2]
    train_once(model, growth, tiny_data)
    set_gate(model, 0, 1, 0.005)
    idle = model.dimension(0, 1).values_V.detach().clone()
    growth(2)
    assert model.used[0] == [0, 2] and model.allocated[0] == 3
    train_once(model, growth, tiny_data)
    assert torch.equal(model.dimension(0, 1).values_V, idle)  # out of use, not out of memory
    set_gate(model, 0, 0, 0.9)
    set_gate(model, 0, 2, 0.9)
    growth(3)
    assert model.used[0] == [0, 2, 1] and model.allocated[0] == 3
    assert float(model.dimension(0, 1).theta) == 0  # a new chance
    assert model.dimension(0, 1).theta not in growth.optimizers["gate"].state
    assert [d for _, n, d in growth.events if n == model.space.names[0]] == [2, 3, 2, 3]


def test_the_last_column_stays(tiny_data: DataSet) -> None:
    model, growth = growing(tiny_data)
    set_gate(model, 0, 0, 0.001)
    growth(1)
    assert model.dims[0] == 1 and growth.events == []


@pytest.mark.parametrize("limit", ["max_dim", "total_dims", "params"])
def test_growth_respects_every_limit(tiny_data: DataSet, limit: str) -> None:
    rows = open_space(tiny_data, SETTINGS, 0).rows
    chosen = {"max_dim": 2, "total_dims": 9, "params": 3 * sum(rows)}[limit]
    settings = replace(SETTINGS, **{"max_dim": 99, limit: chosen})
    if limit == "params":
        settings = replace(settings, address="id")
    model, growth = growing(tiny_data, settings)
    for step in range(12):
        for i, own in enumerate(model.used):
            for k in own:
                set_gate(model, i, k, 0.9)
        growth(step)
    if limit == "max_dim":
        assert model.dims == [2] * 7
    elif limit == "total_dims":
        assert sum(model.dims) == 9
    else:
        assert model.space.size(model.dims) <= chosen
        assert min(rows) > chosen - model.space.size(model.dims)


def test_columns_read_the_rows_that_a_table_would(tiny_data: DataSet) -> None:
    """Bags, empty ones included: the columns side by side are the policy's own embedding."""
    model, growth = growing(tiny_data)
    growth.start([2] * 7, [[0, 1]] * 7)
    table = PolicyEmbedding(model.space.policy([2] * 7))
    with torch.no_grad():
        for i, name in enumerate(model.space.names):
            columns = [model.dimension(i, k).values_V for k in (0, 1)]
            table.ebc.embedding_bags[name].weight.copy_(torch.stack(columns, dim=1))
    batch = next(iter(tiny_data.stream("train", batch_size=300)))
    torch.testing.assert_close(model.embed(batch.sparse), table(batch.sparse))


def test_every_parameter_in_use_gets_gradient(tiny_data: DataSet) -> None:
    for adapt in ("joint", "per-feature"):
        model, growth = growing(tiny_data, replace(SETTINGS, adapt=adapt))
        growth.start([2] * 7, [[0, 1]] * 7)
        loss, logits_B = model(next(iter(tiny_data.stream("train", batch_size=300))))
        loss.backward()
        assert logits_B.shape == (300,)
        for name, p in model.named_parameters():
            assert p.grad is not None and bool(p.grad.abs().sum() > 0), name


def test_what_is_drawn_is_apart_from_other_draws(tiny_data: DataSet) -> None:
    """The losses of two models are the same, whatever torch's own generator gives meanwhile."""
    (one, _), (other, _) = (growing(tiny_data) for _ in range(2))
    batch = next(iter(tiny_data.stream("train", batch_size=64)))
    before = torch.get_rng_state()
    losses = [one(batch)[0] for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before) and losses[0] != losses[1]
    assert other(batch)[0] == losses[0]
    torch.manual_seed(7)
    assert other(batch)[0] == losses[1]


def test_evaluation_scores_a_row_alike_beside_any_others(tiny_data: DataSet) -> None:
    """Rows that are sorted, by user say, score as shuffled ones do."""
    model, growth = growing(tiny_data)
    train_once(model, growth, tiny_data)
    model.eval()
    whole, *_ = tiny_data.stream("val", batch_size=64)
    scores_B = model(whole)[1]
    assert torch.equal(scores_B, model(whole)[1])
    few = [model(batch)[1] for batch in tiny_data.stream("val", batch_size=8)]
    torch.testing.assert_close(torch.cat(few)[:64], scores_B, rtol=1e-5, atol=1e-7)


def test_evaluation_takes_the_mean_of_the_training_rows(tiny_data: DataSet) -> None:
    """The columns of all training rows, read as in training; the next evaluation has new means."""
    model, growth = growing(tiny_data)
    growth.start([2] * 7, [[1, 0], *[[0]] * 6])
    rows_RD = torch.cat([model.embed(b.sparse) for b in tiny_data.stream("train", batch_size=97)])
    model.eval()
    batch = next(iter(tiny_data.stream("val", batch_size=64)))
    x_BD, means_1D = model.embed(batch.sparse), rows_RD.mean(0, keepdim=True)
    torch.testing.assert_close(model.other_rows(x_BD, batch), means_1D, rtol=1e-4, atol=1e-8)
    model.train()
    with torch.no_grad():
        model.dimension(0, 1).values_V.mul_(3.0)
    model.eval()
    assert float(model.other_rows(x_BD, batch)[0, 0]) == pytest.approx(
        3 * float(means_1D[0, 0]), rel=1e-4
    )


def test_the_loss_penalises_columns_by_their_place_in_training_only(tiny_data: DataSet) -> None:
    """The k-th column in use of a feature by ``alpha g / (k + 1)``, whatever its number."""
    model, growth = growing(tiny_data, replace(SETTINGS, alpha=0.3))
    growth.start([3] * 7, [[2, 0, 1], [1], *[[0]] * 5])
    for i, gate in enumerate((0.5, 0.25, 0.8)):
        set_gate(model, 0, i, gate)
    set_gate(model, 1, 1, 0.1)
    expected = 0.8 / 2 + 0.5 / 3 + 0.25 / 4 + 0.1 / 2 + 5 * 0.5 / 2
    batch = next(iter(tiny_data.stream("train", batch_size=64)))

    def penalised() -> float:
        loss, logits_B = model(batch)
        entropy = functional.binary_cross_entropy_with_logits(logits_B, batch.labels_B)
        return float((loss - entropy).detach())

    assert penalised() == pytest.approx(0.3 * expected, rel=1e-5)
    model.eval()
    assert penalised() == 0.0
