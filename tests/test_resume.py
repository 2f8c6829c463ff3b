"""Any run, killed anywhere and resumed, ends as the run that was never killed, bit for bit.

In process a run is killed at *every* place where it reads a batch, writes a file or comes to the
next stage of writing or removing a checkpoint; then real processes of the command line are killed
by SIGKILL at random moments.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from killed_runs import Fuse, Killed, called, differences, outcome
from seo_rec import recipes
from seo_rec.data.dataset import DataSet
from seo_rec.data.stream import Stream
from seo_rec.files import locked
from seo_rec.model import ModelSettings
from seo_rec.recipes import comparing, searching, training
from seo_rec.recipes import outcome as outcomes
from seo_rec.runs import claim
from seo_rec.search.run_off import RunOff, contest
from seo_rec.search.seo import SeoSearch
from seo_rec.search.seo import searched as attention
from seo_rec.settings import DENSE_OPTIMIZER_NAMES
from seo_rec.train import CheckpointError, FitSettings, Training, checkpoint


@pytest.fixture
def fuse(monkeypatch: pytest.MonkeyPatch) -> Fuse:
    """Every batch handed out, every file before and after it is written, and every stage of a
    checkpoint's writing and removing is a place."""
    made = Fuse()
    batches_of = Stream.__iter__

    def iterate(self: Stream) -> Iterator[Any]:
        batches = batches_of(self)

        def handed_out() -> Iterator[Any]:
            for batch in batches:
                made.burn(f"{self.split} batch {self.epoch}.{self.step}")
                yield batch

        return handed_out()

    def around(module: Any, name: str) -> None:
        write = getattr(module, name)

        def written(path: Path, *rest: Any) -> None:
            made.burn(f"before {path.name}")
            write(path, *rest)
            made.burn(f"after {path.name}")

        monkeypatch.setattr(module, name, written)

    monkeypatch.setattr(Stream, "__iter__", iterate)
    for module in (claim, training, searching, comparing, attention, contest):
        around(module, "write_json")
    around(contest, "write_bytes")
    around(comparing, "append_line")
    monkeypatch.setattr(outcomes, "stamp", dict)
    monkeypatch.setattr(searching, "stamp", dict)
    stages_of_a_checkpoint(made, monkeypatch)
    return made


def stages_of_a_checkpoint(fuse: Fuse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the disk may look different to the run that resumes."""
    empty, save, write, rename = (
        checkpoint._empty_folder,
        checkpoint.dcp.save,
        checkpoint.write_json,
        Path.rename,
    )

    def emptied(part: Path) -> None:
        fuse.burn(f"before {called(part)}")
        empty(part)
        fuse.burn(f"emptied {called(part)}")

    def saved(*arguments: Any, storage_writer: Any, **more: Any) -> None:
        save(*arguments, storage_writer=storage_writer, **more)
        fuse.burn(f"tensors of {called(Path(storage_writer.path))}")

    def written(path: Path, document: Any) -> None:
        write(path, document)
        fuse.burn(f"{path.name} of {called(path.parent)}")

    def renamed(part: Path, final: Path) -> None:
        rename(part, final)
        if final.name.startswith("step-"):  # and not torch's own index
            fuse.burn(f"after {called(final)}")

    def rmtree(folder: Path, ignore_errors: bool = False) -> None:
        """As that of shutil, whose order is anyone's guess: here the marker last, the worst."""
        if not folder.exists():
            return
        found = sorted(folder.iterdir(), key=lambda p: (p.name == "complete.json", p.name))
        for i, path in enumerate(found):
            path.unlink()
            if i == 0 or path.name == "complete.json":
                fuse.burn(f"without {path.name}: {called(folder)}")
        folder.rmdir()
        fuse.burn(f"removed {called(folder)}")

    monkeypatch.setattr(checkpoint, "_empty_folder", emptied)
    monkeypatch.setattr(checkpoint.dcp, "save", saved)
    monkeypatch.setattr(checkpoint, "write_json", written)
    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(checkpoint, "shutil", SimpleNamespace(rmtree=rmtree))


# ---- killed in process, everywhere -------------------------------------------------------


SMALL = ModelSettings(hidden=(8,), dropout=0.3)


def fit_settings(**other: Any) -> FitSettings:
    rates = {"row_lr": 0.02, "dense_lr": 0.02}
    sizes = {"epochs": 3, "patience": 3, "batch_size": 200, "checkpoint_every": 2, "log_every": 1}
    return FitSettings(**{**rates, **sizes, **other})


def trains(data: DataSet, model: ModelSettings = SMALL, **settings: Any) -> Callable[[Path], None]:
    policy = recipes.method_policy("multi-size", data, 1600)
    training = Training(model, fit_settings(**settings))

    def run(out: Path) -> None:
        recipes.train(data, policy, out, training, resume=True)

    return run


def searches(
    data: DataSet, run_off: bool = False, cost: float = 0, **settings: Any
) -> Callable[[Path], None]:
    rules = RunOff(
        epochs=2 if cost else 1,
        chunk_dims=(8,),
        trivial_lookups=(2, 4),
        by_id=not cost,
        cost=cost,
        in_full=False,
    )
    off = rules if run_off else None
    wanted = SeoSearch(budget_rows=100, temperature_end=0.5, logit_lr=0.05, run_off=off, **settings)
    training = Training(SMALL, fit_settings(epochs=2))

    def run(out: Path) -> None:
        recipes.search("seo", data, out, wanted, training, resume=True)

    return run


def compares(data: DataSet) -> Callable[[Path], None]:
    comparison = recipes.Comparison(
        data=(data,),
        methods=("monolithic", "seo-rr"),
        params=1600,
        seeds=2,
        training=Training(SMALL, fit_settings(epochs=1)),
    )
    return lambda out: void(recipes.compare(comparison, out))


def void(_: object) -> None: ...


def places_of(run: Callable[[Path], None], out: Path, fuse: Fuse) -> list[str]:
    """Run to the end, and name the places at which it could have been killed."""
    fuse.light(0)
    run(out)
    return fuse.places


def killed_and_resumed(
    run: Callable[[Path], None], out: Path, fuse: Fuse, kills: list[int]
) -> list[str]:
    """Kill ``run`` at each of ``kills`` in turn (counted from its last start), then let it end."""
    where = []
    for at in kills:
        fuse.light(at)
        try:
            run(out)
        except Killed as killed:
            where.append(str(killed))
    fuse.light(0)
    run(out)
    return where


def assert_survives_every_kill(
    run: Callable[[Path], None], tmp_path: Path, fuse: Fuse, every: int = 1
) -> None:
    """Kill at every place, or at every ``every``-th of them."""
    places = places_of(run, tmp_path / "whole", fuse)
    wanted = outcome(tmp_path / "whole")
    for at in range(1, len(places) + 1, every):
        out = tmp_path / "killed"
        where = killed_and_resumed(run, out, fuse, [at])
        assert where == [places[at - 1]]
        wrong = differences(wanted, outcome(out))
        assert not wrong, f"killed at {places[at - 1]} (place {at}): {wrong[:5]}"
        shutil.rmtree(out)


def every(places: int, quick: int) -> pytest.MarkDecorator:
    """Kill at one place in ``places``; `make test` at one in ``quick``."""
    return pytest.mark.parametrize("every", [pytest.param(places, marks=pytest.mark.slow), quick])


@every(1, quick=13)
def test_training_killed_anywhere_ends_the_same(
    tiny_data: DataSet, tmp_path: Path, fuse: Fuse, every: int
) -> None:
    run = trains(tiny_data, warmup_steps=7, epochs=2, checkpoint_every=4)
    assert_survives_every_kill(run, tmp_path, fuse, every)


def test_the_places_include_the_interesting_ones(
    tiny_data: DataSet, tmp_path: Path, fuse: Fuse
) -> None:
    places = places_of(trains(tiny_data), tmp_path / "whole", fuse)
    assert "train batch 0.3" in places  # within an epoch
    assert "train batch 1.0" in places  # the last batch of the first epoch: the next one begins
    assert "val batch 1.0" in places  # within the evaluation
    best, saved = places.index("after best 5"), places.index("before checkpoints 5")
    assert best < saved  # the best weights are written, the checkpoint of the epoch is not
    stages = ["before", "emptied", "tensors of", "state.json of", "complete.json of", "after"]
    for name in ("best 10", "checkpoints 4"):
        at = [places.index(f"{stage} {name}") for stage in stages]
        assert at == sorted(at)
    assert "without .metadata: checkpoints 2" in places  # removed in part, and then altogether
    assert "removed checkpoints 2" in places
    assert places[-1] == "after result.json"


def test_best_weights_of_a_step_that_comes_again(
    tiny_data: DataSet, tmp_path: Path, fuse: Fuse
) -> None:
    """Killed between best weights and their checkpoint, and again while those were removed."""
    run = trains(tiny_data)
    places_of(run, tmp_path / "whole", fuse)
    for place in ("after best 5", "without .metadata: best 5"):
        fuse.light(0, place)
        with pytest.raises(Killed, match=place):
            run(tmp_path / "killed")
    fuse.light(0)
    run(tmp_path / "killed")
    assert not differences(outcome(tmp_path / "whole"), outcome(tmp_path / "killed"))


@pytest.mark.parametrize(
    "optimizer, average, storage",
    [
        ("rowwise_adagrad", 0.0, "bfloat16"),
        ("lazy_adam", 0.998, "float16"),
        ("adam", 0.998, "float32"),
        ("adam", 0.0, "float32"),
        ("adagrad", 0.0, "float32"),
        ("rowwise_adagrad", 0.998, "float32"),
        ("lazy_adam", 0.998, "float32"),
        ("sgd", 0.998, "float32"),
    ],
)
def test_optimizers_and_averages_resume(
    tiny_data: DataSet,
    tmp_path: Path,
    fuse: Fuse,
    optimizer: str,
    average: float,
    storage: str,
) -> None:
    l2 = {"row_l2": 0.01, "l2_on": "frequency"} if optimizer == "lazy_adam" else {}
    dense = optimizer if optimizer in DENSE_OPTIMIZER_NAMES else "adam"
    l2 |= {"dense_optimizer": dense}
    rates = {"row_optimizer": optimizer, "warmup_steps": 3, "row_lr": 0.05, **l2}
    steps = {"schedule": "cosine", "clip_norm": 0.1}
    weighted = replace(SMALL, positive_weight=3.0)
    run = trains(tiny_data, weighted, average=average, storage=storage, **rates, **steps)
    places = places_of(run, tmp_path / "whole", fuse)
    wanted = outcome(tmp_path / "whole")
    rng = random.Random(f"{optimizer} {average}")
    for attempt in range(2):
        kills = [rng.randint(1, len(places)) for _ in range(4)]
        where = killed_and_resumed(run, tmp_path / f"killed{attempt}", fuse, kills)
        wrong = differences(wanted, outcome(tmp_path / f"killed{attempt}"))
        assert not wrong, f"killed at {where}: {wrong[:5]}"


@every(3, quick=19)
def test_without_checkpoints_within_an_epoch(
    tiny_data: DataSet, tmp_path: Path, fuse: Fuse, every: int
) -> None:
    """``checkpoint_every=0``: an epoch cut short is trained anew, its lines written once."""
    run = trains(tiny_data, checkpoint_every=0, epochs=2)
    assert_survives_every_kill(run, tmp_path, fuse, every)


@pytest.mark.parametrize(
    "max_steps", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (5, 7))]
)
def test_an_end_within_an_epoch_resumes(
    tiny_data: DataSet, tmp_path: Path, fuse: Fuse, max_steps: int
) -> None:
    """Also where the last step is due for a checkpoint of its own, before the evaluation."""
    assert_survives_every_kill(trains(tiny_data, max_steps=max_steps), tmp_path, fuse, every=5)


@pytest.mark.parametrize("split", ["train", "held-out"])
@every(9, quick=37)
def test_search_killed_anywhere_ends_the_same(
    tiny_data: DataSet, tmp_path: Path, fuse: Fuse, split: str, every: int
) -> None:
    run = searches(tiny_data, search_split=split, use_down_projection=split == "held-out")
    assert_survives_every_kill(run, tmp_path, fuse, every)


@every(59, quick=241)
def test_a_run_off_killed_anywhere_ends_the_same(
    tiny_data: DataSet, tmp_path: Path, fuse: Fuse, every: int
) -> None:
    assert_survives_every_kill(searches(tiny_data, run_off=True), tmp_path, fuse, every)


@every(97, quick=331)
def test_a_limited_run_off_killed_anywhere_ends_the_same(
    tiny_data: DataSet, tmp_path: Path, fuse: Fuse, every: int
) -> None:
    """By successive halving: also in a later round, and between two parts of a training."""
    run = searches(tiny_data, run_off=True, cost=6)
    assert_survives_every_kill(run, tmp_path, fuse, every)
    whole = json.loads((tmp_path / "whole/search.json").read_text())
    assert len(whole["record"]["halving"]["rounds"]) > 1


@pytest.mark.slow
def test_a_search_killed_while_it_writes_what_it_found(
    tiny_data: DataSet, tmp_path: Path, fuse: Fuse
) -> None:
    """Logits without their score, an attention without its search, all files but the record."""
    run = searches(tiny_data, run_off=True)
    places = places_of(run, tmp_path / "whole", fuse)
    for place in ("after result.json", "after trivial-2x8-seed0.npy", "before search.json"):
        assert place in places
        fuse.light(0, place)
        with pytest.raises(Killed, match=place):
            run(tmp_path / "killed")
    fuse.light(0)
    run(tmp_path / "killed")
    assert not differences(outcome(tmp_path / "whole"), outcome(tmp_path / "killed"))


def test_a_comparison_killed_anywhere_goes_on(
    tiny_data: DataSet, tmp_path: Path, fuse: Fuse
) -> None:
    assert_survives_every_kill(compares(tiny_data), tmp_path, fuse, every=83)


def test_leftovers_of_a_kill_are_in_nobodys_way(
    tiny_data: DataSet, tmp_path: Path, fuse: Fuse
) -> None:
    """SIGKILL leaves half-written temporary files; they are neither read nor stumbled over."""
    run = trains(tiny_data)
    places = places_of(run, tmp_path / "whole", fuse)
    out = tmp_path / "killed"
    out.mkdir()
    (out / ".run.json.k1l3d").write_text('{"kind": "tr')
    killed_at = places.index("before checkpoints 4") + 1
    fuse.light(killed_at)
    with pytest.raises(Killed):
        run(out)
    for left in (
        "checkpoints/.step-000000004.part",  # of the step that is written again
        "checkpoints/.step-000000003.part",  # of one that never is
        "checkpoints/step-000000001",  # removed in part
        "best/.step-000000003.part",
    ):
        (out / left).mkdir(parents=True)
        (out / left / "__0_0.distcp").write_bytes(b"PK\x03\x04 half")
        (out / left / ".state.json.k1l3d").write_text("{")
    fuse.light(0)
    run(out)
    assert not differences(outcome(tmp_path / "whole"), outcome(out))


def test_a_line_cut_short_by_a_kill_is_dropped(
    tiny_data: DataSet, tmp_path: Path, fuse: Fuse
) -> None:
    run = trains(tiny_data)
    places_of(run, tmp_path / "whole", fuse)
    out = tmp_path / "killed"
    fuse.light(9)
    with pytest.raises(Killed):
        run(out)
    with (out / "metrics.jsonl").open("a") as stream:
        stream.write('{"event": "step", "st')
    fuse.light(0)
    run(out)
    assert not differences(outcome(tmp_path / "whole"), outcome(out))


def test_two_processes_do_not_train_one_run(tiny_data: DataSet, tmp_path: Path, fuse: Fuse) -> None:
    """Neither is disturbed by the other: the second one ends before it writes anything."""
    run, out = trains(tiny_data), tmp_path / "out"
    wanted = places_of(run, tmp_path / "whole", fuse)
    fuse.light(len(wanted) // 2)
    with pytest.raises(Killed):
        run(out)
    given = ("run.json", "policy.json")  # written anew, the same
    files = [p for p in out.rglob("*") if p.is_file() and p.name not in given]
    made = {p: p.stat().st_mtime_ns for p in files}
    fuse.light(0)
    with locked(out), pytest.raises(CheckpointError, match="another process is training this run"):
        run(out)
    assert {p: p.stat().st_mtime_ns for p in files} == made
    run(out)
    assert not differences(outcome(tmp_path / "whole"), outcome(out))


def test_a_finished_run_is_not_trained_again(
    tiny_data: DataSet, tmp_path: Path, fuse: Fuse
) -> None:
    for name, run in (("train", trains(tiny_data)), ("search", searches(tiny_data))):
        places_of(run, tmp_path / name, fuse)
        times = {p: p.stat().st_mtime_ns for p in (tmp_path / name).rglob("*.distcp")}
        again = places_of(run, tmp_path / name, fuse)
        assert [p for p in again if "batch" in p] == []
        assert {p: p.stat().st_mtime_ns for p in (tmp_path / name).rglob("*.distcp")} == times
