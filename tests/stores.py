"""What the tests of all stores share: folders that are put there, and batches that are compared."""

from __future__ import annotations

from pathlib import Path

from seo_rec.data.dataset import DataSet
from seo_rec.places import RemotePath, place


def upload(folder: Path, url: str) -> str:
    """Put the files of a folder at a URL; returns the URL."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        target = place(f"{url}/{path.relative_to(folder)}")
        assert isinstance(target, RemotePath)
        target.upload(path)
    return url


def batches(data: DataSet, split: str, rows: int) -> list[list[object]]:
    """All batches of a split, in one shuffled order."""
    return [
        [batch.dense_BN.tolist(), batch.sparse.values().tolist(), batch.labels_B.tolist()]
        for batch in data.stream(split, batch_size=rows, shuffle=True, seed=1)
    ]
