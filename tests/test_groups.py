"""Quality by group: each number against a library in a plain loop over the groups."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from seo_rec import recipes, report
from seo_rec.data.dataset import DataSet
from seo_rec.group_metrics import (
    Members,
    expected_calibration_error,
    gauc,
    group_aucs,
    group_qualities,
    members_of,
    overall,
)
from seo_rec.model import ModelSettings
from seo_rec.recipes import Comparison, Grouping
from seo_rec.recipes.groups import frequency_bands, quality_by_group
from seo_rec.report.comparison import group
from seo_rec.report.groups import groups_of
from seo_rec.runs.groups import GroupReport
from seo_rec.runs.reading import read
from seo_rec.schema import DataError
from seo_rec.train import FitSettings, Training, evaluate
from spawn import run_ranks

TRAINING = Training(
    ModelSettings(hidden=(8,)), FitSettings(epochs=1, batch_size=200, row_lr=0.02, dense_lr=0.02)
)
GROUPING = Grouping(("noise_1",), ("strong_0", "bag_0"), ("noise_0", "bag_0"))


def simulated(rows: int, groups: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits with ties, labels drawn from them, and groups of which some have one label only."""
    rng = np.random.default_rng(seed)
    z = np.round(rng.normal(-1, 1.5, rows), 1).astype(np.float32)
    y = (rng.random(rows) < 1 / (1 + np.exp(-z))).astype(np.float32)
    return z, y, np.minimum(rng.geometric(6 / groups, rows) - 1, groups - 1)


def auc_of(y: np.ndarray, z: np.ndarray) -> float:
    return sklearn_metrics.roc_auc_score(y, z) if len(set(y.tolist())) == 2 else math.nan


# ---- the metrics -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_weights_count_as_repeated_rows_and_as_a_library_has_them(seed: int) -> None:
    z, y, g = simulated(300, 12, seed)
    rng = np.random.default_rng(seed)
    w = rng.integers(0, 4, 300)
    w[g == 11] = 0  # a group without weight
    rows, names = np.arange(300), tuple(map(str, range(12)))
    g[:12] = np.arange(12)  # none is empty
    found = group_qualities(z, y, Members(rows, g, names), w)
    again = np.repeat(rows, w)
    plain = Members(np.arange(again.size), g[again], names)
    ones = np.ones(again.size)
    for number, quality in enumerate(found):
        of, rest = g == number, plain.groups == number
        assert quality.rows == of.sum()
        if not w[of].any():
            assert math.isnan(quality.log_loss) and math.isnan(quality.auc)
            continue
        p = 1 / (1 + np.exp(-z[of].astype(np.float64)))
        assert quality.label_rate == pytest.approx(np.average(y[of], weights=w[of]), abs=1e-12)
        loss = sklearn_metrics.log_loss(y[of], p, sample_weight=w[of], labels=[0, 1])
        assert quality.log_loss == pytest.approx(loss, rel=1e-9)
        if len(set(y[of][w[of] > 0].tolist())) == 2:
            auc = sklearn_metrics.roc_auc_score(y[of], z[of], sample_weight=w[of])
            assert quality.auc == pytest.approx(auc, abs=1e-12)
            assert quality.auc == pytest.approx(auc_of(y[again][rest], z[again][rest]), abs=1e-12)
        else:
            assert math.isnan(quality.auc)
        error = expected_calibration_error(
            1 / (1 + np.exp(-z[again][rest].astype(np.float64))), y[again][rest],
            weights=ones[rest],
        )  # fmt: skip
        assert quality.calibration_error == pytest.approx(error, abs=1e-12)
    mean = gauc(z, y, Members(rows, g, names), "user", w)
    assert mean.gauc == pytest.approx(gauc(z[again], y[again], plain, "user").gauc, abs=1e-12)
    total = overall(z, y, w)
    assert total.auc == pytest.approx(overall(z[again], y[again]).auc, abs=1e-12)
    heavy = group_qualities(z, y, Members(rows, g, names), 7.5 * w)
    for a, b in zip(found, heavy, strict=True):
        assert a.log_loss == pytest.approx(b.log_loss, rel=1e-12, nan_ok=True)
        assert a.auc == pytest.approx(b.auc, abs=1e-12, nan_ok=True)


def test_equal_weights_change_nothing() -> None:
    z, y, g = simulated(400, 20, 1)
    members = Members(np.arange(400), g, tuple(map(str, range(20))))
    ones = np.ones(400, np.float32)
    plain, weighted = group_aucs(z, y, g, 20), group_aucs(z, y, g, 20, ones)
    np.testing.assert_allclose(weighted, plain, atol=1e-12)
    assert gauc(z, y, members, "u", ones).gauc == pytest.approx(gauc(z, y, members, "u").gauc)


def test_gauc_is_the_weighted_mean_of_a_library_s_auc() -> None:
    z, y, g = simulated(400, 40, 0)
    rows, total, used = 0, 0.0, 0
    for number in range(40):
        of = g == number
        if len(set(y[of].tolist())) == 2:
            rows, used = rows + int(of.sum()), used + 1
            total += float(of.sum()) * sklearn_metrics.roc_auc_score(y[of], z[of])
    assert 0 < used < 40  # some groups have one label only
    found = gauc(z, y, Members(np.arange(400), g, tuple(map(str, range(40)))), "user")
    assert found.gauc == pytest.approx(total / rows, abs=1e-12)
    assert (found.groups, found.used_groups, found.used_rows) == (40, used, rows)


few = st.lists(
    st.tuples(st.integers(-2, 2), st.booleans(), st.integers(0, 3)), min_size=1, max_size=50
)


@given(few)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_auc_by_group_is_that_of_each_group_alone(rows: list[Any]) -> None:
    z, y, g = (np.array(column) for column in zip(*rows, strict=True))
    found = group_aucs(z.astype(np.float32), y.astype(np.float32), g, 4)
    wanted = [auc_of(y[g == number], z[g == number]) for number in range(4)]
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_qualities_are_a_library_s_in_a_plain_loop() -> None:
    """Rows may be in several groups; the groups are not in the order of the rows."""
    z, y, g = simulated(4000, 12, 1)
    second = np.flatnonzero(np.arange(4000) % 3 == 0)
    rows = np.concatenate([np.arange(4000), second])
    groups = np.concatenate([g, (g[second] + 1) % 12])
    names = tuple(f"g{i}" for i in range(12))
    for number, found in enumerate(group_qualities(z, y, Members(rows, groups, names))):
        mine = rows[groups == number]
        p = 1 / (1 + np.exp(-z[mine].astype(np.float64)))
        assert (found.name, found.rows) == (f"g{number}", mine.size)
        assert found.label_rate == pytest.approx(y[mine].mean(), abs=1e-7)
        assert found.auc == pytest.approx(auc_of(y[mine], z[mine]), abs=1e-12, nan_ok=True)
        assert found.log_loss == pytest.approx(
            sklearn_metrics.log_loss(y[mine], p, labels=[0, 1]), abs=1e-12
        )
        ratio = p.mean() / y[mine].mean() if y[mine].any() else math.nan
        assert found.calibration == pytest.approx(ratio, rel=1e-6, nan_ok=True)
        assert found.calibration_error == pytest.approx(expected_calibration_error(p, y[mine]))


def test_the_calibration_error_is_that_of_a_library_s_curve() -> None:
    """Scores all differ, so that each of the ten bins has a tenth of the rows."""
    rng = np.random.default_rng(3)
    p = rng.permutation((np.arange(2000) + 0.5) / 2000) ** 2
    y = (rng.random(2000) < p**0.7).astype(np.float32)
    observed, predicted = calibration_curve(y, p, n_bins=10, strategy="quantile")
    wanted = float(np.abs(observed - predicted).mean())
    assert wanted > 0.02
    assert expected_calibration_error(p, y) == pytest.approx(wanted, abs=1e-12)


def test_the_calibration_error_does_not_depend_on_the_order_of_tied_scores() -> None:
    p, y = np.repeat([0.2, 0.6], 50), np.tile([0.0, 1.0], 50)
    assert expected_calibration_error(p, y) == pytest.approx(0.5 * 0.3 + 0.5 * 0.1)
    assert expected_calibration_error(p, np.sort(y.reshape(2, 50), axis=1).reshape(-1)) == (
        pytest.approx(0.5 * 0.3 + 0.5 * 0.1)
    )


def test_one_label_alone_has_no_auc() -> None:
    z, y = np.array([0.0, 1.0], np.float32), np.zeros(2, np.float32)
    found = overall(z, y)
    assert math.isnan(found.auc) and math.isnan(found.calibration)
    assert found.log_loss == pytest.approx(float(np.logaddexp(0, [0.0, 1.0]).mean()))
    none = gauc(z, y, Members(np.arange(2), np.zeros(2, np.int64), ("u",)), "user")
    assert math.isnan(none.gauc) and none.used_groups == none.used_rows == 0


# ---- which rows are in which group -----------------------------------------------------------


def test_a_row_is_once_in_the_group_of_each_of_its_values() -> None:
    members = members_of(np.array([7, 7, 5, 5]), np.array([2, 0, 1, 1]), str, "missing")
    assert members.names == ("5", "7", "missing")
    pairs = sorted(zip(members.rows.tolist(), members.groups.tolist(), strict=True))
    assert pairs == [(0, 1), (1, 2), (2, 0), (3, 0)]


def test_small_groups_are_put_together_and_keep_each_row_once() -> None:
    values = np.array([1, 1, 1, 2, 2, 3, 4, 3])
    members = members_of(values, np.array([1, 1, 2, 1, 2, 1]), str, "missing").largest(
        2, "{} others"
    )
    assert members.names == ("1", "2", "2 others")
    assert members.sizes.tolist() == [3, 2, 2]  # the row with 3 and 4 counts once
    assert members_of(values[:3], np.ones(3, int), str, "").largest(2, "{}").names == ("1",)


def test_bands_begin_at_their_names() -> None:
    counts = np.array([0, 1, 2, 3, 9, 10, 29, 30, 999_999, 10**12])
    bands, names = frequency_bands(counts)
    assert [names[b] for b in bands] == [
        "unseen",
        "1 to 2",
        "1 to 2",
        "3 to 9",
        "3 to 9",
        "10 to 29",
        "10 to 29",
        "30 to 99",
        "300,000 to 999,999",
        "300,000,000 or more",
    ]


# ---- a trained model -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(tiny_data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two methods with two seeds, measured by group."""
    out = tmp_path_factory.mktemp("runs") / "compared"
    comparison = Comparison((tiny_data,), ("separate", "monolithic"), 800, 8, 2, training=TRAINING)
    recipes.compare(comparison, out)
    recipes.measure_groups(comparison, out, GROUPING)
    return out


def rows_of(data: DataSet, column: str) -> list[list[int]]:
    """The ids of each test row."""
    bags: list[list[int]] = []
    for batch in data.stream("test", batch_size=50):
        bags += [bag.tolist() for bag in batch.sparse[column].to_dense()]
    return bags


def test_a_trained_model_by_group_is_a_plain_loop(tiny_data: DataSet, compared: Path) -> None:
    run = compared / "runs/separate-seed0"
    _, z, y = evaluate(recipes.load_trained(run), tiny_data.stream("test", batch_size=64))
    found = GroupReport.read(run / "groups.json")
    (within,) = found.gauc
    users = np.array([(bag or [-1])[0] for bag in rows_of(tiny_data, "noise_1")])
    both = [u for u in set(users.tolist()) if len(set(y[users == u].tolist())) == 2]
    sizes = [int((users == u).sum()) for u in both]
    aucs = [auc_of(y[users == u], z[users == u]) for u in both]
    assert len(both) > 5
    assert within.gauc == pytest.approx(np.average(aucs, weights=sizes), abs=1e-9)
    assert within.used_rows == sum(sizes)

    tables = {(t.column, t.kind): {g.name: g for g in t.groups} for t in found.tables}
    assert [*tables] == [
        ("strong_0", "id"),
        ("bag_0", "id"),
        *((name, "frequency") for name in ("noise_0", "bag_0")),
    ]
    for column in ("strong_0", "bag_0"):
        bags = rows_of(tiny_data, column)
        groups = {i for bag in bags for i in bag} | ({"missing"} if [] in bags else set())
        assert {str(i) for i in groups} == set(tables[column, "id"])
        for i in groups:
            of = np.array([not bag if i == "missing" else i in bag for bag in bags])
            quality = tables[column, "id"][str(i)]
            assert quality.rows == of.sum()
            assert quality.auc == pytest.approx(auc_of(y[of], z[of]), abs=1e-9, nan_ok=True)


def test_a_band_has_the_rows_whose_id_is_as_frequent(tiny_data: DataSet, compared: Path) -> None:
    """Counted anew in the rows of the training split, of which each counts once."""
    counts: dict[int, int] = {}
    for batch in tiny_data.stream("train", batch_size=64):
        for bag in batch.sparse["noise_0"].to_dense():
            for i in set(bag.tolist()):
                counts[i] = counts.get(i, 0) + 1
    found = GroupReport.read(compared / "runs/separate-seed0/groups.json")
    (table,) = [t for t in found.tables if (t.column, t.kind) == ("noise_0", "frequency")]
    bags = rows_of(tiny_data, "noise_0")
    for quality in table.groups:
        if quality.name == "missing":
            assert quality.rows == sum(not bag for bag in bags)
            continue
        low, _, high = quality.name.replace("unseen", "0 to 0").partition(" to ")
        within = [int(low) <= counts.get(bag[0], 0) <= int(high) for bag in bags if bag]
        assert quality.rows == sum(within) > 0
    assert sum(quality.rows for quality in table.groups) == len(bags)
    assert len(table.groups) > 2


def test_two_ranks_measure_what_one_does(
    tiny_data: DataSet, compared: Path, tmp_path: Path
) -> None:
    """Scores come to one process in the order of the file, so groups are exact."""
    run = shutil.copytree(compared / "runs/separate-seed0", tmp_path / "run")
    (run / "groups.json").unlink()

    def on_rank() -> Any:
        return recipes.evaluate_served(run, tiny_data, "test", grouping=GROUPING).to_json()

    one, two = run_ranks(on_rank, 2)
    alone = GroupReport.read(compared / "runs/separate-seed0/groups.json").to_json()
    assert one == two
    assert one["groups"]["gauc"] == alone["gauc"]  # the order of scores
    for mine, theirs in zip(one["groups"]["tables"], alone["tables"], strict=True):
        for a, b in zip(mine["groups"], theirs["groups"], strict=True):
            assert (a["name"], a["rows"], a["auc"]) == (b["name"], b["rows"], b["auc"])
            assert a["log_loss"] == pytest.approx(b["log_loss"], abs=1e-6)
    assert GroupReport.read(run / "groups.json").to_json() == one["groups"]


def test_only_the_test_split_in_float32_is_kept(
    tiny_data: DataSet, compared: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(compared / "runs/separate-seed0", tmp_path / "run")
    (run / "groups.json").unlink()
    recipes.evaluate_served(run, tiny_data, "val", grouping=GROUPING)
    recipes.evaluate_served(run, tiny_data, "test", "float16", GROUPING)
    recipes.evaluate_served(run, tiny_data, "test")
    assert not (run / "groups.json").exists()
    recipes.evaluate_served(run, tiny_data, "test", grouping=GROUPING)
    assert (run / "groups.json").exists()


def test_groups_that_were_measured_are_not_measured_again(
    tiny_data: DataSet, compared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[Path] = []
    monkeypatch.setattr(
        "seo_rec.recipes.comparing.evaluate_served", lambda run, *_, **__: scored.append(run)
    )
    comparison = Comparison((tiny_data,), ("separate", "monolithic"), 800, 8, 2, training=TRAINING)
    recipes.measure_groups(comparison, compared, Grouping(("noise_1",)))
    assert scored == []
    recipes.measure_groups(comparison, compared, Grouping(by=("strong_1",)))
    assert len(scored) == 4
    damaged = compared / "runs/separate-seed1/groups.json"
    whole = damaged.read_text()
    damaged.write_text("{")
    recipes.measure_groups(comparison, compared, Grouping(("noise_1",)))
    damaged.write_text(whole)
    assert scored[4:] == [damaged.parent]


@pytest.mark.parametrize(
    "grouping, message",
    [
        (Grouping(("nobody",)), "--group nobody: not a feature"),
        (Grouping(by=("dense_0",)), "--by dense_0: not a feature"),
        (Grouping(by_frequency=("noise_0", "noise_0")), "names noise_0 more than once"),
        (Grouping(("bag_0",)), "--group bag_0: a row has a list of its ids"),
    ],
)
def test_columns_that_make_no_groups_are_refused(
    tiny_data: DataSet, grouping: Grouping, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        quality_by_group(tiny_data, "test", np.zeros(0), np.zeros(0), grouping)


# ---- the file and the report -----------------------------------------------------------------


def test_a_report_is_read_back_whole(compared: Path, tmp_path: Path) -> None:
    found = GroupReport.read(compared / "runs/monolithic-seed1/groups.json")
    nothing = replace(found.all, auc=math.nan)
    replace(found, all=nothing).save(tmp_path)
    assert json.loads((tmp_path / "groups.json").read_text())["all"]["auc"] is None
    again = GroupReport.read(tmp_path / "groups.json")
    assert math.isnan(again.all.auc)
    assert again.to_json() == replace(found, all=nothing).to_json()


@pytest.mark.parametrize(
    "path, value",
    [
        (("version",), 2),
        (("all", "rows"), None),
        (("all",), []),
        (("gauc", 0, "gauc"), "high"),
        (("tables", 0), 7),
        (("tables", 0, "groups", 0, "auc"), True),
        (("tables", 0, "groups", 0), None),
    ],
)
def test_a_damaged_report_is_named_in_one_line(
    compared: Path, tmp_path: Path, path: tuple[Any, ...], value: Any
) -> None:
    document = json.loads((compared / "runs/separate-seed0/groups.json").read_text())
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (tmp_path / "groups.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"groups\.json: ") as caught:
        GroupReport.read(tmp_path / "groups.json")
    assert "\n" not in str(caught.value)


def test_a_comparison_takes_differences_seed_by_seed(compared: Path) -> None:
    (found,) = group(read([compared]))
    assert found.reference is not None
    groups = groups_of(found)
    other = next(row.method for row in found.rows if row.method != found.reference.method)

    def of(method: str, seed: int) -> GroupReport:
        return GroupReport.read(compared / f"runs/{method}-seed{seed}/groups.json")

    gains = [of(other, s).gauc[0].gauc - of(found.reference.method, s).gauc[0].gauc for s in (0, 1)]
    ((column, entries),) = groups.gauc
    line = {entry.method: entry for entry in entries}
    assert column == "noise_1"
    assert line[found.reference.method].difference is None
    assert line[other].difference is not None
    assert line[other].difference.mean == pytest.approx(np.mean(gains))
    assert line[other].difference.standard_error == pytest.approx(np.std(gains))
    table = groups.tables[0]
    for name, cells in table.groups:
        (cell,) = [c for c in cells if c.method == other]
        mine, theirs = (
            [next(g for g in of(method, s).tables[0].groups if g.name == name).auc for s in (0, 1)]
            for method in (other, found.reference.method)
        )
        wanted = [a - b for a, b in zip(mine, theirs, strict=True) if not math.isnan(a - b)]
        if wanted:
            assert cell.difference is not None
            assert cell.difference.mean == pytest.approx(np.mean(wanted), abs=1e-12)


def test_the_page_and_the_terminal_show_groups(
    compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report.build([compared], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    for text in ("Quality by group", "GAUC within noise_1", "By each id of strong_0"):
        assert text in page
    assert "By how many training rows hold the id of noise_0" in page
    assert page.count("AUC minus the reference") == 4  # a chart for each table
    report.print_comparison([compared])
    shown = capsys.readouterr().out
    assert "GAUC within noise_1" in shown and "10 to 29" in shown


def test_a_page_without_groups_says_nothing_of_them(
    tiny_data: DataSet, compared: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(compared / "runs/separate-seed0", tmp_path / "run")
    (run / "groups.json").write_text("{")
    report.build([run], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Quality by group" not in page
    assert "quality by group is left out" in page


def test_the_commands(seo_rec: Any, tiny: Path, compared: Path, tmp_path: Path) -> None:
    run = shutil.copytree(compared / "runs/separate-seed0", tmp_path / "run")
    done = seo_rec("eval", run, tiny, "--group", "noise_1", "--by-frequency", "noise_0")
    assert done.code == 0, done.err
    groups = json.loads(done.out)["groups"]
    assert groups == json.loads((run / "groups.json").read_text())
    assert [t["column"] for t in groups["tables"]] == ["noise_0"]
    wrong = seo_rec("eval", run, tiny, "--by", "nothing")
    assert wrong.code and "--by nothing: not a feature" in wrong.err
