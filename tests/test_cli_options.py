"""Options of the command line arrive where they are read, and ``--help`` explains each."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import typer

from seo_rec import recipes
from seo_rec.backbones import (
    BACKBONES,
    AutoIntSettings,
    DCNSettings,
    DCNv2Settings,
    DLRMSettings,
    XDeepFMSettings,
)
from seo_rec.cli import training_options as opt
from seo_rec.cli.main import READING_ORDER, app
from seo_rec.cli.search import TRAINING_OPTIONS
from seo_rec.recipes.comparison_checks import check_comparison
from seo_rec.runs import Run
from seo_rec.search import SEARCHES, find
from seo_rec.search.run_off import RunOff
from seo_rec.settings import ModelSettings
from small_commands import QUICK, RAW, Command, as_set

ROOT = Path(__file__).resolve().parent.parent
GROUP = typer.main.get_command(app)


# ---- settings arrive ---------------------------------------------------------------------


def test_every_training_option_arrives(seo_rec: Command, tiny: Path, tmp_path: Path) -> None:
    options = {
        "--backbone": ("dcn-v2", "model", "backbone", "dcn-v2"),
        "--interaction": (
            "layers=1, rank=3",
            "model",
            "interaction",
            {"layers": 1, "rank": 3, "structure": "stacked"},
        ),
        "--hidden": ("9,7", "model", "hidden", [9, 7]),
        "--dropout": ("0.25", "model", "dropout", 0.25),
        "--epochs": ("2", "fit", "epochs", 2),
        "--patience": ("5", "fit", "patience", 5),
        "--batch-size": ("333", "fit", "batch_size", 333),
        "--lr": ("0.004", "fit", "dense_lr", 0.004),
        "--optimizer": ("rowwise_adagrad", "fit", "row_optimizer", "rowwise_adagrad"),
        "--average": ("0.5", "fit", "average", 0.5),
        "--l2": ("0.001", "fit", "row_l2", 0.001),
        "--warmup-steps": ("3", "fit", "warmup_steps", 3),
        "--schedule": ("cosine", "fit", "schedule", "cosine"),
        "--dense-optimizer": ("sgd", "fit", "dense_optimizer", "sgd"),
        "--clip-norm": ("2.5", "fit", "clip_norm", 2.5),
        "--positive-weight": ("3", "model", "positive_weight", 3.0),
        "--checkpoint-every": ("2", "fit", "checkpoint_every", 2),
        "--seed": ("11", "fit", "seed", 11),
    }
    given = [part for name, (text, *_) in options.items() for part in (name, text)]
    method = ["--method", "multi-size", "--params", "1000", "--dim", "10", "--set", "chunk_dim=5"]
    done = seo_rec("train", tiny, "--out", tmp_path / "t", *method, *given)
    assert done.code == 0, done.err
    asked = json.loads((tmp_path / "t/run.json").read_text())
    for name, (_, part, key, value) in options.items():
        assert asked[part][key] == value, name
    assert asked["fit"]["row_lr"] == 0.004
    assert asked["method"] == "multi-size" and asked["policy"]["tables"][0]["dim"] == 5


@pytest.mark.parametrize(
    "backbone, given, wanted",
    [
        ("mlp", "", None),
        ("dcn", "", DCNSettings()),
        ("dcn", "layers=2", DCNSettings(2)),
        ("dcn-v2", "structure=parallel, layers = 3", DCNv2Settings(3, structure="parallel")),
        ("dlrm", "bottom=64x32", DLRMSettings((64, 32))),
        ("xdeepfm", "maps=9", XDeepFMSettings((9,))),
        ("autoint", "heads=1,width=8,layers=2", AutoIntSettings(2, 1, 8)),
    ],
)
def test_settings_of_a_backbone(backbone: str, given: str, wanted: Any) -> None:
    assert (
        ModelSettings(backbone, interaction=opt.interaction(backbone, given)).interaction == wanted
    )


def test_the_help_lists_commands_in_the_order_in_which_they_are_needed() -> None:
    context = typer.Context(GROUP)
    listed = [n for n in GROUP.list_commands(context) if not GROUP.commands[n].hidden]
    assert listed == list(READING_ORDER)
    chain = ["prepare", "compare", "search", "train", "eval", "export", "predict", "serve"]
    assert [name for name in listed if name in chain] == chain


def test_the_help_names_every_backbone() -> None:
    (option,) = (p for p in GROUP.commands["train"].params if p.name == "backbone")
    names = option.help.partition(".")[0]
    assert re.split(", | or ", names) == list(BACKBONES)


def test_the_help_of_search_names_searches() -> None:
    (option,) = (p for p in GROUP.commands["search"].params if p.name == "method")
    names = re.split(", | or ", re.search("such as (.*);", option.help)[1])
    assert names and {*names} <= {*SEARCHES}
    guides = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    assert [name for name in SEARCHES if f"`{name}`" not in guides] == []


def test_training_options_are_those_of_the_model_and_the_training() -> None:
    """All options of these two panels, and no other, are refused where nothing is trained."""
    panels = {p.name: p.rich_help_panel for p in GROUP.commands["search"].params}
    assert {*TRAINING_OPTIONS} == {n for n, p in panels.items() if p in ("Model", "Training")}


@pytest.mark.parametrize("command", ["search", "compare"])
def test_other_commands_take_a_backbone(
    seo_rec: Command, tiny: Path, tmp_path: Path, command: str
) -> None:
    own = {
        "search": ["--params", "1600", *RAW],
        "compare": ["--methods", "multi-size", "--params", "1600", "--seeds", "1"],
    }
    chosen = ["--backbone", "autoint", "--interaction", "layers=1,width=4"]
    done = seo_rec(command, tiny, "--out", tmp_path / "o", *own[command], *chosen, *QUICK)
    assert done.code == 0, done.err
    asked = json.loads((tmp_path / "o/run.json").read_text())["model"]
    assert asked["backbone"] == "autoint"
    assert asked["interaction"] == {"layers": 1, "heads": 2, "width": 4}


def test_a_run_with_its_own_backbone_is_read_back(
    seo_rec: Command, tiny: Path, tmp_path: Path
) -> None:
    out, method = tmp_path / "t", ["--method", "multi-size", "--params", "1600"]
    chosen = ["--backbone", "xdeepfm", "--interaction", "maps=5x3"]
    command = ["train", tiny, "--out", out, *method, *chosen, *QUICK]
    assert seo_rec(*command).code == 0
    result = json.loads((out / "result.json").read_text())
    shown = json.loads(seo_rec("eval", out, tiny).out)
    assert shown["auc"] == result["test_auc"] and shown["log_loss"] == result["test_logloss"]
    assert seo_rec(*command, "--resume").code == 0
    other = seo_rec(*command, "--resume", "--interaction", "maps=5x4")
    assert other.code == 2 and "differs in model" in other.err
    assert seo_rec("report", out, "--out", tmp_path / "r.html").code == 0


SEO_SETTINGS = {
    "chunk_dim": 4,
    "search_dim": 16,
    "total_chunks": 9,
    "min_chunks": 0,
    "use_down_projection": True,
    "adjust_hash_buckets": True,
    "chunk_hashing": "shared",
    "temperature": 2.0,
    "temperature_end": 0.5,
    "attention_scale": "paper",
    "search_split": "held-out",
    "warmup_epochs": 0,
    "logit_lr": 0.03,
}


def test_every_setting_of_seo_arrives(seo_rec: Command, tiny: Path, tmp_path: Path) -> None:
    at = ["--params", "400", "--dim", "8"]
    chosen = [*at, *RAW, *as_set(SEO_SETTINGS), *QUICK]
    done = seo_rec("search", tiny, "--out", tmp_path / "s", *chosen)
    assert done.code == 0, done.err
    asked = json.loads((tmp_path / "s/run.json").read_text())
    own = {"budget_rows": 50, "dim": 8, **SEO_SETTINGS, "run_off": None, "apply": "none"}
    assert asked["settings"] == own


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[recipes.Comparison]:
    """The comparisons that ``compare`` asks for; none is run."""
    asked: list[recipes.Comparison] = []

    def compare(comparison: recipes.Comparison, _: Path) -> list[Run]:
        check_comparison(comparison)
        asked.append(comparison)
        return []

    monkeypatch.setattr(recipes, "compare", compare)
    monkeypatch.setattr("seo_rec.report.print_comparison", lambda _: None)
    return asked


def test_every_setting_of_methods_in_a_comparison_arrives(
    compared: list[recipes.Comparison], seo_rec: Command, tiny: Path, tmp_path: Path
) -> None:
    run_off = {"epochs": 3, "by_id": False, "chunk_dims": (4,), "standard_errors": 1.5}
    attention = {**SEO_SETTINGS, "total_chunks": None}  # a run-off has its own
    words = [*as_set(attention, "seo."), *as_set(run_off, "seo.run_off.")]
    words += ["--set", "dimgrow.alpha=0.5", "--methods", "seo,dimgrow", "--backbone", "dlrm"]
    words += ["--batch-size", "2048", "--l2", "0"]
    done = seo_rec("compare", tiny, "--out", tmp_path / "c", "--params", 800, "--dim", 8, *words)
    assert done.code == 0 and done.err == ""
    (asked,) = compared
    seo = asked.settings_of(find("seo"))
    floats = {"num_bytes": 0, "precision": "float32", "id_bits": 64}
    assert asdict(seo.attention) == {"budget_rows": 100, "dim": 8, **floats, **attention}
    assert seo.run_off == RunOff(**run_off)
    dimgrow = asked.settings_of(find("dimgrow"))
    assert (dimgrow.params, dimgrow.alpha, dimgrow.max_dim) == (800, 0.5, 16)
    assert dimgrow.adapt == "per-feature"  # what goes with DLRM


def test_settings_that_no_method_reads_are_named(
    compared: list[recipes.Comparison], seo_rec: Command, tiny: Path, tmp_path: Path
) -> None:
    """Methods asked for later bring their own settings."""
    given = ["multi-size.chunk_dim=4", "seo.min_chunks=0", "seo.run_off.epochs=3"]
    options = [word for text in given for word in ("--set", text)]
    for methods, idle in (
        ("separate,pq-2", "settings of 'multi-size', and no method"),
        ("multi-size", "settings of 'seo', and no method"),
        (
            "multi-size,seo-rr",
            "settings run_off of 'seo', which cannot be changed in seo-rr",
        ),
        ("multi-size,seo", ""),
    ):
        done = seo_rec(
            *("compare", tiny, "--out", tmp_path / "c", "--methods", methods, "--params", 1600),
            *options,
        )
        assert done.code == (2 if idle else 0)
        assert idle in done.err


# ---- help --------------------------------------------------------------------------------


def commands(group: Any = GROUP, path: tuple[str, ...] = ()) -> Iterator[Any]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


@pytest.mark.parametrize(
    "path, command", list(commands()), ids=lambda v: " ".join(v) if isinstance(v, tuple) else ""
)
def test_help_says_what_every_option_does_and_its_default(
    monkeypatch: pytest.MonkeyPatch, seo_rec: Command, path: tuple[str, ...], command: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    done = seo_rec(*path, "--help")
    assert done.code == 0 and done.err == ""
    assert command.help and command.help.split("\n")[0].rstrip(".") in done.out.replace("\n", " ")
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or parameter.name == "help":
            continue
        assert parameter.help, f"{parameter.name} has no help"
        if parameter.param_type_name == "option":
            assert parameter.opts[0] in done.out
            if parameter.default not in (None, "", False, True) and parameter.show_default:
                assert f"default: {parameter.default}" in done.out.replace("[", "").replace(
                    "]", ""
                ), f"{parameter.opts[0]} does not show its default"


def test_help_needs_no_torch() -> None:
    """``--help`` answers at once: none of the heavy libraries is imported for it."""
    code = (
        "import sys\n"
        "from seo_rec.cli.main import main\n"
        "sys.argv = ['seo-rec', 'train', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(sorted({'torch', 'torchrec', 'sklearn', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
