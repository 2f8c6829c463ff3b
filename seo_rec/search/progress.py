"""What a search or a comparison says while it runs: a line for every part that is finished.

The lines go to the logger ``seo_rec.progress``, which the command line shows also where it shows no
other messages. In a terminal the bars of the trainings stand between them.
"""

from __future__ import annotations

import logging
import time

from seo_rec.train import ranks

log = logging.getLogger("seo_rec.progress")


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
        self._say(f"{total} {what} to do")

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
        self._say(f"{self.count} of {self.total} {self.what}: {text}{kept}{rest}")

    def _say(self, text: str) -> None:
        if ranks().first:
            log.info(text)


def duration(seconds: float) -> str:
    """``75`` as ``1 min 15 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
