"""What a cell of a table says of several runs: means, their spread, differences paired by seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks.record import Line
from seo_rec.report.comparison import Difference, Spread, paired_difference, spread
from seo_rec.report.formats import difference, p_value, plus_minus

Value = Callable[[Any], float]
Runs = Mapping[int, Line]  # lines by seed


def by_seed(lines: Iterable[Line]) -> dict[int, Line]:
    """Lines by their seed; of several with one seed the last."""
    return {line["seed"]: line for line in lines}


def spread_of(runs: Runs, value: str | Value) -> Spread:
    """Mean and standard deviation over seeds of an entry, or of what a function makes of a line."""
    return spread([_function(value)(line) for line in runs.values()])


def mean(runs: Runs, value: str | Value) -> float:
    """The mean over seeds."""
    return spread_of(runs, value).mean


def with_deviation(runs: Runs, value: str | Value, digits: int = 5) -> str | None:
    """``mean ± standard deviation over seeds``; None without a run."""
    if not runs:
        return None
    found = spread_of(runs, value)
    return plus_minus(found.mean, found.sd, digits)


def with_error(runs: Runs, value: str | Value, digits: int = 5) -> str | None:
    """``mean ± standard error``; None without a run."""
    if not runs:
        return None
    found = spread_of(runs, value)
    return plus_minus(found.mean, found.sd / found.n**0.5, digits)


def paired(runs: Runs, others: Runs, value: str | Value = "test_auc") -> Difference | None:
    """``runs`` minus ``others`` over the seeds that both have; None without such a seed."""
    seeds = sorted(set(runs) & set(others))
    if not seeds:
        return None
    of = _function(value)
    return paired_difference([of(runs[s]) for s in seeds], [of(others[s]) for s in seeds])


def minus(
    runs: Runs,
    others: Runs,
    value: str | Value = "test_auc",
    digits: int = 5,
    with_p: bool = True,
) -> str | None:
    """``+difference ± standard error (p of the paired t-test)``; None without a common seed."""
    found = paired(runs, others, value)
    return None if found is None else in_words(found, digits, with_p)


def in_words(found: Difference, digits: int = 5, with_p: bool = True) -> str:
    """A paired difference as :func:`minus` writes it; without an error for a single pair."""
    text = difference(found.mean, found.standard_error, digits)
    return f"{text} (p {p_value(found.p)})" if with_p and found.n > 1 else text


def seeds_in_words(seeds: Iterable[int]) -> str:
    """``seed 3`` or ``seeds 0, 1``."""
    listed = sorted(seeds)
    return f"seed{'s' * (len(listed) != 1)} {', '.join(map(str, listed))}"


def _function(value: str | Value) -> Value:
    return (lambda line: line[value]) if isinstance(value, str) else value
