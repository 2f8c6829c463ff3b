"""What ``benchmarks.ranks.scaling`` computed, and its planner's model beside measured steps."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks.pages.markdown import Column, each, table
from benchmarks.ranks.scaling import PHASES, WAYS
from benchmarks.record import Line, path_of, read


def simulated(lines: Sequence[Line]) -> list[str]:
    """A table per way to spend the parameters; a cell: step, memory, longest part, imbalance."""
    out: list[str] = []
    for way in WAYS:
        here = [x for x in lines if x["way"] == way]
        cells = {(x["parameters"], x["gpus"]): x for x in here}
        gpus = sorted({x["gpus"] for x in here})
        columns = [
            Column("parameters", lambda params: f"10^{len(str(params)) - 1}"),
            *each(gpus, "{:,} GPUs".format, partial(_cell, cells)),
        ]
        out += [f"### {way}", "", *table(columns, sorted({x["parameters"] for x in here}))]
    return out


def _cell(cells: Mapping[tuple[int, int], Line], gpus: int, params: int) -> str:
    line = cells[params, gpus]
    if not line["fits"]:
        return "does not fit"
    outside = f" + {line['outside_gb']:.0f}" if line.get("outside_gb") else ""
    return (
        f"{line['step_ms']:.2f} ms, {line['memory_gb']:.1f}{outside} GB, "
        f"{PHASES[line['bottleneck']]}, {line['imbalance']:.2f}"
    )


def measured(lines: Sequence[Line]) -> list[str]:
    """The model beside steps measured on CPUs, the latest of each kind of run.

    Left out are models that every rank trains whole beside the others (``apart``: one rank's plan)
    and one rank's sharded collection (``--against-torchrec``), which is not what one rank plans.
    """
    found: dict[tuple[Any, ...], Line] = {}
    for line in lines:
        on_cpu = line["environment"].get("device", "cpu") == "cpu"
        planned = on_cpu and line["kind"] == "measurement" and "measured_ms" in line
        one_rank_sharded = line["question"] == "torchrec" and line["world_size"] == 1
        if planned and line["way"] != "apart" and not one_rank_sharded:
            found[line["policy"], line["way"], line["ranks"], line["row_optimizer"]] = line
    rows = []
    for (policy, way, ranks, optimizer), line in sorted(found.items()):
        guess, real = line["estimate_ms"]["step"], sum(line["measured_ms"].values())
        if guess > 0 and real > 0:
            rows.append((policy, way, ranks, optimizer, guess, real, real / guess))
    if not rows:
        return ["Not measured yet: `python -m benchmarks.ranks.throughput --plans --record`.", ""]
    columns = [
        Column("policy", lambda row: row[0]),
        Column("plan", lambda row: row[1]),
        Column("ranks", lambda row: row[2], "d"),
        Column("row optimizer", lambda row: row[3]),
        Column("estimated ms", lambda row: row[4], ".1f"),
        Column("measured ms", lambda row: row[5], ".1f"),
        Column("measured / estimated", lambda row: row[6], ".2f"),
    ]
    ratios: dict[int, list[float]] = {}
    for row in rows:
        ratios.setdefault(row[2], []).append(row[6])
    short = [
        Column("ranks", lambda item: item[0], "d"),
        Column("runs", lambda item: len(item[1]), "d"),
        Column("measured / estimated: median", lambda item: statistics.median(item[1]), ".2f"),
        Column("least", lambda item: min(item[1]), ".2f"),
        Column("most", lambda item: max(item[1]), ".2f"),
    ]
    return [*table(short, sorted(ratios.items())), *table(columns, rows)]


def regions() -> dict[str, list[str]]:
    return {
        "scaling": simulated(read(path_of("scaling"))),
        "checked": measured(read(path_of("throughput"))),
    }
