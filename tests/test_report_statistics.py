"""The report's comparisons: paired differences, groups by budget, settings that differ."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from report_runs import (
    AUCS,
    SEARCHED,
    make_comparison,
    make_data,
    make_training,
    page_of,
    result,
    shared_policy,
)
from seo_rec.files import write_json
from seo_rec.report import comparison
from seo_rec.runs import reading


@pytest.fixture
def compared(tmp_path):
    return make_comparison(tmp_path / "compare", tmp_path / "data")


def test_paired_difference_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.70, 0.01, 5), rng.normal(0.71, 0.01, 5)
    d = comparison.paired_difference(list(a), list(b))
    assert d.mean == pytest.approx(float(np.mean(a - b)))
    assert d.standard_error == pytest.approx(float(scipy.stats.sem(a - b)))
    assert d.p == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue)
    t = d.mean / d.standard_error
    assert d.p == pytest.approx(2 * scipy.stats.t.sf(abs(t), 4))


def test_one_seed_or_equal_differences_have_no_p():
    one = comparison.paired_difference([0.7], [0.6])
    assert (one.mean, one.n) == (pytest.approx(0.1), 1)
    assert math.isnan(one.p)
    assert math.isnan(one.standard_error)
    equal = comparison.paired_difference([0.7, 0.8], [0.6, 0.7])
    assert math.isnan(equal.p)
    assert equal.standard_error == pytest.approx(0, abs=1e-12)


def test_rows_are_sorted_and_differ_from_the_best_plain_method_by_validation(compared):
    (group,) = comparison.group(reading.read([compared]))
    assert [r.method for r in group.rows] == ["seo", "multi-size", "separate"]
    assert group.reference.method == "multi-size"
    seo, reference, separate = group.rows
    assert reference.difference is None
    assert seo.difference.mean == pytest.approx(np.mean(AUCS["seo"]) - np.mean(AUCS["multi-size"]))
    expected = scipy.stats.ttest_rel(AUCS["separate"], AUCS["multi-size"]).pvalue
    assert separate.difference.p == pytest.approx(expected)
    assert separate.test_auc.sd == pytest.approx(np.std(AUCS["separate"], ddof=1))


def test_differences_pair_only_common_seeds(tmp_path):
    aucs = {"separate": (0.70, 0.71, 0.69), "multi-size": (0.71, 0.75)}
    run = make_comparison(tmp_path / "c", tmp_path / "d", aucs=aucs)
    (group,) = comparison.group(reading.read([run]))
    separate = next(r for r in group.rows if r.method == "separate")
    assert separate.difference.n == 2
    assert separate.difference.mean == pytest.approx((0.70 - 0.71 + 0.71 - 0.75) / 2)


def test_budgets_make_groups_and_a_method_without_budget_joins_them(tmp_path):
    data = tmp_path / "data"
    fingerprint = make_data(data).fingerprint
    sizes = {"small": (128, 127, 126), "large": (256, 256, 253)}  # within a row of the budget
    for name, params in sizes.items():
        for method, p in zip(("separate", "monolithic", "multi-size"), params, strict=True):
            outcome = result(
                method,
                0,
                0.7,
                data_fingerprint=fingerprint,
                budget=params[0],
                embedding_params=p,
            )
            policy = shared_policy(rows=(p // 8, p // 8), method=method)
            make_training(tmp_path / name / "runs" / f"{method}-seed0", outcome, policy, data)
    outcome = result(
        "collisionless", 0, 0.8, data_fingerprint=fingerprint, budget=None, embedding_params=999
    )
    make_training(
        tmp_path / "small" / "runs" / "collisionless-seed0", outcome, shared_policy(), data
    )
    groups = comparison.group(reading.read([tmp_path / "small", tmp_path / "large"]))
    assert [g.budget for g in groups] == [128, 256]
    for group in groups:
        assert group.rows[0].method == "collisionless"
        assert not group.rows[0].at_budget
        assert {r.method for r in group.rows[1:]} == {"separate", "monolithic", "multi-size"}
        assert group.reference.method != "collisionless"
    html = page_of([tmp_path / "small", tmp_path / "large"], tmp_path)
    assert 'id="budgets"' in html
    assert "collisionless †" in html


def test_a_method_that_leaves_much_of_the_budget_stays_in_the_comparison(tmp_path):
    """The budget is what the run recorded; a policy that came to hold more counts as it is."""
    data = tmp_path / "data"
    fingerprint = make_data(data).fingerprint
    for method, params, budget in (
        ("monolithic", 128, 128),
        ("mixed-dimension", 96, 128),
        ("no-search", 64, 128),
        ("larger", 128, 64),
    ):
        outcome = result(method, 0, 0.7, data_fingerprint=fingerprint, budget=budget)
        outcome["embedding_params"] = params
        policy = shared_policy(rows=(params // 8, params // 8))
        make_training(tmp_path / "c" / "runs" / f"{method}-seed0", outcome, policy, data)
    (group,) = comparison.group(reading.read([tmp_path / "c"]))
    assert (group.budget, len(group.rows)) == (128, 4)
    assert group.reference is not None
    html = page_of([tmp_path / "c"], tmp_path)
    assert "The budget is 128 embedding parameters (floats); the methods hold 64 to 128" in html
    assert "64 to 128, which take 256 to 512 bytes to serve, ids of vocabularies included." in html
    assert html.count("<svg") == 3  # AUC over 64, 96 and 128 parameters, by method, and curves
    for size in (64, 96, 128):
        assert f">{size}</text>" in html
    assert html == page_of([tmp_path / "c"], tmp_path)


def test_splits_per_seed_are_one_data_set_but_other_folders_are_not(tmp_path):
    a, b, c = (make_data(tmp_path / f"data{i}", seed=i).fingerprint for i in range(3))
    for folder, seed, fingerprint in (("x", 0, a), ("x", 1, b), ("y", 0, c)):
        outcome = result("separate", seed, 0.7, data_fingerprint=fingerprint)
        run = tmp_path / folder / "runs" / f"separate-seed{seed}"
        make_training(run, outcome, shared_policy(), tmp_path / "data0")
    groups = comparison.group(reading.read([tmp_path / "x", tmp_path / "y"]))
    assert sorted(g.rows[0].test_auc.n for g in groups) == [1, 2]


def test_the_same_run_given_twice_counts_once_and_rivals_keep_apart(compared, tmp_path):
    inner = compared / "runs" / "seo-seed0"
    assert len(reading.read([compared, inner, compared]).trainings) == 9
    other = make_comparison(tmp_path / "again", tmp_path / "data", aucs={"seo": (0.5, 0.6, 0.7)})
    (group,) = comparison.group(reading.read([compared, other]))
    methods = {r.method for r in group.rows}
    assert methods == {"seo [compare]", "seo [again]", "multi-size", "separate"}


def test_runs_of_train_policy_are_told_apart_by_their_policies(tmp_path):
    make_data(tmp_path / "data")
    kinds = {"a": {"apply": "exact"}, "b": {"apply": "round-robin"}}
    for name, origin in kinds.items():
        policy = shared_policy(decision=SEARCHED, **origin)
        make_training(tmp_path / name, result("policy", 0, 0.7), policy, tmp_path / "data")
    (group,) = comparison.group(reading.read([tmp_path / "a", tmp_path / "b"]))
    assert {r.method for r in group.rows} == {"policy (exact)", "policy (round-robin)"}
    assert group.reference is None


def make_settings(folder: Path, outcome: dict, data: Path, model: dict, fit: dict) -> None:
    """A training with settings of its own."""
    make_training(folder, outcome, shared_policy(method=outcome["method"]), data)
    asked = json.loads((folder / "run.json").read_text())
    asked |= {"model": asked["model"] | model, "fit": asked["fit"] | fit}
    write_json(folder / "run.json", asked)


def test_runs_of_mlet_stand_beside_those_of_one_layer(tmp_path):
    """Differences are to the best plain method of one layer, whatever MLET reaches."""
    fingerprint = make_data(tmp_path / "data").fingerprint
    mlet = {"mlet": {"dim": 32, "std": 0.5}}
    for name, auc, model in (
        ("separate", 0.71, {}),
        ("multi-size", 0.72, {}),
        ("multi-size+mlet", 0.74, mlet),
    ):
        outcome = result(name, 0, auc, data_fingerprint=fingerprint)
        make_settings(
            tmp_path / "c" / "runs" / f"{name}-seed0", outcome, tmp_path / "data", model, {}
        )
    (group,) = comparison.group(reading.read([tmp_path / "c"]))
    assert [r.method for r in group.rows] == ["multi-size+mlet", "multi-size", "separate"]
    assert group.reference.method == "multi-size"
    assert group.rows[0].difference.mean == pytest.approx(0.02)
    for name, auc, dim in (("a", 0.75, 32), ("b", 0.76, 64)):  # of `train`, which has no suffix
        outcome = result("multi-size", 1, auc, data_fingerprint=fingerprint)
        model = {"mlet": {"dim": dim, "std": 0.5}}
        make_settings(tmp_path / name, outcome, tmp_path / "data", model, {})
    (group,) = comparison.group(reading.read([tmp_path / x for x in ("c", "a", "b")]))
    assert {r.method: r.test_auc.n for r in group.rows} == {
        "multi-size": 1,
        "separate": 1,
        "multi-size+mlet 32 x 0.5": 2,
        "multi-size+mlet 64 x 0.5": 1,
    }


def test_titles_name_the_settings_that_differ(tmp_path):
    fingerprint = make_data(tmp_path / "data").fingerprint
    for name, model, fit in (
        ("a", {}, {"row_l2": 0.0}),
        ("b", {"interaction": {"layers": 3}}, {"row_l2": 0.001}),
    ):
        outcome = result("separate", 0, 0.7, data_fingerprint=fingerprint)
        make_settings(tmp_path / name, outcome, tmp_path / "data", model, fit)
    groups = comparison.group(reading.read([tmp_path / "a", tmp_path / "b"]))
    assert {g.title for g in groups} == {
        "toy, 128 parameters (row_l2 0.0)",
        "toy, 128 parameters (row_l2 0.001, interaction.layers 3)",
    }
