"""Budgets in bytes: how they are written, that every method keeps them, and what a run says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import laws
from seo_rec import apply, recipes
from seo_rec.data.dataset import DataSet
from seo_rec.embed.tables import table_key
from seo_rec.export import export_run
from seo_rec.model import ModelSettings
from seo_rec.policy import Allowance, Policy, PolicyError, stored_types, with_precision
from seo_rec.policy.allowance import allowance_from, read_bytes
from seo_rec.policy.dtypes import dequantize_rows, quantize_rows
from seo_rec.report.frontier import read_points
from seo_rec.runs import Run, reading
from seo_rec.search.registry import find
from seo_rec.search.run_off import Candidate, RunOff
from seo_rec.search.run_off.contest import Contest
from seo_rec.serve.layout import EMBEDDINGS_FILE
from seo_rec.train import (
    FitSettings,
    Training,
    eval_stream,
    evaluate,
    fit_policy,
    inner_model,
)
from test_registry import EVERY, QUICK, UNTRAINED

Command = Callable[..., Any]
BYTES, DIM = 5_000, 8
SHORT = Training(ModelSettings(hidden=(8,)), FitSettings(epochs=1, batch_size=200))
QUICKLY = ["--epochs", "1", "--batch-size", "200", "--hidden", "8", "--threads", "1"]


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("7", 7),
        ("384k", 384_000),
        ("384K", 384_000),
        ("384kB", 384_000),
        ("1.5M", 1_500_000),
        ("0.5Ki", 512),
        ("96 KiB", 98_304),
        ("2Mi", 2_097_152),
        ("1GiB", 1_073_741_824),
    ],
)
def test_a_number_of_bytes(text: str, wanted: int) -> None:
    assert read_bytes(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "k", "0", "0k", "-1", "1.5", "1.2345k", "4i", "4 kk", "4T", "1e6", "nan"]
)
def test_no_number_of_bytes(text: str) -> None:
    with pytest.raises(PolicyError, match=r"is no number of bytes; allowed: a whole number"):
        read_bytes(text)


def test_an_allowance_is_in_floats_or_in_bytes() -> None:
    with pytest.raises(ValueError, match="params 8 and num_bytes 9; allowed: one of the two"):
        allowance_from(8, 9, "float32")
    with pytest.raises(ValueError, match="num_bytes is -1; allowed: 0 or more"):
        allowance_from(0, -1, "float32")
    with pytest.raises(ValueError, match="precision 'int3'; allowed: float32, float16"):
        Allowance(8, precision="int3")
    with pytest.raises(ValueError, match="unit 'rows'; allowed: parameters, bytes"):
        Allowance(8, "rows")


# ---- every method --------------------------------------------------------------------------


def decided(name: str, data: DataSet, budget: Allowance, out: Path | None = None) -> Policy:
    method = find(name)
    quick = method.changeable(QUICK.get(method.family, {}))
    settings = method.settings_at(budget, DIM, SHORT, quick, in_comparison=True)
    found = method.decide(data, settings, SHORT, out)
    return recipes.searching.signed(found.policy, method, settings, found)


def keeps_the_bytes(policy: Policy, precision: str) -> None:
    """Everything is stored in the precision, within the budget and a row of it.

    It is not filled where all features are at the largest width, or some are dropped.
    """
    assert stored_types(policy) == [precision]
    assert policy.budget is not None and policy.budget.num_bytes == BYTES
    widest = max((t.dim for t in policy.tables), default=1)
    by_id_methods = (
        "frequent",
        "managed-collision",
        "cafe",
        "seo-divide",
        "magnitude",
        "pep",
    )
    with_id = 8 if policy.provenance.get("method") in by_id_methods else 0
    if with_id and policy.codes:  # two levels: the codes of an id, and its second row
        with_id += 8
    assert policy.num_bytes <= BYTES
    by_id = all(k.address == "id" for f in policy.features for k in f.lookups)
    full = policy.dropped or (by_id and set(policy.widths) == {DIM})
    assert full or BYTES - policy.num_bytes < laws.bytes_of_a_row(widest, precision) + with_id


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "int4"])
@pytest.mark.parametrize("name", [n for n in UNTRAINED if find(n).budgeted])
def test_every_method_without_training(name: str, precision: str, tiny_data: DataSet) -> None:
    keeps_the_bytes(decided(name, tiny_data, Allowance(BYTES, "bytes", precision)), precision)


@pytest.mark.parametrize(
    "name",
    [
        n if n in ("sseds", "optembed") else pytest.param(n, marks=pytest.mark.slow)
        for n in EVERY
        if n not in UNTRAINED
    ],
)
def test_every_search(name: str, tiny_data: DataSet, tmp_path: Path) -> None:
    keeps_the_bytes(decided(name, tiny_data, Allowance(BYTES, "bytes", "int8"), tmp_path), "int8")


@pytest.mark.parametrize("name", [n for n in UNTRAINED if find(n).budgeted])
def test_a_precision_changes_no_budget_in_floats(name: str, tiny_data: DataSet) -> None:
    """Rows, widths and hashes are the same; only the types differ."""
    plain = decided(name, tiny_data, Allowance(4_000))
    typed = decided(name, tiny_data, Allowance(4_000, precision="int4"))
    assert stored_types(typed) == ["int4"] and typed.num_params == plain.num_params
    back = replace(
        typed,
        tables=tuple(replace(t, dtype="float32") for t in typed.tables),
        arrays=tuple(replace(a, dtype="float32") for a in typed.arrays),
    )
    assert back == plain


@pytest.mark.parametrize("strategy", apply.STRATEGIES)
def test_applying_in_bytes(strategy: str, tiny_data: DataSet) -> None:
    policy = decided("multi-size-2", tiny_data, Allowance(4_000))
    applied = apply.STRATEGIES[strategy](policy, Allowance(BYTES, "bytes", "int8"))
    keeps_the_bytes(applied, "int8")
    rows = [t.num_rows for t in applied.tables]
    assert max(rows) - min(rows) <= 1
    with pytest.raises(PolicyError, match=r"9 bytes, rows as int8; .* feasible budget is 16"):
        apply.STRATEGIES[strategy](policy, Allowance(9, "bytes", "int8"))


def test_a_run_off_compares_stored_rows(tiny_data: DataSet, tmp_path: Path) -> None:
    """The logits of a candidate are of a float model whose rows went through the reference."""
    policy = decided("multi-size-2", tiny_data, Allowance(BYTES, "bytes", "int4"))
    contest = Contest(tiny_data, [Candidate("a", policy)], RunOff(), SHORT, tmp_path)
    score, logits = contest._score("a", contest.once)
    trained = fit_policy(tiny_data, with_precision(policy, "float32"), contest.once)
    for table in policy.tables:
        bag = inner_model(trained.model).embedding.ebc.embedding_bags[table_key(table.name)]
        rows = quantize_rows(bag.weight.detach().numpy(), "int4")
        bag.weight.data.copy_(torch.from_numpy(dequantize_rows(rows, table.dim, "int4")))
    metrics, wanted, _ = evaluate(trained.model, eval_stream(tiny_data, "val"))
    np.testing.assert_array_equal(logits, wanted)
    assert score["val_auc"] == metrics.auc != trained.result.val.auc


# ---- commands ------------------------------------------------------------------------------


def test_a_training_is_scored_as_it_is_served(seo_rec: Command, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    asked = ["--method", "multi-size", "--bytes", "4k", "--precision", "int4", "--dim", DIM]
    done = seo_rec("train", tiny, "--out", out, *asked, *QUICKLY)
    assert done.code == 0, done.err
    run = Run.read(out / "result.json")
    assert (run.budget, run.budget_bytes, run.precision) == (None, 4000, "int4")
    assert 4000 - 8 < run.num_bytes <= 4000
    assert run.note == "trained in float32, stored as int4 after the training and scored so"
    options = json.loads((out / "settings.json").read_text())["options"]
    assert (options["bytes"], options["precision"]) == ("4000", "int4") and "params" not in options
    served = json.loads(seo_rec("eval", out, tiny).out)
    assert served["auc"] == run.test_auc and served["precision"] == "int4"
    assert served["num_bytes"] == run.num_bytes
    full = json.loads(seo_rec("eval", out, tiny, "--precision", "float32").out)
    assert full["auc"] != run.test_auc
    export_run(out, tmp_path / "p", formats=())
    file = (tmp_path / "p" / EMBEDDINGS_FILE).read_bytes()
    assert len(file) - 8 - int.from_bytes(file[:8], "little") == run.num_bytes
    (training,) = reading.read([out]).trainings
    assert (training.budget, training.unit) == (4000, "bytes")


@pytest.mark.parametrize("precision", ["float16", "int8", "int4"])
def test_optembed_searches_in_bytes(
    seo_rec: Command, tiny: Path, tmp_path: Path, precision: str
) -> None:
    """Its answer is trained, packaged and compared at the bytes that were asked for."""
    budget = ["--bytes", "2k", "--precision", precision, "--dim", DIM, *QUICKLY]
    quick = ["--set", "generations=2"]
    done = seo_rec("search", tiny, "--method", "optembed", *budget, *quick, "--out", tmp_path / "s")
    assert done.code == 0, done.err
    policy = Policy.load(tmp_path / "s" / "policy.json")
    assert stored_types(policy) == [precision] and policy.vocabularies
    assert policy.budget is not None and policy.budget.num_bytes == 2000
    assert 1800 < policy.num_bytes <= 2000
    trained = ["train", tiny, "--policy", tmp_path / "s" / "policy.json", *QUICKLY]
    done = seo_rec(*trained, "--out", tmp_path / "r")
    assert done.code == 0, done.err
    export_run(tmp_path / "r", tmp_path / "p", formats=())
    file = (tmp_path / "p" / EMBEDDINGS_FILE).read_bytes()
    assert len(file) - 8 - int.from_bytes(file[:8], "little") == policy.num_bytes
    asked = ["compare", tiny, "--methods", "optembed", *budget, "--seeds", "1"]
    done = seo_rec(*asked, "--set", "optembed.generations=2", "--out", tmp_path / "c")
    assert done.code == 0, done.err
    (run,) = reading.read([tmp_path / "c"]).trainings
    assert (run.budget, run.unit) == (2000, "bytes")


@pytest.mark.parametrize(
    "command, options, message",
    [
        ("train", ["--bytes", "4k", "--params", "80"], "--bytes and --params both set the budget"),
        ("train", ["--bytes", "4x"], "--bytes '4x' is no number of bytes; allowed: "),
        ("train", ["--precision", "int3"], "precision 'int3'; allowed: float32, float16"),
        ("frontier", ["--bytes", "4k", "--budgets", "80"], "give either --budgets, in parameters"),
        ("frontier", ["--bytes", "4k,4000"], "allowed: numbers of bytes separated by commas"),
    ],
)
def test_budgets_that_are_refused(
    seo_rec: Command, tiny: Path, tmp_path: Path, command: str, options: list[str], message: str
) -> None:
    method = ["--method", "separate"] if command == "train" else []
    done = seo_rec(command, tiny, "--out", tmp_path / "o", *method, *options)
    assert done.code != 0 and message in done.err
    assert not (tmp_path / "o").exists()


def test_a_frontier_in_bytes(seo_rec: Command, tiny: Path, tmp_path: Path) -> None:
    """Its points, ranking and plot count bytes, also of methods that have no budget."""
    out = tmp_path / "f"
    methods = ["--methods", "monolithic,collisionless", "--seeds", "1", "--dim", DIM]
    asked = ["--bytes", "2k,4k", "--precision", "int8", *methods, *QUICKLY]
    done = seo_rec("frontier", tiny, "--out", out, *asked)
    assert done.code == 0, done.err
    assert {p.name for p in out.iterdir()} >= {"bytes-2000", "bytes-4000", "unbudgeted"}
    assert "2,000" in done.out and "4,000" in done.out and "as many bytes or fewer" in done.out
    points = read_points(out)
    assert {p.unit for p in points} == {"bytes"}
    assert {(p.method, p.budget) for p in points} == {
        ("monolithic", 2000),
        ("monolithic", 4000),
        ("collisionless", None),
    }
    for p in points:
        assert p.size == (p.budget or p.num_bytes)
    # compare goes on with a part of it
    compared = ["--bytes", "4000", "--precision", "int8", "--methods", "monolithic", *methods[2:]]
    done = seo_rec("compare", tiny, "--out", out / "bytes-4000", *compared, *QUICKLY)
    assert done.code == 0, done.err
    assert "4,000 bytes" in done.out
