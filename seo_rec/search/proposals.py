"""Which pairs and triples of columns are worth a feature: a ranking on training rows alone.

Letters: B rows that are read, C columns, K folds.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seo_rec.data.crosses import ALL, Cross, read_crosses
from seo_rec.data.dataset import DataSet
from seo_rec.data.row_groups import Bags
from seo_rec.schema import DataError
from seo_rec.search.progress import say

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

READ_ROWS = 16_384  # at a time
# of the pairs that a search looks at by default; retrosheet's best pair has a gain of 1.6e-4
MOST_PAIRS, LEAST_GAIN = 16, 1e-4
MOST_STEPS = 20  # that fit the effect of a pair which is taken
ORDERS = ("2", "3")  # columns of a proposed cross at most


@dataclass(frozen=True)
class ProposalSettings:
    """How pairs of columns are ranked.

    Args:
        rows: At most so many training rows are read, in a seeded random order.
        folds: Parts of these rows, of which each is scored by what the others say.
        strength: Weight of half the squared effect of an id, or of a pair of ids, on the logit.
        sweeps: Passes over the columns that fit their effects.
    """

    rows: int = 100_000
    folds: int = 4
    strength: float = 20.0
    sweeps: int = 3

    def __post_init__(self) -> None:
        for name, least in (("rows", 1), ("folds", 2), ("sweeps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: {least} or more")
        if not self.strength > 0:
            raise ValueError(f"strength is {self.strength}; allowed: above 0")


@dataclass(frozen=True)
class Proposal:
    """A pair or a triple of columns, and what it says beyond what was there before.

    Args:
        cross: The columns, in the order of the schema.
        gain: Mean log loss (nats) that its effects take off the effects before.
        standard_error: Of the gain, over rows.
        num_ids: Distinct combinations of ids in the rows that were read.
    """

    cross: Cross
    gain: float
    standard_error: float
    num_ids: int


@dataclass(frozen=True)
class Sample:
    """Training rows as codes.

    Args:
        names: The C columns with at most one id in a row.
        codes_CB: int64, dense codes of the ids of each column from 0; a missing id has a code.
        labels_B: 0 or 1.
        weights_B: Of the rows.
    """

    names: tuple[str, ...]
    codes_CB: Codes
    labels_B: Floats
    weights_B: Floats


def crosses_of(data: DataSet, text: str, seed: int) -> tuple[Cross, ...]:
    """The crosses that an option ``--crosses`` asks for, and a line on how they were found.

    Args:
        data: The data set.
        text: Names as ``a*b,c*d``, a number of pairs to propose, or ``all`` for every pair; after a
            number ``^3`` allows triples.
        seed: Of the rows by which pairs are ranked.

    Raises:
        DataError: The text asks for nothing that the data have.
    """
    text, order = split_order(text)
    asked = read_crosses(text, data.schema)
    if isinstance(asked, tuple):
        return asked
    if asked == ALL:
        return tuple(Cross(pair) for pair in itertools.combinations(single_columns(data), 2))
    assert isinstance(asked, int)
    found = propose(data, asked, seed, order=order)
    say(proposed_line(data, found, order))
    return tuple(p.cross for p in found)


def proposed_line(data: DataSet, found: Sequence[Proposal], order: int = 2) -> str:
    """What was proposed, for people: how many crosses, and the first of them with their gains."""
    columns = len(single_columns(data))
    best = ", ".join(f"{p.cross.name} {p.gain:.5f}" for p in found[:5])
    more = ", ..." if len(found) > 5 else ""
    pairs = columns * (columns - 1) // 2
    if not found:
        return f"crosses: none of {pairs} pairs lowers the log loss of training rows out of fold"
    triples = " and of triples with a pair before them" if order > 2 else ""
    return f"crosses: {len(found)} of {pairs} pairs{triples}, by log loss out of fold: {best}{more}"


def propose(
    data: DataSet,
    number: int | None = None,
    seed: int = 0,
    settings: ProposalSettings | None = None,
    *,
    order: int = 2,
) -> list[Proposal]:
    """The pairs of columns that lower the log loss of training rows out of fold, the best first.

    All columns have additive effects on the logit, ``m = b + sum_c w_c[id_c]``, fitted by Newton
    steps with an L2 penalty on the rows of the other folds. A pair then has the effect

        d[i, j] = sum (y - p) / (sum p (1 - p) + strength),  p = sigmoid(m),

    of the rows of the other folds with the ids i and j, and its gain is the mean of ``loss(m) -
    loss(m + d)`` over all rows. No row has a part in its own score, so a pair of columns that says
    nothing has a gain below 0. The pair of the largest gain is taken, such effects are added to m
    as long as they lower its loss, and the next pair is the one of the largest gain beyond that. A
    pair whose gain was small before is looked at again only when no other is left above it. Pairs
    without a gain are left out, and pairs of which one column follows from the other.

    With an order of 3 every pair that is taken is tried with every further column as well. Such a
    triple is ranked like a pair, by its gain beyond all that was taken. So C columns make at most
    ``C - 2`` triples for every pair that is taken, and a triple without a pair that has a gain is
    never found.

    Args:
        data: The data set, with a label of 0 and 1.
        number: At most so many crosses; None: all with a gain.
        seed: Of the choice of rows.
        settings: How they are ranked.
        order: Columns of a cross at most, 2 or 3.

    Raises:
        DataError: The label is a number to predict, or fewer than two columns have single ids.
    """
    data.require_binary("--crosses with a number of crosses to propose")
    s = settings or ProposalSettings()
    return greedy(Pairs(read_sample(data, s.rows, seed), s), number, order)


def propose_worthwhile(data: DataSet, seed: int = 0) -> list[Proposal]:
    """The pairs that are worth a trial by training: 16 at most, often none.

    They are the first of :func:`propose` whose gain is above its standard error and 1e-4 or more.

    Args:
        data: The data set, with a label of 0 and 1.
        seed: Of the choice of rows.
    """
    if sum(c.kind == "categorical" for c in data.schema.columns) < 2:
        return []
    found = propose(data, MOST_PAIRS, seed)
    return [p for p in found if p.gain >= LEAST_GAIN and p.gain > p.standard_error]


def split_order(text: str) -> tuple[str, int]:
    """``8^3`` as ``8`` and 3, the most columns of a cross; any other text has an order of 2.

    Raises:
        DataError: The order is not 2 or 3, or there is no number before it.
    """
    number, caret, order = text.strip().partition("^")
    if not caret:
        return text, 2
    if order not in ORDERS or not number.isdecimal():
        raise DataError(
            f"--crosses {text!r}; allowed: a number, and {' or '.join(ORDERS)} after ^ or as "
            "--cross-order, as 8^3"
        )
    return number, int(order)


def greedy(pairs: Pairs, number: int | None = None, order: int = 2) -> list[Proposal]:
    """The crosses with a gain beyond the columns and the crosses before, the best first."""
    heap: list[tuple[float, tuple[int, ...], int]] = []
    tried = set[tuple[int, ...]]()
    every = range(len(pairs.sample.names))

    def try_(columns: tuple[int, ...], taken: int) -> None:
        if columns not in tried:
            tried.add(columns)
            scored = pairs.score(*columns)
            if scored is not None and scored[0].gain > 0:
                heapq.heappush(heap, (-scored[0].gain, columns, taken))  # ties: the first columns

    for pair in itertools.combinations(every, 2):
        try_(pair, 0)
    found: list[Proposal] = []
    while heap and (number is None or len(found) < number):
        _, columns, seen = heapq.heappop(heap)
        scored = pairs.score(*columns)
        assert scored is not None
        proposal, _ = scored
        if seen == len(found):  # its gain is up to date
            found.append(proposal)
            _take(pairs, columns)
            if len(columns) < order:
                for further in (c for c in every if c not in columns):
                    try_(tuple(sorted((*columns, further))), len(found))
        elif proposal.gain > 0:
            heapq.heappush(heap, (-proposal.gain, columns, len(found)))
    return found


def _take(pairs: Pairs, columns: tuple[int, ...]) -> None:
    """Add the effect of a cross, by steps, as long as a further one lowers the log loss."""
    for _ in range(MOST_STEPS):
        scored = pairs.score(*columns)
        if scored is None or scored[0].gain <= 0:
            return
        pairs.add(scored[1])


def read_sample(data: DataSet, rows: int, seed: int) -> Sample:
    """Up to ``rows`` training rows in a seeded random order, of columns with single ids."""
    names = single_columns(data)
    stream = data.stream("train", batch_size=READ_ROWS, shuffle=True, seed=seed, columns=names)
    order = [stream.features.index(name) for name in names]
    values: list[list[npt.NDArray[np.int64]]] = [[] for _ in names]
    labels, weights, count = [], [], 0
    for batch in stream:
        lengths_CB = batch.sparse.lengths().view(len(names), -1).numpy()
        starts = batch.sparse.offset_per_key()
        ids = batch.sparse.values().numpy()
        for c, at in enumerate(order):
            bags = Bags(ids[starts[at] : starts[at + 1]], lengths_CB[at])
            values[c].append(_with_missing(bags))
        labels.append(batch.labels_B.numpy())
        weights.append(batch.row_weights.numpy())
        count += batch.num_rows
        if count >= rows:
            break
    codes = [_codes(np.concatenate(of)[:rows]) for of in values]
    return Sample(
        tuple(names),
        np.stack(codes),
        np.concatenate(labels)[:rows].astype(np.float64),
        np.concatenate(weights)[:rows].astype(np.float64),
    )


def single_columns(data: DataSet) -> list[str]:
    """The columns with at most one id in a row; DataError if there are fewer than two."""
    names = [c.name for c in data.schema.features if c.kind == "categorical"]
    if len(names) < 2:
        raise DataError(
            f"{data.path}: {len(names)} columns with one id in a row; crosses need two or more"
        )
    return names


def _with_missing(bags: Bags) -> npt.NDArray[np.int64]:
    """One number for every row: its id, or -1."""
    assert bags.lengths is not None
    ids = np.full(len(bags.lengths), -1, np.int64)
    ids[bags.lengths > 0] = bags.values
    return ids


def _codes(values: npt.NDArray[np.int64]) -> Codes:
    """Dense codes from 0, in the order of first occurrence; faster than a sort."""
    encoded = pa.array(values).dictionary_encode().indices
    codes: Codes = encoded.to_numpy().astype(np.int64)
    return codes


class Pairs:
    """Scores pairs and triples of columns of a sample against the logit of what is taken.

    Args:
        sample: The rows.
        settings: How pairs are scored.
    """

    def __init__(self, sample: Sample, settings: ProposalSettings) -> None:
        self.sample, self.settings = sample, settings
        self.fold_B = np.arange(len(sample.labels_B)) % settings.folds  # rows are in random order
        self.sizes = sample.codes_CB.max(axis=1, initial=-1) + 1
        self.m_B = np.zeros(len(sample.labels_B))
        self.add(main_effects(sample, self.fold_B, settings))

    def add(self, d_B: Floats) -> None:
        """Take these effects into the logit that pairs are scored against."""
        self.m_B = self.m_B + d_B
        y_B, w_B = self.sample.labels_B, self.sample.weights_B
        p_B = _sigmoid(self.m_B)
        self.g_B, self.h_B = w_B * (y_B - p_B), w_B * p_B * (1 - p_B)
        self.loss_B = np.logaddexp(0.0, self.m_B) - y_B * self.m_B

    def score(self, *columns: int) -> tuple[Proposal, Floats] | None:
        """The gain of two or more columns and their effect on every row.

        None if one of them follows from the others.

        Args:
            columns: Their numbers.
        """
        sample, s = self.sample, self.settings
        code_B, num_ids = self._together(columns)
        fewer = itertools.combinations(columns, len(columns) - 1)
        if num_ids == max(self._together(part)[1] for part in fewer):
            return None
        d_B = _out_of_fold(code_B, num_ids, self.fold_B, s, self.g_B, self.h_B)
        z_B, w_B = self.m_B + d_B, sample.weights_B
        gain_B = self.loss_B - (np.logaddexp(0.0, z_B) - sample.labels_B * z_B)
        total = w_B.sum()
        gain = float((w_B * gain_B).sum() / total)
        error = float(np.sqrt(((w_B * (gain_B - gain)) ** 2).sum()) / total)
        cross = Cross(tuple(sample.names[c] for c in columns))
        return Proposal(cross, gain, error, num_ids), d_B

    def _together(self, columns: tuple[int, ...]) -> tuple[Codes, int]:
        """Codes of the combinations of ids of some columns, and how many there are."""
        first, *others = columns
        code_B, num_ids = self.sample.codes_CB[first], int(self.sizes[first])
        for c in others:
            code_B = _codes(code_B * self.sizes[c] + self.sample.codes_CB[c])
            num_ids = int(code_B.max(initial=-1)) + 1
        return code_B, num_ids


def _out_of_fold(
    code_B: Codes, size: int, fold_B: Codes, s: ProposalSettings, g_B: Floats, h_B: Floats
) -> Floats:
    """For every row the Newton step of its code by the rows of the other folds, (B,)."""
    folds = s.folds
    place_B = code_B * folds + fold_B
    sums = [np.bincount(place_B, x_B, size * folds).reshape(size, folds) for x_B in (g_B, h_B)]
    g, h = (of.sum(axis=1, keepdims=True) - of for of in sums)
    d: Floats = (g / (h + s.strength)).ravel()[place_B]
    return d


def main_effects(sample: Sample, fold_B: Codes, s: ProposalSettings) -> Floats:
    """Logits (B,) of the additive effects of all columns, of every row by the other folds."""
    y_B, w_B = sample.labels_B, sample.weights_B
    out_B = np.empty(len(y_B))
    for fold in range(s.folds):
        train_B = fold_B != fold
        used_B = w_B * train_B
        rate = np.clip((used_B * y_B).sum() / max(used_B.sum(), 1e-9), 1e-6, 1 - 1e-6)
        m_B = np.full(len(y_B), np.log(rate / (1 - rate)))
        effects = [np.zeros(int(codes.max()) + 1) for codes in sample.codes_CB]
        for _ in range(s.sweeps):
            for effect, code_B in zip(effects, sample.codes_CB, strict=True):
                p_B = _sigmoid(m_B)
                g = np.bincount(code_B, used_B * (y_B - p_B), len(effect))
                h = np.bincount(code_B, used_B * p_B * (1 - p_B), len(effect))
                step = (g - s.strength * effect) / (h + s.strength)
                effect += step
                m_B += step[code_B]
        out_B[~train_B] = m_B[~train_B]
    return out_B


def _sigmoid(z_B: Floats) -> Floats:
    p_B: Floats = np.exp(-np.logaddexp(0.0, -z_B))
    return p_B
