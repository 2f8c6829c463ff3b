"""Small prepared days whose ids come and go, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seo_rec.data.split import Split
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.data.vocabulary import Pruning

ROWS = 600
USERS = 40
SHIFT = 20  # users that vanish and enter from one day to the next


def day_table(day: int, rows: int = ROWS, seed: int = 0) -> pa.Table:
    """Clicks of one day: user ids move on by SHIFT a day, item ids stay."""
    rng = np.random.default_rng([seed, day])
    user = SHIFT * day + rng.integers(0, USERS, rows)
    item = rng.integers(0, 15, rows)
    taste = np.random.default_rng(7).normal(size=(1000, 2))
    x = rng.normal(size=rows)
    logit = 1.5 * taste[user, 0] + 1.2 * taste[item, 1] + 0.3 * x
    label = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    columns = {"y": label, "user": user, "item": item, "x": x, "extra": rng.integers(0, 4, rows)}
    return pa.table(columns)


def prepare_day(
    out: Path,
    day: int,
    *,
    categorical: tuple[str, ...] = ("user", "item"),
    numeric: tuple[str, ...] = ("x",),
    rows: int = ROWS,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    transform: str = "none",
    counted: bool = True,
) -> Path:
    """Prepare the clicks of one day as a table of one's own."""
    raw = out.with_name(f"{out.name}.parquet")
    raw.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(day_table(day, rows), raw)
    columns = TableColumns("y", categorical, numeric, numeric_transform=transform)
    prepare_table(
        raw,
        out,
        columns=columns,
        split=Split("random", 42, fractions),
        pruning=Pruning(counted=counted),
    )
    raw.unlink()
    return out
