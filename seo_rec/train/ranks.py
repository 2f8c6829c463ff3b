"""The processes of one run: who am I, and what we agree on.

A single process is the case of one rank: the same calls, and nothing is sent.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from seo_rec.process import without_notices_of_torch, world_size
from seo_rec.train.pulse import pulse

T = TypeVar("T")

TIMEOUT_VARIABLE = "SEO_REC_TIMEOUT_S"
DEFAULT_TIMEOUT_S = 600
SILENCE_VARIABLE = "SEO_REC_SILENCE_S"
DEFAULT_SILENCE_S = 60
ANSWER_S = 2  # beyond the timeout, within which the store itself says what is wrong
SAID = "seo-rec/error"  # key of the message that rank 0 ends with
SAID_WITHIN_S = 3.0
HEARD = "seo-rec/heard"  # key of the number of ranks that know of it
HEARD_WITHIN_S = 1.0


class LaunchError(RuntimeError):
    """The processes of a launch do not find each other; the message says where and why."""


class OtherRankError(RuntimeError):
    """Another rank failed and has told its user why; this one only ends."""


@dataclass(frozen=True)
class Ranks:
    """This process among ``world_size`` processes, ``local_size`` of them on its host."""

    rank: int = 0
    world_size: int = 1
    local_size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and talks to the user."""
        return self.rank == 0

    def share(self, total: int, what: str) -> int:
        """A rank's part of ``total``.

        Raises:
            ValueError: the ranks cannot share it evenly.
        """
        if total % self.world_size:
            raise ValueError(
                f"{what} is {total}, for all processes together; with {self.world_size} of them "
                f"allowed: multiples of {self.world_size}"
            )
        return total // self.world_size

    def on_first(self, action: Callable[[], T]) -> T:
        """Run ``action`` on rank 0 and give its result to every rank.

        Raises:
            Exception: rank 0 raises what ``action`` raised.
            OtherRankError: the other ranks, at the same time.
        """
        if self.world_size == 1:
            return action()
        answer: list[Any] = [None, None]
        failure: BaseException | None = None
        if self.first:
            try:
                answer[0] = action()
            except Exception as error:
                failure = error
                answer[1] = f"{type(error).__name__}: {error}"
        dist.broadcast_object_list(answer, src=0)
        if failure:
            raise failure
        if answer[1] is not None:
            raise OtherRankError(answer[1])
        return answer[0]

    def gather(self, value: T, group: dist.ProcessGroup | None = None) -> list[T]:
        """Every rank's ``value``, in order of ranks, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=group)
        return values

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` becomes the sum over ranks."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def mean_(self, tensor: torch.Tensor) -> torch.Tensor:
        """``tensor`` becomes the mean over ranks."""
        return self.sum_(tensor).div_(self.world_size) if self.world_size > 1 else tensor


def ranks() -> Ranks:
    """The ranks of the process group that is up, or the single process."""
    if not dist.is_initialized():
        return Ranks(device=_local_device())
    size = dist.get_world_size()
    return Ranks(
        dist.get_rank(), size, int(os.environ.get("LOCAL_WORLD_SIZE", size)), _local_device()
    )


def ranks_of(model: nn.Module) -> Ranks:
    """:func:`ranks`, whose device is that of the model: batches go where its parameters are."""
    here, first = ranks(), next(model.parameters(), None)
    return here if first is None else replace(here, device=first.device)


def said_by_first(here: Ranks, message: str, within_s: float = SAID_WITHIN_S) -> bool:
    """Whether rank 0 ends with the same ``message``, so that this rank need not say it.

    For a rank that is about to end with an error; it waits at most ``within_s`` seconds. Rank 0
    leaves its message in the store of the launch, stays until the others have read it, and says
    it. False in doubt: said twice is better than never.
    """
    store = dist.distributed_c10d._get_default_store()
    try:
        with without_notices_of_torch():
            if here.first:
                store.set(SAID, message)
                _until_heard(store, here.world_size - 1)
                return False
            store.wait([SAID], timedelta(seconds=within_s))
            same = bool(store.get(SAID).decode() == message)
            store.add(HEARD, 1)
            return same
    except RuntimeError:  # rank 0 goes on, or has gone and taken the store with it
        return False


def heard(here: Ranks) -> None:
    """Tell rank 0, which is about to end with an error, that this rank knows of it."""
    if here.world_size > 1 and not here.first:
        with suppress(RuntimeError), without_notices_of_torch():
            dist.distributed_c10d._get_default_store().add(HEARD, 1)


def _until_heard(store: dist.Store, others: int) -> None:
    """Return when the others have heard, or after a second: they may be waiting for this rank."""
    end = time.monotonic() + HEARD_WITHIN_S
    while store.add(HEARD, 0) < others and time.monotonic() < end:
        time.sleep(0.01)


@contextmanager
def launched() -> Iterator[Ranks]:
    """Join the processes that a launcher (torchrun, TorchX) started together, for the block.

    Reads RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT as ``torch.distributed``
    defines them; without them, or with WORLD_SIZE 1, there is one process and no group. A rank
    that waits longer than SEO_REC_TIMEOUT_S seconds (default 600) for the others fails, and so does
    one that another rank leaves without a sign of life for SEO_REC_SILENCE_S seconds (default 60).

    Raises:
        LaunchError: the launcher did not say who this process is, the port is taken, a process did
            not come in time, or it has no GPU of its own where others have one.
        ValueError: WORLD_SIZE is not a number of processes, or SEO_REC_TIMEOUT_S or
            SEO_REC_SILENCE_S not one of seconds.
    """
    size = world_size()
    if size == 1:
        yield Ranks()
        return
    _require_launcher(size)
    wait = _seconds(TIMEOUT_VARIABLE, DEFAULT_TIMEOUT_S)
    silence = _seconds(SILENCE_VARIABLE, DEFAULT_SILENCE_S)
    if torch.cuda.is_available():
        device, count = _local_device(), torch.cuda.device_count()
        if device.index >= count:
            raise LaunchError(
                f"process {device.index} of this machine finds {count} GPU{'s' * (count > 1)}; "
                f"allowed: one process per GPU, at most {count} here (--nproc_per_node, the second "
                "number of -j), or CUDA_VISIBLE_DEVICES= (empty) for processes on the CPU"
            )
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store, rank, size = _meet(wait)
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=wait)
        )
    except (dist.DistError, TimeoutError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise LaunchError(
            f"the {size} processes do not meet at {where} ({reason}); see that "
            f"the port is free and that all were started, or raise {TIMEOUT_VARIABLE}"
        ) from error
    try:
        with pulse(rank, size, silence, not torch.cuda.is_available()):
            yield ranks()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _seconds(variable: str, default: int) -> int:
    """The whole seconds that an environment variable says, or ``default`` without it.

    Raises:
        ValueError: It says something else.
    """
    text = os.environ.get(variable, str(default))
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ValueError(f"{variable} is {text!r}; allowed: whole seconds, 1 or more")
    return int(text)


def _require_launcher(size: int) -> None:
    """See that the environment says which of ``size`` processes this one is, and where they meet.

    Raises:
        LaunchError: A variable is not set, or the rank is none of the launch.
    """
    start = "start the processes with torchrun or TorchX, or unset WORLD_SIZE to run one"
    needed = ("RANK", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in needed if not os.environ.get(name)]:
        raise LaunchError(
            f"WORLD_SIZE is {size} without {', '.join(missing)} in the environment; {start}"
        )
    for name, limit in (("RANK", size), ("MASTER_PORT", 1 << 16)):
        text = os.environ[name]
        if not (text.isascii() and text.isdigit() and int(text) < limit):
            raise LaunchError(f"{name} is {text!r}; allowed: 0 to {limit - 1}; {start}")


def _meet(wait_s: int) -> tuple[dist.Store, int, int]:
    """The store of the launch, this process's rank and the number of ranks.

    In a thread, because a client of the store waits without end for the first answer of a server,
    and any program may hold the port.

    Raises:
        DistError: The port is taken, or the processes do not all come in time.
        TimeoutError: Whoever has the port does not answer.
    """
    found: list[tuple[dist.Store, int, int]] = []
    failed: list[BaseException] = []

    def meet() -> None:
        try:
            found.append(next(dist.rendezvous("env://", timeout=timedelta(seconds=wait_s))))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=meet, name="seo-rec-meet", daemon=True)
    thread.start()
    thread.join(wait_s + ANSWER_S)
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError(f"another program has the port, it is silent for {wait_s} s")
    store, rank, size = found[0]
    store.set_timeout(timedelta(seconds=wait_s))
    return dist.PrefixStore("default_pg", store), rank, size


def _local_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
