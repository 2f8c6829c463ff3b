"""Evolution: the optimum of a known objective, no candidate twice, no parent lost or changed, every
width as likely as the next, limits kept, and the same outcome after an interruption."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seo_rec.policy import Allowance, PolicyError
from seo_rec.search.evolution import Candidate, Evolution, Evolved, evolve

TARGET = (3, 7, 1, 8, 5, 2)
PLAN = Evolution(rows=(40, 3, 17, 5, 90, 11), most=8, generations=60)


def near(target: Candidate) -> tuple[list[Candidate], object]:
    """A separable objective, largest at ``target``, and the list of what it was asked."""
    asked: list[Candidate] = []

    def score(candidates: list[Candidate]) -> list[float]:
        asked.extend(candidates)
        return [-distance(c, target) for c in candidates]

    return asked, score


def distance(candidate: Candidate, target: Candidate) -> float:
    return float(sum((a - b) ** 2 for a, b in zip(candidate, target, strict=True)))


@pytest.mark.parametrize("seed", range(4))
def test_it_finds_the_optimum_and_asks_nothing_twice(seed: int) -> None:
    asked, score = near(TARGET)
    plan = replace(PLAN, seed=seed)
    evolved = evolve(plan, score)
    assert evolved.ranked(plan)[0] == TARGET and max(evolved.scores) == 0
    assert len(set(asked)) == len(asked) == len(evolved.candidates)
    assert len(asked) <= 60 * 20 < 8**6 / 100
    best = [g["score"] for g in evolved.history]
    assert best == sorted(best) and len(best) == 60  # the best is never lost


def test_random_candidates_alone_would_not_find_it() -> None:
    """What the test above rests on: as many draws come nowhere near."""
    rng = np.random.default_rng(0)
    drawn = [PLAN.drawn(rng) for _ in range(1200)]
    assert min(distance(c, TARGET) for c in drawn) > 0


def test_the_best_is_that_of_the_scores_not_of_the_order() -> None:
    evolved = Evolved([(1, 1), (2, 2), (3, 1), (1, 3)], [0.1, 0.7, 0.9, 0.9])
    plan = Evolution(rows=(10, 1), most=3)
    assert evolved.ranked(plan) == [(1, 3), (3, 1), (2, 2), (1, 1)]  # equal scores: the smaller


def test_mutation_leaves_its_parent_and_draws_every_width() -> None:
    rng, parent = np.random.default_rng(0), (4, 4)
    plan = Evolution(rows=(1, 1), most=4, mutation_rate=0.5)
    counts = np.zeros((2, 5))
    for _ in range(8000):
        child = plan.mutated(parent, rng)
        for i, d in enumerate(child):
            counts[i, d] += 1
    assert parent == (4, 4)
    assert (counts[:, 0] == 0).all()  # 1 to most, both included, whatever the parent
    expected = [1000, 1000, 1000, 5000]
    assert (abs(counts[:, 1:] - expected) < 5 * np.sqrt(expected)).all()


def test_crossover_cuts_anywhere_between_the_ends() -> None:
    rng = np.random.default_rng(0)
    first, second = (1,) * 5, (2,) * 5
    plan = Evolution(rows=(1,) * 5, most=2)
    children = {plan.crossed(first, second, rng) for _ in range(200)}
    assert children == {first[:k] + second[k:] for k in (1, 2, 3, 4)}
    assert Evolution(rows=(1,), most=2).crossed((1,), (2,), rng) == (1,)


def test_parents_are_the_best_of_all_generations() -> None:
    """Children of crossover have every width from one of the first ``parents`` of the ranking."""
    plan = Evolution(rows=(1,) * 4, most=8, mutations=0, crossovers=50, parents=2)
    known = [(1, 2, 3, 4), (5, 6, 7, 8), (3, 3, 3, 3)]
    children = plan.offspring(known, 1)
    assert children and not set(children) & set(known)
    for child in children:
        assert all(d in {first[i] for first in known[:2]} for i, d in enumerate(child))


def test_a_space_that_is_used_up_ends_quietly() -> None:
    plan = Evolution(rows=(1, 1), most=2, generations=5)
    asked, score = near((1, 2))
    evolved = evolve(plan, score)
    assert sorted(asked) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert [g["new"] for g in evolved.history] == [4, 0, 0, 0, 0]


@pytest.mark.parametrize("limit", [166, 200, 500])
def test_no_candidate_is_above_the_limit(limit: int) -> None:
    plan = replace(PLAN, limit=Allowance(limit), generations=20)
    asked, score = near((8,) * 6)
    best = evolve(plan, score).ranked(plan)[0]
    assert asked and max(plan.size(c) for c in asked) <= limit
    assert min(min(c) for c in asked) >= 1
    assert limit == 166 or plan.size(best) > 0.9 * limit
    with pytest.raises(PolicyError, match=r"budget of 165 .* takes 166"):
        replace(PLAN, limit=Allowance(165))


@pytest.mark.parametrize("precision, least", [("float16", 2 * 166), ("int8", 5 * 166)])
def test_a_limit_in_bytes_counts_stored_rows(precision: str, least: int) -> None:
    """A row of int8 has 4 bytes more than columns: twice the width is not twice the bytes."""
    limit = Allowance(2 * least, "bytes", precision)
    plan = replace(PLAN, limit=limit, generations=20)
    asked, score = near((8,) * 6)
    best = evolve(plan, score).ranked(plan)[0]
    sizes = [sum(r * limit.row(d) for r, d in zip(PLAN.rows, c, strict=True)) for c in asked]
    assert max(sizes) <= 2 * least and sizes == [plan.size(c) for c in asked]
    assert plan.size(best) > 0.9 * 2 * least and min(min(c) for c in asked) >= 1
    with pytest.raises(PolicyError, match=rf"budget of {least - 1} bytes, .* takes {least}"):
        replace(PLAN, limit=limit.with_amount(least - 1))


def test_a_state_from_before_limits_in_bytes_goes_on(tmp_path: Path) -> None:
    state, plan = tmp_path / "state.json", replace(PLAN, limit=Allowance(700), generations=2)
    evolve(plan, near(TARGET)[1], state)
    assert json.loads(state.read_text())["plan"]["limit"] == 700
    in_bytes = replace(plan, limit=Allowance(7000, "bytes", "int8"))
    with pytest.raises(ValueError, match="state of another evolution"):
        evolve(in_bytes, near(TARGET)[1], state)
    state.unlink()
    whole = evolve(in_bytes, near(TARGET)[1], state)
    assert evolve(in_bytes, near(TARGET)[1], state).scores == whole.scores


def test_what_goes_on_is_what_was_not_interrupted(tmp_path: Path) -> None:
    plan = replace(PLAN, generations=12, limit=Allowance(700))
    _, score = near(TARGET)
    whole = evolve(plan, score, tmp_path / "whole.json")
    calls: list[int] = []

    def failing(candidates: list[Candidate]) -> list[float]:
        calls.append(len(candidates))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return score(candidates)

    state = tmp_path / "cut.json"
    with pytest.raises(KeyboardInterrupt):
        evolve(plan, failing, state)
    assert len(json.loads(state.read_text())["history"]) == 4
    again = evolve(plan, failing, state)
    assert len(calls) == 5 + 8  # the generation that was cut, and those after it
    assert (again.candidates, again.scores, again.history) == (
        whole.candidates,
        whole.scores,
        whole.history,
    )
    finished = evolve(plan, failing, state)
    assert len(calls) == 13 and finished.scores == whole.scores
    assert finished.seconds == again.seconds


def test_another_state_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    plan = replace(PLAN, generations=2)
    evolve(plan, near(TARGET)[1], state)
    with pytest.raises(ValueError, match="state of another evolution"):
        evolve(replace(plan, seed=9), near(TARGET)[1], state)
    document = json.loads(state.read_text())
    document["scores"].pop()
    state.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="state of another evolution"):
        evolve(plan, near(TARGET)[1], state)
    state.write_text("{")
    with pytest.raises(ValueError, match="not the state of an evolution"):
        evolve(plan, near(TARGET)[1], state)
