"""How often a run has met each id: counted from data, kept with the run, read a day later."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.vocabulary import VOCABULARY_FOLDER, IdCounter
from seo_rec.documents import read_object
from seo_rec.embed.cross import Columns
from seo_rec.files import write_bytes
from seo_rec.policy import Ids, Policy
from seo_rec.policy.addresses import counted_as
from seo_rec.policy.entries import SHORT_BITS
from seo_rec.policy.renewal import DecayedCounts, bounded, indexed_features
from seo_rec.runs.layout import COUNTS_FILE, RUN_FILE
from seo_rec.schema import DataError

COUNT_ROWS = 65_536  # read at a time


def feature_counts(data: DataSet, policy: Policy) -> dict[str, tuple[Ids, Any]]:
    """How often the training rows hold each id of the features with a vocabulary.

    Features whose vocabulary holds digests have counts of digests.
    The counts of a column are those of its vocabulary file; the mixed ids of a cross are counted
    in one pass over the rows. A column without such a file is left out: training does not need it.
    """
    names = indexed_features(policy)
    features = {f.name: f for f in policy.features}
    crosses = [n for n in names if features[n].is_cross]
    columns = {n: features[n].columns[0] for n in names if n not in crosses}
    there = counted_columns(data)
    found = {n: data.counts(c) for n, c in columns.items() if c in there}
    found |= mixed_counts(data, policy, crosses)
    return {n: counted_as(*found[n], features[n].id_bits) for n in names if n in found}


def counted_columns(data: DataSet) -> set[str]:
    """The columns whose ids were counted when the data were prepared."""
    return {p.stem for p in (data.path / VOCABULARY_FOLDER).glob("*.parquet")}


def mixed_counts(data: DataSet, policy: Policy, crosses: list[str]) -> dict[str, tuple[Ids, Any]]:
    """How often the training rows hold each mixed id of these crosses, in one pass over them."""
    if not crosses:
        return {}
    mixing = Columns(policy)
    counters = {n: IdCounter() for n in crosses}
    stream = data.stream("train", batch_size=COUNT_ROWS, columns=policy.columns)
    with torch.no_grad():
        for batch in stream:
            mixed: KeyedJaggedTensor = mixing(batch.sparse)
            for n, counter in counters.items():
                counter.add(mixed[n].values().numpy())
    return {n: counter.result() for n, counter in counters.items()}


def first_counts(data: DataSet, policy: Policy) -> DecayedCounts:
    """The counts that a run keeps of the data that it starts with."""
    found = feature_counts(data, policy)
    return {
        n: bounded((ids, np.asarray(counts, np.float64)), policy.vocabularies[n])
        for n, (ids, counts) in found.items()
    }


def counts_of_run(run: Path, policy: Policy) -> DecayedCounts:
    """The decayed counts that a run kept; ValueError if they are damaged.

    A run of an earlier release kept none; its data are counted if they are still there, and
    otherwise every id of its vocabularies counts once.
    """
    path = run / COUNTS_FILE
    names = indexed_features(policy)
    if path.exists():
        found = read_counts(path)
        for name, (ids, _) in found.items():
            if policy.id_bits.get(name) == SHORT_BITS and len(ids) and ids[-1] >> SHORT_BITS:
                raise ValueError(
                    f"{path}: counts {ids[-1]} of {name!r}, whose vocabulary holds digests, from 0 "
                    "to 2^32 - 1; remove it, and the run's data are counted again"
                )
        return {n: found.get(n, _once(policy.vocabularies[n])) for n in names}
    asked = read_object(run / RUN_FILE, {"data": str, "data_fingerprint": str})
    try:
        data = open_data(asked["data"])
        if names and data.fingerprint == asked["data_fingerprint"]:
            found = first_counts(data, policy)
            return {n: found.get(n, _once(policy.vocabularies[n])) for n in names}
    except DataError:
        pass
    return {n: _once(policy.vocabularies[n]) for n in names}


def write_counts(path: Path, counts: DecayedCounts) -> None:
    """Write decayed counts, whole or not at all."""
    arrays: dict[str, Any] = {"names": np.array(list(counts), dtype=np.str_)}
    for i, (ids, amounts) in enumerate(counts.values()):
        arrays |= {f"ids.{i}": ids, f"counts.{i}": np.asarray(amounts, np.float64)}
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_bytes(path, content.getvalue())


def read_counts(path: Path) -> DecayedCounts:
    """What :func:`write_counts` wrote; ValueError if the file is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            names = [str(name) for name in arrays["names"]]
            found = {n: (arrays[f"ids.{i}"], arrays[f"counts.{i}"]) for i, n in enumerate(names)}
        for ids, counts in found.values():
            good = ids.dtype == np.int64 and counts.dtype == np.float64
            good = good and ids.ndim == counts.ndim == 1 and len(ids) == len(counts)
            if not good or not bool((np.diff(ids, prepend=-1) > 0).all()):
                raise ValueError("ids that do not ascend, or are negative")
            if not bool(np.isfinite(counts).all()) or bool((counts < 0).any()):
                raise ValueError("counts below 0")
    except Exception as error:  # there is no end to what damaged bytes make a reader raise
        raise ValueError(
            f"{path}: not a file of counts ({type(error).__name__}); remove it, and the run's data "
            "are counted again"
        ) from error
    return found


def _once(ids: Ids) -> tuple[Ids, Any]:
    return ids, np.ones(len(ids))
