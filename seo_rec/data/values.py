"""One text for one value, however a file stores it: ``1``, ``1.0``, ``True``, times and decimals.

CSV files have text alone, and what writes them chooses the form: a column of whole numbers with a
gap is written as ``1.0``, a true as ``True`` or ``true``. These forms become one::

    whole number with a point    1.0, 1.00, 1.          1          (not 01.0, which is no number)
    negative zero                -0, -0.0               0
    truth                        true, True, TRUE       1          (false: 0)
    date and time                2024-01-02T03:00:00.00 2024-01-02 03:00:00
      at midnight                2024-01-02 00:00:00    2024-01-02
      in UTC                     ...+00:00              ...Z

All other text stays as it is, such as ``1.50``, which may be a version, and ``1e3``.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_DAY, _CLOCK = r"\d{4}-\d{2}-\d{2}", r"\d{2}:\d{2}:\d{2}"
_ZONE = r"(Z|\+00:?00)?"
_CHANGES = (
    (r"^(-?(?:0|[1-9]\d*))\.0*$", r"\1"),
    (r"^-0$", "0"),
    (r"^(?:true|True|TRUE)$", "1"),
    (r"^(?:false|False|FALSE)$", "0"),
    (rf"^({_DAY})[T ]({_CLOCK})((?:\.\d*[1-9])?)(?:\.?0*){_ZONE}$", r"\1 \2\3\4"),
    (rf"^({_DAY} {_CLOCK}(?:\.\d+)?)\+00:?00$", r"\1Z"),
    (rf"^({_DAY}) 00:00:00$", r"\1"),
)
_ANY = rf"^(?:-?(?:0|[1-9]\d*)\.0*|-0|[tT]rue|TRUE|[fF]alse|FALSE|{_DAY}[T ]{_CLOCK}.*)$"


def one_form(texts: Any) -> Any:
    """The texts with every value in one form.

    Args:
        texts: An Arrow array of strings or bytes; nulls stay.

    Returns:
        An array of the same type and length.
    """
    candidates = pc.fill_null(pc.match_substring_regex(texts, _ANY), False)
    if not pc.any(candidates).as_py():
        return texts
    changed = texts.filter(candidates)
    for pattern, form in _CHANGES:
        changed = pc.replace_substring_regex(changed, pattern=pattern, replacement=form)
    return pc.replace_with_mask(texts, candidates, changed)


def as_text(values: Any) -> Any:
    """Dates, times and decimals as strings that :func:`one_form` brings into one form."""
    kind = values.type
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        zoned = values.cast(pa.timestamp(kind.unit, "UTC"))
        return pc.binary_join_element_wise(zoned.cast(pa.timestamp(kind.unit)).cast(pa.string()),
                                           "Z", "")  # fmt: skip
    if pa.types.is_date64(kind):
        return values.cast(pa.date32()).cast(pa.string())
    if pa.types.is_decimal(kind) and kind.scale < 0:
        return values.cast(pa.decimal256(76, 0)).cast(pa.string())
    return values.cast(pa.string())
