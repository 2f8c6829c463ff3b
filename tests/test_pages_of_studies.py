"""Tables of the pages of single studies: MLET, widths in chunks, OptEmbed, DimGrow."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from benchmarks.accuracy import dimgrow, evidence, mlet, optembed
from benchmarks.pages import combined as combined_page
from benchmarks.pages import dimgrow as dimgrow_page
from benchmarks.pages import every_way
from benchmarks.pages import mlet as mlet_page
from benchmarks.pages import optembed as optembed_page
from benchmarks.record import Records, recorded_fit
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
