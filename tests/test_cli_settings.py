"""Options made from settings, ``--set``, ``--config``, budgets, and what a person is told."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from seo_rec.backbone_settings import INTERACTIONS
from seo_rec.cli.assignments import assigned, merged
from seo_rec.cli.compare import Contestants
from seo_rec.cli.fields import fields_of, leaves, text_of, value_of
from seo_rec.cli.main import app
from seo_rec.cli.options import FromSettings, Option, takes_settings
from seo_rec.data import prepare
from seo_rec.methods import Mlet, PlainSettings
from seo_rec.methods.budget import LEAST_ROWS, proposed_budget, reason_of_proposal
from seo_rec.metrics import Metrics
from seo_rec.recipes import comparing
from seo_rec.recipes.outcome import still_improving
from seo_rec.runs.command_settings import repeat_command
from seo_rec.runs.decision import decided
from seo_rec.runs.stops import kept
from seo_rec.schema import Column, Schema, read_schema
from seo_rec.search import SEARCHES
from seo_rec.search.seo import search as attention
from seo_rec.settings import FitSettings, ModelSettings
from seo_rec.train import FitResult

Command = Callable[..., Any]
QUICK = ["--hidden", "8", "--epochs", "1", "--batch-size", "200", "--lr", "0.02", "--threads", "1"]
KINDS = {m.family: m.settings for m in SEARCHES.values()} | {"plain": PlainSettings}
ALL_SETTINGS = [*KINDS.values(), *INTERACTIONS.values(), FitSettings, ModelSettings, Mlet]


# ---- fields ------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [*ALL_SETTINGS, Contestants], ids=lambda s: s.__name__)
def test_every_field_is_explained_in_one_sentence(settings: type[Any]) -> None:
    for leaf in leaves(settings):
        assert leaf.help[0].isupper() or leaf.help[0].isdigit(), leaf.name
        assert len(leaf.help) <= 90 and "``" not in leaf.help, leaf.name


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_every_default_is_read_back_from_its_text(settings: type[Any]) -> None:
    for leaf in leaves(settings):
        if leaf.name != "run_off":
            assert value_of(text_of(leaf.default), leaf.kind, leaf.name) == leaf.default, leaf.name


@dataclass(frozen=True)
class Inner:
    """Inner settings.

    Args:
        a: A number.
        b: A flag.
    """

    a: int = 1
    b: bool = True


@dataclass(frozen=True)
class Outer:
    """Outer settings.

    Args:
        rate: A rate
            of two lines.
        inner: More.
        widths: Numbers.
        end: An end.
    """

    rate: float = 0.5
    inner: Inner | None = field(default_factory=Inner)
    widths: tuple[int, ...] = ()
    end: float | None = None


def test_assignments_become_values_of_fields() -> None:
    assert fields_of(Outer)["rate"].help == "A rate of two lines"
    texts = ["rate = 2", "inner.a=7", "widths=1,2", "end=none"]
    expected = {"rate": 2.0, "inner": Inner(7), "widths": (1, 2), "end": None}
    assert assigned(Outer, texts, "m") == expected
    assert assigned(Outer, ["inner=none", "widths=none"], "m") == {"inner": None, "widths": ()}
    assert assigned(Outer, ["inner.a=2", "inner.b=false"], "m") == {"inner": Inner(2, False)}


@pytest.mark.parametrize(
    "texts, says",
    [
        (["x=1"], "--set 'x=1' of m; allowed, with defaults: rate=0.5, inner.a=1, inner.b=true, w"),
        (["inner.c=1"], "--set 'inner.c=1' of m; allowed"),
        (["rate"], "--set 'rate' of m; allowed"),
        (["rate=x"], "--set rate=x; allowed: a number"),
        (["rate=none"], "--set rate=none; allowed: a number"),
        (["end=x"], "--set end=x; allowed: a number, or none"),
        (["widths=1,b"], "--set widths=1,b; allowed: whole numbers separated by commas"),
        (["inner.b=1"], "--set inner.b=1; allowed: true or false"),
        (["inner=5"], "--set inner=5; allowed: none"),
        (["inner=none", "inner.a=5"], "--set inner=none with --set inner.a; give one of them"),
        (["rate=1", "rate=1"], "--set 'rate=1': rate is already given; give it once"),
    ],
)
def test_a_wrong_assignment_says_what_is_allowed(texts: list[str], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        assigned(Outer, texts, "m")


def test_later_assignments_replace_earlier_ones() -> None:
    before = ["a=1", "run_off.epochs=3", "run_off.by_id=false"]
    assert merged(before, ["a=2"]) == ["run_off.epochs=3", "run_off.by_id=false", "a=2"]
    assert merged(before, ["run_off.epochs=4"])[-2:] == ["run_off.by_id=false", "run_off.epochs=4"]
    assert merged(before, ["run_off=none"]) == ["a=1", "run_off=none"]
    assert merged(["run_off=none"], ["run_off.epochs=4"]) == ["run_off.epochs=4"]


def test_options_are_made_from_fields() -> None:
    """Type, default and help are the field's; one option may set two fields."""
    group = FromSettings(
        FitSettings, "Panel", (Option("epochs"), Option("lr", ("row_lr", "dense_lr")))
    )
    found = []

    @takes_settings(fit=group)
    def command(*, fit: FitSettings) -> None:
        """A command."""
        found.append(fit)

    small = typer.Typer()
    small.command()(command)
    epochs, lr, *_ = typer.main.get_command(small).params
    assert epochs.default == FitSettings.epochs and lr.default == FitSettings.row_lr
    assert epochs.help == f"{fields_of(FitSettings)['epochs'].help}. (default: 20)"
    assert epochs.rich_help_panel == "Panel"
    small(["--lr", "0.5"], standalone_mode=False)
    assert found == [FitSettings(row_lr=0.5, dense_lr=0.5)]


# ---- help --------------------------------------------------------------------------------


def test_the_help_of_search_fits_on_a_page(
    monkeypatch: pytest.MonkeyPatch, seo_rec: Command
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "dumb")
    done = seo_rec("search", "--help")
    lines = done.out.rstrip().splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 100
    panels = re.findall(r"─ (\w+) ─", done.out)
    assert panels == ["Data", "Budget", "Search", "Model", "Training", "Run"]


@pytest.mark.parametrize(
    "command", ["search", "train", "compare", "frontier", "apply", "plan", "eval", "report", "demo"]
)
def test_no_panel_of_the_help_stands_twice(
    monkeypatch: pytest.MonkeyPatch, seo_rec: Command, command: str
) -> None:
    """Data are the arguments, and ``--help`` stands with the options of the run."""
    monkeypatch.setenv("TERM", "dumb")
    done = seo_rec(command, "--help")
    panels = re.findall(r"─ (\w+) ─", done.out)
    assert len(set(panels)) == len(panels) and "Options" not in panels
    assert [p for p in ("Data", "Budget", "Search", "Model", "Training", "Run") if p in panels] == (
        panels
    )
    assert "--help" in done.out[done.out.index("─ Run ─") :]


@pytest.mark.parametrize("words", [["--method", "dimgrow", "--settings"], ["--settings"]])
def test_settings_are_listed(seo_rec: Command, words: list[str]) -> None:
    done = seo_rec("search", *words)
    assert done.code == 0 and done.err == ""
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert {len(row) for row in rows} == {4}
    listed = {name: (kind, default) for name, kind, default, _ in rows}
    if words[0] == "--method":
        assert listed["alpha"] == ("a number", "0.0001") and "chunk_dim" not in listed
    else:
        assert listed["run_off.epochs"] == ("a whole number", "20")
        assert listed["total_chunks"] == ("a whole number, or none", "none")
    assert not {"params", "dim", "budget_rows"} & set(listed)  # these are options
    assert seo_rec("search", *reversed(words[:2]), "--settings").code in (0, 2)


def test_settings_are_listed_in_any_order(seo_rec: Command) -> None:
    one = seo_rec("search", "--settings", "--method", "sseds")
    other = seo_rec("search", "--method", "sseds", "--settings")
    assert one.code == 0 and one.out == other.out and "\nkeep\t" in one.out
    wrong = seo_rec("search", "--settings", "--method", "magic")
    assert wrong.code == 2 and "method 'magic'; allowed: separate," in wrong.err


@pytest.mark.parametrize(
    "arguments",
    [["train", "--help"], ["search", "--help"], ["compare", "--help"], ["report", "none"]],
    ids=" ".join,
)
def test_no_torch_for_what_needs_none(arguments: list[str], tmp_path: Path) -> None:
    """Seconds pass while torch is imported; help and a mistake do not wait for it."""
    code = (
        "import sys\n"
        "from seo_rec.cli.main import main\n"
        f"sys.argv = ['seo-rec', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'torchrec', 'sklearn'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "[]"


# ---- the budget --------------------------------------------------------------------------


def _schema(*sizes: int) -> Schema:
    columns = [Column(f"f{i}", "categorical", size) for i, size in enumerate(sizes)]
    numeric = Column("x", "numeric")
    return Schema("made", (*columns, numeric), "y", {"train": 1}, {"train": 0.5})


@pytest.mark.parametrize(
    "sizes, dim, rows",
    [
        ((100, 900), 16, 500),
        ((1001,), 8, 500),
        ((3, 4), 16, 2 * LEAST_ROWS),
        ((33,), 4, 16),
        ((31,), 4, 16),
    ],
)
def test_a_budget_is_proposed_from_the_data(sizes: tuple[int, ...], dim: int, rows: int) -> None:
    """Half of a row per id, in whole rows, 16 rows for each feature at least."""
    schema = _schema(*sizes)
    assert proposed_budget(schema, dim) == rows * dim
    least = rows == LEAST_ROWS * len(sizes) and sum(sizes) < 2 * rows
    words = "16 rows for each feature, the least" if least else "half of what a row for every"
    assert reason_of_proposal(schema).startswith(words)


@pytest.mark.parametrize("command", ["search", "train", "compare"])
def test_the_proposed_budget_is_said_and_kept(
    seo_rec: Command, tiny: Path, tmp_path: Path, command: str
) -> None:
    own = {
        "search": ["--method", "no-search"],
        "train": ["--method", "separate", *QUICK],
        "compare": ["--methods", "separate", "--seeds", "1", *QUICK],
    }
    done = seo_rec(command, tiny, "--out", tmp_path / "o", "--dim", 8, *own[command])
    assert done.code == 0, done.err
    params = proposed_budget(read_schema(tiny), 8)
    assert done.err.startswith(f"budget: {params:,} parameters ({4 * params:,} bytes), half of")
    options = json.loads((tmp_path / "o/settings.json").read_text())["options"]
    assert options["params"] == params and options["dim"] == 8


# ---- --config ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(seo_rec: Command, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search; read-only."""
    out = tmp_path_factory.mktemp("config") / "s"
    options = ["--params", "1600", "--set", "run_off=none", "--set", "min_chunks=0", "--seed", "3"]
    done = seo_rec("search", tiny, "--out", out, *options, *QUICK)
    assert done.code == 0, done.err
    return out


def _asked(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "run.json").read_text()))


def test_a_run_is_repeated_from_its_settings(
    seo_rec: Command, searched: Path, tmp_path: Path
) -> None:
    command = repeat_command(searched, str(tmp_path / "again"))
    assert command == (
        f"seo-rec search --config {searched / 'settings.json'} --out {tmp_path / 'again'}"
    )
    done = seo_rec(*command.split()[1:])
    assert done.code == 0 and done.err == ""
    assert _asked(tmp_path / "again") == _asked(searched)
    for name in ("policy.json", "settings.json"):
        assert (tmp_path / "again" / name).read_text() == (searched / name).read_text(), name


def test_a_run_is_repeated_from_any_folder(
    seo_rec: Command, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With relative paths in the command, another working folder, and the policy file gone."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "here/data").symlink_to(tiny)
    monkeypatch.chdir(tmp_path / "here")
    options = ["--params", "1600", "--method", "mixed-dimension"]
    assert seo_rec("search", "data", "--out", "s", *options).code == 0
    assert seo_rec("train", "data", "--policy", "s/policy.json", "--out", "t", *QUICK).code == 0
    (tmp_path / "here/s/policy.json").unlink()
    out = tmp_path / "here/t"
    kept_options = json.loads((out / "settings.json").read_text())["options"]
    assert kept_options["data"] == str(tmp_path / "here/data") == _asked(out)["data"]
    assert kept_options["policy"] == str(out / "policy.json")
    assert kept_options["threads"] == 1
    command = repeat_command(Path("t"), str(tmp_path / "there/again"))
    assert command == f"seo-rec train --config {out}/settings.json --out {tmp_path}/there/again"
    monkeypatch.chdir(tmp_path / "there")
    done = seo_rec(*command.split()[1:])
    assert done.code == 0, done.err
    first, again = (json.loads((p / "result.json").read_text()) for p in (out, Path("again")))
    assert (again["val_auc"], again["test_auc"]) == (first["val_auc"], first["test_auc"])
    assert (tmp_path / "there/again/policy.json").read_text() == (out / "policy.json").read_text()


def test_options_replace_the_values_of_a_config(
    seo_rec: Command, searched: Path, tiny: Path, tmp_path: Path
) -> None:
    words = ["--params", "3200", "--set", "chunk_dim=4", "--seed", "0"]
    config = ["--config", searched / "settings.json"]
    done = seo_rec("search", *config, "--out", tmp_path / "o", *words)
    assert done.code == 0, done.err
    before, after = _asked(searched), _asked(tmp_path / "o")
    assert after["settings"] == {**before["settings"], "budget_rows": 200, "chunk_dim": 4}
    assert after["fit"] == {**before["fit"], "seed": 0}
    kept_set = json.loads((tmp_path / "o/settings.json").read_text())["options"]["set"]
    assert kept_set == ["run_off=none", "min_chunks=0", "chunk_dim=4"]


def test_a_budget_on_the_command_line_replaces_that_of_a_config(
    seo_rec: Command, searched: Path, tmp_path: Path
) -> None:
    config = ["--config", searched / "settings.json"]
    budget_of = ["--budget-of", searched / "policy.json", "--dim", 8]
    done = seo_rec("search", *config, "--out", tmp_path / "o", *budget_of)
    assert done.code == 0, done.err
    assert _asked(tmp_path / "o")["settings"]["budget_rows"] == 200


def test_a_wrong_config_is_refused(seo_rec: Command, searched: Path, tmp_path: Path) -> None:
    good = json.loads((searched / "settings.json").read_text())
    documents = {
        "command": {**good, "command": "train"},
        "unknown": {**good, "options": {**good["options"], "speed": 9}},
        "out": {**good, "options": {**good["options"], "out": "elsewhere"}},
        "type": {**good, "options": {**good["options"], "epochs": "many"}},
        "list": [1],
        "more": {**good, "version": 2},
    }
    says = {
        "command": "has the settings of `seo-rec train`; allowed: settings of `seo-rec search`",
        "unknown": "unknown options speed; allowed: average, backbone",
        "out": "unknown options out; allowed",
        "type": "Invalid value for '--epochs'",
        "list": "not a settings file; it must be an object",
        "more": "not a settings file; it must be an object",
        "none": "none: no such file; a run folder has a settings.json",
    }
    for name, document in documents.items():
        (tmp_path / name).write_text(json.dumps(document))
    for name, message in says.items():
        done = seo_rec("search", "--config", tmp_path / name, "--out", tmp_path / "o")
        assert done.code == 2 and message in re.sub(r"[\s│]+", " ", done.err), name
    (tmp_path / "cut").write_text('{"command"')
    done = seo_rec("search", "--config", tmp_path / "cut", "--out", tmp_path / "o")
    assert done.code == 2 and "cut: not a settings file, it is no JSON" in done.err
    assert not (tmp_path / "o").exists()


def test_lists_and_single_values_of_a_config_are_told_apart(
    seo_rec: Command, searched: Path, tmp_path: Path
) -> None:
    good = json.loads((searched / "settings.json").read_text())
    for key, value, allowed in (("set", "a=1", "a list"), ("epochs", [3], "one value")):
        document = {**good, "options": {**good["options"], key: value}}
        (tmp_path / "c.json").write_text(json.dumps(document))
        done = seo_rec("search", "--config", tmp_path / "c.json", "--out", tmp_path / "o")
        assert done.code == 2 and not (tmp_path / "o").exists()
        wanted = f"--config {tmp_path / 'c.json'}: {key} is {value!r}; allowed: {allowed}"
        assert done.err == f"error: {wanted}\n"


def test_a_method_replaces_the_policy_of_a_config_and_a_policy_the_method(
    seo_rec: Command, searched: Path, tiny: Path, tmp_path: Path
) -> None:
    """What only the other one reads goes with it, and the new settings repeat the new run."""
    policy = tmp_path / "p.json"
    applied = ["apply", searched / "policy.json", "--strategy", "exact", "--out", policy]
    assert seo_rec(*applied).code == 0
    of_method = ["--method", "multi-size", "--params", "800", "--dim", "10"]
    of_method += ["--set", "chunk_dim=5", "--exact-below", "12"]
    for name, words in (("file", ["--policy", policy]), ("name", of_method)):
        done = seo_rec("train", tiny, "--out", tmp_path / name, *words, *QUICK)
        assert done.code == 0, done.err
    for name, other, words in (("file", "name", of_method), ("name", "file", ["--policy", policy])):
        config = ["--config", tmp_path / name / "settings.json"]
        done = seo_rec("train", *config, *words, "--out", tmp_path / f"{name}-{other}")
        assert done.code == 0, done.err
        for kept_file in ("run.json", "settings.json"):
            found, wanted = (
                json.loads((tmp_path / folder / kept_file).read_text())
                for folder in (f"{name}-{other}", other)
            )
            for settings in (found.get("options", {}), wanted.get("options", {})):
                settings.pop("policy", None)  # each names the copy in its own folder
            assert found == wanted, kept_file
        both = ["--policy", policy, *of_method[:2]]
        done = seo_rec("train", *config, *both, "--out", tmp_path / "o")
        assert done.code == 2 and "give either --policy FILE or --method NAME" in done.err
    with_dim = ["--policy", policy, "--dim", "8"]
    config = ["--config", tmp_path / "name/settings.json"]
    done = seo_rec("train", *config, *with_dim, "--out", tmp_path / "o")
    assert done.code == 2 and "--dim with --policy would be ignored" in done.err
    assert not (tmp_path / "o").exists()


def test_what_would_be_ignored_is_refused_in_a_config_too(
    seo_rec: Command, tiny: Path, tmp_path: Path
) -> None:
    """The defaults of options that a method does not read are harmless, others are not."""
    options = {"data": str(tiny), "method": "no-search", "params": 1600, "epochs": 20}
    for epochs, code in ((20, 0), (3, 2)):
        document = {"command": "search", "options": {**options, "epochs": epochs}}
        (tmp_path / "c.json").write_text(json.dumps(document))
        done = seo_rec("search", "--config", tmp_path / "c.json", "--out", tmp_path / str(epochs))
        assert done.code == code, done.err
    assert "--epochs with --method no-search would be ignored" in done.err


def test_a_folder_without_settings_has_no_command(tmp_path: Path) -> None:
    assert repeat_command(tmp_path) is None


def test_only_the_run_folder_of_the_command_gets_settings(
    seo_rec: Command, tiny: Path, tmp_path: Path
) -> None:
    out = tmp_path / "c"
    words = ["--methods", "separate,seo-rr", "--seeds", "1", "--params", "1600", *QUICK]
    assert seo_rec("compare", tiny, "--out", out, *words).code == 0
    assert [p.relative_to(out) for p in out.rglob("settings.json")] == [Path("settings.json")]


def test_every_command_with_a_config_keeps_all_that_decides(tmp_path: Path) -> None:
    """Data, budget, methods, model and training: no option but those of the run is left out."""
    from seo_rec.cli.config import NOT_KEPT

    group = typer.main.get_command(app)
    for command in group.commands.values():
        names = {p.name for p in command.params}
        if "config" in names:
            left_out = names & NOT_KEPT
            assert left_out <= {"out", "config", "resume", "settings", "help"} | {
                "scheduler",
                "submit",
            }


# ---- what a person is told ---------------------------------------------------------------


@pytest.mark.parametrize(
    "decision, says",
    [
        (
            ("seo", "trivial-2x8", "plain", 0.0012, 0.0004, "seo-8-min1-exact"),
            "attention lost: the plain policy 2x8 was better by 0.0012 (standard error 0.0004) on "
            "validation rows; the searched policy is kept in OUT/searched.json",
        ),
        (
            ("seo", "trivial-2x8", "plain", -0.0003, 0.0004, "seo-8-min1-exact"),
            "attention did not win: the policy seo-8-min1-exact was better than the plain policy "
            "2x8 by 0.0003 (standard error 0.0004) on validation rows, too little to be sure of "
            "it; the searched policy is kept in OUT/searched.json",
        ),
        (
            ("seo", "trivial-2x8", "plain", None, None, None),
            "attention lost: the plain policy 2x8 was the best on validation rows; the searched "
            "policy is kept in OUT/searched.json",
        ),
        (
            ("seo", "seo-8-by-id", "attention", 0.002, 0.0005, "trivial-4x4"),
            "attention won: the policy seo-8-by-id was better than the plain policy 4x4 by 0.0020 "
            "(standard error 0.0005) on validation rows",
        ),
        (
            ("seo", "seo", "attention", None, None, None),
            "attention decided; no run-off compared its policy with a plain one",
        ),
        (
            ("dimgrow", "dimgrow", None, None, None, None),
            "dimgrow decided; no run-off compared its policy with a plain one",
        ),
        (
            ("no-search", "no-search", "plain", None, None),
            "the rule of no-search decided from the columns; nothing was trained to decide",
        ),
    ],
)
def test_a_decision_in_plain_words(decision: tuple[Any, ...], says: str) -> None:
    keys = ("method", "winner", "kind", "gain", "standard_error", "against")
    told = dict(zip(keys, decision, strict=False))
    assert decided(told, Path("OUT")) == says
    assert decided({**told, "searched": False}, Path("OUT")) == (
        f"the rule of {told['method']} decided from the columns; nothing was trained to decide"
    )


@pytest.mark.parametrize(
    "best_epoch, epochs, limit, max_steps, rising",
    [
        (2, 3, 3, 0, True),
        (1, 3, 3, 0, False),
        (2, 3, 4, 0, False),  # patience ended it
        (0, 1, 1, 0, False),  # one epoch says nothing
        (2, 3, 3, 50, False),  # the steps ended it
    ],
)
def test_whether_a_training_still_rose(
    best_epoch: int, epochs: int, limit: int, max_steps: int, rising: bool
) -> None:
    val = Metrics(*(0.5 for _ in fields(Metrics)))
    result = FitResult(val, best_epoch, epochs, 10 * epochs, 1.0, 1.0)
    assert still_improving(result, FitSettings(epochs=limit, max_steps=max_steps)) is rising


def test_a_training_that_ends_too_early_says_so(
    seo_rec: Command, tiny: Path, tmp_path: Path
) -> None:
    slow = ["--hidden", "8", "--lr", "0.003", "--epochs", "2", "--batch-size", "200"]
    words = ["--method", "separate", "--params", "1600", *slow]
    done = seo_rec("train", tiny, "--out", tmp_path / "t", *words)
    assert done.code == 0
    note = "the validation AUC of separate, seed 0, still rose in the last of 2 epochs; try"
    result = json.loads((tmp_path / "t/result.json").read_text())
    assert (note in done.err) is result["still_improving"]
    assert result["still_improving"], "choose a learning rate at which it does"


def test_a_training_that_is_worse_than_the_label_rate_says_so(
    seo_rec: Command, tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Against the entropy of the validation labels, computed from the schema."""
    words = ["--method", "separate", "--params", "1600", "--hidden", "8", "--epochs", "6"]
    words += ["--batch-size", "100"]
    rate = read_schema(tiny).label_rate["val"]
    entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
    note = f"is worse than the {entropy:.5g} of a model that gives every row the label rate"
    for lr, worse in (("9", True), ("0.02", False)):
        done = seo_rec("train", tiny, "--out", tmp_path / lr, "--lr", lr, *words)
        result = json.loads((tmp_path / lr / "result.json").read_text())
        assert done.code == 0 and (result["val_logloss"] > entropy) is worse
        assert (note in caplog.text) is worse
        assert ("lower --lr" in caplog.text) is worse
        caplog.clear()


def test_what_a_stop_keeps_is_read_from_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "o"
    assert kept(out) == f"nothing was written yet to {out}; the same command starts again"
    out.mkdir()
    (out / "run.json").write_text('{"kind": "train"}')
    assert kept(out).startswith("no checkpoint was written yet, so nothing of the run is kept")
    for step in (5, 12):
        (out / f"checkpoints/step-{step:09d}").mkdir(parents=True)
    goes_on = "the same command with --resume goes on"
    assert kept(out) == f"the checkpoint of step 12 is kept in {out}; {goes_on}"
    (out / "run.json").write_text('{"kind": "search"}')
    scores = out / "work/scores/0a1b2c3d"
    scores.mkdir(parents=True)
    for i in range(3):
        (scores / f"{i}.json").write_text("{}")
    assert kept(out) == f"3 trainings of candidates are kept in {out}; {goes_on}"
    (out / "run.json").write_text('{"kind": "compare"}')
    (out / "results.jsonl").write_text("{}\n{}\n")
    assert kept(out) == f"2 finished trainings are kept in {out}; the same command goes on"


STOPS = {"SIGTERM": (signal.SIGTERM, 143), "Ctrl-C": (signal.SIGINT, 130)}
NOTHING_KEPT = "nothing of this command is kept; the same command starts again\n"


@pytest.fixture(autouse=True)
def handlers_of_python() -> Iterator[None]:
    """TorchX, where an earlier test ran a job in this process, leaves handlers of its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def stop_by(name: str) -> Callable[..., Any]:
    """A function that lets this process be stopped, and never returns."""

    def stop(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), STOPS[name][0])
        raise AssertionError("the signal was ignored")

    return stop


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize(
    "words, module, function",
    [
        (["report", "RUN", "--out", "NEW"], "report.page", "write_page"),
        (["apply", "RUN/policy.json", "--strategy", "exact", "--out", "NEW"], "policy", "Policy"),
        (["plan", "RUN/policy.json", "--topology", "2xcpu", "--out", "NEW"], "plan", "plan_policy"),
        (["eval", "RUN", "DATA"], "recipes", "evaluate_served"),
        (["analyze", "collisions", "DATA", "--out", "NEW"], "analysis", "compare_encodings"),
        (["train", "DATA", "--method", "separate", "--out", "NEW"], "recipes", "method_policy"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_every_command_says_that_it_was_stopped(
    monkeypatch: pytest.MonkeyPatch,
    seo_rec: Command,
    searched: Path,
    tiny: Path,
    tmp_path: Path,
    stop: str,
    words: list[str],
    module: str,
    function: str,
) -> None:
    """Where no run folder is at work: nothing is left, and the sentence says so."""
    places = {"RUN": searched, "DATA": tiny, "NEW": tmp_path / "new"}
    typed = [re.sub("RUN|DATA|NEW", lambda m: str(places[m[0]]), word) for word in words]
    place = importlib.import_module(f"seo_rec.{module}")
    monkeypatch.setattr(place, function, SimpleNamespace(load=stop_by(stop)))
    if function != "Policy":
        monkeypatch.setattr(place, function, stop_by(stop))
    done = seo_rec(*typed)
    assert done.code == STOPS[stop][1]
    assert f"stopped by {stop}: {NOTHING_KEPT}" in done.err and "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("stop", STOPS)
def test_a_stopped_preparation_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, seo_rec: Command, tmp_path: Path, stop: str
) -> None:
    monkeypatch.setattr(prepare, "write_vocabulary", stop_by(stop))
    done = seo_rec("prepare", "synthetic", "--rows", "500", "--out", tmp_path / "d")
    assert done.code == STOPS[stop][1]
    left = f"nothing is kept in {tmp_path / 'd'}; the same command starts again\n"
    assert f"stopped by {stop}: {left}" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", STOPS)
def test_a_stopped_demo_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, seo_rec: Command, tmp_path: Path, stop: str
) -> None:
    """While data are made, and between two trainings; it has no --resume, and does not name it."""
    out, demo = tmp_path / "d", ["demo", "--quick", "--threads", "1", "--out", tmp_path / "d"]
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "write_vocabulary", stop_by(stop))
        done = seo_rec(*demo)
    left = f"nothing was written yet to {out / 'compare'}; the same command starts again\n"
    assert (done.code, done.err.endswith(f"stopped by {stop}: {left}")) == (STOPS[stop][1], True)
    original, calls = comparing.train, list[str]()

    def second_one_stops(*given: Any, **named: Any) -> Any:
        calls.append(named["method"])
        return stop_by(stop)() if len(calls) == 2 else original(*given, **named)

    monkeypatch.setattr(comparing, "train", second_one_stops)
    done = seo_rec(*demo)
    left = f"1 finished training is kept in {out / 'compare'}; the same command goes on\n"
    assert (done.code, done.err.endswith(f"stopped by {stop}: {left}")) == (STOPS[stop][1], True)
    monkeypatch.setattr(comparing, "train", stop_by(stop))
    assert seo_rec(*demo).err.endswith(left)  # the one that is finished is not trained again
    options = json.loads((out / "compare/settings.json").read_text())
    assert options == {"command": "demo", "options": {"quick": True, "seed": 0, "threads": 1}}


def test_a_stopped_job_ends_with_the_status_of_its_command(
    monkeypatch: pytest.MonkeyPatch, seo_rec: Command, tiny: Path, tmp_path: Path
) -> None:
    """And does not go on with its next part."""
    monkeypatch.setattr(attention, "search_attention", stop_by("SIGTERM"))
    words = ["--data", tiny, "--search", tmp_path / "s", "--out", tmp_path / "t"]
    done = seo_rec("job-applier", *words)
    assert done.code == 143 and not (tmp_path / "t").exists()


@pytest.mark.parametrize("stop", ["SIGTERM", "Ctrl-C"])
def test_a_stop_says_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, seo_rec: Command, tiny: Path, tmp_path: Path, stop: str
) -> None:
    """And the status is that of a process ended by the signal; the run goes on afterwards."""
    from seo_rec import recipes
    from seo_rec.train import Preempted

    original, out = recipes.train, tmp_path / "t"
    errors = {"SIGTERM": Preempted("told to stop"), "Ctrl-C": KeyboardInterrupt()}

    def stopped(*given: Any, **named: Any) -> Any:
        original(*given, **named)
        raise errors[stop]

    monkeypatch.setattr(recipes, "train", stopped)
    words = ["--method", "separate", "--params", "1600", *QUICK]
    done = seo_rec("train", tiny, "--out", out, *words)
    assert done.code == {"SIGTERM": 143, "Ctrl-C": 130}[stop]
    assert re.search(
        rf"stopped by {stop}: the checkpoint of step \d+ is kept in {out}; the same command with "
        "--resume goes on\n",
        done.err,
    )
    monkeypatch.setattr(recipes, "train", original)
    assert seo_rec("train", tiny, "--out", out, *words, "--resume").code == 0
