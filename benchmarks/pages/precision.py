"""Tables of int8 and int4, as ``benchmarks.accuracy.precision`` recorded them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.accuracy.precision import RECORD, ROW_BYTES
from benchmarks.pages.cells import by_seed, minus, seeds_in_words, with_deviation
from benchmarks.pages.markdown import Column, each, table
from benchmarks.record import Line, read


def region(lines: Sequence[Line] | None = None) -> list[str]:
    """Two tables for each data set and number of bytes: at equal bytes, and at equal rows.

    Args:
        lines: default: the record.
    """
    lines = read(RECORD) if lines is None else lines
    if not lines:
        return ["`python -m benchmarks.accuracy.precision --data data/ml-1m`: not run.", ""]
    out: list[str] = []
    for dataset, num_bytes in dict.fromkeys((x["dataset"], x["bytes"]) for x in lines):
        here = [x for x in lines if (x["dataset"], x["bytes"]) == (dataset, num_bytes)]
        out += _study(dataset, num_bytes, here)
    return out


def _study(dataset: str, num_bytes: int, lines: Sequence[Line]) -> list[str]:
    sizes = {p: by_seed(x for x in lines if x["precision"] == p) for p in ROW_BYTES}
    sizes = {p: runs for p, runs in sizes.items() if runs}
    seeds = seeds_in_words({x["seed"] for x in lines})
    first = next(iter(sizes))
    at_bytes = [
        Column("tables", lambda p: p),
        Column("floats", lambda p: _one(sizes[p])["embedding_params"], ",d"),
        Column("bytes", lambda p: _one(sizes[p])["served"][p]["num_bytes"], ",d"),
        Column("test AUC", lambda p: with_deviation(_of(sizes[p], p), "auc")),
        Column(f"− {first}", lambda p: _less(_of(sizes[p], p), _of(sizes[first], first), "auc")),
        Column("log loss", lambda p: with_deviation(_of(sizes[p], p), "log_loss")),
    ]
    pairs = [(size, p) for size in sizes for p in ROW_BYTES if p != "float32"]
    at_rows = [
        Column("floats", lambda x: _one(sizes[x[0]])["embedding_params"], ",d"),
        Column("tables", lambda x: x[1]),
        Column("bytes", lambda x: _one(sizes[x[0]])["served"][x[1]]["num_bytes"], ",d"),
        *each(
            ("auc", "log_loss"),
            lambda name: {"auc": "AUC − float32", "log_loss": "log loss − float32"}[name],
            lambda name, x: _less(_of(sizes[x[0]], x[1]), _of(sizes[x[0]], "float32"), name, 6),
        ),
    ]
    return [
        f"**{dataset}, {num_bytes:,} bytes of rows**, {seeds}: mean and standard deviation, and "
        "differences paired by seed with their standard error.",
        "",
        *table(at_bytes, sizes),
        "The same rows, rounded after the training:",
        "",
        *table(at_rows, pairs),
    ]


def _of(runs: Mapping[int, Line], precision: str) -> dict[int, Line]:
    """By seed, what the runs score in a type."""
    return {seed: line["served"][precision] for seed, line in runs.items()}


def _one(runs: Mapping[int, Line]) -> Line:
    return next(iter(runs.values()))


def _less(
    runs: Mapping[int, Line], others: Mapping[int, Line], name: str, digits: int = 5
) -> str | None:
    return None if runs == others else minus(runs, others, name, digits, with_p=False)
