"""The picture of a limited run-off: every candidate's validation AUC by the rows that it read."""

from __future__ import annotations

import matplotlib
from matplotlib.figure import Figure

from seo_rec.report.charts import COLOURS, STYLE, as_svg, size_axis
from seo_rec.runs.halving import Halving

PLAIN_COLOUR, SEARCHED_COLOUR = COLOURS[0], COLOURS[1]


def rounds_chart(halving: Halving, winner: str) -> str:
    """Lines of all candidates, blue the plain and orange the searched ones; the winner is thick."""
    sizes = {rows for c in halving.courses for rows, _ in c.curve}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.9), layout="constrained")
        ax = figure.add_subplot()
        for course in sorted(halving.courses, key=lambda c: c.name == winner):
            rows, auc = zip(*course.curve, strict=True)
            chosen = course.name == winner
            ax.plot(
                rows,
                auc,
                marker="o" if course.is_plain else "s",
                color=PLAIN_COLOUR if course.is_plain else SEARCHED_COLOUR,
                alpha=1.0 if course.left is None else 0.5,
                markersize=6 if chosen else 3.5,
                linewidth=2.6 if chosen else 1.0,
            )
            if course.left is None:
                ax.annotate(f" {course.name}", (rows[-1], auc[-1]), fontsize=8)
        size_axis(ax, sizes)
        ax.set_xlim(right=max(sizes) * 2.2)  # room for the names
        ax.set_xlabel("rows of the training (logarithmic)")
        ax.set_ylabel("validation AUC")
        return as_svg(figure)
