"""Options made from settings, ``--set``, and proposed budgets."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer

from seo_rec.backbone_settings import INTERACTIONS
from seo_rec.cli.assignments import assigned, merged
from seo_rec.cli.compare import Contestants
from seo_rec.cli.fields import fields_of, leaves, text_of, value_of
from seo_rec.cli.options import FromSettings, Option, takes_settings
from seo_rec.methods import Mlet, PlainSettings
from seo_rec.methods.budget import LEAST_ROWS, proposed_budget, reason_of_proposal
from seo_rec.schema import Column, Schema, read_schema
from seo_rec.search import SEARCHES
from seo_rec.settings import FitSettings, ModelSettings
from small_commands import QUICK, Command

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
