"""What went wrong with a checkpoint, in one line: the first reason, and on which ranks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed.checkpoint as dcp

from seo_rec.files import NO_SPACE, NoSpaceError, is_full_disk


@contextmanager
def plain_errors() -> Iterator[None]:
    """The first error behind one of ``torch.distributed.checkpoint``, which is no Exception."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that one process needs no process group
            yield
    except dcp.CheckpointException as error:
        rank, (cause, _) = min(error.failures.items())
        if not isinstance(cause, Exception):
            raise
        full = [r for r, (why, _) in error.failures.items() if is_full_disk(why)]
        if full:
            raise NoSpaceError(_of_ranks(sorted(full)) + NO_SPACE) from cause
        raise RuntimeError(
            f"{type(cause).__name__} on rank {rank}: {first_reason(cause)}"
        ) from cause


def first_reason(error: BaseException) -> str:
    """The first line of an error's message; of a full disk, that it is full."""
    text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return NO_SPACE if is_full_disk(error) and NO_SPACE not in text else text


def ranks_and_reason(failed: list[tuple[int, str]]) -> str:
    """Ranks and their reason; a full disk goes before what follows from it on other ranks."""
    full = next((text for _, text in failed if NO_SPACE in text), "")
    if full.startswith("rank"):  # all ranks were told which of them it was
        return full
    reason = full or failed[0][1]
    return _of_ranks([rank for rank, text in failed if text == reason]) + reason


def _of_ranks(numbers: list[int]) -> str:
    return f"rank{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}: "
