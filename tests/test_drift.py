"""Drift: distances against an independent reference, and a verdict for each kind of change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.spatial import distance

from benchmarks.accuracy import drift as benchmark
from benchmarks.record import read
from seo_rec.analysis.drift import REALISED, _judged, drift, jensen_shannon, moved, worth
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.split import Split
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.policy import Feature, Lookup, Policy, Table
from seo_rec.schema import DataError

ROWS = 6000


def prepared(
    out: Path, *, shift: int = 0, strong: str = "a", extra: bool = False, seed: int = 0
) -> DataSet:
    """Columns a and b of 40 ids, of which one predicts the label; ids of a move by ``shift``."""
    rng = np.random.default_rng(seed)
    columns = {"a": rng.integers(0, 40, ROWS) + shift, "b": rng.integers(0, 40, ROWS)}
    taste = np.random.default_rng(3).normal(size=200)
    logit = 1.5 * taste[columns[strong]] - 0.5
    y = (rng.random(ROWS) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    names = ("a", "b", "c") if extra else ("a", "b")
    raw = out.with_name(f"{out.name}.parquet")
    pq.write_table(pa.table({**columns, "c": rng.integers(0, 5, ROWS), "y": y}), raw)
    prepare_table(raw, out, columns=TableColumns("y", names), split=Split("random", 1))
    return open_data(out)


def by_id(data: DataSet) -> Policy:
    ids = data.vocabulary("a")
    return Policy(
        (Table("a", len(ids) + 1, 2), Table("b", 16, 2)),
        (Feature("a", (Lookup("a", "id"),)), Feature("b", (Lookup("b", seed=1),))),
        vocabularies={"a": ids},
    )


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return prepared(tmp_path_factory.mktemp("drift") / "old")


def test_the_distance_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        p, q = rng.integers(0, 9, (2, 20)).astype(float)
        assert jensen_shannon(p, q) == pytest.approx(distance.jensenshannon(p, q, base=2))
    assert jensen_shannon(np.array([1.0, 0]), np.array([0, 2.0])) == 1
    assert jensen_shannon(np.array([1.0, 3]), np.array([2.0, 6])) == 0


def test_chance_explains_what_did_not_move() -> None:
    rng = np.random.default_rng(1)
    source = rng.dirichlet(np.ones(50))
    a, b = (rng.multinomial(2000, source).astype(float) for _ in range(2))
    assert not moved(a, b).notable
    assert moved(a, np.roll(b, 1)).notable


def test_the_worth_is_the_log_loss_of_smoothed_rates() -> None:
    """Against a plain loop over rows."""
    ids, y = [1, 1, 2, None, 2, 1, 1, 2, 2, 1], [1, 1, 0, 1, 0, 1, 0, 0, 1, 1]
    table = pa.table({"a": pa.array(ids, pa.int64()), "y": pa.array(y, pa.float32())})
    trained = [i for i in range(10) if i % 5]
    rate = sum(y[i] for i in trained) / len(trained)

    def loss(p: list[float]) -> float:
        held = [y[i] for i in (0, 5)]
        return -float(
            np.mean([np.log(q) if t else np.log(1 - q) for q, t in zip(p, held, strict=True)])
        )

    seen = [i for i in trained if ids[i] == 1]  # both held-out rows have the id 1
    of_1 = (sum(y[i] for i in seen) + 20 * rate) / (len(seen) + 20)
    expected = max(0.0, loss([rate, rate]) - loss([of_1, of_1]))
    assert worth(table, ["a"], "y")["a"] == pytest.approx(expected)
    assert expected > 0


def test_nothing_moved(old: DataSet, tmp_path: Path) -> None:
    found = drift(old, prepared(tmp_path / "new", seed=1), by_id(old))
    assert found.verdict == "keep"
    assert "a new search would gain little" in found.reasons[-1]
    assert found.unseen == {"a": 0, "b": 0} and found.unknown == {"a": 0}
    assert not any(m.notable for m in (*found.frequencies.values(), *found.tables.values()))
    assert found.worth_new["a"] > 10 * found.worth_new["b"]
    json.dumps(found.to_json(), allow_nan=False)


def test_new_ids_ask_for_a_renewal(old: DataSet, tmp_path: Path) -> None:
    found = drift(old, prepared(tmp_path / "new", shift=20, seed=1), by_id(old))
    assert found.verdict == "renew"
    assert found.unseen["a"] == found.unknown["a"] == pytest.approx(0.5, abs=0.05)
    assert found.frequencies["a"].notable and not found.frequencies["b"].notable
    assert found.tables["a"].notable and not found.tables["b"].notable


def test_worth_that_moved_asks_for_a_search(old: DataSet, tmp_path: Path) -> None:
    found = drift(old, prepared(tmp_path / "new", strong="b", seed=1), by_id(old))
    assert found.verdict == "search"
    assert found.worth_moved > 0.8 > 2 * found.worth_by_chance
    assert found.gain == pytest.approx(found.worth_new["b"], rel=0.2)
    assert found.expected == tuple(share * found.gain for share in REALISED)
    assert f"and at most {found.gain:.4f}" in found.reasons[-1]


def test_other_columns_ask_for_a_search(old: DataSet, tmp_path: Path) -> None:
    more = prepared(tmp_path / "more", extra=True, seed=1)
    assert drift(old, more).new_columns == ("c",)
    assert drift(more, old).lost_columns == ("c",)
    assert drift(old, more).verdict == drift(more, old).verdict == "search"


def test_many_columns_of_unknown_ids_are_one_reason() -> None:
    still = {"new_columns": (), "lost_columns": (), "worth_moved": 0.0, "worth_by_chance": 0.0}
    shares = {"a": 0.06, "b": 0.5, "c": 0.05, "d": 0.9, "e": 0.3, "f": 0.2}
    verdict, reasons = _judged({**still, "unknown": shares})
    assert verdict == "renew" and reasons[0].startswith(
        "ids without a row of their own are 90.0% of the reads of d, 50.0% of the reads of b, "
        "30.0% of the reads of e, over 5% of 2 more; go on with `seo-rec train --from`"
    )
    assert len(reasons) == len(_judged({**still, "unknown": {}})[1]) + 1


def test_the_command(old: DataSet, tmp_path: Path, seo_rec: Any) -> None:
    new = prepared(tmp_path / "new", shift=20, seed=1)
    by_id(old).save(tmp_path / "policy.json")
    done = seo_rec("drift", old.path, new.path, "--policy", tmp_path / "policy.json")
    assert done.code == 0, done.err
    assert done.out.startswith("Keep the policy and renew its vocabularies.\n- ")
    done = seo_rec("drift", old.path, new.path, "--json")
    assert json.loads(done.out)["unseen"]["a"] == pytest.approx(0.5, abs=0.05)
    out = tmp_path / "run"
    method = ("--method", "collisionless", "--dim", 2, "--epochs", 1, "--hidden", "4")
    assert seo_rec("train", old.path, "--out", out, *method).code == 0
    assert json.loads(seo_rec("drift", out, new.path, "--json").out)["unknown"]["a"] > 0.4
    done = seo_rec("drift", tmp_path, new.path)
    assert done.code == 2 and "neither prepared data nor a run folder" in done.err
    done = seo_rec("drift", old.path, new.path, "--rows", 5)
    assert done.code == 2 and "--rows 5; allowed" in done.err


def test_the_expected_gain_is_calibrated_on_searches_that_were_run() -> None:
    """The shares of the moved worth that searches gained, in the cases that ask for a search."""
    lines = [line for line in read(benchmark.RECORD) if line["what"]["method"] == "seo-divide"]
    assert len(lines) >= 20
    asked = [line for line in lines if line["verdict"] == "search"]
    shares = [line["realised"] / line["at_most"] for line in asked]
    mean = sum(line["realised"] for line in asked) / sum(line["at_most"] for line in asked)
    found = (min(shares), mean, max(shares))
    assert found == pytest.approx(REALISED, abs=0.005)
    assert all(abs(line["realised"]) < 0.002 for line in lines if line["verdict"] != "search")


def test_the_worlds_of_the_benchmark_change_what_they_say() -> None:
    """Shares move by the part of the scenario; ids and frequencies change where they should."""
    for scenario, part in benchmark.SCENARIOS.items():
        old, new = benchmark.shares_of(scenario, 1)
        assert old.sum() == pytest.approx(new.sum()) == pytest.approx(1)
        assert np.allclose(old, new) == (part == 0)
    tables = {s: benchmark.rows_of(s, 1, True, 4000) for s in benchmark.SCENARIOS}
    old = benchmark.rows_of("still", 1, False, 4000)
    largest = f"c{len(benchmark.SIZES) - 1}"
    for scenario, table in tables.items():
        distance_of = abs(np.median(table[largest]) - np.median(old[largest]))
        assert (distance_of > 500) == (scenario in ("ids", "frequencies")), scenario
        y, p = table["y"].to_numpy(), table[benchmark.TRUTH].to_numpy()
        assert abs((y - p).mean()) < 0.03


def test_other_rules_are_refused(old: DataSet, tmp_path: Path) -> None:
    raw = tmp_path / "raw.parquet"
    pq.write_table(pa.table({"a": [1, 2] * 50, "y": [0, 1] * 50}), raw)
    columns = TableColumns("y", ("a",), missing="empty")
    prepare_table(raw, tmp_path / "new", columns=columns)
    with pytest.raises(DataError, match=r"other rules than .* \(.+\), so that .* --like /"):
        drift(old, open_data(tmp_path / "new"))
