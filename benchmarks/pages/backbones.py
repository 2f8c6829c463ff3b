"""What ``benchmarks.accuracy.backbones`` recorded, judged anew by what the code says now."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from benchmarks.accuracy.backbones import AUCS, L2, RECORD, ROWS, TABLES, judge
from benchmarks.pages.markdown import Column, table
from benchmarks.record import Line, read
from seo_rec.report.formats import signed


def region(lines: Sequence[Line] | None = None) -> list[str]:
    """One table: the longest run of every backbone, kind of tables and L2.

    Args:
        lines: default: the record.
    """
    lines = read(RECORD) if lines is None else lines
    if not lines:
        return ["Nothing is recorded yet."]
    longest: dict[tuple[Any, ...], Line] = {}
    for line in sorted(lines, key=lambda x: x["epochs_at_most"]):
        longest[line["name"], line["tables"], line.get("row_l2", L2)] = line
    mlp = {
        (x["tables"], x["epochs_at_most"], x.get("row_l2", L2)): x["test_auc"]
        for x in lines
        if x["name"] == "mlp"
    }
    rates = sorted({x.get("row_l2", L2) for x in lines}, reverse=True)
    rows = []
    for l2, tables, name in product(rates, TABLES, ROWS):
        run = longest.get((name, tables, l2))
        if run is not None:
            found = judge(run, mlp.get((tables, run["epochs_at_most"], l2)))
            rows.append({**run, **found, "row_l2": l2})
    kinds = {x["tables"] for x in rows}
    columns = [
        Column(
            "backbone", lambda x: x["name"] if len(kinds) == 1 else f"{x['name']}, {x['tables']}"
        ),
        Column("L2", lambda x: x["row_l2"], "g"),
        Column("epochs", lambda x: f"{x['epochs']}/{x['epochs_at_most']}"),
        Column("test AUC", lambda x: x["test_auc"], ".5f"),
        Column("− MLP", lambda x: _signed(x["gain_over_mlp"])),
        Column("published", published),
        Column("in range", lambda x: {True: "yes", False: "no", None: None}[x["in_range"]]),
    ]
    named = f"All have {', '.join(kinds)} tables.\n" if len(kinds) == 1 else ""
    return [*([named] if named else []), *table(columns, rows)]


def published(line: Line) -> str | None:
    """The published distances to the plain deep network, or the AUC published for these data."""
    if line["published_gains"] is not None:
        return ", ".join(signed(g, 4) for g in line["published_gains"])
    if line["tables"] == "collisionless":
        return f"AUC {AUCS[0]:.4f} to {AUCS[1]:.4f}"
    return None


def _signed(value: float | None) -> str | None:
    return None if value is None else signed(value, 4)
