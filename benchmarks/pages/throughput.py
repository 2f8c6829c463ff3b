"""What ``benchmarks.ranks.throughput`` recorded: tables and the figure of the stages.

The last run counts of every question, number of ranks, row optimizer, size, data set and device.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from benchmarks.pages.markdown import Column, each, entry, table
from benchmarks.record import Line, path_of, read

Part = Callable[[Sequence[Line]], list[str]]

# Stages as the page shows them, about in the order in which they run, and their colours.
GROUPS = {
    "hash": (("hash",), "#E69F00"),
    "input dist": (("input dist",), "#56B4E9"),
    "lookup": (("lookup",), "#009E73"),
    "output dist": (("output dist",), "#0072B2"),
    "regroup, both ways": (("regroup", "regroup backward"), "#CC79A7"),
    "dense forward": (("dense forward",), "#BBBBBB"),
    "dense backward": (("dense backward",), "#888888"),
    "gradient dist": (("gradient dist",), "#004C7A"),
    "tables: backward, update": (("table backward", "table update"), "#005C40"),
    "dense: all-reduce, update": (("all-reduce", "dense update"), "#D55E00"),
}
EXCHANGES = ("input dist", "output dist", "gradient dist", "all-reduce")


def latest(lines: Sequence[Line]) -> list[list[Line]]:
    """The lines of the last run of every question, by device, ranks, optimizer, size and data."""
    runs: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        place = line["environment"]["device"]
        size = line.get("params", 0)  # lines of before 2026-11-27 have none
        ranks, optimizer = line["world_size"], line["row_optimizer"]
        key = (line["question"], place, ranks, optimizer, size, line["data"])
        run = runs.setdefault(key, [])
        if run and run[0]["environment"] != line["environment"]:
            run.clear()
        run.append(line)
    return [runs[key] for key in sorted(runs, key=str)]


def by_date(runs: Sequence[list[Line]]) -> list[list[Line]]:
    """The runs in the order in which they were measured."""
    return sorted(runs, key=lambda run: str(run[0]["environment"]["date"]))


def read_lines() -> list[Line]:
    """The record."""
    return read(path_of("throughput"))


def measurements(run: Sequence[Line], *ways: str) -> list[Line]:
    return [x for x in run if x["kind"] == "measurement" and (not ways or x["way"] in ways)]


def stage_ms(line: Line, stages: Sequence[str], key: str = "mean") -> float:
    return float(sum(line["stages_ms"].get(s, {key: 0.0})[key] for s in stages))


def heading(run: Sequence[Line]) -> str:
    """Where and how a run was measured."""
    x = run[0]
    place = x["environment"]
    ranks = f"{x['world_size']} rank" + ("s" if x["world_size"] > 1 else "")
    threads = f"{x['threads']} thread" + ("s" if x["threads"] > 1 else "")
    data = x["data"] if x["zipf"] is None else f"Zipf ids (exponent {x['zipf']})"
    floats = " or ".join(
        f"{n:,}" for n in sorted({m["embedding_params"] for m in measurements(run)})
    )
    return (
        f"{ranks} of {threads} on {place['cores']} cores ({place['cpu']}), {data}, {floats} floats "
        f"in tables, {x['batch']:,} rows a rank, row optimizer {x['row_optimizer']}, "
        f"{x['repeats']} repeats of {x['steps']} steps, load average at the start "
        f"{place['load'][0]}, {place['date'][:10]}, code "
        f"{str(place['git_sha'])[:7]}{' with changes' if place['git_dirty'] else ''}."
    )


def interval(line: Line) -> str:
    return f"{line['median']:.2f} ({line['low']:.2f} to {line['high']:.2f})"


# ---- tables ------------------------------------------------------------------------------


def throughput(run: Sequence[Line]) -> list[str]:
    """Time of a step, examples per second and memory."""
    ways = {x["way"] for x in measurements(run)}

    def step(x: Line) -> str:
        ms = x["ms_per_step"]
        return f"{ms['median']:.1f} ({ms['min']:.1f} to {ms['max']:.1f})"

    columns = [
        entry("policy", "method"),
        Column("trained", lambda x: "sharded" if x["way"] == "ours" else x["way"]),
        entry("lookups", format="d"),
        Column("ms per step (min to max)", step),
        Column("processor ms", lambda x: x["cpu_ms_per_step"]["median"], ".1f"),
        Column("examples/s", lambda x: x["examples_per_s"]["global"], ",d"),
        Column("per rank", lambda x: x["examples_per_s"]["per_rank"], ",d"),
        Column("peak MB", lambda x: max(x["peak_mb"]), ".0f"),
    ]
    if len(ways) == 1:  # of one rank, which waits for no other
        columns = [c for c in columns if c.header not in ("trained", "processor ms", "per rank")]
    return table(columns, measurements(run))


def stages(run: Sequence[Line]) -> list[str]:
    """Milliseconds of every stage, a column per method."""
    found = measurements(run, "ours" if run[0]["world_size"] > 1 else "alone")
    shown = [g for g in GROUPS if any(stage_ms(x, GROUPS[g][0]) for x in found)]
    rows: list[tuple[str, Callable[[Line], float]]] = [
        *((g, partial(stage_ms, stages=GROUPS[g][0])) for g in shown),
        ("sum", lambda x: float(x["stages_sum_ms"])),
        ("whole step", lambda x: float(x["ms_per_step"]["median"])),
    ]
    return by_method("ms", rows, found, ".1f")


def by_method(
    title: str,
    rows: Sequence[tuple[str, Callable[[Line], Any]]],
    lines: Sequence[Line],
    format: str | None = None,
) -> list[str]:
    """A column per line, a row per name and what it takes from a line."""
    names = Column(title, lambda row: row[0])
    values = each(lines, lambda x: str(x["policy"]), lambda x, row: row[1](x), format)
    return table([names, *values], rows)


def exchanges(run: Sequence[Line]) -> list[str]:
    """kB that leave the busiest rank in a step, a column per method."""

    def leaving(part: str) -> Callable[[Line], str]:
        return lambda x: f"{max(one[part]['leaving'] for one in x['bytes']) / 1e3:,.1f}"

    def share(key: str) -> Callable[[Line], str]:
        def text(x: Line) -> str:
            return f"{100 * stage_ms(x, EXCHANGES, key) / stage_ms(x, list(x['stages_ms'])):.0f} %"

        return text

    parts = ("splits", "lengths", "values", "vectors", "gradients")
    rows = [(part, leaving(part)) for part in parts]
    rows += [
        ("all-reduce", lambda x: f"{max(one['all_reduce'] for one in x['bytes']) / 1e3:,.1f}"),
        ("step spent exchanging", share("min")),
        ("and waiting", share("mean")),
    ]
    return by_method("kB leaving a rank", rows, measurements(run, "ours"))


def efficiency(run: Sequence[Line]) -> list[str]:
    """What part of one rank's speed several ranks keep, and what takes the rest."""
    found: dict[str, dict[str, str]] = {}
    for x in run:
        if x["kind"] == "ratio":
            found.setdefault(x["policy"], {})[x["what"]] = interval(x)
    names = ("scaling efficiency", "kept by the machine", "kept by the exchange")
    columns = [
        Column("method", lambda policy: policy),
        *each(names, str, lambda name, policy: found[policy][name]),
    ]
    return table(columns, found)


COMPARED = {
    ("ours, pre-hashed", "torchrec"): "the same row numbers",
    ("ours", "torchrec"): "ours from ids",
    ("ours", "torchrec, regrouped"): "ours from ids, its columns regrouped",
}


def ratios(run: Sequence[Line]) -> list[str]:
    """Ours over TorchRec's time, by what is timed and the two sides that are compared."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for x in run:
        if x["kind"] == "ratio" and x["time"] == "passed":
            text = COMPARED[x.get("ours", "ours"), x["beside"]]
            found.setdefault((x["policy"], x["part"]), {})[text] = interval(x)
    columns = [
        Column("policy", lambda key: key[0]),
        Column("timed", lambda key: key[1]),
        *each(COMPARED.values(), str, lambda text, key: found[key].get(text)),
    ]
    return table(columns, found)


def plans(run: Sequence[Line]) -> list[str]:
    """The same policy on our plan and on TorchRec's."""
    by_policy: dict[str, dict[str, Line]] = {}
    for x in measurements(run):
        by_policy.setdefault(x["policy"], {})[x["way"]] = x
    found = {x["policy"]: x for x in run if x["kind"] == "ratio"}

    def pair(text: Callable[[Line], str]) -> Callable[[str], str]:
        return lambda policy: " / ".join(
            text(by_policy[policy][way]) for way in ("ours", "default")
        )

    def ratio(policy: str) -> str:
        x = found[policy]
        return interval(x) + (", equal plans" if x["equal_plans"] else "")

    columns = [
        Column("policy", lambda policy: policy),
        Column("our shards", lambda policy: kinds(by_policy[policy]["ours"])),
        Column("TorchRec's", lambda policy: kinds(by_policy[policy]["default"])),
        Column("imbalance", pair(lambda x: f"{x['estimate_ms']['imbalance']:.2f}")),
        Column("ms", pair(lambda x: f"{x['ms_per_step']['median']:.1f}")),
        Column("TorchRec's / ours (95 %)", ratio),
    ]
    return ["Imbalance and ms: ours / TorchRec's.", "", *table(columns, by_policy)]


def kinds(line: Line) -> str:
    return ", ".join(f"{n} {kind.replace('_', '-')}" for kind, n in line["sharding"].items())


# ---- the region --------------------------------------------------------------------------


def section(run: Sequence[Line]) -> list[str]:
    """Heading, place and tables of one run."""
    question, size = run[0]["question"], run[0]["world_size"]
    title = {
        "methods": "Methods at equal parameters",
        "plans": "Our plan and TorchRec's",
        "torchrec": "Our embedding beside TorchRec's collection",
    }[question]
    optimizer = "" if run[0]["row_optimizer"] == "adam" else f", {run[0]['row_optimizer']}"
    gpu = f", {run[0]['environment']['gpu']}" if run[0]["environment"]["device"] == "cuda" else ""
    floats = f", {run[0]['params']:,} floats" if "params" in run[0] else ""
    title = f"## {title}, {size} rank{'s' if size > 1 else ''}{optimizer}{floats}{gpu}"
    out = [title, "", heading(run), ""]
    shared: tuple[Part, ...] = (exchanges, efficiency) if size > 1 else ()
    parts: dict[str, tuple[Part, ...]] = {
        "methods": (throughput, stages, *shared),
        "plans": (plans,),
        "torchrec": (ratios,),
    }
    for part in parts[question]:
        out += part(run)
    return out


def region(lines: Sequence[Line]) -> list[str]:
    """The sections of all runs; the planner's expectations stand on the page on scaling."""
    return [text for run in latest(lines) for text in section(run)]


def figure_of(lines: Sequence[Line]) -> bytes:
    """A PNG of the run of all methods on most ranks of a CPU."""
    asked = ("methods", "rowwise_adagrad", "cpu")
    runs = [
        run
        for run in latest(lines)
        if (run[0]["question"], run[0]["row_optimizer"], run[0]["environment"]["device"]) == asked
    ]
    return plot(max(runs, key=lambda run: int(run[0]["world_size"])))


def plot(lines: Sequence[Line]) -> bytes:
    """A PNG of the stages of every measurement as bars side by side; the whole step is a mark."""
    shown = [x for x in measurements(lines) if x["stages_ms"]]
    figure = Figure(figsize=(9.6, 1.8 + 0.3 * len(shown)), layout="constrained")
    ax = figure.add_subplot()
    labels = []
    for y, x in enumerate(reversed(shown)):
        left = 0.0
        for group, (names, colour) in GROUPS.items():
            width = stage_ms(x, names)
            ax.barh(y, width, left=left, color=colour, height=0.72, label=group if not y else None)
            left += width
        ax.plot(x["ms_per_step"]["median"], y, "k|", markersize=13, markeredgewidth=2)
        way = {"ours": f"{x['ranks']} ranks", "default": "TorchRec's plan"}.get(x["way"], x["way"])
        labels.append(f"{x['policy']}, {way}")
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(-0.6, len(labels) - 0.4)
    ax.set_xlabel("milliseconds per step, mean over ranks; black: the whole step, measured apart")
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
