"""Lines that say how far a training is, for logs and pipes, where no progress bar is drawn.

They go to the logger ``seo_rec.progress``, which the command line shows also where it shows no
other messages. A training that takes less than ``INTERVAL`` says nothing.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

log = logging.getLogger("seo_rec.progress")

INTERVAL = 15.0  # seconds between two lines of one training, at least


class EpochLines:
    """Says which epoch a training is in, its last validation quality and the time that may be left.

    Args:
        title: What is trained, at the beginning of a line.
        epochs: The most epochs that the training takes.
        shown: Whether this process may speak; nothing is said where stderr is a terminal, which has
            progress bars.
        quality: The name of the figure that the training stops by.
    """

    def __init__(self, title: str, epochs: int, shown: bool, quality: str = "AUC") -> None:
        self.quality = quality
        self.title, self.epochs = title, epochs
        self.shown = shown and not sys.stderr.isatty()
        self.first: float | None = None  # epochs that were finished when the clock started
        self.began = self.last = time.perf_counter()

    def begin(self, done: float) -> None:
        """The training starts, or goes on, after so many epochs; later calls change nothing."""
        if self.first is None:
            self.first = done
            self.began = self.last = time.perf_counter()

    def within(self, epoch: int, share: float) -> None:
        """This share of the rows of epoch number ``epoch``, counted from 0, has been read."""
        self._say(epoch + share, f"epoch {epoch + 1} of {self.epochs}, {share:.0%} of its rows")

    def after(self, epoch: int, value: float) -> None:
        """Epoch number ``epoch`` is finished, and the model has this quality in validation."""
        what = f"validation {self.quality} {value:.5f}"
        self._say(epoch + 1, f"epoch {epoch + 1} of {self.epochs}, {what}")

    def _say(self, done: float, text: str) -> None:
        now = time.perf_counter()
        if not self.shown or self.first is None or now - self.last < INTERVAL:
            return
        self.last = now
        left = self.epochs - done
        rest = ""
        if left > 0 and done > self.first:
            seconds = left * (now - self.began) / (done - self.first)
            rest = f"; at most {duration(seconds)} left"
        log.info("%s: %s%s", self.title, text, rest)


def duration(seconds: float) -> str:
    """``75`` as ``1 min 15 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def figures_in(record: Mapping[str, Any]) -> str:
    """The figures of an epoch's record, for the log."""
    keys = ("train_loss", "val_auc", "val_log_loss", "val_r2", "val_mse", "examples_per_s")
    return ", ".join(f"{k} {record[k]:.5g}" for k in keys if k in record)
