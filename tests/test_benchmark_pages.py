"""The measured pages: what their tables hold, and that they are written from the records."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import pytest

from benchmarks.accuracy import backbones, evidence, unified
from benchmarks.pages import analysis as analysis_page
from benchmarks.pages import kernels as kernels_page
from benchmarks.pages import readme, results, speed, tables
from benchmarks.pages import unified as unified_page
from benchmarks.pages.markdown import Column as TableColumn
from benchmarks.pages.markdown import fill, marks, table
from seo_rec import analysis

# ---- results.md --------------------------------------------------------------------------


def run_of(study: str, method: str, seed: int, auc: float, **more: Any) -> dict[str, Any]:
    line = {"study": study, "method": method, "seed": seed, "epochs": 3, "val_auc": auc}
    line |= {"test_auc": auc, "test_logloss": 1 - auc, "embedding_params": 96_000}
    line |= {"budget": 96_000}
    line |= {"policy": "2 tables", "command": f"python -m x --data d --only {study} --methods y"}
    return line | more


def test_every_declared_reading_has_a_row_though_it_was_not_run() -> None:
    searched = {p.name for p in evidence.movielens() if set(p.methods) == set(evidence.APPLIERS)}
    assert searched <= set(results.READINGS) | set(results.TABLE_2_STUDIES.values())
    page = results.movielens([], [])
    for text in results.READINGS.values():
        (row,) = (x for x in page if x.startswith(f"| {text} |"))
        assert row.count("not run") == 4
    assert sum(x.count("not run") for x in page if x.startswith(("| True", "| False"))) == 12
    page = results.criteo([])
    for part in evidence.criteo():
        if part.name.endswith("-held-out"):
            budget = f"{int(part.name.split('-')[1]):,}"
            (row,) = (x for x in page if x.startswith(f"| {budget} parameters, logits on held"))
            assert row.count("not run") == 4
    assert "Study `criteo-80000`: not run." in page
    assert "Study `synthetic-64000`: not run." in results.synthetic([])


@pytest.mark.parametrize(
    "dealt, monolithic, expected",
    [
        ((0.80, 0.81, 0.82), (0.70, 0.71, 0.73), "yes"),
        ((0.70, 0.71, 0.73), (0.80, 0.81, 0.82), "no"),
        ((0.70, 0.80, 0.72), (0.71, 0.72, 0.79), "not told apart"),
        ((0.80,), (0.70, 0.71, 0.72), "not told apart"),
        ((), (0.70, 0.71, 0.72), "not run"),
    ],
)
def test_the_order_holds_beyond_two_standard_errors(
    dealt: tuple[float, ...], monolithic: tuple[float, ...], expected: str
) -> None:
    values = {"seo-rr": dealt, "monolithic": monolithic, "separate": (0.5, 0.51, 0.53)}
    lines = [run_of("s", m, i, v) for m, found in values.items() for i, v in enumerate(found)]
    *_, row, _ = results.readings(lines, [("s", "text", "s")])
    assert row.endswith(f"| {expected} |")


def test_the_table_says_what_the_default_search_chose_and_holds() -> None:
    seo = [
        run_of("s", "seo", 0, 0.7),
        run_of("s", "seo", 1, 0.8, policy="6 tables", embedding_params=95_047, id_bytes=72),
        run_of("s", "seo", 2, 0.7),
    ]
    page = results.comparison([*seo, run_of("s", "multi-size", 0, 0.6)], "s")
    assert page[-4:] == [
        "",
        "* with seeds 0, 2: 2 tables (96,000 parameters)",
        "* with seed 1: 6 tables (95,047 parameters, beside them 72 bytes of ids)",
        "",
    ]
    assert any(x.startswith("| seo (95,047 to 96,000) | 3 |") for x in page)


def test_methods_trained_by_mlet_stand_on_another_page() -> None:
    lines = [run_of("s", m, 0, v) for m, v in (("multi-size", 0.6), ("multi-size+mlet", 0.7))]
    page = results.comparison(lines, "s")
    assert "| − multi-size |" in page[0]
    assert "| multi-size | 1 | 0.60000 | 0.60000 | reference | 0.40000 |" in page
    assert not any("mlet" in line for line in page)
    assert results.comparison(lines[1:], "s") == ["Study `s`: not run.", ""]


def test_the_overview_says_how_many_seeds_there_are_if_not_five() -> None:
    criteo = [run_of("criteo-80000", "multi-size", s, 0.7) for s in range(5)]
    criteo += [run_of("criteo-80000", "seo", s, 0.8) for s in range(2)]
    page = results.overview({"movielens": [], "criteo": criteo, "synthetic": []})
    assert "| multi-size | 0.7000 ± 0.0000 |" in page
    assert "| seo | 0.8000 ± 0.0000 (2 seeds) |" in page


def test_a_study_has_its_whole_command_where_it_lives_now() -> None:
    """Older lines name the benchmark without its folder, and ran a part of the study."""
    command = "python -m benchmarks.evidence criteo --data a b --only criteo-80000 --methods seo"
    line = run_of("criteo-80000", "seo", 0, 0.7, command=command)
    whole = "python -m benchmarks.accuracy.evidence criteo --data a b --record"
    assert results.command_of([line]) == whole
    assert results.command_of([{**line, "command": whole}]) == whole
    assert results.overview({"movielens": [], "criteo": [line], "synthetic": []})[0] == (
        "| test AUC | 80,000 |"
    )


def test_the_table_of_the_readme_names_the_best_multi_size_by_validation() -> None:
    """More test AUC does not count, other numbers of seeds are said, and absent runs are shown."""
    lines = [run_of("ml-1m", "multi-size", s, 0.8, test_auc=0.9) for s in range(5)]
    lines += [run_of("ml-1m", "multi-size-8", s, 0.85) for s in range(5)]
    lines += [run_of("ml-1m", "multi-size-8+mlet", s, 0.95) for s in range(5)]
    lines += [run_of("ml-1m-widths", "no-search", s, 0.86) for s in range(3)]
    criteo = [run_of("criteo-80000", "multi-size-4", s, 0.7) for s in range(5)]
    page = readme.results({"movielens": lines, "criteo": criteo, "synthetic": []})
    (row,) = (x for x in page if x.startswith("| multi-size"))
    assert row.endswith("| 0.8500 ± 0.0000 | 0.7000 ± 0.0000 | — |")
    (row,) = (x for x in page if x.startswith("| equal widths"))
    assert row.endswith("| 0.8600 ± 0.0000 (3 seeds) | — | — |")
    assert page[0].count("|") <= 6  # five columns


def test_goals_of_the_time_per_epoch_are_met_or_missed() -> None:
    """Of each data set the last line; a goal counts for every applier."""
    ratio = {"low": 0.9, "high": 1.2, "paper": None, "goal": None, "met": None}
    ratios = {
        "applier, a / monolithic": ratio | {"median": 1.05, "goal": 1.1, "met": True},
        "applier, b / monolithic": ratio | {"median": 1.04, "goal": 1.1, "met": True},
        "applier, a / separate": ratio | {"median": 1.02, "goal": 1.0, "met": False, "paper": 1.08},
        "applier, b / separate": ratio | {"median": 0.99, "goal": 1.0, "met": True},
        "search / monolithic": ratio | {"median": 1.5, "paper": 0.74},
    }
    stamp = {"git_dirty": False, "git_sha": "a" * 40, "cpu": "c", "threads": 2, "torch": "t"}
    stamp["date"] = "2026-01-01"
    line = {"data": "d", "fingerprint": "f", "rows": 9, "batch": 2, "rounds": 3}
    line |= {"environment": stamp, "ratios": ratios}
    older = {**line, "ratios": {}, "rows": 5}
    page = speed.epochs([older, line])
    assert (
        "* An applier's epoch takes at most 1.1 times as long as with monolithic: **met by all 2** "
        in ("\n".join(page))
    )
    assert any(
        "**missed by 1 of 2** (0.990 to 1.020; the paper's applier: 1.08)" in x for x in page
    )
    assert "| applier, a / separate | 1.020 (0.900 to 1.200) | 1.08 |" in page
    assert "| search / monolithic | 1.500 (0.900 to 1.200) | 0.74 |" in page
    assert sum("training rows" in x for x in page) == 1 and "5 training" not in "".join(page)
    assert speed.epochs([])[0] == "`python -m benchmarks.speed.epoch`: not run."


@pytest.mark.parametrize(
    ("name", "auc", "inside"),
    [
        ("deepfm", 0.8990, True),
        ("deepfm", 0.8990 + 0.0026, False),  # its own range, not that of all backbones
        ("deepfm", 0.8990 - 0.0022, False),
        ("ipnn", 0.8990 + 0.0026, True),
        ("deepfm-fm", 0.8990 - 0.02, True),
        ("deepfm-fm", 0.8990, True),  # alone, it may be nearer to the MLP
        ("deepfm-fm", 0.8990 - 0.027, False),
        ("dcn-v2", 0.8800, False),  # not in BARS: by what is published for these data
        ("dcn-v2", 0.8990, True),
        ("dcn-v2", 0.9010, False),
    ],
)
def test_a_backbone_is_held_against_its_own_figures(name: str, auc: float, inside: bool) -> None:
    line = {"name": name, "tables": "collisionless", "test_auc": auc}
    assert backbones.judge(line, 0.8990)["in_range"] is inside


def test_table_1_reads_only_lines_of_the_present_settings() -> None:
    study = unified.STUDIES["movielens-1m"]
    known = {"study": study.name, "row": "SEO", "budget": 40_980, "method": "seo", "val_auc": 0.5}
    now = [{**known, "seed": s, "settings": study.settings("seo"), "test_auc": 0.8} for s in (0, 1)]
    old = [{**known, "seed": s, "settings": "of before", "test_auc": 0.9} for s in (0, 1, 2)]
    assert unified_page.chosen_lines([*old, *now], "SEO", 40_980) == {0: now[0], 1: now[1]}
    text = "\n".join(unified_page.movielens([*old, *now]))
    assert "(2 of 3 seeds)" in text and "90.00" not in text
    assert study.settings("seo") != study.settings("multi-size-5") != study.settings("pq-5")


# ---- all pages ---------------------------------------------------------------------------


def test_a_step_meets_its_goal_or_misses_it() -> None:
    ratio = {"median": 1.02, "goal": None}
    assert speed.met(ratio) is None
    assert speed.met({**ratio, "goal": 1.02}) == "at most 1.02: met"
    assert speed.met({**ratio, "goal": 1.0}) == "at most 1.0: missed"


def test_ways_of_a_kernel_stand_beside_the_first() -> None:
    line = {"device": "cpu", "clock": "wall", "rounds": 9, "copy_gb_per_s": 20.0, "of_copy": 0.5}
    line["environment"] = {
        "threads": 1,
        "git_sha": "a" * 40,
        "git_dirty": False,
        "gpu": None,
        "cpu": "c",
        "torch": "t",
        "date": "2026-01-01",
    }
    lines = [
        {**line, "op": op, "way": way, "median_ms": 2.0 * ratio, "time_over_ours": ratio}
        for op in ("remap", "robe_bag both")
        for way, ratio in (("ours", 1.0), ("torch", 4.0), ("torch in place", 2.5))
    ]
    lines.append({**lines[1], "time_over_ours": 3.0})  # the newest counts
    page = kernels_page.region(lines)
    assert "| remap | ours 2.00 | 0.50 | torch 3.00; torch in place 2.50 |" in page
    assert "| robe_bag both | ours 2.00 | 0.50 | torch 4.00; torch in place 2.50 |" in page


def test_shared_and_separate_tables_stand_side_by_side() -> None:
    def model(rows: int, tables: str, angle: float, norm: float) -> dict[str, Any]:
        known = {"rows": rows, "tables": tables, "mean_angle": angle, "mean_norm": norm}
        known |= {"mean_square_norm": norm**2, "ids_per_row": 100 / rows}
        line = {f.name: 0 for f in fields(analysis.Orthogonality)} | known
        what = {"dataset": "d", "features": ["a", "b"], "rows": rows}
        return {**line, "part": "orthogonality", "what": what, "val_auc": 0.7, "epochs": 2}

    lines = [model(10, "unified", 60.0, 0.5), model(10, "separate", 8.0, 0.1)]
    lines += [model(100, "unified", 20.0, 0.25)]
    page = analysis_page.angles(lines)
    assert "| d, 2 | 10 | 10 | 60.0 | 8.0 | 0.500 | 0.100 | 0.70000 | 0.70000 |" in page
    assert "| d, 2 | 100 | 1 | 20.0 | — | 0.250 | — | 0.70000 | — |" in page
    shared = [
        {"method": method, "num_rows": 10}
        | {kind: {"actual": share, "expected": share / 2} for kind in ("intra", "inter")}
        for method, share in (("unified", 0.5), ("hashed, even", 0.25))
    ]
    what = {"dataset": "d", "features": None, "rows": 10}
    page = analysis_page.shared_rows([{"part": "collisions", "what": what, "shared_rows": shared}])
    assert "| d | 10 | 50.0 (25.0) | 25.0 (12.5) | 50.0 (25.0) |" in page


def test_a_table_says_what_is_absent_and_escapes_bars() -> None:
    columns = [TableColumn("a", lambda x: x["a"]), TableColumn("b", lambda x: x.get("b"), ",.1f")]
    assert table(columns, [{"a": "x|y", "b": 1234.56}, {"a": ""}]) == [
        "| a | b |",
        "|---|---:|",
        "| x\\|y | 1,234.6 |",
        "|  | — |",
        "",
    ]


def test_regions_are_filled_and_nothing_else_changes() -> None:
    begin, end = marks("x y")
    page = f"before\n{begin}\nold\n{end}\nafter\n"
    once = fill(page, {"x y": ["", "new", ""]})
    assert once == f"before\n{begin}\n\nnew\n\n{end}\nafter\n"
    assert fill(once, {"x y": ["new"]}) == once
    with pytest.raises(ValueError, match="where z belongs"):
        fill(page, {"z": []})


@pytest.mark.parametrize("name", tables.PAGES)
def test_a_page_is_written_from_the_records(name: str) -> None:
    """`python -m benchmarks.pages.tables` would change nothing."""
    page = tables.PAGES[name]
    assert page.text() == page.path.read_text()
    for picture, _ in page.pictures:
        assert page.path.with_name(picture).exists()


def test_pages_and_their_regions_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    """Every mark in a document is a region of its page; a page that is not there is refused."""
    documents = [tables.ROOT / "README.md", *sorted((tables.ROOT / "docs").glob("**/*.md"))]
    pages = {page.path: page for page in tables.PAGES.values()}
    for path in documents:
        found = re.findall(r"<!-- (.+): written by benchmarks", path.read_text())
        assert sorted(found) == sorted(pages[path].shown() if path in pages else []), path
    with pytest.raises(SystemExit):
        tables.main(["moon"])
    assert "no page moon; allowed: readme" in capsys.readouterr().err
    tables.main(["kernels", "--print"])
    assert "| op | median ms |" in capsys.readouterr().out


@pytest.mark.parametrize("name", tables.PAGES)
def test_a_page_says_how_to_print_the_tables_that_it_leaves_out(name: str) -> None:
    page = tables.PAGES[name]
    whole, shown = page.regions(), page.shown()
    if any(len(lines) > len(shown.get(region, [])) for region, lines in whole.items()):
        text = " ".join(page.path.read_text().split())
        assert f"python -m benchmarks.pages.tables {name} --print" in text


def test_the_whole_command_has_a_line_for_each_type_of_tables():
    """A run on a busy machine has no times."""
    line = {
        "floats": 1e9,
        "ranks": 1,
        "start_seconds": 28.0,
        "epoch_seconds": 6.5,
        "training_bytes": 10e9,
        "peak_bytes": 11e9,
        "peak_limit": 13e9,
        "resumed_equal": True,
        "eval_equal": False,
        "cpu": "c",
        "threads": 2,
        "torch": "2",
        "date": "2026-11-28",
        "git_sha": "0" * 40,
        "git_dirty": False,
    }
    busy = {**line, "storage": "bfloat16", "start_seconds": None, "epoch_seconds": None}
    page = "\n".join(speed.large([line, busy]))
    assert "| 1e+09 | float32 | 1 | 28 | 6.5 | 10.00 | 11.00 | 13.00 | equal | differs |" in page
    assert "| 1e+09 | bfloat16 | 1 | — | — |" in page
