"""The named runs: what a folder holds, what is refused, what is not done twice, what is chosen."""

from __future__ import annotations

import json
import random
import shutil
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from seo_rec import apply, methods, recipes
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.synthetic import synthetic
from seo_rec.metrics import Metrics, auc_gain, binary_metrics
from seo_rec.model import ModelSettings
from seo_rec.policy import Feature, Lookup, Policy, Table
from seo_rec.recipes import Comparison, comparing
from seo_rec.runs import Run, RunError, command_line, describe, read_runs
from seo_rec.runs.records import REGRESSION_METRICS
from seo_rec.schema import DataError
from seo_rec.search.run_off import Candidate, RunOff, contest, plain
from seo_rec.search.seo import SeoSearch, search_space, select
from seo_rec.search.seo import search as seo_search
from seo_rec.train import FitSettings, Trained, Training, policy_fit

SMALL = ModelSettings(hidden=(8,))
FIT = FitSettings(epochs=2, batch_size=200, row_lr=0.02, dense_lr=0.02)
SEO = SeoSearch(budget_rows=100, logit_lr=0.05, run_off=None)
OFF = RunOff(epochs=1, chunk_dims=(8,), trivial_lookups=(2, 4), cost=0)
NAMES_OF_CLICKS = {f.name for f in fields(Run)} - {"task", "labels", *REGRESSION_METRICS}
AND = "trivial-mixed-dimension-and-2x8"


def policy_of(data: DataSet, params: int = 1600) -> Policy:
    return recipes.method_policy("multi-size", data, params, 16)


@pytest.fixture(scope="module")
def trained(tiny_data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training run; read-only."""
    out = tmp_path_factory.mktemp("run") / "trained"
    recipes.train(tiny_data, policy_of(tiny_data), out, Training(SMALL, FIT), method="multi-size")
    return out


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The titles of the models that are trained from now on."""
    titles: list[str] = []
    fit = policy_fit.fit

    def watched(*arguments: Any, title: str, **more: Any) -> Any:
        titles.append(title)
        return fit(*arguments, title=title, **more)

    for module in (policy_fit, seo_search):
        monkeypatch.setattr(module, "fit", watched)
    return titles


# ---- one training run --------------------------------------------------------------------


def test_a_training_run_leaves_its_whole_story(tiny_data: DataSet, trained: Path) -> None:
    names = {p.name for p in trained.iterdir()}
    assert names >= {"run.json", "policy.json", "result.json", "metrics.jsonl"}
    assert (trained / "best").is_dir() and (trained / "checkpoints").is_dir()
    asked = json.loads((trained / "run.json").read_text())
    assert asked["fit"] == FIT.as_json() and asked["model"]["hidden"] == [8]
    assert asked["data_fingerprint"] == tiny_data.schema.fingerprint
    assert Policy.load(trained / "policy.json") == policy_of(tiny_data)
    result = json.loads((trained / "result.json").read_text())
    assert set(result) == NAMES_OF_CLICKS
    assert result["embedding_params"] == result["budget"] == 1600
    assert {"git_sha", "cpu", "threads", "torch", "date"} <= set(result["environment"])


def test_evaluation_repeats_the_result(tiny_data: DataSet, trained: Path) -> None:
    """The stored model gives the stored numbers again, on the splits they were taken from."""
    run = json.loads((trained / "result.json").read_text())
    test = recipes.evaluate_served(trained, tiny_data, "test").metrics
    assert (test.auc, test.log_loss, test.normalized_entropy, test.calibration) == (
        run["test_auc"],
        run["test_logloss"],
        run["test_normalized_entropy"],
        run["test_calibration"],
    )
    val = recipes.evaluate_served(trained, tiny_data, "val").metrics
    assert (val.auc, val.log_loss) == (run["val_auc"], run["val_logloss"])
    assert test.num_rows == tiny_data.schema.num_rows["test"]


def test_an_unfinished_run_is_not_evaluated(
    tiny_data: DataSet, tmp_path: Path, trained: Path
) -> None:
    for name in ("result.json", "best", "complete.json"):
        out = shutil.copytree(trained, tmp_path / name, ignore=shutil.ignore_patterns(name))
        with pytest.raises(RunError, match="not a finished training run"):
            recipes.evaluate_served(out, tiny_data, "test")


def test_data_of_another_shape_is_refused(trained: Path, tmp_path: Path) -> None:
    """A model is evaluated on data with its columns; one numeric column more is an error too."""
    other = {"strong": 2, "weak": 2, "noise": 2, "strong_vocab": 9, "noise_vocab": 9}
    synthetic(tmp_path / "without-bag", rows=300, numeric=1, **other)
    with pytest.raises(DataError, match="bag_0"):
        recipes.evaluate_served(trained, open_data(tmp_path / "without-bag"), "test")
    synthetic(tmp_path / "numbers", rows=300, numeric=3, multivalent=1, **other)
    with pytest.raises(RunError, match=r"1 numeric columns.* has 3"):
        recipes.evaluate_served(trained, open_data(tmp_path / "numbers"), "test")


# ---- whose folder is it ------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, differs",
    [
        ({"training": Training(SMALL, replace(FIT, seed=1))}, "differs in fit"),
        ({"training": Training(ModelSettings(hidden=(9,)), FIT)}, "differs in model"),
        ({"method": "other"}, "differs in method"),
        ({"policy": 800}, "differs in policy"),
        (
            {"training": Training(SMALL, replace(FIT, epochs=3)), "method": "other"},
            r"differs in fit.epochs, method\)",
        ),
    ],
    ids=["seed", "model", "method", "policy", "two"],
)
@pytest.mark.parametrize("resume", [False, True])
def test_another_run_in_the_folder_is_named(
    tiny_data: DataSet, trained: Path, change: dict[str, Any], differs: str, resume: bool
) -> None:
    change = {**change, "policy": policy_of(tiny_data, change.get("policy", 1600))}
    asked = {
        "data": tiny_data,
        "out": trained,
        "training": Training(SMALL, FIT),
        "method": "multi-size",
    }
    before = {p: p.stat().st_mtime_ns for p in trained.rglob("*")}
    with pytest.raises(RunError, match=differs):
        recipes.train(**{**asked, **change}, resume=resume)
    assert {p: p.stat().st_mtime_ns for p in trained.rglob("*")} == before


def test_the_same_run_needs_resume(tiny_data: DataSet, trained: Path, trainings: list[str]) -> None:
    asked = (tiny_data, policy_of(tiny_data), trained, Training(SMALL, FIT))
    with pytest.raises(RunError, match="already holds this run; give --resume"):
        recipes.train(*asked, method="multi-size")
    run = recipes.train(*asked, method="multi-size", resume=True)
    assert json.loads((trained / "result.json").read_text()) == json.loads(
        json.dumps(run.to_json())
    )
    assert trainings == []


def test_a_folder_of_something_else_is_left_alone(tiny_data: DataSet, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="is not a run folder"):
        recipes.train(tiny_data, policy_of(tiny_data), tmp_path, Training(SMALL, FIT))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_search_folder_is_no_training_folder(tiny_data: DataSet, tmp_path: Path) -> None:
    recipes.search("seo", tiny_data, tmp_path / "s", SEO, Training(SMALL, replace(FIT, epochs=1)))
    with pytest.raises(RunError, match="holds another run"):
        recipes.train(
            tiny_data, policy_of(tiny_data), tmp_path / "s", Training(SMALL, FIT), resume=True
        )


# ---- features ----------------------------------------------------------------------------


def test_a_policy_that_ignores_a_column_is_refused(tiny_data: DataSet, tmp_path: Path) -> None:
    """Every column is served or named as dropped; silence is refused before anything is trained."""
    whole = policy_of(tiny_data)
    silent = replace(whole, features=whole.features[1:])
    with pytest.raises(RunError, match=r"says nothing about features \['strong_0'\]"):
        recipes.train(tiny_data, silent, tmp_path / "a", Training(SMALL, FIT))
    told = replace(silent, dropped=("strong_0",))
    run = recipes.train(tiny_data, told, tmp_path / "b", Training(SMALL, FIT))
    assert run.policy.endswith("6 features x 2")
    foreign = Feature("weather", (Lookup(whole.tables[0].name),))
    with pytest.raises(RunError, match=r"reads columns \['weather'\] that the data lacks"):
        recipes.train(
            tiny_data,
            replace(whole, features=(*whole.features, foreign)),
            tmp_path / "c",
            Training(SMALL, FIT),
        )


def test_dropped_features_are_warned_about(
    tiny_data: DataSet,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A comparison says of which method and seed, once; a search leaves it to who calls it."""
    # a library's logging set-up, run by another test in this process, may disable all loggers
    monkeypatch.setattr(comparing.log, "disabled", False)
    asked = Comparison(
        data=(tiny_data,),
        methods=("seo-exact",),
        params=1600,
        seeds=2,
        training=Training(SMALL, replace(FIT, epochs=1)),
        settings={"seo": {"min_chunks": 0, "total_chunks": 5}},
    )
    for _ in range(2):
        recipes.compare(asked, tmp_path / "c")
    found = [Policy.load(tmp_path / f"c/searches/seo-exact-seed{s}/policy.json") for s in (0, 1)]
    assert all(p.dropped and p.num_lookups == 5 for p in found)
    assert [r.getMessage() for r in caplog.records if "drops" in r.getMessage()] == [
        f"seo-exact, seed {seed}: the policy drops {', '.join(policy.dropped)}"
        for seed, policy in enumerate(found)
    ]
    assert {f.name for f in found[0].features} | set(found[0].dropped) == {
        c.name for c in tiny_data.schema.features
    }


# ---- search ------------------------------------------------------------------------------


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

    def fit_policy(data: DataSet, policy: Policy, training: Training, title: str) -> Trained:
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
    outcome = contest.run_off(data, candidates, rules, Training(SMALL, FIT), out / "scores")
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
    outcome = contest.run_off(tiny_data, candidates, OFF, Training(SMALL, FIT), tmp_path / "scores")
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
        contest.run_off(tiny_data, candidates, OFF, Training(SMALL, FIT), tmp_path / "s")
    assert (tmp_path / "s").is_dir() and not list(tmp_path.glob("s/*"))


# ---- methods by name ---------------------------------------------------------------------


def test_methods_by_name(tiny_data: DataSet) -> None:
    lookups = {"separate": 1, "separate-cardinality": 1, "monolithic": 1, "multi-size": 2}
    lookups |= {"multi-size-1": 1, "multi-size-4": 4, "multi-size-16": 16}
    for name, k in lookups.items():
        policy = recipes.method_policy(name, tiny_data, 1600, 16)
        assert {len(f.lookups) for f in policy.features} == {k}, name
        assert 1600 - 16 < policy.num_params <= 1600
        assert set(policy.widths) == {16}
    published = {"hashing-trick": 1, "hash-embedding": 2, "hash-embedding-3": 3, "hashednet": 1}
    published |= {"robe-4": 1, "pq": 2, "pq-3": 3, "qr": 2, "qr-3": 3, "hash-embedding-2-p0.2": 2}
    published |= {"tensor": 3, "tensor-2": 2}
    for name, k in published.items():
        for whole in (name, f"multiplexed-{name}"):
            policy = recipes.method_policy(whole, tiny_data, 4000, 16)
            assert {len(f.lookups) for f in policy.features} == {k}, whole
            assert 4000 - 16 < policy.num_params <= 4000
            assert set(policy.widths) == {16}
            assert len(policy.tables) + len(policy.arrays) >= (1 if whole != name else 7)
    weighted = recipes.method_policy("multiplexed-hash-embedding-2-p0.2", tiny_data, 4000, 16)
    shares = {t.dim: t.num_rows * t.dim / 4000 for t in weighted.tables}
    assert shares[2] == pytest.approx(0.2, abs=0.005)
    free = recipes.method_policy("collisionless", tiny_data, 1600, 16)
    sizes = {c.name: c.vocab_size for c in tiny_data.schema.features}
    assert {t.name: t.num_rows for t in free.tables} == {n: v + 1 for n, v in sizes.items()}
    narrow = recipes.method_policy("monolithic", tiny_data, 1600, 12)  # has no chunks to divide
    assert set(narrow.widths) == {12}
    for name in (
        "",
        "SEO",
        "multi-size-",
        "multi-size-x",
        "pq-",
        "pq-0",
        "hashednet-2",
        "pq-2-p0.1",
    ):
        with pytest.raises(ValueError, match="allowed: separate, "):
            recipes.method_policy(name, tiny_data, 1600, 16)
    with pytest.raises(ValueError, match="'seo' needs a search; run `seo-rec search --method seo`"):
        recipes.method_policy("seo", tiny_data, 1600, 16)


# ---- comparison --------------------------------------------------------------------------


SHORT = Training(SMALL, replace(FIT, epochs=1))
OF_SEO = {"seo": {"logit_lr": SEO.logit_lr, "run_off": OFF}}


def comparison(data: DataSet, **other: Any) -> Comparison:
    given = {"methods": ("separate", "monolithic"), "params": 1600, "seeds": 2, "training": SHORT}
    return Comparison(data=(data,), **{**given, **other})


SPECIFIED = {"data", "method", "embedding_params", "seed", "val_auc", "test_auc", "test_logloss"}
SPECIFIED |= {"seconds_per_epoch", "command", "environment"}


def test_a_comparison_is_done_once_and_can_grow(
    tiny_data: DataSet, tmp_path: Path, trainings: list[str]
) -> None:
    first = recipes.compare(comparison(tiny_data), tmp_path / "c")
    assert trainings == ["separate", "monolithic"] * 2
    lines = (tmp_path / "c/results.jsonl").read_text().splitlines()
    assert len(lines) == 4
    for line, run in zip(map(json.loads, lines), first, strict=True):
        assert set(line) >= SPECIFIED and set(line) == NAMES_OF_CLICKS
        assert line["test_auc"] == run.test_auc and line["embedding_params"] <= 1600
        assert line["data"] == "synthetic" and line["environment"]["threads"] >= 1
    assert [(r.method, r.seed) for r in first] == [
        (m, s) for s in (0, 1) for m in ("separate", "monolithic")
    ]
    trainings.clear()
    assert recipes.compare(comparison(tiny_data), tmp_path / "c") == first
    assert trainings == []
    more = comparison(tiny_data, methods=("monolithic", "multi-size-4"), seeds=1)
    runs = recipes.compare(more, tmp_path / "c")
    assert trainings == ["multi-size-4"]
    assert [r.method for r in runs] == ["monolithic", "multi-size-4"]
    assert len((tmp_path / "c/results.jsonl").read_text().splitlines()) == 5


def test_a_killed_comparison_goes_on(
    monkeypatch: pytest.MonkeyPatch, tiny_data: DataSet, tmp_path: Path, trainings: list[str]
) -> None:
    train, calls = comparing.train, 0

    def dies(*arguments: Any, **more: Any) -> Run:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return train(*arguments, **more)

    monkeypatch.setattr(comparing, "train", dies)
    with pytest.raises(KeyboardInterrupt):
        recipes.compare(comparison(tiny_data), tmp_path / "c")
    with (tmp_path / "c/results.jsonl").open("a") as stream:
        stream.write('{"method": "separate", "seed": 1, "val')  # a line cut short
    runs = recipes.compare(comparison(tiny_data), tmp_path / "c")
    assert len(trainings) == 4
    whole = recipes.compare(comparison(tiny_data), tmp_path / "whole")
    assert [(r.method, r.seed, r.val_auc, r.test_auc) for r in runs] == [
        (r.method, r.seed, r.val_auc, r.test_auc) for r in whole
    ]
    again = read_runs(tmp_path / "c/results.jsonl")
    assert sorted((r.method, r.seed) for r in again) == sorted((r.method, r.seed) for r in runs)


@pytest.mark.parametrize(
    "change, differs",
    [
        ({"params": 800}, "params"),
        ({"dim": 8}, "dim"),
        ({"training": replace(SHORT, model=ModelSettings(hidden=(9,)))}, "model"),
        ({"training": Training(SMALL, replace(FIT, epochs=3))}, "fit"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_comparison_with_other_settings_is_refused(
    tiny_data: DataSet, tmp_path: Path, trainings: list[str], change: dict[str, Any], differs: str
) -> None:
    asked = comparison(tiny_data, seeds=1, methods=("monolithic",))
    recipes.compare(asked, tmp_path / "c")
    trainings.clear()
    with pytest.raises(RunError, match=f"differs in {differs}"):
        recipes.compare(replace(asked, **change), tmp_path / "c")
    assert trainings == []


def test_a_setting_that_one_member_of_the_family_reads_is_no_mistake(tiny_data: DataSet) -> None:
    change = {"seo": {"run_off.epochs": 1}}
    comparing.check_comparison(comparison(tiny_data, methods=("seo", "seo-rr"), settings=change))


def test_an_unknown_method_stops_before_the_first_training(
    tiny_data: DataSet, tmp_path: Path, trainings: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"method 'magic'; allowed: separate,.*seo-exact"):
        recipes.compare(comparison(tiny_data, methods=("separate", "magic")), tmp_path / "c")
    assert trainings == [] and not (tmp_path / "c").exists()


def test_every_seo_method_compares_at_the_budget(
    tiny_data: DataSet, tmp_path: Path, trainings: list[str]
) -> None:
    asked = comparison(tiny_data, methods=("seo-exact", "seo-rr", "seo"), seeds=1, settings=OF_SEO)
    runs = recipes.compare(asked, tmp_path / "c")
    assert trainings.count("attention over chunks of 8") == 1  # one attention serves all three
    for run in runs:
        assert 1600 - 16 < run.embedding_params <= run.budget == 1600
        assert run.search_seconds > 0
        assert run.search_peak_bytes == SEO.search_bytes > 0
    work = tmp_path / "c/work/seo-seed0"  # holds the attention: nothing is trained here
    searched = recipes.search("seo", tiny_data, tmp_path / "raw", SEO, SHORT, work=work).policy
    assert trainings.count("attention over chunks of 8") == 1
    for run, strategy in zip(runs, ("exact", "round-robin"), strict=False):
        trained_policy = Policy.load(tmp_path / "c/runs" / f"{run.method}-seed0" / "policy.json")
        assert trained_policy == apply.STRATEGIES[strategy](searched, 1600)
    kept = Policy.load(tmp_path / "c/searches/seo-seed0/searched.json")
    assert kept == apply.exact(searched, 1600)  # the paper's policy, whatever won the run-off


def test_data_sets_take_turns_with_the_seeds(tiny_data: DataSet, tmp_path: Path) -> None:
    synthetic(tmp_path / "other", rows=400, seed=9, strong=2, weak=2, noise=2, numeric=1)
    asked = comparison(tiny_data, methods=("monolithic",), seeds=3, first_seed=5)
    other = open_data(tmp_path / "other")
    runs = recipes.compare(replace(asked, data=(tiny_data, other)), tmp_path / "c")
    prints = [d.fingerprint for d in (other, tiny_data, other)]
    assert [(r.seed, r.data_fingerprint) for r in runs] == list(zip((5, 6, 7), prints, strict=True))


# ---- small things ------------------------------------------------------------------------


def test_a_policy_in_a_few_words() -> None:
    tables = (Table("a", 10, 4), Table("b", 20, 4))
    two = (Lookup("a"), Lookup("b"))
    features = (Feature("x", two), Feature("y", two), Feature("z", (Lookup("a"),)))
    assert describe(Policy(tables, features)) == (
        "2 tables (10x4, 20x4); 2 features x 2, 1 features x 1"
    )


def test_labels_come_in_file_order(tiny: Path) -> None:
    import pyarrow.parquet as pq

    stored = pq.read_table(tiny / "val").column("label").to_numpy()
    assert open_data(tiny).labels("val").tolist() == stored.tolist()


@pytest.mark.parametrize(
    "argv, shown",
    [
        ([".venv/bin/seo-rec", "train", "d"], "seo-rec train d"),
        (["seo_rec/__main__.py", "search"], "seo-rec search"),
        (["seo-rec", "train", "my data", "--out", "o"], "seo-rec train 'my data' --out o"),
    ],
)
def test_the_command_as_typed(monkeypatch: pytest.MonkeyPatch, argv: list[str], shown: str) -> None:
    monkeypatch.setattr("sys.argv", argv)
    assert command_line() == shown
