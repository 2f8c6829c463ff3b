"""``--config``: a run is repeated from its settings, and options replace them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from seo_rec.cli.main import app
from seo_rec.runs.command_settings import repeat_command
from small_commands import QUICK, Command


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
