"""Benchmarks that choose, compare and record: what counts as done, and what their tables hold."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    backbones,
    combined,
    dimgrow,
    everything_table,
    evidence,
    mlet,
    optembed,
    tables,
    unified,
    unified_table,
)
from seo_rec import recipes, search
from seo_rec.model import ModelSettings
from seo_rec.policy import Policy
from seo_rec.schema import Column, Schema, read_schema
from seo_rec.search.optembed import OptEmbedSettings
from seo_rec.train import FitSettings

PLAN = mlet.Plan((1.0, 2.0), (3.0,), (4.0, 5.0), ("mlp",), (4, 8), (16, 64), (0, 1, 2))
FIT = FitSettings(epochs=1, batch_size=200)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(module: Any, *arguments: Any) -> None:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        module.main()

    return run


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
        "fit": asdict(cell.fit),
        "val_auc": val,
        "test_auc": test,
        "pr_auc": {"most": test, "least": test / 2 * (1 + 0.01 * cell.seed * (cell.k > 0))},
    }
    return json.loads(json.dumps(line))  # type: ignore[no-any-return]


def tuned(data: str, best: float) -> list[dict[str, Any]]:
    cells = [*mlet.tuning(PLAN, False), *mlet.tuning(PLAN, True)]
    return [line_of("tune", c, 0.5 + 0.1 * (c.choice.lr == best), 0.9, data) for c in cells]


def test_the_choice_is_that_of_one_data_set_by_validation() -> None:
    found = mlet.by_key([*tuned("a", 2.0), *tuned("b", 1.0)])
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
    page = "\n".join(mlet.page_lines(lines, PLAN)).split("set b")
    assert "17 of 18 planned runs are recorded. 17 of other settings are not shown." in page[0]
    assert "12 of 23 runs hit the limit of epochs" in page[0]  # those of seed 0, `tune` included
    assert "17 of 18 planned runs are recorded. Chosen" in page[1]
    assert "one layer, of 2 trials, with learning rate 2 and L2 3; MLET, of 4, with" in page[0]
    assert "are, one layer: learning rate (the largest); MLET: learning rate (the" in page[0]
    assert "`mlp`, test AUC, seeds 0, 1:" in page[0]
    assert "| no narrower table tried |" in page[0]
    assert (
        "| 8 | 0.62000 | 0.63500 | +0.01500 ± 0.00500 (p 0.205) | 0.71000 | +0.09000 ± 0.00000 "
        "(p n/a) | 16 | 1.7 times | +2.42 % | +2.94 % | +0.52 ± 0.52 |" in page[0]
    )
    (found,) = mlet.page_lines(tuned("a", 2.0)[:-1], PLAN)
    assert found.endswith(": 5 of 6 runs of `tune` are recorded, so nothing is chosen yet.")
    assert "the plan has 144 runs" in mlet.page_lines([])[0]


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
    page = "\n".join(mlet.page_lines(lines, PLAN))
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
    found = mlet.narrower(8, 0.9, by_width)
    assert (found is None) if expected is None else found == pytest.approx(expected)


def test_mlet_is_tuned_first_and_runs_once(
    tiny: Path,
    tmp_path: Path,
    command: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(mlet, "RECORD", tmp_path / "mlet.jsonl")
    small = ("--data", tiny, "--record", "--out", tmp_path / "runs", "--rates", 2e-3, "--l2s", 0)
    small = (*small, "--epochs", 1)
    small = (*small, "--stds", 0.5, "--only", "mlp", "--widths", 2, "--inner", 3, "--seeds", 0, 1)
    with pytest.raises(SystemExit):
        command(mlet, "auc", *small)
    assert "run `tune --record` first" in capsys.readouterr().err
    for part in ("tune", "auc", "auc"):
        command(mlet, part, *small)
    assert [x["part"] for x in mlet.recorded()] == ["tune"] * 2 + ["auc"] * 2
    assert capsys.readouterr().out.endswith("2 of 2 runs hit the limit of epochs\n")
    command(mlet, "show", *small)
    assert "2 of 2 planned runs are recorded." in capsys.readouterr().out


# ---- widths in chunks --------------------------------------------------------------------


@pytest.fixture
def searches(tiny: Path, tmp_path: Path) -> Path:
    kind, function = search.SEARCHES["mixed-dimension"]
    settings = kind(params=800, max_dim=8)  # type: ignore[call-arg]
    folder = tmp_path / "searches" / "mixed-dimension-seed0"
    folder.mkdir(parents=True)
    function(tiny, settings, ModelSettings(), FIT).policy.save(folder / "policy.json")
    return folder.parent


def test_a_line_is_done_when_it_is_recorded(
    tiny: Path,
    tmp_path: Path,
    searches: Path,
    command: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A finished run without its line is recorded, and not trained again."""
    record = tmp_path / "combined.jsonl"
    monkeypatch.setattr(combined, "RECORD", record)
    quick = lambda **given: FitSettings(**{**given, "epochs": 1, "batch_size": 200})  # noqa: E731
    monkeypatch.setattr(combined, "FitSettings", quick)
    asked = ("--data", tiny, "--searches", searches, "--methods", "mixed-dimension", "--seeds", 1)
    asked = (*asked, "--params", 800, "--chunk-dims", 2, "--forms", "chunks")
    asked = (*asked, "--out", tmp_path / "runs")
    command(combined, *asked)
    assert not record.exists()
    monkeypatch.setattr(recipes.training, "train_model", None)
    command(combined, *asked, "--record")
    command(combined, *asked, "--record")
    (line,) = combined.read(record)
    for words in ("--params 800", "--chunk-dims 2", "--lr 0.002", f"--searches {searches}"):
        assert words in line["command"]
    assert combined.page_lines([], []) == [
        "Nothing is recorded yet; a data set and budget have 9 runs."
    ]


COMBINED_FIT = asdict(next(p for p in evidence.movielens() if p.name == "ml-1m").fit)


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
    page = combined.page_lines(lines, plain)
    assert "800 floats, batch 2,048, learning rate 0.002, L2 0.0002: 2 of 9 planned" in page[0]
    assert "planned runs and 1 more. " in page[0]
    row, degenerate = (x for x in page if x.startswith("| sseds's widths") and "0.81000" in x)
    assert row.startswith(
        "| sseds's widths in chunks of 4, degenerate with seeds 1: one chunk for every feature | 2 "
        "| 0.80500 ± 0.00707 | 0.78500 ± 0.00707 | 0.81000 ± 0.00000 | +0.02000 ± 0.01000 "
        "(p 0.295) | \N{MINUS SIGN}0.00500 ± 0.00500 (p 0.500) | seo | 0.50000 ± 0.00000 |"
    )
    assert "in chunks of 2, degenerate: one chunk" in degenerate
    other = page[-1]
    assert "| not recorded | not recorded |" in other and "not known yet" in other


def test_pruned_tables_beside_chunks_spend_one_budget(tiny: Path) -> None:
    """A feature that the search dropped has chunks alone."""
    schema = read_schema(tiny)
    kind, function = search.SEARCHES["no-search"]
    own = function(tiny, kind(params=800, max_dim=8, address="id"), ModelSettings(), FIT).policy  # type: ignore[call-arg]
    gone = own.features[-1]
    tables = tuple(t for t in own.tables if t.name not in {k.table for k in gone.lookups})
    ids = {name: v for name, v in own.vocabularies.items() if name != gone.name}
    own = replace(
        own, tables=tables, features=own.features[:-1], dropped=(gone.name,), vocabularies=ids
    )
    found = combined.beside(own, tiny, 1600, 4, 0)
    assert [f.name for f in found.features] == [c.name for c in schema.features]
    assert not found.dropped and 1600 - 4 < found.num_params <= 1600
    lookups = {f.name: [k.address for k in f.lookups] for f in found.features}
    assert lookups.pop(gone.name) == ["hash"] * 4
    assert all(x[0] == "id" and x[-4:] == ["hash"] * 4 for x in lookups.values())
    with pytest.raises(ValueError, match="divisors of 16"):
        combined.beside(own, tiny, 1600, 3, 0)


def test_a_search_at_half_the_budget_is_combined_and_recorded(
    tiny: Path, tmp_path: Path, command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(combined, "RECORD", tmp_path / "combined.jsonl")
    quick = lambda **given: FitSettings(**{**given, "epochs": 1, "batch_size": 200})  # noqa: E731
    monkeypatch.setattr(combined, "FitSettings", quick)
    fast = lambda **given: OptEmbedSettings(**given, generations=1)  # noqa: E731
    monkeypatch.setattr(combined, "OptEmbedSettings", fast)
    asked = ("--data", tiny, "--forms", "beside", "--seeds", 1, "--params", 1600)
    command(combined, *asked, "--chunk-dims", 4, "--out", tmp_path / "runs", "--record")
    (line,) = combined.read(tmp_path / "combined.jsonl")
    assert line["method"] == "optembed-beside-4" and line["embedding_params"] <= 1600
    with pytest.raises(SystemExit):
        command(combined, "--data", tiny)


def test_searches_that_do_not_fit_are_refused(tiny: Path, tmp_path: Path, searches: Path) -> None:
    schema, path = read_schema(tiny), searches / "mixed-dimension-seed0" / "policy.json"
    found = combined.read_found(path, schema, 800)
    with pytest.raises(ValueError, match="at a budget of 800 parameters and --params is 900"):
        combined.read_found(path, schema, 900)
    other = replace(found, provenance={**found.provenance, "data_fingerprint": "b"})
    fewer = {name: ids[:-1] for name, ids in found.vocabularies.items()}
    assert fewer, "no feature has an id table, so this test says nothing"
    pruned = replace(found, vocabularies=fewer)
    shared = recipes.method_policy("monolithic", tiny, 800, 8, 4, 0)
    arguments = {**shared.provenance["arguments"], "params": 800}
    shared = replace(shared, provenance={**shared.provenance, "arguments": arguments})
    cases: dict[str, Policy] = {
        "of the data b": other,
        "are pruned, and chunk tables": pruned,
        "share no table": shared,
    }
    for says, policy in cases.items():
        policy.save(tmp_path / "p.json")
        with pytest.raises(ValueError, match=says):
            combined.read_found(tmp_path / "p.json", schema, 800)


# ---- OptEmbed, DimGrow, costs ------------------------------------------------------------

DATA = Schema("set f", (Column("a", "categorical", 3),), "y", {}, {}, options={"rating_rule": "r"})


def optembed_lines(*arguments: str) -> list[dict[str, Any]]:
    """What a command would record, with made-up figures: full gains 0.002, 0.004, 0.006."""
    lines = []
    for what in optembed.cells(optembed.parser().parse_args([*arguments]), DATA):
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
    page = optembed.page_lines(lines[:-1])
    assert page[0].startswith("set f, fingerprint `") and "rating rule `r`" in page[0]
    assert "20 epochs" in page[0] and "a supernet of at most 5 epochs" in page[0]
    assert page[0].endswith("; 35 of 36 planned runs:")
    (row,) = (x for x in page if x.startswith("| fnn | full |"))
    assert "| 3 | 96 | 30.0 % (25.0 % to 35.0 %) |" in row and "| +0.00200 | 7 | 2 |" in row
    (rows,) = (x for x in page if x.startswith("| dcn | rows |"))
    assert "| 3 | 96 | 25.0 % |" in rows and "|  | 7 | 2 |" in rows
    assert "| +0.05000 ± 0.00000 (p n/a) |" in row
    assert "+0.00400 ± 0.00115 (p 0.074)" in row
    assert row.count("0.76400 ± 0.01200") == row.count("0.81400 ± 0.01200") == 2
    assert optembed.page_lines([]) == ["Nothing is recorded yet; the plan has 36 runs."]


def test_optembed_shows_every_setting_in_its_own_table() -> None:
    """Searches of other settings share the originals; trainings of other settings do not."""
    few = ("--variants", "original", "full", "dims", "--backbones", "fnn")
    lines = optembed_lines(*few)
    lines += [x for x in optembed_lines(*few, "--alpha", "0.5") if "supernet" in x]
    lines += optembed_lines(*few, "--lr", "0.5", "--seeds", "1")
    page = optembed.page_lines(lines)
    titles = [x for x in page if x.startswith("set f")]
    assert len(titles) == 3 and "alpha 0.5" in titles[1] and "learning rate 0.5" in titles[2]
    assert titles[0].endswith("6 of 36 planned runs and 3 more:")
    assert [x.split("|")[3].strip() for x in page if x.startswith("| fnn |")] == (
        ["3"] * 6 + ["1"] * 3
    )
    folders = {optembed.folder_of(x["what"]) for x in lines}
    assert len(folders) == 9 + 3 + 3  # dims do not read alpha, and are not trained twice
    assert all(name.startswith(DATA.fingerprint) for name in folders)


def test_optembed_runs_once_with_epochs_of_its_own(
    tiny: Path, tmp_path: Path, command: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optembed, "RECORD", tmp_path / "optembed.jsonl")
    asked = ("--data", tiny, "--out", tmp_path / "runs", "--record", "--backbones", "fnn")
    asked = (*asked, "--variants", "original", "full", "--seeds", 1, "--batch-size", 200)
    asked = (*asked, "--generations", 1, "--search-epochs", 1, "--epochs", 2)
    for _ in range(2):
        command(optembed, *asked)
    original, full = optembed.read()
    assert (original["train_epochs"], full["train_epochs"]) == (2, 2)
    assert "supernet" not in original and 0 <= full["sparsity"] < 1
    (folder,) = (tmp_path / "runs").glob("*-full-*")
    assert json.loads((folder / "search" / "run.json").read_text())["fit"]["epochs"] == 1
    assert optembed.page_lines()[0].endswith("2 of 36 planned runs:")


def dimgrow_records(data: Schema, **more: Any) -> list[dict[str, Any]]:
    """No search at full width and 0.1 of it, and DimGrow there, of seeds 0 to 2."""
    lines = []
    for seed in range(3):
        for method, share, auc in (
            ("no-search", 0.0, 0.9),
            ("no-search", 0.1, 0.8 - 0.01 * seed),
            ("dimgrow", 0.1, 0.81),
        ):
            settings = {**asdict(search.SEARCHES[method].settings()), "params": int(share * 100)}
            if method == "dimgrow":
                settings |= more
            what = {**dimgrow.of_data(data), "method": method, "share": share, "seed": seed}
            what |= {"settings": settings, "fit": asdict(replace(dimgrow.FIT, seed=seed))}
            what["model"] = dimgrow.MODEL.as_json()
            line = {"part": "widths", "what": what, "test_auc": auc, "test_logloss": 0.4}
            line |= {"params": 100, "share_of_full": share or 1.0, "total_dims": 3 + seed}
            line |= {"search_seconds": 2.0, "train_seconds": 1.0, "epochs": 100 - seed}
            lines.append(line | {"dims": {"a": 3, "b": seed + 1}, "dropped": ["c"]})
    return lines


def dimgrow_page(*lines: dict[str, Any]) -> list[str]:
    records = dimgrow.Records(None)
    for line in lines:
        records.add(**line)
    return dimgrow.page_lines(records)


def test_dimgrow_pairs_by_seed_and_says_what_it_found() -> None:
    """The standard error of differences (0.01, 0.02, 0.03) is 0.01 / sqrt(3)."""
    page = dimgrow_page(*dimgrow_records(DATA))
    assert "rating rule `r`, batch 2,048, patience 2, at most 100 epochs. 9 of 33" in page[0]
    assert page[0].endswith("3 of 9 trainings hit the limit of epochs.")
    row, dims, *_ = (x for x in page if "| 10.0 % | dimgrow |" in x)
    assert (
        "| 10.0 % | dimgrow | 3 | 100 ± 0 | 10.0 % | 4.0 ± 0.6 | 0.81000 ± 0.00000 | "
        "0.40000 ± 0.00000 | +0.02000 ± 0.00577 (p 0.074) | "
        "\N{MINUS SIGN}0.09000 ± 0.00000 (p n/a) |"
    ) in row
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
    page = dimgrow_page(*lines, {"part": "widths", "what": old, "test_auc": 0.1})
    titles = [x for x in page if x.startswith("set f, fingerprint")]
    assert len(titles) == 3 and "9 of 33 planned runs, and 3 more;" in titles[0]
    assert "at most 20 epochs. 0 of 33 planned runs, and 9 more;" in titles[2]
    assert sum("| 10.0 % | dimgrow, alpha=0.5 | 3 |" in x for x in page) == 1
    assert sum("| 10.0 % | dimgrow | 3 |" in x for x in page) == 3


def test_dimgrow_counts_its_plan(tmp_path: Path) -> None:
    page = "\n".join(dimgrow.page_lines())
    assert "33 " in page and "| sseds | 16 | 600 | 96 | 3.37 |" in page
    nothing = dimgrow.page_lines(dimgrow.Records(tmp_path / "none"))
    assert nothing == ["Nothing is recorded yet of `widths`; its plan has 33 runs."]
    plan = dimgrow.cases(dimgrow.PLAN_METHODS, dimgrow.PLAN_SHARES)
    assert plan[:2] == [("no-search", 0.0), ("dimgrow", 0.0)] and len(plan) == 11


def test_dimgrow_runs_once_in_a_folder_of_its_data(
    tiny: Path,
    tmp_path: Path,
    command: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(dimgrow, "RECORD", tmp_path / "dimgrow.jsonl")
    asked = ("widths", "--data", tiny, "--out", tmp_path / "runs", "--record", "--epochs", 1)
    asked = (*asked, "--seeds", 1, "--shares", 0.5)
    for _ in range(2):
        command(dimgrow, *asked, "--methods", "no-search", "sseds")
    lines = dimgrow.RECORD.read_text().splitlines()
    whats = [json.loads(line)["what"] for line in lines]
    assert [(x["method"], x["share"]) for x in whats] == [
        ("no-search", 0.0),
        ("sseds", 0.5),
        ("no-search", 0.5),
    ]
    fingerprint = read_schema(tiny).fingerprint
    assert all(p.name.startswith(fingerprint) for p in (tmp_path / "runs").iterdir())
    capsys.readouterr()
    with pytest.raises(SystemExit):
        command(dimgrow, *asked, "--methods", "sseds", "--set", "alpha=1")
    assert "--set is for dimgrow" in capsys.readouterr().err


def test_columns_without_lines_are_left_out() -> None:
    assert everything_table.section({"movielens": [], "criteo": []}) == []
    assert everything_table.overview({"movielens": [], "criteo": []}) == [
        "Nothing is recorded yet."
    ]
    line = {"study": "ml-1m-48000", "method": "seo", "seed": 0, "embedding_params": 48_000}
    line |= {"val_auc": 0.89, "test_auc": 0.88, "test_logloss": 0.3, "seconds": 2.0}
    line |= {"search_seconds": 7.0, "search_peak_bytes": 3_000_000}
    line |= {"environment": {"cpu": "c", "threads": 1}}
    page = everything_table.section({"movielens": [line], "criteo": []})
    assert [x for x in page if x.startswith("#")] == ["### MovieLens-1M, 48,000 parameters"]
    assert "| SEO, default run-off | 7 | 3.00 | 2 | — | 48,000 | — |" in page
    assert page.count(everything_table.MEMORY) == page.count(everything_table.IDS) == 1
    factored = {**line, "method": "seo+mlet", "test_auc": 0.881, "test_logloss": 0.29}
    short = everything_table.overview({"movielens": [line, factored], "criteo": []})
    assert short[0].count("MovieLens-1M, 48,000") == 2 and len(short) == 3
    plain, mlet = "0.88000 (1 of 3) / 0.30000", "0.88100 (1 of 3) / 0.29000"
    assert short[2] == f"| SEO, default run-off | {plain} | {mlet} | 7 | 3.00 | 2 | — |"
    base, more = ({**line, "study": s} for s in ("ml-1m", "ml-1m-l2-8e-4"))
    short = everything_table.overview(
        {"movielens": [base, {**more, "test_auc": 0.9}], "criteo": []}
    )
    assert "| MovieLens-1M, 96,000 | with MLET | with four times the L2 | Movie" in short[0]
    assert f"| {plain} | — | 0.90000 (1 of 3) / 0.30000 | 7 |" in short[2]
    page = everything_table.section({"movielens": [line, factored], "criteo": []})
    assert any("| 0.88100 (1 of 3) | 0.29000 |" in text for text in page)
    by_id = [{**line, "id_bytes": n, "seed": s} for s, n in ((0, 105_168), (1, 0))]
    why = {"study": "ml-1m-48000", "method": "sseds", "seed": 0, "infeasible": "too small"}
    page = everything_table.section({"movielens": [*by_id, why], "criteo": []})
    assert "| SEO, default run-off | 7 | 3.00 | 2 | — | 48,000 | 0.000 to 0.105 |" in page
    assert "Infeasible at this budget: SSEDS (too small), seeds 0." in page
    assert any(text.startswith("Seconds are of c, threads: 1 (2 runs), ") for text in page)
    assert any(
        "on all rows of the tables, read or not, at most 20 epochs; MLET with k 32 and std 0.5; "
        "searches of widths up to 32, no search up to 16" in text
        for text in page
    )
    assert not any("chose" in text for text in page)
    told = [{**line, "seed": s, "winner": w} for s, w in ((0, "rr"), (1, "trivial-2x8"), (2, "rr"))]
    page = everything_table.section({"movielens": told, "criteo": []})
    assert "SEO's run-off chose `rr` with seeds 0, 2; `trivial-2x8` with seed 1." in page
    short = everything_table.overview({"movielens": told, "criteo": []})
    assert short[-1].startswith("SEO's run-off chose, MovieLens-1M, 48,000: `rr` with seeds 0, 2;")


# ---- results.md --------------------------------------------------------------------------


def run_of(study: str, method: str, seed: int, auc: float, **more: Any) -> dict[str, Any]:
    line = {"study": study, "method": method, "seed": seed, "epochs": 3, "val_auc": auc}
    line |= {"test_auc": auc, "test_logloss": 1 - auc, "embedding_params": 96_000}
    line |= {"policy": "2 tables", "command": f"python -m x --data d --only {study} --methods y"}
    return line | more


def test_every_declared_reading_has_a_row_though_it_was_not_run() -> None:
    searched = {p.name for p in evidence.movielens() if set(p.methods) == set(evidence.APPLIERS)}
    assert searched <= set(tables.READINGS) | set(tables.TABLE_2_STUDIES.values())
    page = tables.movielens([], [])
    for text in tables.READINGS.values():
        (row,) = (x for x in page if x.startswith(f"| {text} |"))
        assert row.count("not run") == 4
    assert sum(x.count("not run") for x in page if x.startswith(("| True", "| False"))) == 12
    page = tables.criteo([])
    for part in evidence.criteo():
        if part.name.endswith("-held-out"):
            budget = f"{int(part.name.split('-')[1]):,}"
            (row,) = (x for x in page if x.startswith(f"| {budget} parameters, on held-out"))
            assert row.count("not run") == 4
    assert "Study `criteo-80000`: not run." in page
    assert "Study `synthetic-64000`: not run." in tables.synthetic([])


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
    assert tables.reading(lines, "s", "text", "s").endswith(f"| {expected} |")


def test_the_table_says_what_the_default_search_chose_and_holds() -> None:
    seo = [
        run_of("s", "seo", 0, 0.7),
        run_of("s", "seo", 1, 0.8, policy="6 tables", embedding_params=95_047, id_bytes=72),
        run_of("s", "seo", 2, 0.7),
    ]
    page = tables.comparison([*seo, run_of("s", "multi-size", 0, 0.6)], "s")
    assert page[-2] == (
        "`seo` chose, with seeds 0, 2: 2 tables (96,000 parameters); with seed 1: 6 tables (95,047 "
        "parameters, beside them 72 bytes of ids)."
    )
    assert any(x.startswith("| seo | 95,047 to 96,000 | 3 |") for x in page)


def test_methods_trained_by_mlet_are_no_reference() -> None:
    lines = [run_of("s", m, 0, v) for m, v in (("multi-size", 0.6), ("multi-size+mlet", 0.7))]
    assert "difference to multi-size |" in tables.comparison(lines, "s")[0]


def test_each_column_of_the_readme_has_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {"movielens": [run_of("ml-1m", "seo", 0, 0.9)]}
    lines["criteo"] = [run_of(f"criteo-{n}", "seo", 0, 0.7) for n in (320000, 80000)]
    monkeypatch.setattr(tables, "read", lambda name: lines.get(name, []))
    page = tables.overview()
    assert page[0] == (
        "| test AUC (seeds) | MovieLens-1M, 96,000 | Criteo sample, 320,000 | 80,000 |"
    )
    assert page[-1] == (
        "Commands: MovieLens-1M, 96,000, Criteo sample, 320,000, 80,000: "
        "`python -m x --data d --record`."
    )


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
    line = {"data": "d", "fingerprint": "f", "rows": 9, "batch": 2, "rounds": 3}
    line |= {"environment": stamp, "ratios": ratios}
    older = {**line, "ratios": {}, "rows": 5}
    page = tables.epochs([older, line])
    assert "* An applier's epoch takes at most 1.1 times that of monolithic: **met by all 2** " in (
        "\n".join(page)
    )
    assert any(
        "**missed by 1 of 2** (0.990 to 1.020; the paper's applier: 1.08)" in x for x in page
    )
    assert "| applier, a / separate | 1.020 | 0.900 to 1.200 | 1.08 | at most 1.0: missed |" in page
    assert "| search / monolithic | 1.500 | 0.900 to 1.200 | 0.74 |  |" in page
    assert sum("benchmarks.epoch" in x for x in page) == 1 and "5 training" not in "".join(page)
    assert tables.epochs([])[-2] == "`python -m benchmarks.epoch`: not run."


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
    assert unified_table.chosen_lines([*old, *now], "SEO", 40_980) == {0: now[0], 1: now[1]}
    text = "\n".join(unified_table.movielens([*old, *now]))
    assert "(2 of 3 seeds)" in text and "90.00" not in text
    assert study.settings("seo") != study.settings("multi-size-5") != study.settings("pq-5")
