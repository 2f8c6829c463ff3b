"""Tables that are trained in 16 bits: the whole path from initial rows to a package."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from cases import BAGS, BUILDABLE, batch
from distributed.sharded import plan, policy_of
from distributed.sharded import train as train_on_ranks
from seo_kernels import native
from seo_rec import recipes
from seo_rec.data.dataset import DataSet
from seo_rec.data.stream import Stream
from seo_rec.embed.sparse import TablePart
from seo_rec.export import export_run
from seo_rec.methods import Mlet
from seo_rec.model import ModelSettings, build_model
from seo_rec.plan import PlanError
from seo_rec.policy import Feature, Lookup, Policy, Table
from seo_rec.recipes import method_policy
from seo_rec.runs.layout import BEST_FOLDER, CHECKPOINTS_FOLDER, RUN_FILE
from seo_rec.search import find
from seo_rec.settings import LARGEST_DENSE, FitSettings, Training, settled
from seo_rec.train import Checkpoints, SparseRows, Start, make_optimizers
from seo_rec.train.distributed import kernels
from seo_rec.train.memory import training_bytes
from seo_rec.train.sparse_rows import sparse_rows

HALVES = ("float16", "bfloat16")
SMALL = ModelSettings(hidden=(8,))
FIT = FitSettings(
    epochs=2, batch_size=100, row_lr=0.02, row_optimizer="rowwise_adagrad", average=0.9
)
of_16_bits = pytest.mark.parametrize("storage", HALVES)


@of_16_bits
def test_initial_rows_are_rounded_once(tiny_data: DataSet, storage: str) -> None:
    policy = method_policy("multi-size", tiny_data, 1600)
    wide, half = (
        build_model(policy, tiny_data.num_numeric, SMALL, 3, storage=kind).state_dict()
        for kind in ("float32", storage)
    )
    tables = [name for name in wide if ".ebc." in name]
    for name, value in half.items():
        expected = wide[name].to(getattr(torch, storage)) if name in tables else wide[name]
        assert value.dtype == expected.dtype and torch.equal(value, expected)
    assert tables


@pytest.mark.parametrize("storage, bags", [("float16", "single"), ("bfloat16", "bags-weighted")])
def test_every_policy_of_tables_is_read_as_in_float32(storage: str, bags: str) -> None:
    """By a model that is trained, and by one that is made to be evaluated."""
    for name, policy in BUILDABLE.items():
        if policy.arrays:
            continue
        half = build_model(policy, 0, SMALL, 1, storage=storage)
        wide = build_model(policy, 0, SMALL, 1)
        wide.load_state_dict(half.state_dict())
        features = batch(policy.columns, BAGS[bags])
        with torch.no_grad():
            expected = wide.embedding(features)
            torch.testing.assert_close(half.embedding(features), expected, msg=name)
        with pytest.raises(RuntimeError, match="rows that were read"):
            half.embedding(features)
        make_optimizers(half, "lazy_adam", 0.1, 0.1)
        found = half.embedding(features)
        assert found.requires_grad
        torch.testing.assert_close(found.detach(), expected, msg=name)


# ---- a run -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=HALVES)
def run(
    request: pytest.FixtureRequest, tiny_data: DataSet, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A finished training run, its storage and what it reported."""
    out = tmp_path_factory.mktemp("half") / "run"
    policy = method_policy("multi-size", tiny_data, 1600)
    training = Training(SMALL, replace(FIT, storage=request.param))
    return out, request.param, recipes.train(tiny_data, policy, out, training)


def test_checkpoints_hold_16_bits_and_float32_state(run: Any) -> None:
    out, storage, _ = run
    types = {}
    for folder in (CHECKPOINTS_FOLDER, BEST_FOLDER):
        saved = Checkpoints(out / folder).latest()
        assert saved is not None
        types |= {name: dtype for name, (_, dtype) in saved.sizes.items() if ".ebc." in name}
    kinds = {name.partition(".")[0] + "." + name.rpartition(".")[2] for name in types}
    assert kinds == {"model.weight", "optimizer.sum", "average.weight", "average.at"}
    for name, dtype in types.items():
        if name.startswith(("model.", "average.")) and not name.endswith(".at"):
            assert dtype == getattr(torch, storage)
        elif not name.endswith(".at"):
            assert dtype == torch.float32


def test_the_run_says_its_storage(run: Any) -> None:
    out, storage, result = run
    assert json.loads((out / RUN_FILE).read_text())["fit"]["storage"] == storage
    assert result.table_update.endswith(f"rows of {storage}")
    assert result.num_bytes == 4 * result.embedding_params, "served as the policy says"


def test_what_is_evaluated_and_exported_is_what_was_trained(
    run: Any, tiny_data: DataSet, tmp_path: Path
) -> None:
    """The types of 16 bits that the run was trained in lose nothing."""
    out, storage, result = run
    assert recipes.evaluate_served(out, tiny_data, "test").metrics.auc == result.test_auc
    served = recipes.evaluate_served(out, tiny_data, "test", storage)
    assert served.metrics.auc == result.test_auc
    assert served.num_bytes * 2 == served.num_bytes_float32
    package = export_run(out, tmp_path / "package", storage, tiny_data.path, formats=())
    assert package.num_bytes == served.num_bytes
    assert recipes.load_trained(out).embedding.storage == "float32"


def test_training_in_16_bits_is_near_training_in_float32(tiny_data: DataSet) -> None:
    """Rows that were read differ by the rounding of some steps, and hardly more."""
    policy = method_policy("multi-size", tiny_data, 1600)
    weights = {}
    for storage in ("float32", "bfloat16"):
        model = build_model(policy, tiny_data.num_numeric, SMALL, 0, storage=storage)
        optimizers = make_optimizers(model, "adagrad", 0.02, 0.02)
        rows = optimizers["rows"]
        assert isinstance(rows, SparseRows)
        for data in Stream(tiny_data, "train", batch_size=100):
            for optimizer in optimizers.values():
                optimizer.zero_grad()
            model(data)[0].backward()
            for optimizer in optimizers.values():
                optimizer.step()
        tables = model.embedding.ebc.parameters()
        weights[storage] = torch.cat([p.detach().float().flatten() for p in tables])
    apart = (weights["float32"] - weights["bfloat16"]).abs()
    moved = weights["float32"].abs().max()
    assert moved > 0.05 and 0 < apart.mean() < 0.03 * moved


# ---- several processes -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["row_wise", "column_wise"])
def test_two_ranks_train_as_one(tiny_data: DataSet, tmp_path: Path, kind: str) -> None:
    """But where float32 sums differ in the last bit and the random number lies between."""
    wanted = FitSettings(
        epochs=5,
        max_steps=12,
        batch_size=120,
        row_optimizer="adagrad",
        row_lr=0.02,
        average=0.9,
        log_every=1,
        storage="bfloat16",
    )
    one = train_on_ranks(tiny_data, wanted, "", 1, tmp_path / "one")
    two = train_on_ranks(tiny_data, wanted, kind, 2, tmp_path / "two")
    assert two.losses == pytest.approx(one.losses, abs=1e-5)
    for found, expected in ((two.last, one.last), (two.weights, one.weights)):
        for name, weight in expected.items():
            if ".ebc." in name:
                same = (found[name] == weight).double().mean()
                assert same > 0.995, f"{name}: {same:.3f} of the numbers are the same"
                torch.testing.assert_close(found[name], weight, rtol=2**-6, atol=1e-4)
            else:
                torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-4)


def test_tables_on_every_rank_are_refused(tiny_data: DataSet) -> None:
    placements = plan(policy_of(tiny_data), "mixed", 2)
    with pytest.raises(PlanError, match=r"table 'c' is on every rank.*--storage bfloat16 needs"):
        kernels(placements, "adagrad", 0.0, storage="bfloat16")
    kept = kernels(plan(policy_of(tiny_data), "row_wise", 2), "sgd", 0.0, device="cuda")
    half = kernels(
        plan(policy_of(tiny_data), "row_wise", 2), "sgd", 0.0, device="cuda", storage="float16"
    )
    assert set(kept.values()) == {"fused"} and set(half.values()) == {"sparse"}


# ---- what is decided, and what is refused ------------------------------------------------------


@of_16_bits
def test_auto_takes_an_optimizer_of_rows(storage: str) -> None:
    auto = FitSettings(storage=storage, row_l2=0.1)
    small, large = settled(auto, LARGEST_DENSE), settled(auto, LARGEST_DENSE + 1)
    assert (small.row_optimizer, small.l2_on) == ("lazy_adam", "read")
    assert (large.row_optimizer, large.l2_on) == ("rowwise_adagrad", "read")
    for optimizer in ("adagrad", "rowwise_adagrad", "sgd"):
        chosen = settled(replace(auto, row_optimizer=optimizer), 10)
        assert (chosen.l2_on, chosen.has_dense_gradients) == ("read", False)


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"storage": "int8"}, "storage is 'int8'; allowed: auto, float32, float16, bfloat16"),
        (
            {"storage": "float16", "row_optimizer": "adam"},
            "--storage float16 with --optimizer adam, .* or --optimizer auto, lazy_adam",
        ),
        (
            {"storage": "bfloat16", "l2_on": "all"},
            "--storage bfloat16 with --l2-on all, .* --l2-on auto, read or frequency",
        ),
    ],
)
def test_settings_that_move_all_rows_are_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FitSettings(**asked)


@of_16_bits
def test_what_has_dense_gradients_is_refused_before_any_work(
    tiny_data: DataSet, tmp_path: Path, storage: str
) -> None:
    fit, out = replace(FIT, storage=storage), tmp_path / "run"
    tables = method_policy("multi-size", tiny_data, 1600)
    flat = method_policy("robe", tiny_data, 1600)
    weights = tmp_path / "weights.npz"
    cases: list[tuple[Any, ModelSettings, Start | None, str]] = [
        (flat, SMALL, None, "flat arrays, .*; allowed: --storage float32, or a policy of tables"),
        (tables, replace(SMALL, mlet=Mlet(8)), None, "--mlet-dim 8, .*; allowed: --storage float"),
        (tables, SMALL, Start(weights=weights), "--weights, whose tables are float32"),
    ]
    for policy, model, start, message in cases:
        with pytest.raises(ValueError, match=f"--storage {storage} with .*{message}"):
            recipes.train(tiny_data, policy, out, Training(model, fit), start=start)
    assert not out.exists()


@pytest.mark.parametrize(
    "name", ["seo", "dimgrow", "optembed", "autodim", "sseds", "cce", "magnitude", "pep"]
)
def test_searches_refuse_tables_of_16_bits(tiny_data: DataSet, name: str) -> None:
    entry, training = find(name), Training(SMALL, FitSettings(storage="bfloat16"))
    settings = entry.settings_at(1600, 16, training, {})
    with pytest.raises(ValueError, match=f"--storage bfloat16 with the search {name}; allowed: --"):
        entry.checked(tiny_data, settings, training)


def test_the_memory_of_a_training(tiny_data: DataSet) -> None:
    policy = method_policy("multi-size", tiny_data, 1600)
    floats, rows = policy.num_params, sum(t.num_rows for t in policy.tables)
    fit = FitSettings(row_optimizer="rowwise_adagrad", average=0.0)
    half = replace(fit, storage="bfloat16")
    assert training_bytes(policy, fit) == 4 * floats + 4 * rows
    assert training_bytes(policy, half) == 2 * floats + 4 * rows
    for settings, size in ((fit, 4), (half, 2)):  # a mean is of the type of the weights
        with_mean = training_bytes(policy, replace(settings, average=0.9))
        assert with_mean == 2 * size * floats + 4 * (2 * rows)


def taken(seen: profile) -> int:
    """Bytes that torch's allocator gave while the profiler looked on."""
    changes = [e.nbytes() for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    return sum(change for change in changes if change > 0)


def test_weights_of_16_bits_take_half_the_memory() -> None:
    """128 MB in place of 256, as torch's allocator counts them: it cannot reuse freed pages."""
    policy = Policy((Table("t", 2**21, 32),), (Feature("f", (Lookup("t"),)),))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        model = build_model(policy, 0, SMALL, 0, storage="bfloat16")
        optimizers = make_optimizers(model, "rowwise_adagrad", 0.1, 0.1)
        (rows,) = sparse_rows(optimizers)
        rows.keep_mean(0.9)
        features = batch(("f",), BAGS["single"], rows=1000)
        model.embedding(features).sum().backward()
        rows.step()
    assert 2**27 <= taken(seen) < 2**27 + 2**26
    (state,) = rows.state.values()
    assert state["mean"].nbytes == 2**27  # given by the system as it is written
    state["mean_at"].fill_(0)  # as if all rows had been read
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        rows.swap_means(back=False)
        rows.swap_means(back=True)
    if native.missing() is None:  # else in PyTorch, a part of the rows at a time
        assert taken(seen) < 2**20
    assert np.isfinite(model.embedding._tables()[0][:100].float().detach().numpy()).all()


def test_random_numbers_are_of_the_seed_and_the_table() -> None:
    """Two tables, or two seeds, never round alike; a shard rounds as its table."""
    policy, keys = BUILDABLE["mixed-dims"], []
    for seed in (0, 1):
        model = build_model(policy, 0, SMALL, seed, storage="bfloat16")
        rows = make_optimizers(model, "sgd", 0.1, 0.1)["rows"]
        assert isinstance(rows, SparseRows)
        ((*tables,),) = rows.tables
        keys += [t.key for t in tables]
        names = model.embedding.table_keys
        assert [t.key for t in tables] == [TablePart(n, 5, 8).key(seed) for n in names]
        assert {(t.first_row, t.first_column) for t in tables} == {(0, 0)}
    assert len(set(keys)) == 2 * len(policy.tables) > 2
