"""Where scores of files may be written."""

from __future__ import annotations

from pathlib import Path

from seo_rec.files import require_new_file
from seo_rec.schema import DataError

# Endings of a file of scores that promise what is not written.
OTHER_FORMATS = (
    *(".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".arrow", ".feather", ".ipc", ".orc"),
    *(".npy", ".npz", ".xlsx", ".gz", ".bz2", ".xz", ".zst", ".zip"),
)


def require_scores_file(out: Path) -> None:
    """Check the file of scores before a row is read.

    Raises:
        DataError: Its name promises another format than Parquet.
        FileExistsError: Something is there.
    """
    require_new_file(out)
    if out.suffix.lower() in OTHER_FORMATS:
        raise DataError(
            f"--out {out}: scores are written as Parquet, and {out.suffix} is another format; "
            "name it .parquet"
        )
