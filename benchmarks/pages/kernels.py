"""What ``benchmarks.speed.kernels`` recorded: the newest run of every clock and device."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.pages.markdown import Column, table
from benchmarks.record import Line, path_of, read

COLUMNS = (
    Column("op", lambda ways: ways[0]["op"]),
    Column("median ms", lambda ways: f"{ways[0]['way']} {ways[0]['median_ms']:.2f}"),
    Column("of copy", lambda ways: ways[0]["of_copy"], ".2f"),
    Column(
        "times as long",
        lambda ways: "; ".join(f"{x['way']} {x['time_over_ours']:.2f}" for x in ways[1:]),
    ),
)


def region(lines: Sequence[Line] | None = None) -> list[str]:
    """A table for every device, clock and number of threads; a row per op, its first way apart.

    Args:
        lines: default: the record.
    """
    lines = read(path_of("kernels")) if lines is None else lines
    newest: dict[tuple[str, str, int], dict[tuple[str, str], Line]] = {}
    for line in lines:
        key = (line["device"], line["clock"], line["environment"]["threads"])
        newest.setdefault(key, {})[line["op"], line["way"]] = line
    out: list[str] = []
    for (device, clock, threads), run in sorted(newest.items(), reverse=True):
        by_op: dict[str, list[Line]] = {}
        for (op, _), line in run.items():
            by_op.setdefault(op, []).append(line)
        first = next(iter(run.values()))
        e = first["environment"]
        codes = dict.fromkeys(x["environment"]["git_sha"][:7] for x in run.values())
        changed = " with changes" if e["git_dirty"] else ""
        out += [
            f"{device}, {threads} thread{'s' * (threads > 1)}, {clock}, {first['rounds']} rounds "
            f"of {first.get('batch', 4096):,} bags a feature; {e['gpu'] or e['cpu']}, "
            f"torch {e['torch']}, {e['date'][:10]}, git {' and '.join(codes)}{changed}; "
            f"copy {first['copy_gb_per_s']:.1f} GB/s",
            "",
            *table(COLUMNS, by_op.values()),
        ]
    return out or ["Nothing is recorded yet."]
