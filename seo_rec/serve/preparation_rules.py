"""The rules of raw columns, in the words of ``preparation.json``."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from seo_rec.data.numeric import NumericRule
from seo_rec.serve.bags import Ids

LARGEST = float(np.finfo(np.float32).max)
NUMERIC_RULES = ("none", "log", "standard", "shifted_log")
ID_RULES = ("token", "value", "bucket", "hour_of_day", "quantiles")
MISSING_AS = ("token", "empty")
MAX_SHIFT = 1000


@dataclass(frozen=True)
class Column:
    """One raw column and its rule.

    Args:
        name: As in the raw rows.
        kind: ``numeric``, ``categorical`` or ``multivalent``.
        rule: Of a numeric column ``none``, ``log``, ``standard`` (see ``numbers``) or
            ``shifted_log`` (ln(max(x + shift, 1))); of the others ``token`` or ``value``, which
            brings whole numbers, truth and times into one form first, and of a categorical
            one also ``bucket`` (floor(ln(x)^2) above 2, else x), ``hour_of_day`` (YYMMDDHH mod 100)
            or ``quantiles`` (see ``numbers``).
        missing: Of a categorical column: ``token`` or ``empty``.
        shift: Of ``shifted_log``.
        separator: Of a multivalent column.
        kept: The ids that keep their identity, ascending; None if all do.
        numbers: Of ``none``, ``log``, ``standard`` and ``quantiles``: what becomes of a number.
    """

    name: str
    kind: str
    rule: str = "token"
    missing: str = "token"
    shift: int = 0
    separator: str = "|"
    kept: Ids | None = field(default=None, compare=False)
    numbers: NumericRule = NumericRule()

    @property
    def num_dense(self) -> int:
        """Numbers that the model gets of a cell: 2 if one says whether it is missing."""
        return (1 + self.numbers.indicator) if self.kind == "numeric" else 0

    @property
    def is_single(self) -> bool:
        """Whether every row has exactly one id."""
        return self.kind == "categorical" and self.missing == "token"


@dataclass(frozen=True)
class Text:
    """How raw text files look.

    Args:
        delimiter: Between cells; None for a tab in ``.tsv`` files and a comma in others.
        quoting: Whether cells may be quoted.
        headers: The columns of files without a header line, one list for each number of columns
            that a file may have; empty where files have a header line.
    """

    delimiter: str | None = None
    quoting: bool = True
    headers: tuple[tuple[str, ...], ...] = ()
