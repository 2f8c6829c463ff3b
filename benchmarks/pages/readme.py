"""The one table of results of the README: test AUC of five ways to decide on three data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.accuracy import evidence
from benchmarks.pages.cells import Runs, with_deviation
from benchmarks.pages.markdown import Column, each, table
from benchmarks.pages.results import best_of, of
from benchmarks.record import Line, path_of, read

# Record, study, and the study of the searches of widths with the same data and settings.
DATA = {
    "MovieLens-1M, 96,000 floats": ("movielens", "ml-1m", "ml-1m-widths"),
    "Criteo sample, 80,000": ("criteo", "criteo-80000", "criteo-80000-widths"),
    "synthetic, 64,000": ("synthetic", "synthetic-64000", None),
}
ROWS = {
    "separate": "separate: a hashed table per feature",
    "monolithic": "monolithic: one table for all features",
    "multi-size": "best multi-size: 2 to 8 lookups in shared tables",
    "no-search": "equal widths, a row per id where ids fit",
    "seo": "SEO, default search",
}


def cell(records: Mapping[str, Sequence[Line]], method: str, title: str) -> str | None:
    """Mean and standard deviation, and the number of seeds where it is not five."""
    name, study, widths = DATA[title]
    lines, note = records[name], ""
    if method == "no-search":
        runs: Runs = of(lines, widths, method) if widths else {}
    elif method == "multi-size":
        names = dict.fromkeys(x["method"] for x in lines if x["study"] == study)
        tried = {m: of(lines, study, m) for m in names if m.startswith("multi-size")}
        best = best_of(tried) if tried else "none"
        runs, lookups = tried.get(best, {}), best.removeprefix("multi-size").removeprefix("-")
        note = f", {lookups or 2} lookups"
    else:
        runs = of(lines, study, method)
    text = with_deviation(runs, "test_auc", 4)
    if text and len(runs) != 5:
        note += f", {len(runs)} seeds"
    return text and text + note


def results(records: Mapping[str, Sequence[Line]]) -> list[str]:
    """Rows are ways to decide, columns are data sets with their budgets."""
    columns = [
        Column("test AUC", lambda method: ROWS[method]),
        *each(DATA, str, lambda title, method: cell(records, method, title)),
    ]
    return table(columns, ROWS)


def regions() -> dict[str, list[str]]:
    return {"results": results({name: read(path_of(name)) for name in evidence.STUDIES})}
