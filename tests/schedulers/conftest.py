"""Everything here is marked ``schedulers``; what takes long runs with ``make schedulers`` only."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    long = pytest.mark.skip(reason="takes minutes: make schedulers runs it")
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.schedulers)
            if item.get_closest_marker("slow") and os.environ.get("SEO_REC_SCHEDULERS") != "all":
                item.add_marker(long)
