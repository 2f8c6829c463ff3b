"""Which columns of a table are used, and as what."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from seo_rec.data.inference import Decision
from seo_rec.data.numeric import BUCKETS, INDICATOR, NumericPlan
from seo_rec.data.roles import LabelRule, label_rule, rule_advice
from seo_rec.data.source import require_missing_rule
from seo_rec.data.tokens import VALUE_RULE
from seo_rec.schema import BINARY, LABEL_KINDS, REGRESSION, DataError

LONGEST_NAME = 255 - len(".parquet")  # bytes of a file's name on the usual file systems
FIXED_RULES = {  # in the words of ``schema.json``
    "none": "as it is; missing: 0",
    "log": "sign(x) ln(1 + abs(x)); missing: 0",
}


@dataclass(frozen=True)
class TableColumns:
    """Which columns of a table are used, and as what.

    If neither ``categorical`` nor ``numeric`` nor ``multivalent`` names a column, the kinds of all
    columns are inferred from a sample of the rows (:mod:`seo_rec.data.inference`).

    Args:
        label: A column of 0 and 1, true and false, or yes and no; or a rule such as
            ``rating >= 4``, with >=, <=, >, <, == or != between a column and a value.
        categorical: One value per row, text or whole numbers.
        numeric: Numbers.
        multivalent: Several values per row: lists (Parquet), or text split at ``separator``.
        separator: Between the values of a multivalent cell of text.
        numeric_transform: ``standard``, ``log``, ``quantiles`` or ``none``
            (:class:`seo_rec.data.numeric.NumericRule`), and after commas those of single columns,
            as in ``standard,price=log``.
        missing: A missing categorical value is a value of its own (``token``) or an empty bag
            (``empty``). A missing multivalent cell is an empty bag.
        numeric_missing: A missing number is 0 after the transform; with ``indicator`` a second
            column says so, where training rows miss numbers, and with ``zero`` none does. None
            takes ``indicator`` for ``standard`` and ``zero`` for the others.
        buckets: Categories of ``quantiles``.
        time: Column of times, kept beside the features; a temporal split orders the rows by it.
        weight: Column of the weights of rows, 0 or more.
        split_column: Column that says train, val or test.
        group: Column whose values stay together in one split.
        task: ``binary`` or ``regression``, which says what the label is: with ``regression`` any
            numbers.
        more_labels: Further labels, as ``label`` is given, for a model of several labels.
        token_rule: How values become ids, of :data:`seo_rec.data.tokens.TOKEN_RULES`; tables of
            earlier releases have the first one.
        kinds: Kinds by column, which win over inferred ones: ``categorical``, ``numeric``,
            ``multivalent`` or ``drop``.
    """

    label: str
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    multivalent: tuple[str, ...] = ()
    separator: str = "|"
    numeric_transform: str = "standard"
    missing: str = "token"
    numeric_missing: str | None = None
    buckets: int = BUCKETS
    time: str | None = None
    weight: str | None = None
    split_column: str | None = None
    group: str | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    task: str = BINARY
    more_labels: tuple[str, ...] = ()
    token_rule: str = VALUE_RULE

    def __post_init__(self) -> None:
        if self.task not in LABEL_KINDS:
            raise DataError(f"task is {self.task!r}; allowed: {', '.join(LABEL_KINDS)}")
        if self.task == REGRESSION and self.more_labels:
            raise DataError(
                f"--task regression with the labels {', '.join(self.label_columns)}; several "
                "labels are 0 or 1; give one --label, or leave out --task"
            )
        if self.task == REGRESSION and self.rule is not None:
            raise DataError(
                f"--label {self.label!r} is a rule, which gives 0 or 1, and --task is regression; "
                "name a column of numbers, or leave out --task"
            )
        require_missing_rule(self.missing)
        if not self.separator:
            raise DataError("the separator of multivalent columns is empty; give one, as in '|'")
        if self.kinds and not self.is_open:
            raise DataError(
                "--kind changes what is inferred, and nothing is, because columns are named by "
                "--categorical, --numeric or --multivalent; use one of the two ways"
            )
        if not (self.is_open or self.categorical or self.multivalent or self._buckets):
            raise DataError("no categorical or multivalent column is named; name one at least")
        features = (*self.numeric, *self.categorical, *self.multivalent)
        single = [*self.label_columns, *features, *self._beside]
        twice = sorted({name for name in single if single.count(name) > 1})
        if twice or self.group in (*self.label_columns, *self._beside):
            raise DataError(
                f"columns {twice or [self.group]} are named more than once; give each one role"
            )
        for name in self.used:
            _require_file_name(name)
        _ = self.plans

    @property
    def by_value(self) -> bool:
        """Whether a value has one id in whatever form a file stores it."""
        return self.token_rule == VALUE_RULE

    @property
    def is_open(self) -> bool:
        """Whether the kinds of columns are to be inferred."""
        return not (self.categorical or self.numeric or self.multivalent)

    @cached_property
    def rule(self) -> LabelRule | None:
        """The rule of the label, if it is not a plain column."""
        return label_rule(self.label)

    @property
    def label_column(self) -> str:
        """The column that the label is read from, whose name it keeps."""
        return self.label if self.rule is None else self.rule.column

    @cached_property
    def more_rules(self) -> dict[str, LabelRule | None]:
        """By the column of each further label its rule; None for a plain column."""
        rules = [(text, label_rule(text)) for text in self.more_labels]
        return {text if rule is None else rule.column: rule for text, rule in rules}

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns of all labels, in order; a name stands twice if two labels read it."""
        rules = [(text, label_rule(text)) for text in self.more_labels]
        return (self.label_column, *(t if r is None else r.column for t, r in rules))

    @property
    def _beside(self) -> tuple[str, ...]:
        return tuple(n for n in (self.weight, self.time, self.split_column) if n is not None)

    @property
    def _buckets(self) -> bool:
        return any(plan.transform == "quantiles" for plan in self.plans.values())

    @property
    def used(self) -> tuple[str, ...]:
        """Every column that is read, once."""
        features = (*self.numeric, *self.categorical, *self.multivalent)
        group = () if self.group is None else (self.group,)
        return tuple(dict.fromkeys((*self.label_columns, *features, *self._beside, *group)))

    @cached_property
    def plans(self) -> dict[str, NumericPlan]:
        """How the numbers of each numeric column are transformed."""
        first, *others = split_names(self.numeric_transform) or ("",)
        single = dict(_pair(text) for text in others)
        if "=" in first:
            single[_pair(first)[0]], first = _pair(first)[1], "standard"
        if not self.is_open and (unknown := sorted(set(single) - set(self.numeric))):
            raise DataError(
                f"numeric transforms are given for {unknown}; allowed: the numeric columns "
                f"{', '.join(self.numeric)}"
            )
        for transform in (first, *single.values()):
            _plan(transform, self.numeric_missing, self.buckets)
        return {
            name: _plan(single.get(name, first), self.numeric_missing, self.buckets)
            for name in self.numeric
        }

    @property
    def measured(self) -> dict[str, NumericPlan]:
        """The plans, if one needs to know the training rows or they differ; nothing otherwise."""
        plans = self.plans.values()
        alike = len({plan.transform for plan in plans}) <= 1
        return {} if alike and all(plan.is_fixed for plan in plans) else self.plans

    @property
    def options(self) -> dict[str, Any]:
        """The entries of ``schema.options`` that these columns make."""
        found: dict[str, Any] = {"missing": self.missing, "separator": self.separator}
        transforms = {plan.transform for plan in self.plans.values()} or {self.numeric_transform}
        if not self.measured:
            found["numeric_rule"] = FIXED_RULES.get(transforms.pop(), FIXED_RULES["none"])
        if self.rule is not None:
            found["label_rule"] = str(self.rule)
        more = {name: str(rule) for name, rule in self.more_rules.items() if rule is not None}
        if more:
            found["more_label_rules"] = more
        return found

    def inferred(self, decisions: Sequence[Decision]) -> TableColumns:
        """The columns with the kinds of these decisions.

        Raises:
            DataError: No column is left that could be embedded.
        """
        names = {
            kind: tuple(d.name for d in decisions if d.kind == kind)
            for kind in ("categorical", "numeric", "multivalent")
        }
        if not any(names.values()):
            raise DataError(_nothing_left(decisions))
        return replace(
            self,
            categorical=names["categorical"],
            numeric=names["numeric"],
            multivalent=names["multivalent"],
            kinds={},
        )

    def require_in(self, names: Sequence[str], path: Path) -> None:
        """DataError if ``path``, whose columns are ``names``, lacks a column or has it twice."""
        absent = [name for name in self.used if name not in names]
        if absent:
            raise DataError(
                f"{path}: no columns {absent}; allowed: {', '.join(names)}; correct the option "
                "(--label, --categorical, --numeric, --multivalent, --time, --weight, --group ...)"
                f"{rule_advice(self.label) if self.label_column in absent else ''}"
            )
        twice = sorted({name for name in self.used if list(names).count(name) > 1})
        if twice:
            raise DataError(f"{path}: duplicate column names {twice}; rename one of each")


def split_names(text: str) -> tuple[str, ...]:
    """The names in a text, between commas; a name with a comma is quoted, as in ``"a,b",c``.

    Raises:
        DataError: A quote is not closed.
    """
    try:
        (names,) = csv.reader([text], skipinitialspace=True, strict=True) if text else ([],)
    except csv.Error as error:
        raise DataError(
            f"names {text!r}: {error}; allowed: names between commas, one that holds a comma or "
            "begins with a quote in double quotes, as in '\"a,b\",c'"
        ) from error
    return tuple(name.strip() for name in names)


def _plan(transform: str, missing: str | None, buckets: int) -> NumericPlan:
    if transform == "quantiles":
        return NumericPlan(transform, buckets=buckets)
    default = "indicator" if transform == "standard" else "zero"
    return NumericPlan(transform, missing or default, buckets)


def _pair(text: str) -> tuple[str, str]:
    name, sign, transform = text.rpartition("=")
    if not sign or not name:
        raise DataError(
            f"numeric transform is {text!r}; allowed: a transform, then columns with theirs, as in "
            "standard,price=log,age=quantiles"
        )
    return name.strip(), transform.strip()


def _require_file_name(name: str) -> None:
    size = len(name.encode())
    if size > LONGEST_NAME:
        raise DataError(
            f"column {name[:20]!r}... has a name of {size} bytes, which cannot "
            f"name a vocabulary file; rename it, to {LONGEST_NAME} bytes at most"
        )
    if not name or "/" in name or "\0" in name or name.startswith("."):
        raise DataError(
            f"column {name!r} cannot name a vocabulary file; rename it so that it is not "
            "empty, holds no '/' and does not start with '.'"
        )
    if name.endswith(INDICATOR):
        raise DataError(f"column {name!r} ends with {INDICATOR!r}, as made columns do; rename it")


def _nothing_left(decisions: Sequence[Decision]) -> str:
    """Why there is no column to learn from, and what to do."""
    if not decisions:
        return (
            "no column is left to learn from: the table has the label and columns of options only; "
            "give a table with features"
        )
    why = "; ".join(f"{d.name}: {d.what}, {d.reason}" for d in decisions[:5])
    more = f"; and {len(decisions) - 5} more" if len(decisions) > 5 else ""
    usable = [d.name for d in decisions if d.what != "other"]
    fix = "convert one to numbers, text or lists"
    if usable:
        fix = f"name the kind of one, as in --kind {usable[0]}=categorical"
    return f"no column is left to learn from ({why}{more}); {fix}"
