"""How a process loads its libraries, how it speaks and how it ends."""

from __future__ import annotations

import codecs
import gc
import io
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

# 128 + the number of the signal, as a shell reports a process ended by it
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143
PLAIN = "seo_rec_plain"  # the name of an error handler of encodings
SPELLED = {"−": "-", "–": "-", "—": "-", "±": "+-", "×": "x", "…": "...", "≤": "<=", "≥": ">="}


def spell_plainly() -> None:
    """Signs that the terminal's encoding lacks are printed as others, such as ± as +-, or as ?."""

    def spelled(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        text = error.object[error.start : error.end]
        return "".join(SPELLED.get(sign, "?") for sign in text), error.end

    codecs.register_error(PLAIN, spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=PLAIN)


@contextmanager
def without_collection() -> Iterator[None]:
    """Within the block no garbage is collected, and later collections leave its objects alone.

    Importing torch and TorchRec makes some million objects that stay. Looking through them again
    and again took a sixth of the seconds that the import takes.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


class Terminated(BaseException):
    """SIGTERM came. As with KeyboardInterrupt, ``except Exception`` does not catch it."""


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Within the block SIGTERM raises :class:`Terminated` in the main thread.

    Otherwise the process would end without a word and without cleaning up. Outside the main thread
    no handler can be set, and nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def world_size() -> int:
    """The number of processes that a launcher started together; 1 without a launcher.

    Raises:
        ValueError: WORLD_SIZE is not a number of processes.
    """
    text = os.environ.get("WORLD_SIZE", "").strip() or "1"
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ValueError(
            f"WORLD_SIZE is {text!r}; allowed: the number of processes, as torchrun and TorchX set "
            "it; unset it to run in one process"
        )
    return int(text)


def quiet_libraries() -> None:
    """Silence notices of the libraries that a user can do nothing about."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch(rec)?\.")
    # said of the line that calls torch, which is ours
    warnings.filterwarnings("ignore", category=FutureWarning, message="Please use DTensor")
    warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.autograd\.graph")
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)


@contextmanager
def without_notices_of_torch() -> Iterator[None]:
    """Within the block nothing reaches the terminal's stderr, past Python's ``sys.stderr`` either.

    The store of a launch prints the stack of every message that it cannot send.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def run_and_leave(main: Callable[[], None]) -> NoReturn:
    """Run ``main``, then end this process with the status that ``main`` ends with.

    It ends by :func:`leave` while the error, if there was one, is still referenced: its frames may
    hold the last reference to a process group, whose destructor waits for other ranks.
    """
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        leave(end.code if isinstance(end.code, int) else int(end.code is not None))
    except BaseException:
        traceback.print_exc()
        leave(1)
    leave(0)


def leave(status: int) -> NoReturn:
    """End this process now, after what it has printed.

    The interpreter is not torn down: a thread of gloo that then drops the last tensor of an
    exchange asks for an interpreter that is gone, and aborts a process whose work is done. What
    is registered with ``atexit`` does not run.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
