"""The command line: the whole chain on small data, one message per mistake, quiet in a pipe."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
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
from seo_rec.cli import parameters as par
from seo_rec.cli.fields import text_of
from seo_rec.cli.main import app
from seo_rec.cli.search import TRAINING_OPTIONS
from seo_rec.data.dataset import open_data
from seo_rec.plan import plan_policy, read_topology
from seo_rec.policy import Budget, Policy
from seo_rec.recipes.comparison_checks import check_comparison
from seo_rec.runs import Run, read_runs
from seo_rec.search import SEARCHES, find
from seo_rec.search.run_off import RunOff, plain
from seo_rec.settings import COMPARED_METHODS, ModelSettings
from seo_rec.train import policy_fit

Command = Callable[..., Any]
QUICK = ["--hidden", "8", "--epochs", "1", "--batch-size", "200", "--lr", "0.02", "--threads", "1"]
RAW = ["--set", "run_off=none"]
ROOT = Path(__file__).resolve().parent.parent
GROUP = typer.main.get_command(app)


@pytest.fixture(scope="module")
def chain(seo_rec: Command, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a raw search, its applied policy and its training; read-only."""
    place = tmp_path_factory.mktemp("chain")
    for arguments in (
        ["search", tiny, "--out", place / "s", "--params", "1600", *RAW, *QUICK],
        ["apply", place / "s/policy.json", "--strategy", "exact", "--out", place / "a.json"],
        ["train", tiny, "--policy", place / "a.json", "--out", place / "t", *QUICK],
    ):
        done = seo_rec(*arguments)
        assert done.code == 0, done.err
        assert str(place) in done.out.splitlines()[-1]
    return place


# ---- the chain ---------------------------------------------------------------------------


def test_search_apply_train(chain: Path) -> None:
    searched, applied = Policy.load(chain / "s/policy.json"), Policy.load(chain / "a.json")
    assert {f.name: len(f.lookups) for f in searched.features} == {
        f.name: len(f.lookups) for f in applied.features
    }
    assert 1592 < applied.num_params <= 1600
    result = json.loads((chain / "t/result.json").read_text())
    assert result["embedding_params"] == applied.num_params
    assert result["command"].startswith("seo-rec train ") and result["epochs"] == 1


def test_nothing_but_the_result_in_a_pipe(chain: Path, tiny: Path, tmp_path: Path) -> None:
    """No progress bar and no library's notice where nobody watches; the result on one line."""
    command = ["train", tiny, "--policy", chain / "a.json", "--out", tmp_path / "t", *QUICK]
    command += ["--l2", "0"]  # no setting is left to be decided and said
    done = subprocess.run(
        [sys.executable, "-m", "seo_rec", *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1 and "test AUC" in done.stdout


def test_eval_prints_the_result(seo_rec: Command, chain: Path, tiny: Path) -> None:
    done = seo_rec("eval", chain / "t", tiny)
    assert done.code == 0
    shown, result = json.loads(done.out), json.loads((chain / "t/result.json").read_text())
    assert shown["auc"] == result["test_auc"] and shown["log_loss"] == result["test_logloss"]
    val = json.loads(seo_rec("eval", chain / "t", tiny, "--split", "val").out)
    assert val["auc"] == result["val_auc"]


def test_round_robin_and_another_budget(seo_rec: Command, chain: Path, tmp_path: Path) -> None:
    out = tmp_path / "rr.json"
    done = seo_rec(
        "apply", chain / "s/policy.json", "--strategy", "round-robin", "--out", out, "--params", 800
    )
    assert done.code == 0 and f"{Policy.load(out).num_params} parameters" in done.out
    assert 792 < Policy.load(out).num_params <= 800


def test_round_robin_of_a_winner_by_id(seo_rec: Command, tiny: Path, tmp_path: Path) -> None:
    """It has no slots to deal, so the policy is what won, and the command says so."""
    shape = plain.Shape(params=20_000, dim=16, chunk_dim=8, widest=16, seed=0)
    made = {c.name: c.policy for c in plain.by_id(open_data(tiny), shape)}
    decision = {"method": "seo", "winner": "trivial-no-search", "kind": "plain"}
    won = replace(made["trivial-no-search"], decision=decision, budget=Budget(20_000))
    won.save(tmp_path / "policy.json")
    asked = ("apply", tmp_path / "policy.json", "--strategy", "round-robin")
    done = seo_rec(*asked, "--out", tmp_path / "rr.json")
    assert done.code == 0
    assert done.err == "note: the policy is at the budget already; applying changes nothing\n"
    assert Policy.load(tmp_path / "rr.json") == won
    done = seo_rec(*asked, "--out", tmp_path / "small.json", "--params", 100)
    assert done.code == 2 and "cannot shrink" in done.err


@pytest.mark.parametrize("budget", [None, Budget(num_bytes=9000)], ids=["none", "bytes"])
def test_a_policy_without_a_budget_is_applied_at_one_that_is_given(
    seo_rec: Command, chain: Path, tmp_path: Path, budget: Budget | None
) -> None:
    replace(Policy.load(chain / "s/policy.json"), budget=budget).save(tmp_path / "p.json")
    asked = ["apply", tmp_path / "p.json", "--strategy", "exact", "--out", tmp_path / "a.json"]
    done = seo_rec(*asked)
    assert done.code == 2 and not (tmp_path / "a.json").exists()
    assert done.err == (
        f"error: {tmp_path / 'p.json'}: the policy has no recorded budget in parameters; give "
        "--params\n"
    )
    assert seo_rec(*asked, "--params", 800).code == 0
    assert 792 < Policy.load(tmp_path / "a.json").num_params <= 800


@pytest.mark.parametrize(
    "dim, changes",
    [(4, {"chunk_dim": 4}), (20, {"chunk_dim": 5, "search_dim": 40})],
)
def test_widths_that_only_go_together_can_be_given(
    seo_rec: Command, tiny: Path, tmp_path: Path, dim: int, changes: dict[str, int]
) -> None:
    """Neither goes with the defaults of the others; alone, in a search, and in a comparison."""
    at = ["--dim", dim, "--params", 80 * dim, *QUICK]
    words = [*RAW, *as_set(changes)]
    done = seo_rec("search", tiny, "--out", tmp_path / "s", *at, *words)
    assert done.code == 0, done.err
    settings = json.loads((tmp_path / "s/run.json").read_text())["settings"]
    assert settings == {**settings, **changes, "dim": dim, "budget_rows": 80}
    words = ["--methods", "seo-rr", "--seeds", 1, *as_set(changes, "seo.")]
    done = seo_rec("compare", tiny, "--out", tmp_path / "c", *at, *words)
    assert done.code == 0, done.err
    asked = json.loads((tmp_path / "c/searches/seo-rr-seed0/run.json").read_text())["settings"]
    assert asked == {**settings, "apply": "round-robin"}


def test_a_search_alone_is_as_wide_as_asked(seo_rec: Command, tiny: Path, tmp_path: Path) -> None:
    """And not twice as wide, as beside others in a comparison."""
    for more, width in (([], 16), (["--dim", 8], 8), (["--set", "max_dim=5"], 5)):
        out = tmp_path / str(width)
        words = ["--method", "mixed-dimension", "--params", 1600]
        done = seo_rec("search", tiny, "--out", out, *words, *more)
        assert done.code == 0, done.err
        assert json.loads((out / "run.json").read_text())["settings"]["max_dim"] == width
        assert done.out.startswith("the rule of mixed-dimension decided from the columns")


def test_compare_and_report(seo_rec: Command, tiny: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "c", tmp_path / "r.html"
    methods = ["--methods", "monolithic, multi-size-4,seo-rr", "--params", "1600", "--seeds", "1"]
    done = seo_rec("compare", tiny, "--out", out, *methods, *QUICK)
    assert done.code == 0, done.err
    for name in ("monolithic", "multi-size-4", "seo-rr"):
        assert name in done.out
    lines = (out / "results.jsonl").read_text()
    again = seo_rec("compare", tiny, "--out", out, *methods, *QUICK)
    assert again.out == done.out and (out / "results.jsonl").read_text() == lines
    done = seo_rec("report", out, "--out", page)
    assert done.code == 0 and done.out == f"report: {page}\n"
    assert done.err == "3 finished trainings, 1 finished search\n"
    assert page.read_text().lstrip().lower().startswith("<!doctype html>")


def test_a_search_with_a_run_off(seo_rec: Command, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    options = ["--params", "1600", "--set", "run_off.epochs=1", *QUICK]
    done = seo_rec("search", tiny, "--out", out, *options)
    assert done.code == 0, done.err
    winner = json.loads((out / "search.json").read_text())["winner"]
    says, where = done.out.splitlines()
    assert winner.removeprefix("trivial-") in says
    assert f"the searched policy is kept in {out / 'searched.json'}" in says or "won" in says
    assert where.startswith(f"{out / 'policy.json'}: ")
    policy = Policy.load(out / "policy.json")
    assert policy.num_params <= 1600 and f"{policy.num_bytes} bytes" in where
    record = json.loads((out / "search.json").read_text())
    assert record["num_bytes"] == policy.num_bytes
    for name, score in record["record"]["run_off"].items():
        if "same_as" not in score and "round" not in score:  # it was in the last round
            candidate = Policy.load(out / f"candidates/{name}.json")
            assert score["num_bytes"] == candidate.num_bytes >= 4 * score["params"]


def test_dropped_features_are_named(seo_rec: Command, tiny: Path, tmp_path: Path) -> None:
    options = ["--params", "1600", *RAW, "--set", "min_chunks=0", "--set", "total_chunks=3"]
    done = seo_rec("search", tiny, "--out", tmp_path / "s", *options, *QUICK)
    dropped = Policy.load(tmp_path / "s/policy.json").dropped
    assert len(dropped) >= 4
    assert f"dropped features: {', '.join(dropped)}" in done.out


def test_a_policy_above_its_budget_is_said_to_need_apply(
    seo_rec: Command, tiny: Path, tmp_path: Path
) -> None:
    """The command of the note fits it; a search that fits by itself says nothing."""
    for name, options in (("raw", RAW), ("fits", ["--method", "mixed-dimension"])):
        quick = QUICK if name == "raw" else []
        words = ["--params", "1600", *options, *quick]
        done = seo_rec("search", tiny, "--out", tmp_path / name, *words)
        above = Policy.load(tmp_path / name / "policy.json").num_params > 1600
        assert above is (name == "raw") and ("above the budget of 1600" in done.out) is above
        if above:
            command = done.out.split("fit it to the budget: seo-rec ")[1].split()
    assert seo_rec(*command).code == 0
    assert 1592 < Policy.load(tmp_path / "raw/applied.json").num_params <= 1600


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
        ModelSettings(backbone, interaction=par.interaction(backbone, given)).interaction == wanted
    )


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


def as_set(settings: dict[str, Any], before: str = "") -> list[str]:
    """``--set`` of every setting."""
    return [w for k, v in settings.items() for w in ("--set", f"{before}{k}={text_of(v)}")]


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
    floats = {"num_bytes": 0, "precision": "float32"}
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


def test_a_plan_is_read_in_one_process_too(
    seo_rec: Command, chain: Path, tiny: Path, tmp_path: Path
) -> None:
    """Taken if it is for one device and this policy, else refused before anything is written."""
    for name, policy, topology in (
        ("two", "a.json", "2xcpu"),
        ("other", "s/policy.json", "1xcpu"),
        ("one", "a.json", "1xcpu"),
    ):
        plan_policy(Policy.load(chain / policy), read_topology(topology)).save(tmp_path / name)
    train = ["train", tiny, "--policy", chain / "a.json", "--out", tmp_path / "t", *QUICK]
    for name, says in (
        ("two", f"{tmp_path / 'two'} is for 2 ranks on cpu; there are 1 on cpu"),
        ("other", f"{tmp_path / 'other'}: table 'chunk0': "),
        ("none", "none: no such plan file"),
    ):
        done = seo_rec(*train, "--plan", tmp_path / name)
        assert done.code == 2 and says in done.err, done.err
        assert not (tmp_path / "t").exists()
    assert seo_rec(*train, "--plan", tmp_path / "one").code == 0


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


# ---- mistakes ----------------------------------------------------------------------------

NO_DATA = "no-such-folder"
OWN = ["train", "DATA", "--out", "o", "--method", "separate"]
OWN += ["--backbone", "dcn-v2", "--interaction"]


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["train", NO_DATA, "--out", "o", "--method", "monolithic"], "no-such-folder"),
        (["search", NO_DATA, "--out", "o"], "no-such-folder"),
        (["compare", NO_DATA, "--out", "o"], "no-such-folder"),
        (["eval", "no-run", "DATA"], "no-run: not a finished training run"),
        (["report", "no-run", "--out", "o.html"], "no-run"),
        (["train", "DATA", "--out", "o"], "either --policy FILE or --method NAME"),
        (
            ["train", "DATA", "--out", "o", "--method", "separate", "--policy", "p.json"],
            "either --policy FILE or --method NAME",
        ),
        (["train", "DATA", "--out", "o", "--method", "magic"], "method 'magic'; allowed: separate"),
        (["train", "DATA", "--out", "o", "--method", "seo"], "method 'seo' needs a search; run"),
        (["train", "DATA", "--out", "o", "--policy", "p.json"], "p.json: no such policy file"),
        (["train", "DATA", "--out", "o", "--policy", "bad.json"], "bad.json:1:2: not valid JSON"),
        (["train", "DATA", "--out", "o", "--method", "separate", "--params", "3"], "smallest feas"),
        (["train", "DATA", "--out", "o", "--method", "separate", "--epochs", "0"], "epochs is 0"),
        (
            ["train", "DATA", "--out", "o", "--method", "separate", "--epochs", "x"],
            "Invalid value for '--epochs'",
        ),
        (["train", "DATA", "--out", "o", "--method", "separate", "--lr", "nan"], "lr is nan"),
        (["train", "DATA", "--out", "o", "--method", "separate", "--seed", "-1"], "seed is -1"),
        (["train", "DATA", "--out", "o", "--method", "separate", "--threads", "-1"], "--threads"),
        (
            ["train", "DATA", "--out", "o", "--method", "separate", "--hidden", "9,x"],
            "--hidden=9,x; allowed: whole",
        ),
        (["train", "DATA", "--out", "o", "--method", "separate", "--hidden", "0"], "1 or more"),
        (["train", "DATA", "--out", "o", "--method", "separate", "--dropout", "1"], "dropout 1.0"),
        (
            ["train", "DATA", "--out", "o", "--method", "separate", "--backbone", "gpt"],
            "backbone 'gpt'; allowed: mlp, dcn-v2",
        ),
        (
            ["train", "DATA", "--out", "o", "--method", "separate", "--interaction", "layers=3"],
            "--interaction 'layers=3' with --backbone mlp; allowed with: dcn-v2, dcn, dlrm",
        ),
        *(
            (
                [*OWN, text],
                says,
            )
            for text, says in {
                "heads=3": "'heads=3'; allowed, each once: layers=a whole number, rank=a whole",
                "rank=1,rank=2": "'rank=2'; allowed, each once",
                "layers=two": "layers of --interaction=two; allowed: a whole number",
                "layers=0": "layers 0; allowed: 1 or more",
            }.items()
        ),
        (["train", "DATA", "--out", "o", "--method", "separate", "--optimizer", "lamb"], "lamb"),
        (["train", "DATA", "--out", "o", "--method", "multi-size-3"], "not a multiple of lookups"),
        (
            ["train", "DATA", "--out", "o", "--method", "multi-size", "--set", "chunk_dim=0"],
            "chunk_dim 0",
        ),
        (["train", "DATA", "--out", "o", "--method", "multi-size", "--dim", "0"], "dim"),
        (["compare", "DATA", "--out", "o", "--first-seed", "-1"], "first_seed is -1"),
        (["train", "DATA", "--out", "o", "--speed", "9"], "No such option: --speed"),
        (["train", "DATA", "--method", "separate"], "Missing option '--out'"),
        (["search", "DATA", "--out", "o", "--dim", "12"], "multiples of chunk_dim 8"),
        (["search", "DATA", "--out", "o", "--set", "search_split=val"], "search_split is 'val'"),
        (["search", "DATA", "--out", "o", "--set", "temperature=0"], "temperature"),
        (["search", "DATA", "--out", "o", "--set", "total_chunks=5"], "run_off=none"),
        (
            ["search", "DATA", "--out", "o", *RAW, "--set", "total_chunks=500"],
            "total_chunks 500",
        ),
        (["search", "DATA", "--out", "o", "--set", "run_off.epochs=0"], "epochs 0"),
        (["apply", "p.json", "--strategy", "exact", "--out", "a.json"], "p.json: no such policy"),
        (["apply", "POLICY", "--strategy", "fair", "--out", "a.json"], "allowed: exact, round-r"),
        (["apply", "POLICY", "--strategy", "exact", "--out", "a.json", "--params", "5"], "budget"),
        (["apply", "POLICY", "--strategy", "exact", "--out", "bad.json"], "bad.json exists"),
        (["eval", "RUN", "DATA", "--split", "dev"], "no split 'dev'"),
        (["compare", "DATA", "--out", "o", "--methods", "separate,magic"], "'magic'; allowed"),
        (["compare", "DATA", "--out", "o", "--methods", ","], "0 methods, 5 seeds"),
        (
            ["compare", "DATA", "--out", "o", "--methods", "pq,separate,pq"],
            "methods name pq more than once; allowed: each once",
        ),
        (
            ["compare", "DATA", "--out", "o", "--methods", "no-search", "--exact-below", "9"],
            "exact_below or same_hash with method 'no-search', which has no hashed rows for them",
        ),
        (
            ["train", "DATA", "--out", "o", "--method", "collisionless", "--params", "9"],
            "--params with --method collisionless would be ignored; allowed with methods that have",
        ),
        (
            ["search", "DATA", "--out", "o", "--params", "16", "--set", "adjust_hash_buckets=true"],
            "the smallest feasible budget is",
        ),
        (
            ["search", "DATA", "--out", "o", "--method", "multi-size-2", "--params", "8"],
            "the smallest feasible budget is 16",
        ),
        (["compare", "DATA", "--out", "o", "--params", "100"], "a multiple of --dim 16"),
        (["compare", "DATA", "--out", "o", "--seeds", "0"], "0 seeds, 1 data sets"),
        (
            ["search", "DATA", "--out", "o", "--set", "warmup_epochs=2"],
            "warmup_epochs 2 with search_split 'train' would be ignored; allowed with",
        ),
        (
            ["compare", "DATA", "--out", "o", "--set", "seo.warmup_epochs=2"],
            "warmup_epochs 2 with search_split 'train' would be ignored; allowed with",
        ),
        (
            ["search", "DATA", "--out", "o", *RAW, "--set", "run_off.epochs=2"],
            "--set run_off=none with --set run_off.epochs; give one of them",
        ),
        (
            ["search", "DATA", "--out", "o", "--set", "chunks=4"],
            "--set 'chunks=4' of seo; allowed, with defaults: chunk_dim=8, search_dim=32",
        ),
        (
            ["search", "DATA", "--out", "o", "--set", "run_off=8"],
            "--set run_off=8; allowed: none",
        ),
        (
            ["search", "DATA", "--out", "o", "--set", "budget_rows=8"],
            "--set 'budget_rows=8' of seo: --params sets it",
        ),
        (
            ["search", "DATA", "--out", "o", "--set", "chunk_dim=8", "--set", "chunk_dim=4"],
            "chunk_dim is already given; give it once",
        ),
        (
            ["search", "DATA", "--out", "o", "--method", "dimgrow", "--set", "fill=yes"],
            "--set fill=yes; allowed: true or false",
        ),
        (
            ["compare", "DATA", "--out", "o", "--set", "chunk_dim=4"],
            "--set 'chunk_dim=4'; allowed: METHOD.name=value with METHOD one of separate, ",
        ),
        (
            ["compare", "DATA", "--out", "o", "--set", "dimgrow.beta=4"],
            "--set 'beta=4' of dimgrow; allowed, with defaults: max_dim=16",
        ),
        (
            ["train", "DATA", "--out", "o", "--method", "separate", "--set", "chunk_dim=4"],
            "chunk_dim 4 of separate; allowed: 8, which cannot be changed in this method",
        ),
        (
            ["train", "DATA", "--out", "o", "--policy", "p.json", "--dim", "8", "--params", "9"],
            "--dim, --params with --policy would be ignored; allowed with --method",
        ),
        (["explain"], "No such command 'explain'"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_mistake_gives_one_message_and_status_2(
    monkeypatch: pytest.MonkeyPatch,
    seo_rec: Command,
    chain: Path,
    tiny: Path,
    tmp_path: Path,
    arguments: list[str],
    says: str,
) -> None:
    """It names what was wrong, prints nothing else, leaves no traceback and no folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "bad.json").write_text("{")
    places = {"DATA": tiny, "POLICY": chain / "s/policy.json", "RUN": chain / "t"}
    done = seo_rec(*(places.get(a, a) for a in arguments))
    assert done.code == 2, done.err
    message = re.sub(r"[\s│]+", " ", done.err)
    assert says in message
    assert "Traceback" not in done.err and done.out == ""
    assert done.err.count("error: ") + done.err.count("─ Error ─") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.json"]


def test_folders_are_never_overwritten(
    seo_rec: Command, chain: Path, tiny: Path, tmp_path: Path
) -> None:
    before = {p: p.stat().st_mtime_ns for p in chain.rglob("*")}
    train = ["train", tiny, "--policy", chain / "a.json", "--out", chain / "t", *QUICK]
    search = ["search", tiny, "--out", chain / "s", "--params", "1600", *RAW, *QUICK]
    for arguments, says in (
        (train, "already holds this run; give --resume"),
        ([*train, "--seed", "5"], "holds another run (it differs in fit.seed)"),
        ([*train, "--seed", "5", "--resume"], "holds another run (it differs in fit.seed)"),
        (search, "already holds this run"),
        ([*search, "--set", "logit_lr=1"], "differs in settings.logit_lr"),
        (["compare", tiny, "--out", chain, *QUICK], "is not a run folder"),
    ):
        done = seo_rec(*arguments)
        assert done.code == 2 and says in done.err, done.err
    assert {p: p.stat().st_mtime_ns for p in chain.rglob("*")} == before
    assert seo_rec(*train, "--resume").code == 0


def test_a_bug_is_not_called_a_mistake(
    monkeypatch: pytest.MonkeyPatch, seo_rec: Command, tiny: Path, tmp_path: Path
) -> None:
    """An error of ours keeps its traceback."""
    from seo_rec import recipes

    def broken(*_: Any, **__: Any) -> None:
        raise AssertionError("ours")

    monkeypatch.setattr(recipes, "train", broken)
    with pytest.raises(AssertionError, match="ours"):
        seo_rec("train", tiny, "--out", tmp_path / "o", "--method", "separate")


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f"{sys.executable} -m seo_rec train --help | head -c 10"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr


def test_the_demo(monkeypatch: pytest.MonkeyPatch, seo_rec: Command, tmp_path: Path) -> None:
    """Every method at the budget; called again it shows the same and trains nothing."""
    out = tmp_path / "demo"
    demo = ["demo", "--quick", "--out", out, "--threads", "1"]
    done = seo_rec(*demo)
    assert done.code == 0, done.err
    for method in COMPARED_METHODS:
        assert method in done.out
    assert done.out.endswith(f"report: {out / 'report.html'}\n")
    assert (out / "report.html").stat().st_size > 10_000
    runs = read_runs(out / "compare/results.jsonl")
    assert [r.method for r in runs] == list(COMPARED_METHODS)
    assert all(r.embedding_params <= r.budget == 8000 for r in runs)
    monkeypatch.setattr(policy_fit, "fit", None)
    again = seo_rec(*demo)
    assert again.code == 0 and again.out == done.out
