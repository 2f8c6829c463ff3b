"""Rows and widths by worth and reads: beside all other ways to divide, and `frequent`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

import laws
from cases import SCHEMAS, counts, told
from seo_rec.methods.frequent import FrequentSettings, frequent
from seo_rec.methods.water_filling import Problem, value_of_width, water_fill, water_filled
from seo_rec.policy import Allowance, PolicyError

OF = SCHEMAS["three"]
EQUAL = {c.name: 1.0 for c in OF.features}


@pytest.mark.parametrize("schema", ["three", "one", "mixed", "names"])
@pytest.mark.parametrize("unit, precision", [("parameters", "float32"), ("bytes", "int8")])
@pytest.mark.parametrize("worth", [1.0, 0.3])
def test_one_width_and_equal_worth_is_frequent(
    schema: str, unit: str, precision: str, worth: float
) -> None:
    of, known = SCHEMAS[schema], counts(SCHEMAS[schema])
    equal = {c.name: worth for c in of.features}
    for amount in (333, 1_000, 2_717, 9_999):
        allowance = Allowance(amount, unit, precision)
        try:
            wanted = frequent(of, known, FrequentSettings(**told(allowance), dim=4))
        except PolicyError as error:
            with pytest.raises(PolicyError) as mine:
                water_filled(of, known, allowance, (4,), equal)
            assert str(mine.value) == str(error)
            continue
        found = water_filled(of, known, allowance, (4,), equal)
        assert found.tables == wanted.tables and found.features == wanted.features
        assert found.vocabularies.keys() == wanted.vocabularies.keys()
        for name, ids in found.vocabularies.items():
            np.testing.assert_array_equal(ids, wanted.vocabularies[name])


def problems(number: int) -> Iterator[Problem]:
    """Three features of few ids, of different worth, at budgets from little to all."""
    rng = np.random.default_rng(0)
    for _ in range(number):
        of = [np.sort(rng.integers(1, 60, rng.integers(1, 7)))[::-1].astype(float) for _ in "abc"]
        worth = rng.uniform(0.3, 2, 3).tolist()
        yield Problem(worth, of, (2, 4, 8), Allowance(int(rng.integers(40, 1_000)), "bytes"))


def best_value(p: Problem) -> float:
    """The largest value of all divisions that fit."""
    choices = [list(itertools.product(p.widths, range(len(n) + 1))) for n in p.counts]
    best = 0.0
    for chosen in itertools.product(*choices):
        dims, rows = zip(*chosen, strict=True)
        cost = sum(4 * d + k * (4 * d + 8) for d, k in chosen)
        if cost <= p.allowance.amount:
            value = sum(
                a * d / (d + 4) * n[:k].sum()
                for a, n, d, k in zip(p.worth, p.counts, dims, rows, strict=True)
            )
            best = max(best, value)
    return best


def test_it_is_close_to_the_best_of_all_divisions() -> None:
    """Ids come whole, so that the last one may not fit; on average it loses little."""
    shares = []
    for p in problems(40):
        dims, rows = water_fill(p)
        assert p.cost(dims, rows) == sum(
            4 * d + k * (4 * d + 8) for d, k in zip(dims, rows, strict=True)
        )
        assert p.cost(dims, rows) <= p.allowance.amount
        best = best_value(p)
        shares.append(p.value(dims, rows) / best if best else 1.0)
    assert min(shares) > 0.75 and np.mean(shares) > 0.97


def test_ids_are_added_by_value_over_cost() -> None:
    """At the widths that were chosen, the best first, as long as they fit."""
    checked = 0
    for p in problems(60):
        dims, rows = water_fill(p)
        if all(k == len(n) for k, n in zip(rows, p.counts, strict=True)):
            continue
        order = sorted(
            (-(a * n_j * d / (d + 4)) / (4 * d + 8), f, j)
            for f, (a, n, d) in enumerate(zip(p.worth, p.counts, dims, strict=True))
            for j, n_j in enumerate(n.tolist())
        )
        room, wanted = p.allowance.amount - sum(4 * d for d in dims), [0, 0, 0]
        for _, f, _ in order:
            room -= 4 * dims[f] + 8
            if room < 0:
                break
            wanted[f] += 1
        assert rows == wanted
        checked += len(set(dims)) > 1
    assert checked > 5


def test_a_price_gives_the_best_division_of_its_cost() -> None:
    """No other division of that cost or less has a larger value (weak duality)."""
    for p in problems(20):
        for price in (0.02, 0.1, 0.5):
            dims, rows = p.at_price(price)
            cost = Allowance(p.cost(dims, rows), "bytes")
            same = Problem(p.worth, p.counts, p.widths, cost)
            assert p.value(dims, rows) >= best_value(same) - 1e-9


def test_what_is_worth_more_gets_more() -> None:
    allowance = Allowance(4_000, "bytes", "int8")
    plain = water_filled(OF, counts(OF), allowance, (2, 4, 8), EQUAL)
    more = water_filled(OF, counts(OF), allowance, (2, 4, 8), {**EQUAL, "item": 5.0})
    size = [p.table("item").num_rows * p.table("item").dim for p in (plain, more)]
    assert size[1] > size[0]
    little = Allowance(1_000, "bytes", "int8")  # less than the ids of the two others take
    none = water_filled(OF, counts(OF), little, (2, 4, 8), {**EQUAL, "item": 0.0})
    assert none.table("item").num_rows == 1 and none.table("item").dim == 2


@pytest.mark.parametrize("unit, precision", [("parameters", "float32"), ("bytes", "int4")])
def test_the_budget_is_filled(unit: str, precision: str) -> None:
    """Never above it, and less than a row of the widest with its id below it."""
    row = laws.bytes_of_a_row(8, precision) if unit == "bytes" else 8
    for amount in range(200, 1_500, 53):
        allowance = Allowance(amount, unit, precision)
        policy = water_filled(OF, counts(OF), allowance, (2, 4, 8), {**EQUAL, "hour": 1.7})
        assert 0 <= amount - allowance.of(policy) < row + 8
    everything = water_filled(OF, counts(OF), Allowance(10**6, unit, precision), (2, 4, 8), EQUAL)
    assert everything.widths == (8, 8, 8)
    assert sum(map(len, everything.vocabularies.values())) == 464


def test_a_wider_row_is_worth_more_and_ever_less_more() -> None:
    values = [value_of_width(d) for d in range(1, 30)]
    gains = np.diff(values)
    assert (gains > 0).all() and (np.diff(gains) < 0).all() and value_of_width(4) == 0.5
