"""The table of inferred columns that ``seo-rec prepare table`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seo_rec.data.table import Inferred

_WIDEST = 24  # characters of a name or of examples; longer ones are cut
_HEADINGS = ("column", "kind", "is a", "distinct", "missing", "examples", "because")


def inspection(inferred: Inferred) -> str:
    """One line for each column: its kind, what it holds and the reason.

    Args:
        inferred: Of the table.
    """
    columns = inferred.columns
    parts = {
        columns.label_column: "label" if columns.rule is None else f"label, by {columns.rule}",
        columns.weight: "weight",
        columns.time: "time",
        columns.split_column: "split",
    }
    rows = [
        (
            _cut(d.name),
            "left out" if d.kind == "drop" else d.kind,
            d.what,
            f"{d.distinct:,}" if d.distinct else "",
            f"{d.missing:.1%}" if d.missing else "",
            _cut(", ".join(d.examples)),
            d.reason,
        )
        for d in inferred.decisions
    ]
    widths = [max(map(len, cells)) for cells in zip(_HEADINGS, *rows, strict=True)]
    seen = f"{'all' if inferred.whole else 'a sample of'} {inferred.rows:,} rows"
    others = ", ".join(f"{name} ({what})" for name, what in parts.items() if name is not None)
    lines = [f"columns, from {seen}; not features: {others}"]
    if inferred.bad:
        lines.append(f"  left out, as a bad row: {inferred.bad[0]}")
    for row in (_HEADINGS, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  " + "  ".join(cells).rstrip())
    lines.append("another kind: --kind COLUMN=categorical (or numeric, multivalent, drop)")
    return "\n".join(lines)


def _cut(text: str) -> str:
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."
