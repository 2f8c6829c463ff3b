"""The collisions of the policies of a group, counted with the vocabularies of their data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seo_rec.data.dataset import DataSet, open_data
from seo_rec.report.collisions import Collisions, collisions
from seo_rec.report.comparison import Group
from seo_rec.runs.finished import TrainingRun
from seo_rec.schema import DataError


@dataclass(frozen=True)
class CountedCollisions:
    """The collisions of one method's policy."""

    method: str
    seed: int
    collisions: Collisions


def counted_collisions(found: Group) -> tuple[tuple[CountedCollisions, ...], tuple[str, ...]]:
    """Of the first seed of every method whose policy and data set are still there."""
    counted, notes = [], []
    opened: dict[Path, DataSet] = {}
    for row in found.rows:
        run = next((t for t in row.runs if t.policy and t.data), None)
        if run is None or run.policy is None or run.data is None:
            notes.append(f"{row.method}: its policy.json or run.json is not there")
            continue
        try:
            if run.data not in opened:
                opened[run.data] = _open_data(run)
            if crosses := [f.name for f in run.policy.features if f.is_cross]:
                raise DataError(f"the ids of crosses are not counted ({', '.join(crosses[:3])})")
            known = {f.name: opened[run.data].vocabulary(f.columns[0]) for f in run.policy.features}
            counted.append(CountedCollisions(row.method, run.seed, collisions(run.policy, known)))
        except (DataError, ValueError, OSError) as error:
            notes.append(f"{row.method}: {error}")
    return tuple(counted), tuple(notes)


def _open_data(run: TrainingRun) -> DataSet:
    """The data set of a run; DataError if it is gone, or is not what the run was trained on."""
    assert run.data is not None
    if not run.data.is_dir():
        raise DataError(f"the data set {run.data} is not there any more")
    data = open_data(run.data)
    if data.fingerprint != run.fingerprint:
        raise DataError(
            f"the data set {run.data} has changed since: fingerprint {data.fingerprint}, trained "
            f"on {run.fingerprint}"
        )
    return data
