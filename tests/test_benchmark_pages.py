"""The measured pages: what their tables hold, and that they are written from the records."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, fields, replace
from typing import Any

import pytest

from benchmarks.accuracy import backbones, dimgrow, evidence, mlet, optembed, unified
from benchmarks.pages import analysis as analysis_page
from benchmarks.pages import combined as combined_page
from benchmarks.pages import dimgrow as dimgrow_page
from benchmarks.pages import every_way, readme, results, speed, tables
from benchmarks.pages import kernels as kernels_page
from benchmarks.pages import mlet as mlet_page
from benchmarks.pages import optembed as optembed_page
from benchmarks.pages import unified as unified_page
from benchmarks.pages.markdown import Column as TableColumn
from benchmarks.pages.markdown import fill, marks, table
from benchmarks.record import Records, recorded_fit
from seo_rec import analysis
from seo_rec.schema import Column, Schema
from seo_rec.search import find

PLAN = mlet.Plan((1.0, 2.0), (3.0,), (4.0, 5.0), ("mlp",), (4, 8), (16, 64), (0, 1, 2))


# ---- MLET --------------------------------------------------------------------------------


def line_of(part: str, cell: mlet.Cell, val: float, test: float, data: str = "a") -> dict[str, Any]:
    line = {
        "part": part,
        "tuned": PLAN.tuned() if part == "auc" else None,
        "epochs": cell.epochs - (cell.seed > 0),
        "cell": asdict(cell),
        "data": f"set {data}",
        "data_fingerprint": data,
        "model": cell.model.as_json(),
        "fit": recorded_fit(cell.fit),
        "val_auc": val,
        "test_auc": test,
        "pr_auc": {"most": test, "least": test / 2 * (1 + 0.01 * cell.seed * (cell.k > 0))},
    }
    return json.loads(json.dumps(line))  # type: ignore[no-any-return]


def tuned(data: str, best: float) -> list[dict[str, Any]]:
    cells = [*mlet.tuning(PLAN, False), *mlet.tuning(PLAN, True)]
    return [line_of("tune", c, 0.5 + 0.1 * (c.choice.lr == best), 0.9, data) for c in cells]


def test_the_choice_is_that_of_one_data_set_by_validation() -> None:
    found = Records.of([*tuned("a", 2.0), *tuned("b", 1.0)], mlet.IDENTITY)
    assert mlet.chosen(found, PLAN, "a", False) == mlet.Choice(2.0, 3.0)
    assert mlet.chosen(found, PLAN, "b", True) == mlet.Choice(1.0, 3.0, 4.0)
    assert mlet.chosen(found, PLAN, "c", True) is None
    wider = replace(PLAN, rates=(1.0, 2.0, 9.0))
    assert mlet.chosen(found, wider, "a", False) is None


def test_tables_hold_the_present_choice_and_common_seeds() -> None:
    """k is that of validation though another has more test AUC; other choices do not count.

    0.62 is a quarter of the way from 0.615 (width 4) to 0.635 (width 8): 2^0.75 = 1.7.
    """
    one, two = mlet.Choice(2.0, 3.0), mlet.Choice(2.0, 3.0, 4.0)
    lines = [*tuned("a", 2.0), *tuned("b", 2.0)]
    for cell in mlet.grid(PLAN, one, two):
        if (cell.d, cell.k, cell.seed) == (8, 64, 2):
            continue  # leaves seeds 0 and 1
        wild = 0.4 * (cell.seed == 2)
        val = {0: 0.5, 16: 0.7, 64: 0.6}[cell.k]
        test = {0: 0.60, 16: 0.61 + 0.01 * cell.seed, 64: 0.69}[cell.k] + (cell.d == 8) * 0.02
        lines.append(line_of("auc", cell, val, test - wild))
        other = replace(cell, choice=replace(cell.choice, lr=1.0))
        lines.append(line_of("auc", other, 0.99, 0.1))
        lines.append(line_of("auc", cell, 0.99, 0.2, "b"))
    page = "\n".join(mlet_page.region(lines, PLAN)).split("set b")
    assert "17 of 18 planned runs are recorded. 17 of other settings are not shown." in page[0]
    assert "12 of 23 runs hit the limit of epochs" in page[0]  # those of seed 0, `tune` included
    assert "17 of 18 planned runs are recorded. Chosen" in page[1]
    assert "one layer, of 2 trials, with learning rate 2 and L2 3; MLET, of 4, with" in page[0]
    assert "are, one layer: learning rate (the largest); MLET: learning rate (the" in page[0]
    assert "`mlp`, test AUC, seeds 0, 1:" in page[0]
    assert "| no narrower table tried |" in page[0]
    assert (
        "| 8 | 0.62000 | 0.63500; +0.01500 ± 0.00500 (p 0.205) | 0.71000; +0.09000 ± 0.00000 "
        "(p n/a) |" in page[0]
    )
    assert "| 8 | 16 | 1.7 times | +2.42 % | +2.94 % | +0.52 ± 0.52 |" in page[0]
    found, _ = mlet_page.region(tuned("a", 2.0)[:-1], PLAN)
    assert found.endswith(": 5 of 6 runs of `tune` are recorded, so nothing is chosen yet.")
    assert "the plan has 144 runs" in mlet_page.region([])[0]


def test_mlet_shows_every_plan_that_was_recorded() -> None:
    """Other trials, other limits of epochs, and cells that the plan does not have."""
    one, two = mlet.Choice(2.0, 3.0), mlet.Choice(2.0, 3.0, 4.0)
    longer = replace(PLAN, epochs=40)
    wider = replace(PLAN, seeds=(0, 1), widths=(8, 32))
    lines = []
    for plan in (PLAN, longer):
        lines += [line_of("tune", c, c.choice.lr, 0.9) for c in mlet.tuning(plan, False)]
        lines += [line_of("tune", c, c.choice.lr, 0.9) for c in mlet.tuning(plan, True)]
    for plan in (longer, PLAN, wider):
        cells = mlet.grid(plan, one, two)
        lines += [line_of("auc", c, 0.6, 0.6 + 0.01 * (c.k > 0)) for c in cells]
    page = "\n".join(mlet_page.region(lines, PLAN))
    assert "at most 40 epochs: 18 of 18 planned runs are recorded. Chosen" in page
    assert "at most 20 epochs: 18 of 18 planned runs are recorded, and 4 more. Chosen" in page
    assert page.count("seeds 0, 1, 2:") == 2
    assert "not shown: d = 32, k = 0; d = 32, k = 64." in page


@pytest.mark.parametrize(
    "by_width, expected",
    [
        ({8: 0.8}, None),
        ({8: 0.9}, (1.0, True)),
        ({4: 0.9, 8: 0.95}, (2.0, True)),
        ({2: 0.8, 4: 1.0, 8: 1.0}, (2**1.5, False)),
        ({4: 0.8, 16: 1.0}, None),
    ],
)
def test_how_many_times_narrower(by_width: dict[int, float], expected: Any) -> None:
    """0.9 halfway between widths 2 and 4 is at width 2 sqrt 2."""
    found = mlet_page.narrower(8, 0.9, by_width)
    assert (found is None) if expected is None else found == pytest.approx(expected)


# ---- widths in chunks --------------------------------------------------------------------


COMBINED_FIT = recorded_fit(next(p for p in evidence.movielens() if p.name == "ml-1m").fit)


def combined_line(seed: int, val: float, lookups: int = 3, **more: Any) -> dict[str, Any]:
    line = {"method": "sseds-chunks-4", "form": "chunks", "search": "sseds", "chunk_dim": 4}
    line |= {"data": "set d", "data_fingerprint": "d", "params": 800, "seed": seed, "val_auc": val}
    line |= {"test_auc": 0.5, "lookups": {"a": lookups, "b": 1}, "tables": []}
    return {**line, "fit": {**COMBINED_FIT, "seed": seed}, **more}


def test_combinations_stand_beside_both_of_their_parts_on_validation() -> None:
    lines = [combined_line(seed, 0.8 + 0.01 * seed, 3 - 2 * (seed == 1)) for seed in (0, 1)]
    lines.append(combined_line(0, 0.7, 1, method="sseds-chunks-2", chunk_dim=2))
    lines.append(combined_line(0, 0.7, 1, fit={**COMBINED_FIT, "epochs": 3}))
    part = {"data_fingerprint": "d", "budget": 800, "test_auc": 0.9}
    plain = []
    for seed in (0, 1, 2):
        own = {**part, "method": "sseds", "study": "ml-1m-widths", "seed": seed}
        seo = {**part, "method": "seo", "study": "ml-1m", "seed": seed, "val_auc": 0.81}
        plain += [{**own, "val_auc": 0.79 - 0.01 * seed}, seo]
        plain += [{**seo, "study": "ml-1m-shared", "val_auc": 0.1}, {**seo, "budget": 900}]
        plain += [{**own, "data_fingerprint": "e", "val_auc": 0.1}]
    page = combined_page.region(lines, plain)
    assert "800 floats, batch 2,048, learning rate 0.002, L2 0.0002: 2 of 9 planned" in page[0]
    assert "planned runs and 1 more. " in page[0]
    row, degenerate = (x for x in page if x.startswith("| sseds's widths") and "0.81000" in x)
    assert row.startswith(
        "| sseds's widths in chunks of 4, degenerate with seed 1: one chunk for every feature | 2 "
        "| 0.80500 ± 0.00707 | 0.78500 ± 0.00707; +0.02000 ± 0.01000 (p 0.295) "
        "| 0.81000 ± 0.00000; \N{MINUS SIGN}0.00500 ± 0.00500 (p 0.500) | seo "
        "| 0.50000 ± 0.00000 |"
    )
    assert "in chunks of 2, degenerate: one chunk" in degenerate
    other = page[-2]
    assert combined_page.region([], []) == [
        "Nothing is recorded yet; a data set and budget have 9 runs."
    ]
    assert "| not recorded | not recorded |" in other and "not known yet" in other


# ---- OptEmbed, DimGrow, costs ------------------------------------------------------------

DATA = Schema("set f", (Column("a", "categorical", 3),), "y", {}, {}, options={"rating_rule": "r"})


def optembed_lines(*arguments: str) -> list[dict[str, Any]]:
    """What a command would record, with made-up figures: full gains 0.002, 0.004, 0.006."""
    lines = []
    for what in optembed.cells(optembed.parser().parse_args(["--data", "d", *arguments]), DATA):
        auc = 0.8 + 0.01 * what["seed"] + 0.002 * (what["variant"] == "full") * (1 + what["seed"])
        found = {s: {"auc": auc, "log_loss": 0.4} for s in ("val", "test")}
        sparsity = 0.25 + 0.05 * what["seed"] * (what["variant"] == "full")
        line = {"what": what, "sparsity": sparsity, "params": 96, "train_seconds": 2.0}
        line["trained"] = found
        if what["variant"] != "original":
            before = {s: {"auc": auc - 0.05, "log_loss": 0.5} for s in ("val", "test")}
            line |= {"supernet": before, "search_seconds": 7.0, "record": {}}
            if what["variant"] != "rows":
                scored = [{"score": 0.7}, {"score": 0.7 + 0.001 * (1 + what["seed"])}]
                line["record"] = {"generations": scored}
        lines.append(line)
    return lines


def test_optembed_counts_its_plan_and_pairs_by_seed() -> None:
    lines = optembed_lines()
    assert len(lines) == 36
    by_variant = {v: {x["what"]["backbone"] for x in lines if x["what"]["variant"] == v}
                  for v in optembed.VARIANTS}  # fmt: skip
    assert by_variant["original"] == by_variant["full"] == set(optembed.BACKBONES)
    assert by_variant["rows"] == by_variant["dims"] == {"deepfm", "dcn"}
    page = optembed_page.region(lines[:-1])
    assert page[0].startswith("set f, fingerprint `") and "rating rule `r`" in page[0]
    assert "20 epochs" in page[0] and "a supernet of at most 5 epochs" in page[0]
    assert page[0].endswith("; 35 of 36 planned runs:")
    size, score, gain = (x for x in page if x.startswith("| fnn | full |"))
    assert size.endswith("| 3 | 96 | 30.0 % (25.0 % to 35.0 %) | 7 | 2 |")
    assert score.count("0.76400 ± 0.01200") == score.count("0.81400 ± 0.01200") == 2
    assert gain.endswith("| +0.05000 ± 0.00000 (p n/a) | +0.00400 ± 0.00115 (p 0.074) | +0.00200 |")
    size, _, gain = (x for x in page if x.startswith("| dcn | rows |"))
    assert size.endswith("| 3 | 96 | 25.0 % | 7 | 2 |") and gain.endswith("| — |")
    assert optembed_page.region([]) == ["Nothing is recorded yet; the plan has 36 runs."]


def test_optembed_shows_every_setting_in_its_own_table() -> None:
    """Searches of other settings share the originals; trainings of other settings do not."""
    few = ("--variants", "original", "full", "dims", "--backbones", "fnn")
    lines = optembed_lines(*few)
    lines += [x for x in optembed_lines(*few, "--alpha", "0.5") if "supernet" in x]
    lines += optembed_lines(*few, "--lr", "0.5", "--seeds", "1")
    page = optembed_page.region(lines)
    titles = [x for x in page if x.startswith("set f")]
    assert len(titles) == 3 and "alpha 0.5" in titles[1] and "learning rate 0.5" in titles[2]
    assert titles[0].endswith("6 of 36 planned runs and 3 more:")
    sizes = [x for x in page if x.startswith("| fnn |") and "±" not in x and " 96 " in x]
    assert [x.split("|")[3].strip() for x in sizes] == ["3"] * 6 + ["1"] * 3
    folders = {optembed.folder_of(x["what"]) for x in lines}
    assert len(folders) == 9 + 3 + 3  # dims do not read alpha, and are not trained twice
    assert all(name.startswith(DATA.fingerprint) for name in folders)


def dimgrow_records(data: Schema, **more: Any) -> list[dict[str, Any]]:
    """No search at full width and 0.1 of it, and DimGrow there, of seeds 0 to 2."""
    lines = []
    for seed in range(3):
        for method, share, auc in (
            ("no-search", 0.0, 0.9),
            ("no-search", 0.1, 0.8 - 0.01 * seed),
            ("dimgrow", 0.1, 0.81),
        ):
            settings = {**asdict(find(method).settings()), "params": int(share * 100)}
            if method == "dimgrow":
                settings |= more
            what = {**dimgrow.of_data(data), "method": method, "share": share, "seed": seed}
            what |= {"settings": settings, "fit": recorded_fit(replace(dimgrow.FIT, seed=seed))}
            what["model"] = dimgrow.MODEL.as_json()
            line = {"part": "widths", "what": what, "test_auc": auc, "test_logloss": 0.4}
            line |= {"params": 100, "share_of_full": share or 1.0, "total_dims": 3 + seed}
            line |= {"search_seconds": 2.0, "train_seconds": 1.0, "epochs": 100 - seed}
            lines.append(line | {"dims": {"a": 3, "b": seed + 1}, "dropped": ["c"]})
    return lines


def test_dimgrow_pairs_by_seed_and_says_what_it_found() -> None:
    """The standard error of differences (0.01, 0.02, 0.03) is 0.01 / sqrt(3)."""
    page = dimgrow_page.region(json.loads(json.dumps(dimgrow_records(DATA))))
    assert "rating rule `r`, batch 2,048, patience 2, at most 100 epochs. 9 of 33" in page[0]
    assert page[0].endswith("3 of 9 trainings hit the limit of epochs.")
    row, cost, dims, *_ = (x for x in page if "| 10.0 % | dimgrow |" in x)
    assert row == (
        "| 10.0 % | dimgrow | 3 | 0.81000 ± 0.00000 "
        "| +0.02000 ± 0.00577 (p 0.074) | \N{MINUS SIGN}0.09000 ± 0.00000 (p n/a) |"
    )
    assert cost == "| 10.0 % | dimgrow | 100 ± 0 | 10.0 % | 4.0 ± 0.6 | 2 ± 0 | 1 ± 0 |"
    assert dims == "| 10.0 % | dimgrow | 0 | 3 | 1 | dropped |"


def test_dimgrow_mixes_neither_data_nor_settings() -> None:
    other = replace(DATA, options={"rating_rule": "other"})
    lines = [*dimgrow_records(DATA), *dimgrow_records(other)]
    lines += [x for x in dimgrow_records(DATA, alpha=0.5) if x["what"]["method"] == "dimgrow"]
    shorter = dimgrow_records(DATA)
    for line in shorter:
        line["what"]["fit"]["epochs"] = 20
    lines += shorter
    old = {"data": "d", "method": "dimgrow", "share": 0.0, "seed": 0, "set": []}
    lines.append({"part": "widths", "what": old, "test_auc": 0.1})
    page = dimgrow_page.region(json.loads(json.dumps(lines)))
    titles = [x for x in page if x.startswith("set f, fingerprint")]
    assert len(titles) == 3 and "9 of 33 planned runs, and 3 more;" in titles[0]
    assert "at most 20 epochs. 0 of 33 planned runs, and 9 more;" in titles[2]
    assert sum("| 10.0 % | dimgrow, alpha=0.5 | 3 |" in x for x in page) == 1
    assert sum("| 10.0 % | dimgrow | 3 |" in x for x in page) == 3


def test_dimgrow_counts_its_plan() -> None:
    page = "\n".join(dimgrow_page.region())
    assert "33 " in page and "| sseds | 16 | 600 | 96 | 3.37 |" in page
    nothing = dimgrow_page.region([])
    assert nothing == ["Nothing is recorded yet of `widths`; its plan has 33 runs."]
    plan = dimgrow.cases(dimgrow.PLAN_METHODS, dimgrow.PLAN_SHARES)
    assert plan[:2] == [("no-search", 0.0), ("dimgrow", 0.0)] and len(plan) == 11


def test_columns_without_lines_are_left_out() -> None:
    assert every_way.sections({"movielens": [], "criteo": []}) == []
    assert every_way.overview({"movielens": [], "criteo": []}) == ["Nothing is recorded yet."]
    line = {"study": "ml-1m-48000", "method": "seo", "seed": 0, "embedding_params": 48_000}
    line |= {"val_auc": 0.89, "test_auc": 0.88, "test_logloss": 0.3, "seconds": 2.0}
    line |= {"search_seconds": 7.0, "search_peak_bytes": 3_000_000}
    line |= {"environment": {"cpu": "c", "threads": 1}}
    page = every_way.sections({"movielens": [line], "criteo": []})
    assert [x for x in page if x.startswith("#")] == [
        "## MovieLens-1M, 48,000 parameters",
        "## Notes",
    ]
    assert "| SEO, default run-off | 7 | 3.00 | 2 | — | 48,000 | — |" in page
    assert page.count(every_way.MEMORY) == page.count(every_way.IDS) == 1
    factored = {**line, "method": "seo+mlet", "test_auc": 0.881, "test_logloss": 0.29}
    short = every_way.overview({"movielens": [line, factored], "criteo": []})
    assert short[0] == "| test AUC, three seeds | MovieLens-1M, 48,000 | with MLET |"
    plain, with_mlet = "0.88000 (1 of 3)", "0.88100 (1 of 3)"
    assert short[2:] == [f"| SEO, default run-off | {plain} | {with_mlet} |", ""]
    base, more = ({**line, "study": s} for s in ("ml-1m", "ml-1m-l2-8e-4"))
    short = every_way.overview({"movielens": [base, {**more, "test_auc": 0.9}], "criteo": []})
    assert short[0].endswith("| MovieLens-1M, 96,000 | with MLET | with four times the L2 |")
    assert short[2].endswith(f"| {plain} | — | 0.90000 (1 of 3) |")
    page = every_way.sections({"movielens": [line, factored], "criteo": []})
    assert any("| 0.88100 (1 of 3) | 0.29000 |" in text for text in page)
    by_id = [{**line, "id_bytes": n, "seed": s} for s, n in ((0, 105_168), (1, 0))]
    why = {"study": "ml-1m-48000", "method": "sseds", "seed": 0, "infeasible": "too small"}
    page = every_way.sections({"movielens": [*by_id, why], "criteo": []})
    assert "| SEO, default run-off | 7 | 3.00 | 2 | — | 48,000 | 0.000 to 0.105 |" in page
    assert "Infeasible at this budget: SSEDS (too small), seed 0." in page
    assert any(
        text.startswith("The seconds were measured on c, threads: 1 (2 runs), ") for text in page
    )
    assert any(
        "on all rows of the tables (read in a batch or not), at most 20 epochs. MLET has k 32 and "
        "std 0.5. Searches of widths go up to 32 columns, equal widths up to 16." in text
        for text in page
    )
    assert not any("chose" in text for text in page)
    told = [{**line, "seed": s, "winner": w} for s, w in ((0, "rr"), (1, "trivial-2x8"), (2, "rr"))]
    page = every_way.sections({"movielens": told, "criteo": []})
    assert "SEO's run-off chose `rr` with seeds 0, 2; `trivial-2x8` with seed 1." in page
    short = every_way.overview({"movielens": told, "criteo": []})
    assert short[-2].startswith("SEO's run-off chose, MovieLens-1M, 48,000: `rr` with seeds 0, 2;")


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
