"""How a budget of floats becomes whole rows of tables."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from seo_rec.policy.entries import PolicyError


def split_rows(
    budget: int,
    dims: Sequence[int],
    weights: Sequence[float | Fraction],
    least: Sequence[int] | None = None,
) -> list[int]:
    """Rows for tables of widths ``dims`` so that ``sum(rows * dims)`` fills ``budget`` floats.

    Each table first gets ``max(1, floor(budget * w_i / sum(w) / dim_i))`` rows; the rest
    goes row by row to the tables furthest below their share, so that less than one row of the
    narrowest table (hence of the widest) is wasted. Where the floors of one row overdraw the
    budget, the tables above them divide the rest in proportion to their weights.

    In bytes the same holds with the bytes of a row in place of its width.

    Args:
        budget: floats (or bytes) of all tables together.
        dims: floats (or bytes) of a row of each table.
        weights: of each table.
        least: rows that each table has at least, in place of one.

    Raises:
        PolicyError: the budget is smaller than the least rows of every table, or a weight is
            negative.
    """
    least = [1] * len(dims) if least is None else least
    floors = [n * d for n, d in zip(least, dims, strict=True)]
    if budget < sum(floors):
        rows_of_each = "one row" if set(least) <= {1} else f"{min(least)} to {max(least)} rows"
        raise PolicyError(
            f"a budget of {budget} parameters is less than {rows_of_each} of each of {len(dims)} "
            f"tables; the smallest feasible budget is {sum(floors)}"
        )
    exact = [Fraction(w) for w in weights]
    if min(exact, default=0) < 0 or (exact and not any(exact)):
        raise PolicyError(f"weights {list(weights)}; allowed: 0 or more, and one above 0")
    total = sum(exact)
    shares = [budget * w / total for w in exact]
    rows = [max(n, int(s // d)) for s, d, n in zip(shares, dims, least, strict=True)]
    if sum(r * d for r, d in zip(rows, dims, strict=True)) > budget:
        shares = _shares_above_floors(budget, floors, exact)
        rows = [int(s // d) for s, d in zip(shares, dims, strict=True)]
    left = budget - sum(r * d for r, d in zip(rows, dims, strict=True))
    while room := [j for j, d in enumerate(dims) if d <= left]:
        i = max(room, key=lambda j: (shares[j] - rows[j] * dims[j], -j))
        rows[i] += 1
        left -= dims[i]
    return rows


def _shares_above_floors(
    budget: int, floors: Sequence[int], weights: Sequence[Fraction]
) -> list[Fraction]:
    """Tables whose share is below their floor get that; the others divide the rest by weight."""
    shares = [Fraction(n) for n in floors]
    above, left = list(range(len(floors))), budget
    while True:
        total = sum(weights[j] for j in above)
        below = [j for j in above if left * weights[j] < floors[j] * total]
        if not below:
            break
        above = [j for j in above if j not in below]
        left -= sum(floors[j] for j in below)
    for j in above:
        shares[j] = left * weights[j] / total
    return shares


def level(most: Sequence[int], total: int) -> list[int]:
    """``min(most_i, m)`` for the largest m whose sum is at most ``total``; the rest one by one.

    Those that are not at their largest number get one more, the first ones first.

    Args:
        most: The largest number of each.
        total: What the numbers add up to, unless all of them are at their largest.
    """
    low, high = 0, max(most, default=0)
    while low < high:
        middle = (low + high + 1) // 2
        fits = sum(min(n, middle) for n in most) <= total
        low, high = (middle, high) if fits else (low, middle - 1)
    found = [min(n, low) for n in most]
    left = total - sum(found)
    for i, n in enumerate(most):
        if left and n > low:
            found[i], left = found[i] + 1, left - 1
    return found
