"""Numbers as a reader sees them; ``n/a`` where there is none."""

from __future__ import annotations

import math

MISSING = "n/a"


def number(value: float, digits: int) -> str:
    """Fixed digits: AUC 5, log loss 5, epochs 1."""
    return MISSING if math.isnan(value) else f"{value:,.{digits}f}"


def signed(value: float, digits: int = 5) -> str:
    """With a sign, and a true minus."""
    return MISSING if math.isnan(value) else f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def plus_minus(mean: float, error: float, digits: int = 5) -> str:
    """``mean ± error``; the mean alone if the error is unknown."""
    text = number(mean, digits)
    return text if math.isnan(error) else f"{text} ± {error:.{digits}f}"


def difference(mean: float, error: float, digits: int = 5) -> str:
    """``+mean ± error``; the mean alone if the error is unknown."""
    text = signed(mean, digits)
    return text if math.isnan(error) else f"{text} ± {error:.{digits}f}"


def p_value(p: float) -> str:
    """Three decimals; small ones as a bound."""
    if math.isnan(p):
        return MISSING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def seconds(value: float) -> str:
    """Three significant digits below 100, whole seconds above."""
    if math.isnan(value):
        return MISSING
    return f"{value:,.0f}" if value >= 99.5 else f"{value:#.3g}"


def percent(share: float) -> str:
    """A share as per cent: two decimals, and bounds where that would read as none or all."""
    if math.isnan(share):
        return MISSING
    if 0 < share < 0.00005:
        return "< 0.01 %"
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    return f"{100 * share:.2f} %" if share < 0.1 else f"{100 * share:.1f} %"


def number_of(n: int, one: str, many: str) -> str:
    """``1 search``, ``2 searches``: a number and the noun that goes with it."""
    return f"{n:,} {one if n == 1 else many}"


def count(value: float) -> str:
    """A whole number with thousands separators."""
    return MISSING if math.isnan(value) else f"{value:,.0f}"
