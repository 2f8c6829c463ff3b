"""Sentences and best figures of a group of runs: its headline, its budget."""

from __future__ import annotations

import math
from collections.abc import Sequence

from seo_rec.policy.allowance import FLOATS
from seo_rec.report import formats
from seo_rec.report.comparison import Group


def headline(found: Group) -> str:
    rows = [r for r in found.rows if r.at_budget]
    if not rows:
        return "No method was trained at a budget here."
    top = rows[0]
    if math.isnan(top.test_auc.mean):  # rows without a figure come last
        best = max(rows, key=lambda r: r.val_auc.mean)
        return (
            f"No test rows: there is no test {found.quality} to compare methods by. Best mean "
            f"validation {found.quality} at the budget: {best.method}, "
            f"{formats.plus_minus(best.val_auc.mean, best.val_auc.sd)}."
        )
    text = (
        f"Best mean test {found.quality} at the budget: {top.method}, "
        f"{formats.plus_minus(top.test_auc.mean, top.test_auc.sd)} ({_seeds(top.test_auc.n)})"
    )
    if found.reference is None:
        return text + "; there is no plain method to compare it with."
    if top.method == found.reference.method:
        return text + ", which is also the reference: no other method is ahead of it."
    d = top.difference
    if d is None:
        return text + f"; it shares no seed with the reference {found.reference.method}."
    if math.isnan(d.p):
        tail = "with one seed there is no test of it" if d.n < 2 else "no test is possible"
    elif d.p < 0.05:
        tail = f"p {_equals(d.p)}, not corrected for choosing the best of {len(rows)}"
    else:
        tail = f"p {_equals(d.p)}: within the noise of {_seeds(d.n)}"
    gain = formats.difference(d.mean, d.standard_error)
    return f"{text}; {gain} over the reference {found.reference.method} ({tail})."


def _equals(p: float) -> str:
    text = formats.p_value(p)
    return text if text.startswith("<") else f"= {text}"


def _seeds(n: int) -> str:
    return f"{n} seed" if n == 1 else f"{n} seeds"


def budget_line(found: Group) -> str:
    runs = [t for row in found.rows if row.at_budget for t in row.runs]
    sizes = {t.params for t in runs}
    beside = [row.method for row in found.rows if not row.at_budget]
    text = ""
    if len(sizes) == 1:
        text = f"Every method holds exactly {sizes.pop():,} embedding parameters (floats)"
    elif sizes:
        text = (
            f"The budget is {found.budget:,} {_unit(found)}; the methods hold "
            f"{min(sizes):,} to {max(sizes):,}{'' if found.unit == FLOATS else ' parameters'}"
        )
    if text:
        text += _bytes_line([t.num_bytes for t in runs if t.num_bytes])
    if beside:
        text += f" Not at the budget, its size follows from the data: {', '.join(beside)} (†)."
    return text.strip()


def _unit(found: Group) -> str:
    return (
        "embedding parameters (floats)" if found.unit == FLOATS else "bytes to serve, ids included"
    )


def _bytes_line(sizes: Sequence[int]) -> str:
    """The end of a sentence about sizes: the bytes that are stored, where the runs say them."""
    if not sizes:
        return "."
    least, most = min(sizes), max(sizes)
    shown = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f", which take {shown} bytes to serve, ids of vocabularies included."


def best_figures(found: Group) -> dict[str, float]:
    """The best mean of each quality among methods at the budget; NaN for a single method."""
    rows = [r for r in found.rows if r.at_budget]
    if len(rows) < 2:
        return dict.fromkeys(("test_auc", "val_auc", "test_logloss"), math.nan)
    return {
        "test_auc": max(r.test_auc.mean for r in rows),
        "val_auc": max(r.val_auc.mean for r in rows),
        "test_logloss": min(r.test_logloss.mean for r in rows),
    }
