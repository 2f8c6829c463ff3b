"""What a search or a comparison says while it runs: a line for every part that is finished.

The lines go to the logger ``seo_rec.progress``, which the command line shows also where it shows no
other messages. In a terminal the bars of the trainings stand between them, elsewhere the lines of
:mod:`seo_rec.train.progress`.
"""

from __future__ import annotations

import logging
import time

from seo_rec.train import ranks
from seo_rec.train.progress import duration

log = logging.getLogger("seo_rec.progress")


def say(text: str) -> None:
    """Say it once, however many processes run together."""
    if ranks().first:
        log.info("%s", text)


class Progress:
    """Counts the parts of a long run and says how long the others will take.

    Args:
        what: What the parts are, in the plural, such as ``trainings``.
        total: Their number, as far as it is known.
    """

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.count = what, total, 0
        self.seconds = 0.0
        self.measured = 0
        self._began = time.perf_counter()
        say(f"{total} {what.removesuffix('s') if total == 1 else what} to do")

    def done(self, text: str, fresh: bool = True) -> None:
        """One part is finished.

        Args:
            text: What it was and what it came to.
            fresh: Whether it was done now; else it was found, and says nothing about time.
        """
        now = time.perf_counter()
        self.count += 1
        if fresh:
            self.seconds += now - self._began
            self.measured += 1
        self._began = now
        left = max(0, self.total - self.count)
        rest = ""
        if left and self.measured:
            rest = f"; about {duration(left * self.seconds / self.measured)} left"
        kept = "" if fresh else " (kept from before)"
        say(f"{self.count} of {self.total} {self.what}: {text}{kept}{rest}")
