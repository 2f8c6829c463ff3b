"""The settings of Unified Embedding's grid in short trainings, as ``accuracy.unified`` recorded."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.accuracy.unified import GRID_RECORD
from benchmarks.pages.cells import Runs, by_seed, mean, minus, seeds_in_words, with_error
from benchmarks.pages.markdown import Column, table
from benchmarks.record import Line, read

Place = tuple[str, int, int]  # data set, budget, epochs
Row = tuple[str, str]  # row of Table 1, setting


def region(lines: Sequence[Line] | None = None) -> list[str]:
    """A table for each budget: every setting that was tried, and the best one of its row.

    Args:
        lines: Default: the record.
    """
    lines = read(GRID_RECORD) if lines is None else lines
    if not lines:
        return ["Nothing is recorded yet."]
    places: dict[Place, dict[Row, list[Line]]] = {}
    for line in lines:
        place = (line["study"], line["budget"], line["fit"]["epochs"])
        here = places.setdefault(place, {})
        here.setdefault((line["row"], line["method"]), []).append(line)
    out: list[str] = []
    for (name, budget, epochs), settings in places.items():
        out += [f"{name}, {budget:,} floats, {epochs} epochs:", ""]
        out += _grid({row: by_seed(found) for row, found in settings.items()})
    return out


def _grid(runs: dict[Row, Runs]) -> list[str]:
    """Settings of a row together; **bold** is the one that seed 0 chooses on validation rows."""
    tried = [row for row, _ in runs]
    alone = {row for row in tried if tried.count(row) == 1}
    best: dict[str, Row] = {}
    for key, found in runs.items():
        first = best.get(key[0])
        if 0 in found and (first is None or found[0]["val_auc"] > runs[first][0]["val_auc"]):
            best[key[0]] = key

    def name(key: Row) -> str:
        chosen = best.get(key[0]) == key and key[0] not in alone
        return f"**`{key[1]}`**" if chosen else f"`{key[1]}`"

    def behind(key: Row) -> str | None:
        top = best.get(key[0])
        return None if top is None or top == key else minus(runs[key], runs[top], with_p=False)

    columns = [
        Column("row of Table 1", lambda key: key[0]),
        Column("setting", name),
        Column("seeds", lambda key: seeds_in_words(runs[key]).partition(" ")[2]),
        Column("validation AUC", lambda key: mean(runs[key], "val_auc"), ".5f"),
        Column("test AUC", lambda key: with_error(runs[key], "test_auc")),
        Column("− the chosen setting", behind),
    ]
    order = list(dict.fromkeys(tried))
    return table(columns, sorted(runs, key=lambda key: order.index(key[0])))
