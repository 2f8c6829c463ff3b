"""The stamp of a benchmark record, and the file it is appended to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seo_rec.environment import stamp
from seo_rec.files import append_line

__all__ = ["append_jsonl", "stamp"]


def append_jsonl(path: Path | str, record: Mapping[str, Any]) -> None:
    """Append ``record`` as one JSON line; the folder is made if needed."""
    append_line(path, json.dumps(record, sort_keys=True))
