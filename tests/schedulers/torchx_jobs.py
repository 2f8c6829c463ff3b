"""``torchx run`` as a user types it, in a folder that holds what a clone has."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CLI = ["-m", "torchx.cli.main"]
TORCHX = [sys.executable, *CLI]

# The jobs' own defaults, made small.
SEARCH = ["--rows", "4000", "--epochs", "1", "--batch-size", "512"]
SEARCH += ["--set", "run_off.epochs=1", "--params", "4800"]
APPLIER = ["--epochs", "1", "--batch-size", "512"]
PARAMETERS = 300 * 16


def make_clone(folder: Path) -> Path:
    """What of the repository ``torchx run components/seo.py:search`` reads."""
    shutil.copytree(ROOT / "components", folder / "components")
    shutil.copy(ROOT / ".torchxconfig", folder)
    return folder
