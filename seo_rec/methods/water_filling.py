"""Rows and widths divided between features, by what each is worth and how often it is read.

Letters: F features, N training ids of a feature, the most frequent first, K of them with a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from seo_rec.methods.managed_collision import Counts, rows_by_id
from seo_rec.methods.origin import provenance
from seo_rec.policy import Allowance, Policy, PolicyError, allowance_of
from seo_rec.schema import Schema

HALF_WIDTH = 4.0  # columns at which a row is worth half of what the widest row is worth
STEPS = 100  # of the bisection of the price

Floats = npt.NDArray[np.float64]


def value_of_width(dim: int) -> float:
    """``d / (d + 4)``: what a row of d columns is worth, 1 for a row without end."""
    return dim / (dim + HALF_WIDTH)


@dataclass(frozen=True)
class Problem:
    """What is divided: the value and the cost of every row.

    Args:
        worth: What a read of each feature is worth, (F,).
        counts: How often each id of a feature is read, falling, by feature, (N,).
        widths: The widths that a feature may have, ascending.
        allowance: The budget.
    """

    worth: Sequence[float]
    counts: Sequence[Floats]
    widths: Sequence[int]
    allowance: Allowance

    @cached_property
    def reads(self) -> list[Floats]:
        """How often the first k ids of every feature are read together, (N + 1,)."""
        return [np.concatenate([[0.0], np.cumsum(n)]) for n in self.counts]

    def shared(self, dim: int) -> int:
        """The cost of the row that all other ids of a feature read."""
        return self.allowance.row(dim)

    def row(self, dim: int) -> int:
        """The cost of a row with its id."""
        return self.allowance.row(dim) + self.allowance.ids(1)

    def cost(self, dims: Sequence[int], rows: Sequence[int]) -> int:
        """The floats or bytes of everything that is stored."""
        pairs = zip(dims, rows, strict=True)
        return sum(self.shared(d) + k * self.row(d) for d, k in pairs)

    def value(self, dims: Sequence[int], rows: Sequence[int]) -> float:
        """``sum_f worth_f g(d_f) sum_{j <= K_f} n_fj``, g of :func:`value_of_width`."""
        parts = zip(self.worth, self.reads, dims, rows, strict=True)
        return sum(a * value_of_width(d) * float(total[k]) for a, total, d, k in parts)

    def at_price(self, price: float) -> tuple[list[int], list[int]]:
        """Widths and rows of the largest value less ``price`` times cost; ties: the narrower."""
        dims, rows = [], []
        for a, n, total in zip(self.worth, self.counts, self.reads, strict=True):
            best, chosen = -np.inf, (self.widths[0], 0)
            for d in self.widths:
                each = a * value_of_width(d)
                k = _at_least(n, price * self.row(d) / each) if each else 0
                gain = each * total[k] - price * (self.shared(d) + k * self.row(d))
                if gain > best:
                    best, chosen = gain, (d, k)
            dims.append(chosen[0])
            rows.append(chosen[1])
        return dims, rows


def _at_least(falling: Floats, least: float) -> int:
    """How many of some falling numbers are ``least`` or more."""
    return len(falling) - int(np.searchsorted(falling[::-1], least, side="left"))


def water_fill(problem: Problem) -> tuple[list[int], list[int]]:
    """The width of every feature and how many of its ids have a row.

    The value :meth:`Problem.value` is to be large within the budget. One price for a float (or a
    byte) decides all features: of every feature the width and the ids are taken whose value
    exceeds their cost at that price by the most, at the lowest price that fits. At these widths ids
    are then added by value over cost, the best first, as long as they fit; ties go to the first
    feature. Where all ids have a row, features become wider, the one that gains the most first; the
    last one may lose its least frequent ids by that, if it gains more.

    Raises:
        PolicyError: The budget has no room for the shared row of every feature.
    """
    p, budget, F = problem, problem.allowance.amount, len(problem.counts)
    smallest = F * p.shared(p.widths[0])
    if smallest > budget:
        raise PolicyError(
            f"a budget of {p.allowance} is too small for the shared rows of {F} features; the "
            f"smallest feasible budget is {smallest}"
        )
    most = [a * float(n[0]) for a, n in zip(p.worth, p.counts, strict=True) if len(n)]
    low, high = 0.0, 1 + max(most, default=0.0)
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if p.cost(*p.at_price(middle)) <= budget else (middle, high)
    dims, _ = p.at_price(high)
    rows = _most_valued(p, dims)
    while all(k == len(n) for k, n in zip(rows, p.counts, strict=True)):
        wider = _widened(p, dims, rows)
        if wider is None:
            break
        dims, rows = wider
    return dims, rows


def _most_valued(p: Problem, dims: Sequence[int]) -> list[int]:
    """How many ids of every feature are among the first that fit, by value over cost."""
    scores, features, costs = [], [], []
    for f, (a, n, d) in enumerate(zip(p.worth, p.counts, dims, strict=True)):
        scores.append(a * n * (value_of_width(d) / p.row(d)))
        features.append(np.full(len(n), f))
        costs.append(np.full(len(n), p.row(d)))
    if not features:
        return []
    feature, score = np.concatenate(features), np.concatenate(scores)
    order = np.lexsort((feature, -score))  # stable: the first ids of a feature stay first
    room = p.allowance.amount - sum(map(p.shared, dims))
    fits = int(np.searchsorted(np.cumsum(np.concatenate(costs)[order]), room, side="right"))
    found: list[int] = np.bincount(feature[order[:fits]], minlength=len(dims)).tolist()
    return found


def _widened(
    p: Problem, dims: Sequence[int], rows: Sequence[int]
) -> tuple[list[int], list[int]] | None:
    """One feature at its next width, the one of the most gain over cost, if there is a gain.

    Where that does not fit, the feature keeps as many of its ids as do.
    """
    best, found = 0.0, None
    before, value = p.cost(dims, rows), p.value(dims, rows)
    for f, d in enumerate(dims):
        larger = [w for w in p.widths if w > d]
        if not larger:
            continue
        wide, kept = [*dims[:f], larger[0], *dims[f + 1 :]], list(rows)
        above = p.cost(wide, kept) - p.allowance.amount
        kept[f] -= max(0, -(-above // p.row(larger[0])))
        if kept[f] < 0 or p.cost(wide, kept) <= before:
            continue
        gain = (p.value(wide, kept) - value) / (p.cost(wide, kept) - before)
        if gain > best:
            best, found = gain, (wide, kept)
    return found


def water_filled(
    schema: Schema,
    counts: Counts,
    params: int | Allowance,
    widths: Sequence[int],
    worth: Mapping[str, float],
    *,
    method: str = "water-filling",
    seed: int = 0,
) -> Policy:
    """``x_f = T_f[1 + i]`` for the i-th id of feature f that is kept, ``T_f[0]`` for all others.

    Features have tables of their own widths. Which ids are kept, and the widths, maximise
    ``sum_f worth_f d_f / (d_f + 4) reads_f`` approximately, with the reads of the ids that are kept
    (:func:`water_fill`). With one width and equal worth it is the policy of
    :func:`seo_rec.methods.frequent` by count over all features.

    Args:
        schema: The data set.
        counts: Training ids of every feature, ascending, and how often each occurs.
        params: Budget in floats, or an allowance in bytes with the type of rows.
        widths: The widths that a feature may have, in floats.
        worth: What a read of each feature is worth, 0 or more, by name.
        method: What the policy says of its origin.
        seed: Is recorded; nothing is hashed.

    Raises:
        PolicyError: The budget has no room for the shared rows; the message ends with the smallest
            one.
    """
    allowance = allowance_of(params)
    names = [c.name for c in schema.features]
    orders = {n: np.argsort(-counts[n][1], kind="stable") for n in names}  # ties: the smaller id
    falling = [counts[n][1][orders[n]].astype(np.float64) for n in names]
    problem = Problem([worth[n] for n in names], falling, sorted(set(widths)), allowance)
    dims, rows = water_fill(problem)
    kept = {n: np.sort(counts[n][0][orders[n][:k]]) for n, k in zip(names, rows, strict=True)}
    told = {**allowance.to_json(), "widths": sorted(set(widths)), "worth": dict(worth)}
    origin = provenance(schema, method, **told, seed=seed)
    return allowance.typed(rows_by_id(kept, [1] * len(names), dims, seed, origin))
