"""Ids left out of a vocabulary have rows in training, and their mean is served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seo_rec import recipes
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.embed.tables import table_key
from seo_rec.methods import Mlet
from seo_rec.model import ModelSettings, RecModel
from seo_rec.policy import Feature, Lookup, Policy, Table
from seo_rec.policy.addresses import lookup_rows
from seo_rec.policy.candidates import candidate_features, left_out, with_candidates
from seo_rec.policy.renewal import KEPT_BESIDE, bounded
from seo_rec.recipes.continuing import continued
from seo_rec.recipes.evaluation import load_model, load_trained
from seo_rec.recipes.id_counts import read_counts
from seo_rec.recipes.training import asked_for
from seo_rec.runs import RunError, claim_run
from seo_rec.runs.layout import (
    BEST_FOLDER,
    CHECKPOINTS_FOLDER,
    COUNTS_FILE,
    POLICY_FILE,
    TRAINED_FILE,
)
from seo_rec.settings import FitSettings, Training
from seo_rec.train.average import AT
from seo_rec.train.checkpoint import open_checkpoint
from seo_rec.train.earlier import open_earlier
from seo_rec.train.earlier_tensors import Tensors
from seo_rec.train.policy_fit import Start
from seo_rec.train.unknown_rows import served_tensor
from seo_rec.train.warm_start import BAGS, write_first_checkpoint
from tests.days import prepare_day


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def by_id(vocabulary: np.ndarray, unknown_rows: int = 1, seed: int = 0) -> Policy:
    lookup = Lookup("u", "id", seed=seed, unknown_rows=unknown_rows)
    table = Table("u", len(vocabulary) + unknown_rows, 2)
    return Policy((table,), (Feature("u", (lookup,)),), vocabularies={"u": vocabulary})


@pytest.mark.parametrize("unknown_rows", [1, 3])
def test_served_rows_against_a_plain_loop_over_ids(unknown_rows: int) -> None:
    """An id of the vocabulary keeps its row; others read the mean of the candidates beside them."""
    rng = np.random.default_rng(unknown_rows)
    every = np.sort(rng.choice(1000, 40, replace=False)).astype(np.int64)
    vocabulary = np.sort(rng.choice(every, 15, replace=False))
    policy = by_id(vocabulary, unknown_rows, seed=5 if unknown_rows > 1 else 0)
    trained = with_candidates(policy, {"u": (every, np.ones(40))})
    assert trained.vocabularies["u"].tolist() == every.tolist()
    assert trained.table("u").num_rows == 40 + unknown_rows
    assert policy.table("u").num_rows == 15 + unknown_rows  # what is served takes the same bytes
    tensor = torch.from_numpy(rng.normal(size=(40 + unknown_rows, 2)))
    found = served_tensor(tensor, left_out(policy, trained)["u"])
    (feature,), (lookup,) = policy.features, policy.features[0].lookups

    def row(of: Policy, number: int) -> int:
        return int(lookup_rows(of, feature, lookup, ids(number))[0])

    read: dict[int, list[torch.Tensor]] = {}
    for number in every.tolist():
        mine = tensor[row(trained, number)]
        if number in vocabulary:
            assert torch.equal(found[row(policy, number)], mine)
        else:
            read.setdefault(row(policy, number), []).append(mine)
    assert set(read) <= set(range(unknown_rows))
    for unknown in range(unknown_rows):  # a row that no candidate reads stays as it was trained
        expected = torch.stack(read[unknown]).mean(0) if unknown in read else tensor[unknown]
        torch.testing.assert_close(found[unknown], expected)


def test_only_tables_of_one_feature_by_id_have_candidates() -> None:
    counted = {"u": (ids(1, 2, 3), np.ones(3))}
    policy = by_id(ids(1, 2))
    assert candidate_features(policy) == ("u",)
    hashed = Policy((Table("u", 3, 2),), (Feature("u", (Lookup("u", "hash"),)),))
    assert with_candidates(hashed, counted) is hashed
    shared = Feature("v", (Lookup("u", "hash", seed=1),))  # whose rows depend on the table's size
    both = Policy(policy.tables, (*policy.features, shared), vocabularies=policy.vocabularies)
    assert with_candidates(both, counted) is both
    codes = Feature("u", (Lookup("u", "codes", codes="c"),))
    coded = Policy(
        (Table("u", 2, 2),),
        (codes,),
        vocabularies={"u": ids(1, 2)},
        codes={"c": np.array([0, 1, 0], np.int32)},
    )
    assert with_candidates(coded, counted) is coded
    assert with_candidates(policy, {"u": (ids(1, 2), np.ones(2))}) is policy


def test_memory_of_candidates_is_bounded() -> None:
    many = np.arange(10 * KEPT_BESIDE)
    policy = by_id(many[:50])
    counts = bounded((many, np.ones(len(many))), policy.vocabularies["u"])
    rows = with_candidates(policy, {"u": counts}).table("u").num_rows
    assert rows == 1 + 2 * 50 + KEPT_BESIDE


FIT = FitSettings(epochs=1, batch_size=64, average=0.9)
TRAINING = Training(ModelSettings(hidden=(8,)), FIT)


@pytest.fixture(scope="module")
def days(tmp_path_factory: Any) -> list[DataSet]:
    folder = tmp_path_factory.mktemp("days")
    return [open_data(prepare_day(folder / f"day-{day}", day)) for day in range(4)]


def small(days: list[DataSet]) -> Policy:
    """Rows for the ids of the first day, of whom half have vanished on the second."""
    return recipes.method_policy("collisionless", days[0], 0, 4)


def rows_of(model: RecModel, policy: Policy, name: str) -> dict[int, torch.Tensor]:
    """By id, and -1 for ids of no vocabulary, the row of a feature with one lookup."""
    feature = next(f for f in policy.features if f.name == name)
    asked = np.append(policy.vocabularies[name], 10**9)
    rows = lookup_rows(policy, feature, feature.lookups[0], asked)
    table = model.embedding.ebc.embedding_bags[table_key(feature.lookups[0].table)].weight
    return {
        int(i) if i < 10**9 else -1: table[r].detach() for i, r in zip(asked, rows, strict=True)
    }


@pytest.mark.parametrize("mlet", [None, Mlet(dim=6)])
@pytest.mark.parametrize("optimizer", ["adam", "lazy_adam"])
def test_the_mean_of_candidates_is_served_and_goes_on(
    days: list[DataSet], tmp_path: Path, optimizer: str, mlet: Mlet | None
) -> None:
    """Of a day's model: rows as trained, unknown ids as the mean; the next day starts from them."""
    training = replace(
        TRAINING,
        model=replace(TRAINING.model, mlet=mlet),
        fit=replace(FIT, row_optimizer=optimizer),
    )
    policy = small(days)
    done = recipes.replay(
        [d.path for d in days[:3]], tmp_path / "run", training, policy=policy, keep=0
    )
    run = done.last
    served, trained = Policy.load(run / POLICY_FILE), Policy.load(run / TRAINED_FILE)
    assert served.num_bytes == policy.num_bytes
    counted = read_counts(run / COUNTS_FILE)
    assert trained.vocabularies["user"].tolist() == counted["user"][0].tolist()
    best = load_model(run / BEST_FOLDER, trained, 1, training.model)
    held = rows_of(best if mlet is None else best.collapsed(), trained, "user")
    found = rows_of(load_trained(run), served, "user")
    outside = set(held) - set(found)
    assert len(outside) > 5
    assert all(torch.equal(held[i], found[i]) for i in found if i != -1)
    mean = torch.stack([held[i] for i in outside]).mean(0)
    torch.testing.assert_close(found[-1], mean)
    assert not torch.allclose(found[-1], held[-1])

    # the next day: ids that are new to it continue what was served, and candidates their own rows
    made = continued(run, days[3], mean_anew=False)
    new = means_of_users(days[3], made, training, tmp_path / "next")
    fresh = set(made.trained.vocabularies["user"].tolist()) - set(held)
    assert len(fresh) > 5
    if mlet is None:
        for i in (*fresh, -1):
            torch.testing.assert_close(new[i], found[-1], atol=1e-6, rtol=1e-5)
        admitted = set(made.policy.vocabularies["user"].tolist()) & outside
        for i in (*admitted, *(set(found) - {-1})):
            torch.testing.assert_close(new[i], held[i], atol=1e-6, rtol=1e-5)


def means_of_users(
    data: DataSet, made: recipes.Continued, training: Training, out: Path
) -> dict[int, torch.Tensor]:
    """By user, the running mean of its row in the first checkpoint, brought up to the last step."""
    write_first_checkpoint(out, data, made.trained, training, made.earlier)
    saved = open_checkpoint(out / CHECKPOINTS_FOLDER / "step-000000000")
    tensors, name = Tensors(saved), f"{BAGS}{table_key('user')}.weight"
    weight, mean = tensors.read(f"model.{name}"), tensors.read(f"average.{name}")
    assert weight is not None and mean is not None
    if (kept := tensors.read(f"average.{name}{AT}")) is not None:
        for row, at in enumerate(kept.view(-1).tolist()):
            left, steps = 1.0, int(saved.values["earlier_steps"])
            for step in range(at + 1, steps + 1):
                left *= min(training.fit.average, (1 + step) / (10 + step))
            mean[row] = weight[row] + (0 if at < 0 else left) * (mean[row] - weight[row])
    feature = next(f for f in made.trained.features if f.name == "user")
    asked = np.append(made.trained.vocabularies["user"], 10**9)
    rows = lookup_rows(made.trained, feature, feature.lookups[0], asked)
    return {int(i) if i < 10**9 else -1: mean[r] for i, r in zip(asked, rows, strict=True)}


def test_a_changed_list_of_candidates_is_refused(days: list[DataSet], tmp_path: Path) -> None:
    done = recipes.replay(
        [d.path for d in days[:2]], tmp_path / "run", TRAINING, policy=small(days)
    )
    path = done.last / TRAINED_FILE
    content = path.read_text()
    trained = Policy.load(path)
    ids_of = trained.vocabularies["user"].copy()
    ids_of[-1] += 1
    replace(trained, vocabularies={**trained.vocabularies, "user": ids_of}).save(path)
    with pytest.raises(RunError, match="missing or changed"):
        continued(done.last, days[2])
    path.unlink()
    with pytest.raises(RunError, match="missing or changed"):
        continued(done.last, days[2])
    path.write_text(content)
    assert continued(done.last, days[2]).earlier.trained == trained


def test_a_run_with_other_candidates_is_not_resumed(days: list[DataSet], tmp_path: Path) -> None:
    """Nor is it taken for a run of an earlier release."""
    first, later = tmp_path / "first", tmp_path / "later"
    recipes.replay([days[0].path], first, TRAINING, policy=small(days))
    run = first / "days" / "day-0"
    start = Start(earlier=open_earlier(run))
    made = [continued(run, days[1], candidates=with_) for with_ in (False, True)]
    asked = [
        asked_for(days[1], m.policy, TRAINING, "collisionless", start, m.trained) for m in made
    ]
    claim_run(later, asked[0], False)
    with pytest.raises(RunError, match="it differs in trained_policy"):
        claim_run(later, asked[1], True)
