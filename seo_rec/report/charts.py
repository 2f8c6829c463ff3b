"""Line charts as inline SVG: text stays text, nothing is loaded, equal input gives equal bytes."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from seo_rec.report.comparison import Group
from seo_rec.runs.finished import Epoch

# Okabe and Ito's colours without yellow and black: told apart with every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚"))
DASHES = ("-", "--", ":")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "seo-rec",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Mark:
    """How one method is drawn everywhere on the page; ``sign`` is its marker as a character."""

    colour: str
    marker: str
    sign: str
    dash: str


def marks(methods: Sequence[str]) -> dict[str, Mark]:
    """A mark per method; colours repeat after six, then the marker and the dashes differ."""
    found = {}
    for i, method in enumerate(dict.fromkeys(methods)):
        turn = i // len(COLOURS)
        marker, sign = MARKERS[(i + turn) % len(MARKERS)]
        found[method] = Mark(COLOURS[i % len(COLOURS)], marker, sign, DASHES[turn % len(DASHES)])
    return found


def auc_by_method(group: Group, mark: Mapping[str, Mark]) -> str:
    """Test AUC of every seed (small) and their mean (large, bar of one standard deviation)."""
    rows = list(reversed(group.rows))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 0.9 + 0.34 * len(rows)), layout="constrained")
        ax = figure.add_subplot()
        for y, row in enumerate(rows):
            m = mark[row.method]
            seeds = [t.test_auc for t in row.runs]
            ax.plot(seeds, [y] * len(seeds), "o", color=m.colour, alpha=0.45, markersize=4.5)
            ax.errorbar(
                [row.test_auc.mean],
                [y],
                xerr=None if np.isnan(row.test_auc.sd) else [row.test_auc.sd],
                fmt=m.marker,
                color=m.colour,
                markersize=8,
                capsize=4,
            )
        ax.set_yticks(range(len(rows)), [row.method for row in rows])
        ax.set_ylim(-0.6, len(rows) - 0.4)
        ax.set_xlabel(f"test {group.quality}")
        return as_svg(figure)


def training_curves(group: Group, mark: Mapping[str, Mark]) -> str:
    """Validation AUC and training loss by epoch; empty if no run has a curve.

    Thin lines are seeds, a thick line is their mean over the epochs that all of them reached.
    """
    if not any(t.curve for row in group.rows for t in row.runs):
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 3.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        for row in group.rows:
            curves = [t.curve for t in row.runs if t.curve]
            _curves(left, curves, "val_auc", mark[row.method])
            _curves(right, curves, "train_loss", mark[row.method])
        loss = f"training loss ({group.loss}{', nats' if group.loss == 'log loss' else ''})"
        for ax, label in ((left, f"validation {group.quality}"), (right, loss)):
            ax.set_xlabel("epoch")
            ax.set_ylabel(label)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        return as_svg(figure)


def _curves(ax: Axes, curves: Sequence[Sequence[Epoch]], of: str, m: Mark) -> None:
    if not curves:
        return
    for curve in curves:
        if len(curves) > 1:
            numbers, values = [e.number for e in curve], [getattr(e, of) for e in curve]
            ax.plot(numbers, values, linestyle=m.dash, color=m.colour, alpha=0.35, linewidth=0.8)
    common = min(len(curve) for curve in curves)
    ax.plot(
        [e.number for e in curves[0][:common]],
        np.mean([[getattr(e, of) for e in curve[:common]] for curve in curves], axis=0),
        linestyle=m.dash,
        marker=m.marker,
        color=m.colour,
        markersize=4.5,
        linewidth=1.9,
    )


def size_axis(ax: Axes, sizes: Iterable[int], label_width: float = 0.1) -> None:
    """A logarithmic x axis with a tick at every size, named where there is room.

    Args:
        ax: where.
        sizes: numbers of rows or parameters, 1 or more.
        label_width: of a number below the axis, as a part of the axis.
    """
    ordered = sorted(set(sizes))
    room = math.log(ordered[-1] / ordered[0]) * label_width
    labels, last = dict.fromkeys(ordered, ""), math.inf
    for size in reversed(ordered):
        if math.log(last / size) >= room:
            labels[size], last = f"{size:,}", size
    ax.set_xscale("log")
    ax.set_xticks(ordered, list(labels.values()))
    ax.minorticks_off()


def as_png(figure: Figure) -> bytes:
    """The figure as a picture; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def as_svg(figure: Figure) -> str:
    """The figure as an SVG element for an HTML page: no XML header, no names nobody refers to."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href=", "href=")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups()  # type: ignore[union-attr]
    head = f'<svg viewBox="0 0 {width} {height}" role="img" style="max-width:{width}pt">'
    return head + text[text.index(">") + 1 :]
