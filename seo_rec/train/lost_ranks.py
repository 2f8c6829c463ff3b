"""A rank that is gone ends the others with one sentence, in place of what the network library says.

``torch.distributed`` tells a rank that a connection was closed or that nothing came in time, by the
address of the other end. Who is lost the ranks that are left find out together: each notes in the
store of the launch that it has noticed, and whoever has not noted it is lost. Some wait for a rank
that has noticed and not for the lost one, so each rank closes its connections to the others first.
It shuts the sockets down itself: torch closes them in the destructor of a process group, which
first joins the threads of gloo. These need the interpreter's lock to end, and the caller of the
destructor may hold it (PyTorch issue 56297). For the same reason the process then has to end by
:func:`seo_rec.process.leave`, which calls no destructor.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch.distributed as dist

from seo_rec.process import without_notices_of_torch
from seo_rec.train.pulse import close_connections, handled, ranks_named, silence, silent_ranks
from seo_rec.train.ranks import Ranks

NOTICED = "seo-rec/noticed/"  # before the number of a rank, in the store
NOTICED_WITHIN_S = 2.0  # connections of ranks on other machines close a little later
SAYS = "seo-rec/says-who"  # key of the number of ranks that have claimed to say it
DONE = "seo-rec/knows-who"  # key of the number of ranks that need the store no more
DONE_WITHIN_S = 2.0
ANSWER_S = 2.0  # of the store, beyond these
ANOTHER = "another rank"
# gloo ends what else was under way at a timeout with a message that does not name gloo
LIBRARY = re.compile(r"gloo|nccl|ProcessGroup|TCPStore|c10d|caused pair closure", re.IGNORECASE)
CLOSED = re.compile(r"(closed|reset) by (remote )?peer|broken pipe|remote process", re.IGNORECASE)
LATE = re.compile(r"timed out|time-?out", re.IGNORECASE)


class LostRankError(RuntimeError):
    """Another rank was killed, failed or hangs; the message says at which step that was noticed."""


def loss_behind(error: BaseException | None) -> str:
    """How the connection to another rank was lost, if that is behind ``error``; else empty."""
    while error is not None:
        text = str(error)
        if isinstance(error, dist.DistError) or LIBRARY.search(text):
            if how := silence():  # for which this process has closed its connections
                return how
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

    It takes a few seconds at most. Afterwards this process can only end, because its connections to
    the other ranks are closed.

    Args:
        here: This process among the ranks of the launch.

    Returns:
        ``rank 2``, ``one of ranks 1, 2`` if more than one is silent, or ``another rank`` if the
        store of the launch does not answer rank 0; None if another rank says it.
    """
    store = dist.distributed_c10d._get_default_store()
    handled()
    everyone, silent = set(range(here.world_size)), set(silent_ranks())
    noticed = everyone - silent if silent else {here.rank}
    says: list[bool] = []

    def hear() -> None:
        with suppress(RuntimeError):  # the store was rank 0's, or its agent's, and is gone
            says.append(_hear(store, here, noticed))

    with without_notices_of_torch():
        if here.device.type == "cpu":  # NCCL ends by its own watchdog
            close_connections()
        # in a thread, because a client of the store waits without end for one that is stopped
        thread = threading.Thread(target=hear, name="seo-rec-lost", daemon=True)
        thread.start()
        thread.join(NOTICED_WITHIN_S + ANSWER_S + DONE_WITHIN_S * here.first)
    if not says:
        if 0 in noticed:
            return None if here.rank else ANOTHER
        return "rank 0"
    if not says[0]:
        return None
    return ranks_named(everyone - noticed)


def _hear(store: dist.Store, here: Ranks, noticed: set[int]) -> bool:
    """Add to ``noticed`` the ranks that are left, while they may still come.

    Returns:
        Whether this rank says who is lost: the lowest that is left, unless another has already said
        it because this one was late.
    """
    store.set(f"{NOTICED}{here.rank}", "yes")
    everyone, end = range(here.world_size), time.monotonic() + NOTICED_WITHIN_S
    while len(missing := set(everyone) - noticed) > 1 and time.monotonic() < end:
        time.sleep(0.02)
        noticed |= {rank for rank in missing if store.check([f"{NOTICED}{rank}"])}
    says = here.rank == min(noticed) and store.add(SAYS, 1) == 1
    store.add(DONE, 1)
    if here.first:  # the store ends with this process
        end = time.monotonic() + DONE_WITHIN_S
        while store.add(DONE, 0) < len(noticed) and time.monotonic() < end:
            time.sleep(0.01)
    return says
