"""The tables and the figure of ``docs/measured/throughput.md``, from the recorded lines.

    python -m benchmarks.throughput_page

Reads ``benchmarks/results/throughput.jsonl`` as written by ``benchmarks.throughput --record``; of
every question, number of ranks, row optimizer and data set the last run counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.stages import PHASES
from seo_rec.files import write_text

RESULTS = Path(__file__).parent / "results" / "throughput.jsonl"
PAGE = Path(__file__).parent.parent / "docs" / "measured" / "throughput.md"
FIGURE = "throughput.png"
BEGIN, END = "<!-- written by benchmarks.throughput_page -->", "<!-- end -->"

Line = dict[str, Any]
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


def read(path: Path = RESULTS) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def latest(lines: Sequence[Line]) -> list[list[Line]]:
    """The lines of the last run of every question, by device, ranks, row optimizer and data."""
    runs: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        place = line["environment"]["device"]
        key = (line["question"], place, line["world_size"], line["row_optimizer"], line["data"])
        run = runs.setdefault(key, [])
        if run and run[0]["environment"] != line["environment"]:
            run.clear()
        run.append(line)
    return [runs[key] for key in sorted(runs, key=str)]


def measurements(run: Sequence[Line], *ways: str) -> list[Line]:
    return [x for x in run if x["kind"] == "measurement" and (not ways or x["way"] in ways)]


def stage_ms(line: Line, stages: Sequence[str], key: str = "mean") -> float:
    return float(sum(line["stages_ms"].get(s, {key: 0.0})[key] for s in stages))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def heading(run: Sequence[Line]) -> str:
    """Where and how a run was measured."""
    x = run[0]
    place = x["environment"]
    ranks = f"{x['world_size']} rank" + ("s" if x["world_size"] > 1 else "")
    threads = f"{x['threads']} thread" + ("s" if x["threads"] > 1 else "")
    data = x["data"] if x["zipf"] is None else f"Zipf ids (exponent {x['zipf']})"
    return (
        f"{ranks} of {threads} on {place['cores']} cores ({place['cpu']}), {data}, "
        f"{x['batch']:,} rows a rank, row optimizer {x['row_optimizer']}, {x['repeats']} repeats "
        f"of {x['steps']} steps, load average at the start {place['load'][0]}, nice "
        f"{place['nice']}, "
        f"{place['date'][:10]}, code {str(place['git_sha'])[:7]}"
        f"{' with changes' if place['git_dirty'] else ''}."
    )


def interval(line: Line) -> str:
    return f"{line['median']:.2f} ({line['low']:.2f} to {line['high']:.2f})"


def throughput(run: Sequence[Line]) -> list[str]:
    rows = []
    for x in measurements(run):
        ms, rate = x["ms_per_step"], x["examples_per_s"]
        rows.append(
            [
                x["policy"],
                "sharded" if x["way"] == "ours" else x["way"],
                f"{x['embedding_params']:,}",
                str(x["lookups"]),
                f"{ms['median']:.1f} ({ms['min']:.1f} to {ms['max']:.1f})",
                f"{x['cpu_ms_per_step']['median']:.1f}",
                f"{rate['global']:,}",
                f"{rate['per_rank']:,}",
                f"{max(x['peak_mb']):.0f}",
            ]
        )
    head = ("method", "", "floats", "lookups", "ms per step (min to max)", "processor ms")
    return table([*head, "examples/s", "per rank", "peak MB"], rows)


def stages(run: Sequence[Line]) -> list[str]:
    way = "ours" if run[0]["world_size"] > 1 else "alone"
    shown = [g for g in GROUPS if any(stage_ms(x, GROUPS[g][0]) for x in measurements(run, way))]
    rows = []
    for x in measurements(run, way):
        cells = [f"{stage_ms(x, GROUPS[g][0]):.1f}" for g in shown]
        rows.append(
            [x["policy"], *cells, f"{x['stages_sum_ms']:.1f}", f"{x['ms_per_step']['median']:.1f}"]
        )
    return table(["ms", *shown, "sum", "whole step"], rows)


def exchanges(run: Sequence[Line]) -> list[str]:
    rows = []
    for x in measurements(run, "ours"):
        parts = ("splits", "lengths", "values", "vectors", "gradients")
        kb = [max(one[part]["leaving"] for one in x["bytes"]) / 1e3 for part in parts]
        replicated = max(one["all_reduce"] for one in x["bytes"]) / 1e3
        whole = stage_ms(x, list(x["stages_ms"]))
        fastest = stage_ms(x, EXCHANGES, "min")
        mean = stage_ms(x, EXCHANGES)
        rows.append(
            [
                x["policy"],
                *(f"{v:,.1f}" for v in (*kb, replicated)),
                f"{100 * fastest / whole:.0f} %",
                f"{100 * mean / whole:.0f} %",
            ]
        )
    head = ("kB leaving a rank", "splits", "lengths", "values", "vectors", "gradients")
    return table([*head, "all-reduce", "step spent exchanging", "and waiting"], rows)


def efficiency(run: Sequence[Line]) -> list[str]:
    found: dict[str, dict[str, str]] = {}
    for x in run:
        if x["kind"] == "ratio":
            found.setdefault(x["policy"], {})[x["what"]] = interval(x)
    names = ("scaling efficiency", "kept by the machine", "kept by the exchange")
    return table(["method", *names], [[p, *(v[n] for n in names)] for p, v in found.items()])


def ratios(run: Sequence[Line]) -> list[str]:
    """Ours over TorchRec's, by what is timed and what is compared with what."""
    found: dict[tuple[str, str], dict[tuple[str, str, str], str]] = {}
    for x in run:
        if x["kind"] == "ratio":
            pair = x.get("ours", "ours"), x["beside"], x["time"]
            found.setdefault((x["policy"], x["part"]), {})[pair] = interval(x)
    columns = {
        ("ours, pre-hashed", "torchrec"): "the same row numbers: time",
        ("ours", "torchrec"): "ours from ids: time",
        ("ours", "torchrec, regrouped"): "ours from ids, its columns regrouped: time",
    }
    shown = [c for c in columns if all((*c, "passed") in cells for cells in found.values())]
    head = [text for c in shown for text in (columns[c], "processor time")]
    rows = [
        [*key, *(cells[*c, time] for c in shown for time in ("passed", "cpu"))]
        for key, cells in found.items()
    ]
    return table(["policy", "ours over TorchRec's", *head], rows)


def plans(run: Sequence[Line]) -> list[str]:
    by_policy: dict[str, dict[str, Line]] = {}
    for x in measurements(run):
        by_policy.setdefault(x["policy"], {})[x["way"]] = x
    found = {x["policy"]: x for x in run if x["kind"] == "ratio"}
    rows = []
    for policy, ways in by_policy.items():
        ours, theirs = ways["ours"], ways["default"]
        rows.append(
            [
                policy,
                *(kinds(x) for x in (ours, theirs)),
                *(f"{x['estimate_ms']['imbalance']:.2f}" for x in (ours, theirs)),
                *(f"{x['ms_per_step']['median']:.1f}" for x in (ours, theirs)),
                interval(found[policy]) + (", equal plans" if found[policy]["equal_plans"] else ""),
            ]
        )
    head = ("policy", "our shards", "TorchRec's", "our imbalance", "TorchRec's", "our ms")
    return table([*head, "TorchRec's", "TorchRec's / ours (95 %)"], rows)


def kinds(line: Line) -> str:
    return ", ".join(f"{n} {kind.replace('_', '-')}" for kind, n in line["sharding"].items())


def estimates(run: Sequence[Line]) -> list[str]:
    """Planned beside measured: the embedding part of a step, phase by phase."""
    rows = []
    for x in measurements(run, "alone", "ours", "default"):
        if "estimate_ms" not in x:
            continue
        planned = x["estimate_ms"]
        found = {phase: x["measured_ms"][phase] for phase in PHASES}
        cells = [f"{planned[phase]:.1f} / {ms:.1f}" for phase, ms in found.items()]
        total = sum(found.values())
        error = f"{100 * (planned['step'] / total - 1):+.0f} %" if total else ""
        way = {"alone": "whole", "ours": "our plan", "default": "TorchRec's plan"}[x["way"]]
        rows.append([x["policy"], way, *cells, f"{planned['step']:.1f} / {total:.1f}", error])
    phases = [p.replace("_", " ") for p in PHASES]
    return table(["planned / measured ms", "", *phases, "together", "error"], rows)


def section(run: Sequence[Line]) -> list[str]:
    question, size = run[0]["question"], run[0]["world_size"]
    title = {
        "methods": "Methods at equal parameters",
        "plans": "Our plan and TorchRec's",
        "torchrec": "Our embedding beside TorchRec's collection",
    }[question]
    optimizer = "" if run[0]["row_optimizer"] == "adam" else f", {run[0]['row_optimizer']}"
    gpu = f", {run[0]['environment']['gpu']}" if run[0]["environment"]["device"] == "cuda" else ""
    title = f"## {title}, {size} rank{'s' if size > 1 else ''}{optimizer}{gpu}"
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


def plot(lines: Sequence[Line], path: Path) -> None:
    """Stages of every measurement as bars side by side, and the whole step as a mark."""
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
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    runs = latest(read())
    out = [BEGIN, ""]
    for run in runs:
        out += section(run)
    validated = [r for r in runs if r[0]["question"] in ("methods", "plans")]
    if validated:
        out += ["## What the planner expected", ""]
    for run in validated:
        out += [heading(run), "", *estimates(run)]
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    write_text(PAGE, before + "\n".join([*out, END]) + after)
    figures = [
        r
        for r in runs
        if r[0]["question"] == "methods"
        and r[0]["row_optimizer"] == "adam"
        and r[0]["environment"]["device"] == "cpu"
    ]
    if figures:
        plot(max(figures, key=lambda run: int(run[0]["world_size"])), PAGE.parent / FIGURE)


if __name__ == "__main__":
    main()
