"""The one table of results of the README: test AUC of five ways to decide on three data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

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
    "separate": "separate tables",
    "monolithic": "one table (monolithic)",
    "multi-size": "multi-size, best on validation",
    "no-search": "equal widths, by id where ids fit",
    "seo": "SEO, default search",
}


def runs_of(records: Mapping[str, Sequence[Line]], title: str, method: str) -> Runs:
    """The runs of a way to decide; of the multi-size methods the best on validation rows."""
    name, study, widths = DATA[title]
    lines = records[name]
    if method == "no-search":
        return of(lines, widths, method) if widths else {}
    if method != "multi-size":
        return of(lines, study, method)
    names = dict.fromkeys(x["method"] for x in lines if x["study"] == study)
    tried = {m: of(lines, study, m) for m in names if m.startswith(method)}
    return tried[best_of(tried)] if tried else {}


def cell(records: Mapping[str, Sequence[Line]], title: str, method: str) -> str | None:
    """Mean and standard deviation, and the number of seeds where it is not five."""
    runs = runs_of(records, title, method)
    text = with_deviation(runs, "test_auc", 4)
    return text and text + ("" if len(runs) == 5 else f" ({len(runs)} seeds)")


def results(records: Mapping[str, Sequence[Line]]) -> list[str]:
    """Rows are ways to decide, columns are data sets with their budgets."""
    columns = [
        Column("test AUC", lambda method: ROWS[method]),
        *each(DATA, str, partial(cell, records)),
    ]
    return table(columns, ROWS)


def regions() -> dict[str, list[str]]:
    return {"results": results({name: read(path_of(name)) for name in evidence.STUDIES})}
