"""The report: statistics, collisions, reading of run folders, and the page itself."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from cases import BUILDABLE, VOCABULARY
from seo_rec import report
from seo_rec.data.vocabulary import write_vocabulary
from seo_rec.embed.remap import hash_rows
from seo_rec.files import write_json
from seo_rec.policy import Feature, Lookup, Policy, Table
from seo_rec.policy.addresses import lookup_rows
from seo_rec.report import charts, comparison, formats
from seo_rec.report.collisions import agreement, collisions, hit, shared_row
from seo_rec.runs import reading
from seo_rec.schema import Column, Schema

EVIL = "<script>alert(1)</script>"
STAMP = {"git_sha": "abc123", "git_dirty": True, "torch": "2.13.0", "date": "2026-01-02T03:04:05"}
FIT = {"epochs": 3, "batch_size": 64}


# ---- run folders made by hand ------------------------------------------------------------


def make_data(folder: Path, names=("user", "item"), seed=0) -> Schema:
    rng = np.random.default_rng(seed)
    sizes = {name: 40 * (i + 1) for i, name in enumerate(names)}
    columns = tuple(Column(name, "categorical", size) for name, size in sizes.items())
    rows = {"train": 100, "val": 10, "test": 10}
    rates = dict.fromkeys(rows, 0.5)
    schema = Schema("toy", columns, "label", rows, rates, options={"seed": seed})
    write_json(folder / "schema.json", schema.to_json())
    for i, (name, size) in enumerate(sizes.items()):
        ids = np.sort(rng.choice(10**9, size, replace=False))
        # A hostile name is no file name; its vocabulary is then simply not there.
        if "/" not in name:
            write_vocabulary(folder, name, ids, np.full(size, i + 1))
    return schema


SEARCHED = {"method": "seo", "searched": True}  # what a search signs its policy with


def shared_policy(names=("user", "item"), rows=(16, 16), dim=4, decision=None, **origin) -> Policy:
    tables = tuple(Table(f"chunk{i}", r, dim) for i, r in enumerate(rows))
    features = tuple(
        Feature(name, tuple(Lookup(t.name, "hash", 7 * i + j) for j, t in enumerate(tables)))
        for i, name in enumerate(names)
    )
    origin = origin or {"method": "multi-size"}
    return Policy(tables, features, provenance=origin, decision=decision)


def result(method: str, seed: int, test_auc: float, **changes) -> dict:
    return {
        "data": "toy",
        "data_fingerprint": "f" * 16,
        "method": method,
        "seed": seed,
        "budget": 128,
        "embedding_params": 128,
        "val_auc": test_auc - 0.01,
        "val_logloss": 0.5,
        "test_auc": test_auc,
        "test_logloss": 1 - test_auc,
        "test_normalized_entropy": 0.9,
        "test_calibration": 1.0,
        "epochs": 3,
        "steps": 30,
        "seconds_per_epoch": 1.5,
        "seconds": 5.0,
        "search_seconds": 0.0,
        "policy": "2 tables",
        "command": "seo-rec compare",
        "environment": STAMP,
        **changes,
    }


def make_training(folder: Path, outcome: dict, policy: Policy, data: Path, epochs=3) -> None:
    asked = {"kind": "train", "data": str(data), "model": {"hidden": [8]}}
    write_json(folder / "run.json", {**asked, "fit": {**FIT, "seed": outcome["seed"]}})
    write_json(folder / "result.json", outcome)
    policy.save(folder / "policy.json")
    lines = [{"event": "step", "step": 1, "train_loss": 0.7}]
    lines += [
        {
            "event": "epoch",
            "epoch": e,
            "step": e,
            "train_loss": 0.6 - e / 10,
            "val_auc": 0.6 + e / 9,
        }
        for e in range(epochs)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_search(folder: Path, fingerprint: str, names=("user", "item"), run_off=True) -> None:
    asked = {
        "kind": "search",
        "data": "nowhere",
        "data_fingerprint": fingerprint,
        "method": "seo",
        "budget": 128,
        "settings": {
            "budget_rows": 32,
            "dim": 4,
            "chunk_dim": 2,
            "run_off": {"standard_errors": 1.5} if run_off else None,
        },
        "model": {"hidden": [8]},
        "fit": {**FIT, "seed": 0},
    }
    scores = {"val_auc": 0.6, "gain": 0.0, "standard_error": 0.0, "params": 128, "seconds": 2.0}
    attended = {"chunk_dim": 2, "min_chunks": 1, "apply": "exact"}
    winner = {**scores, "val_auc": 0.65, "gain": 0.05, "standard_error": 0.01, "origin": attended}
    chosen = "seo-2-min1-exact" if run_off else "seo"
    decision = {**SEARCHED, "winner": chosen, "kind": "attention"}
    attention = {
        "features": list(names),
        "attention": [[0.5, 0.25], [0.125, 0.125], *[[0.0, 0.0]] * (len(names) - 2)],
        "val_auc": 0.61,
        "test_auc": 0.6,
        "seconds": 3.0,
        "seconds_per_epoch": 1.0,
    }
    record = {"searches": {"2": attention}}
    if run_off:
        record["run_off"] = {"trivial-2x2": scores, "seo-2-min1-exact": winner}
    found = {
        "method": "seo",
        "winner": chosen,
        "decision": decision,
        "dataset": "toy",
        "val_auc": 0.65,
        "seconds": 12.0,
        "peak_bytes": 1024,
        "params": 128,
        "record": record,
        "environment": STAMP,
        "command": "seo-rec search",
    }
    write_json(folder / "run.json", asked)
    write_json(folder / "search.json", found)
    searched = shared_policy(names, decision=decision, apply="exact")
    searched.save(folder / "policy.json")
    if run_off:
        searched.save(folder / "candidates" / "seo-2-min1-exact.json")


AUCS = {"separate": (0.70, 0.71, 0.69), "multi-size": (0.72, 0.71, 0.73), "seo": (0.74, 0.73, 0.74)}


def make_comparison(folder: Path, data: Path, names=("user", "item"), aucs=AUCS) -> Path:
    fingerprint = make_data(data, names).fingerprint
    lines = []
    for method, values in aucs.items():
        for seed, auc in enumerate(values):
            outcome = result(method, seed, auc, data_fingerprint=fingerprint)
            decision = {"method": method, "winner": method, "searched": False}
            if method == "seo":
                decision = {**SEARCHED, "winner": "seo-2-min1-exact"}
            run = folder / "runs" / f"{method}-seed{seed}"
            policy = shared_policy(names, decision=decision)
            make_training(run, outcome, policy, data, epochs=3 + seed)
            lines.append(json.dumps(outcome) + "\n")
    make_search(folder / "searches" / "seo-seed0", fingerprint, names)
    (folder / "results.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture
def compared(tmp_path):
    return make_comparison(tmp_path / "compare", tmp_path / "data")


def page_of(runs, tmp_path) -> str:
    report.build(runs, tmp_path / "page.html")
    return (tmp_path / "page.html").read_text()


# ---- statistics --------------------------------------------------------------------------


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


# ---- collisions --------------------------------------------------------------------------


def toy_policy() -> tuple[Policy, dict]:
    """Features a, b, c in shared tables of 13, 5 and 11 rows; c reads one seed at two sizes."""
    tables = (Table("s", 13, 2), Table("t", 5, 2), Table("u", 11, 4))
    features = (
        Feature("a", (Lookup("s", "hash", 1), Lookup("t", "hash", 2))),
        Feature("b", (Lookup("s", "hash", 3),)),
        Feature("c", (Lookup("t", "hash", 4), Lookup("u", "hash", 4))),
    )
    rng = np.random.default_rng(1)
    ids = {
        n: np.sort(rng.choice(10**6, k, replace=False)) for n, k in (("a", 9), ("b", 4), ("c", 7))
    }
    return Policy(tables, features), ids


def test_collisions_equal_a_brute_force_count():
    policy, ids = toy_policy()
    found = {f.feature: f for f in collisions(policy, ids).features}

    def row(lookup, x):
        size = next(t.num_rows for t in policy.tables if t.name == lookup.table)
        return int(hash_rows(torch_int(x), lookup.seed, size))

    for f in policy.features:
        own = [int(x) for x in ids[f.name]]
        intra, inter, full = [], [], 0
        for k in f.lookups:
            intra.append(sum(any(row(k, x) == row(k, y) for y in own if y != x) for x in own))
            others = {
                row(h, int(y))
                for g in policy.features
                if g.name != f.name
                for h in g.lookups
                if h.table == k.table
                for y in ids[g.name]
            }
            inter.append(sum(row(k, x) in others for x in own))
        full = sum(
            any(all(row(k, x) == row(k, y) for k in f.lookups) for y in own if y != x) for x in own
        )
        assert found[f.name].intra.actual == pytest.approx(np.mean(intra) / len(own))
        assert found[f.name].inter.actual == pytest.approx(np.mean(inter) / len(own))
        assert found[f.name].full.actual == pytest.approx(full / len(own))
    occupied = {t.table: t.occupied.actual for t in collisions(policy, ids).tables}
    both = {row(Lookup("s", "hash", s), int(x)) for s, n in ((1, "a"), (3, "b")) for x in ids[n]}
    assert occupied["s"] == len(both)


def torch_int(x):
    import torch

    return torch.tensor(x, dtype=torch.int64)


def test_expected_shares_equal_the_mean_over_many_hash_functions():
    """The closed forms against the model's own hash, drawn with 1500 seeds."""
    rng = np.random.default_rng(2)
    ids = {"a": rng.choice(10**9, 30, replace=False), "b": rng.choice(10**9, 12, replace=False)}
    sums = np.zeros((2, 4))
    rounds = 1500
    for _ in range(rounds):
        s = [int(x) for x in rng.integers(0, 2**62, 3)]
        tables = (Table("s", 17, 1), Table("t", 23, 1))
        features = (
            Feature("a", (Lookup("s", "hash", s[0]), Lookup("t", "hash", s[1]))),
            Feature("b", (Lookup("s", "hash", s[2]), Lookup("t", "hash", s[2]))),
        )
        found = collisions(Policy(tables, features), ids)
        for i, f in enumerate(found.features):
            sums[i] += (
                f.intra.actual,
                f.full.actual,
                f.inter.actual,
                found.tables[i].occupied.actual,
            )
    for i, f in enumerate(found.features):
        expected = (f.intra.expected, f.full.expected, f.inter.expected)
        np.testing.assert_allclose(sums[i][:3] / rounds, expected, atol=0.01)
        assert sums[i][3] / rounds == pytest.approx(found.tables[i].occupied.expected, rel=0.01)


def test_closed_forms_by_hand():
    assert shared_row(2, 1) == pytest.approx(0.5)
    assert shared_row(1, 3) == 1.0
    assert shared_row(10, 0) == 0.0
    assert hit(1e-12, 1000) == pytest.approx(1e-9, rel=1e-6)
    assert agreement([4]) == agreement([4, 4]) == 0.25
    # Cuts at 1/3, 1/2, 2/3: pieces of 1/3, 1/6, 1/6, 1/3.
    assert agreement([2, 3]) == pytest.approx(2 / 9 + 2 / 36)


@pytest.mark.parametrize("name", BUILDABLE)
def test_collisions_of_every_policy_are_shares(name):
    policy = BUILDABLE[name]
    ids = {f.name: np.sort(VOCABULARY) for f in policy.features}
    found = collisions(policy, ids)
    for f in found.features:
        for share in (f.intra.actual, f.full.actual, f.full.expected, f.intra.expected):
            assert math.isnan(share) or 0 <= share <= 1
        assert not math.isnan(f.full.actual)
    assert [t.table for t in found.tables] == [t.name for t in policy.tables]


def test_digits_tell_ids_apart_that_share_rows():
    policy = BUILDABLE["digits"]
    ids = {"user": VOCABULARY, "item": VOCABULARY, "hour": VOCABULARY}
    user, item, _ = collisions(policy, ids).features
    assert (user.full.actual, item.full.actual) == (0.0, 0.0)
    assert user.intra.actual > 0.5


def test_the_id_address_has_no_collisions():
    ids = np.array([3, 5, 9])
    policy = Policy(
        (Table("a", 4, 2),), (Feature("a", (Lookup("a", "id"),)),), vocabularies={"a": ids}
    )
    found = collisions(policy, {"a": ids})
    (f,) = found.features
    assert (f.intra.actual, f.full.actual, f.inter.actual) == (0, 0, 0)
    assert (f.intra.expected, f.full.expected, f.inter.expected) == (0, 0, 0)
    assert found.tables[0].occupied.actual == found.tables[0].occupied.expected == 3
    assert list(lookup_rows(policy, policy.features[0], policy.features[0].lookups[0], ids)) == [
        1,
        2,
        3,
    ]


def test_a_feature_without_ids_has_no_shares():
    policy, ids = toy_policy()
    ids["b"] = np.zeros(0, np.int64)
    found = collisions(policy, ids)
    assert math.isnan(found.features[1].intra.actual)
    assert not math.isnan(found.mean("intra").actual)


# ---- the page ----------------------------------------------------------------------------


class Loads(HTMLParser):
    """Everything a page could load or run, and whether its elements are closed in order."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self):
        super().__init__()
        self.found, self.scripts, self.open, self.ids, self.targets = [], 0, [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag, attrs):
        self.scripts += tag == "script"
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "data", "action", "srcset"):
                (self.targets if value.startswith("#") else self.found).append(value)
            if name.startswith("on"):
                self.scripts += 1
            if name == "id":
                self.ids.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(html: str) -> Loads:
    page = Loads()
    page.feed(html)
    assert page.open == []
    return page


def test_the_page_loads_nothing_and_its_links_lead_somewhere(compared, tmp_path):
    html = page_of([compared], tmp_path)
    page = parsed(html)
    assert page.found == []
    assert page.scripts == 0
    assert {t[1:] for t in page.targets} <= set(page.ids)
    assert "@import" not in html
    assert "url(http" not in html
    assert "://" not in html


def test_the_page_says_what_the_runs_say(compared, tmp_path):
    html = page_of([compared], tmp_path)
    for text in (
        "Every method holds exactly 128 embedding parameters",
        "against <b>multi-size</b>",
        '<td class="best">0.73667</td>',  # test AUC of seo
        "seo-2-min1-exact ★",
        "2.00</td>",  # attention 0.5 x 4, relative to uniform
        "only if its gain exceeds 1.5 × its standard error",
        "git abc123, with uncommitted changes",
        "toy: no chart; its methods all hold 128 parameters",
        "40",
        "<svg",
    ):
        assert text in html, text
    assert html.count("<svg") == 2
    assert "Not everything could be used" not in html
    assert "Not counted" not in html


BYTES = 2 * 16 * 4 * 4  # of `shared_policy`: two tables of 16 rows of four floats of four bytes


def test_bytes_stand_beside_parameters(compared, tmp_path, capsys):
    (found,) = comparison.group(reading.read([compared]))
    assert {t.num_bytes for row in found.rows for t in row.runs} == {BYTES}
    assert [row.num_bytes.mean for row in found.rows] == [BYTES] * 3
    html = page_of([compared], tmp_path)
    assert html.count("<td>128</td>\n<td>512</td>") == 3  # of every method of the comparison
    assert html.count("<td>128</td><td>512</td>") == 1  # of the candidate whose policy is there
    assert html.count("<td>128</td><td>n/a</td>") == 1  # and of the one whose policy is not
    assert "128 embedding parameters (floats), which take 512 bytes to serve" in html
    report.print_comparison([compared])
    _, headings, *rows = capsys.readouterr().out.splitlines()
    assert headings.split()[:3] == ["method", "params", "bytes"]
    assert [row.split()[1:3] for row in rows[:3]] == [["128", "512"]] * 3


def test_recorded_bytes_count_and_unknown_ones_are_not_made_up(tmp_path, capsys):
    """A result of this release says its bytes; an older one without a policy does not."""
    for name, changes in (("said", {"num_bytes": 700}), ("older", {})):
        run = tmp_path / name
        run.mkdir()
        (run / "results.jsonl").write_text(json.dumps(result("separate", 0, 0.7, **changes)))
    assert reading.read([tmp_path / "said"]).trainings[0].num_bytes == 700
    assert reading.read([tmp_path / "older"]).trainings[0].num_bytes is None
    report.print_comparison([tmp_path / "older"])
    assert capsys.readouterr().out.splitlines()[2].split()[:3] == ["separate", "128", "n/a"]
    assert "floats)." in page_of([tmp_path / "older"], tmp_path)


def test_a_policy_of_a_table_per_feature_is_said_to_be_too_wide_to_draw(tmp_path):
    """Rows by id for 39 features: no picture of 39 columns, the rest of the page is there."""
    names = tuple(f"c{i}" for i in range(39))
    data = tmp_path / "data"
    fingerprint = make_data(data, names).fingerprint
    ids = {name: np.arange(1, 40, dtype=np.int64) for name in names}
    of_ids = Policy(
        tuple(Table(f"own {name}", 40, 2) for name in names),
        tuple(Feature(name, (Lookup(f"own {name}", "id"),)) for name in names),
        vocabularies=ids,
        decision={**SEARCHED, "winner": "trivial-no-search"},
    )
    size = 39 * 80
    outcome = result(
        "seo", 0, 0.7, data_fingerprint=fingerprint, budget=size, embedding_params=size
    )
    make_training(tmp_path / "run", outcome, of_ids, data)
    html = page_of([tmp_path / "run"], tmp_path)
    parsed(html)
    assert "seo, seed 0, which is candidate trivial-no-search: 39 tables, too many" in html
    assert "39 of 39 features have a table of their own" in html
    assert 'href="#g1-slots"' in html and 'id="g1-slots"' in html
    assert 'class="cells"' not in html.split('id="g1-slots"')[1].split("<h3")[0]
    assert "Not counted" not in html and "0.70000" in html
    assert "toy: no chart; its one method holds 3,120 parameters" in html


def test_equal_runs_give_equal_bytes(compared, tmp_path):
    assert page_of([compared], tmp_path) == page_of([compared], tmp_path)


def test_hostile_names_stay_text(tmp_path, capsys):
    names = (EVIL, '"><img src=x onerror=alert(1)>', "$x_{", "[red]{{ 7*7 }}")
    aucs = {"separate": (0.7, 0.71), f"_{EVIL}": (0.72, 0.71)}
    data = tmp_path / "data"
    fingerprint = make_data(data, names).fingerprint
    run = tmp_path / "c"
    run.mkdir()
    lines = [
        json.dumps(result(m, s, a, data_fingerprint=fingerprint, command=EVIL, policy=EVIL))
        for m, values in aucs.items()
        for s, a in enumerate(values)
    ]
    (run / "results.jsonl").write_text("\n".join(lines))
    make_search(run / "searches" / "seo-seed0", fingerprint, names)
    single = tmp_path / "single"
    outcome = result("seo", 0, 0.6, data_fingerprint=fingerprint)
    make_training(single, outcome, shared_policy(names, decision=SEARCHED), data)
    html = page_of([run, single], tmp_path)
    page = parsed(html)
    assert page.scripts == 0
    assert page.found == []
    assert "<script" not in html
    assert "{{ 7*7 }}" in html
    report.print_comparison([run])
    assert EVIL in capsys.readouterr().out


def test_a_missing_or_changed_data_set_is_said_and_tolerated(compared, tmp_path):
    make_data(tmp_path / "data", seed=9)
    assert "has changed since" in page_of([compared], tmp_path)
    (tmp_path / "data").rename(tmp_path / "gone")
    html = page_of([compared], tmp_path)
    assert "is not there any more" in html
    assert "0.73667" in html


def test_results_alone_are_enough(tmp_path):
    run = tmp_path / "copied"
    run.mkdir()
    (run / "results.jsonl").write_text(json.dumps(result("separate", 0, 0.7)) + '\n{"cut')
    html = page_of([run], tmp_path)
    assert "0.70000" in html
    assert "results.jsonl:2: an unreadable line is left out" in html


def test_searches_alone_and_single_trainings_are_enough(tmp_path, capsys):
    fingerprint = make_data(tmp_path / "data").fingerprint
    make_search(tmp_path / "search", fingerprint)
    html = page_of([tmp_path / "search"], tmp_path)
    assert "winner, seo-2-min1-exact" in html
    assert "0 finished trainings and 1 finished search from" in html
    assert '<h2 id="g1">toy, 128 parameters</h2>' in html  # by name, not by fingerprint
    report.print_comparison([tmp_path / "search"])
    assert "toy, 128 parameters: searches only" in capsys.readouterr().out
    make_search(tmp_path / "raw", fingerprint, run_off=False)
    outcome = result("separate", 0, 0.7, data_fingerprint=fingerprint)
    make_training(tmp_path / "single", outcome, shared_policy(), tmp_path / "data")
    html = page_of([tmp_path / "raw", tmp_path / "single"], tmp_path)
    assert "chunks by attention alone" in html
    assert "no other method is ahead" in html
    assert "1 finished training and 1 finished search from" in html
    assert "1 training, 0 searches" in html and "0 trainings, 1 search" in html


def test_a_search_that_trains_nothing_is_said_in_words(tmp_path):
    """There is neither an attention nor a run-off to explain."""
    make_search(tmp_path / "s", make_data(tmp_path / "data").fingerprint, run_off=False)
    path = tmp_path / "s" / "search.json"
    found = json.loads(path.read_text()) | {"method": "no-search", "winner": "no-search"}
    decision = {"method": "no-search", "winner": "no-search", "kind": "plain", "searched": True}
    write_json(path, found | {"decision": decision, "record": {}})
    html = page_of([tmp_path / "s"], tmp_path)
    assert "s, seed 0: the rule of no-search decided from the columns; nothing was" in html
    assert "heatmaps" not in html and "run-off" not in html


def test_unfinished_runs_are_named(compared, tmp_path):
    (compared / "runs" / "late-seed0").mkdir()
    write_json(compared / "runs" / "late-seed0" / "run.json", {"kind": "train"})
    assert "late-seed0: the training is not finished" in page_of([compared], tmp_path)


def break_json(folder):
    (folder / "runs" / "seo-seed0" / "run.json").write_text("{\n oops")


def break_kind(folder):
    write_json(folder / "run.json", {"kind": "dance"})
    (folder / "results.jsonl").unlink()
    for part in ("runs", "searches"):
        (folder / part).rename(folder / f"_{part}")


def break_key(folder):
    outcome = result("seo", 0, 0.7)
    del outcome["test_auc"]
    (folder / "results.jsonl").write_text(json.dumps(outcome))


def break_attention(folder):
    path = folder / "searches" / "seo-seed0" / "search.json"
    path.write_text(path.read_text().replace('"attention"', '"intention"'))


@pytest.mark.parametrize(
    "damage, message",
    [
        (break_json, r"run\.json:2: not valid JSON"),
        (break_kind, r"kind 'dance'; allowed: train, tune, search"),
        (break_key, r"results\.jsonl: no 'test_auc' here"),
        (break_attention, r"searches\['2'\] is no attention"),
    ],
)
def test_damaged_folders_are_refused(compared, damage, message):
    damage(compared)
    with pytest.raises(report.ReportError, match=message):
        reading.read([compared])


def test_folders_that_are_no_runs_are_refused(compared, tmp_path):
    with pytest.raises(report.ReportError, match=r"no such folder; give a folder of `seo-rec comp"):
        report.build([tmp_path / "nowhere"], tmp_path / "page.html")
    with pytest.raises(report.ReportError, match="a file, not a folder"):
        report.build([compared / "results.jsonl"], tmp_path / "page.html")
    with pytest.raises(
        report.ReportError, match=r"it holds compare, data; .*did you mean .*compare"
    ):
        report.build([tmp_path], tmp_path / "page.html")
    with pytest.raises(report.ReportError, match="no folder is given"):
        report.build([], tmp_path / "page.html")
    unfinished = tmp_path / "unfinished"
    write_json(unfinished / "run.json", {"kind": "train"})
    with pytest.raises(report.ReportError, match="no finished run here"):
        report.build([unfinished], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


# ---- terminal, numbers, marks ------------------------------------------------------------


def test_terminal_table_is_plain_text_in_a_pipe(compared, capsys):
    report.print_comparison([compared])
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert "\x1b" not in out
    order = [line.split()[0] for line in lines if line.split()[1:2] == ["128"]]
    order.remove("toy,")
    assert order == ["seo", "multi-size", "separate"]
    assert "0.73667 ± 0.00577" in out
    assert "reference" in next(line for line in lines if line.split()[:1] == ["multi-size"])
    assert "toy, 128 parameters" in out


@pytest.mark.parametrize(
    "text, expected",
    [
        (formats.signed(-0.00123), "\N{MINUS SIGN}0.00123"),
        (formats.signed(0.00123), "+0.00123"),
        (formats.number(float("nan"), 5), "n/a"),
        (formats.plus_minus(0.7, float("nan")), "0.70000"),
        (formats.p_value(0.0001), "< 0.001"),
        (formats.seconds(0.5), "0.500"),
        (formats.seconds(1234.5), "1,234"),
        (formats.percent(0.00001), "< 0.01 %"),
        (formats.percent(0.9999), "> 99.9 %"),
        (formats.percent(1.0), "100.0 %"),
        (formats.percent(0.0), "0.00 %"),
        (formats.count(96000), "96,000"),
    ],
)
def test_numbers_read_well(text, expected):
    assert text == expected


def test_marks_tell_eighteen_methods_apart():
    marks = charts.marks([f"m{i}" for i in range(18)])
    assert len({(m.colour, m.marker, m.dash) for m in marks.values()}) == 18
