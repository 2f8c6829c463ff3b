"""What ``benchmarks.accuracy.dimgrow`` recorded: memory, the cost of a shuffle, and accuracy.

Everything in the record is shown, in tables for every data set and way of training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.accuracy.dimgrow import (
    FIT,
    MODEL,
    PLAN_METHODS,
    PLAN_SEEDS,
    PLAN_SHARES,
    RECORD,
    cases,
    changed,
)
from benchmarks.pages.cells import mean, minus, with_error
from benchmarks.pages.markdown import Column, each, table
from benchmarks.record import Line, as_read_again, read, recorded_fit
from seo_rec.report.formats import percent

Key = tuple[float, str, tuple[str, ...]]  # share of the full size, method, changed settings
Case = tuple[Key, dict[int, Line]]


def region(lines: Sequence[Line] | None = None) -> list[str]:
    """Tables of `memory`, `shuffle` and `widths`, and how much of the plan they hold.

    Args:
        lines: default: the record.
    """
    lines = read(RECORD) if lines is None else lines
    by_part = {part: [x for x in lines if x["part"] == part] for part in PARTS}
    return [text for part, show in PARTS.items() for text in show(by_part[part])]


def memory(lines: Sequence[Line]) -> list[str]:
    """Peak memory of searches, a table for every data set and setting of DimGrow."""
    groups: dict[tuple[str, ...], list[Line]] = {}
    for line in lines:
        groups.setdefault((line["what"]["data"], *line["what"]["set"]), []).append(line)
    out: list[str] = []
    columns = [
        Column("search", lambda x: x["what"]["method"]),
        Column("`max_dim`", lambda x: x["what"]["max_dim"], "d"),
        Column("steps", lambda x: x["what"]["steps"], "d"),
        Column("columns at the end", _columns_at_the_end, "d"),
        Column("peak embedding memory, MB", lambda x: x["peak_bytes"] / 1e6, ".2f"),
    ]
    for (data, *given), found in groups.items():
        words = [found[0].get("dataset"), f"fingerprint `{data}`"]
        words += [f"DimGrow with {', '.join(given)}"] if given else []
        out += [f"{', '.join(filter(None, words))}:", "", *table(columns, found)]
    return out


def _columns_at_the_end(line: Line) -> int:
    allocated = line["allocated"]
    if allocated:
        return sum(allocated.values())
    return int(line["what"]["max_dim"] * len(line["dims"]))


def shuffle(lines: Sequence[Line]) -> list[str]:
    """A sentence on the time of a shuffle."""
    if not lines:
        return []
    least, most = (f(x["nanoseconds_per_DBlogB"] for x in lines) for f in (min, max))
    sizes = sorted((x["what"]["rows"], x["what"]["columns"]) for x in lines)
    first, last = (f"{B:,} x {D}" for B, D in (sizes[0], sizes[-1]))
    return [
        f"One shuffle of B x D numbers takes {least:.1f} to {most:.1f} ns of CPU per D B log2 B, "
        f"from {first} to {last}.",
        "",
    ]


# ---- accuracy ----------------------------------------------------------------------------


def widths(lines: Sequence[Line]) -> list[str]:
    """Three tables per data set and way of training.

    Lines that do not say their data set and all their settings are of older versions and left out.
    """
    groups: dict[str, list[Line]] = {}
    for line in (x for x in lines if "fit" in x["what"]):
        what = line["what"]
        fit = {k: v for k, v in what["fit"].items() if k != "seed"}
        alike = [what["dataset"], what["data"], fit, what["model"]]
        groups.setdefault(json.dumps(alike, sort_keys=True), []).append(line)
    plan = [
        (*case, seed) for case in cases(PLAN_METHODS, PLAN_SHARES) for seed in range(PLAN_SEEDS)
    ]
    if not groups:
        return [f"Nothing is recorded yet of `widths`; its plan has {len(plan)} runs."]
    out: list[str] = []
    for found in sorted(groups.values(), key=lambda x: not _as_planned(x[0]["what"])):
        runs = [x["what"] for x in found]
        done = sum(
            (x["method"], x["share"], x["seed"]) in plan and not changed(x) and _as_planned(x)
            for x in runs
        )
        more = f", and {len(found) - done} more" if len(found) > done else ""
        out += [
            f"{_title(runs[0])}. {done} of {len(plan)} planned runs{more}; ± is a standard error, "
            f"differences of test AUC are paired by seed. {capped(found)}.",
            "",
            *accuracy_table(found),
            "What the policies and the runs took:",
            "",
            *cost_table(found),
            "Widths of the features in these policies:",
            "",
            *dims_table(found),
        ]
    return out


PARTS = {"shuffle": shuffle, "memory": memory, "widths": widths}


def capped(lines: Sequence[Line]) -> str:
    """How many trainings used all epochs they were given, so that more might have helped."""
    at_limit = sum(line["epochs"] >= line["what"]["fit"]["epochs"] for line in lines)
    return f"{at_limit} of {len(lines)} trainings hit the limit of epochs"


def _as_planned(what: Mapping[str, Any]) -> bool:
    return all(what["fit"][k] == v for k, v in recorded_fit(FIT).items() if k != "seed")


def _title(what: Mapping[str, Any]) -> str:
    fit, fractions = what["fit"], what["split"].get("fractions", ())
    words = [what["dataset"], f"fingerprint `{what['data']}`"]
    words += [f"rating rule `{what['rating_rule']}`"] if what["rating_rule"] else []
    words += [f"split {'/'.join(f'{f:g}' for f in fractions)}"] if fractions else []
    words += [f"batch {fit['batch_size']:,}", f"patience {fit['patience']}"]
    words += [f"at most {fit['epochs']} epochs"]
    said = ("batch_size", "patience", "epochs", "seed")
    usual = recorded_fit(FIT)
    words += [f"{k} {v}" for k, v in fit.items() if k not in said and v != usual.get(k)]
    if what["model"] != as_read_again(MODEL.as_json()):
        words += [f"model {json.dumps(what['model'])}"]
    return ", ".join(words)


def by_case(lines: Sequence[Line]) -> dict[Key, dict[int, Line]]:
    """Lines by seed, of every share, method and set of changed settings, in order."""
    found: dict[Key, dict[int, Line]] = {}
    for line in lines:
        what = line["what"]
        key = (what["share"], what["method"], changed(what))
        found.setdefault(key, {})[what["seed"]] = line
    return dict(sorted(found.items()))


NAMES = (
    Column("size", lambda case: percent(case[0][0]) if case[0][0] else "its own"),
    Column("method", lambda case: ", ".join([case[0][1], *case[0][2]])),
)


def accuracy_table(lines: Sequence[Line]) -> list[str]:
    """Mean ± standard error, of lines of one data set; differences are paired by seed.

    They are to no search of the same share, and to full width, which is no search at its own size.
    """
    found = by_case(lines)
    full = found.get((0.0, "no-search", ()), {})

    def against(case: Case, others: Mapping[int, Line]) -> str | None:
        return None if case[1] is others else minus(case[1], others)

    def same_size(case: Case) -> str | None:
        share = case[0][0]
        return against(case, found.get((share, "no-search", ()), {})) if share else None

    columns = [
        *NAMES,
        Column("seeds", lambda case: len(case[1]), "d"),
        Column("test AUC", lambda case: with_error(case[1], "test_auc")),
        Column("− no search, same size", same_size),
        Column("− full width", lambda case: against(case, full)),
    ]
    return table(columns, found.items())


def cost_table(lines: Sequence[Line]) -> list[str]:
    """Size of the policies and seconds, of lines of one data set."""
    columns = [
        *NAMES,
        Column("floats", lambda case: with_error(case[1], "params", 0)),
        Column("share of full", lambda case: percent(mean(case[1], "share_of_full"))),
        Column("widths in all", lambda case: with_error(case[1], "total_dims", 1)),
        Column("search, s", lambda case: with_error(case[1], "search_seconds", 0)),
        Column("training, s", lambda case: with_error(case[1], "train_seconds", 0)),
    ]
    return table(columns, by_case(lines).items())


def dims_table(lines: Sequence[Line]) -> list[str]:
    """The width of every feature, a row per different answer; lines of one data set."""
    features = sorted({name for x in lines for name in (*x["dims"], *x["dropped"])})
    rows: list[tuple[Key, dict[str, Any], list[int]]] = []
    for key, runs in by_case(lines).items():
        for seed, line in sorted(runs.items()):
            same = next((row for row in rows if row[:2] == (key, line["dims"])), None)
            if same:
                same[2].append(seed)
            else:
                rows.append((key, line["dims"], [seed]))
    columns = [
        *NAMES,
        Column("seeds", lambda row: ", ".join(map(str, row[2]))),
        *each(features, str, lambda name, row: row[1].get(name, "dropped"), "d"),
    ]
    return table(columns, rows)
