"""Whether a policy that was decided on older data is still right for newer data.

Letters: V ids of a column, R rows of a table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.shards import read_shards
from seo_rec.documents import read_object
from seo_rec.files import finite
from seo_rec.policy import Ids, Policy
from seo_rec.policy.addresses import known_as, lookup_rows
from seo_rec.runs import RunError
from seo_rec.runs.layout import POLICY_FILE, RUN_FILE
from seo_rec.schema import BINARY, SCHEMA_FILE, DataError, other_rules

Floats = npt.NDArray[np.float64]

ROWS = 200_000  # of each data set whose labels are looked at
HELD_OUT = 5  # every fifth of these rows is held out
SMOOTHING = 20.0  # rows of the label rate added to an id's own
MOST_TOLD = 3  # columns of a reason that are named
NOTABLE = 0.05  # a share, or a distance above the one of chance, that is worth an action
SHUFFLE = 0x5EED
# What searches gained, as shares of the worth that moved: least, mean and most in the cases of
# benchmarks/results/drift.jsonl whose verdict is to search.
REALISED = (-0.061, 0.017, 0.052)


@dataclass(frozen=True)
class Moved:
    """A Jensen-Shannon distance, 0 to 1, and the one that two samples of one source would have."""

    distance: float
    by_chance: float

    @property
    def notable(self) -> bool:
        return self.distance > self.by_chance + NOTABLE


@dataclass(frozen=True)
class Drift:
    """How newer data differ from those that a policy was decided on.

    Args:
        unseen: By column, the share of the new training reads whose ids the old data lack.
        unknown: By feature with a vocabulary, the share of reads of ids outside of it.
        frequencies: By column, how far the frequencies of ids moved.
        tables: By table, how far the reads of its rows moved.
        worth_old, worth_new: By column, the log loss (nats a row) that its ids alone explain.
        worth_moved: Half the sum of the changes of the shares of worth, 0 to 1.
        worth_by_chance: The same between two halves of the old data.
        gain: The worth (nats a row) that moved to other columns: what a new search could at most
            gain if the policy gave these columns nothing.
        expected: Least, mean and most of what new searches gained in synthetic cases with as much
            moved worth (nats a row): ``gain`` times each of :data:`REALISED`.
        new_columns, lost_columns: Names.
        verdict: keep, renew or search.
        reasons: In words.
    """

    unseen: Mapping[str, float]
    unknown: Mapping[str, float]
    frequencies: Mapping[str, Moved]
    tables: Mapping[str, Moved]
    worth_old: Mapping[str, float]
    worth_new: Mapping[str, float]
    worth_moved: float
    worth_by_chance: float
    gain: float
    expected: tuple[float, float, float]
    new_columns: tuple[str, ...]
    lost_columns: tuple[str, ...]
    verdict: str
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values; None stands for a number that is not finite."""
        values: dict[str, Any] = finite(json.loads(json.dumps(asdict(self))))
        return values


def drift(old: DataSet, new: DataSet, policy: Policy | None = None, rows: int = ROWS) -> Drift:
    """Compare the data that a policy was decided on with newer data.

    Args:
        old, new: Prepared alike.
        policy: What was decided; None looks at the data alone.
        rows: Rows of each data set whose labels are looked at.

    Raises:
        DataError: The data sets have no column of ids in common, other rules, a label that is not 0
            or 1, or no training rows. Of several labels the first is looked at.
    """
    columns, came, went = _common_columns(old, new)
    unseen, unknown, frequencies = {}, {}, {}
    for name in columns:
        (old_ids, old_counts), (ids, counts) = old.counts(name), new.counts(name)
        unseen[name] = _share(counts, ~np.isin(ids, old_ids))
        frequencies[name] = moved(*_aligned((old_ids, old_counts), (ids, counts)))
    for f in policy.features if policy else ():
        known = policy.vocabularies.get(f.name) if policy else None
        if known is not None and not f.is_cross and f.columns[0] in columns:
            ids, counts = new.counts(f.columns[0])
            unknown[f.name] = _share(counts, ~np.isin(known_as(ids, f.id_bits), known))
    samples = [_sample(d, columns, rows) for d in (old, new)]
    labels = old.schema.label, new.schema.label
    worths = [worth(t, columns, y) for t, y in zip(samples, labels, strict=True)]
    halves = [
        worth(part, columns, old.schema.label)
        for part in (
            samples[0].slice(0, len(samples[0]) // 2),
            samples[0].slice(len(samples[0]) // 2),
        )
    ]
    tables = _tables(policy, old, new, columns) if policy else {}
    gain = sum(max(0.0, worths[1][n] - _scaled(worths)[n]) for n in columns)
    measured: dict[str, Any] = {
        "unseen": unseen,
        "unknown": unknown,
        "frequencies": frequencies,
        "tables": tables,
        "worth_old": worths[0],
        "worth_new": worths[1],
        "worth_moved": _distance(*worths),
        "worth_by_chance": _distance(*halves),
        "gain": gain,
        "expected": tuple(share * gain for share in REALISED),
        "new_columns": came,
        "lost_columns": went,
    }
    verdict, reasons = _judged(measured)
    return Drift(verdict=verdict, reasons=reasons, **measured)


def _common_columns(
    old: DataSet, new: DataSet
) -> tuple[list[str], tuple[str, ...], tuple[str, ...]]:
    """The columns of ids that both have, those that came and those that went.

    Raises:
        DataError: See :func:`drift`.
    """
    for data in (old, new):
        data.require_rows("train")
        if data.schema.label_kind != BINARY:
            data.require_binary("drift")
    rules, others = old.schema.preparation, new.schema.preparation
    if said := other_rules({**dict.fromkeys(others), **rules}, others):
        raise DataError(
            f"{new.path} was prepared by other rules than {old.path} ({said}), so that they cannot "
            f"be compared; prepare a table with `seo-rec prepare table --like {old.path}`, and "
            "other data with the same options"
        )
    names = [{c.name for c in d.schema.features} for d in (old, new)]
    columns = [c.name for c in old.schema.features if c.name in names[1]]
    if not columns:
        raise DataError(f"{old.path} and {new.path} have no column of ids in common")
    came, went = (tuple(sorted(a - b)) for a, b in (names[::-1], names))
    return columns, came, went


def open_old(path: Path, policy: Path | None = None) -> tuple[DataSet, Policy | None]:
    """The data and the policy that ``OLD`` names: a run folder, or prepared data.

    Args:
        path: The folder.
        policy: A policy file in place of the one in the folder.

    Raises:
        DataError: The data of the run are not there, or changed.
        RunError: The folder is neither.
    """
    chosen = None if policy is None else Policy.load(policy)
    if (path / SCHEMA_FILE).exists():
        return open_data(path), chosen
    if not (path / RUN_FILE).exists() or not (path / POLICY_FILE).exists():
        raise RunError(
            f"{path}: neither prepared data nor a run folder with a policy; allowed: the folder of "
            "`seo-rec prepare`, `seo-rec train` or `seo-rec search`"
        )
    asked = read_object(path / RUN_FILE, {"data": str, "data_fingerprint": str})
    try:
        data = open_data(asked["data"])
    except DataError as error:
        raise DataError(f"{error}; or give the prepared data in place of {path}") from error
    if data.fingerprint != asked["data_fingerprint"]:
        raise DataError(
            f"{data.path} changed since {path} was made of it; give the data that it was made of, "
            "with --policy"
        )
    return data, chosen or Policy.load(path / POLICY_FILE)


# ---- frequencies -----------------------------------------------------------------------------


def jensen_shannon(p: Floats, q: Floats) -> float:
    """``sqrt(H((p + q) / 2) - (H(p) + H(q)) / 2)`` in bits, 0 for equal, 1 for disjoint.

    Args:
        p, q: Amounts of the same things, not all 0; they are scaled to sum 1.
    """
    p, q = p / p.sum(), q / q.sum()
    return float(np.sqrt(max(0.0, _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2)))


def _entropy(p: Floats) -> float:
    some = p[p > 0]
    return float(-(some * np.log2(some)).sum())


def moved(old: Floats, new: Floats) -> Moved:
    """The distance of two counts of the same things, beside the one that chance alone makes.

    The latter is of two samples of these sizes that are drawn from both counts together.
    """
    if not old.sum() or not new.sum():
        return Moved(float("nan"), float("nan"))
    rng = np.random.default_rng(SHUFFLE)
    together = (old + new) / (old + new).sum()
    drawn = [rng.multinomial(int(x.sum()), together).astype(float) for x in (old, new)]
    return Moved(jensen_shannon(old, new), jensen_shannon(*drawn))


def _aligned(old: tuple[Ids, Any], new: tuple[Ids, Any]) -> tuple[Floats, Floats]:
    ids = np.union1d(old[0], new[0])
    found = []
    for some, counts in (old, new):
        amounts = np.zeros(len(ids))
        amounts[np.searchsorted(ids, some)] = counts
        found.append(amounts)
    return found[0], found[1]


def _share(counts: Any, chosen: Any) -> float:
    return float(counts[chosen].sum() / max(1, counts.sum()))


def _tables(policy: Policy, old: DataSet, new: DataSet, columns: list[str]) -> dict[str, Moved]:
    """How the reads of every table's rows moved; crosses are left out."""
    found = {}
    for table in policy.tables:
        reads = [np.zeros(table.num_rows), np.zeros(table.num_rows)]
        for f in policy.features:
            for k in f.all_lookups:
                if k.table == table.name and not f.is_cross and f.columns[0] in columns:
                    for data, amounts in zip((old, new), reads, strict=True):
                        ids, counts = data.counts(f.columns[0])
                        rows = lookup_rows(policy, f, k, ids)
                        amounts += np.bincount(rows, counts, table.num_rows)
        if reads[0].any() and reads[1].any():
            found[table.name] = moved(*reads)
    return found


# ---- worth -----------------------------------------------------------------------------------


def _sample(data: DataSet, columns: list[str], rows: int) -> pa.Table:
    """The first training rows, in an order of their own."""
    data.verify("train")
    parts, left = [], rows
    for table in read_shards(data.path / "train"):
        parts.append(table.select([*columns, data.schema.label]).slice(0, left))
        left -= parts[-1].num_rows
        if left <= 0:
            break
    table = pa.concat_tables(parts)
    return table.take(np.random.default_rng(SHUFFLE).permutation(table.num_rows))


def worth(table: pa.Table, columns: list[str], label: str) -> dict[str, float]:
    """By column, how much the label rates of its ids lower the log loss of held-out rows.

    The rate of an id is ``(positives + 20 r) / (rows + 20)`` with the label rate r; a row with
    several ids takes the mean of their rates, and one without any takes r.

    Args:
        table: Rows in random order.
        columns: Of ids.
        label: Name of the column of labels.

    Returns:
        Nats a row, 0 or more.
    """
    y = table[label].to_numpy().astype(np.float64)
    held = np.arange(len(y)) % HELD_OUT == 0
    rate = float(np.clip(y[~held].mean(), 1e-6, 1 - 1e-6))
    before = _log_loss(np.full(int(held.sum()), rate), y[held])
    found = {}
    for name in columns:
        ids, row = _ids_and_rows(table[name])
        _, place = np.unique(ids, return_inverse=True)
        trained = ~held[row]
        size = int(place.max(initial=-1)) + 1
        seen = np.bincount(place[trained], minlength=size)
        positive = np.bincount(place[trained], y[row[trained]], size)
        rates = (positive + SMOOTHING * rate) / (seen + SMOOTHING)
        of_row = np.bincount(row, minlength=len(y))
        mean = np.bincount(row, rates[place], len(y)) / np.maximum(of_row, 1)
        scores = np.where(of_row > 0, mean, rate)[held]
        found[name] = max(0.0, before - _log_loss(scores, y[held]))
    return found


def _ids_and_rows(column: Any) -> tuple[Ids, Ids]:
    """The ids of a column and the row of each."""
    array = column.combine_chunks()
    if pa.types.is_list(array.type):
        lengths = np.diff(array.offsets.to_numpy())
        return array.flatten().to_numpy(), np.repeat(np.arange(len(lengths)), lengths)
    row = np.flatnonzero(~array.is_null().to_numpy(zero_copy_only=False))
    return array.drop_null().to_numpy(), row


def _log_loss(p: Floats, y: Floats) -> float:
    return float(-(y * np.log(p) + (1 - y) * np.log1p(-p)).mean()) if len(y) else 0.0


def _distance(old: Mapping[str, float], new: Mapping[str, float]) -> float:
    """Half the sum of the changes of the shares, 0 to 1; 0 if a side explains nothing."""
    sums = sum(old.values()), sum(new.values())
    if not all(sums):
        return 0.0
    return 0.5 * sum(abs(old[n] / sums[0] - new[n] / sums[1]) for n in old)


def _scaled(worths: list[dict[str, float]]) -> dict[str, float]:
    """The old worths, scaled so that they sum to the new ones."""
    sums = [sum(w.values()) for w in worths]
    factor = sums[1] / sums[0] if sums[0] else 0.0
    return {name: factor * value for name, value in worths[0].items()}


# ---- the verdict -----------------------------------------------------------------------------


def _judged(found: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The verdict and its reasons."""
    reasons, verdict = [], "keep"
    unknown = sorted((-s, n) for n, s in found["unknown"].items() if s > NOTABLE)
    if unknown:
        verdict = "renew"
        told = [f"{-share:.1%} of the reads of {name}" for share, name in unknown[:MOST_TOLD]]
        if more := len(unknown) - len(told):
            told.append(f"over {NOTABLE:.0%} of {more} more")
        reasons.append(
            f"ids without a row of their own are {', '.join(told)}; go on with `seo-rec train "
            "--from`, which renews the vocabularies"
        )
    for name in found["new_columns"]:
        verdict = "search"
        reasons.append(f"column {name} is new, and the policy gives it nothing")
    for name in found["lost_columns"]:
        verdict = "search"
        reasons.append(f"column {name} is gone, and the policy still gives it memory")
    moved_worth, chance = found["worth_moved"], found["worth_by_chance"]
    if moved_worth > max(2 * chance, chance + NOTABLE):
        verdict = "search"
        least, mean, most = found["expected"]
        reasons.append(
            f"{moved_worth:.1%} of the worth of the columns moved to other columns, and "
            f"{chance:.1%} by chance: a new search may gain about {mean:.4f} log loss "
            f"({least:+.4f} to {most:+.4f}, as searches on synthetic data gained with as much "
            f"moved), and at most {found['gain']:.4f}"
        )
    if verdict != "search":
        reasons.append(
            "the worth of the columns did not move clearly more than by chance "
            f"({moved_worth:.1%}, and {chance:.1%} between two halves of OLD), so a new search "
            "would gain little"
        )
    return verdict, tuple(reasons)
