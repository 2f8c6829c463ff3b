"""A progress bar on the terminal for long reads; silent everywhere else."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class ProgressBar:
    """Rows and bytes of each pass on stderr; draws nothing if stderr is not a terminal."""

    def __init__(self, shown: bool) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[amount]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not (shown and console.is_terminal),
        )
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def begin(self, what: str, total: int) -> None:
        """Start a pass whose end is at ``total`` bytes (or rows)."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(what, total=total or None, amount="")

    def update(
        self, done: int, number: int, num_bytes: int | None = None, unit: str = "rows"
    ) -> None:
        """Show how far the pass is.

        Args:
            done: Of its total.
            number: Of what is counted.
            num_bytes: Bytes that were read, if they are counted.
            unit: What is counted.
        """
        assert self._task is not None
        amount = f"{number:,} {unit}"
        if num_bytes is not None:
            amount += f", {num_bytes / 1e6:,.0f} MB read"
        self._bar.update(self._task, completed=done, amount=amount)
