"""The frontier of size and accuracy: every method at every budget, and the Pareto-optimal ones.

Size is counted in bytes to serve where budgets are in bytes, and else in parameters. A point is
*Pareto-optimal* if no other one has at most its size and at least its mean test AUC, and less or
more of one of them. Methods at one budget count as equally large, though one may
leave a part of it: of a row, or of what rows per id cannot use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from seo_rec.files import write_bytes, write_json
from seo_rec.policy.allowance import BYTES, FLOATS
from seo_rec.report import charts, formats
from seo_rec.report.charts import Mark
from seo_rec.report.comparison import SAME_BUDGET, Group, Row, Spread, group
from seo_rec.report.terminal import open_console
from seo_rec.runs import reading
from seo_rec.runs.layout import FRONTIER_FILE, FRONTIER_PICTURE
from seo_rec.schema import BINARY, LOSS_NAMES, QUALITY_NAMES, REGRESSION

VERSION = 1
AXES = {
    FLOATS: "embedding parameters (floats, logarithmic)",
    BYTES: "bytes to serve, ids included (logarithmic)",
}
HEADINGS = (
    "budget",
    "method",
    "params",
    "bytes",
    "seeds",
    "test {quality}",
    "{loss}",
    "Pareto",
)
# of a regression the same fields hold R2 and the mean squared error, and the file names them so
REGRESSION_NAMES = {"test_auc": "test_r2", "val_auc": "val_r2", "test_logloss": "test_mse"}


@dataclass(frozen=True)
class Point:
    """One method at one budget; ``budget`` is None for a method whose size follows from the data.

    ``test_auc``: mean over ``seeds``; ``standard_error``: their sample standard deviation over the
    root of their number, NaN for one. ``num_bytes``: mean of all that is stored to serve, NaN where
    a run does not say it. ``unit``: in which the frontier counts, parameters or bytes. ``task``
    says what the label is; see :class:`TrainingRun`.
    """

    method: str
    budget: int | None
    params: float
    seeds: int
    test_auc: float
    standard_error: float
    val_auc: float
    test_logloss: float
    pareto: bool = False
    num_bytes: float = math.nan
    unit: str = FLOATS
    task: str = BINARY

    @property
    def takes(self) -> float:
        """Bytes or parameters that the method holds."""
        return self.params if self.unit == FLOATS else self.num_bytes

    @property
    def size(self) -> float:
        """Bytes or parameters that the frontier counts."""
        return self.takes if self.budget is None else self.budget

    @property
    def held(self) -> float:
        """The budget, or what the method holds where it leaves more than 1% of it."""
        near = self.takes >= self.size * (1 - SAME_BUDGET)
        return self.size if near else self.takes


def points(groups: Sequence[Group]) -> tuple[Point, ...]:
    """The rows of comparisons on one data set, each once, by size and then by AUC."""
    rows: list[tuple[int | None, Row]] = []
    unit = BYTES if any(g.unit == BYTES for g in groups) else FLOATS
    for g in groups:
        for row in g.rows:
            if all(row.runs != known.runs for _, known in rows):
                rows.append((g.budget if row.at_budget and g.unit == unit else None, row))
    return pareto([_point(budget, row, unit) for budget, row in rows])


def pareto(found: Sequence[Point]) -> tuple[Point, ...]:
    """``found`` by size and then by AUC, those that no other one beats marked."""
    best = [replace(p, pareto=not any(_beats(q, p) for q in found)) for p in found]
    return tuple(sorted(best, key=lambda p: (-p.size, -p.test_auc, p.method)))


def _point(budget: int | None, row: Row, unit: str) -> Point:
    return Point(
        method=row.method,
        budget=budget,
        params=row.params.mean,
        seeds=row.test_auc.n,
        test_auc=row.test_auc.mean,
        standard_error=standard_error(row.test_auc),
        val_auc=row.val_auc.mean,
        test_logloss=row.test_logloss.mean,
        num_bytes=row.num_bytes.mean,
        unit=unit,
        task=row.runs[0].task,
    )


def _task(found: Sequence[Point]) -> str:
    return found[0].task if found else BINARY


def standard_error(values: Spread) -> float:
    """``sd / sqrt(n)``; NaN for one value."""
    return values.sd / math.sqrt(values.n)


def _beats(p: Point, q: Point) -> bool:
    no_worse = p.size <= q.size and p.test_auc >= q.test_auc
    return no_worse and (p.size < q.size or p.test_auc > q.test_auc)


def figure(found: Sequence[Point], mark: Mapping[str, Mark], legend: bool = True) -> Figure:
    """Test AUC over size (logarithmic), a line per method, bars of one standard error.

    Pareto-optimal points have a ring. A method whose size follows from the data is a point and a
    dotted line at its height.
    """
    methods = list(dict.fromkeys(p.method for p in sorted(found, key=lambda p: -p.test_auc)))
    sizes = [p.takes for p in found]
    step = 0.008 * np.log(max(sizes) / min(sizes))  # apart, so that no bar hides another
    with matplotlib.rc_context(charts.STYLE):
        drawn = Figure(figsize=(8.4, 4.4), layout="constrained")
        ax = drawn.add_subplot()
        for i, method in enumerate(methods):
            line = sorted((p for p in found if p.method == method), key=lambda p: p.takes)
            m = mark[method]
            free = line[0].budget is None
            aside = 1.0 if free else float(np.exp(step * (i - (len(methods) - 1) / 2)))
            x = [p.takes * aside for p in line]
            ax.errorbar(
                x,
                [p.test_auc for p in line],
                yerr=[np.nan_to_num(p.standard_error) for p in line],
                fmt=m.marker,
                linestyle="none" if free else m.dash,
                color=m.colour,
                markersize=6,
                capsize=3,
                linewidth=1.5,
                label=method,
            )
            if free:
                ax.axhline(line[0].test_auc, color=m.colour, linestyle=":", linewidth=1.2)
            at = [i for i, p in enumerate(line) if p.pareto]
            _rings(ax, [x[i] for i in at], [line[i].test_auc for i in at])
        charts.size_axis(ax, {int(p.held) for p in found})
        ax.set_xlabel(AXES[found[0].unit])
        ax.set_ylabel(f"test {QUALITY_NAMES[_task(found)]}")
        if legend:
            handles, labels = ax.get_legend_handles_labels()
            ax.legend(
                [*handles, _rings(ax, [], [])],
                [*labels, "Pareto-optimal (means)"],
                loc="center left",
                bbox_to_anchor=(1.01, 0.5),
                frameon=False,
            )
        return drawn


def _rings(ax: Axes, x: Sequence[float], y: Sequence[float]) -> PathCollection:
    return ax.scatter(x, y, s=150, facecolors="none", edgecolors="#222222")


def svg(found: Sequence[Point], mark: Mapping[str, Mark]) -> str:
    """The figure for the page, whose legend is text."""
    return charts.as_svg(figure(found, mark, legend=False))


def write_frontier(folder: Path, command: str = "") -> tuple[Point, ...]:
    """Write ``frontier.json`` and ``frontier.png`` of a frontier's finished runs.

    Raises:
        ReportError: no finished run.
    """
    found = read_points(folder)
    mark = charts.marks(sorted({p.method for p in found}))
    write_json(
        folder / FRONTIER_FILE,
        {
            "version": VERSION,
            "command": command,
            "points": [_plain(p) for p in found],
            "infeasible": [
                {"part": name, "method": method, "reason": why}
                for name, method, why in reading.read_infeasible(folder)
            ],
        },
    )
    write_bytes(folder / FRONTIER_PICTURE, charts.as_png(figure(found, mark)))
    return found


def read_points(folder: Path) -> tuple[Point, ...]:
    """The points of a folder's finished runs; ReportError if there is none."""
    return points(group(reading.read([folder])))


def _plain(point: Point) -> dict[str, object]:
    """NaN is no JSON: an unknown standard error is null."""
    values = {
        k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(point).items()
    }
    if point.task == REGRESSION:
        return {REGRESSION_NAMES.get(k, k): v for k, v in values.items()}
    del values["task"]
    return values


def print_frontier(folder: Path) -> None:
    """Print the points by budget, largest first, methods sorted by mean test AUC."""
    found = read_points(folder)
    console, quality = open_console(), QUALITY_NAMES[_task(found)]
    table = Table(box=None, pad_edge=False)
    for heading in HEADINGS:
        side = "left" if heading in ("method", "Pareto") else "right"
        named = heading.format(quality=quality, loss=LOSS_NAMES[_task(found)])
        table.add_column(named, justify=side, no_wrap=True)  # type: ignore[arg-type]
    shown = None
    for p in found:
        budget = "its own" if p.budget is None else formats.count(p.budget)
        cells = (
            "" if budget == shown else budget,
            p.method,
            formats.count(p.params),
            formats.count(p.num_bytes),
            str(p.seeds),
            formats.plus_minus(p.test_auc, p.standard_error),
            formats.number(p.test_logloss, 5),
            "*" if p.pareto else "",
        )
        shown = budget
        table.add_row(*map(Text, cells), style="bold" if p.pareto else "")
    console.print(table)
    console.print(
        Text(
            f"test {quality}: mean ± standard error over seeds; * no other mean is at least as "
            f"good with as many {found[0].unit} or fewer (a budget counts in full)"
        )
    )
    for name, method, why in reading.read_infeasible(folder):
        console.print(Text(f"note: {name}: {method} is left out: {why}"))
