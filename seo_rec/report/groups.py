"""Quality by group of the methods of a comparison: tables, charts, and what the terminal shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from seo_rec.report import formats
from seo_rec.report.charts import STYLE, Mark, as_svg
from seo_rec.report.comparison import NAN, Difference, Group, Row, Spread, difference_of, spread
from seo_rec.runs.finished import TrainingRun
from seo_rec.runs.groups import BY_FREQUENCY, GroupAuc, GroupQuality

DRAWN = 20  # groups in a chart, or in the terminal
DRAWN_ROWS = 100  # the AUC of fewer rows is mostly noise, and would set the scale


@dataclass(frozen=True)
class Cell:
    """One method in one group: means over seeds, and its AUC minus that of the reference.

    ``difference`` is None for the reference itself and where there is no pair.
    """

    method: str
    rows: float
    label_rate: float
    auc: Spread
    log_loss: float
    calibration: float
    calibration_error: float
    difference: Difference | None


@dataclass(frozen=True)
class Within:
    """GAUC of one method, and its difference to the reference; counts are means over seeds."""

    method: str
    gauc: Spread
    difference: Difference | None
    groups: float
    used_groups: float
    used_rows: float


@dataclass(frozen=True)
class ByGroup:
    """What the page shows about the groups of one column; ``groups`` has a cell per method."""

    title: str
    column: str
    groups: tuple[tuple[str, tuple[Cell, ...]], ...]
    more: str
    chart: str = ""


@dataclass(frozen=True)
class Groups:
    """Quality by group in one comparison; everything is empty where nothing was measured."""

    gauc: tuple[tuple[str, tuple[Within, ...]], ...]
    tables: tuple[ByGroup, ...]
    without: tuple[str, ...]  # methods that were not measured


def groups_of(found: Group, mark: Mapping[str, Mark] | None = None) -> Groups:
    """Quality by group of the methods of a comparison; with charts if there are marks."""
    measured = [row for row in found.rows if any(t.groups for t in row.runs)]
    if not measured:
        return Groups((), (), ())
    reports = [t.groups for row in measured for t in row.runs if t.groups]
    users = dict.fromkeys(entry.column for report in reports for entry in report.gauc)
    keys = dict.fromkeys((table.column, table.kind) for r in reports for table in r.tables)
    tables = [_by_group(found, measured, *key) for key in keys]
    if mark is not None:
        tables = [replace(table, chart=_chart(table, mark)) for table in tables]
    without = tuple(row.method for row in found.rows if row not in measured)
    gauc = tuple((column, tuple(_within(found, measured, column))) for column in users)
    return Groups(gauc, tuple(tables), without)


# ---- GAUC --------------------------------------------------------------------------------


def _gauc_of(run: TrainingRun, column: str) -> GroupAuc | None:
    entries = run.groups.gauc if run.groups else ()
    return next((entry for entry in entries if entry.column == column), None)


def _within(found: Group, rows: Sequence[Row], column: str) -> Iterator[Within]:
    def value(run: TrainingRun) -> float:
        entry = _gauc_of(run, column)
        return entry.gauc if entry else NAN

    for row in rows:
        entries = [entry for t in row.runs if (entry := _gauc_of(t, column))]
        if entries:
            yield Within(
                row.method,
                spread([entry.gauc for entry in entries]),
                difference_of(row, found.reference, value) if found.reference else None,
                float(np.mean([entry.groups for entry in entries])),
                float(np.mean([entry.used_groups for entry in entries])),
                float(np.mean([entry.used_rows for entry in entries])),
            )


# ---- tables ------------------------------------------------------------------------------


def _by_group(found: Group, rows: Sequence[Row], column: str, kind: str) -> ByGroup:
    tables = [
        table
        for row in rows
        for t in row.runs
        for table in (t.groups.tables if t.groups else ())
        if (table.column, table.kind) == (column, kind)
    ]
    largest = max(tables, key=lambda table: len(table.groups))
    names = [group.name for group in largest.groups]
    how = "how many training rows hold the id of" if kind == BY_FREQUENCY else "each id of"
    groups = []
    for name in names:
        cells = [_cell(found, row, partial(_quality, column, kind, name)) for row in rows]
        groups.append((name, tuple(cell for cell in cells if cell)))
    more = ""
    if largest.num_groups > len(names):
        more = f"{largest.num_groups:,} ids in all; the largest groups stand by themselves"
    return ByGroup(f"By {how} {column}", column, tuple(groups), more)


def _quality(column: str, kind: str, name: str, run: TrainingRun) -> GroupQuality | None:
    for table in run.groups.tables if run.groups else ():
        if (table.column, table.kind) == (column, kind):
            return next((group for group in table.groups if group.name == name), None)
    return None


def _cell(
    found: Group, row: Row, quality_of: Callable[[TrainingRun], GroupQuality | None]
) -> Cell | None:
    qualities = [quality for t in row.runs if (quality := quality_of(t))]
    if not qualities:
        return None

    def auc(run: TrainingRun) -> float:
        quality = quality_of(run)
        return quality.auc if quality else NAN

    def mean(name: str) -> float:
        return float(np.mean([getattr(quality, name) for quality in qualities]))

    return Cell(
        row.method,
        mean("rows"),
        mean("label_rate"),
        spread([quality.auc for quality in qualities]),
        mean("log_loss"),
        mean("calibration"),
        mean("calibration_error"),
        difference_of(row, found.reference, auc) if found.reference else None,
    )


# ---- chart -------------------------------------------------------------------------------


def _chart(table: ByGroup, mark: Mapping[str, Mark]) -> str:
    """AUC, its difference to the reference, and calibration, a line of marks for each group."""
    large = [g for g in table.groups if max(c.rows for c in g[1]) >= DRAWN_ROWS]
    groups = list(reversed((large or table.groups)[:DRAWN]))
    methods = list(dict.fromkeys(cell.method for _, cells in groups for cell in cells))
    differs = any(cell.difference for _, cells in groups for cell in cells)
    with matplotlib.rc_context(STYLE):
        height = 1.1 + len(groups) * max(0.3, 0.11 * len(methods))
        figure = Figure(figsize=(10.4, height), layout="constrained")
        panels = figure.subplots(1, 3 if differs else 2, sharey=True)
        for i, method in enumerate(methods):
            shift = 0.7 * ((len(methods) - 1) / 2 - i) / len(methods)
            at = [(y + shift, c) for y, g in enumerate(groups) for c in g[1] if c.method == method]
            _marks(panels[0], [(y, c.auc.mean, c.auc.sd) for y, c in at], mark[method])
            _marks(panels[-1], [(y, c.calibration, NAN) for y, c in at], mark[method])
            if differs:
                pairs = [(y, c.difference) for y, c in at if c.difference]
                points = [(y, d.mean, d.standard_error) for y, d in pairs]
                _marks(panels[1], points, mark[method])
        panels[0].set_xlabel("test AUC")
        panels[-1].set_xlabel("calibration (predicted / observed)")
        panels[-1].axvline(1.0, color="#555555", linewidth=0.8)
        if differs:
            panels[1].set_xlabel("AUC minus the reference")
            panels[1].axvline(0.0, color="#555555", linewidth=0.8)
        labels = [f"{name}  ({max(c.rows for c in cells):,.0f} rows)" for name, cells in groups]
        panels[0].set_yticks(range(len(groups)), labels)
        panels[0].set_ylim(-0.6, len(groups) - 0.4)
        return as_svg(figure)


def _marks(ax: Axes, points: Sequence[tuple[float, float, float]], m: Mark) -> None:
    """Marks at (y, x, error of x); an error that is NaN has no bar."""
    known = [(y, x, 0.0 if math.isnan(e) else e) for y, x, e in points if not math.isnan(x)]
    if known:
        y, x, error = zip(*known, strict=True)
        bars = ax.errorbar(x, y, xerr=error, fmt=m.marker, color=m.colour, capsize=2.5)
        bars[0].set_markersize(5.5)


# ---- terminal ----------------------------------------------------------------------------


def terminal_tables(found: Group) -> list[Table]:
    """GAUC and AUC by group, a column for each method; differences are to the reference."""
    groups = groups_of(found)
    tables = []
    for column, entries in groups.gauc:
        lines = [
            (w.method, _auc(w.gauc, w.difference), f"{w.used_groups:,.0f} of {w.groups:,.0f}")
            for w in entries
        ]
        tables.append(_titled(f"GAUC within {column}", ("method", "GAUC", "groups used"), lines))
    for table in groups.tables:
        methods = list(dict.fromkeys(c.method for _, cells in table.groups for c in cells))
        rows = []
        for name, cells in table.groups[:DRAWN]:
            of = {c.method: _auc(c.auc, c.difference) for c in cells}
            size = f"{max(c.rows for c in cells):,.0f}"
            rows.append((name, size, *(of.get(m, formats.MISSING) for m in methods)))
        title = f"{table.title}: test AUC"
        tables.append(_titled(title, ("group", "rows", *methods), rows))
    return tables


def _auc(auc: Spread, difference: Difference | None) -> str:
    if difference is None:
        return formats.number(auc.mean, 5)
    return f"{formats.number(auc.mean, 5)} ({formats.signed(difference.mean)})"


def _titled(title: str, headings: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left", overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    return table
