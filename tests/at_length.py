"""Parameters of which a few are tested by ``make test``, and the others by ``make test-all``."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def at_length(cases: Iterable[Any], quick: Collection[Any]) -> list[Any]:
    """Parameters of a test, of which those that are not in ``quick`` are slow.

    Args:
        cases: A value each, or a tuple where the test has several parameters.
        quick: Some of the cases.

    Raises:
        ValueError: A quick case is none of the cases.
    """
    found = [*cases]
    if unknown := [case for case in quick if case not in found]:
        raise ValueError(f"quick cases {unknown} are not among the cases {found}")
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=() if case in quick else pytest.mark.slow,
        )
        for case in found
    ]
