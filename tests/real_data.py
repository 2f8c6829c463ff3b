"""Where the real data sets lie, for the tests that use them; they are never in the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "SEO_REC_DATA"


def real_data(name: str) -> Path:
    """The file or folder ``name`` (as in ``ml-1m``) of the real data; skips the test without it.

    Looked for in the folder named by the environment variable SEO_REC_DATA, else in
    ``../shared/data`` beside the repository.
    """
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get(VARIABLE, beside)) / name
    if not path.exists():
        pytest.skip(f"real data {name!r} is not here; set {VARIABLE} to the folder that holds it")
    return path
