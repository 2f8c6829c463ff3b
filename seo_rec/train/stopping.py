"""A training that is told to stop, and how it says so."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Preempted(RuntimeError):
    """The run was told to stop (SIGTERM) and did; the message says whether it can go on."""


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """Within the block SIGTERM sets the event instead of ending the process.

    Schedulers send it some time before they take the machine away. Outside the main thread no
    handler can be set, and the event stays unset.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
