"""DimGrow: a search that can be repeated and resumed, and noise that loses its columns.

``python tests/test_dimgrow.py --write`` regenerates ``tests/golden/dimgrow.json``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from growing_tables import FIT, SETTINGS, SMALL, growing
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.synthetic import synthetic
from seo_rec.model import ModelSettings, build_model
from seo_rec.policy import PolicyError
from seo_rec.search.dimgrow import (
    DimGrowSettings,
    Growth,
    adapt_of,
    dimgrow,
    found_weights,
)
from seo_rec.search.found import Found
from seo_rec.search.space import open_space
from seo_rec.train import CheckpointError, FitSettings, Preempted, Training
from small_recipes import planted

GOLDEN = Path(__file__).parent / "golden" / "dimgrow.json"


# A search whose own model overfits: its validation AUC is highest before the last epoch.
OVERFITS = replace(SETTINGS, gate_lr=0.2), replace(FIT, row_lr=0.5, dense_lr=0.1)


@pytest.fixture(scope="module")
def found(tiny_data: DataSet) -> Found:
    """What a search of the usual settings finds undisturbed; read-only."""
    return dimgrow(tiny_data, SETTINGS, Training(SMALL, FIT))


# ---- the search --------------------------------------------------------------------------


def test_the_same_seed_finds_the_same(tiny_data: DataSet, found: Found) -> None:
    again = dimgrow(tiny_data, SETTINGS, Training(SMALL, FIT))
    assert again.policy == found.policy and again.record == found.record
    other = dimgrow(tiny_data, SETTINGS, Training(SMALL, replace(FIT, seed=1)))
    assert other.record["gates"] != found.record["gates"]


@pytest.mark.parametrize(
    "split, gates_of, dropout",
    [
        ("train", "last", 0.2),
        ("held-out", "best", 0.0),
    ],
)
def test_what_is_resumed_is_what_was_not_interrupted(
    tiny_data: DataSet,
    tmp_path: Path,
    split: str,
    gates_of: str,
    dropout: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, fit = (SETTINGS, FIT) if gates_of == "last" else OVERFITS
    settings = replace(settings, gate_split=split, gates_of=gates_of)
    training = Training(replace(SMALL, dropout=dropout), replace(fit, checkpoint_every=2))
    whole = dimgrow(tiny_data, settings, training)
    assert (whole.record["gates_of_epoch"] < 4) == (gates_of == "best")
    steps: list[int] = []
    original = Growth.__call__

    def stopping(self: Growth, step: int) -> None:
        original(self, step)
        steps.append(step)
        if len(steps) == 18:  # of 20, in the fourth epoch
            raise Preempted("here")

    monkeypatch.setattr(Growth, "__call__", stopping)
    with pytest.raises(Preempted):
        dimgrow(tiny_data, settings, training, tmp_path / "work")
    again = dimgrow(tiny_data, settings, training, tmp_path / "work")
    assert steps[18] in (16, 17)  # after the checkpoint before the stop, not from the start
    assert again.policy == whole.policy and again.record == whole.record
    assert again.val_auc == whole.val_auc
    for name, tensor in whole.weights.items():
        assert torch.equal(again.weights[name], tensor)


@pytest.mark.parametrize("stop_at, left_at", [(2, 2), (5, 6), (10, 11)])
def test_sigterm_loses_nothing(
    tiny_data: DataSet,
    tmp_path: Path,
    stop_at: int,
    left_at: int,
    found: Found,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the last batch of an epoch (5, 10) it is evaluated, and the next batch is the last."""
    original, steps = Growth.__call__, list[int]()

    def signalled(self: Growth, step: int) -> None:
        original(self, step)
        steps.append(step)
        if len(steps) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Growth, "__call__", signalled)
    with pytest.raises(Preempted, match=f"SIGTERM at step {left_at}; a checkpoint was written"):
        dimgrow(tiny_data, SETTINGS, Training(SMALL, FIT), tmp_path / "work")
    again = dimgrow(tiny_data, SETTINGS, Training(SMALL, FIT), tmp_path / "work")
    assert steps == list(range(1, 21))
    assert again.policy == found.policy and again.record == found.record


def test_sigterm_without_a_folder_says_so(
    tiny_data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Growth, "__call__", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Preempted, match="SIGTERM at step 1; nothing of this training was saved"):
        dimgrow(tiny_data, SETTINGS, Training(SMALL, FIT))


def test_a_search_that_ends_within_an_epoch(tiny_data: DataSet, tmp_path: Path) -> None:
    """It is evaluated there; a checkpoint of that step that was not is refused."""
    short = replace(FIT, checkpoint_every=2, max_steps=7)
    assert dimgrow(tiny_data, SETTINGS, Training(SMALL, short), tmp_path / "a").record["steps"] == 7
    again = dimgrow(tiny_data, SETTINGS, Training(SMALL, short), tmp_path / "a")
    assert again.record == dimgrow(tiny_data, SETTINGS, Training(SMALL, short)).record
    dimgrow(tiny_data, SETTINGS, Training(SMALL, replace(short, max_steps=7)), tmp_path / "b")
    for folder in sorted((tmp_path / "b" / "checkpoints").iterdir())[1:]:  # all but that of step 6
        shutil.rmtree(folder)
    with pytest.raises(ValueError, match=r"max_steps is 6 and the run stands at step 6, within"):
        dimgrow(tiny_data, SETTINGS, Training(SMALL, replace(short, max_steps=6)), tmp_path / "b")


def test_a_checkpoint_that_does_not_fit_is_named(tiny_data: DataSet, tmp_path: Path) -> None:
    dimgrow(tiny_data, SETTINGS, Training(SMALL, replace(FIT, epochs=1)), tmp_path)
    with pytest.raises(CheckpointError, match=r"(?s)cannot be loaded.*another model"):
        dimgrow(tiny_data, replace(SETTINGS, adapt_dim=5), Training(SMALL, FIT), tmp_path)


def test_options_that_do_not_go_together(tiny_data: DataSet) -> None:
    with pytest.raises(ValueError, match=r"adapt 'joint' with backbone 'dlrm'.*adapt=per-feature"):
        dimgrow(tiny_data, SETTINGS, Training(replace(SMALL, backbone="dlrm"), FIT))
    assert adapt_of("dlrm") == "per-feature" and adapt_of("mlp") == "joint"


def test_the_best_epoch_can_be_the_answer(tiny_data: DataSet) -> None:
    """It is what a search of so many epochs ends with; the search itself goes its usual way."""
    settings, fit = OVERFITS
    last = dimgrow(tiny_data, settings, Training(SMALL, fit))
    best = dimgrow(tiny_data, replace(settings, gates_of="best"), Training(SMALL, fit))
    aucs = [epoch["val_auc"] for epoch in last.record["history"]]
    number = best.record["gates_of_epoch"]
    assert number == 1 + aucs.index(max(aucs)) < len(aucs) == last.record["gates_of_epoch"]
    assert best.val_auc == max(aucs) and last.val_auc == aucs[-1]
    for key in ("history", "events", "allocated", "steps"):
        assert best.record[key] == last.record[key]
    stopped = dimgrow(tiny_data, settings, Training(SMALL, replace(fit, epochs=number)))
    for key in ("gates", "found", "gates_of_epoch"):
        assert best.record[key] == stopped.record[key]
    assert best.record["gates"] != last.record["gates"]
    assert best.policy.tables == stopped.policy.tables
    assert best.policy.dropped == stopped.policy.dropped
    assert best.weights.keys() == stopped.weights.keys() and best.weights
    for name, tensor in stopped.weights.items():
        assert torch.equal(best.weights[name], tensor)


def test_weights_are_left_only_where_they_fit(tiny_data: DataSet) -> None:
    """Hashed tables take the rows that a budget leaves over; the search's rows are not theirs."""
    hashed = replace(SETTINGS, max_dim=1, address="hash", hash_rows=7)
    alike = dimgrow(tiny_data, hashed, Training(SMALL, FIT))
    longer = dimgrow(tiny_data, replace(hashed, params=60), Training(SMALL, FIT))
    assert alike.policy.dropped == longer.policy.dropped
    assert alike.policy.num_params < longer.policy.num_params == 60
    for found in (alike, longer):
        model = build_model(found.policy, len(tiny_data.schema.numeric), SMALL, 0)
        if found.weights:
            model.load_state_dict(found.weights)
    assert alike.weights and not longer.weights


def test_memory_is_that_of_the_columns(tiny_data: DataSet, found: Found) -> None:
    """Parameter, gradient and two moments of four bytes each, and Adam's count of steps.

    A column that the very last step added has no moments yet.
    """
    space = open_space(tiny_data, SETTINGS, 0)
    allocated = [found.record["allocated"][name] for name in space.names]
    last = [name for step, name, _ in found.record["events"] if step == found.record["steps"]]
    unstepped = sum(8 * space.rows[space.names.index(name)] + 4 for name in last)
    everything = 16 * space.size(allocated) + 4 * sum(allocated)
    assert everything - unstepped <= found.peak_bytes <= everything
    assert space.size(allocated) < space.size([SETTINGS.max_dim] * len(allocated))


def test_memory_does_not_depend_on_the_widest_allowed(tiny_data: DataSet) -> None:
    """The paper's constant footprint, where growth ends by itself."""
    wide, wider = (
        dimgrow(tiny_data, replace(SETTINGS, max_dim=n, address="id"), Training(SMALL, FIT))
        for n in (16, 64)
    )
    assert 1 < max(wide.record["allocated"].values()) < 16
    assert wide.peak_bytes == wider.peak_bytes
    assert wide.record["found"] == wider.record["found"]


def test_every_feature_is_served_or_named(tiny_data: DataSet, found: Found) -> None:
    names = [c.name for c in tiny_data.schema.features]
    served = [f.name for f in found.policy.features]
    assert sorted([*served, *found.policy.dropped]) == sorted(names)
    for name, dim in found.record["found"].items():
        gates = found.record["gates"][name]
        assert dim == sum(g > 0.5 for g in gates)
        assert (name in found.policy.dropped) == (dim == 0)
        assert dim == 0 or found.policy.table(name).dim == dim


@pytest.mark.parametrize("address", ["id", "hash"])
def test_a_budget_is_filled(tiny_data: DataSet, address: str) -> None:
    params = {"id": 800, "hash": 500}[address]
    settings = replace(SETTINGS, params=params, address=address, max_dim=16)
    found = dimgrow(tiny_data, settings, Training(SMALL, FIT))
    space = open_space(tiny_data, settings, 0)
    left = params - found.policy.num_params
    widths = {t.name: t.dim for t in found.policy.tables}
    if address == "hash":
        assert 0 <= left < min(widths.values())
    else:
        grown = [r for r, n in zip(space.rows, space.names, strict=True) if widths.get(n, 16) < 16]
        assert 0 <= left < min(grown, default=params)
    kept = dimgrow(tiny_data, replace(settings, fill=False), Training(SMALL, FIT))
    assert kept.policy.num_params <= found.policy.num_params
    assert kept.record == found.record  # only what is made of it differs


@pytest.mark.parametrize("adapt", ["joint", "per-feature"])
@pytest.mark.parametrize("backbone", ["mlp", "fnn", "wide-deep"])
def test_training_can_go_on_from_the_search(tiny_data: DataSet, backbone: str, adapt: str) -> None:
    """With gates at one, the policy's own model computes what the search model computes."""
    model, growth = growing(tiny_data, replace(SETTINGS, adapt=adapt), backbone)
    growth.start([2] * 7, [[0, 1], [1], [0], [0], [1, 0], [0], [0]])
    for own in model.columns:
        for column in own:
            with torch.no_grad():
                column.theta.fill_(20.0)
    weights = found_weights(model, model.used)
    policy, numeric = model.space.policy(model.dims), len(model.space.schema.numeric)
    plain = build_model(policy, numeric, replace(SMALL, backbone=backbone), 5)
    plain.load_state_dict(weights)
    batch = next(iter(tiny_data.stream("train", batch_size=100)))
    model.eval()
    torch.testing.assert_close(plain(batch)[1], model(batch)[1], rtol=1e-5, atol=1e-6)


def test_vectors_that_are_multiplied_leave_no_weights(tiny_data: DataSet) -> None:
    model, _ = growing(tiny_data, replace(SETTINGS, adapt="per-feature"), "deepfm")
    assert found_weights(model, model.used) == {}


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"alpha": -0.1}, "alpha is -0.1; allowed: 0 or more"),
        ({"tau": 0.0}, "tau is 0.0; allowed: above 0"),
        ({"t_up": 1.0}, "t_up is 1.0; allowed: between 0 and 1"),
        ({"t_down": 0.5}, "t_down is 0.5; allowed: 0 to below 0.5"),
        ({"total_dims": -1}, "total_dims is -1"),
        ({"adapt_dim": 0}, "adapt_dim is 0; allowed: 1 or more"),
        ({"adapt": "sum"}, "adapt is 'sum'; allowed: joint, per-feature"),
        ({"gate_lr": 0.0}, "gate_lr is 0.0; allowed: above 0"),
        ({"gate_split": "val"}, "gate_split is 'val'; allowed: train, held-out"),
        ({"gates_of": "end"}, "gates_of is 'end'; allowed: last, best"),
        ({"params": -1}, "params is -1; allowed: 0 (no budget) or more"),
        ({"address": "code"}, "address is 'code'; allowed: auto, id, hash"),
        ({"hash_rows": 5}, "hash_rows 5 with address 'auto'"),
        ({"address": "hash"}, "address 'hash' without a budget"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_settings_out_of_range(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        DimGrowSettings(**wrong)


@pytest.mark.parametrize(
    "settings, fit, error, says",
    [
        (replace(SETTINGS, params=50, address="id"), FIT, PolicyError, "smallest feasible budget"),
        (replace(SETTINGS, total_dims=3), FIT, PolicyError, "total_dims 3; allowed: 7"),
        (SETTINGS, replace(FIT, row_optimizer="adagrad"), ValueError, "allowed: adam, sgd"),
        (SETTINGS, replace(FIT, dense_optimizer="adagrad"), ValueError, "dense_optimizer is"),
        (SETTINGS, replace(FIT, warmup_steps=3), ValueError, "warmup_steps is 3"),
        (SETTINGS, replace(FIT, schedule="cosine"), ValueError, "schedule is 'cosine'"),
        (replace(SETTINGS, alpha=9.0), FIT, PolicyError, "alpha 9.0 is too strong"),
    ],
)
def test_a_search_that_cannot_answer_says_so(
    tiny_data: DataSet, settings: DimGrowSettings, fit: FitSettings, error: Any, says: str
) -> None:
    with pytest.raises(error, match=says):
        dimgrow(tiny_data, settings, Training(SMALL, fit))


# ---- golden figures ----------------------------------------------------------------------


GROWS = replace(SETTINGS, gate_lr=0.2, t_down=0.3)  # and shrinks
SHORT = replace(FIT, epochs=2)
GOLDEN_CASES = {
    "held-out": (GROWS, SMALL, SHORT),
    "train": (replace(GROWS, gate_split="train"), SMALL, SHORT),
    "best": (replace(OVERFITS[0], gates_of="best"), SMALL, OVERFITS[1]),
    "dlrm": (replace(GROWS, adapt="per-feature"), replace(SMALL, backbone="dlrm"), SHORT),
    "sgd": (GROWS, SMALL, replace(SHORT, row_optimizer="sgd", row_lr=1.0)),
    "dropout": (GROWS, replace(SMALL, dropout=0.2), SHORT),
    "patience": (
        replace(SETTINGS, gate_lr=0.02),
        SMALL,
        replace(FIT, epochs=9, patience=1, seed=3),
    ),
}


def figures(data: DataSet, case: str) -> dict[str, Any]:
    """What a search came to, JSON values only."""
    settings, model, fit = GOLDEN_CASES[case]
    found = dimgrow(data, settings, Training(model, fit))
    widths = {t.name: t.dim for t in found.policy.tables}
    record = {**found.record, "events": [list(event) for event in found.record["events"]]}
    return {"val_auc": found.val_auc, "widths": widths, **record}


def approximately(value: Any) -> Any:
    """``value``, of which numbers with a fraction are compared to 1e-5.

    Processors of another kind round otherwise, and some ten steps of training carry that on: gates
    differed by 6e-7 without vector instructions. A number drawn otherwise moves them by 1e-3.
    """
    if isinstance(value, dict):
        return {key: approximately(part) for key, part in value.items()}
    if isinstance(value, list):
        return [approximately(part) for part in value]
    return pytest.approx(value, abs=1e-5) if isinstance(value, float) else value


def golden_data(out: Path) -> DataSet:
    """The rows that the golden figures are of."""
    synthetic(
        out,
        rows=1200,
        strong=2,
        weak=1,
        noise=2,
        numeric=1,
        multivalent=1,
        strong_vocab=30,
        weak_vocab=12,
        noise_vocab=100,
        missing_rate=0.05,
        signal=3.0,
    )
    return open_data(out)


@pytest.fixture(scope="module")
def golden_rows(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return golden_data(tmp_path_factory.mktemp("golden") / "data")


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden_figures(golden_rows: DataSet, case: str) -> None:
    """The order in which a search draws, grows, trains and evaluates: recorded figures depend."""
    golden = json.loads(GOLDEN.read_text())[case]
    assert figures(golden_rows, case) == approximately(golden)


def test_golden_cases_show_what_they_are_for() -> None:
    """Columns that come and go, an epoch before the last, and a search that ends by itself."""
    golden = json.loads(GOLDEN.read_text())
    for case in ("held-out", "train", "dlrm", "sgd", "dropout"):
        widths: dict[str, int] = {}
        fell = False
        for _, name, width in golden[case]["events"]:
            fell = fell or width < widths.get(name, 1)
            widths[name] = width
        assert fell and max(widths.values()) > 1, case
    assert golden["best"]["gates_of_epoch"] < len(golden["best"]["history"])
    epochs = golden["patience"]["history"]
    assert len(epochs) < GOLDEN_CASES["patience"][2].epochs
    aucs = [epoch["val_auc"] for epoch in epochs]
    assert any(
        auc < max(aucs[:i]) for i, auc in enumerate(aucs[:-1]) if i
    )  # it went on all the same


# ---- planted structure -------------------------------------------------------------------


def test_noise_loses_its_columns(tmp_path: Path) -> None:
    """Features that tell something keep columns, those that carry nothing keep none."""
    data = tmp_path / "data"
    planted(data, rows=12_000)
    settings = DimGrowSettings(alpha=3e-3, gate_lr=2e-2, max_dim=8, adapt_dim=16)
    fit = FitSettings(epochs=6, patience=20, batch_size=256, row_lr=1e-2, dense_lr=5e-3)
    found = dimgrow(open_data(data), settings, Training(ModelSettings(hidden=(32,)), fit)).record[
        "found"
    ]
    print(found)
    by_role = {
        role: [d for name, d in found.items() if name.startswith(role)]
        for role in ("strong", "weak", "noise")
    }
    assert by_role["noise"] == [0, 0, 0]
    assert sum(by_role["strong"]) >= 2 and min(by_role["weak"]) >= 1


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python tests/test_dimgrow.py --write")
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        rows = golden_data(Path(folder) / "data")
        lines = [f"{json.dumps(c)}: {json.dumps(figures(rows, c))}" for c in GOLDEN_CASES]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"wrote {GOLDEN.name}")
