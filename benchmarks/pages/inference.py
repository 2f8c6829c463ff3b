"""What ``benchmarks.speed.inference`` recorded: the time that policies take to score."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.pages.markdown import Column, each, table
from benchmarks.record import Line, path_of, read

ORIGINAL = "collisionless"


def region(lines: Sequence[Line] | None = None) -> list[str]:
    """A table for every data set, backbone and budget; the last line of each counts.

    Args:
        lines: Default: the record.
    """
    lines = read(path_of("inference")) if lines is None else lines
    kinds = ("data_fingerprint", "backbone", "params")
    last = {tuple(line[name] for name in kinds): line for line in lines}
    out: list[str] = []
    for line in last.values():
        out += [
            f"{line['data']}, `{line['backbone']}`, a budget of {line['params']:,} floats; "
            "times of a call as multiples of the original's, in turns:",
            "",
            *_table(line),
        ]
    return out or ["Nothing is recorded yet."]


def _table(line: Line) -> list[str]:
    found = line["policies"]
    ways = list(next(iter(found.values()))["over_original"])

    def said(way: str, name: str) -> str:
        return f"{found[name]['over_original'][way]:.2f}"

    columns = [
        Column("policy", str),
        Column("floats", lambda name: f"{found[name]['params']:,}"),
        *each(ways, lambda way: f"{way} row{'s' * (not way.endswith(' 1'))}", said),
    ]
    return table(columns, sorted(found, key=lambda name: (name != ORIGINAL, name)))
