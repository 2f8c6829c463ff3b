"""Proposals of crosses: what is ranked first, by which figures, and that no label leaks."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seo_rec.data.crosses import Cross
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.synthetic import synthetic
from seo_rec.schema import DataError
from seo_rec.search import proposals
from seo_rec.search.proposals import (
    Pairs,
    Proposal,
    ProposalSettings,
    Sample,
    crosses_of,
    greedy,
    main_effects,
    propose,
    read_sample,
)

SETTINGS = ProposalSettings()


def sample(columns: dict[str, np.ndarray], labels: np.ndarray) -> Sample:
    codes = [np.unique(of, return_inverse=True)[1] for of in columns.values()]
    return Sample(tuple(columns), np.stack(codes), labels.astype(np.float64), np.ones(len(labels)))


@pytest.fixture(scope="module")
def planted() -> Sample:
    """The label follows a and b together, and a little c; a2 is a with other names; u is unique."""
    rng = np.random.default_rng(0)
    n = 6_000
    columns = {c: rng.integers(0, k, n) for c, k in (("a", 4), ("b", 5), ("c", 6), ("d", 400))}
    logits = np.where((columns["a"] + columns["b"]) % 2, 1.0, -1.0) + 0.3 * columns["c"] - 1
    labels = rng.random(n) < 1 / (1 + np.exp(-logits))
    columns |= {"a2": 7 - columns["a"], "u": np.arange(n)}
    return sample(columns, labels)


def test_what_two_columns_say_together_is_first(planted: Sample) -> None:
    found = greedy(Pairs(planted, SETTINGS))
    assert found[0].cross == Cross(("a", "b")) and found[0].num_ids == 20
    assert found[0].gain > 10 * found[0].standard_error > 0
    assert found[0].gain > 0.05


def test_a_pair_that_says_the_same_again_is_not_proposed(planted: Sample) -> None:
    """Alone ``b*a2`` has the gain of ``a*b``; after it, none is left of it."""
    pairs = Pairs(planted, SETTINGS)
    first, again = pairs.score(0, 1), pairs.score(1, 4)
    assert first is not None and again is not None
    assert again[0].gain == pytest.approx(first[0].gain, rel=1e-9)
    names = [p.cross.name for p in greedy(Pairs(planted, SETTINGS))]
    assert names[0] == "a*b" and "b*a2" not in names


def test_a_column_that_follows_from_another_is_not_crossed_with_it(planted: Sample) -> None:
    pairs, at = Pairs(planted, SETTINGS), planted.names.index
    assert pairs.score(at("a"), at("a2")) is None
    assert pairs.score(at("a"), at("u")) is None  # all follows from an id of every row
    assert pairs.score(at("a"), at("c")) is not None


def test_shuffled_labels_propose_nothing(planted: Sample) -> None:
    """Rates that held a row's own label would make pairs of many ids look best."""
    for seed in range(5):
        labels = np.random.default_rng(seed).permutation(planted.labels_B)
        pairs = Pairs(replace(planted, labels_B=labels), SETTINGS)
        scored = [pairs.score(a, b) for a in range(6) for b in range(a)]
        gains = [s[0].gain for s in scored if s is not None]
        assert len(gains) == 9
        assert np.mean(gains) < 0 and max(gains) < 5e-4


def test_no_row_has_a_part_in_its_own_score(planted: Sample) -> None:
    """Other labels in one fold leave the effects on the rows of that fold as they are."""
    fold_B = np.arange(len(planted.labels_B)) % SETTINGS.folds
    flipped = replace(
        planted, labels_B=np.where(fold_B == 1, 1 - planted.labels_B, planted.labels_B)
    )
    before, after = (main_effects(s, fold_B, SETTINGS) for s in (planted, flipped))
    assert before[fold_B == 1].tolist() == after[fold_B == 1].tolist()
    assert (before[fold_B != 1] != after[fold_B != 1]).mean() > 0.9


@pytest.mark.parametrize("columns", [(0, 1), (0, 1, 2)])
def test_gains_are_as_defined(columns: tuple[int, ...]) -> None:
    """Effects and gain of a pair or triple in plain Python, of rows with weights."""
    rng = np.random.default_rng(1)
    n = 300
    made = {name: rng.integers(0, k, n) for name, k in (("a", 3), ("b", 9), ("c", 2))}
    s = replace(sample(made, rng.random(n) < 0.4), weights_B=rng.uniform(0.5, 2, n))
    pairs = Pairs(s, ProposalSettings(strength=3.0, folds=3))
    scored = pairs.score(*columns)
    assert scored is not None
    proposal, effects = scored

    def sigmoid(z: float) -> float:
        return 1 / (1 + math.exp(-z))

    def loss(z: float, y: float) -> float:
        return -math.log(sigmoid(z) if y else 1 - sigmoid(z))

    rows = range(n)
    keys = [tuple(int(s.codes_CB[c, i]) for c in columns) for i in rows]
    m, y, w = pairs.m_B.tolist(), s.labels_B.tolist(), s.weights_B.tolist()
    gains = []
    for i in rows:
        others = [j for j in rows if j % 3 != i % 3 and keys[j] == keys[i]]
        g = sum(w[j] * (y[j] - sigmoid(m[j])) for j in others)
        h = sum(w[j] * sigmoid(m[j]) * (1 - sigmoid(m[j])) for j in others)
        d = g / (h + 3.0)
        assert effects[i] == pytest.approx(d, abs=1e-12)
        gains.append(loss(m[i], y[i]) - loss(m[i] + d, y[i]))
    mean = sum(a * b for a, b in zip(w, gains, strict=True)) / sum(w)
    assert proposal.gain == pytest.approx(mean, abs=1e-12)
    squares = sum((a * (b - mean)) ** 2 for a, b in zip(w, gains, strict=True))
    assert proposal.standard_error == pytest.approx(math.sqrt(squares) / sum(w), abs=1e-12)
    assert proposal.num_ids == len(set(keys))


@pytest.fixture(scope="module")
def of_three() -> Sample:
    """The label follows a and b together, and a, b and c together; d and e are noise."""
    rng = np.random.default_rng(3)
    n = 8_000
    columns = {c: rng.integers(0, k, n) for c, k in zip("dabce", (30, 4, 5, 3, 9), strict=True)}
    a, b, c = (columns[name] for name in "abc")
    logits = np.where((a + b) % 2, 0.5, -0.5) + np.where((a + b + c) % 2, 1.0, -1.0)
    return sample(columns, rng.random(n) < 1 / (1 + np.exp(-logits)))


def test_a_triple_is_found_on_request_after_its_pair(of_three: Sample) -> None:
    pairs = [p.cross.name for p in greedy(Pairs(of_three, SETTINGS))]
    assert pairs[0] == "a*b" and not any(name.count("*") > 1 for name in pairs)
    found = greedy(Pairs(of_three, SETTINGS), order=3)
    assert [p.cross.name for p in found[:2]] == ["a*b", "a*b*c"]
    assert found[1].gain > 10 * found[1].standard_error and found[1].num_ids == 4 * 5 * 3
    assert greedy(Pairs(of_three, SETTINGS), 1, order=3) == found[:1]
    # what d or e add to a pair is noise
    assert all(p.gain < 1e-3 for p in found[2:])


def test_triples_are_tried_for_taken_pairs_alone(of_three: Sample, monkeypatch) -> None:
    """At most C - 2 for each pair that is taken, and none twice."""
    pairs, scored = Pairs(of_three, SETTINGS), list[tuple[int, ...]]()
    score = pairs.score

    def noted(*columns: int):
        scored.append(columns)
        return score(*columns)

    monkeypatch.setattr(pairs, "score", noted)
    found = greedy(pairs, 3, order=3)
    taken = [p.cross.columns for p in found if len(p.cross.columns) == 2]
    names = of_three.names
    triples = {columns for columns in scored if len(columns) == 3}
    assert triples and len(triples) <= len(taken) * (len(names) - 2)
    of = [{names[c] for c in columns} for columns in triples]
    assert all(any(set(pair) <= triple for pair in taken) for triple in of)


def test_shuffled_labels_propose_no_triple(of_three: Sample) -> None:
    for seed in range(3):
        labels = np.random.default_rng(seed).permutation(of_three.labels_B)
        pairs = Pairs(replace(of_three, labels_B=labels), SETTINGS)
        gains = [s[0].gain for c in itertools.combinations(range(5), 3) if (s := pairs.score(*c))]
        assert len(gains) == 10 and np.mean(gains) < 0 and max(gains) < 5e-4


def test_a_column_that_follows_from_two_others_makes_no_triple(of_three: Sample) -> None:
    codes = of_three.codes_CB
    both = replace(of_three, codes_CB=np.stack([*codes, codes[1] + 4 * codes[2]]))
    pairs = Pairs(replace(both, names=(*both.names, "ab")), SETTINGS)
    assert pairs.score(1, 2, 5) is None and pairs.score(1, 3, 5) is None
    assert pairs.score(1, 2, 3) is not None


@pytest.mark.parametrize("text", ["8^4", "8^1", "all^3", "a*b^3", "^3", "8^"])
def test_an_order_needs_a_number(text: str) -> None:
    with pytest.raises(DataError, match=r"allowed: a number, and 2 or 3 after \^ or as --cross-or"):
        proposals.split_order(text)
    assert proposals.split_order("8^3") == ("8", 3) and proposals.split_order("a*b") == ("a*b", 2)


def test_main_effects_are_the_penalised_optimum() -> None:
    """Of the other folds' rows: the gradient of their penalised log loss is zero."""
    rng = np.random.default_rng(2)
    n = 400
    s = sample({"a": rng.integers(0, 3, n), "b": rng.integers(0, 4, n)}, rng.random(n) < 0.3)
    settings = ProposalSettings(strength=2.0, folds=2, sweeps=60)
    fold_B = np.arange(n) % 2
    m_B = main_effects(s, fold_B, settings)
    for fold in range(2):
        held = np.flatnonzero(fold_B == fold)
        of_pair = {(a, b): m_B[i] for i in held for a, b in [s.codes_CB[:, i]]}
        assert len(of_pair) == 12
        # additive: differences between ids of a are the same for every id of b
        table = np.array([[of_pair[a, b] for b in range(4)] for a in range(3)])
        assert np.abs(table - table[:1] - table[:, :1] + table[0, 0]).max() < 1e-9
        train = np.flatnonzero(fold_B != fold)
        p = 1 / (1 + np.exp(-np.array([of_pair[tuple(s.codes_CB[:, i])] for i in train])))
        rate = s.labels_B[train].mean()
        bias = math.log(rate / (1 - rate))
        residual = s.labels_B[train] - p
        sums_a = np.bincount(s.codes_CB[0, train], residual)
        sums_b = np.bincount(s.codes_CB[1, train], residual)
        # at the optimum strength * w_id = sum of the residuals of its rows
        fitted = bias + (sums_a / 2.0)[:, None] + (sums_b / 2.0)[None, :]
        assert np.abs(fitted - table).max() < 1e-6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    out: Path = tmp_path_factory.mktemp("proposals") / "data"
    synthetic(out, rows=3_000, missing_rate=0.1, multivalent=1, strong_vocab=5, weak_vocab=4)
    return open_data(out)


def test_samples_are_training_rows_in_a_seeded_order(data: DataSet) -> None:
    """Each column's codes tell the same rows apart as its ids; a missing id has a code."""
    whole = read_sample(data, 10**6, seed=3)
    assert whole.labels_B.sum() == data.labels("train").sum()
    assert "bag_0" not in whole.names
    for name, codes_B in zip(whole.names, whole.codes_CB, strict=True):
        counts = data.counts(name)[1].tolist()
        missing = len(whole.labels_B) - sum(counts)
        assert missing > 0
        assert sorted(np.bincount(codes_B).tolist()) == sorted([*counts, missing])
    part = read_sample(data, 500, seed=3)
    assert part.codes_CB.shape == (len(whole.names), 500)
    assert part.labels_B.tolist() == whole.labels_B[:500].tolist()
    assert part.labels_B.tolist() != read_sample(data, 500, seed=4).labels_B.tolist()


def test_what_the_option_asks_for(data: DataSet) -> None:
    names = [c.name for c in data.schema.features if c.kind == "categorical"]
    every = crosses_of(data, "all", 0)
    assert len(every) == len(names) * (len(names) - 1) // 2
    assert crosses_of(data, f"{names[1]}*{names[0]}", 0) == (Cross((names[1], names[0])),)
    found = propose(data, seed=0)
    assert crosses_of(data, "2", 0) == tuple(p.cross for p in found[:2])
    assert propose(data, seed=0) == found
    triples = propose(data, 6, order=3)
    assert crosses_of(data, "6^3", 0) == tuple(p.cross for p in triples)


def test_what_cannot_be_proposed_is_refused(data: DataSet, monkeypatch) -> None:
    for bad in ({"rows": 0}, {"folds": 1}, {"sweeps": 0}, {"strength": 0.0}):
        with pytest.raises(ValueError, match=rf"{next(iter(bad))} is .*; allowed: "):
            ProposalSettings(**bad)
    one = replace(data.schema, columns=data.schema.columns[:1])
    with pytest.raises(DataError, match="crosses need two or more"):
        propose(DataSet(data.path, one))
    regression = replace(data.schema, label_kind="regression")
    with pytest.raises(DataError, match="with a number of crosses to propose needs a label of 0"):
        propose(DataSet(data.path, regression))


def test_pairs_are_tried_where_their_gain_is_clear(monkeypatch, data: DataSet) -> None:
    def of(gains: list[tuple[float, float]]) -> list[Proposal]:
        return [Proposal(Cross(("a", str(i))), g, e, 9) for i, (g, e) in enumerate(gains)]

    all_of = of([(2e-4, 1e-4), (2e-4, 3e-4), (1e-4, 9e-5), (9e-5, 1e-6)])
    monkeypatch.setattr(proposals, "propose", lambda *_: all_of)
    assert proposals.propose_worthwhile(data) == [all_of[0], all_of[2]]
