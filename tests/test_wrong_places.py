"""A path of another kind than is asked for is called by what it is, with what to name instead."""

from pathlib import Path

import pytest

from seo_rec import folders, schema
from seo_rec.runs import layout
from seo_rec.serve.delta import DELTA_FILE
from seo_rec.serve.layout import MANIFEST_FILE
from small_commands import Command

CASES = [
    (["train", "FILE", "--method", "separate", "--out", "NEW"], "data set, but a file; `seo-rec p"),
    (
        ["train", "NONE", "--method", "separate", "--out", "NEW"],
        "none: no schema.json here, since there is no such f",
    ),
    (["train", "RUN", "--method", "separate", "--out", "NEW"], "but a finished training run; "),
    (["train", "DATA", "--policy", "SEARCH", "--out", "NEW"], "a folder; name the policy file in"),
    (["train", "DATA", "--config", "RUN", "--out", "NEW"], "a folder; name the file in it, as "),
    (["eval", "SEARCH", "DATA"], "training run, but a search; `seo-rec train DATA --policy "),
    (["eval", "DATA", "RUN"], "so this is not a prepared data set, but a finished training run"),
    (["export", "DATA", "--out", "NEW"], "not a finished training run, but a prepared data set"),
    (["export", "COMPARISON", "--out", "NEW"], "but a comparison, whose trainings are in "),
    (["export", "UNFINISHED", "--out", "NEW"], "but an unfinished run; its command goes on"),
    (["predict", "RUN", "--raw", "FILE", "--out", "NEW"], "no package, but a finished training "),
    (["serve", "RUN"], "so this is no package, but a finished training run; `seo-rec export` mak"),
]


@pytest.mark.parametrize("words, says", CASES, ids=[" ".join(words[:3]) for words, _ in CASES])
def test_a_path_of_another_kind_is_called_by_what_it_is(
    seo_rec: Command, tiny: Path, tmp_path: Path, words: list[str], says: str
) -> None:
    places = {"DATA": tiny, "NEW": tmp_path / "new", "NONE": tmp_path / "none"}
    holds = {"RUN": "result.json", "SEARCH": "search.json", "UNFINISHED": "run.json"}
    holds |= {"COMPARISON": "results.jsonl", "PACKAGE": "manifest.json"}
    for name, file in holds.items():
        places[name] = tmp_path / name.lower()
        places[name].mkdir()
        (places[name] / file).write_text("{}")
    places["FILE"] = tmp_path / "rows.csv"
    places["FILE"].write_text("a,y\n1,0\n")
    done = seo_rec(*(places.get(word, word) for word in words))
    assert done.code == 2
    assert says in done.err, done.err
    assert not places["NEW"].exists()


def test_a_report_is_not_written_under_the_name_of_another_format(
    seo_rec: Command, tmp_path: Path
) -> None:
    done = seo_rec("report", tmp_path, "--out", tmp_path / "page.pdf")
    assert done.code == 2
    assert "the page is HTML; allowed endings: .html, .htm or none" in done.err


def test_the_files_that_tell_are_those_that_are_written() -> None:
    """The names stand in a floor below, which cannot read them where they are written."""
    names = {v for n, v in vars(layout).items() if n.endswith("_FILE")}
    names |= {schema.SCHEMA_FILE, MANIFEST_FILE, DELTA_FILE}
    assert {name for name, _ in folders._KINDS} <= names
