"""Searches that others published: their laws, recipes and commands."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import laws
from baseline_searches import (
    FIT,
    OF_ROWS,
    ONE,
    SEARCHES,
    SMALL,
    every_search,
    of_widths_or_rows,
    run,
)
from seo_rec import recipes, search
from seo_rec.data.dataset import DataSet
from seo_rec.data.stream import Stream
from seo_rec.policy import Allowance, Policy, PolicyError
from seo_rec.runs import RunError
from seo_rec.search.no_search import NoSearchSettings
from seo_rec.search.space import open_space
from seo_rec.train import Start, Training, evaluate, loop

SLOW = pytest.mark.slow


# ---- laws --------------------------------------------------------------------------------


def test_every_search_is_under_these_laws() -> None:
    all_searches = {m.name for m in search.SEARCHES.values() if m.searches}  # and SEO
    others = {n for n in all_searches if search.SEARCHES[n].family != "seo"}
    assert {*SEARCHES, *OF_ROWS} == others


@of_widths_or_rows
def test_every_feature_is_served_or_named(tiny_data: DataSet, name: str) -> None:
    policy = run(name, tiny_data).policy
    names = [c.name for c in tiny_data.schema.features]
    assert sorted([*(f.name for f in policy.features), *policy.dropped]) == sorted(names)
    assert policy.provenance["method"] == name
    assert Policy.from_json(json.loads(json.dumps(policy.to_json()))) == policy


@of_widths_or_rows
def test_the_same_seed_finds_the_same(tiny_data: DataSet, name: str) -> None:
    first, second = run(name, tiny_data, params=900), run(name, tiny_data, params=900)
    assert first.policy == second.policy and first.record == second.record
    assert first.val_auc == second.val_auc and first.peak_bytes == second.peak_bytes
    json.dumps(first.record, allow_nan=False)


@pytest.mark.parametrize("name", ["autodim", "sseds"])
def test_the_seconds_of_a_search_survive_a_resume(
    tiny_data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Called again on what is trained: what it took is not what the second call took.

    The first call reads a clock that runs 1,000 times as fast, so that the seconds in its last
    checkpoint are far more than a second call takes on any machine.
    """
    kind, function = search.find(name).settings, search.find(name).decide
    once = partial(
        function, tiny_data, kind(**SEARCHES[name]), Training(SMALL, FIT), tmp_path / "work"
    )
    real = time.perf_counter
    with monkeypatch.context() as patched:
        patched.setattr(time, "perf_counter", lambda: 1000 * real())
        first = once()
    newest = max((tmp_path / "work" / "checkpoints").glob("step-*"))
    before = json.loads((newest / "state.json").read_text())["progress"]["seconds"]
    began = real()
    again = once()
    took = real() - began
    assert again.policy == first.policy
    assert before > took
    assert before <= again.seconds <= before + took


@every_search
@pytest.mark.parametrize("params", [500, 1001])
def test_hashed_tables_fill_the_budget(tiny_data: DataSet, name: str, params: int) -> None:
    """Less than one row of the narrowest hashed table is left."""
    policy = run(name, tiny_data, params=params, address="hash", hash_rows=9).policy
    hashed = [policy.table(f.name).dim for f in policy.features if f.lookups[0].address == "hash"]
    assert hashed, "no table is hashed, so this test says nothing"
    assert 0 <= params - policy.num_params < min(hashed)


@every_search
@pytest.mark.parametrize("params", [700, 1500])
def test_id_tables_leave_no_column_that_fits(tiny_data: DataSet, name: str, params: int) -> None:
    policy = run(name, tiny_data, params=params, address="id").policy
    rows = dict(zip((s := open_space(tiny_data, NoSearchSettings(), 0)).names, s.rows, strict=True))
    width = 8
    if name == "no-search":  # every width is the same, or one more
        widths = {policy.table(f.name).dim for f in policy.features}
        width = min(8, max(widths)) if len(widths) > 1 else min(8, max(widths) + 1)
        assert max(widths) - min(widths) <= 1
    room = [rows[f.name] for f in policy.features if policy.table(f.name).dim < width]
    left = params - sum(rows[f.name] * policy.table(f.name).dim for f in policy.features)
    assert 0 <= left < min(room, default=params)
    # what does not buy a whole column buys one whose rows are hashed
    last = [(t.num_rows, t.dim) for t in policy.tables if t.name.endswith(":last")]
    wider = [f for f in policy.features if rows[f.name] > left and policy.table(f.name).dim < 8]
    assert last == ([(left, 1)] if left and wider else [])
    assert policy.num_params == params or not wider
    for f in policy.features:
        assert f.lookups[0].address == "id" and policy.table(f.name).num_rows == rows[f.name]
        assert np.array_equal(policy.vocabularies[f.name], tiny_data.vocabulary(f.name))


@every_search
def test_a_budget_that_is_too_small_says_which_is_not(tiny_data: DataSet, name: str) -> None:
    needed = sum(open_space(tiny_data, NoSearchSettings(), 0).rows)
    with pytest.raises(PolicyError, match=f"smallest feasible budget is {needed}"):
        run(name, tiny_data, params=needed - 1, address="id")
    assert run(name, tiny_data, params=needed, address="id").policy.num_params <= needed


@pytest.mark.parametrize("name", OF_ROWS)
@pytest.mark.parametrize("unit, precision", [("parameters", "float32"), ("bytes", "int8")])
def test_rows_fill_the_budget(tiny_data: DataSet, name: str, unit: str, precision: str) -> None:
    """Less than the next row, its id and its codes is left; nothing fits below the smallest one."""

    def found(amount: int) -> Policy:
        allowance = Allowance(amount, unit, precision)
        settings = search.find(name).settings(
            **{**OF_ROWS[name], "params": 0, **allowance.to_json()}
        )
        return search.find(name).decide(tiny_data, settings, Training(SMALL, ONE)).policy

    with pytest.raises(PolicyError, match=r"the smallest feasible budget is \d+$") as caught:
        found(1)
    least = int(str(caught.value).split()[-1])
    for amount in (least, 2_000):
        policy = found(amount)
        taken = policy.num_bytes if unit == "bytes" else policy.num_params
        dim = max(t.dim for t in policy.tables)
        row = laws.bytes_of_a_row(dim, precision) + 8 + 4 * 2 if unit == "bytes" else dim + 2
        assert 0 <= amount - taken < row
    with pytest.raises(PolicyError, match=f"smallest feasible budget is {least}"):
        found(least - 1)


@pytest.mark.parametrize(
    "name",
    ["autodim", "cce", *(pytest.param(n, marks=SLOW) for n in ("sseds", "magnitude", "pep"))],
)
def test_what_is_resumed_is_what_was_not_interrupted(
    tiny_data: DataSet, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, function = search.find(name).settings, search.find(name).decide
    settings = kind(**(SEARCHES | OF_ROWS)[name])
    fit = replace(FIT, epochs=3, checkpoint_every=2)
    whole = function(tiny_data, settings, Training(SMALL, fit), tmp_path / "whole")
    evaluations: list[int] = []

    def stopping(model: Any, stream: Stream) -> Any:
        evaluations.append(1)
        if len(evaluations) == 2:
            raise KeyboardInterrupt
        return evaluate(model, stream)

    monkeypatch.setattr(loop, "evaluate", stopping)
    with pytest.raises(KeyboardInterrupt):
        function(tiny_data, settings, Training(SMALL, fit), tmp_path / "cut")
    again = function(tiny_data, settings, Training(SMALL, fit), tmp_path / "cut")
    assert len(evaluations) == 4  # the first epoch was not trained again
    assert again.record == whole.record and again.policy == whole.policy
    assert again.val_auc == whole.val_auc


def test_auto_is_id_where_the_budget_has_room(tiny_data: DataSet) -> None:
    total = sum(open_space(tiny_data, NoSearchSettings(), 0).rows)
    for params, hashed in ((0, False), (2 * total, False), (2 * total - 1, True)):
        space = open_space(tiny_data, NoSearchSettings(params=params), 0)
        assert (len(space.vocabularies) < len(space.rows)) == hashed


def test_hash_rows_are_given_or_fill_the_budget(tiny_data: DataSet) -> None:
    exact = open_space(tiny_data, NoSearchSettings(), 0).rows
    given = open_space(tiny_data, NoSearchSettings(address="hash", hash_rows=9), 0)
    assert given.rows == tuple(min(r, 9) for r in exact)
    assert set(given.vocabularies) == {n for n, r in zip(given.names, exact, strict=True) if r <= 9}
    budget = NoSearchSettings(address="hash", params=1000, max_dim=16)
    space = open_space(tiny_data, budget, 0)
    most = max(space.rows)
    assert sum(space.rows) <= 1000 / 8 < sum(min(r, most + 1) for r in exact)


# ---- recipes and command line ------------------------------------------------------------


def test_a_search_writes_takes_and_refuses(tiny_data: DataSet, tmp_path: Path) -> None:
    out, settings = (
        tmp_path / "s",
        search.find("dimgrow").settings(max_dim=4, adapt_dim=4, alpha=1e-5),
    )
    found = recipes.search("dimgrow", tiny_data, out, settings, Training(SMALL, FIT))
    assert Policy.load(out / "policy.json") == found.policy
    record = json.loads((out / "search.json").read_text())
    assert record["record"]["found"] == found.record["found"] and record["seconds"] > 0
    with pytest.raises(RunError, match="already holds this run"):
        recipes.search("dimgrow", tiny_data, out, settings, Training(SMALL, FIT))
    again = recipes.search("dimgrow", tiny_data, out, settings, Training(SMALL, FIT), resume=True)
    assert again.policy == found.policy and again.peak_bytes == found.peak_bytes
    assert again.weights.keys() == found.weights.keys()
    with pytest.raises(RunError, match="differs in settings"):
        recipes.search(
            "dimgrow",
            tiny_data,
            out,
            replace(settings, alpha=1.0),
            Training(SMALL, FIT),
            resume=True,
        )
    with pytest.raises(
        ValueError, match=r"method 'dim'; do you mean 'dimgrow'\? allowed: .* dimgrow, "
    ):
        recipes.search("dim", tiny_data, out, settings, Training(SMALL, FIT))
    with pytest.raises(ValueError, match="allowed: a SsedsSettings"):
        recipes.search("sseds", tiny_data, tmp_path / "o", settings, Training(SMALL, FIT))


def test_training_goes_on_from_the_weights(tiny_data: DataSet, tmp_path: Path) -> None:
    out, settings = (
        tmp_path / "s",
        search.find("dimgrow").settings(max_dim=4, adapt_dim=4, alpha=1e-5),
    )
    found = recipes.search("dimgrow", tiny_data, out, settings, Training(SMALL, FIT))
    weights = out / "weights.npz"
    from_scratch, tuned = (
        recipes.train(
            tiny_data,
            found.policy,
            tmp_path / name,
            Training(SMALL, replace(FIT, epochs=1)),
            start=Start(weights=given),
        )
        for name, given in (("a", None), ("b", weights))
    )
    assert tuned.val_auc != from_scratch.val_auc
    with pytest.raises(ValueError, match=r"weights of another model .*backbone\.layers"):
        other = replace(SMALL, hidden=(9,))
        recipes.train(
            tiny_data,
            found.policy,
            tmp_path / "c",
            Training(other, FIT),
            start=Start(weights=weights),
        )
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(ValueError, match="not a file of weights"):
        recipes.train(
            tiny_data,
            found.policy,
            tmp_path / "d",
            Training(SMALL, FIT),
            start=Start(weights=damaged),
        )


def test_a_comparison_searches_at_its_budget(tiny_data: DataSet, tmp_path: Path) -> None:
    comparison = recipes.Comparison(
        data=(tiny_data,),
        methods=("no-search", "mixed-dimension", "sseds", "monolithic"),
        params=480,
        dim=8,
        seeds=1,
        training=Training(SMALL, replace(FIT, epochs=1)),
        settings={"sseds": {"max_dim": 8, "address": "hash", "hash_rows": 30}},
    )
    runs = recipes.compare(comparison, tmp_path / "c")
    assert [r.method for r in runs] == list(comparison.methods)
    assert all(r.budget == 480 and 460 < r.embedding_params <= 480 for r in runs)
    assert runs[2].search_seconds > 0
    found = json.loads((tmp_path / "c/searches/sseds-seed0/search.json").read_text())
    assert runs[2].search_peak_bytes == found["peak_bytes"] > 4 * 480
    assert runs[3].search_peak_bytes == 0
    assert recipes.compare(comparison, tmp_path / "c") == runs
    wrong = replace(comparison, settings={"sseds": {"params": 800}})
    with pytest.raises(ValueError, match="the comparison has one budget"):
        recipes.compare(wrong, tmp_path / "d")
    from seo_rec import report

    report.build([tmp_path / "c"], tmp_path / "page.html")
    shown = (tmp_path / "page.html").read_text()
    assert f"<td>{found['peak_bytes'] / 1e6:.2f}</td>" in shown
    assert "sseds-seed0, seed 0: sseds decided; no run-off compared its policy" in shown


def test_untrained_searches_are_methods(tiny_data: DataSet) -> None:
    for name in ("mixed-dimension", "no-search"):
        policy = recipes.method_policy(name, tiny_data, 480, 8)
        assert 460 < policy.num_params <= 480
    with pytest.raises(ValueError, match="needs a search; run `seo-rec search --method dimgrow`"):
        recipes.method_policy("dimgrow", tiny_data, 800, 8)


QUICK = ("--epochs", "1", "--batch-size", "200", "--hidden", "8")


def test_the_command(seo_rec: Callable[..., Any], tiny: Path, tmp_path: Path) -> None:
    given = ("--params", "800", "--set", "keep=0.5", "--set", "address=hash")
    done = seo_rec("search", tiny, "--out", tmp_path / "s", "--method", "sseds", *given, *QUICK)
    assert done.code == 0, done.err
    assert "sseds decided; " in done.out and re.search(
        r"s/policy\.json: 79[0-9] parameters, ", done.out
    )
    asked = json.loads((tmp_path / "s" / "run.json").read_text())
    assert asked["settings"] | {"params": 800, "keep": 0.5, "address": "hash"} == asked["settings"]
    policy = tmp_path / "s" / "policy.json"
    done = seo_rec("train", tiny, "--policy", policy, "--out", tmp_path / "t", *QUICK)
    assert done.code == 0, done.err
    done = seo_rec(
        "search", tiny, "--out", tmp_path / "n", "--method", "no-search", "--budget-of", policy
    )
    assert done.code == 0, done.err
    other = json.loads((tmp_path / "n" / "run.json").read_text())["settings"]["params"]
    assert other == Policy.load(policy).budget.params == 800  # what it was made for, and not 799


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("--method", "dim"), "method 'dim'; do you mean 'dimgrow'? allowed: separate, "),
        (("--method", "sseds", "--set", "alpha=1"), "--set 'alpha=1' of sseds; allowed, with def"),
        (("--method", "sseds", "--set", "keep"), "--set 'keep' of sseds; allowed, with defaults"),
        (("--method", "sseds", "--set", "keep=x"), "--set keep=x; allowed: a number"),
        (("--method", "sseds", "--set", "keep=2"), "keep is 2.0; allowed: above 0, to 1"),
        (("--method", "sseds", "--set", "min_dim=1.5"), "--set min_dim=1.5; allowed: a whole"),
        (("--method", "dimgrow", "--set", "fill=yes"), "--set fill=yes; allowed: true or false"),
        (
            ("--method", "sseds", "--set", "keep=.1", "--set", "keep=.2"),
            "keep is already given; give it once",
        ),
        (
            ("--method", "sseds", "--set", "chunk_dim=4"),
            "--set 'chunk_dim=4' of sseds; allowed, with defaults: max_dim=16, address=auto",
        ),
        (("--set", "alpha=1"), "--set 'alpha=1' of seo; allowed, with defaults: chunk_dim=8"),
        (
            ("--method", "no-search", "--l2", "1e-4", "--epochs", "3"),
            "--epochs, --l2 with --method no-search would be ignored; allowed with searches that",
        ),
        (
            ("--method", "dimgrow", "--average", "0.9"),
            "--average with --method dimgrow would be ignored; allowed with searches that read it",
        ),
        (
            ("--method", "dimgrow", "--backbone", "dlrm", "--set", "adapt=joint"),
            "allowed: adapt 'per-feature' (--set adapt",
        ),
    ],
)
def test_mistakes_on_the_command_line(
    seo_rec: Callable[..., Any], tiny: Path, tmp_path: Path, arguments: Any, says: str
) -> None:
    done = seo_rec("search", tiny, "--out", tmp_path / "out", *arguments)
    assert done.code == 2 and says in done.err
    assert not (tmp_path / "out").exists()
