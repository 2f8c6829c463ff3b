"""Every rank says at intervals that it lives, so that a silent one is noticed by the others.

A stopped process, and a machine that vanishes without closing its connections, say nothing to the
network library, which waits for its own limit of ten minutes. That limit cannot be short, because
it also holds for a rank whose evaluation or checkpoint takes long. A thread that only counts goes
on meanwhile, so that its silence means that the whole process stands still.

Rank 0 looks at the counts of all ranks and publishes who is silent; the others look at the count of
rank 0. A rank therefore sends a few messages in each interval, whatever the number of ranks.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist

from seo_rec.process import leave, without_notices_of_torch

COUNT = "seo-rec/pulse/"  # before the number of a rank, in the store
SILENT = "seo-rec/silent"  # key of the numbers of the silent ranks, which rank 0 has noticed
LEFT = 1 << 40  # added to the count of a rank that has ended its work
GO_ON = "the same command with --resume goes on from the last checkpoint"
BEATS = 12  # of a rank within the limit
LEAVE_S = 1.0  # for the last message of a rank
UNWIND_S = 10.0  # after which a rank whose main thread waits without end is ended from here


@dataclass
class Counts:
    """When the count of each watched rank last changed, in seconds of a clock of this process.

    Args:
        ranks: The ranks that are watched.
        within_s: A rank whose count stands still for longer is silent.
        now: The time of the clock.
    """

    ranks: tuple[int, ...]
    within_s: float
    now: float
    counts: dict[int, int] = field(default_factory=dict)
    changed: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.changed = dict.fromkeys(self.ranks, self.now)

    def look(self, counts: dict[int, int], now: float) -> list[int]:
        """The silent ranks, given the counts at the time ``now``.

        If this process itself stood still since the last look, the silence of others means nothing,
        and all of them are given the whole limit again.
        """
        stood_still = now - self.now > self.within_s / 2
        for rank, count in counts.items():
            if stood_still or count != self.counts.get(rank):
                self.changed[rank] = now
        self.counts, self.now = counts, now
        return [
            rank
            for rank in self.ranks
            if counts[rank] < LEFT and now - self.changed[rank] > self.within_s
        ]


class Pulse:
    """The threads of one rank that count, watch the others and end the wait for a silent one.

    Args:
        rank: The number of this rank.
        world_size: The number of ranks.
        store: The store of the launch, for this object alone.
        within_s: A rank that is not heard for longer is silent.
        on_cpu: Whether the ranks exchange by gloo, whose wait ends when connections are closed.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        store: dist.Store,
        within_s: float,
        on_cpu: bool,
    ) -> None:
        self.rank, self.store, self.within_s, self.on_cpu = rank, store, within_s, on_cpu
        self.everyone = range(world_size)
        self.watched = tuple(self.everyone[1:]) if rank == 0 else (0,)
        self.every_s = within_s / BEATS
        self.silent: tuple[int, ...] = ()
        self.handled = threading.Event()  # the main thread says it and ends
        self.left = threading.Event()
        self.gone = threading.Event()  # the store is; gloo tells of the end of its process
        self.answered = time.monotonic()
        self.threads = [
            threading.Thread(target=work, name=f"seo-rec-{name}", daemon=True)
            for name, work in (("pulse", self._beat), ("watch", self._watch))
        ]

    def start(self) -> None:
        """Begin to count and to watch."""
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """Tell the others that this rank has ended its work; rank 0 waits until all have."""
        self.left.set()
        with without_notices_of_torch():
            for thread in self.threads:
                thread.join(2 * LEAVE_S)

    def _beat(self) -> None:
        watch = Counts(self.watched, self.within_s, time.monotonic())
        try:
            while not self.handled.is_set():
                self._add(1)
                counts = self._counts()
                silent = watch.look(counts, time.monotonic())
                if silent and self.rank == 0:
                    self.store.set(SILENT, " ".join(map(str, silent)))
                if not silent and self.rank and self.store.check([SILENT]):
                    silent = [int(number) for number in self.store.get(SILENT).split()]
                self.answered = time.monotonic()
                if silent:
                    self.silent = tuple(silent)
                    return
                if self.left.wait(self.every_s):
                    break
            self._add(LEFT)
            end = time.monotonic() + LEAVE_S
            while self.rank == 0 and time.monotonic() < end:  # the store ends with this process
                if min(self._counts().values()) >= LEFT:
                    break
                time.sleep(0.005)
        except RuntimeError:
            self.gone.set()

    def _add(self, number: int) -> None:
        if store_is_gone():
            raise RuntimeError("the store of the launch is gone")
        self.store.add(f"{COUNT}{self.rank}", number)

    def _counts(self) -> dict[int, int]:
        return {rank: self.store.add(f"{COUNT}{rank}", 0) for rank in self.watched}

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self.left.wait(self.every_s) and not self.gone.is_set():
            now = time.monotonic()
            if now - looked > self.within_s / 2:  # this process stood still
                self.answered = now
            looked = now
            if self.rank and now - self.answered > self.within_s:
                self.silent = self.silent or (0,)  # whose process, or machine, has the store
            if self.silent:
                self._end()
                return

    def _end(self) -> None:
        """Let the main thread fail in its exchange, or end the process if it does not."""
        if self.on_cpu:
            close_connections()
        if not self.left.wait(UNWIND_S) and not self.handled.is_set():
            self.handled.set()
            if self.rank == min(set(self.everyone) - set(self.silent)):  # one says it
                print(
                    f"error: {ranks_named(self.silent)} was lost ({self.words()}): {GO_ON}",
                    file=sys.stderr,
                )
            leave(1)

    def words(self) -> str:
        """For how long a silent rank has been so, for a message."""
        return f"it was silent for {self.within_s:g} s"


_current: list[Pulse] = []  # of this process, as the process group of torch.distributed is


@contextmanager
def pulse(rank: int, world_size: int, within_s: float, on_cpu: bool) -> Iterator[None]:
    """Within the block this rank counts in the store of the launch and watches the others.

    Args:
        rank, world_size, within_s, on_cpu: See :class:`Pulse`.
    """
    default: Any = dist.distributed_c10d._get_default_store()
    store = default.clone()  # waits of others do not lock it
    beating = Pulse(rank, world_size, store, within_s, on_cpu)
    _current.append(beating)
    beating.start()
    try:
        yield
    finally:
        _current.remove(beating)
        beating.stop()


def silent_ranks() -> tuple[int, ...]:
    """The ranks that this process has noticed to be silent; usually none."""
    return _current[0].silent if _current else ()


def silence() -> str:
    """For how long a rank was silent, in words for a message; empty if none was."""
    return _current[0].words() if silent_ranks() else ""


def ranks_named(numbers: Iterable[int]) -> str:
    """``rank 2``, or ``one of ranks 1, 2``."""
    names = [str(number) for number in sorted(numbers)]
    return f"rank {names[0]}" if len(names) == 1 else f"one of ranks {', '.join(names)}"


def handled() -> None:
    """The main thread ends because of a lost rank, and need not be ended."""
    for beating in _current:
        beating.handled.set()


def close_connections() -> None:
    """End the TCP connections of this process, except for those to the store of the launch."""
    of_store = int(os.environ["MASTER_PORT"])
    for connection, ports in _connections():
        with suppress(OSError):  # it was closed meanwhile
            if of_store not in ports:
                connection.shutdown(socket.SHUT_RDWR)


def store_is_gone() -> bool:
    """Whether the store of the launch has closed a connection of this process.

    Who asks it nevertheless gets an error, and the terminal a stack of torch.
    """
    of_store = int(os.environ["MASTER_PORT"])
    for connection, (_, there) in _connections():
        with suppress(OSError):  # it is open, and there is nothing to read
            if there == of_store:
                if not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                    return True
    return False


def _connections() -> Iterator[tuple[socket.socket, tuple[int, int]]]:
    """The TCP connections of this process, with their port here and at the other end."""
    for descriptor in os.listdir("/dev/fd"):
        with suppress(OSError):  # it is no socket, has no other end, or was closed meanwhile
            connection = socket.socket(fileno=int(descriptor))
            try:
                if connection.family in (socket.AF_INET, socket.AF_INET6):
                    yield connection, (connection.getsockname()[1], connection.getpeername()[1])
            finally:
                connection.detach()  # the descriptor belongs to gloo, or to the store
