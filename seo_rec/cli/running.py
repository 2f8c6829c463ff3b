"""A command that works on a run folder keeps its settings there, and a stop says what is kept."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from seo_rec.cli.config import command_options
from seo_rec.files import NO_SPACE, NoSpaceError, is_full_disk
from seo_rec.process import EXIT_INTERRUPTED, EXIT_TERMINATED, Terminated
from seo_rec.runs import Run
from seo_rec.runs.command_settings import command_settings
from seo_rec.runs.layout import POLICY_FILE
from seo_rec.runs.stops import kept
from seo_rec.schema import LOSS_NAMES, QUALITY_NAMES
from seo_rec.settings import FitSettings

STOPS = (KeyboardInterrupt, Terminated)


def stopped(stop: BaseException, left: str) -> typer.Exit:
    """Say on stderr what a stop leaves, and return how the command ends.

    Args:
        stop: One of ``STOPS``.
        left: What is kept, and how to go on.
    """
    if isinstance(stop, Terminated):
        typer.echo(f"stopped by SIGTERM: {left}", err=True)
        return typer.Exit(EXIT_TERMINATED)
    typer.echo(f"\nstopped by Ctrl-C: {left}", err=True)  # the terminal has written ^C
    return typer.Exit(EXIT_INTERRUPTED)


@contextmanager
def run_folder(context: typer.Context, out: Path, **resolved: Any) -> Iterator[None]:
    """Within the block ``out`` is the run folder of the command.

    Args:
        context: Of the command; its options are kept in ``out/settings.json``.
        out: The run folder.
        resolved: See :func:`seo_rec.cli.config.command_options`.

    Raises:
        NoSpaceError: The disk is full; the message says what is kept.
        LostRankError: Another rank was lost within the block; the message says what is kept.
        Preempted: SIGTERM came within the block; the message says what is kept.
    """
    if context.params.get("policy"):  # the folder has a copy, which stays when the file changes
        resolved = {"policy": out / POLICY_FILE, **resolved}
    with command_settings(out, command_options(context, resolved)):
        try:
            yield
        except STOPS as stop:
            raise stopped(stop, kept(out)) from None
        except Exception as error:
            from seo_rec.train import LostRankError, Preempted, loss_said  # has imported torch

            if isinstance(error, Preempted):
                raise Preempted(f"stopped by SIGTERM: {kept(out)}") from error
            if is_full_disk(error) and isinstance(error, OSError):
                raise NoSpaceError(f"{out}: {NO_SPACE}; make room; {kept(out)}") from error
            try:
                with loss_said():
                    raise
            except LostRankError as loss:
                # the launcher now ends all ranks, and the one that says why must have the time
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                raise LostRankError(f"{loss}: {kept(out)}") from error


def test_figures(run: Run) -> str:
    """Quality and loss on the test rows, or that there are none."""
    if not run.has_test_figures:
        return "no test rows"
    quality, loss = QUALITY_NAMES[run.task], LOSS_NAMES[run.task]
    return f"test {quality} {run.test_quality:.5f}, {loss} {run.test_loss:.5f}"


def say_still_improving(runs: Sequence[Run], fit: FitSettings) -> None:
    """Say on stderr which trainings ended at ``--epochs`` too early, and what to type."""
    rising = [f"{run.method}, seed {run.seed}" for run in runs if run.still_improving]
    if not rising:
        return
    name, went = QUALITY_NAMES[runs[0].task], "rose"
    if fit.keep_by != "auc":
        name, went = "log loss", "fell"
    where = f" of {rising[0]}," if len(rising) == 1 else f" of {len(rising)} runs"
    typer.echo(
        f"note: the validation {name}{where} still {went} in the last of {fit.epochs} epochs; try "
        f"--epochs {2 * fit.epochs} in another --out",
        err=True,
    )
