"""Inner products of hashed encodings: the closed form of their variance, and measurements of it.

Proposition 4.2 of "Unified Embedding" (Coleman et al., NeurIPS 2023). A set W of (feature, id)
tokens is encoded with a row h(w) and a sign xi(w) per token, all random::

    phi(W) = sum_{w in W} xi(w) u_{h(w)},   <phi(X), phi(Y)> estimates <x, y> = |X and Y|

*Unified*: one table of M rows. *Hashed*: a table of M_f rows per feature, M in all; the product is
the sum over features. Over random h and xi the mean is ``<x, y>``, and with 0/1 vectors the
variance is, per table,

    (|x|^2 |y|^2 + <x, y>^2 - 2 <x, y>) / M

Letters: S seeds, K tokens, M rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from seo_rec import methods
from seo_rec.analysis.vocabularies import Vocabularies, only, vocabularies_of
from seo_rec.data.dataset import DataSet
from seo_rec.embed.remap import hash_rows
from seo_rec.policy import Ids
from seo_rec.schema import Schema

CELLS = 2**22  # of the encodings that are in memory at once
SIGMAS = 2.576  # half the width of an interval of 99 %, in standard errors
Sets = Mapping[str, tuple[Ids, Ids]]


@dataclass(frozen=True)
class Encoding:
    """Which features share a table, and how many rows each table has."""

    name: str
    tables: tuple[tuple[tuple[str, ...], int], ...]

    @property
    def num_rows(self) -> int:
        return sum(rows for _, rows in self.tables)


@dataclass(frozen=True)
class Measured:
    """Inner products over ``seeds`` hash functions beside what the proposition says of them.

    ``norm_x``, ``norm_y``: numbers of tokens, squared norms of x and y; ``inner``: <x, y>, the mean
    that is expected; ``closed_form``: the variance that is; ``*_error``: standard errors.
    """

    encoding: str
    tokens: str
    num_rows: int
    norm_x: int
    norm_y: int
    inner: int
    seeds: int
    mean: float
    mean_error: float
    variance: float
    variance_error: float
    closed_form: float

    @property
    def within(self) -> bool:
        """Whether both intervals of 99 % hold the closed form."""
        of_mean = abs(self.mean - self.inner) <= SIGMAS * self.mean_error
        return of_mean and abs(self.variance - self.closed_form) <= SIGMAS * self.variance_error


def encodings(schema: Schema, num_rows: int) -> tuple[Encoding, ...]:
    """Unified, and hashed with rows in proportion to the vocabularies and with even rows.

    The methods ``monolithic``, ``separate-cardinality`` and ``separate`` have these rows.

    Raises:
        PolicyError: fewer rows than features.
    """
    names = tuple(c.name for c in schema.features)
    found = [Encoding("unified", ((names, num_rows),))]
    for name, rule in (("hashed, by cardinality", "cardinality"), ("hashed, even", "even")):
        policy = methods.separate(schema, num_rows, 1, rows=rule)
        found.append(Encoding(name, tuple(((t.name,), t.num_rows) for t in policy.tables)))
    return tuple(found)


def variance(norm_x: int, norm_y: int, inner: int, num_rows: int) -> float:
    """``(|x|^2 |y|^2 + <x, y>^2 - 2 <x, y>) / M`` of 0/1 vectors, given squared norms."""
    return (norm_x * norm_y + inner * inner - 2 * inner) / num_rows


def closed_form(encoding: Encoding, sets: Sets) -> float:
    """The variance of the encoding's inner product: a sum over its independent tables."""
    total = 0.0
    for features, rows in encoding.tables:
        norm_x, norm_y, inner = _norms([sets[f] for f in features if f in sets])
        total += variance(norm_x, norm_y, inner, rows)
    return total


def _norms(sets: Iterable[tuple[Ids, Ids]]) -> tuple[int, int, int]:
    """``|x|^2``, ``|y|^2`` and ``<x, y>``."""
    norm_x = norm_y = inner = 0
    for x, y in sets:
        norm_x, norm_y = norm_x + len(x), norm_y + len(y)
        inner += len(np.intersect1d(x, y, assume_unique=True))
    return norm_x, norm_y, inner


def inner_products(encoding: Encoding, sets: Sets, seeds: Sequence[int]) -> npt.NDArray[np.float64]:
    """``<phi(x), phi(y)>`` for every seed; rows are those that the model's lookups compute.

    Args:
        encoding: tables and their features.
        sets: distinct ids of x and of y, by feature.
        seeds: of the methods, from which :func:`seo_rec.methods.lookup_seed` makes a hash function
            and a sign function per feature.

    Returns:
        float64 (S,).
    """
    found = np.zeros(len(seeds))
    for features, rows in encoding.tables:
        ids, x, y, which = _tokens([sets[f] for f in features if f in sets])
        there = [f for f in features if f in sets]
        at_once = max(1, CELLS // max(rows, len(ids), 1))
        for start in range(0, len(seeds), at_once):
            part = seeds[start : start + at_once]
            row_SK = hash_rows(ids, _seeds(part, there, 0)[:, which], rows)
            sign_SK = (2 * hash_rows(ids, _seeds(part, there, "sign")[:, which], 2) - 1).float()
            phi = [
                torch.zeros(len(part), rows).scatter_add_(1, row_SK, sign_SK * weight)
                for weight in (x, y)
            ]
            found[start : start + at_once] += (phi[0] * phi[1]).sum(1, dtype=torch.float64).numpy()
    return found


def _tokens(
    sets: Sequence[tuple[Ids, Ids]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """All tokens (K,): ids, whether they are in x and in y, and the number of their feature."""
    either = [np.union1d(x, y) for x, y in sets]
    in_x = [np.isin(ids, x) for ids, (x, _) in zip(either, sets, strict=True)]
    in_y = [np.isin(ids, y) for ids, (_, y) in zip(either, sets, strict=True)]
    which = np.repeat(np.arange(len(sets)), [len(ids) for ids in either])
    empty = [np.zeros(0)]
    return (
        torch.from_numpy(np.concatenate([*either, *empty]).astype(np.int64)),
        torch.from_numpy(np.concatenate([*in_x, *empty]).astype(np.float32)),
        torch.from_numpy(np.concatenate([*in_y, *empty]).astype(np.float32)),
        torch.from_numpy(which.astype(np.int64)),
    )


def _seeds(seeds: Sequence[int], features: Sequence[str], lookup: object) -> torch.Tensor:
    return torch.tensor([[methods.lookup_seed(s, f, lookup) for f in features] for s in seeds])


def summary(
    encoding: Encoding, tokens: str, sets: Sets, products: npt.NDArray[np.float64]
) -> Measured:
    """Mean and variance of measured products, with standard errors, beside the closed form.

    The standard error of the variance is ``sqrt((m4 - s^4 (S - 3) / (S - 1)) / S)`` with the fourth
    central moment m4: products of few tokens are far from normal.

    Raises:
        ValueError: fewer than four seeds.
    """
    S = len(products)
    if S < 4:
        raise ValueError(f"{S} seeds; allowed: 4 or more")
    mean, spread = float(products.mean()), float(products.var(ddof=1))
    fourth = float(np.power(products - mean, 4).mean())
    norm_x, norm_y, inner = _norms(sets.values())
    return Measured(
        encoding=encoding.name,
        tokens=tokens,
        num_rows=encoding.num_rows,
        norm_x=norm_x,
        norm_y=norm_y,
        inner=inner,
        seeds=S,
        mean=mean,
        mean_error=math.sqrt(spread / S),
        variance=spread,
        variance_error=math.sqrt(max(0.0, fourth - spread**2 * (S - 3) / (S - 1)) / S),
        closed_form=closed_form(encoding, sets),
    )


def compare_encodings(
    data: DataSet,
    num_rows: Sequence[int],
    seeds: int,
    share: float,
    features: Sequence[str] = (),
    seed: int = 0,
) -> Iterator[Measured]:
    """Every encoding at every number of rows, of one id per feature and of parts of vocabularies.

    Args:
        data: prepared data set.
        num_rows: of all tables together.
        seeds: hash functions drawn for each.
        share: part of every vocabulary, as :func:`part_of_each`.
        features: names (none: all).
        seed: of the tokens and, times ``seeds``, of the first hash function.
    """
    schema = only(data.schema, features)
    vocabularies = vocabularies_of(data, schema)
    rng = np.random.default_rng(seed)
    cases = {
        "one id per feature": one_of_each(vocabularies, rng),
        f"{100 * share:g} % of all ids": part_of_each(vocabularies, share, rng),
    }
    drawn = range(seed * seeds, (seed + 1) * seeds)
    for tokens, sets in cases.items():
        for rows in num_rows:
            for encoding in encodings(schema, rows):
                yield summary(encoding, tokens, sets, inner_products(encoding, sets, drawn))


# ---- what to encode ----------------------------------------------------------------------


def one_of_each(vocabularies: Vocabularies, rng: np.random.Generator) -> Sets:
    """x and y with one id of every feature, drawn as often as it stands in training rows.

    The marginals of a row, not a row: features are drawn independently.
    """
    return {
        name: (_draw(ids, counts, rng), _draw(ids, counts, rng))
        for name, (ids, counts) in vocabularies.items()
    }


def _draw(ids: Ids, counts: Ids, rng: np.random.Generator) -> Ids:
    return rng.choice(ids, 1, p=counts / counts.sum())


def part_of_each(vocabularies: Vocabularies, share: float, rng: np.random.Generator) -> Sets:
    """x and y with ``ceil(share V)`` of the V ids of every feature, drawn alike and independently.

    Raises:
        ValueError: ``share`` is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; allowed: above 0, at most 1")
    sets = {}
    for name, (ids, _) in vocabularies.items():
        k = math.ceil(share * len(ids))
        x, y = (np.sort(rng.choice(ids, k, replace=False)) for _ in range(2))
        sets[name] = (x, y)
    return sets
