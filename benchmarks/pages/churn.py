"""What ``benchmarks.accuracy.churn`` recorded: tables by stream, and the plot of all days."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.accuracy.churn import METHODS, SCENARIOS, Protocol, counted
from benchmarks.pages.cells import Runs, mean, minus, with_error
from benchmarks.pages.markdown import Column, each, table
from benchmarks.record import Line

REFERENCE = "separate"
PAIRS = (
    ("multi-size-4", "monolithic"),
    ("multi-size-4", "collisionless-first"),
    ("seo-rr", "multi-size"),
    ("seo-rr-4", "multi-size-4"),
)
LATE = 4  # days at the end that differences between methods are also shown for
# Drawn methods and their colours (Okabe and Ito); the plain forms of each kind are solid.
DRAWN = {
    "separate": ("#E69F00", "-"),
    "separate-cardinality": ("#E69F00", ":"),
    "monolithic": ("#56B4E9", "-"),
    "multi-size-4": ("#0072B2", "-"),
    "seo-rr-4": ("#D55E00", "-"),
    "collisionless-first": ("#009E73", "-"),
    "collisionless-all": ("#009E73", ":"),
}

Over = Callable[[Line, str], float]  # of the days of a line


def late(line: Line, key: str) -> float:
    """The mean of a metric over the last days."""
    return float(np.mean(line[key][-LATE:]))


def planned(lines: Sequence[Line]) -> list[Line]:
    """The lines of the streams and of the protocol that the command runs without options."""
    protocol = asdict(Protocol())
    return [
        x for x in lines if x["what"]["protocol"] == protocol and x["what"]["scenario"] in SCENARIOS
    ]


def of(lines: Sequence[Line], scenario: str, method: str) -> dict[int, Line]:
    """Lines by seed."""
    return {
        x["what"]["seed"]: x
        for x in lines
        if (x["what"]["scenario"], x["what"]["method"]) == (scenario, method)
    }


def against(runs: Runs, others: Runs, key: str, over: Over = counted) -> str | None:
    """The paired difference over the seeds that both have, with its standard error."""
    if runs is others:
        return None
    return minus(runs, others, lambda line: over(line, key), 4, with_p=False)


def score(runs: Runs, key: str) -> str | None:
    """Mean and standard error over seeds, of the mean over the days that count."""
    return with_error(runs, lambda line: counted(line, key), 4)


def stream_table(lines: Sequence[Line], scenario: str) -> list[str]:
    """One stream: means over the days that count and over seeds, with standard errors."""
    reference = of(lines, scenario, REFERENCE)
    rows = [(f"`{m}`", runs, m) for m in METHODS if (runs := of(lines, scenario, m))]
    truth = ("the true probabilities", reference, "")

    def key(row: tuple[str, Runs, str], name: str) -> str:
        return name if row[2] else f"bayes_{name}"

    def to_reference(row: tuple[str, Runs, str]) -> str | None:
        return against(row[1], reference, "auc") if row[2] not in ("", REFERENCE) else None

    def loss(row: tuple[str, Runs, str]) -> float:
        return mean(row[1], lambda line: counted(line, key(row, "log_loss")))

    def to_still(row: tuple[str, Runs, str]) -> str | None:
        return against(row[1], of(lines, "still", row[2]), "auc") if row[2] else None

    columns = [
        Column("method", lambda row: row[0]),
        Column("floats", lambda row: mean(row[1], "params") if row[2] else None, ",.0f"),
        Column("AUC", lambda row: score(row[1], key(row, "auc"))),
        Column(f"− {REFERENCE}", to_reference),
        Column("log loss", loss, ".4f"),
    ]
    if scenario != "still":
        columns.append(Column("AUC − without churn", to_still))
    return table(columns, [*rows, truth])


def pairs_table(lines: Sequence[Line]) -> list[str]:
    """Differences of AUC that the page speaks of: over the days that count, over the last ones."""

    def cell(pair: tuple[str, str], scenario: str, over: Over) -> str | None:
        return against(of(lines, scenario, pair[0]), of(lines, scenario, pair[1]), "auc", over)

    overs = ((counted, ""), (late, f", last {LATE} days"))
    heads = [(s, over, words) for s in scenarios_of(lines) for over, words in overs]
    columns = [
        Column("AUC", lambda pair: f"`{pair[0]}` − `{pair[1]}`"),
        *each(heads, lambda h: h[0] + h[2], lambda h, pair: cell(pair, h[0], h[1])),
    ]
    return table(columns, PAIRS)


def title_of(lines: Sequence[Line], scenario: str) -> str:
    what = next(x["what"] for x in lines if x["what"]["scenario"] == scenario)

    def share(values: Sequence[float]) -> str:
        return " and ".join(f"{100 * v:g} %" for v in values)

    if not any(what["enter"]) and not any(what["vanish"]):
        return f"{scenario}: no churn"
    return f"{scenario}: {share(what['enter'])} enter, {share(what['vanish'])} vanish a day"


def scenarios_of(lines: Sequence[Line]) -> list[str]:
    return list(dict.fromkeys(x["what"]["scenario"] for x in lines))


def region(lines: Sequence[Line]) -> list[str]:
    """A table per stream, and the differences between methods."""
    if not lines:
        return ["Nothing is recorded yet."]
    seeds = len({x["what"]["seed"] for x in lines})
    environment = lines[-1]["environment"]
    out = [
        f"Seeds (worlds): {seeds}; mean ± standard error over them, differences paired by seed. "
        f"torch {environment['torch']}, {environment['threads']} thread(s).",
        "",
    ]
    for scenario in scenarios_of(lines):
        out += [f"**{title_of(lines, scenario)}**", "", *stream_table(lines, scenario)]
    return [*out, "**Between methods**", "", *pairs_table(lines)]


def plot(lines: Sequence[Line]) -> bytes:
    """A PNG of AUC and log loss by day: means over seeds, bands of one standard error."""
    names = scenarios_of(lines)
    figure = Figure(figsize=(4.2 * len(names), 6.4), layout="constrained")
    axes = figure.subplots(2, len(names), sharex=True, sharey="row", squeeze=False)
    for column, scenario in enumerate(names):
        for row, key in enumerate(("auc", "log_loss")):
            _panel(axes[row, column], lines, scenario, key)
        axes[0, column].set_title(title_of(lines, scenario), fontsize=9)
        axes[1, column].set_xlabel("day")
    axes[0, 0].set_ylabel("AUC of the day, before training on it")
    axes[1, 0].set_ylabel("log loss (nats)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _panel(ax: Axes, lines: Sequence[Line], scenario: str, key: str) -> None:
    drawn = [(m, of(lines, scenario, m), key, *style) for m, style in DRAWN.items()]
    truth = ("the true probabilities", of(lines, scenario, REFERENCE), f"bayes_{key}", "#666666")
    for name, runs, metric, colour, dash in [*drawn, (*truth, "--")]:
        if not runs:
            continue
        values_SD = np.array([x[metric][1:] for x in runs.values()])
        days = np.arange(2, 2 + values_SD.shape[1])
        mean = values_SD.mean(axis=0)
        ax.plot(days, mean, dash, color=colour, linewidth=1.5, label=name)
        if len(values_SD) > 1:
            error = values_SD.std(axis=0, ddof=1) / len(values_SD) ** 0.5
            ax.fill_between(days, mean - error, mean + error, color=colour, alpha=0.18, linewidth=0)
    first = lines[0]["what"]["protocol"]["first_days"]
    ax.axvline(first + 0.5, color="#999999", linewidth=0.8)
    ax.grid(color="#e3e3e3", linewidth=0.7)
    ax.spines[["top", "right"]].set_visible(False)
