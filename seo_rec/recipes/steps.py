"""The steps of a replay: prepared days in a folder, or one data set that is cut into periods."""

from __future__ import annotations

import re
from pathlib import Path

from seo_rec.data.dataset import open_data
from seo_rec.data.periods import PERIODS_FILE, Periods, cut
from seo_rec.runs.claim import require_unclaimed
from seo_rec.runs.layout import PERIODS_FOLDER
from seo_rec.schema import SCHEMA_FILE, DataError


def day_folders(data: Path | str) -> list[Path]:
    """The prepared days in a folder, in the order of their names; numbers count as numbers.

    Raises:
        DataError: The folder holds no prepared days.
    """
    data = Path(data)
    if (data / SCHEMA_FILE).exists():
        raise DataError(
            f"{data}: one prepared data set; a replay reads a folder of prepared days, such as "
            f"{data.name}/2024-01-01, each made by `seo-rec prepare`"
        )
    found = [p for p in sorted(data.glob("*")) if (p / SCHEMA_FILE).is_file()]
    if not found:
        raise DataError(f"{data}: no prepared days here; allowed: folders with {SCHEMA_FILE}")
    return sorted(found, key=lambda path: _natural(path.name))


def steps_of(data: Path | str, out: Path | str, periods: Periods) -> list[Path]:
    """The steps of a replay: prepared days in a folder, or one data set that is cut into periods.

    Args:
        data: A folder of prepared days, each of which is a step; or one prepared data set.
        out: The run folder, of which ``periods`` gets the data sets that are cut.
        periods: How one data set is cut.

    Raises:
        DataError: The folder holds no prepared days, or the data set cannot be cut like this.
        RunError: ``out`` holds something else.
        ValueError: Prepared days are to be stepped by something else than their folders.
    """
    data, out = Path(data), Path(out)
    if not (data / SCHEMA_FILE).exists():
        found = day_folders(data)
        if periods.by != "day":
            raise ValueError(
                f"--by {periods.by}; allowed: day, which is a folder of {data}; or name one "
                "prepared data set, which is cut into hours, days, weeks or rows"
            )
        return found
    folder = out / PERIODS_FOLDER
    if not (folder / PERIODS_FILE).exists():
        require_unclaimed(out)
    return cut(open_data(data), folder, periods)


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.findall(r"\d+|\D+", name)
    return [(int(p), p) if p.isascii() and p.isdigit() else (-1, p) for p in parts]
