"""DimGrow: gates and gradients in closed form, and its two theorems on constructed cases."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from seo_rec.search.dimgrow import (
    gated,
    penalty,
    shuffle_columns,
)

# ---- the gate ----------------------------------------------------------------------------


def test_every_column_is_shuffled_on_its_own() -> None:
    torch.manual_seed(0)
    x_BD = torch.arange(50.0)[:, None].repeat(1, 6).requires_grad_()
    shuffled = shuffle_columns(x_BD)
    assert not shuffled.requires_grad  # stop-gradient
    for column in shuffled.T:
        assert torch.equal(column.sort().values, torch.arange(50.0))
    orders = {tuple(column.tolist()) for column in shuffled.T}
    assert len(orders) == 6
    torch.manual_seed(0)
    assert torch.equal(shuffle_columns(x_BD), shuffled)


def test_gate_and_gradients_are_equation_1() -> None:
    """x* = g x + (1 - g) x~, so dL/dg = sum_b (x - x~) dL/dx*, and dL/dx = g dL/dx*."""
    torch.manual_seed(1)
    B, D, tau = 7, 5, 5.0
    x = torch.randn(B, D, dtype=torch.float64, requires_grad=True)
    theta = torch.randn(D, dtype=torch.float64, requires_grad=True)
    other = torch.randn(B, D, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(B, D, dtype=torch.float64)
    g = torch.sigmoid(tau * theta)
    out = gated(x, other, g)
    (out * upstream).sum().backward()
    for b in range(B):
        for k in range(D):
            gate = 1 / (1 + math.exp(-tau * float(theta[k].detach())))
            expected = gate * float(x[b, k]) + (1 - gate) * float(other[b, k])
            assert float(out[b, k]) == pytest.approx(expected, rel=1e-12)
    per_gate = ((x - other) * upstream).sum(0) * tau * g * (1 - g)
    torch.testing.assert_close(theta.grad, per_gate.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(x.grad, (g * upstream).detach(), rtol=1e-12, atol=0)
    assert other.grad is None


def test_the_penalty_decays_with_the_place() -> None:
    gates = torch.tensor([0.5, 0.25, 1.0, 0.1], dtype=torch.float64)
    places = torch.tensor([1, 2, 3, 1])  # a feature of three columns and one of one
    expected = 0.5 / 2 + 0.25 / 3 + 1.0 / 4 + 0.1 / 2
    assert float(penalty(gates, places)) == pytest.approx(expected, rel=1e-12)


# ---- the theorems ------------------------------------------------------------------------


def constructed(weight: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A column, its labels and a shuffled copy, float64; the label follows the column."""
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(4000, generator=draw, dtype=torch.float64)
    y = (torch.rand(4000, generator=draw, dtype=torch.float64) < torch.sigmoid(weight * x)).double()
    return x, y, x[torch.randperm(4000, generator=draw)]


def gate_gradient(
    g: float, weight: float, x: torch.Tensor, other: torch.Tensor, y: torch.Tensor
) -> float:
    """d/dg of the mean log loss of ``sigmoid(weight * (g x + (1 - g) x~))``."""
    gate = torch.tensor(g, dtype=torch.float64, requires_grad=True)
    logits = weight * gated(x[:, None], other[:, None], gate)[:, 0]
    loss = functional.binary_cross_entropy_with_logits(logits, y)
    (gradient,) = torch.autograd.grad(loss, [gate])
    return float(gradient)


GRID = [0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0]


def test_theorem_a2_a_column_without_worth_is_driven_to_zero() -> None:
    """The loss moves by at most epsilon |e - e'|; alpha > epsilon E|e - e~| pushes g down."""
    epsilon = 0.01
    x, y, other = constructed(weight=0.0)  # labels know nothing of x; |dL/dlogit| < 1
    alpha = 1.01 * epsilon * float((x - other).abs().mean())
    for g in GRID:
        task = gate_gradient(g, epsilon, x, other, y)
        assert abs(task) <= epsilon * float((x - other).abs().mean())
        assert task + alpha > 0
    assert descend(alpha, epsilon, x, other, y) < 0.05


def test_theorem_a3_the_gate_of_a_predictive_column_rises() -> None:
    """alpha below the loss that shuffling costs pushes g up."""
    weight = 2.0
    x, y, other = constructed(weight)
    lost = functional.binary_cross_entropy_with_logits(weight * other, y)
    kept = functional.binary_cross_entropy_with_logits(weight * x, y)
    gain = float(lost - kept)
    assert gain > 0.1
    for g in [0.0, 0.25]:
        assert gate_gradient(g, weight, x, other, y) + 0.99 * gain < 0
    assert descend(0.1 * gain, weight, x, other, y) > 0.85


def test_how_far_theorem_a3_carries() -> None:
    """The proof differentiates an inequality: its bound L(e) - L(e~) need not hold near g = 1.

    What convexity gives at every g is the slope of the chord to 1, (L(1) - L(g)) / (1 - g). So a
    penalty just below the theorem's limit stops a gate on its way, where the slope equals alpha.
    """
    weight = 2.0
    x, y, other = constructed(weight)

    def loss(g: float) -> float:
        logits = weight * (g * x + (1 - g) * other)
        return float(functional.binary_cross_entropy_with_logits(logits, y))

    gain = loss(0.0) - loss(1.0)
    for g in [0.0, 0.25, 0.5, 0.75]:
        chord = (loss(1.0) - loss(g)) / (1 - g)
        assert gate_gradient(g, weight, x, other, y) <= chord + 1e-12
    assert gate_gradient(0.75, weight, x, other, y) > -0.5 * gain  # not below -gain
    stopped = descend(0.5 * gain, weight, x, other, y)
    assert 0.5 < stopped < 0.9
    assert gate_gradient(stopped, weight, x, other, y) == pytest.approx(-0.5 * gain, rel=0.15)


def descend(
    alpha: float, weight: float, x: torch.Tensor, other: torch.Tensor, y: torch.Tensor
) -> float:
    """The gate after gradient descent on theta from 0, with a new shuffle in every step."""
    theta = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.02)
    torch.manual_seed(0)
    for _ in range(150):
        g = torch.sigmoid(5 * theta)
        logits = weight * gated(x[:, None], shuffle_columns(x[:, None]), g)[:, 0]
        loss = functional.binary_cross_entropy_with_logits(logits, y) + alpha * g.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(torch.sigmoid(5 * theta))
