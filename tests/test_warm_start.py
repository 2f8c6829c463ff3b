"""A training that goes on from an earlier run: what moves, what is new, and how it is resumed."""

from __future__ import annotations

import filecmp
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seo_rec import recipes
from seo_rec.data.dataset import open_data
from seo_rec.export.package import export_run
from seo_rec.methods import Mlet
from seo_rec.model import ModelSettings
from seo_rec.policy import Policy
from seo_rec.recipes.id_counts import read_counts
from seo_rec.runs import Run, RunError
from seo_rec.schema import DataError
from seo_rec.serve.delta import apply_delta
from seo_rec.settings import DENSE_OPTIMIZER_NAMES, FitSettings, Training
from seo_rec.train import warm_start
from seo_rec.train.checkpoint import Checkpoints, load_tensors
from seo_rec.train.kept_state import ADAM_STATE
from tests.days import prepare_day

MODEL = ModelSettings(hidden=(8,))
FIT = FitSettings(epochs=1, batch_size=32, checkpoint_every=5, seed=3)


def saved_tensors(folder: Path, step: int | None = None) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint by its name."""
    saved = Checkpoints(folder)
    opened = saved.open(saved.steps()[-1] if step is None else step)
    found = {n: torch.zeros(size, dtype=dtype) for n, (size, dtype) in opened.sizes.items()}
    load_tensors(opened, found)
    return found


def trained(data: Path, policy: Policy, out: Path, **changes: Any) -> Run:
    fit = replace(FIT, **changes)
    return recipes.train(open_data(data), policy, out, Training(MODEL, fit))


def next_day(run: Path, data: Path, out: Path, *, resume: bool = False, **changes: Any) -> Run:
    made = recipes.continued(run, open_data(data), policy=changes.pop("policy", None))
    training = made.earlier.training
    training = replace(training, fit=replace(training.fit, **changes))
    return recipes.train(open_data(data), made.policy, out, training, following=made, resume=resume)


def first_checkpoint(run: Path, data: Path, out: Path, **changes: Any) -> dict[str, torch.Tensor]:
    """The tensors with which the training on the next day starts; the running mean goes on."""
    opened = open_data(data)
    made = recipes.continued(run, opened, policy=changes.pop("policy", None), mean_anew=False)
    training = made.earlier.training
    training = replace(training, fit=replace(training.fit, **changes))
    warm_start.write_first_checkpoint(out, opened, made.policy, training, made.earlier)
    return saved_tensors(out / "checkpoints", 0)


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("days")
    return [prepare_day(folder / f"day{i}", i) for i in range(2)]


@pytest.fixture(scope="module")
def by_id(days: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a row per id, trained on the first day."""
    out = tmp_path_factory.mktemp("by-id") / "run"
    trained(days[0], recipes.method_policy("collisionless", open_data(days[0]), 0, 4), out)
    return out


@pytest.fixture(scope="module")
def hashed(days: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hashed") / "run"
    trained(days[0], recipes.method_policy("monolithic", open_data(days[0]), 160, 4), out)
    return out


BAG = "embedding.ebc.embedding_bags.user.weight"


@pytest.mark.parametrize(
    ("optimizer", "storage"),
    [
        *((name, "float32") for name in ("adam", "lazy_adam", "adagrad", "rowwise_adagrad", "sgd")),
        ("auto", "bfloat16"),
        ("sgd", "float16"),
    ],
)
def test_rows_state_and_means_of_ids_that_stay_move_bit_for_bit(
    optimizer: str, storage: str, days: list[Path], tmp_path: Path
) -> None:
    policy = recipes.method_policy("collisionless", open_data(days[0]), 0, 4)
    dense = optimizer if optimizer in DENSE_OPTIMIZER_NAMES else "adam"
    asked = {"row_optimizer": optimizer, "dense_optimizer": dense, "storage": storage}
    trained(days[0], policy, tmp_path / "run", **asked)
    before = saved_tensors(tmp_path / "run" / "checkpoints")
    made = recipes.continued(tmp_path / "run", open_data(days[1]))
    after = first_checkpoint(tmp_path / "run", days[1], tmp_path / "next")
    old, new = policy.vocabularies["user"], made.policy.vocabularies["user"]
    assert len(old) == len(new) and made.policy.num_bytes == policy.num_bytes
    stay, enter = np.intersect1d(old, new), np.setdiff1d(new, old)
    assert len(stay) > 5 and len(enter) > 2
    from_rows = torch.from_numpy(1 + np.searchsorted(old, stay))
    to_rows = torch.from_numpy(1 + np.searchsorted(new, stay))
    new_rows = torch.from_numpy(1 + np.searchsorted(new, enter))
    of_table = [n for n in before if BAG in n and before[n].dim() == 2]
    kinds = {n.split(".")[0] for n in of_table}
    assert kinds == {"model", "average"} | ({"optimizer"} if optimizer != "sgd" else set())
    for name in of_table:
        assert torch.equal(after[name][to_rows], before[name][from_rows]), name
        if name.startswith("optimizer"):
            assert not after[name][new_rows].any(), name
        else:
            unknown = before[name][:1].expand(len(enter), -1)
            assert torch.equal(after[name][new_rows], unknown), name
    for name in before:  # all else goes on as it was
        if BAG not in name and not name.startswith("rng"):
            assert torch.equal(after[name], before[name]), name
    assert set(after) == {n for n in before if not n.startswith("rng")}


@pytest.mark.parametrize("optimizer", ["adam", "rowwise_adagrad", "lazy_adam"])
def test_a_mean_that_starts_anew_knows_nothing_of_the_earlier_run(
    optimizer: str, days: list[Path], tmp_path: Path
) -> None:
    """``m_t = a_t m_(t-1) + (1 - a_t) w_t`` with ``m_0 = w_0`` and t from 1, in float64."""
    policy = recipes.method_policy("separate", open_data(days[0]), 400, 4)
    trained(days[0], policy, tmp_path / "run", row_optimizer=optimizer)
    data, ends = open_data(days[1]), {}
    for anew in (False, True):
        made = recipes.continued(tmp_path / "run", data, mean_anew=anew)
        fit = replace(made.earlier.training.fit, checkpoint_every=1, keep=99, max_steps=6)
        out = tmp_path / f"anew-{anew}"
        recipes.train(data, made.policy, out, Training(MODEL, fit), following=made)
        ends[anew] = saved_tensors(out / "best")
        if not anew:
            continue
        first = tmp_path / "first"
        warm_start.write_first_checkpoint(
            first, data, made.policy, Training(MODEL, fit), made.earlier
        )
        places = [(first, 0), *((out, step) for step in range(1, 7))]
        steps = [saved_tensors(place / "checkpoints", step) for place, step in places]
        for name, found in ends[anew].items():
            mean = steps[0][name].double()
            for t, tensors in enumerate(steps[1:], 1):
                share = min(fit.average, (1 + t) / (10 + t))
                mean = share * mean + (1 - share) * tensors[name].double()
            torch.testing.assert_close(found.double(), mean, rtol=1e-5, atol=1e-7)
    assert any(not torch.equal(ends[True][n], ends[False][n]) for n in ends[True])
    made = recipes.continued(tmp_path / "run", data, mean_anew=True)
    fit = replace(FIT, average=0.0, row_optimizer=optimizer)
    with pytest.raises(ValueError, match="--mean-anew with --average 0"):
        recipes.train(data, made.policy, tmp_path / "no", Training(MODEL, fit), following=made)
    with pytest.raises(RunError, match="mean_anew"):  # which began with a mean that goes on
        fit = replace(made.earlier.training.fit, checkpoint_every=1, keep=99, max_steps=6)
        out = tmp_path / "anew-False"
        recipes.train(data, made.policy, out, Training(MODEL, fit), following=made, resume=True)


def test_a_running_mean_starts_anew_unless_the_run_began_otherwise(
    by_id: Path, days: list[Path], tmp_path: Path
) -> None:
    """The default; a run of a release in which means went on is resumed as it began."""
    data = open_data(days[1])
    made = recipes.continued(by_id, data)
    training = Training(MODEL, replace(made.earlier.training.fit, max_steps=9))
    files = {}
    for name, anew in (("unsaid", None), ("anew", True), ("on", False)):
        asked = replace(made, earlier=replace(made.earlier, mean_anew=anew))
        recipes.train(data, made.policy, tmp_path / name, training, following=asked)
        files[name] = json.loads((tmp_path / name / "run.json").read_text())
    assert files["unsaid"] == files["anew"] and files["anew"]["mean_anew"] is True
    assert "mean_anew" not in files["on"]
    kept = {name: saved_tensors(tmp_path / name / "best") for name in files}
    for name in files:  # nothing is said the second time, and all is made again but run.json
        (tmp_path / name / "result.json").unlink()
        for folder in ("checkpoints", "best"):
            shutil.rmtree(tmp_path / name / folder)
        recipes.train(data, made.policy, tmp_path / name, training, following=made, resume=True)
        again = saved_tensors(tmp_path / name / "best")
        assert all(torch.equal(again[n], tensor) for n, tensor in kept[name].items()), name
        assert json.loads((tmp_path / name / "run.json").read_text()) == files[name]
    assert any(not torch.equal(kept["on"][n], kept["anew"][n]) for n in kept["on"])
    with pytest.raises(RunError, match=r"another run .it differs in mean_anew"):
        asked = replace(made, earlier=replace(made.earlier, mean_anew=True))
        recipes.train(data, made.policy, tmp_path / "on", training, following=asked, resume=True)
    none = Training(MODEL, replace(training.fit, average=0.0))
    recipes.train(data, made.policy, tmp_path / "none", none, following=made)
    assert "mean_anew" not in json.loads((tmp_path / "none" / "run.json").read_text())


def test_without_changes_nothing_changes(hashed: Path, days: list[Path], tmp_path: Path) -> None:
    """Hashed tables have no vocabulary: every tensor of the run goes on as it was."""
    before = saved_tensors(hashed / "checkpoints")
    after = first_checkpoint(hashed, days[1], tmp_path / "next")
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]), name


def test_hashed_tables_go_on_without_vocabularies(
    hashed: Path, days: list[Path], tmp_path: Path
) -> None:
    """They need none; what moves rows by their ids does, and says so."""
    data = prepare_day(tmp_path / "day", 1, counted=False)
    before = saved_tensors(hashed / "checkpoints")
    after = first_checkpoint(hashed, data, tmp_path / "next")
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]), name
    other = recipes.method_policy("monolithic", open_data(data), 160, 4, seed=1)
    with pytest.raises(DataError, match="no vocabularies"):
        recipes.continued(hashed, open_data(data), policy=other)


@pytest.mark.parametrize(
    ("optimizer", "storage", "mlet"),
    [
        ("adam", "float32", None),
        ("lazy_adam", "float32", None),
        ("rowwise_adagrad", "bfloat16", None),
        ("adam", "float32", Mlet(6)),
    ],
)
def test_a_state_in_memory_and_a_written_one_train_the_same_bits(
    optimizer: str,
    storage: str,
    mlet: Mlet | None,
    days: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A large state is written as the first checkpoint; a small one is handed over, as here."""
    policy = recipes.method_policy("collisionless", open_data(days[0]), 0, 4)
    fit = replace(FIT, row_optimizer=optimizer, storage=storage, checkpoint_every=0, keep=3)
    training = Training(replace(MODEL, mlet=mlet, dropout=0.2), fit)
    recipes.train(open_data(days[0]), policy, tmp_path / "run", training)
    next_day(tmp_path / "run", days[1], tmp_path / "handed")
    monkeypatch.setattr(warm_start, "COPIED_BYTES", 0)
    next_day(tmp_path / "run", days[1], tmp_path / "written")
    steps = [Checkpoints(tmp_path / n / "checkpoints").steps() for n in ("handed", "written")]
    assert steps[0] == steps[1][1:] and steps[1][0] == 0
    for folder in ("checkpoints", "best"):
        one, other = (saved_tensors(tmp_path / n / folder) for n in ("handed", "written"))
        assert set(one) == set(other)
        assert all(torch.equal(one[n], t) for n, t in other.items()), folder


OF_DENSE = "optimizer.backbone."


def test_another_optimizer_of_dense_layers_starts_anew(
    hashed: Path, days: list[Path], tmp_path: Path
) -> None:
    """Adam's moments are not Adagrad's sums, which start at zero; weights go on as they were."""
    before = saved_tensors(hashed / "checkpoints")
    after = first_checkpoint(hashed, days[1], tmp_path / "next", dense_optimizer="adagrad")
    of_dense = {n for n in after if n.startswith(OF_DENSE)}
    sums = {n for n in of_dense if n.endswith(".sum")}
    assert sums and not any(after[n].any() for n in sums)
    assert of_dense == sums | {n.removesuffix("sum") + "step" for n in sums}
    for name in (n for n in after if n.startswith("model.")):
        assert torch.equal(after[name], before[name]), name
    run = hashed
    for name in ("sgd", "adagrad", "adam"):
        next_day(run, days[1], tmp_path / name, dense_optimizer=name)
        run = tmp_path / name
        kept = {n.rpartition(".")[2] for n in saved_tensors(run / "checkpoints") if OF_DENSE in n}
        states = {"sgd": set(), "adagrad": {"step", "sum"}, "adam": set(ADAM_STATE)}
        assert kept == states[name], name


def test_a_continued_training_is_the_same_training(days: list[Path], tmp_path: Path) -> None:
    """The step after a warm start is bit for bit a further step of the optimizer itself.

    Continuing on the same data for one epoch gives the weights of fit going on from the state of
    the earlier run with the order of the first epoch, which this test makes by hand.
    """
    data = open_data(days[0])
    policy = recipes.method_policy("separate", data, 160, 4)
    for optimizer in ("adam", "rowwise_adagrad"):
        run = tmp_path / optimizer
        trained(days[0], policy, run, row_optimizer=optimizer)
        next_day(run, days[0], tmp_path / f"{optimizer}-next")
        fit = replace(FIT, row_optimizer=optimizer)
        expected = by_hand(data, policy, fit, epochs=2)
        found = saved_tensors(tmp_path / f"{optimizer}-next" / "checkpoints")
        for name, weight in expected.items():
            assert torch.equal(found[f"model.{name}"], weight), (optimizer, name)


def by_hand(data: Any, policy: Policy, fit: FitSettings, epochs: int) -> dict[str, torch.Tensor]:
    """A plain loop over the first epoch's order, again and again."""
    from seo_rec.model import build_model
    from seo_rec.train import optimizers_of, train_stream
    from seo_rec.train.state import weights_of

    model = build_model(policy, data.num_numeric, MODEL, fit.seed)
    optimizers = optimizers_of(model, fit).values()
    model.train()
    for _ in range(epochs):
        for batch in train_stream(data, fit, policy.columns):
            for optimizer in optimizers:
                optimizer.zero_grad()
            model(batch)[0].backward()
            for optimizer in optimizers:
                optimizer.step()
    return {n: t for n, t in weights_of(model).items() if isinstance(t, torch.Tensor)}


def test_a_killed_continuation_resumes_to_the_bit(
    by_id: Path, days: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = next_day(by_id, days[1], tmp_path / "whole")
    expected = saved_tensors(tmp_path / "whole" / "best")

    class Killed(BaseException):
        pass

    from seo_rec.data.stream import Stream

    batches = Stream.__iter__
    for place in (0, 3, 8):

        def iterate(self: Stream, place: int = place) -> Any:
            for i, batch in enumerate(batches(self)):
                if self.split == "train" and i == place:
                    raise Killed
                yield batch

        out = tmp_path / f"killed-{place}"
        with monkeypatch.context() as patch:
            patch.setattr(Stream, "__iter__", iterate)
            with pytest.raises(Killed):
                next_day(by_id, days[1], out)
        again = next_day(by_id, days[1], out, resume=True)
        assert (again.val_auc, again.test_auc) == (whole.val_auc, whole.test_auc)
        found = saved_tensors(out / "best")
        assert all(torch.equal(found[n], expected[n]) for n in expected)


def test_a_delta_between_days_is_the_full_package(
    by_id: Path, days: list[Path], tmp_path: Path
) -> None:
    next_day(by_id, days[1], tmp_path / "next")
    export_run(by_id, tmp_path / "old", formats=())
    export_run(tmp_path / "next", tmp_path / "full", formats=())
    export_run(tmp_path / "next", tmp_path / "delta", formats=(), since=tmp_path / "old")
    apply_delta(tmp_path / "old", tmp_path / "delta", tmp_path / "applied")
    names = sorted(p.name for p in (tmp_path / "full").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "applied").iterdir())
    same, *different = filecmp.cmpfiles(tmp_path / "full", tmp_path / "applied", names, False)
    assert sorted(same) == names and different == [[], []]
    assert Policy.load(tmp_path / "next" / "policy.json").vocabularies["user"].max() > 39


def test_counts_decay_from_day_to_day(by_id: Path, days: list[Path], tmp_path: Path) -> None:
    next_day(by_id, days[1], tmp_path / "next")
    kept = read_counts(tmp_path / "next" / "counts.npz")
    ids, counts = kept["user"]
    found = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    expected: dict[int, float] = {}
    for day, weight in zip(days, (0.9, 1.0), strict=True):
        for i, n in zip(*(a.tolist() for a in open_data(day).counts("user")), strict=True):
            expected[i] = expected.get(i, 0.0) + weight * n
    assert found == pytest.approx(expected)
    assert set(kept) == {"user", "item"}


def test_runs_without_counts_are_counted_again(
    by_id: Path, days: list[Path], tmp_path: Path
) -> None:
    from shutil import copytree

    copytree(by_id, tmp_path / "run")
    wanted = recipes.continued(by_id, open_data(days[1])).counts
    (tmp_path / "run" / "counts.npz").unlink()
    found = recipes.continued(tmp_path / "run", open_data(days[1])).counts
    assert all(np.array_equal(found[n][1], wanted[n][1]) for n in wanted)
    (tmp_path / "run" / "counts.npz").write_bytes(b"no counts")
    with pytest.raises(ValueError, match="not a file of counts"):
        recipes.continued(tmp_path / "run", open_data(days[1]))


@pytest.mark.parametrize("backbone", ["mlp", "dlrm", "deepfm"])
def test_columns_come_and_go(backbone: str, days: list[Path], tmp_path: Path) -> None:
    """What reads the columns that stay goes on; other columns are named and initialised."""
    data = open_data(days[0])
    policy = recipes.method_policy("separate", data, 160, 4)
    model = ModelSettings(backbone=backbone, hidden=(8,))
    recipes.train(data, policy, tmp_path / "run", Training(model, FIT))
    new = prepare_day(tmp_path / "day", 1, categorical=("user", "extra"), numeric=())
    made = recipes.continued(tmp_path / "run", open_data(new))
    assert made.columns.added == ("extra",) and made.columns.lost == ("item",)
    assert made.lost_numeric == ("x",)
    said = recipes.change_lines(made)
    assert any("new column extra" in line for line in said)
    assert sum("lost column" in line for line in said) == 2
    before = saved_tensors(tmp_path / "run" / "checkpoints")
    after = first_checkpoint(tmp_path / "run", new, tmp_path / "next")
    assert torch.equal(after[f"model.{BAG}"], before[f"model.{BAG}"])
    if backbone == "mlp":  # inputs are x, user, item before and user, extra now
        weight = next(n for n in before if n.startswith("model.backbone") and before[n].dim() == 2)
        names = [f.name for f in policy.features]
        at = 1 + 4 * names.index("user")
        assert torch.equal(after[weight][:, :4], before[weight][:, at : at + 4])
        assert after[weight].shape[1] == 8
    next_day(tmp_path / "run", new, tmp_path / "second")  # and it trains


def test_another_policy_takes_over_tables(by_id: Path, days: list[Path], tmp_path: Path) -> None:
    """From a row per id to rows of frequent ids, the others hashed into four rows."""
    old = Policy.load(by_id / "policy.json")
    frequent = np.sort(old.vocabularies["user"][:10])
    tables = [replace(t, num_rows=14) if t.name == "user" else t for t in old.tables]
    features = [
        replace(f, lookups=(replace(f.lookups[0], unknown_rows=4, seed=9),))
        if f.name == "user"
        else f
        for f in old.features
    ]
    cut = replace(
        old,
        tables=tuple(tables),
        features=tuple(features),
        vocabularies={**old.vocabularies, "user": frequent},
    )
    before = saved_tensors(by_id / "checkpoints")[f"model.{BAG}"]
    after = first_checkpoint(by_id, days[1], tmp_path / "next", policy=cut)[f"model.{BAG}"]
    rows = 1 + np.searchsorted(old.vocabularies["user"], frequent)
    assert torch.equal(after[4:], before[torch.from_numpy(rows)])
    assert torch.equal(after[:4], before[:1].expand(4, -1))
    item = "model." + BAG.replace("user", "item")
    all_before = saved_tensors(by_id / "checkpoints")
    assert torch.equal(saved_tensors(tmp_path / "next" / "checkpoints", 0)[item], all_before[item])


def test_lost_checkpoints_leave_the_best_weights(
    by_id: Path, days: list[Path], tmp_path: Path
) -> None:
    from shutil import copytree, rmtree

    copytree(by_id, tmp_path / "run")
    rmtree(tmp_path / "run" / "checkpoints")
    best = saved_tensors(by_id / "best")
    after = first_checkpoint(tmp_path / "run", days[0], tmp_path / "next")
    assert torch.equal(after[f"model.{BAG}"], best[f"model.{BAG}"])
    backbone = [n for n in best if "backbone" in n]
    assert backbone and all(torch.equal(after[n], best[n]) for n in backbone)
    assert not any(n.startswith("optimizer.backbone") for n in after)
    next_day(tmp_path / "run", days[1], tmp_path / "trained")


def test_misfits_are_refused(by_id: Path, days: list[Path], tmp_path: Path) -> None:
    log = prepare_day(tmp_path / "log", 1, transform="log")
    with pytest.raises(
        RunError, match=r"prepared by other rules than .* \(numeric_rule: .*sign\(x\)"
    ):
        recipes.continued(by_id, open_data(log))
    with pytest.raises(RunError, match="not a finished training run"):
        recipes.continued(tmp_path, open_data(days[1]))
    with pytest.raises(ValueError, match="decay 2"):
        recipes.continued(by_id, open_data(days[1]), decay=2)
    made = recipes.continued(by_id, open_data(days[1]))
    with pytest.raises(ValueError, match="other settings"):
        recipes.train(
            open_data(days[1]),
            made.policy,
            tmp_path / "out",
            Training(ModelSettings(hidden=(4,)), FIT),
            following=made,
        )
    assert json.loads((by_id / "run.json").read_text())["kind"] == "train"


def test_the_command_goes_on_from_a_run(
    by_id: Path, days: list[Path], tmp_path: Path, seo_rec: Any
) -> None:
    """Settings are the earlier run's unless they are typed, and settings.json repeats the run."""
    typed = ("train", days[1], "--from", by_id, "--out")
    done = seo_rec(*typed, tmp_path / "a", "--lr", "0.01")
    assert done.code == 0, done.err
    turnover = (recipes.continued(by_id, open_data(days[1])).turnovers or {})["user"]
    assert f"vocabulary of user: {turnover.stayed} ids stay" in done.err
    asked = json.loads((tmp_path / "a" / "run.json").read_text())
    earlier = json.loads((by_id / "run.json").read_text())
    assert asked["model"] == earlier["model"] and asked["method"] == "policy"
    changed = {"row_lr": 0.01, "dense_lr": 0.01}
    assert asked["fit"] == {**earlier["fit"], **changed}
    again = seo_rec(
        "train", days[1], "--config", tmp_path / "a" / "settings.json", "--out", tmp_path / "b"
    )
    assert again.code == 0, again.err
    first, second = (Run.read(tmp_path / n / "result.json") for n in "ab")
    assert first.test_auc == second.test_auc
    done = seo_rec(*typed, tmp_path / "c", "--method", "separate", "--params", 200, "--dim", 4)
    assert done.code == 2 and "add --carry" in done.err
    done = seo_rec(
        *typed, tmp_path / "c", "--method", "separate", "--params", 200, "--dim", 4, "--carry"
    )
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    "options, says",
    [
        (("--carry",), "--carry without --policy or --method"),
        (("--backbone", "dlrm"), "--backbone with --from would be ignored"),
        (("--params", "400"), "--params with --from would be ignored"),
    ],
)
def test_options_that_would_be_ignored_are_refused(
    options: tuple[str, ...], says: str, by_id: Path, days: list[Path], tmp_path: Path, seo_rec: Any
) -> None:
    done = seo_rec("train", days[1], "--from", by_id, "--out", tmp_path / "out", *options)
    assert done.code == 2 and says in done.err, done.err
    assert not (tmp_path / "out").exists()
    done = seo_rec(
        "train", days[1], "--method", "collisionless", "--count-decay", 0.5, "--out", tmp_path / "o"
    )
    assert done.code == 2 and "--count-decay with a training from scratch" in done.err
