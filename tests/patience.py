"""How long a test waits for what other threads and processes do.

Only a failure waits so long, so the limit is chosen for a machine that has much else to do. A test
that something ends soon lets the other way of ending take far longer than the limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 120.0  # seconds


def until(true: Callable[[], object], what: Callable[[], object] = str) -> None:
    """Return once ``true()`` holds.

    Raises:
        AssertionError: It does not within the patience; the message is ``what()``.
    """
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, what()
        time.sleep(0.01)
