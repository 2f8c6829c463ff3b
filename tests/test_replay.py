"""A replay scores a day before it trains on it, and is resumed between and within days."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seo_rec import recipes
from seo_rec.data.dataset import open_data
from seo_rec.data.stream import Stream
from seo_rec.metrics import binary_metrics
from seo_rec.model import ModelSettings, build_model
from seo_rec.policy import Policy
from seo_rec.recipes import id_counts, replaying
from seo_rec.recipes.evaluation import load_trained
from seo_rec.recipes.replayed import read_replay
from seo_rec.recipes.replaying import replay
from seo_rec.recipes.steps import day_folders
from seo_rec.runs import RunError
from seo_rec.schema import SPLITS, DataError
from seo_rec.settings import FitSettings, Training
from seo_rec.train import eval_stream, optimizers_of, train_stream
from tests.days import prepare_day
from tests.test_warm_start import saved_tensors

TRAINING = Training(
    ModelSettings(hidden=(8,)), FitSettings(epochs=1, batch_size=64, checkpoint_every=3, average=0)
)


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four days, of which the last two have training rows only."""
    folder = tmp_path_factory.mktemp("replay") / "days"
    all_of_it = (1.0, 0.0, 0.0)
    return [
        prepare_day(
            folder / f"day-{n}", i, rows=400, fractions=all_of_it if i > 1 else (0.8, 0.1, 0.1)
        )
        for i, n in enumerate((1, 2, 9, 10))
    ]


@pytest.fixture(scope="module")
def by_id(days: list[Path]) -> Policy:
    return recipes.method_policy("collisionless", open_data(days[0]), 0, 4)


@pytest.fixture(scope="module")
def whole(days: list[Path], by_id: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    replay(days, out, TRAINING, policy=by_id, keep=0)
    return out


def timeless(out: Path) -> list[dict[str, Any]]:
    """The figures of all days, without clocks."""
    days = json.loads((out / "replay.json").read_text())["days"]
    return [{k: v for k, v in d.items() if not k.endswith("seconds")} for d in days]


def test_days_come_in_the_order_of_numbers(days: list[Path]) -> None:
    assert day_folders(days[0].parent) == days
    with pytest.raises(DataError, match="one prepared data set"):
        day_folders(days[0])
    with pytest.raises(DataError, match="no prepared days"):
        day_folders(days[0] / "train")


def test_a_day_is_scored_by_the_model_of_the_days_before(days: list[Path], tmp_path: Path) -> None:
    """Against a plain loop over hashed tables, which know no vocabulary."""
    policy = recipes.method_policy("monolithic", open_data(days[0]), 160, 4)
    done = replay(days[:3], tmp_path / "run", TRAINING, policy=policy)
    model = build_model(policy, 1, TRAINING.model, TRAINING.fit.seed)
    optimizers = optimizers_of(model, TRAINING.fit).values()
    aucs = []
    for path in days[:3]:
        data = open_data(path)
        model.eval()
        z, y = [], []
        with torch.no_grad():
            for split in (s for s in SPLITS if data.schema.num_rows[s]):
                for batch in eval_stream(data, split, policy.columns):
                    z.append(model(batch)[1].numpy())
                    y.append(batch.labels_B.numpy())
        aucs.append(binary_metrics(np.concatenate(z), np.concatenate(y)).auc)
        model.train()
        for batch in train_stream(data, TRAINING.fit, policy.columns):
            for optimizer in optimizers:
                optimizer.zero_grad()
            model(batch)[0].backward()
            for optimizer in optimizers:
                optimizer.step()
    assert np.isnan(done.days[0].auc)
    assert [d.auc for d in done.days[1:]] == aucs[1:]
    assert done.mean_auc == np.mean(aucs[1:])
    assert [d.rows for d in done.days] == [400, 400, 400]
    assert done.days[2].train_rows == 400 > done.days[1].train_rows
    final = load_trained(done.last).state_dict()
    assert all(torch.equal(final[n], t) for n, t in model.state_dict().items())
    assert read_replay(tmp_path / "run").mean_auc == done.mean_auc


def test_vocabularies_follow_the_days(whole: Path, days: list[Path], by_id: Policy) -> None:
    done = read_replay(whole)
    assert done.days[1].unknown["user"] > 0.3 and done.days[1].unknown["item"] == 0
    last = Policy.load(done.last / "policy.json")
    assert last.num_bytes == by_id.num_bytes
    seen = [set(open_data(d).vocabulary("user").tolist()) for d in days]
    kept = set(last.vocabularies["user"].tolist())
    assert len(kept & seen[3]) > len(kept & seen[0])
    assert all(d.admitted > 0 for d in done.days[1:])


class Killed(BaseException):
    """Stands for SIGKILL."""


def burning(original: Callable[..., Any], burn: Callable[[], None]) -> Callable[..., Any]:
    """A writer before and after which a replay can be killed."""

    def write(*arguments: Any) -> Any:
        burn()
        original(*arguments)
        burn()

    return write


@pytest.mark.parametrize("every", [17, pytest.param(3, marks=pytest.mark.slow)])
def test_a_replay_killed_anywhere_goes_on_to_the_same_bits(
    every: int,
    whole: Path,
    days: list[Path],
    by_id: Policy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within days (at batches of training and of scoring) and between them (at every file)."""
    count = {"at": 0, "now": 0}

    def burn() -> None:
        count["now"] += 1
        if count["now"] == count["at"]:
            raise Killed

    batches = Stream.__iter__

    def iterate(self: Stream) -> Iterator[Any]:
        for batch in batches(self):
            burn()
            yield batch

    monkeypatch.setattr(Stream, "__iter__", iterate)
    for module, name in ((replaying, "write_json"), (replaying, "write_counts")):
        monkeypatch.setattr(module, name, burning(getattr(module, name), burn))
    monkeypatch.setattr(id_counts, "write_bytes", burning(id_counts.write_bytes, burn))
    expected, two, last = timeless(whole)[:2], days[:2], "days/day-2/best"
    reference = tmp_path / "reference"
    replay(two, reference, TRAINING, policy=by_id)
    places = count["now"]
    assert places > 30 and timeless(reference) == expected
    weights = saved_tensors(reference / last)
    for at in range(4, places, every):
        out = tmp_path / f"at-{at}"
        count.update(at=at, now=0)
        with pytest.raises(Killed):
            replay(two, out, TRAINING, policy=by_id)
        count.update(at=0, now=0)
        replay(two, out, TRAINING, policy=by_id, resume=True)
        assert timeless(out) == expected, at
        found = saved_tensors(out / last)
        assert all(torch.equal(found[n], t) for n, t in weights.items()), at
        shutil.rmtree(out)


def test_days_are_added(whole: Path, days: list[Path], by_id: Policy, tmp_path: Path) -> None:
    """A finished replay goes on with further days; the weights of old days are dropped."""
    out = tmp_path / "run"
    replay(days[:3], out, TRAINING, policy=by_id)
    replay(days, out, TRAINING, policy=by_id, resume=True)
    assert timeless(out) == timeless(whole)
    found, weights = (saved_tensors(r / "days" / "day-10" / "best") for r in (out, whole))
    assert all(torch.equal(found[n], t) for n, t in weights.items())
    assert not (out / "days" / "day-2" / "best").exists()
    assert (out / "days" / "day-9" / "best").exists()


def test_misfits_are_refused(days: list[Path], by_id: Policy, whole: Path, tmp_path: Path) -> None:
    other = prepare_day(tmp_path / "other", 1, categorical=("user",))
    with pytest.raises(DataError, match=r"other columns than .* \(item\)"):
        replay([days[0], other], tmp_path / "out", TRAINING, policy=by_id)
    log = prepare_day(tmp_path / "log", 1, transform="log")
    with pytest.raises(DataError, match=r"prepared by other rules than .* \(.+: .* --like /"):
        replay([days[0], log], tmp_path / "out", TRAINING, policy=by_id)
    with pytest.raises(ValueError, match="give one of them"):
        replay(days, tmp_path / "out", TRAINING)
    with pytest.raises(ValueError, match="keep 1"):
        replay(days, tmp_path / "out", TRAINING, policy=by_id, keep=1)
    with pytest.raises(RunError, match="already holds this run"):
        replay(days, whole, TRAINING, policy=by_id)
    shutil.copytree(whole, tmp_path / "copy")
    changed = prepare_day(tmp_path / "days" / "day-2", 5)
    with pytest.raises(RunError, match="has scored other data under this name"):
        replay([days[0], changed], tmp_path / "copy", TRAINING, policy=by_id, resume=True)


def test_a_first_day_of_few_rows_is_told_where_tables_are_by_id(
    tmp_path: Path, seo_rec: Any
) -> None:
    for i, rows in enumerate((60, 400, 500)):
        prepare_day(tmp_path / "days" / f"day-{i}", i, rows=rows, fractions=(1.0, 0.0, 0.0))
    command = ("replay", tmp_path / "days", "--dim", 4, "--hidden", "8", "--batch-size", 64)
    note = "note: the first day has 60 training rows, and the others 450 in the median; tables by"
    done = seo_rec(*command, "--method", "collisionless", "--out", tmp_path / "by_id")
    assert done.code == 0 and note in done.err, done.err
    hashed = ("--method", "monolithic", "--params", 160)
    done = seo_rec(*command, *hashed, "--out", tmp_path / "hashed")
    assert done.code == 0 and "note: the first day" not in done.err, done.err


def test_the_command(days: list[Path], tmp_path: Path, seo_rec: Any) -> None:
    method = ("--method", "monolithic", "--params", 160, "--dim", 4)
    options = ("--by", "day", "--batch-size", 64, "--hidden", "8", *method)
    done = seo_rec("replay", days[0].parent, "--out", tmp_path / "run", *options)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert len(lines) == 5 and "first day, not scored" in lines[0]
    mean = json.loads((tmp_path / "run" / "replay.json").read_text())["mean_auc"]
    assert f"mean AUC {mean:.5f} of 3 days" in lines[-1]
    settings = tmp_path / "run" / "settings.json"
    again = seo_rec(
        "replay", days[0].parent, "--config", settings, "--out", tmp_path / "run", "--resume"
    )
    assert again.code == 0 and f"mean AUC {mean:.5f}" in again.out, again.err
    more = ("--from", tmp_path / "run" / "days" / "day-10", "--out", tmp_path / "more")
    done = seo_rec("replay", days[0].parent, *more, "--dense-lr", 1e-4)
    assert done.code == 0, done.err
    assert f"of 4 days; the model is {tmp_path / 'more' / 'days' / 'day-10'}" in done.out
    asked = json.loads((tmp_path / "more" / "days" / "day-1" / "run.json").read_text())
    before = json.loads((tmp_path / "run" / "days" / "day-10" / "run.json").read_text())
    assert asked["fit"] == {**before["fit"], "dense_lr": 1e-4}
    assert asked["mean_anew"] and before["mean_anew"]
    on = ("--dense-lr", 1e-4, "--mean-goes-on", "--resume")
    done = seo_rec("replay", days[0].parent, *more, *on)
    assert done.code == 2 and "it differs in mean_anew" in done.err
    done = seo_rec("replay", days[0].parent, "--out", tmp_path / "x", "--by", "week", *method)
    assert done.code == 2 and "--by week; allowed: day" in done.err
    done = seo_rec("replay", days[0].parent, *more[:2], *method, "--out", tmp_path / "x")
    assert done.code == 2 and "would be ignored" in done.err
