"""The comparison as a table in the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seo_rec.report import formats
from seo_rec.report.comparison import Group, Row, group
from seo_rec.report.groups import terminal_tables
from seo_rec.runs import reading

PLAIN_WIDTH = 160  # columns where the output is a file or a pipe
HEADINGS = (
    "method",
    "params",
    "bytes",
    "seeds",
    "test {quality}",
    "difference",
    "p",
    "{loss}",
    "s/epoch",
)


def print_comparison(runs: Sequence[Path]) -> None:
    """Print one table per data set and budget, methods sorted by mean test AUC.

    Args:
        runs: folders of comparisons, trainings and searches.

    Raises:
        ReportError: see :func:`seo_rec.runs.reading.read`.
    """
    records = reading.read(runs)
    console = open_console()
    for found in group(records):
        if not found.rows:
            console.print(Text(f"{found.title}: searches only, no trained method to compare"))
            continue
        console.print(_table(found, plain=not console.is_terminal))
        console.print(Text(f"{' '.join(filter(None, (_differences(found), found.tuned)))}\n"))
        for table in terminal_tables(found):
            console.print(table, "")
    for note in records.notes:
        console.print(Text(f"note: {note}"))


def open_console() -> Console:
    """The terminal; as wide as a table needs and without colours where it is a file or a pipe."""
    console = Console(highlight=False)
    if console.is_terminal:
        return console
    return Console(highlight=False, width=PLAIN_WIDTH, color_system=None)


def _table(found: Group, plain: bool) -> Table:
    table = Table(
        title=Text(found.title),
        title_justify="left",
        box=None,
        pad_edge=False,
        collapse_padding=not plain,
    )
    for heading in HEADINGS:
        table.add_column(
            heading.format(quality=found.quality, loss=found.loss),
            justify="left" if heading == "method" else "right",
            no_wrap=plain,
            overflow="fold",
        )
    best = max((r.test_auc.mean for r in found.rows if r.at_budget), default=float("nan"))
    for row in found.rows:
        style = "bold" if row.at_budget and row.test_auc.mean == best else ""
        table.add_row(*(Text(cell) for cell in _cells(row, found)), style=style)
    return table


def _cells(row: Row, found: Group) -> tuple[str, ...]:
    d = row.difference
    is_reference = found.reference is not None and row.method == found.reference.method
    return (
        row.method,
        formats.count(row.params.mean),
        formats.count(row.num_bytes.mean),
        str(row.test_auc.n),
        formats.plus_minus(row.test_auc.mean, row.test_auc.sd),
        "reference"
        if is_reference
        else formats.difference(d.mean, d.standard_error)
        if d
        else formats.MISSING,
        formats.p_value(d.p) if d else "",
        formats.number(row.test_logloss.mean, 5),
        formats.seconds(row.seconds_per_epoch.mean),
    )


def _differences(found: Group) -> str:
    quality = found.quality
    spreads = f"test {quality}: mean ± standard deviation over seeds"
    if found.reference is None:
        return f"{spreads}; no plain method at this budget to take differences against."
    auc = found.reference.val_auc.mean
    best = "" if math.isnan(auc) else f" (best plain method by validation {quality}, {auc:.5f})"
    return (
        f"{spreads}; difference of test {quality}, paired by seed, to {found.reference.method}"
        f"{best}: mean ± standard error, p of the paired t-test."
    )
