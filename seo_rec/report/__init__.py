"""Reports on runs: a table in the terminal, and one self-contained HTML page."""

from __future__ import annotations

from seo_rec.report.folders import ReportError
from seo_rec.report.page import build
from seo_rec.report.terminal import print_comparison

__all__ = ["ReportError", "build", "print_comparison"]
