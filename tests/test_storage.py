"""``--storage auto``: tables are trained in 16 bits of their policy, if nothing else changes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seo_rec import recipes
from seo_rec.data.dataset import DataSet
from seo_rec.methods import Mlet
from seo_rec.model import ModelSettings
from seo_rec.plan import CACHED, plan_policy, read_topology
from seo_rec.policy import Allowance, Policy, with_precision
from seo_rec.recipes import Comparison, method_policy
from seo_rec.recipes.evaluation import load_trained
from seo_rec.runs import RunError
from seo_rec.runs.layout import RESULT_FILE, RUN_FILE, SETTINGS_FILE
from seo_rec.search.run_off import Candidate, RunOff
from seo_rec.search.run_off.contest import Contest
from seo_rec.settings import LARGEST_DENSE, FitSettings, Training
from seo_rec.train import Start, as_recorded, storage_for, with_storage
from seo_rec.train.earlier import open_earlier

SMALL = ModelSettings(hidden=(8,))
FIT = FitSettings(
    epochs=1, batch_size=100, row_lr=0.02, row_optimizer="adagrad", storage="auto", average=0.9
)
AUTO = Training(SMALL, FIT)


def in_type(storage: str) -> Training:
    return replace(AUTO, fit=replace(FIT, storage=storage))


def policy_of(data: DataSet, dtype: str = "bfloat16", method: str = "multi-size") -> Policy:
    return with_precision(method_policy(method, data, 1600), dtype)


def weights_of(run: Path) -> dict[str, np.ndarray]:
    state = load_trained(run).state_dict()
    return {name: value.numpy() for name, value in state.items()}


def fit_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / RUN_FILE).read_text())["fit"])


@pytest.fixture(scope="module")
def runs(tiny_data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same policy of bfloat16, trained with every kind of storage."""
    folder = tmp_path_factory.mktemp("storage")
    for storage in ("auto", "bfloat16", "float32"):
        recipes.train(tiny_data, policy_of(tiny_data), folder / storage, in_type(storage))
    return folder


def test_auto_is_the_type_of_the_policy_to_the_bit(runs: Path) -> None:
    auto, half, full = (weights_of(runs / name) for name in ("auto", "bfloat16", "float32"))
    assert all(np.array_equal(auto[name], half[name]) for name in half)
    assert any(not np.array_equal(auto[name], full[name]) for name in full)
    assert fit_of(runs / "auto") == fit_of(runs / "bfloat16")
    assert fit_of(runs / "auto")["storage"] == "bfloat16" and "storage" not in fit_of(
        runs / "float32"
    )


def test_a_run_goes_on_in_the_type_that_it_recorded(
    runs: Path, tiny_data: DataSet, tmp_path: Path
) -> None:
    """A run of before there was ``auto`` recorded nothing, and was trained in float32."""
    policy, run = policy_of(tiny_data), tmp_path / "run"
    begun = recipes.train(tiny_data, policy, run, in_type("float32"))
    for storage in ("auto", "float32"):
        (run / RESULT_FILE).unlink()
        assert recipes.train(tiny_data, policy, run, in_type(storage), resume=True).val_auc == (
            begun.val_auc
        )
        assert "storage" not in fit_of(run)
    with pytest.raises(RunError, match=r"another run \(it differs in fit.storage\)"):
        recipes.train(tiny_data, policy, run, in_type("bfloat16"), resume=True)
    for name in ("bfloat16", "float32"):
        assert as_recorded(AUTO, runs / name).fit.storage == name
    assert as_recorded(AUTO, tmp_path / "none").fit.storage == "auto"
    (run / RUN_FILE).write_text('{"kind": "another"}')
    with pytest.raises(RunError, match="another run"):
        recipes.train(tiny_data, policy, run, AUTO, resume=True)


def test_a_run_that_goes_on_from_another_has_its_type(runs: Path) -> None:
    for name in ("bfloat16", "float32"):
        begun = Start(earlier=open_earlier(runs / name))
        assert with_storage(AUTO, None, begun).fit.storage == name


# ---- the rule --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["lazy_adam", "adagrad", "rowwise_adagrad", "sgd"])
def test_an_optimizer_of_rows_takes_16_bits(tiny_data: DataSet, optimizer: str, dtype: str) -> None:
    training = replace(AUTO, fit=replace(FIT, row_optimizer=optimizer))
    assert storage_for(policy_of(tiny_data, dtype), training).dtype == dtype
    for other in ("float32", "int8", "int4"):
        found = storage_for(policy_of(tiny_data, other), training)
        assert (found.dtype, found.why) == ("float32", "")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"row_optimizer": "adam"}, "every step moves all rows .adam at 0.02"),
        ({"row_optimizer": "auto"}, "every step moves all rows .adam at 0.02"),
        ({"row_l2": 0.1}, "every step moves all rows .adagrad at 0.02 .* L2 0.1 on all rows"),
        ({"l2_on": "all"}, "every step moves all rows .--l2-on all"),
    ],
)
def test_16_bits_change_neither_optimizer_nor_l2(
    tiny_data: DataSet, changes: dict[str, Any], why: str
) -> None:
    training = replace(AUTO, fit=replace(FIT, **changes))
    found = storage_for(policy_of(tiny_data), training)
    assert found.dtype == "float32"
    assert re.search(why, found.why)
    by_rows = replace(training, fit=replace(training.fit, row_optimizer="adagrad", l2_on="read"))
    assert storage_for(policy_of(tiny_data), by_rows).dtype == "bfloat16"


def test_auto_of_the_optimizer_takes_16_bits_where_tables_are_large(tiny_data: DataSet) -> None:
    training = replace(AUTO, fit=replace(FIT, row_optimizer="auto", row_l2=0.1))
    found = {}
    for floats in (LARGEST_DENSE // 16 * 16, LARGEST_DENSE // 16 * 16 + 16):
        policy = with_precision(method_policy("monolithic", tiny_data, floats), "float16")
        assert policy.num_params == floats
        found[floats > LARGEST_DENSE] = storage_for(policy, training).dtype
    assert found == {False: "float32", True: "float16"}


def test_what_is_trained_in_float32_only_stays_so(tiny_data: DataSet, tmp_path: Path) -> None:
    policy = policy_of(tiny_data)
    two = replace(policy.tables[0], dtype="float16"), *policy.tables[1:]
    flat = policy_of(tiny_data, method="robe")
    layered = replace(AUTO, model=replace(SMALL, mlet=Mlet(8)))
    weights = Start(weights=tmp_path / "weights.npz")
    for found, why in (
        (storage_for(replace(policy, tables=two), AUTO), "rows of bfloat16 and of float16"),
        (storage_for(flat, AUTO), "flat arrays"),
        (storage_for(policy, layered), "MLET"),
        (storage_for(policy, AUTO, weights), "--weights"),
        (storage_for(policy, AUTO, device="cuda"), "GPUs update float32"),
    ):
        assert found.dtype == "float32" and why in found.why


def test_a_plan_says_which_types_it_can_hold(tiny_data: DataSet, tmp_path: Path) -> None:
    policy, path = policy_of(tiny_data), tmp_path / "plan.json"
    topology = read_topology("2xcpu")
    plan = plan_policy(policy, topology, batch_size=64, row_optimizer="adagrad", copyable=False)
    plan.save(path)
    assert storage_for(policy, AUTO, Start(plan=path)).dtype == "bfloat16"
    placed = plan.placements[0]
    for other in (
        replace(placed, kind="data_parallel", shards=()),
        replace(placed, compute_kernel=sorted(CACHED)[0], cache_load_factor=0.5),
    ):
        path.unlink()
        replace(plan, placements=(other, *plan.placements[1:])).save(path)
        found = storage_for(policy, AUTO, Start(plan=path))
        assert found.dtype == "float32" and str(path) in found.why


# ---- run-off, comparison, command line -------------------------------------------------------


def test_a_run_off_trains_candidates_as_they_are_trained_later(
    tiny_data: DataSet, tmp_path: Path
) -> None:
    candidates = [Candidate("only", policy_of(tiny_data))]
    found = {}
    for storage in ("auto", "bfloat16", "float32"):
        contest = Contest(
            tiny_data, candidates, RunOff(cost=0), in_type(storage), tmp_path / storage
        )
        found[storage] = contest._score("only", contest.once)[1]
    assert np.array_equal(found["auto"], found["bfloat16"])
    assert not np.array_equal(found["auto"], found["float32"])


def test_a_comparison_trains_each_policy_in_its_type(tiny_data: DataSet, tmp_path: Path) -> None:
    """Tables in 16 bits, and arrays in float32; an older comparison goes on as it began."""
    wanted = Comparison(
        (tiny_data,), ("monolithic", "robe"), 1600, seeds=1, training=AUTO, precision="bfloat16"
    )
    tables, arrays = recipes.compare(wanted, tmp_path / "new")
    assert tables.table_update.endswith("rows of bfloat16")
    assert "bfloat16" not in arrays.table_update
    assert fit_of(tmp_path / "new")["storage"] == "auto"
    old = replace(wanted, methods=("monolithic",), training=in_type("float32"))
    recipes.compare(old, tmp_path / "old")
    more = replace(wanted, methods=("monolithic", "separate"))
    for run in recipes.compare(more, tmp_path / "old"):
        assert "bfloat16" not in run.table_update
    assert "storage" not in fit_of(tmp_path / "old")


def test_a_comparison_refuses_16_bits_of_arrays_before_any_work(
    tiny_data: DataSet, tmp_path: Path
) -> None:
    for name, message in (
        ("robe", "flat arrays"),
        ("seo", "the search seo"),
        ("pep", "search pep"),
    ):
        wanted = Comparison(
            (tiny_data,), ("monolithic", name), 1600, seeds=1, training=in_type("bfloat16")
        )
        with pytest.raises(ValueError, match=f"--storage bfloat16 with .*{message}"):
            recipes.compare(wanted, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_says_what_it_decided(
    tiny_data: DataSet, tmp_path: Path, seo_rec: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "seo_rec.progress")
    typed = ("train", tiny_data.path, "--method", "monolithic", "--params", 1600)
    typed += ("--precision", "bfloat16", "--epochs", 1, "--hidden", "8", "--out")
    done = seo_rec(*typed, tmp_path / "rows", "--optimizer", "adagrad")
    assert done.code == 0, done.err
    said = "tables are trained in bfloat16, as the policy stores them (--storage)"
    assert [r.message for r in caplog.records].count(said) == 1
    assert done.out.strip().endswith("rows of bfloat16")
    settings = json.loads((tmp_path / "rows" / SETTINGS_FILE).read_text())
    assert settings["options"]["storage"] == fit_of(tmp_path / "rows")["storage"] == "bfloat16"
    caplog.clear()
    done = seo_rec(*typed, tmp_path / "all")
    assert done.code == 0, done.err
    assert "trained in float32, since every step moves all rows (adam at 0.002" in caplog.text
    assert "L2 0.003 on all rows" in done.out and "storage" not in fit_of(tmp_path / "all")
    caplog.clear()
    done = seo_rec(*typed, tmp_path / "off", "--optimizer", "adagrad", "--storage", "float32")
    assert done.code == 0 and "bfloat16" not in done.out + caplog.text, done.err


def test_a_budget_in_bytes_buys_what_is_trained(tiny_data: DataSet) -> None:
    policy = method_policy("monolithic", tiny_data, Allowance(3200, "bytes", "float16"))
    assert policy.num_bytes == 2 * policy.num_params == 3200
    assert storage_for(policy, AUTO).dtype == "float16"
