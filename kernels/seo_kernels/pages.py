"""Large pages of memory, with which reads of random rows of a large table take less time.

A CPU finds the memory of an address through a small cache of pages. Pages of 4 kB of a table of
gigabytes are not in it, and every read of a row waits for a second one. Linux gives pages of 2 MB
to memory that asks for them, where its setting is ``madvise`` or ``always``.
"""

from __future__ import annotations

import ctypes
import mmap

from torch import Tensor

PAGE = 2**21  # bytes of a large page
_HUGEPAGE: int | None = getattr(mmap, "MADV_HUGEPAGE", None)  # on Linux alone
_COLLAPSE = 25  # of Linux 6.1 and later; Python has no name for it


def ask_for_large_pages(tensor: Tensor, filled: bool = False) -> bool:
    """Let Linux use large pages for the memory of a tensor; its values stay as they are.

    Where Linux refuses, pages stay small and nothing else changes.

    Args:
        tensor: On the CPU; the whole large pages that lie within it are asked for.
        filled: Whether values were written to it. Linux then copies them to large pages now, one
            page at a time. Other memory gets large pages as it is first written.

    Returns:
        Whether Linux agreed.
    """
    if _HUGEPAGE is None or tensor.device.type != "cpu":
        return False
    start, size = tensor.data_ptr(), tensor.numel() * tensor.element_size()
    begin, end = -(-start // PAGE) * PAGE, (start + size) // PAGE * PAGE
    if end <= begin:
        return False
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    agreed = advise(begin, end - begin, _HUGEPAGE) == 0
    return agreed and (not filled or advise(begin, end - begin, _COLLAPSE) == 0)
