"""Evolution: the best widths of features, by mutation and crossover of the best found so far.

A candidate is one width per feature, each from 1 to ``most``. Everything that was ever scored takes
part: the parents of a generation are the best of all before it, so the best is never lost, and no
candidate is scored twice. "OptEmbed: Learning Optimal Embedding Table for Click-through Rate
Prediction", Algorithm 1, lines 7 to 17.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from seo_rec.files import write_json
from seo_rec.policy import Allowance, PolicyError
from seo_rec.search.progress import Progress

Candidate = tuple[int, ...]
ATTEMPTS = 100  # in a row at a candidate that is not known yet


@dataclass(frozen=True)
class Evolution:
    """How candidates come about.

    ``rows``: of every feature's table; ``most``: the largest width; ``limit``: floats or bytes of
    the rows of all tables together (0: no limit); ``generations``: the first, of random candidates,
    included; of each of them ``mutations`` and ``crossovers`` new candidates (the first: their
    sum), from the ``parents`` best; ``mutation_rate``: the chance of every width to be drawn anew.

    Raises:
        PolicyError: width 1 everywhere exceeds the limit.
    """

    rows: tuple[int, ...]
    most: int
    limit: Allowance = Allowance(0)
    generations: int = 30
    mutations: int = 10
    crossovers: int = 10
    mutation_rate: float = 0.1
    parents: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        least = self.size((1,) * len(self.rows))
        if self.limit.amount and self.limit.amount < least:
            raise PolicyError(
                f"a budget of {self.limit} for rows; one column of each of {len(self.rows)} "
                f"tables takes {least}"
            )

    def size(self, candidate: Candidate) -> int:
        """Floats of the tables at these widths, or bytes of their rows if the limit is in bytes."""
        return sum(r * self.limit.row(d) for r, d in zip(self.rows, candidate, strict=True))

    # ---- new candidates ----------------------------------------------------------------

    def drawn(self, rng: np.random.Generator) -> Candidate:
        """Every width uniform from 1 to ``most``."""
        return tuple(rng.integers(1, self.most + 1, len(self.rows)).tolist())

    def mutated(self, parent: Candidate, rng: np.random.Generator) -> Candidate:
        """``parent`` with some widths drawn anew; the parent stays what it is."""
        again = rng.random(len(parent)) < self.mutation_rate
        return tuple(
            new if draw else old
            for old, new, draw in zip(parent, self.drawn(rng), again.tolist(), strict=True)
        )

    def crossed(self, first: Candidate, second: Candidate, rng: np.random.Generator) -> Candidate:
        """The beginning of ``first``, one width to all but one, and the end of ``second``."""
        cut = int(rng.integers(1, len(first))) if len(first) > 1 else 1
        return first[:cut] + second[cut:]

    def fitted(self, candidate: Candidate, rng: np.random.Generator) -> Candidate:
        """``candidate`` within the limit: columns are taken away at random, floats alike."""
        widths, rows, limit = list(candidate), np.array(self.rows), self.limit
        excess = self.size(candidate) - limit.amount if limit.amount else 0
        while excess > 0:
            share = np.cumsum(rows * (np.array(widths) > 1))
            i = int(np.searchsorted(share, rng.integers(share[-1]), side="right"))
            widths[i] -= 1
            excess -= self.rows[i] * (limit.row(widths[i] + 1) - limit.row(widths[i]))
        return tuple(widths)

    def offspring(self, known: Sequence[Candidate], generation: int) -> list[Candidate]:
        """Candidates of a generation, all new; fewer or none if hardly any are left.

        Args:
            known: all that were scored, the best first.
            generation: its number, with the seed all that chance depends on.
        """
        rng = np.random.default_rng((self.seed, generation))
        parents, taken, made = known[: self.parents], set(known), list[Candidate]()

        def parent() -> Candidate:
            return parents[int(rng.integers(len(parents)))]

        def cross() -> Candidate:
            pair = rng.choice(len(parents), 2, replace=len(parents) < 2)
            return self.crossed(parents[pair[0]], parents[pair[1]], rng)

        def add(count: int, make: Callable[[], Candidate]) -> None:
            wanted, left = len(made) + count, ATTEMPTS
            while len(made) < wanted and left:
                candidate, left = self.fitted(make(), rng), left - 1
                if candidate not in taken:
                    taken.add(candidate)
                    made.append(candidate)
                    left = ATTEMPTS

        if not parents:
            add(self.mutations + self.crossovers, lambda: self.drawn(rng))
        else:
            add(self.crossovers, cross)
            add(self.mutations, lambda: self.mutated(parent(), rng))
        return made


@dataclass
class Evolved:
    """What was scored: candidates in their order, a score of each, generations and seconds."""

    candidates: list[Candidate] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def ranked(self, plan: Evolution) -> list[Candidate]:
        """Best score first; of equal ones the smaller, then the first in order of widths."""
        score = dict(zip(self.candidates, self.scores, strict=True))
        return sorted(score, key=lambda c: (-score[c], plan.size(c), c))


def evolve(
    plan: Evolution,
    score: Callable[[list[Candidate]], list[float]],
    state: Path | None = None,
    begun: Evolved | None = None,
) -> Evolved:
    """Score generation after generation; the best is ``evolved.ranked(plan)[0]``.

    Args:
        plan: how candidates come about.
        score: larger is better; called once per generation.
        state: file written after every generation, from which an interrupted evolution goes on,
            with the same outcome.
        begun: what to go on from; None: what ``state`` holds.

    Raises:
        ValueError: ``state`` was written by another evolution, or is damaged.
    """
    evolved = evolved_so_far(plan, state) if begun is None else begun
    before, started = evolved.seconds, time.perf_counter()
    progress = Progress("generations", plan.generations - len(evolved.history))
    for generation in range(len(evolved.history), plan.generations):
        new = plan.offspring(evolved.ranked(plan), generation)
        evolved.scores += score(new) if new else []
        evolved.candidates += new
        best = evolved.ranked(plan)[0]
        top = evolved.scores[evolved.candidates.index(best)]
        evolved.history.append({"new": len(new), "best": list(best), "score": top})
        evolved.seconds = before + time.perf_counter() - started
        if state:
            write_json(state, {"plan": _plain(plan), **asdict(evolved)})
        progress.done(f"best validation AUC {top:.5f}")
    return evolved


def evolved_so_far(plan: Evolution, state: Path | None) -> Evolved:
    """What an interrupted evolution wrote to ``state``; nothing, if there is no such file.

    Raises:
        ValueError: ``state`` is that of another evolution, or damaged.
    """
    return _read(state, plan) if state and state.exists() else Evolved()


def _plain(plan: Evolution) -> dict[str, Any]:
    """JSON values; a limit in floats is its number, as in states of before there were others."""
    limit = plan.limit.to_json() if plan.limit.in_bytes else plan.limit.amount
    return {**asdict(plan), "rows": list(plan.rows), "limit": limit}


def _read(state: Path, plan: Evolution) -> Evolved:
    try:
        read = json.loads(state.read_text())
        found, candidates = read.pop("plan"), [tuple(c) for c in read.pop("candidates")]
        evolved = Evolved(candidates=candidates, **read)
        whole = len(candidates) == len(evolved.scores)
        whole = whole and len(candidates) == sum(g["new"] for g in evolved.history)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{state}: not the state of an evolution ({error}); remove it") from error
    if found != _plain(plan) or not whole:
        raise ValueError(
            f"{state}: the state of another evolution; remove it or take another --out"
        )
    return evolved
