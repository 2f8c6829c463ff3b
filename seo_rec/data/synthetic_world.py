"""The planted world of synthetic data: its columns, their effects, and the draw of rows.

Letters: V ids of a column, R dimensions of its vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from seo_rec.data.source import column_kinds
from seo_rec.data.tokens import Ids
from seo_rec.schema import DataError

# Variance of the logit by component, renormalised over the components that exist.
SHARES: Mapping[str, float] = {
    "pairs": 0.6,
    "strong": 0.15,
    "weak": 0.15,
    "bag": 0.05,
    "number": 0.05,
}

BLOCK_ROWS = 65_536
WORLD, SAMPLE, ROWS, DAYS = 0, 1, 2, 3  # streams of the one seed
Floats = npt.NDArray[np.float64]


def require_synthetic(holds: bool, name: str, got: object, allowed: str) -> None:
    if not holds:
        raise DataError(f"synthetic: {name} is {got}; allowed: {allowed}")


@dataclass(frozen=True)
class World:
    """The sizes of a synthetic world; see :func:`synthetic`."""

    strong: int
    weak: int
    noise: int
    numeric: int
    multivalent: int
    strong_vocab: int
    weak_vocab: int
    noise_vocab: int
    rank: int
    signal: float
    zipf: float
    missing_rate: float
    label_rate: float

    def __post_init__(self) -> None:
        for name in ("strong", "weak", "noise", "numeric", "multivalent"):
            require_synthetic(
                getattr(self, name) >= 0, name, getattr(self, name), "0 or more columns"
            )
        embedded = self.strong + self.weak + self.noise + self.multivalent
        require_synthetic(
            embedded > 0, "strong + weak + noise + multivalent", embedded, "1 or more"
        )
        for name in ("strong_vocab", "weak_vocab", "noise_vocab"):
            require_synthetic(getattr(self, name) >= 4, name, getattr(self, name), "4 or more ids")
        require_synthetic(self.rank >= 1, "rank", self.rank, "1 or more")
        require_synthetic(0 <= self.signal < np.inf, "signal", self.signal, "0 (no signal) or more")
        require_synthetic(0 <= self.zipf < np.inf, "zipf", self.zipf, "0 (uniform) or more")
        require_synthetic(
            0 <= self.missing_rate < 1, "missing_rate", self.missing_rate, "0 to below 1"
        )
        require_synthetic(0 < self.label_rate < 1, "label_rate", self.label_rate, "between 0 and 1")


@dataclass(frozen=True)
class Churn:
    """How the ids of strong and noise columns change over time.

    ``days``: days that the rows are divided into; ``enter``, ``vanish``: new ids, and ids that do
    not come again, from one day to the next, as shares of the ids there are (numbers of a binomial
    draw). Columns take the shares in turn, so several of them make some columns grow while others
    shrink; the last id of a column stays.
    """

    days: int = 1
    enter: tuple[float, ...] = (0.0,)
    vanish: tuple[float, ...] = (0.0,)

    def __post_init__(self) -> None:
        require_synthetic(self.days >= 1, "days", self.days, "1 or more")
        for name in ("enter", "vanish"):
            shares = getattr(self, name)
            in_range = len(shares) > 0 and all(0 <= share <= 1 for share in shares)
            require_synthetic(in_range, name, shares, "one share or more, each 0 to 1")
            used = self.days > 1 or not any(shares)
            require_synthetic(used, name, shares, "0 with one day; give days")


@dataclass(frozen=True)
class PlantedFeature:
    """One embedded column: its ids by frequency rank and what each id contributes."""

    name: str
    role: str
    ids: Ids  # (V,) the id of each frequency rank
    cumulative: Floats  # (V,) cumulative frequency
    bias: Floats  # (V + 1,) last: missing
    vectors: Floats  # (V + 1, R)
    next_id: int  # ids from here on were never used

    def next_day(
        self, rng: np.random.Generator, enter: float, vanish: float, zipf: float
    ) -> PlantedFeature:
        """The column of the day after; see :class:`Churn`."""
        V = len(self.ids)
        stays = np.flatnonzero(rng.random(V) >= vanish)
        stays = stays if len(stays) else np.array([0])
        new = int(rng.binomial(V, enter))
        order = np.argsort(np.append(stays, rng.random(new) * V), kind="stable")
        new_bias = rng.normal(size=new) if self.role != "noise" else np.zeros(new)
        new_vectors = rng.normal(size=(new, self.vectors.shape[1]))
        new_ids = np.arange(self.next_id, self.next_id + new)
        return replace(
            self,
            ids=np.append(self.ids[stays], new_ids)[order],
            cumulative=_zipf(len(order), zipf),
            bias=np.append(np.append(self.bias[stays], new_bias)[order], 0.0),
            vectors=np.vstack(
                [np.vstack([self.vectors[stays], new_vectors])[order], self.vectors[-1:]]
            ),
            next_id=self.next_id + new,
        )

    def draw(self, rng: np.random.Generator, num: int, missing_rate: float) -> Ids:
        """Frequency ranks of ``num`` values; V where missing."""
        ranks = np.searchsorted(self.cumulative, rng.random(num), side="right")
        ranks = np.minimum(ranks, len(self.ids) - 1)
        if missing_rate:
            ranks[rng.random(num) < missing_rate] = len(self.ids)
        return ranks


class PlantedModel:
    """Latent vectors, scales and the draw of rows."""

    def __init__(self, world: World, seed: int) -> None:
        self._world = world
        rng = np.random.default_rng([seed, WORLD])
        w = world
        weak_sizes = np.geomspace(4, w.weak_vocab, w.weak).round().astype(int)
        ranks = [max(1, w.rank >> (j // 2)) for j in range(w.strong)]
        self._strong = [
            planted_feature(rng, f"strong_{j}", "strong", w.strong_vocab, w.zipf, ranks[j])
            for j in range(w.strong)
        ]
        self._weak = [
            planted_feature(rng, f"weak_{j}", "weak", int(weak_sizes[j]), w.zipf, 0)
            for j in range(w.weak)
        ]
        self._noise = [
            planted_feature(rng, f"noise_{j}", "noise", w.noise_vocab, w.zipf, 0)
            for j in range(w.noise)
        ]
        self._bags = [
            planted_feature(rng, f"bag_{j}", "bag", w.weak_vocab, w.zipf, 0)
            for j in range(w.multivalent)
        ]
        self._numeric = [f"number_{j}" for j in range(w.numeric)]
        self._slopes = rng.normal(size=w.numeric)
        self._scale: dict[str, tuple[float, float]] = {}
        present = {
            "pairs": w.strong > 1,
            "strong": w.strong > 0,
            "weak": w.weak > 0,
            "bag": w.multivalent > 0,
            "number": w.numeric > 0,
        }
        shares = {name: SHARES[name] for name, there in present.items() if there}
        self._shares = {name: share / sum(shares.values()) for name, share in shares.items()}
        self._intercept = 0.0
        self._calibrate(np.random.default_rng([seed, SAMPLE]))

    @property
    def churning_ids(self) -> dict[str, int]:
        """Number of ids of the columns that churn, as of today."""
        return {f.name: len(f.ids) for f in (*self._strong, *self._noise)}

    def next_day(self, rng: np.random.Generator, churn: Churn) -> None:
        """Let a day pass."""
        shares = zip(cycle(churn.enter), cycle(churn.vanish), strict=False)
        zipf = self._world.zipf
        self._strong = [f.next_day(rng, *next(shares), zipf) for f in self._strong]
        self._noise = [f.next_day(rng, *next(shares), zipf) for f in self._noise]

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        single = [f.name for f in (*self._strong, *self._weak, *self._noise)]
        return column_kinds(single, [f.name for f in self._bags], self._numeric)

    def draw(self, rng: np.random.Generator, num: int) -> tuple[Any, Floats, npt.NDArray[np.bool_]]:
        """A table of ``num`` rows, their logits and labels, each (num,)."""
        columns, parts = self._draw_columns(rng, num)
        logit = self._logit(parts, num)
        label = rng.random(num) < _sigmoid(logit)
        columns["label"] = pa.array(label.astype(np.float32))
        return pa.table(columns), logit, label

    def truth(self) -> dict[str, Any]:
        """Role, ids, rank and share of the logit's variance of every column."""
        features = {
            f.name: {"role": f.role, "ids": len(f.ids), "rank": f.vectors.shape[1]}
            for f in (*self._strong, *self._weak, *self._noise, *self._bags)
        }
        numbers = {
            name: {"role": "number", "slope": float(slope)}
            for name, slope in zip(self._numeric, self._slopes, strict=True)
        }
        return {
            "features": {**features, **numbers},
            "shares": self._shares,
            "intercept": self._intercept,
            "logit_std": self._world.signal,
        }

    def _calibrate(self, rng: np.random.Generator) -> None:
        _, parts = self._draw_columns(rng, BLOCK_ROWS)
        for name, part in parts.items():
            self._scale[name] = float(part.mean()), float(part.std()) or 1.0
        logit = self._logit(parts, BLOCK_ROWS)
        low, high = -50.0, 50.0
        for _ in range(60):
            self._intercept = (low + high) / 2
            if _sigmoid(logit + self._intercept).mean() < self._world.label_rate:
                low = self._intercept
            else:
                high = self._intercept

    def _logit(self, parts: Mapping[str, Floats], num: int) -> Floats:
        logit = np.full(num, self._intercept)
        for name, part in parts.items():
            mean, deviation = self._scale[name]
            weight = self._world.signal * np.sqrt(self._shares[name])
            logit += weight * (part - mean) / deviation
        return logit

    def _draw_columns(
        self, rng: np.random.Generator, num: int
    ) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Columns in model order, and the raw components of the logit, each (num,)."""
        columns: dict[str, Any] = {}
        parts = {name: np.zeros(num) for name in self._shares}
        numbers = rng.normal(size=(num, len(self._numeric)))
        for name, values in zip(self._numeric, numbers.T, strict=True):
            columns[name] = pa.array(values.astype(np.float32))
        if self._numeric:
            parts["number"] = numbers @ self._slopes
        vectors = []
        for feature in (*self._strong, *self._weak, *self._noise):
            ranks = feature.draw(rng, num, self._world.missing_rate)
            absent = ranks == len(feature.ids)
            ids = np.append(feature.ids, 0)[ranks]
            columns[feature.name] = pa.array(ids, mask=absent) if absent.any() else pa.array(ids)
            if feature.role != "noise":
                parts[feature.role] += feature.bias[ranks]
            if feature.role == "strong":
                vectors.append(feature.vectors[ranks])
        for b, right in enumerate(vectors):
            for left in vectors[:b]:
                rank = min(left.shape[1], right.shape[1])
                dot = np.einsum("br,br->b", left[:, :rank], right[:, :rank])
                parts["pairs"] += dot / np.sqrt(rank)
        for feature in self._bags:
            columns[feature.name], part = _draw_bags(feature, rng, num, self._world.missing_rate)
            parts["bag"] += part
        return columns, parts


def planted_feature(
    rng: np.random.Generator, name: str, role: str, vocab: int, zipf: float, rank: int
) -> PlantedFeature:
    biases = rng.normal(size=vocab) if role != "noise" else np.zeros(vocab)
    return PlantedFeature(
        name=name,
        role=role,
        ids=rng.permutation(vocab).astype(np.int64),
        cumulative=_zipf(vocab, zipf),
        bias=np.append(biases, 0.0),
        vectors=np.vstack([rng.normal(size=(vocab, rank)), np.zeros((1, rank))]),
        next_id=vocab,
    )


def _zipf(vocab: int, exponent: float) -> Floats:
    """Cumulative frequencies of the ranks 1 to ``vocab``."""
    frequency = np.arange(1, vocab + 1, dtype=np.float64) ** -exponent
    return np.cumsum(frequency / frequency.sum())


def _draw_bags(
    feature: PlantedFeature, rng: np.random.Generator, num: int, missing_rate: float
) -> tuple[Any, Floats]:
    """Bags of 1 + Poisson(2) ids (0 where missing), and the mean bias of each bag."""
    sizes = 1 + rng.poisson(2.0, num)
    sizes[rng.random(num) < missing_rate] = 0
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    ranks = feature.draw(rng, int(offsets[-1]), 0.0)
    row = np.repeat(np.arange(num), sizes)
    total = np.bincount(row, weights=feature.bias[ranks], minlength=num)
    bags = pa.ListArray.from_arrays(
        pa.array(offsets.astype(np.int32)), pa.array(feature.ids[ranks])
    )
    return bags, total / np.maximum(sizes, 1)


def _sigmoid(logit: Floats) -> Floats:
    with np.errstate(over="ignore"):  # far below 0 the probability is 0
        return 1.0 / (1.0 + np.exp(-logit))
