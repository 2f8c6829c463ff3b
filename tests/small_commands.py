"""Words of the smallest searches and trainings on the command line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from seo_rec.cli.fields import text_of

Command = Callable[..., Any]
QUICK = ["--hidden", "8", "--epochs", "1", "--batch-size", "200", "--lr", "0.02", "--threads", "1"]
RAW = ["--set", "run_off=none"]


def as_set(settings: dict[str, Any], before: str = "") -> list[str]:
    """``--set`` of every setting."""
    return [w for k, v in settings.items() for w in ("--set", f"{before}{k}={text_of(v)}")]
