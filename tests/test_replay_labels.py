"""A replay of data with several labels: the AUC of each, day after day, and its resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import roc_auc_score

from seo_rec import recipes
from seo_rec.data.dataset import open_data
from seo_rec.data.split import Split
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.multi_task import MultiTask
from seo_rec.recipes.evaluation import load_trained
from seo_rec.runs import Run
from seo_rec.settings import FitSettings, ModelSettings, Training
from seo_rec.train import eval_stream
from tests.days import day_table
from tests.test_warm_start import saved_tensors

RULES = ("y", "extra >= 2")
LABELS = ("y", "extra")
FIT = FitSettings(epochs=1, batch_size=64, checkpoint_every=3)


def prepare(out: Path, day: int, labels: tuple[str, ...] = RULES) -> Path:
    raw = out.with_name(f"{out.name}.parquet")
    raw.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(day_table(day, 400), raw)
    columns = TableColumns(
        labels[0], ("user", "item"), ("x",), more_labels=labels[1:], numeric_transform="none"
    )
    prepare_table(raw, out, columns=columns, split=Split("random", 42, (1.0, 0.0, 0.0)))
    raw.unlink()
    return out


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("labels") / "days"
    return [prepare(folder / f"day-{n}", n) for n in range(3)]


@pytest.mark.parametrize("sharing", ["bottom", "mmoe"])
def test_every_label_is_scored_before_a_day_is_trained_on(
    sharing: str, days: list[Path], tmp_path: Path
) -> None:
    """Against scikit-learn on the scores of the day before; resumed, the bits are the same."""
    tasks = MultiTask(sharing=sharing, shared=(4,), kept="extra")
    training = Training(ModelSettings(hidden=(8,), multi_task=tasks), FIT)
    policy = recipes.method_policy("collisionless", open_data(days[0]), 0, 4)
    done = recipes.replay(days, tmp_path / "run", training, policy=policy, keep=0)
    model, data = load_trained(tmp_path / "run" / "days" / "day-1").eval(), open_data(days[2])
    z, y = [], []
    with torch.no_grad():
        for batch in eval_stream(data, "train", policy.columns):
            z.append(model(batch)[1].numpy())
            y.append(batch.labels_BT.numpy())
    logits, truth = np.concatenate(z), np.concatenate(y)
    last = done.days[2].labels
    assert last is not None and done.days[0].labels is None
    for t, label in enumerate(LABELS):
        assert last[label]["auc"] == pytest.approx(roc_auc_score(truth[:, t], logits[:, t]))
    assert done.days[2].auc == last["extra"]["auc"]  # of the label that decides
    assert done.mean_auc_by_label.keys() == set(LABELS)
    for label in LABELS:
        aucs = [d.labels[label]["auc"] for d in done.days[1:] if d.labels]
        assert done.mean_auc_by_label[label] == pytest.approx(np.mean(aucs))
    assert recipes.read_replay(tmp_path / "run").mean_auc_by_label == done.mean_auc_by_label
    result = Run.read(tmp_path / "run" / "days" / "day-2" / "result.json")
    assert result.labels is not None and result.labels["y"]["test_auc"] == last["y"]["auc"]
    part = tmp_path / "part"
    recipes.replay(days[:2], part, training, policy=policy)
    again = recipes.replay(days, part, training, policy=policy, resume=True)
    assert again.days[2].labels == last
    weights = saved_tensors(tmp_path / "run" / "days" / "day-2" / "best")
    found = saved_tensors(part / "days" / "day-2" / "best")
    assert all(torch.equal(found[name], t) for name, t in weights.items())


def test_the_command(days: list[Path], tmp_path: Path, seo_rec: Any) -> None:
    options = ("--by", "day", "--method", "separate", "--params", 400, "--dim", 4, "--hidden", 8)
    more = ("--sharing", "mmoe", "--shared", 4, "--out", tmp_path / "run")
    done = seo_rec("replay", days[0].parent, *options, *more)
    assert done.code == 0, done.err
    assert "label extra: mean AUC 0." in done.out
    document = json.loads((tmp_path / "run" / "replay.json").read_text())
    assert document["mean_auc_by_label"].keys() == set(LABELS)
    assert document["days"][0].get("labels") is None
    alone = prepare(tmp_path / "days" / "day-0", 0, labels=RULES[:1])
    both = prepare(tmp_path / "days" / "day-1", 1)
    done = seo_rec("replay", alone.parent, *options, "--out", tmp_path / "other")
    assert done.code == 2 and f"{both}: the labels y, extra" in done.err
    assert not (tmp_path / "other").exists()
