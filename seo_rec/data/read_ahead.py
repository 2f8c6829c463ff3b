"""An iterator that a background thread runs some items ahead of its consumer."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

THREAD_NAME = "seo-rec-ahead"
T = TypeVar("T")
_Queue = queue.Queue[T | BaseException | None]


class ReadAhead(Generic[T]):
    """Iterate in one background thread, ``depth`` items ahead of the consumer.

    The thread ends when the items do, at ``close``, when this object is collected and at exit of
    the interpreter; it must not hold this object, or the last two would never come.
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._queue: _Queue[T] = queue.Queue(maxsize=depth)
        stop = threading.Event()
        thread = threading.Thread(
            target=_pump, args=(items, self._queue, stop), name=THREAD_NAME, daemon=True
        )
        self.close = weakref.finalize(self, _stop_pump, thread, self._queue, stop)
        thread.start()

    def __iter__(self) -> Iterator[T]:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item


def _pump(items: Iterator[T], out: _Queue[T], stop: threading.Event) -> None:
    try:
        for item in items:
            out.put(item)
            if stop.is_set():
                return
        out.put(None)
    except BaseException as error:  # raised again where the items are asked for
        out.put(error)


def _stop_pump(thread: threading.Thread, waiting: _Queue[T], stop: threading.Event) -> None:
    stop.set()
    while True:
        while not waiting.empty():  # frees a put() that waits for room
            waiting.get_nowait()
        if thread is threading.current_thread() or not thread.is_alive():
            return
        thread.join(timeout=0.002)
