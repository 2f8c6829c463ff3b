"""Awkward but right input: names with commas, folders as text, terminals without Unicode."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seo_rec import recipes
from seo_rec.data.columns import split_names
from seo_rec.data.dataset import DataSet
from seo_rec.export import export_run
from seo_rec.model import ModelSettings
from seo_rec.recipes import Comparison
from seo_rec.schema import DataError
from seo_rec.search import find
from seo_rec.settings import FitSettings, Training

TRAINING = Training(ModelSettings(hidden=(4,)), FitSettings(epochs=1, batch_size=500))


@pytest.mark.parametrize(
    "text, names",
    [
        ("", ()),
        ("a", ("a",)),
        (" a , b", ("a", "b")),
        ('"a,b",c', ("a,b", "c")),
        ('c, "a,b"', ("c", "a,b")),
        ('"say ""x""",d', ('say "x"', "d")),
        ('5" pipe,b', ('5" pipe', "b")),
        ("a,,b", ("a", "", "b")),
    ],
)
def test_names_are_split_at_commas_outside_of_quotes(text: str, names: tuple[str, ...]) -> None:
    assert split_names(text) == names


@pytest.mark.parametrize("text", ['"a,b', '"a"b,c', "a\nb"])
def test_an_open_quote_among_names_is_named(text: str) -> None:
    with pytest.raises(DataError, match="allowed: names between commas"):
        split_names(text)


def test_a_column_with_a_comma_can_be_given(seo_rec: Any, tmp_path: Path) -> None:
    rows = "".join(f"{i % 2},{i % 5},{i % 3},{i}.5\n" for i in range(60))
    (tmp_path / "a.csv").write_text('y,"a,b",t,"p,q"\n' + rows)
    of_names = ["--categorical", '"a,b",t', "--numeric", '"p,q"']
    given = [*of_names, "--numeric-transform", 'standard,"p,q=none"']
    done = seo_rec("prepare", "table", "--raw", tmp_path / "a.csv", "--label", "y", *given,
                   "--out", tmp_path / "data")  # fmt: skip
    assert done.code == 0, done.err
    found = pq.read_table(tmp_path / "data/train/part-00000.parquet")
    assert found.column_names == ["p,q", "a,b", "t", "y"]
    assert {x % 1 for x in found["p,q"].to_pylist()} == {0.5}


def test_folders_may_be_given_as_text(tiny_data: DataSet, tmp_path: Path) -> None:
    """Of every recipe, and of exports."""
    policy, out = recipes.method_policy("separate", tiny_data, 400, 8), str(tmp_path)
    recipes.train(tiny_data, policy, f"{out}/run", TRAINING)
    recipes.load_trained(f"{out}/run")
    recipes.evaluate_served(f"{out}/run", tiny_data, "test")
    following = recipes.continued(f"{out}/run", tiny_data)
    assert following.earlier.run == Path(out, "run")
    assert list(recipes.frequency(tiny_data, [f"{out}/run"])) == [Path(out, "run")]
    method = find("no-search")
    chosen = method.settings_at(4000, 8, TRAINING)
    recipes.search("no-search", tiny_data, f"{out}/search", chosen, TRAINING)
    comparison = Comparison((tiny_data,), ("separate",), 400, 8, 1, training=TRAINING)
    assert len(recipes.compare(comparison, f"{out}/comparison")) == 1
    assert len(recipes.frontier(comparison, (400,), f"{out}/frontier")) == 1
    export_run(f"{out}/run", f"{out}/package", data=str(tiny_data.path), formats=())
    export_run(f"{out}/run", f"{out}/delta", formats=(), since=f"{out}/package")
    days = [str(shutil.copytree(tiny_data.path, tmp_path / name)) for name in ("one", "two")]
    recipes.replay(days, f"{out}/replay", training=TRAINING, policy=policy)
    assert len(recipes.read_replay(f"{out}/replay").days) == 2


@pytest.mark.slow
def test_a_terminal_without_unicode_gets_all_tables(tiny_data: DataSet, tmp_path: Path) -> None:
    """Lines and signs are replaced, and nothing fails; headings at 80 columns are whole."""
    comparison = Comparison((tiny_data,), ("separate", "monolithic"), 400, 8, 2, training=TRAINING)
    recipes.compare(comparison, tmp_path / "c")
    policy = recipes.method_policy("separate", tiny_data, 400, 8)
    policy.save(tmp_path / "policy.json")
    script = (
        "import sys; from pathlib import Path; from contextlib import suppress\n"
        "from seo_rec.cli.main import main; from seo_rec import report; folder = sys.argv[1]\n"
        "sys.argv = ['seo-rec', 'plan', sys.argv[2], '--topology', '8xH100-80GB', '--out', "
        "sys.argv[3]]\n"
        "with suppress(SystemExit): main()\n"
        "print('=====\\u00e9'); report.print_comparison([Path(folder)])"
    )
    plain = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "c", tmp_path / "policy.json", tmp_path / "p"],
        env={**os.environ, **plain},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    shown = done.stdout.decode("ascii")
    planned, compared = shown.split("=====?")
    assert "test AUC" in compared and " +- 0." in compared
    for heading in ("memory, GB", "lookups/sample", "est. ms", "TorchRec's own"):
        assert heading in planned
    assert max(len(line) for line in planned.splitlines() if line.startswith("|")) <= 80


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        # a header between ; and numbers with decimal commas: 1 name, 2 cells
        ("comma.csv", "y;p\n1;0,5\n0;1,5\n", "give --delimiter ';'"),
        ("alone.csv", "y\n1\n0\n", "the label and columns of options only"),
        ("same.csv", "y,u\n1,a\n0,a\n", "(u: constant"),
    ],
)
def test_a_table_of_which_nothing_is_left_says_why(
    name: str, content: str, said: str, tmp_path: Path, seo_rec: Any
) -> None:
    raw = written(tmp_path / name, content)
    done = seo_rec("prepare", "table", "--raw", raw, "--label", "y", "--out", tmp_path / "data")
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1, done.err
    assert not (tmp_path / "data").exists()


def test_structs_are_not_called_lists(tmp_path: Path, seo_rec: Any) -> None:
    table = pa.table({"y": [0, 1] * 20, "u": [{"a": i} for i in range(40)]})
    pq.write_table(table, tmp_path / "t.parquet")
    asked = ("--raw", tmp_path / "t.parquet", "--label", "y", "--out", tmp_path / "data")
    done = seo_rec("prepare", "table", *asked)
    assert done.code == 2 and "convert one to numbers, text or lists" in done.err, done.err
    done = seo_rec("prepare", "table", *asked, "--kind", "u=categorical")
    assert done.code == 2 and "struct" in done.err and "--multivalent" not in done.err, done.err


@pytest.mark.filterwarnings("error")
def test_infinite_whole_numbers_are_inferred_without_a_warning(
    tmp_path: Path, seo_rec: Any
) -> None:
    rows = "".join(f"{i % 2},{'inf' if i == 5 else 10**i}\n" for i in range(12))
    raw = written(tmp_path / "t.csv", "y,p\n" + rows)
    done = seo_rec("prepare", "table", "--raw", raw, "--label", "y", "--inspect")
    assert done.code == 0 and done.err == "", done.err
