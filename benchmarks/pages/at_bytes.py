"""The default search beside plain rivals at equal bytes, as the benchmarks recorded them.

Rivals are in the order of their mean validation AUC. Test rows say how far the search is ahead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.accuracy import boosted
from benchmarks.accuracy.at_bytes import (
    DEFAULT,
    HASHED,
    NONE,
    PLAIN,
    RECORD,
    STUDIES,
    UNSAID,
    USUAL,
)
from benchmarks.pages.cells import Runs, mean, minus, with_deviation
from benchmarks.pages.markdown import Column, entry, table
from benchmarks.record import Line, read

AHEAD = {DEFAULT: "The search", "frequent": "`frequent`"}


@dataclass(frozen=True)
class Row:
    """One method in one precision at one budget: lines by split, which are numbered as they came.

    ``id_bits`` is 0 for a method that stores no ids. ``rule`` is the rule of the run-off, 0 for
    methods without one and for searches that do not say it.
    """

    num_bytes: int
    method: str
    precision: str
    crosses: str
    id_bits: int
    rule: int
    runs: Runs

    @property
    def name(self) -> str:
        """Of the method in tables: a search says where it was not let take crosses."""
        bare = self.method == DEFAULT and self.crosses == NONE
        return f"{self.method}, no crosses" if bare else self.method

    @property
    def told(self) -> str:
        """Of the method in sentences."""
        bare = self.method == DEFAULT and self.crosses == NONE
        return f"{AHEAD[self.method]} without crosses" if bare else AHEAD[self.method]


def regions(
    lines: Sequence[Line] | None = None, trees: Sequence[Line] | None = None
) -> dict[str, list[str]]:
    """The regions of the page of findings: the search in short, and boosted trees.

    Args:
        lines: Default: the record.
        trees: Default: the record of boosted trees.
    """
    trees = read(boosted.RECORD) if trees is None else trees
    columns = [
        entry("study"),
        Column("bytes", lambda r: r["ours"].num_bytes, ",d"),
        Column("an id", lambda r: f"{r['ours'].id_bits // 8} bytes"),
        Column("rule", lambda r: _rule(r["ours"].rule)),
        Column("splits", lambda r: len(r["ours"].runs), "d"),
        Column("best plain method", lambda r: f"`{r['rival'].method}`"),
        Column("the search minus it, test AUC", lambda r: minus(r["ours"].runs, r["rival"].runs)),
    ]
    rows = [
        {"study": study, "ours": ours, "rival": rivals(part, ours, ours.precision)[0]}
        for study, found in _studies(lines)
        for part in _parts(rows_of(found))
        for ours in part
        if ours.method == DEFAULT and ours.crosses != NONE and rivals(part, ours, ours.precision)
    ]
    return {
        "the search at equal bytes": table(columns, rows) if rows else ["not run", ""],
        "boosted": _boosted(trees) or ["`python -m benchmarks.accuracy.boosted`: not run.", ""],
    }


def tables(lines: Sequence[Line] | None = None) -> dict[str, list[str]]:
    """The region of the page of tables: searches that say the rule of their run-off.

    Args:
        lines: Default: the record.
    """
    return {"at-bytes": _tables(lines, lambda rule: rule != UNSAID)}


def earlier(lines: Sequence[Line] | None = None) -> dict[str, list[str]]:
    """The region of the page of earlier tables: the other searches, and splits without a search.

    Args:
        lines: Default: the record.
    """
    return {"at-bytes-earlier": _tables(lines, lambda rule: rule == UNSAID)}


def _tables(lines: Sequence[Line] | None, wanted: Callable[[int], bool]) -> list[str]:
    """The tables of all studies with rules that are ``wanted``."""
    shown: list[str] = []
    for study, found in _studies(lines):
        for part in _parts(rows_of(found)):
            if wanted(_rule_of(part)):
                shown += _part(f"{study}, {part[0].num_bytes:,} bytes", _training(found[0]), part)
    return shown or ["`python -m benchmarks.accuracy.at_bytes`: not run.", ""]


def _studies(lines: Sequence[Line] | None) -> list[tuple[str, list[Line]]]:
    """The lines of every study that has some."""
    lines = read(RECORD) if lines is None else lines
    named = {s: [x for x in lines if x["study"] == s] for s in STUDIES}
    return [(study, found) for study, found in named.items() if found]


def rivals(rows: Sequence[Row], ours: Row, precision: str) -> list[Row]:
    """Plain methods in a precision that have all splits of ``ours``, the strongest first.

    The strongest has the best mean validation AUC over these splits.
    """
    found = [r for r in rows if r.method in PLAIN and r.precision == precision]
    found = [r for r in found if r.runs.keys() >= ours.runs.keys()]
    return sorted(found, key=lambda r: -mean({s: r.runs[s] for s in ours.runs}, "val_auc"))


def rows_of(lines: Sequence[Line]) -> list[Row]:
    """Lines of one study grouped, budgets ascending."""
    groups: dict[tuple[int, str, str, str, int, int], dict[int, Line]] = {}
    numbers: dict[str, int] = {}
    for line in lines:
        said = {**USUAL, **line}
        bits = 0 if line["method"] in HASHED else said["id_bits"]
        key = (
            line["bytes"],
            line["method"],
            line["precision"],
            said["crosses"],
            bits,
            said["rule"],
        )
        split = numbers.setdefault(line["data_fingerprint"], len(numbers))
        groups.setdefault(key, {})[split] = line
    found = [Row(*key, runs) for key, runs in groups.items()]
    return sorted(found, key=lambda r: r.num_bytes)


def _parts(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that compare with each other: of one budget, one size of ids and one rule of the search.

    Methods that store no ids stand beside either size, and all methods beside every rule, on the
    splits of the rows that say it.
    """
    parts = []
    for num_bytes in dict.fromkeys(r.num_bytes for r in rows):
        here = [r for r in rows if r.num_bytes == num_bytes]
        for bits in sorted({r.id_bits for r in here} - {0}) or [0]:
            of_size = [r for r in here if r.id_bits in (bits, 0)]
            for rule, splits in _splits(of_size, bits).items():
                ruled = [r for r in of_size if r.method != DEFAULT or r.rule == rule]
                kept = [{s: x for s, x in r.runs.items() if s in splits} for r in ruled]
                parts.append([replace(r, runs=k) for r, k in zip(ruled, kept, strict=True) if k])
    return parts


def _splits(rows: Sequence[Row], bits: int) -> dict[int, set[int]]:
    """The splits of every rule of the search; the first has the splits without a search, too."""
    found: dict[int, set[int]] = {}
    for row in (r for r in rows if r.method == DEFAULT):
        found.setdefault(row.rule, set()).update(row.runs)
    searched = set().union(*found.values())
    rest = {s for r in rows if r.id_bits == bits for s in r.runs} - searched
    found.setdefault(min(found, default=UNSAID), set()).update(rest)
    return dict(sorted(found.items()))


def _rule(rule: int) -> str:
    """Of the run-off, in words; older lines do not say it."""
    return "before 10" if rule == UNSAID else str(rule)


def _part(title: str, training: str, rows: Sequence[Row]) -> list[str]:
    """The table of rows that compare with each other."""
    columns = [
        Column("method", lambda r: r.name),
        Column("rows", lambda r: r.precision),
        Column("splits", lambda r: len(r.runs), "d"),
        Column("bytes", lambda r: round(mean(r.runs, "num_bytes")), ",d"),
        Column("validation AUC", lambda r: with_deviation(r.runs, "val_auc")),
        Column("test AUC", lambda r: with_deviation(r.runs, "test_auc")),
        Column("epochs", lambda r: mean(r.runs, "epochs"), ".1f"),
    ]
    bits, rule = max(r.id_bits for r in rows), _rule_of(rows)
    ids = f", ids of {bits // 8} bytes" if bits else ""
    said = f", rule {rule} of the search" if rule != UNSAID else ""
    return [f"**{title}{ids}{said}**, {training}", "", *table(columns, rows), *_ahead(rows)]


def _rule_of(rows: Sequence[Row]) -> int:
    """The rule of the searches among rows that compare with each other."""
    return max(r.rule for r in rows)


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
                    f"`{rival.method}` {minus(ours.runs, rival.runs)}"
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
