"""A rank that is gone ends the others with one sentence, in place of what the network library says.

``torch.distributed`` tells a rank that a connection was closed or that nothing came in time, by the
address of the other end. Who is lost the ranks that are left find out together: each notes in the
store of the launch that it has noticed, and whoever has not noted it is lost.
"""

from __future__ import annotations

import gc
import re
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch.distributed as dist

from seo_rec.process import without_notices_of_torch
from seo_rec.train.ranks import Ranks

NOTICED = "seo-rec/noticed/"  # before the number of a rank, in the store
NOTICED_WITHIN_S = 2.0  # connections of ranks on other machines close a little later
STORE_STAYS_S = 0.2  # after rank 0 has heard the others, which read it as often as it does
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


def lost(here: Ranks, error: BaseException) -> str | None:
    """Which ranks are lost, for the one rank that says it; None on the others.

    Ends the process group, so that ranks which wait for this one notice too. Its connections close
    when nobody holds it any more, and the frames of ``error`` hold the sharded model, which does.
    """
    store = dist.distributed_c10d._get_default_store()
    everyone, noticed = set(range(here.world_size)), {here.rank}
    try:
        with without_notices_of_torch():
            _hear(store, here, noticed, error)
    except RuntimeError:  # the store was rank 0's, or its agent's
        if 0 in noticed:
            return None if here.rank else ANOTHER
        return "rank 0"
    if here.rank != min(noticed):
        return None
    if here.first:  # the others may be reading the store, which ends with this process
        time.sleep(STORE_STAYS_S)
    numbers = [str(rank) for rank in sorted(everyone - noticed)]
    return f"rank {numbers[0]}" if len(numbers) == 1 else f"one of ranks {', '.join(numbers)}"


def _hear(store: dist.Store, here: Ranks, noticed: set[int], error: BaseException) -> None:
    """Add to ``noticed`` the ranks that are left, while they may still come."""
    store.set(f"{NOTICED}{here.rank}", "yes")
    if here.device.type == "cpu":  # that of NCCL may wait for the rank that is lost
        dist.destroy_process_group()
        _let_go(error)
    everyone, end = range(here.world_size), time.monotonic() + NOTICED_WITHIN_S
    while len(missing := set(everyone) - noticed) > 1 and time.monotonic() < end:
        time.sleep(0.02)
        noticed |= {rank for rank in missing if store.check([f"{NOTICED}{rank}"])}


def _let_go(error: BaseException | None) -> None:
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    gc.collect()
