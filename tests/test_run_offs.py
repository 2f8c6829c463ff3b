"""The recipe of a search: what it writes, and its run-off."""

from __future__ import annotations

import json
import random
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from seo_rec import apply, methods, recipes
from seo_rec.data.dataset import DataSet
from seo_rec.metrics import Metrics, auc_gain, binary_metrics
from seo_rec.policy import Policy
from seo_rec.search.run_off import Candidate, RunOff, contest, plain, run_off
from seo_rec.search.seo import search_space, select
from seo_rec.train import Trained, Training
from small_recipes import FIT, OFF, SEO, SMALL, policy_of

AND = "trivial-mixed-dimension-and-2x8"


def test_a_raw_search_is_the_selection_of_its_attention(tiny_data: DataSet, tmp_path: Path) -> None:
    policy = recipes.search("seo", tiny_data, tmp_path / "s", SEO, Training(SMALL, FIT)).policy
    record = json.loads((tmp_path / "s/search.json").read_text())
    found = record["record"]["searches"]["8"]
    alpha = torch.tensor(found["attention"])
    assert alpha.sum().item() == pytest.approx(1) and alpha.shape == (7, 4)
    counts = {f.name: len(f.lookups) for f in policy.features}
    assert sum(counts.values()) == 14 and min(counts.values()) >= 1
    top = found["features"][int(alpha.flatten().argmax()) // 4]
    assert counts[top] >= 1 and record["winner"] == policy.decision["winner"] == "seo"
    assert apply.default_budget(policy) == 1600 != policy.num_params
    for strategy in apply.STRATEGIES.values():
        applied = strategy(policy, apply.default_budget(policy))
        assert 1592 < applied.num_params <= 1600 == apply.default_budget(applied)


def test_a_search_in_another_place_is_shared(
    tiny_data: DataSet, tmp_path: Path, trainings: list[str]
) -> None:
    """The raw search and the run-off ask for the same attention; it is trained once."""
    fit_settings = replace(FIT, epochs=1)
    shared = tmp_path / "work"
    recipes.search(
        "seo", tiny_data, tmp_path / "raw", SEO, Training(SMALL, fit_settings), work=shared
    )
    recipes.search(
        "seo",
        tiny_data,
        tmp_path / "off",
        replace(SEO, run_off=OFF),
        Training(SMALL, fit_settings),
        work=shared,
    )
    assert trainings.count("attention over chunks of 8") == 1
    other = replace(SEO, logit_lr=0.5)  # another question is another search, in its own folder
    recipes.search(
        "seo", tiny_data, tmp_path / "other", other, Training(SMALL, fit_settings), work=shared
    )
    assert trainings.count("attention over chunks of 8") == 2


def test_scores_are_those_of_the_policies_that_were_asked_for(
    tiny_data: DataSet, tmp_path: Path, trainings: list[str]
) -> None:
    """Another attention gives other candidates of the same names; both searches share a folder."""
    training, runs = Training(SMALL, replace(FIT, epochs=1)), {}
    for name, lr in (("slow", 1e-6), ("fast", 0.5)):
        settings = replace(SEO, logit_lr=lr, run_off=OFF)
        recipes.search("seo", tiny_data, tmp_path / name, settings, training, work=tmp_path / "w")
        runs[name] = json.loads((tmp_path / name / "search.json").read_text())["record"]["run_off"]
    one = tmp_path / "slow/candidates/seo-8-min0-exact.json"
    assert Policy.load(one) != Policy.load(tmp_path / "fast/candidates" / one.name)
    assert trainings.count("seo-8-min0-exact") >= 2
    slow, fast = (runs[name]["seo-8-min0-exact"]["val_auc"] for name in ("slow", "fast"))
    assert slow != fast


def test_a_run_off_scores_its_candidates(tiny_data: DataSet, tmp_path: Path) -> None:
    found = recipes.search(
        "seo", tiny_data, tmp_path / "s", replace(SEO, run_off=OFF), Training(SMALL, FIT)
    )
    policy = found.policy
    record = json.loads((tmp_path / "s/search.json").read_text())
    scores, winner = record["record"]["run_off"], record["winner"]
    assert {"trivial-2x8", "trivial-4x4", "seo-8-min0-exact", "seo-8-min1-round-robin"} <= set(
        scores
    )
    assert all(s["params"] <= 1600 for s in scores.values())
    real = {n: s for n, s in scores.items() if "same_as" not in s}
    assert real[winner]["val_auc"] >= real["trivial-2x8"]["val_auc"]
    assert all(s["val_auc"] - real[s["against"]]["val_auc"] == s["gain"] for s in real.values())
    assert policy.decision["winner"] == winner
    assert record["decision"] == policy.decision
    said = {"method": "seo", "winner": winner, "searched": True}
    assert policy.decision == {**found.decision, **said}
    assert policy.budget.params == 1600
    attention = record["record"]["searches"]["8"]["attention"]
    space = search_space(tiny_data.schema, SEO, seed=0)
    chosen = select(space, torch.tensor(attention), SEO.chosen(7), SEO.min_chunks)
    assert Policy.load(tmp_path / "s/searched.json") == apply.exact(chosen, 1600) == found.searched
    saved = Policy.load(tmp_path / "s/candidates" / f"{winner}.json")
    assert saved == policy == Policy.load(tmp_path / "s/policy.json")


def test_candidates_by_id_have_a_row_per_id_and_fill_the_budget(tiny_data: DataSet) -> None:
    """Wherever they fit: exactly where all tables have room for two columns."""
    schema = tiny_data.schema
    rows = {c.name: (c.vocab_size or 0) + 1 for c in schema.features}
    fits = 2 * sum(rows.values())
    for params, names in (
        (fits - 1, set()),
        (fits, {"trivial-no-search", "trivial-mixed-dimension"}),
        (2 * fits - 1, {"trivial-no-search", "trivial-mixed-dimension"}),
        (2 * fits, {"trivial-no-search", "trivial-mixed-dimension", AND}),
        (9 * fits, {"trivial-no-search", "trivial-mixed-dimension", AND}),
    ):
        shape = plain.Shape(params, dim=1, chunk_dim=1, widest=32, seed=0)
        found = [*plain.by_id(tiny_data, shape), *plain.both(tiny_data, shape)]
        assert {c.name.replace("1x1", "2x8") for c in found} == names
        for policy in (candidate.policy for candidate in found):
            own = {k.table: f.name for f in policy.features for k in f.lookups if k.address == "id"}
            assert {name: policy.table(t).num_rows for t, name in own.items()} == rows
            widest = max(policy.table(t).dim for t in own)
            assert widest <= shape.widest
            unspent = params - policy.num_params
            assert 0 <= unspent < min(t.dim for t in policy.tables) or widest == shape.widest
            assert set(policy.vocabularies) == set(rows)


def test_own_and_shared_tables_stand_side_by_side(tiny_data: DataSet) -> None:
    """The mixed dimension of half the budget, then the chunks of what is left, seeds and all."""
    shape = plain.Shape(6400, dim=16, chunk_dim=8, widest=32, seed=3)
    (candidate,) = plain.both(tiny_data, shape)
    both = candidate.policy
    assert candidate.name == AND and candidate.of_both_kinds
    own = [t for t in both.tables if t.name.startswith("own ")]
    left = shape.params - sum(t.num_rows * t.dim for t in own)
    assert left == shape.params / 2
    shared = methods.multi_size(tiny_data.schema, left, 16, lookups=2, seed=3)
    assert both.tables == (*own, *shared.tables)
    for feature, of in zip(both.features, shared.features, strict=True):
        first, *rest = feature.lookups
        assert (first.table, first.address) == (f"own {feature.name}", "id")
        assert tuple(k for k in rest if k.table != f"own {feature.name}:last") == of.lookups


def test_a_run_off_may_be_told_to_hash_all(tiny_data: DataSet, tmp_path: Path) -> None:
    settings, scores = replace(SEO, budget_rows=400), []
    for by_id in (True, False):
        rules = replace(OFF, by_id=by_id)
        out = tmp_path / str(by_id)
        recipes.search(
            "seo",
            tiny_data,
            out,
            replace(settings, run_off=rules),
            Training(SMALL, replace(FIT, epochs=1)),
        )
        scores.append(json.loads((out / "search.json").read_text())["record"]["run_off"])
    assert set(scores[0]) - set(scores[1]) == {
        "trivial-no-search",
        "trivial-mixed-dimension",
        AND,
        "trivial-frequent-16",
        "trivial-frequent-8",
        "seo-8-by-id",
    }
    first = AND if scores[0][AND]["gain_over_first"] > 0 else "trivial-2x8"
    for found, incumbent in zip(scores, (first, "trivial-2x8"), strict=True):
        assert {s["against"] for n, s in found.items() if n.startswith("trivial")} == {incumbent}
    policies = [Policy.load(p) for p in (tmp_path / "False/candidates").glob("*.json")]
    assert {k.address for p in policies for f in p.features for k in f.lookups} == {"hash"}


AGAIN = 7919  # what a run-off adds to the seed of the second training


def scripted_run_off(
    monkeypatch: pytest.MonkeyPatch,
    data: DataSet,
    out: Path,
    quality: dict[str, float],
    rules: RunOff,
) -> tuple[str, dict[str, dict[str, Any]], dict[tuple[str, int], Any]]:
    """The real run-off over made-up models: candidate n's logits are labels plus noise by seed."""
    labels = data.labels("val")
    rng = np.random.default_rng(sum(map(ord, out.name)))
    logits = {
        (n, seed): q * labels + rng.normal(size=labels.size)
        for n, q in quality.items()
        for seed in (0, AGAIN)
    }

    def fit_policy(
        data: DataSet, policy: Policy, training: Training, out: Path | None, title: str
    ) -> Trained:
        name = title.removesuffix(", second seed")
        return Trained((name, training.fit.seed), SimpleNamespace(seconds=1.0))

    def evaluate(model: tuple[str, int], stream: Any) -> tuple[Metrics, Any, Any]:
        return binary_metrics(logits[model], labels), logits[model], labels

    monkeypatch.setattr(contest, "fit_policy", fit_policy)
    monkeypatch.setattr(contest, "evaluate", evaluate)
    candidates = [
        Candidate(n, methods.monolithic(data.schema, 16 * (i + 1), 16), n.startswith("seo"))
        for i, n in enumerate(quality)
    ]
    outcome = run_off(data, candidates, rules, Training(SMALL, FIT), out / "scores")
    says_what_was_decided(outcome)
    return outcome.winner.name, outcome.scores, logits


def says_what_was_decided(outcome: contest.Outcome) -> None:
    """The winner against the best of the other kind, and by how much it was better there."""
    decision, scores = outcome.decision, outcome.scores
    winner, rival = decision["winner"], decision["against"]
    assert winner == outcome.winner.name
    assert decision["kind"] == ("attention" if outcome.winner.searched else "plain")
    assert outcome.winner.searched == winner.startswith("seo") != rival.startswith("seo")
    difference = scores[winner]["val_auc"] - scores[rival]["val_auc"]
    if winner.startswith("seo"):
        assert decision["gain"] == pytest.approx(difference, abs=1e-12)
        assert decision["gain"] > 0
    else:
        searched = {n: s["val_auc"] for n, s in scores.items() if n.startswith("seo")}
        assert rival == max(searched, key=lambda n: searched[n])
        assert scores[rival]["against"] == winner
        assert decision["gain"] == pytest.approx(difference, abs=1e-12)
    assert decision["standard_error"] > 0


@pytest.mark.parametrize("standard_errors", [0.0, pytest.param(1.0, marks=pytest.mark.slow)])
def test_a_run_off_never_hands_over_less_than_doing_nothing(
    monkeypatch: pytest.MonkeyPatch, tiny_data: DataSet, tmp_path: Path, standard_errors: float
) -> None:
    """Trivial policies and then searched ones: who is replaced lost surely, also over two seeds."""
    labels, winners, refused = tiny_data.labels("val"), set(), 0
    for seed in range(3):
        rng = random.Random(seed)
        rounds = [["trivial-2", "trivial-4", "trivial-8"], ["seo-a", "seo-b", "seo-c"]]
        quality = {n: rng.uniform(0.5, 1.0) for names in rounds for n in names}
        rules = RunOff(epochs=1, standard_errors=standard_errors, cost=0)
        winner, scores, logits = scripted_run_off(
            monkeypatch, tiny_data, tmp_path / str(seed), quality, rules
        )
        incumbent = "trivial-2"
        for names in rounds:
            replaced_by = incumbent
            for name in sorted(names, key=lambda n: -scores[n]["val_auc"]):
                score = scores[name]
                assert score["against"] == incumbent
                difference = score["val_auc"] - scores[incumbent]["val_auc"]
                assert score["gain"] == pytest.approx(difference, abs=1e-12)
                sure = score["gain"] > standard_errors * score["standard_error"]
                if sure and replaced_by == incumbent:
                    both = [np.stack([logits[n, s] for s in (0, AGAIN)]) for n in (name, incumbent)]
                    gain, error = auc_gain(*both, labels)
                    if gain > standard_errors * error:
                        replaced_by = name
                    else:
                        refused += 1
            incumbent = replaced_by
        assert winner == incumbent
        assert scores[winner]["val_auc"] >= scores["trivial-2"]["val_auc"]
        winners.add(winner)
    assert len(winners) >= 2 and refused  # there was something to decide


def test_equal_candidates_are_trained_once(
    monkeypatch: pytest.MonkeyPatch, tiny_data: DataSet, tmp_path: Path, trainings: list[str]
) -> None:
    policy = policy_of(tiny_data)
    candidates = [
        Candidate("trivial-2x8", policy),
        Candidate("seo-x", policy_of(tiny_data, 800), True),
        Candidate("seo-y", replace(policy), True),
    ]
    outcome = run_off(tiny_data, candidates, OFF, Training(SMALL, FIT), tmp_path / "scores")
    assert sorted(trainings) == ["seo-x", "trivial-2x8"]
    assert outcome.scores["seo-y"] == {"same_as": "trivial-2x8", "params": 1600}
    assert outcome.winner.name in ("trivial-2x8", "seo-x")


def test_the_logits_of_a_candidate_are_whole_or_absent(
    monkeypatch: pytest.MonkeyPatch, tiny_data: DataSet, tmp_path: Path
) -> None:
    def dies(file: Any, z: np.ndarray, **_: Any) -> None:
        with open(file, "wb") if isinstance(file, Path) else nullcontext(file) as stream:
            stream.write(z.tobytes()[:8])
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", dies)
    candidates = [Candidate("x", policy_of(tiny_data))]
    with pytest.raises(KeyboardInterrupt):
        run_off(tiny_data, candidates, OFF, Training(SMALL, FIT), tmp_path / "s")
    assert (tmp_path / "s").is_dir() and not list(tmp_path.glob("s/*"))
