"""Metrics within groups of rows, such as the rows of one user, computed exactly from all scores.

A group is a set of rows; a row may be in several (a film has several genres) or in none. Rows are
paired with groups by two arrays of equal length, the numbers of the rows and of their groups.

Rows may have weights, 0 or more. A whole weight then counts as so many equal rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from seo_rec.runs.groups import GroupAuc, GroupQuality

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]

BINS = 10  # of the expected calibration error


@dataclass(frozen=True)
class Members:
    """Which rows are in which groups: row ``rows[i]`` is in group ``groups[i]``, each pair once.

    Args:
        rows: int64 (pairs,), numbers of rows.
        groups: int64 (pairs,), numbers of groups, in [0, len(names)).
        names: One name for each group.
    """

    rows: Ints
    groups: Ints
    names: tuple[str, ...]

    @property
    def sizes(self) -> Ints:
        """The number of rows of each group, int64 (groups,)."""
        return np.bincount(self.groups, minlength=len(self.names))

    def largest(self, count: int, others: str) -> Members:
        """At most ``count`` groups by falling number of rows; the rest is one group more.

        Args:
            count: The number of groups that stay as they are.
            others: The name of the group of the rest; ``{}`` in it is the number of its groups.
        """
        order = np.argsort(-self.sizes, kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.minimum(np.arange(len(order)), count)
        kept = [self.names[i] for i in order[:count]]
        rest = [others.format(f"{len(order) - count:,}")] if len(order) > count else []
        rows, groups = self.rows, place[self.groups]
        if rest:  # a row may be in several of the groups that became one
            rows, groups = _distinct(rows, groups, count + 1)
        return Members(rows, groups, (*kept, *rest))


def group_aucs(
    logits: Floats, labels: Floats, groups: Ints, count: int, weights: Floats | None = None
) -> Floats:
    """The AUC within each group; NaN where a group lacks one of the labels.

    From the sum R of the ranks of its n1 positive rows among its n1 + n0 rows (tied rows share
    their mean rank): ``AUC = (R - n1 (n1 + 1) / 2) / (n1 n0)``, the Mann-Whitney statistic.

    Args:
        logits, labels, groups: Shape (rows,).
        count: The number of groups.
        weights: Shape (rows,), by which pairs of rows count (:func:`_weighted_aucs`); None: 1.

    Returns:
        float64 (count,).
    """
    if weights is not None:
        return _weighted_aucs(logits, labels, groups, count, weights)
    order = np.lexsort((logits, groups))
    z, g = logits[order], groups[order]
    y = labels[order].astype(np.float64)
    sizes = np.bincount(g, minlength=count)
    before = (np.cumsum(sizes) - sizes)[g]
    new = np.ones(z.size, np.bool_)
    new[1:] = (z[1:] != z[:-1]) | (g[1:] != g[:-1])
    first = np.flatnonzero(new)
    ties = np.diff(np.append(first, z.size))
    ranks = np.repeat(first + (ties + 1) / 2, ties) - before
    positive = np.bincount(g, weights=y, minlength=count)
    wins = np.bincount(g, weights=ranks * y, minlength=count) - positive * (positive + 1) / 2
    pairs = positive * (sizes - positive)
    return np.divide(wins, pairs, out=np.full(count, np.nan), where=pairs > 0)


def _weighted_aucs(
    logits: Floats, labels: Floats, groups: Ints, count: int, weights: Floats
) -> Floats:
    """``sum_ij w_i w_j ([z_i > z_j] + [z_i = z_j] / 2) / sum_ij w_i w_j`` within each group.

    i runs over the positive rows of the group and j over its negative ones. Rows of equal logit
    are taken together, after the weight of the negative rows below them.
    """
    order = np.lexsort((logits, groups))
    z, g = logits[order], groups[order]
    y, w = labels[order].astype(np.float64), weights[order].astype(np.float64)
    new = np.ones(z.size, np.bool_)
    new[1:] = (z[1:] != z[:-1]) | (g[1:] != g[:-1])
    tie, of_tie = np.cumsum(new) - 1, g[new]
    positive, negative = (np.bincount(tie, weights=w * part) for part in (y, 1 - y))
    by_group = [np.bincount(of_tie, weights=part, minlength=count) for part in (positive, negative)]
    before = np.cumsum(by_group[1]) - by_group[1]
    below = np.cumsum(negative) - negative - before[of_tie]
    wins = np.bincount(of_tie, weights=positive * (below + negative / 2), minlength=count)
    pairs = by_group[0] * by_group[1]
    return np.divide(wins, pairs, out=np.full(count, np.nan), where=pairs > 0)


def gauc(
    logits: Floats, labels: Floats, members: Members, column: str, weights: Floats | None = None
) -> GroupAuc:
    """The mean AUC of the groups with both labels, each weighted by its number of rows.

    ``GAUC = sum_g n_g AUC_g / sum_g n_g`` with n_g the rows (impressions) of group g, or the sum
    of their weights. It was
    proposed by Zhu et al., Optimized Cost per Click in Taobao Display Advertising (KDD 2017), and
    is used by Zhou et al., Deep Interest Network for Click-Through Rate Prediction (KDD 2018).

    Args:
        logits, labels: Shape (rows,).
        members: The groups, each row in one at most.
        column: The name of the column that the groups are of.
        weights: Of the rows, shape (rows,); None: 1.
    """
    count, sizes = len(members.names), members.sizes
    w = None if weights is None else weights[members.rows].astype(np.float64)
    aucs = group_aucs(logits[members.rows], labels[members.rows], members.groups, count, w)
    used = ~np.isnan(aucs)
    rows = int(sizes[used].sum())
    shares = sizes if w is None else np.bincount(members.groups, weights=w, minlength=count)
    total = shares[used].sum()
    mean = float((aucs[used] * shares[used]).sum() / total) if rows else float("nan")
    return GroupAuc(column, mean, count, int(used.sum()), rows)


def expected_calibration_error(
    scores: Floats, labels: Floats, bins: int = BINS, weights: Floats | None = None
) -> float:
    """The mean distance of predicted and observed rates over bins of the score.

    ``ECE = sum_b n_b / n * |mean score of bin b - mean label of bin b|`` (Naeini et al., Obtaining
    Well Calibrated Probabilities Using Bayesian Binning, AAAI 2015). The bins end at quantiles of
    the scores, so that they hold equally many rows where scores differ; with bins of equal width
    most clicks, whose probabilities are small, would share one bin.

    Args:
        scores: Predicted probabilities, shape (rows,), at least one.
        labels: Shape (rows,).
        bins: Number of bins.
        weights: Of the rows, shape (rows,); None: 1. Bins then hold equal weight, and end at
            scores that occur. NaN if all are 0.
    """
    p, y = scores.astype(np.float64), labels.astype(np.float64)
    shares = np.arange(1, bins) / bins
    if weights is None:
        inner = np.quantile(p, shares)
        w: Floats = np.ones(p.size)
    else:
        w = weights.astype(np.float64)
        if not w.any():
            return float("nan")
        inner = np.quantile(p, shares, method="inverted_cdf", weights=w)
    bin_of = np.searchsorted(inner, p)
    gaps = np.bincount(bin_of, weights=w * p, minlength=bins)
    gaps -= np.bincount(bin_of, weights=w * y, minlength=bins)
    return float(np.abs(gaps).sum() / w.sum())


def group_qualities(
    logits: Floats, labels: Floats, members: Members, weights: Floats | None = None
) -> tuple[GroupQuality, ...]:
    """Rows, label rate, AUC, log loss and calibration of each group, in the order of its names.

    Args:
        logits, labels: Shape (rows,).
        members: The groups, none of them empty.
        weights: Of the rows, shape (rows,); None: 1. A group without weight has NaN.
    """
    z, y = logits[members.rows].astype(np.float64), labels[members.rows].astype(np.float64)
    g, count = members.groups, len(members.names)
    p = np.exp(-np.logaddexp(0.0, -z))
    sizes = members.sizes
    given: Floats | None = None
    w: Floats = np.ones(z.size)
    total: Floats = sizes.astype(np.float64)
    if weights is not None:
        w = given = weights[members.rows].astype(np.float64)
        total = np.bincount(g, weights=w, minlength=count).astype(np.float64)
    total = np.where(total > 0, total, np.nan)
    losses = np.bincount(g, weights=w * (np.logaddexp(0.0, z) - y * z), minlength=count) / total
    positive = np.bincount(g, weights=w * y, minlength=count)
    predicted = np.bincount(g, weights=w * p, minlength=count)
    ratio = np.divide(predicted, positive, out=np.full(count, np.nan), where=positive > 0)
    aucs = group_aucs(logits[members.rows], labels[members.rows], g, count, given)
    order = np.argsort(g, kind="stable")
    parts = np.split(order, np.cumsum(sizes)[:-1])
    errors = [
        expected_calibration_error(p[part], y[part], weights=None if given is None else given[part])
        for part in parts
    ]
    rates = positive / total
    columns = zip(sizes, rates, aucs, losses, ratio, errors, strict=True)
    return tuple(
        GroupQuality(name, int(row[0]), *(float(v) for v in row[1:]))
        for name, row in zip(members.names, columns, strict=True)
    )


def overall(logits: Floats, labels: Floats, weights: Floats | None = None) -> GroupQuality:
    """Quality on all rows, at least one."""
    rows = np.arange(logits.size)
    members = Members(rows, np.zeros_like(rows), ("all",))
    (found,) = group_qualities(logits, labels, members, weights)
    return replace(found, name="all")


def members_of(values: Ints, lengths: Ints, name_of: Callable[[int], str], missing: str) -> Members:
    """A group for each value that occurs in the bags of the rows, in rising order of values.

    Args:
        values: The values of all bags, end to end.
        lengths: The number of values in the bag of each row.
        name_of: The name of the group of a value.
        missing: The name of the group of the rows whose bags are empty.
    """
    rows = np.repeat(np.arange(lengths.size), lengths)
    found, groups = np.unique(values, return_inverse=True)
    names = [name_of(value) for value in found.tolist()]
    if lengths.max(initial=0) > 1:  # a bag may hold a value more than once
        rows, groups = _distinct(rows, groups, len(names))
    empty = np.flatnonzero(lengths == 0)
    if empty.size:
        rows = np.concatenate([rows, empty])
        groups = np.concatenate([groups, np.full(empty.size, len(names))])
        names.append(missing)
    return Members(rows, groups, tuple(names))


def _distinct(rows: Ints, groups: Ints, count: int) -> tuple[Ints, Ints]:
    """The pairs of rows and groups, each once; ``count`` is the number of groups."""
    pairs = np.unique(rows * count + groups)
    return pairs // count, pairs % count
