"""Settings that follow the data: their rules, and that a given value stands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seo_rec.settings import LARGEST_DENSE, FitSettings
from seo_rec.train.automatic import batch_for, l2_for

POWERS = [256, 512, 1024, 2048]
COMMAND = ["--params", "800", "--dim", "8", "--hidden", "8", "--epochs", "1", "--threads", "1"]


@pytest.mark.parametrize("rows", [1, 900, 51_200, 102_399, 102_400, 300_000, 409_600, 10**9])
def test_a_batch_leaves_an_epoch_200_steps_where_it_can(rows: int) -> None:
    """Against the definition: of the four powers of two the largest that does, else the least."""
    fits = [b for b in POWERS if rows / b >= 200]
    assert batch_for(rows) == max(fits, default=256)


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_processes_share_a_batch_evenly(processes: int) -> None:
    batch = batch_for(10_000, processes)
    assert batch % processes == 0 and 256 <= batch < 256 + processes


@pytest.mark.parametrize(
    ("rows", "l2"),
    [(1, 3e-3), (166_000, 3e-3), (240_000, 2.1e-3), (10**6, 5e-4), (10**8, 5e-6)],
)
def test_l2_is_one_strength_of_a_prior(rows: int, l2: float) -> None:
    """``rows`` times the L2 is 500 where the largest L2 does not come first, to two digits."""
    found = l2_for(FitSettings(), rows, LARGEST_DENSE, binary=True)
    assert found == pytest.approx(l2, rel=0.01)
    assert found == 3e-3 or found * rows == pytest.approx(500, rel=0.05)


def test_l2_is_for_what_was_measured() -> None:
    fit = FitSettings()
    assert l2_for(replace(fit, row_optimizer="adam"), 1_000, 1_000, binary=True) == 3e-3
    for other in (
        replace(fit, l2_on="frequency"),
        replace(fit, row_optimizer="sgd"),
        replace(fit, storage="float16"),
    ):
        assert l2_for(other, 1_000, 1_000, binary=True) == 0
    assert l2_for(fit, 1_000, LARGEST_DENSE + 1, binary=True) == 0
    assert l2_for(fit, 1_000, 1_000, binary=False) == 0


def run_json(tiny: Path, out: Path, *words: str) -> dict[str, Any]:
    from seo_rec.cli.main import app

    command = ["train", str(tiny), "--out", str(out), "--method", "monolithic", *COMMAND, *words]
    app(command, standalone_mode=False)
    found: dict[str, Any] = json.loads((out / "run.json").read_text())["fit"]
    return found


def test_the_command_decides_says_and_keeps_what_it_decided(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = run_json(tiny, tmp_path / "auto")
    assert (fit["batch_size"], fit["row_l2"]) == (256, 3e-3)
    said = capsys.readouterr().err
    assert "settings: batch size 256 for " in said and "L2 0.003 (--l2)" in said
    kept = json.loads((tmp_path / "auto" / "settings.json").read_text())["options"]
    assert (kept["batch_size"], kept["l2"]) == (256, 3e-3)
    again = ["--config", str(tmp_path / "auto" / "settings.json")]
    assert run_json(tiny, tmp_path / "again", *again) == fit
    assert "settings:" not in capsys.readouterr().err


def test_a_given_value_stands(tiny: Path, tmp_path: Path) -> None:
    fit = run_json(tiny, tmp_path / "given", "--batch-size", "100", "--l2", "0")
    assert (fit["batch_size"], fit["row_l2"]) == (100, 0.0)


@pytest.mark.parametrize("methods", ["monolithic", "monolithic,optembed"])
def test_searches_without_figures_keep_the_numbers(
    tiny: Path, tmp_path: Path, methods: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a comparison all methods are trained alike."""
    from seo_rec import recipes
    from seo_rec.cli.main import app

    asked: list[FitSettings] = []

    def compare(comparison: recipes.Comparison, out: Path) -> None:
        asked.append(comparison.training.fit)
        raise KeyError

    monkeypatch.setattr(recipes, "compare", compare)
    command = ["compare", str(tiny), "--out", str(tmp_path / "c"), "--methods", methods]
    with pytest.raises(KeyError):
        app([*command, *COMMAND], standalone_mode=False)
    kept = (asked[0].batch_size, asked[0].row_l2)
    assert kept == ((2048, 0.0) if "optembed" in methods else (256, 3e-3))


@pytest.mark.parametrize("option", ["--batch-size", "--l2"])
def test_what_is_neither_a_number_nor_auto_is_refused(
    tiny: Path, tmp_path: Path, option: str
) -> None:
    with pytest.raises(ValueError, match=f"{option}=many; allowed: .* number, or auto"):
        run_json(tiny, tmp_path / "x", option, "many")


def test_settings_of_an_earlier_release_keep_their_meaning(tiny: Path, tmp_path: Path) -> None:
    """They hold every option, so the defaults of today change nothing."""
    path = tmp_path / "settings.json"
    options = {"data": str(tiny), "method": "monolithic", "batch_size": 2048, "l2": 0.0}
    path.write_text(json.dumps({"command": "train", "options": options}))
    fit = run_json(tiny, tmp_path / "run", "--config", str(path))
    assert (fit["batch_size"], fit["row_l2"]) == (2048, 0.0)
