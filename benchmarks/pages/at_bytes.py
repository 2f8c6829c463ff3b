"""The default search beside plain rivals at equal bytes, as the benchmarks recorded them.

Rivals are in the order of their mean validation AUC. Test rows say how far the search is ahead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.accuracy import boosted
from benchmarks.accuracy.at_bytes import DEFAULT, NONE, PLAIN, RECORD, STUDIES, USUAL
from benchmarks.pages.cells import Runs, mean, minus, with_deviation
from benchmarks.pages.markdown import Column, entry, table
from benchmarks.record import Line, read

AHEAD = {DEFAULT: "The search", "frequent": "`frequent`"}


@dataclass(frozen=True)
class Row:
    """One method in one precision at one budget: lines by split."""

    num_bytes: int
    method: str
    precision: str
    crosses: str
    id_bits: int
    runs: Runs

    @property
    def name(self) -> str:
        """Of the method in tables: a search says where it was not let take crosses."""
        bare = self.method == DEFAULT and self.crosses == NONE
        return (f"{self.method}, no crosses" if bare else self.method) + self._ids

    @property
    def told(self) -> str:
        """Of the method in sentences."""
        bare = self.method == DEFAULT and self.crosses == NONE
        name = f"{AHEAD[self.method]} without crosses" if bare else AHEAD[self.method]
        return name + self._ids.replace(",", " with")

    @property
    def _ids(self) -> str:
        """What is said of ids that are not the 8 bytes of the first lines."""
        return "" if self.id_bits == USUAL["id_bits"] else f", ids of {self.id_bits // 8} bytes"


def regions(
    lines: Sequence[Line] | None = None, trees: Sequence[Line] | None = None
) -> dict[str, list[str]]:
    """The regions of the page: one for the studies, one for boosted trees.

    Args:
        lines: Default: the record.
        trees: Default: the record of boosted trees.
    """
    lines = read(RECORD) if lines is None else lines
    trees = read(boosted.RECORD) if trees is None else trees
    studies = [s for s in STUDIES if any(x["study"] == s for x in lines)]
    shown: list[str] = []
    for study in studies:
        shown += _study(study, [x for x in lines if x["study"] == study])
    command = "python -m benchmarks.accuracy"
    return {
        "at-bytes": shown or [f"`{command}.at_bytes`: not run.", ""],
        "boosted": _boosted(trees) or [f"`{command}.boosted`: not run.", ""],
    }


def rivals(rows: Sequence[Row], ours: Row, precision: str) -> list[Row]:
    """Plain methods in a precision that have all splits of ``ours``, the strongest first.

    The strongest has the best mean validation AUC over these splits.
    """
    found = [r for r in rows if r.method in PLAIN and r.precision == precision]
    found = [r for r in found if r.runs.keys() >= ours.runs.keys()]
    return sorted(found, key=lambda r: -mean({s: r.runs[s] for s in ours.runs}, "val_auc"))


def rows_of(lines: Sequence[Line]) -> list[Row]:
    """Lines of one study grouped, budgets ascending."""
    groups: dict[tuple[int, str, str, str, int], dict[int, Line]] = {}
    for line in lines:
        crosses, bits = (({**USUAL, **line})[name] for name in ("crosses", "id_bits"))
        key = (line["bytes"], line["method"], line["precision"], crosses, bits)
        groups.setdefault(key, {})[line["split"]] = line
    found = [Row(*key, runs) for key, runs in groups.items()]
    return sorted(found, key=lambda r: r.num_bytes)


def _study(study: str, lines: Sequence[Line]) -> list[str]:
    out: list[str] = []
    rows = rows_of(lines)
    for num_bytes in dict.fromkeys(r.num_bytes for r in rows):
        here = [r for r in rows if r.num_bytes == num_bytes]
        columns = [
            Column("method", lambda r: r.name),
            Column("rows", lambda r: r.precision),
            Column("splits", lambda r: len(r.runs), "d"),
            Column("bytes", lambda r: round(mean(r.runs, "num_bytes")), ",d"),
            Column("validation AUC", lambda r: with_deviation(r.runs, "val_auc")),
            Column("test AUC", lambda r: with_deviation(r.runs, "test_auc")),
            Column("epochs", lambda r: mean(r.runs, "epochs"), ".1f"),
        ]
        title = f"**{study}, {num_bytes:,} bytes**, {_training(lines[0])}"
        out += [title, "", *table(columns, here), *_ahead(here)]
    return out


def _training(line: Line) -> str:
    """How the models of a study are trained, in short."""
    model, fit = line["model"], line["fit"]
    dropout = f", dropout {model['dropout']:g}" if model["dropout"] else ""
    return (
        f"{model['backbone']}{dropout}, L2 {fit['row_l2']:g}, batches of {fit['batch_size']} at a "
        f"rate of {fit['row_lr']:g}, at most {fit['epochs']} epochs"
    )


def _ahead(rows: Sequence[Row]) -> list[str]:
    """How far the search and ``frequent`` are ahead of plain methods, the strongest first."""
    out = []
    precisions = dict.fromkeys(r.precision for r in rows)
    for name in AHEAD:
        for ours in (r for r in rows if r.method == name):
            for precision in precisions:
                gains = [
                    f"`{rival.name}` {minus(ours.runs, rival.runs)}"
                    for rival in rivals(rows, ours, precision)
                ]
                if gains:
                    out.append(
                        f"* {ours.told} in {ours.precision} minus plain methods in {precision}, "
                        f"the best validation AUC first; test AUC: {', '.join(gains)}."
                    )
        if name == DEFAULT:
            out += [_answers(r) for r in rows if r.method == name]
    return [*out, ""] if out else []


def _answers(row: Row) -> str:
    """What the searches of all splits decided, and the crosses that they took."""
    often = Counter(line["winner"] for line in row.runs.values())
    told = ", ".join(f"`{w.removeprefix('trivial-')}` {n}" for w, n in often.most_common())
    first = row.told.removeprefix("The ")
    out = f"* Splits by what the {first} in {row.precision} answered: {told}."
    taken = Counter(c for line in row.runs.values() for c in line.get("taken", ()))
    if not taken:
        return out
    listed = ", ".join(f"`{cross}` {n}" for cross, n in taken.most_common())
    return f"{out} Splits by the crosses that were taken: {listed}."


def _boosted(lines: Sequence[Line]) -> list[str]:
    groups: dict[tuple[str, str], dict[int, Line]] = {}
    for line in lines:
        groups.setdefault((line["study"], line["library"]), {})[line["split"]] = line
    rows = [{"study": s, "library": name, "runs": runs} for (s, name), runs in groups.items()]
    columns = [
        entry("study"),
        entry("library"),
        Column("splits", lambda r: len(r["runs"]), "d"),
        Column("bytes", lambda r: round(mean(r["runs"], "num_bytes")), ",d"),
        Column("test AUC", lambda r: with_deviation(r["runs"], "test_auc")),
        Column("log loss", lambda r: with_deviation(r["runs"], "test_logloss")),
        Column("CPU seconds", lambda r: mean(r["runs"], "cpu_seconds"), ".0f"),
    ]
    return table(columns, rows) if rows else []
