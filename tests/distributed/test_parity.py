"""Sharded training is the same training: the same losses and weights as in one process."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch

from at_length import at_length
from distributed.sharded import (
    MACHINE_PLANS,
    PLANS,
    Trained,
    all_kinds_of,
    flat_only,
    plan,
    policy_of,
    train,
)
from seo_rec.data.dataset import DataSet
from seo_rec.plan import PlanError, plan_policy, read_topology
from seo_rec.settings import DENSE_OPTIMIZER_NAMES
from seo_rec.train import FitSettings
from seo_rec.train.distributed import kernels

TOLERANCE = 1e-6
STEPS = 20  # of 970 rows in batches of 120: the ninth is short, and not of equal shares
OPTIMIZERS = ("adam", "adagrad", "sgd")


def settings(optimizer: str, **other: object) -> FitSettings:
    given = {
        "epochs": 5,
        "max_steps": STEPS,
        "batch_size": 120,
        "row_optimizer": optimizer,
        "dense_optimizer": optimizer if optimizer in DENSE_OPTIMIZER_NAMES else "adam",
        "row_lr": 2e-3 if optimizer == "adam" else 0.02,  # Adam's steps are of this size
        "dense_lr": 2e-3,
        "average": 0.0,
        "log_every": 1,
    }
    return FitSettings(**{**given, **other})


@pytest.fixture(scope="module")
def whole(tiny_data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """One unsharded process, by optimizer."""
    folder = tmp_path_factory.mktemp("whole")
    return {
        name: train(tiny_data, settings(name), "", 1, folder / name)
        for name in ("adam", "adagrad", "sgd", "rowwise_adagrad")
    }


def assert_same(found: Trained, expected: Trained) -> None:
    assert len(found.losses) == len(expected.losses) == STEPS
    assert found.losses == pytest.approx(expected.losses, abs=TOLERANCE)
    for got, wanted in ((found.last, expected.last), (found.weights, expected.weights)):
        assert got.keys() == wanted.keys() and wanted
        for name, weight in wanted.items():
            torch.testing.assert_close(got[name], weight, atol=TOLERANCE, rtol=0)
    for key in ("auc", "log_loss", "num_rows"):
        assert found.val[key] == pytest.approx(expected.val[key], abs=TOLERANCE)


# Every plan with one optimizer, and every optimizer with the plan of all kinds; the rest at length.
QUICK = {("table_wise", "adam"), ("row_wise", "adagrad"), ("column_wise", "sgd")}
QUICK |= {("data_parallel", "adagrad"), ("one_rank", "sgd"), *(("mixed", o) for o in OPTIMIZERS)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MACHINE_PLANS)
@pytest.mark.parametrize("optimizer", ["adagrad", "adam"])
def test_machines_of_two_ranks_equal_one_process(
    tiny_data: DataSet, tmp_path: Path, whole: dict[str, Trained], kind: str, optimizer: str
) -> None:
    """Four ranks: the two of a machine share the rows of a table, or of some of its columns."""
    found = train(tiny_data, settings(optimizer), kind, 4, tmp_path / "run", timeout=200)
    assert_same(found, whole[optimizer])


@pytest.mark.parametrize("kind, optimizer", at_length(product(PLANS, OPTIMIZERS), QUICK))
def test_two_ranks_equal_one_process(
    tiny_data: DataSet, tmp_path: Path, whole: dict[str, Trained], kind: str, optimizer: str
) -> None:
    assert_same(train(tiny_data, settings(optimizer), kind, 2, tmp_path), whole[optimizer])


FOUR = [*(("mixed", o) for o in OPTIMIZERS), ("row_wise", "adagrad")]


@pytest.mark.parametrize("kind, optimizer", at_length(FOUR, {("mixed", "adagrad")}))
def test_four_ranks_equal_one_process(
    tiny_data: DataSet, tmp_path: Path, whole: dict[str, Trained], kind: str, optimizer: str
) -> None:
    assert_same(train(tiny_data, settings(optimizer), kind, 4, tmp_path), whole[optimizer])


@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "data_parallel"])
def test_rowwise_adagrad_where_rows_stay_whole(
    tiny_data: DataSet, tmp_path: Path, whole: dict[str, Trained], kind: str
) -> None:
    found = train(tiny_data, settings("rowwise_adagrad"), kind, 2, tmp_path)
    assert_same(found, whole["rowwise_adagrad"])


def test_rowwise_adagrad_refuses_column_cuts(tiny_data: DataSet) -> None:
    placements = plan(policy_of(tiny_data), "column_wise", 2)
    with pytest.raises(PlanError, match=r"table 'a' is cut into 2 blocks.*row-wise Adagrad"):
        kernels(placements, "rowwise_adagrad", 0.0)
    with pytest.raises(PlanError, match="row-wise Adagrad"):
        kernels(placements, "rowwise_adagrad", 0.1)  # weight decay needs dense kernels: the same


@pytest.mark.parametrize(
    "optimizer, l2, expected",
    [("adam", 0.0, "dense"), ("adagrad", 0.0, "sparse"), ("sgd", 0.1, "dense")],
)
def test_how_gradients_are_kept(
    tiny_data: DataSet, optimizer: str, l2: float, expected: str
) -> None:
    """Adam and L2 of all rows move rows that are not in the batch."""
    placements = plan(policy_of(tiny_data), "mixed", 2)
    found = kernels(placements, optimizer, l2)
    on_gpu = kernels(placements, optimizer, l2, device="cuda")["a"]
    assert on_gpu == ("fused" if expected == "sparse" else expected)
    assert kernels(placements, optimizer, l2, device="cuda", mean=True)["a"] == expected
    assert found == {"a": expected, "b": expected, "c": "dense", "d": expected}


@pytest.mark.parametrize("kind", ["column_wise", pytest.param("row_wise", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "optimizer, l2_on", [("lazy_adam", "read"), ("adagrad", "frequency"), ("sgd", "read")]
)
def test_rows_of_the_batch_over_ranks(
    tiny_data: DataSet, tmp_path: Path, optimizer: str, l2_on: str, kind: str
) -> None:
    """Moments, L2 and means of the rows that were read are those of one process."""
    rates = {"row_lr": 2e-3, "row_l2": 0.01, "l2_on": l2_on, "average": 0.9}
    wanted = settings(optimizer, **rates)
    expected = train(tiny_data, wanted, "", 1, tmp_path / "one")
    assert_same(train(tiny_data, wanted, kind, 2, tmp_path / "two"), expected)


def test_rows_of_the_batch_need_tables_that_are_not_copied(tiny_data: DataSet) -> None:
    placements = plan(policy_of(tiny_data), "mixed", 2)
    with pytest.raises(PlanError, match=r"table 'c' is on every rank.*lazy_adam moves"):
        kernels(placements, "lazy_adam", 0.0)
    with pytest.raises(PlanError, match="L2 of read rows moves"):
        kernels(placements, "sgd", 0.0, l2_by_rows=True)
    policy = policy_of(tiny_data)
    for copyable, optimizer in ((False, "adagrad"), (True, "lazy_adam")):
        made = plan_policy(
            policy, read_topology("2xcpu"), row_optimizer=optimizer, copyable=copyable
        )
        assert all(p.shards for p in made.placements)


def test_weight_decay_and_average_over_ranks(tiny_data: DataSet, tmp_path: Path) -> None:
    """L2 of whole tables and the running mean of sharded weights are those of one process."""
    wanted = settings("adagrad", row_l2=0.01, average=0.9)
    expected = train(tiny_data, wanted, "", 1, tmp_path / "one")
    assert_same(train(tiny_data, wanted, "mixed", 2, tmp_path / "two"), expected)


@pytest.mark.parametrize(
    "turn, kind, optimizer, world",
    [
        (0, "table_wise", "adam", 2),
        (1, "row_wise", "adagrad", 2),
        (0, "column_wise", "sgd", 2),
        (1, "data_parallel", "rowwise_adagrad", 2),
        pytest.param(0, "mixed", "adagrad", 4, marks=pytest.mark.slow),
    ],
)
def test_every_combine_and_address_on_ranks(
    tiny_data: DataSet, tmp_path: Path, turn: int, kind: str, optimizer: str, world: int
) -> None:
    """Also where the ranks' numbers of bags differ, since one id each makes a bag."""
    policy, wanted = all_kinds_of(tiny_data, turn), settings(optimizer)
    expected = train(tiny_data, wanted, "", 1, tmp_path / "one", policy=policy)
    found = train(tiny_data, wanted, kind, world, tmp_path / "more", policy=policy)
    assert_same(found, expected)


@pytest.mark.parametrize("optimizer", ["adam", "rowwise_adagrad"])
def test_flat_arrays_alone_on_ranks(tiny_data: DataSet, tmp_path: Path, optimizer: str) -> None:
    policy, wanted = flat_only(tiny_data), settings(optimizer)
    expected = train(tiny_data, wanted, "", 1, tmp_path / "one", policy=policy)
    assert_same(train(tiny_data, wanted, "", 2, tmp_path / "two", policy=policy), expected)
