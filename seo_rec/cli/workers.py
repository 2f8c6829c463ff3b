"""The processes of ``seo-rec prepare``: as many as asked for, or the ranks of a launcher."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from seo_rec.process import world_size
from seo_rec.schema import DataError

if TYPE_CHECKING:
    from seo_rec.data.parallel import Workers

Processes = Annotated[
    int, typer.Option(help="Processes on this machine that share the work; the result is the same.")
]
NoVocabulary = Annotated[
    bool,
    typer.Option(
        "--no-vocabulary",
        help="Count no ids and write no vocabularies; enough for policies that hash all ids.",
    ),
]


def workers_of(processes: int) -> Workers:
    """The ranks of the launcher that has started this process, or ``processes`` to start.

    Raises:
        DataError: RANK is missing, or processes are asked for in a rank.
        ValueError: WORLD_SIZE is not a number of processes.
    """
    from seo_rec.data.parallel import Workers

    ranks, rank = world_size(), os.environ.get("RANK", "")
    if ranks == 1:
        return Workers(processes)
    if not (rank.isascii() and rank.isdigit()):
        raise DataError(
            f"WORLD_SIZE is {ranks} and RANK is {rank!r}; allowed: 0 to {ranks - 1}, as torchrun "
            "and TorchX set it; unset WORLD_SIZE to prepare by one process"
        )
    start = (os.environ.get(f"TORCHELASTIC_{what}", "") for what in ("RUN_ID", "RESTART_COUNT"))
    return Workers(processes, int(rank), ranks, "/".join(start))


def require_one_process(name: str) -> None:
    """DataError if a launcher has started several processes for a data set that one prepares."""
    if (ranks := world_size()) > 1:
        raise DataError(
            f"{name} is prepared by one process, and {ranks} were started; use -j 1x1, or unset "
            "WORLD_SIZE"
        )


def is_first_rank() -> bool:
    """Whether this process speaks for all."""
    return world_size() == 1 or os.environ.get("RANK") == "0"
