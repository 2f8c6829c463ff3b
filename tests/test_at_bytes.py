"""The study at equal bytes: what is trained, what a line holds, how the page chooses rivals."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.accuracy import at_bytes, boosted
from benchmarks.pages import at_bytes as page
from benchmarks.record import read, recorded_fit
from seo_rec import recipes
from seo_rec.data.crosses import Cross, with_crosses
from seo_rec.data.dataset import open_data
from seo_rec.data.synthetic import synthetic
from seo_rec.search import Found
from seo_rec.settings import FitSettings, ModelSettings


def test_a_study_is_resumed_and_its_lines_say_the_bytes(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(at_bytes, "RECORD", tmp_path / "at-bytes.jsonl")
    study = at_bytes.Study((2_000,), FitSettings(epochs=1, batch_size=200))
    monkeypatch.setitem(at_bytes.STUDIES, "criteo", study)
    arguments = ["at_bytes", "criteo", "--data", str(tiny), "--out", str(tmp_path / "runs")]
    arguments += ["--record", "--precision", "int8", "--methods", "multi-size", "frequent"]
    monkeypatch.setattr(sys, "argv", arguments)
    at_bytes.main()
    lines = read(at_bytes.RECORD)
    assert [(x["method"], x["winner"]) for x in lines] == [
        ("multi-size", "multi-size"),
        ("frequent", "frequent"),
    ]
    assert all(1_800 <= x["num_bytes"] <= x["bytes"] == 2_000 for x in lines)
    assert all(x["split"] == 0 and x["precision"] == "int8" for x in lines)
    at_bytes.main()
    assert read(at_bytes.RECORD) == lines
    assert [x["id_bits"] for x in lines] == [64, 32]  # multi-size stores none
    monkeypatch.setattr(sys, "argv", [*arguments, "--id-bits", "64"])
    at_bytes.main()
    whole = read(at_bytes.RECORD)[2:]
    assert [(x["method"], x["id_bits"]) for x in whole] == [("frequent", 64)]
    assert whole[0]["embedding_params"] < 0.9 * lines[1]["embedding_params"]
    without = {k: v for k, v in whole[0].items() if k != "id_bits"}
    at_bytes.RECORD.write_text(json.dumps(without) + "\n")  # as such lines were recorded first
    at_bytes.main()
    assert [x["method"] for x in read(at_bytes.RECORD)] == ["frequent", "multi-size"]
    shown = capsys.readouterr().out
    assert shown.count("validation AUC") == 8 and "test" not in shown.replace(str(tmp_path), "")


def test_the_search_may_take_crosses_and_its_line_says_which(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search is replaced by one that takes two crosses: what is asked of it, and its line."""
    asked: list[dict[str, Any]] = []

    def search(method, data, out, settings, training, **more) -> Found:
        asked.append({"method": method, "bytes": settings.allowance.amount, **more})
        a, b, c = (f.name for f in data.schema.features[:3])
        pairs = [Cross((a, b)), Cross((b, c))]
        wide = with_crosses(data, pairs) if more.get("crosses") == "auto" else data
        policy = recipes.method_policy("frequent", wide, settings.allowance, 8)
        taken = [f.name for f in policy.features if f.is_cross]
        decision = {**policy.decision, "winner": "some", "crosses": {"taken": taken}}
        return Found(replace(policy, decision=decision), None, 1.0, 0, {})

    for place in ("seo_rec.recipes.search", "seo_rec.recipes.comparing.search"):
        monkeypatch.setattr(place, search)
    monkeypatch.setattr(at_bytes, "RECORD", tmp_path / "at-bytes.jsonl")
    study = at_bytes.Study((4_000,), FitSettings(epochs=1, batch_size=200))
    monkeypatch.setitem(at_bytes.STUDIES, "criteo", study)
    arguments = ["at_bytes", "criteo", "--data", str(tiny), "--out", str(tmp_path / "runs")]
    arguments += ["--record", "--precision", "int8", "--methods", "seo"]
    for more in ([], ["--crosses", "none"], []):
        monkeypatch.setattr(sys, "argv", [*arguments, *more])
        at_bytes.main()
    wide, bare = read(at_bytes.RECORD)
    a, b, c = (f.name for f in open_data(tiny).schema.features[:3])
    assert wide["taken"] == [f"{a}*{b}", f"{b}*{c}"]
    assert (wide["crosses"], bare["crosses"], bare["taken"]) == ("auto", "none", [])
    assert wide["winner"] == bare["winner"] == "some"
    assert 3_600 <= wide["num_bytes"] <= 4_000
    assert [x.get("crosses", "") for x in asked] == ["auto", ""]
    assert all((x["method"], x["bytes"]) == ("seo", 4_000) for x in asked)


def line(method: str, split: int, val: float, test: float, precision: str = "int8") -> Any:
    return {
        "study": "criteo",
        "fit": recorded_fit(FitSettings()),
        "model": ModelSettings(dropout=0.1).as_json(),
        "bytes": 320_000,
        "method": method,
        "precision": precision,
        "split": split,
        "data_fingerprint": f"split {split}",
        "num_bytes": 319_000,
        "val_auc": val,
        "test_auc": test,
        "epochs": 8,
        "winner": "trivial-frequent-8" if method == "seo" else method,
        "crosses": "auto" if method == "seo" else "none",
    }


def test_rivals_are_in_the_order_of_validation_rows_and_have_all_splits() -> None:
    """Method separate has the best test AUC, but another has the best validation AUC."""
    lines = [line("seo", s, 0.75, 0.755 + 0.001 * s) for s in (0, 1)]
    lines += [line("multi-size", s, 0.74, 0.750) for s in (0, 1)]
    lines += [line("separate", s, 0.73, 0.790) for s in (0, 1)]
    lines += [line("monolithic", 0, 0.76, 0.740)]  # on an easier split only
    lines += [line("frequent", s, 0.76, 0.790) for s in (0, 1)]  # no plain method
    text = "\n".join(page.earlier(lines)["at-bytes-earlier"])
    assert "The search in int8 minus plain methods in int8" in text
    assert "test AUC: `multi-size` +0.00550 ± 0.00050" in text
    assert "`monolithic`" not in text.split("minus", 1)[1]
    assert "| seo | int8 | 2 | 319,000 |" in text
    assert "answered: `frequent-8` 2." in text
    assert "**criteo, 320,000 bytes, ids of 8 bytes**, mlp, dropout 0.1, L2 0, batches" in text
    assert page.regions([], [])["boosted"] == [
        "`python -m benchmarks.accuracy.boosted`: not run.",
        "",
    ]


def test_the_search_with_crosses_stands_beside_the_one_without() -> None:
    """Lines that do not say it were recorded without crosses, before there was a choice."""
    lines = [line("seo", s, 0.75, 0.751) for s in (0, 1)]
    for old in lines:
        del old["crosses"]
    won, taken = {"winner": "crosses-2-frequent-8"}, [["a*b", "a*c"], ["a*b"]]
    lines += [line("seo", s, 0.76, 0.770) | won | {"taken": taken[s]} for s in (0, 1)]
    lines += [line("multi-size", s, 0.74, 0.750 + 0.001 * s) for s in (0, 1)]
    text = "\n".join(page.earlier(lines)["at-bytes-earlier"])
    assert "| seo, no crosses | int8 | 2 |" in text and "| seo | int8 | 2 |" in text
    assert "* The search in int8 minus plain" in text and "`multi-size` +0.01950" in text
    assert "* The search without crosses in int8 minus plain" in text
    assert "`multi-size` +0.00050" in text
    assert (
        "* Splits by what the search in int8 answered: `crosses-2-frequent-8` 2. Splits by the "
        "crosses that were taken: `a*b` 2, `a*c` 1." in text
    )
    assert "the search without crosses in int8 answered: `frequent-8` 2." in text


def test_sizes_of_ids_have_tables_of_their_own_and_hashed_methods_stand_in_both() -> None:
    """Every search is compared on its own splits, whose numbers both sets of lines count from 0."""
    short = {"id_bits": 32, "data_fingerprint": "another split"}
    lines = [line("seo", 0, 0.75, 0.752), line("seo", 0, 0.75, 0.757) | short]
    lines += [line("multi-size", 0, 0.74, 0.750), line("multi-size", 0, 0.74, 0.754) | short]
    lines[3].pop("id_bits")  # it stores none
    lines += [line("no-search", 0, 0.73, 0.740) | short]
    (text,) = page.earlier(lines).values()
    whole, shorter = "\n".join(text).split("**criteo, 320,000 bytes, ids of ")[1:]
    whole, shorter = (whole, shorter) if whole.startswith("8") else (shorter, whole)
    assert "`multi-size` +0.00200." in whole and "no-search" not in whole
    assert "`multi-size` +0.00300, `no-search` +0.01700." in shorter
    assert all("| multi-size | int8 | 1 |" in part for part in (whole, shorter))
    short_table = "\n".join(page.regions(lines, [])["the search at equal bytes"])
    assert "| criteo | 320,000 | 8 bytes | before 10 | 1 | `multi-size` | +0.00200 |" in short_table
    assert "| criteo | 320,000 | 4 bytes | before 10 | 1 | `multi-size` | +0.00300 |" in short_table


def test_rules_of_the_search_have_tables_of_their_own_with_their_splits() -> None:
    """A split that both rules searched stands in both tables; one without a search in the first."""
    lines = [line("seo", s, 0.75, 0.752) for s in (0, 1)]
    lines += [line("seo", s, 0.75, 0.757) | {"rule": 12} for s in (1, 2)]
    lines += [line("multi-size", s, 0.74, 0.750 + s / 1000) for s in range(3)]
    lines += [line("no-search", s, 0.73, 0.740) | {"id_bits": 64} for s in (0, 2, 3)]
    first = "\n".join(page.earlier(lines)["at-bytes-earlier"]).removeprefix(
        "**criteo, 320,000 bytes"
    )
    second = "\n".join(page.tables(lines)["at-bytes"]).removeprefix("**criteo, 320,000 bytes")
    assert "**criteo" not in first + second
    assert first.startswith(", ids of 8 bytes**") and "| seo | int8 | 2 |" in first
    assert "| multi-size | int8 | 2 |" in first and "| no-search | int8 | 2 |" in first
    assert "`multi-size` +0.00150 ± 0.00050" in first
    assert second.startswith(", ids of 8 bytes, rule 12 of the search**")
    assert "| multi-size | int8 | 2 |" in second and "| no-search | int8 | 1 |" in second
    assert "`multi-size` +0.00550 ± 0.00050" in second
    short = "\n".join(page.regions(lines, [])["the search at equal bytes"])
    assert "| criteo | 320,000 | 8 bytes | before 10 | 2 | `multi-size` | +0.00150" in short
    assert "| criteo | 320,000 | 8 bytes | 12 | 2 | `multi-size` | +0.00550" in short


def test_ranks_of_ids_are_by_count(tmp_path: Path) -> None:
    """The most frequent id of the training rows is 0; unknown and rare ids are missing."""
    synthetic(tmp_path / "data", rows=3_000, seed=0)
    data = open_data(tmp_path / "data")
    ids, numbers, labels = boosted.rows_of(data, "train")
    ranks = boosted.ranks_of(data, ids, categories=3)
    assert ids.shape == ranks.shape and len(labels) == len(numbers) == len(ids)
    for i in range(ids.shape[1]):
        known, counts = np.unique(ids[:, i], return_counts=True)
        expected = known[np.argsort(-counts, kind="stable")][:3]
        for rank, value in enumerate(expected):
            assert set(ids[ranks[:, i] == rank, i]) == {value}
        assert set(ranks[~np.isin(ids[:, i], expected), i]) <= {-1}
