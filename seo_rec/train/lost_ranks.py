"""A rank that is gone ends the others with one sentence, in place of what the network library says.

``torch.distributed`` tells a rank that a connection was closed or that nothing came in time, by the
address of the other end. Who is lost the ranks that are left find out together: each notes in the
store of the launch that it has noticed, and whoever has not noted it is lost.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch.distributed as dist

from seo_rec.train.ranks import Ranks

NOTICED = "seo-rec/noticed/"  # before the number of a rank, in the store
NOTICED_WITHIN_S = 0.5  # connections of ranks on other machines close a little later
ANOTHER = "another rank"
LIBRARY = re.compile(r"gloo|nccl|ProcessGroup|TCPStore|c10d", re.IGNORECASE)
CLOSED = re.compile(r"(closed|reset) by (remote )?peer|broken pipe|remote process", re.IGNORECASE)
LATE = re.compile(r"timed out|time-?out", re.IGNORECASE)


class LostRankError(RuntimeError):
    """Another rank was killed, failed or hangs; the message says at which step that was noticed."""


def loss_behind(error: BaseException | None) -> str:
    """How the connection to another rank was lost, if that is behind ``error``; else empty."""
    while error is not None:
        text = str(error)
        if isinstance(error, dist.DistError) or LIBRARY.search(text):
            if CLOSED.search(text):
                return "its connection closed"
            if LATE.search(text):
                return "it did not answer in time"
        error = error.__cause__ or error.__context__
    return ""


@contextmanager
def loss_said(where: Callable[[], str] = str) -> Iterator[None]:
    """Within the block the loss of a rank becomes a :class:`LostRankError`.

    Args:
        where: Called when a rank is lost; what the block was at, such as ``at step 12``.

    Raises:
        LostRankError: A rank was lost.
    """
    try:
        yield
    except LostRankError:
        raise
    except Exception as error:
        if not (how := loss_behind(error)):
            raise
        words = [ANOTHER, "was lost", where(), f"({how})"]
        raise LostRankError(" ".join(filter(None, words))) from error


def lost(here: Ranks) -> str | None:
    """Which ranks are lost, for the one rank that says it; None on the others.

    Ends the process group, so that ranks which wait for this one notice too.
    """
    store = dist.distributed_c10d._get_default_store()
    everyone, noticed = set(range(here.world_size)), {here.rank}
    try:
        store.set(f"{NOTICED}{here.rank}", "yes")
        if here.device.type == "cpu":  # that of NCCL may wait for the rank that is lost
            dist.destroy_process_group()
        end = time.monotonic() + NOTICED_WITHIN_S
        while len(everyone - noticed) > 1 and time.monotonic() < end:
            time.sleep(0.02)
            noticed |= {r for r in everyone - noticed if store.check([f"{NOTICED}{r}"])}
    except RuntimeError:  # the store was rank 0's, or its agent's
        if 0 in noticed:
            return None if here.rank else ANOTHER
        return "rank 0"
    if here.rank != min(noticed):
        return None
    if here.first:  # the others may be reading the store, which ends with this process
        time.sleep(NOTICED_WITHIN_S)
    numbers = [str(rank) for rank in sorted(everyone - noticed)]
    return f"rank {numbers[0]}" if len(numbers) == 1 else f"one of ranks {', '.join(numbers)}"
