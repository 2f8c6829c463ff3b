"""How a process of a launch ends."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn


def run_and_leave(main: Callable[[], None]) -> NoReturn:
    """Run ``main``, then end this process with the status that ``main`` ends with.

    The interpreter is not torn down: a thread of gloo that then drops the last tensor of an
    exchange asks for an interpreter that is gone, and aborts a process whose work is done. What
    is registered with ``atexit`` does not run.
    """
    status = 0
    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
