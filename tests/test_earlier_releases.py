"""Run folders of release 0.1: trainings are reported, searches left out, and nothing is resumed.

``golden/release-0.1`` is what that release wrote of a small comparison and of a search that trains
nothing, without checkpoints.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seo_rec import report
from seo_rec.runs import reading

OLD = Path(__file__).parent / "golden/release-0.1"
KINDS = ("seo", "seo-raw", "dimgrow")  # with a run-off, by attention alone, of another method
EARLIER = "the search was made by an earlier release and is left out"


def test_a_comparison_is_reported_without_its_searches(tmp_path: Path) -> None:
    found = reading.read([OLD / "compare"])
    assert [t.method for t in found.trainings] == ["separate", "seo", "seo-rr", "dimgrow"]
    assert {t.budget for t in found.trainings} == {1600}
    assert found.searches == ()
    folders = [OLD / f"compare/searches/{kind}-seed0" for kind in KINDS]
    assert sorted(found.notes) == sorted(f"{folder}: {EARLIER}" for folder in folders)
    report.build([OLD / "compare"], tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count(EARLIER) == len(KINDS)


@pytest.mark.parametrize("kind", [*(f"compare/searches/{k}-seed0" for k in KINDS), "no-search"])
@pytest.mark.parametrize("lacks", ["", "decision", "winner", "record", "budget"])
def test_a_search_is_left_out_whatever_it_lacks(kind: str, lacks: str, tmp_path: Path) -> None:
    """All of these are said by searches now; a folder that lacks one of them is an older one."""
    result, asked = (json.loads((OLD / kind / f"{n}.json").read_text()) for n in ("search", "run"))
    if lacks:
        result |= {k: {} for k in ("record", "decision")} | {"winner": "w", "dataset": "d"}
        asked["budget"] = 1600
        asked.setdefault("settings", {})
        (asked if lacks == "budget" else result).pop(lacks)
    for name, document in (("search", result), ("run", asked)):
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    with pytest.raises(report.ReportError, match=EARLIER) as caught:
        reading.read([tmp_path])
    assert "--resume" not in str(caught.value)


@pytest.mark.parametrize(
    "folder, words",
    [
        ("compare/runs/separate-seed0", ["train", "--method", "separate", "--resume"]),
        ("compare/searches/dimgrow-seed0", ["search", "--method", "dimgrow", "--resume"]),
        ("compare/searches/seo-seed0", ["search", "--resume"]),
        ("compare", ["compare", "--methods", "separate", "--seeds", "1"]),
    ],
)
def test_nothing_is_resumed(
    seo_rec: Callable[..., Any], tiny: Path, tmp_path: Path, folder: str, words: list[str]
) -> None:
    """The message says that an earlier release made the folder, and the folder stays as it is."""
    out = tmp_path / "old"
    shutil.copytree(OLD / folder, out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    done = seo_rec(*words, tiny, "--out", out, "--params", 1600, "--hidden", 8, "--epochs", 1)
    assert done.code == 2
    assert f"{out} holds a run of an earlier release, whose run.json lacks " in done.err
    assert "not resumed; choose another --out" in done.err
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before
