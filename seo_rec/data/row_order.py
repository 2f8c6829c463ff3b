"""What the order of a stream's rows depends on: columns, seeds, and the state of an earlier run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from seo_rec.data.row_groups import Ints
from seo_rec.schema import DataError, Schema

WINDOW_BYTES = 1 << 28
ROW_GROUP_ROWS = 16_384
STATE_VERSION = 1


def default_window(schema: Schema) -> int:
    """Row groups of ``WINDOW_BYTES`` together, 1 to 64: a function of the columns alone."""
    per_row = sum(8 * max(1.0, c.lookups_per_row) for c in schema.columns) + 4
    return int(min(64, max(1, WINDOW_BYTES // (per_row * ROW_GROUP_ROWS))))


def permutation(size: int, *key: int) -> Ints:
    """A permutation of range(size) that depends on ``key`` alone.

    Sorted raw PCG64 draws: numpy promises the same bits in every release for these, and not for
    ``Generator.permutation``, so a run may be resumed after an upgrade.
    """
    draws = np.random.PCG64(np.random.SeedSequence([len(key), *key])).random_raw(size)
    order = np.argsort(draws)  # several times faster than a stable sort, and equal without ties
    ordered = draws[order]
    if bool((ordered[1:] == ordered[:-1]).any()):
        order = np.argsort(draws, kind="stable")
    return order.astype(np.int64, copy=False)


def require_same_order(state: Mapping[str, int], mine: Mapping[str, int], stream: str) -> None:
    """DataError unless ``state`` is of a stream that hands out the same rows in the same order.

    Args:
        state: The state to continue from.
        mine: The state of the stream that is to continue.
        stream: Which stream that is, in words.
    """
    if set(state) != set(mine):
        raise DataError(
            f"Stream.load_state_dict: got keys {sorted(state)}, expected {sorted(mine)}; "
            "pass what Stream.state_dict returned"
        )
    if other := sorted(name for name, value in state.items() if type(value) is not int):
        raise DataError(
            f"Stream.load_state_dict: {other[0]} is {state[other[0]]!r}; it must be a whole "
            "number; pass what Stream.state_dict returned"
        )
    if state["version"] != STATE_VERSION:
        raise DataError(
            f"Stream.load_state_dict: state version {state['version']}; this release reads "
            f"{STATE_VERSION}"
        )
    if state["fingerprint"] != mine["fingerprint"]:
        raise DataError(
            "Stream.load_state_dict: the state belongs to another data set or split (or the "
            f"data was prepared anew); this one is {stream}; open the data the run was "
            "started with, or start a new run"
        )
    decisive = ("shuffle", "seed", "window") if mine["shuffle"] else ("shuffle",)
    for name in decisive:
        if state[name] != mine[name]:
            raise DataError(
                f"Stream.load_state_dict: the state has {name}={state[name]}, this stream "
                f"{name}={mine[name]}, so the batches would differ; open the stream with "
                f"{name}={state[name]}"
            )


def chosen_features(schema: Schema, columns: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """The names of the features to read, in the order of the schema; all if none are named."""
    names = tuple(c.name for c in schema.features)
    if columns is None:
        return names
    if isinstance(columns, str):
        raise DataError(f"Stream: columns is the string {columns!r}; pass a list of feature names")
    unknown = [c for c in columns if c not in names]
    if unknown or not columns:
        raise DataError(
            f"Stream: columns has {unknown or 'no feature'}; the features of {where} are "
            f"{list(names)} (numeric columns are always read)"
        )
    return tuple(n for n in names if n in columns)
