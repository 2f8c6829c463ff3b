"""What ``benchmarks.speed.scoring`` recorded: rows per second of predict and of the server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.pages.markdown import Column, entry, table
from benchmarks.pages.speed import place
from benchmarks.record import Line, path_of, read

GOAL_CORES = 2  # that the goals hold for


def region(lines: Sequence[Line] | None = None) -> list[str]:
    """The tables of every data set, from its last line.

    Args:
        lines: Default: the record.
    """
    lines = read(path_of("scoring")) if lines is None else lines
    out: list[str] = []
    for line in {x["data"]: x for x in lines}.values():
        out += _tables(line)
    return out or ["`python -m benchmarks.speed.scoring`: not run.", ""]


def _tables(line: Line) -> list[str]:
    predict = [
        entry("form", "file"),
        entry("cores", "cores", ","),
        entry("seconds", "seconds", ".1f"),
        entry("processor_s", "processor seconds", ".1f"),
        entry("rows_per_s", "rows/s", ","),
        entry("rows_per_s_after_start", "rows/s after the start", ","),
    ]
    goals = [
        Column(f"goal on {GOAL_CORES} cores, in rows/s", lambda x: x[0]),
        Column("measured", lambda x: x[1], ","),
        Column("limit", lambda x: line["goal_rows_per_s"], ","),
        Column("", lambda x: "met" if x[1] >= line["goal_rows_per_s"] else "missed"),
    ]
    served = [
        entry("form", "body"),
        entry("rows", "rows of a request", ","),
        entry("clients", "clients", ","),
        entry("requests_per_s", "requests/s", ",.0f"),
        entry("rows_per_s", "rows/s", ","),
        entry("p50_ms", "p50 ms", ".2f"),
        entry("p99_ms", "p99 ms", ".2f"),
        entry("processor_ms", "server's processor ms", ".2f"),
        entry("failed", "failed", ","),
    ]
    return [
        f"**{line['data']}, {line['columns']} columns**, {line['rows']:,} rows by `seo-rec predict`"
        f", {_rounds(line)}; `{line['method']}` of {line['params']:,} floats. {place(line)}; load "
        f"average {line['load_average']:.1f} before.",
        "",
        *table(predict, line["predict"]),
        *table(goals, _judged(line)),
        "`seo-rec serve`, with clients on the same machine:",
        "",
        *table(served, line["serve"]),
        _reloads(line["reloads"]),
        "",
    ]


def _rounds(line: Line) -> str:
    number = line["rounds"]
    return "one round" if number == 1 else f"the fastest of {number} rounds"


def _judged(line: Line) -> Iterator[tuple[str, int]]:
    """What the goals are compared with."""
    for x in line["predict"]:
        if x["cores"] == GOAL_CORES:
            yield f"{x['form']}, whole command", x["rows_per_s"]
            yield f"{x['form']}, after the start", x["rows_per_s_after_start"]


def _reloads(x: Line) -> str:
    return (
        f"Over {x['reloads']} exchanges of the package and SIGTERM, {x['clients']} clients sent "
        f"{x['requests'] + x['failed']:,} requests (p50 {x['p50_ms']:.2f} ms, p99 "
        f"{x['p99_ms']:.2f} ms); {x['failed']:,} failed, {x['told_to_leave']} clients were told "
        f"to leave, and the server ended with code {x['exit_code']}."
    )
