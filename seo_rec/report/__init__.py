"""Reports on runs: a table in the terminal, and one self-contained HTML page.

In: folders of finished runs, as :func:`seo_rec.runs.reading.read` finds them. Out: lines on the
terminal, pictures, or a page; nothing is trained or changed. Begin with :func:`build`, which
writes the page.
"""

from __future__ import annotations

from seo_rec.report.frontier import print_frontier, write_frontier
from seo_rec.report.page import build
from seo_rec.report.terminal import print_comparison
from seo_rec.runs.run_files import ReportError

__all__ = [
    "ReportError",
    "build",
    "print_comparison",
    "print_frontier",
    "write_frontier",
]
