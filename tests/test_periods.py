"""One data set is cut into hours, days, weeks or rows, and a replay goes through them in order."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from seo_rec import recipes
from seo_rec.data import periods as periods_module
from seo_rec.data.dataset import DataSet, open_data
from seo_rec.data.periods import Periods, cut
from seo_rec.data.split import Split
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.data.vocabulary import Pruning
from seo_rec.recipes.steps import steps_of
from seo_rec.runs import RunError
from seo_rec.schema import DataError
from tests.test_warm_start import saved_tensors

ROWS = 600
EVERYTHING = (1.0, 0.0, 0.0)
START = 1_704_000_000  # 2023-12-31T05:20, so that days, ISO weeks and years change


def raw_table(seconds: Any) -> pa.Table:
    rng = np.random.default_rng(3)
    size = len(seconds)
    bags = [rng.integers(0, 9, rng.integers(0, 4)).tolist() for _ in range(size)]
    return pa.table(
        {
            "y": rng.integers(0, 2, size),
            "number": np.arange(size),
            "user": rng.integers(0, 30, size),
            "tags": pa.array(bags, pa.list_(pa.int64())),
            "x": rng.normal(size=size),
            "w": rng.integers(1, 4, size).astype(np.float64),
            "t": seconds,
        }
    )


def prepared(
    folder: Path,
    seconds: Any,
    split: Split = Split("random", 1, (0.6, 0.2, 0.2)),
    pruning: Pruning = Pruning(),
    time: str | None = "t",
    **more: Any,
) -> DataSet:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(raw_table(seconds), folder / "raw.parquet")
    columns = TableColumns(
        "y", ("number", "user"), ("x",), ("tags",), weight="w", time=time, **more
    )
    out = folder / "data"
    prepare_table(folder / "raw.parquet", out, columns=columns, split=split, pruning=pruning)
    return open_data(out)


def random_times(span: int = 40 * 86_400) -> Any:
    """In no order, several of them equal."""
    return START + 1800 * np.random.default_rng(5).integers(0, span // 1800, ROWS)


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return prepared(tmp_path_factory.mktemp("timed"), random_times())


def rows_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = pq.read_table(path / "train").to_pydict()
    return found


def named(by: str, seconds: float) -> str:
    """The name of a period by the calendar of Python."""
    at = datetime.fromtimestamp(seconds, UTC)
    if by == "week":
        return "{}-W{:02d}".format(*at.isocalendar()[:2])
    return at.isoformat()[: 13 if by == "hour" else 10]


@pytest.mark.parametrize("by", ["hour", "day", "week"])
@pytest.mark.parametrize("part_rows", [pytest.param(1 << 19, marks=pytest.mark.slow), 100])
def test_periods_of_time_have_the_rows_of_the_calendar(
    timed: DataSet, by: str, part_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the calendar of Python; rows of one time stay as they lie in the splits."""
    monkeypatch.setattr("seo_rec.data.time_order.PART_ROWS", part_rows)
    monkeypatch.setattr("seo_rec.data.shards.ROW_GROUP_ROWS", 64)
    splits = [pq.read_table(timed.path / s).to_pydict() for s in ("train", "val", "test")]
    whole = {name: [x for s in splits for x in s[name]] for name in splits[0]}
    order = sorted(range(ROWS), key=lambda i: whole["t"][i])
    wanted: dict[str, list[int]] = defaultdict(list)
    for i in order:
        wanted[named(by, whole["t"][i])].append(i)
    found = cut(timed, tmp_path / "periods", Periods(by))
    assert [p.name for p in found] == list(wanted) and len(wanted) > 5
    for path in found:
        rows, chosen = rows_of(path), wanted[path.name]
        assert rows == {name: [values[i] for i in chosen] for name, values in whole.items()}
        data = open_data(path)
        assert data.verify_all() and data.schema.preparation == timed.schema.preparation
        assert data.schema.num_rows == {"train": len(chosen), "val": 0, "test": 0}
        assert data.schema.label_rate["train"] == pytest.approx(np.mean(rows["y"]), abs=1e-12)
        ids, counts = data.counts("tags")
        counted = Counter(i for bag in rows["tags"] for i in bag)
        assert dict(zip(ids.tolist(), counts.tolist(), strict=True)) == counted
        assert data.schema.vocab_size("user") == len(set(rows["user"]))
    assert len({open_data(p).fingerprint for p in found}) == len(found)


def test_days_written_as_numbers_are_cut_as_the_same_dates(tmp_path: Path) -> None:
    """``prepare table`` calls 20240131 a date, so a replay takes it for one."""
    seconds = random_times() // DAY * DAY
    numbers = np.array([float(datetime.fromtimestamp(s, UTC).strftime("%Y%m%d")) for s in seconds])
    for by in ("day", "week"):
        wanted, found = (
            cut(prepared(tmp_path / by / kind, times), tmp_path / by / kind / "cut", Periods(by))
            for kind, times in (("seconds", seconds), ("numbers", numbers))
        )
        assert [p.name for p in found] == [p.name for p in wanted] and len(found) > 5
        for a, b in zip(found, wanted, strict=True):
            assert rows_of(a)["number"] == rows_of(b)["number"]


def test_rows_are_cut_in_their_order(timed: DataSet, tmp_path: Path) -> None:
    """By time where there is one, and else as they lie in the file."""
    found = cut(timed, tmp_path / "timed", Periods("rows", 250))
    assert [p.name for p in found] == ["rows-1", "rows-2", "rows-3"]
    times = [rows_of(p)["t"] for p in found]
    assert [len(t) for t in times] == [250, 250, 100]
    assert [t for part in times for t in part] == sorted(random_times().tolist())
    plain = prepared(tmp_path / "plain", random_times(), Split("temporal"), time=None)
    numbers = [rows_of(p)["number"] for p in cut(plain, tmp_path / "cut", Periods("rows", 128))]
    assert [len(n) for n in numbers] == [128] * 4 + [88]
    whole = [i for s in ("train", "val", "test") for i in pq.read_table(plain.path / s)["number"]]
    assert [n for part in numbers for n in part] == [i.as_py() for i in whole]


def test_pruned_and_uncounted_vocabularies_stay_so(tmp_path: Path) -> None:
    pruned = prepared(tmp_path / "pruned", random_times(), pruning=Pruning(sizes={"user": 9}))
    for path in cut(pruned, tmp_path / "a", Periods("week")):
        kept = open_data(path).kept("user")
        assert kept is not None and kept.tolist() == pruned.kept("user").tolist()  # type: ignore
    bare = prepared(tmp_path / "bare", random_times(), pruning=Pruning(counted=False))
    for path in cut(bare, tmp_path / "b", Periods("week")):
        assert not (path / "vocabulary").exists()
        users = open_data(path).schema.vocab_size("user")
        assert users == pytest.approx(len(set(rows_of(path)["user"])), rel=0.1)


DAY = 86_400
MISFITS: dict[str, tuple[Callable[[Path], DataSet], Periods, str]] = {
    "no times": (
        lambda p: prepared(p, random_times(), time=None),
        Periods("day"),
        "no column of times.*--split temporal --time COLUMN",
    ),
    "whole days": (
        lambda p: prepared(p, random_times() // DAY * DAY),
        Periods("hour"),
        "'t' are whole days, so hours are unknown; allowed: --by day, week or rows",
    ),
    "no dates": (
        lambda p: prepared(p, 20_260_100 + np.arange(ROWS) % 28),
        Periods("week"),
        "from 20260100 to 20260127, and --by week needs dates, days as",
    ),
    "hours of days": (
        lambda p: prepared(p, 20_260_101 + np.arange(ROWS) % 28),
        Periods("hour"),
        "'t' are whole days, so hours are unknown",
    ),
    "days and others": (
        lambda p: prepared(p, 20_260_101.0 + np.arange(ROWS) % 32),
        Periods("day"),
        "from 20260101 to 20260132, and --by day needs dates, days as 20261127 or seconds",
    ),
    "milliseconds": (
        lambda p: prepared(p, random_times() * 1000),
        Periods("day"),
        "needs dates, days as 20261127 or seconds",
    ),
    "one week": (
        lambda p: prepared(p, START + 2 * DAY + np.arange(ROWS)),
        Periods("week"),
        "'t' are all in 2024-W01, so a replay would score nothing",
    ),
    "one step": (
        lambda p: prepared(p, random_times()),
        Periods("rows", ROWS),
        "600 rows, and --rows 600 makes one step",
    ),
    "no order": (
        lambda p: prepared(p, random_times(), time=None),
        Periods("rows", 50),
        "the rule 'random', so their order is lost",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_cannot_be_cut_is_refused(case: str, tmp_path: Path) -> None:
    make, periods, words = MISFITS[case]
    data = make(tmp_path)
    with pytest.raises(DataError, match=words) as error:
        cut(data, tmp_path / "out" / "periods", periods)
    assert str(data.path) in str(error.value)
    assert not (tmp_path / "out" / "periods").exists()


def test_sampled_negatives_are_cut_only_if_all_rows_were_sampled(tmp_path: Path) -> None:
    folder = tmp_path
    pq.write_table(raw_table(random_times()), folder / "raw.parquet")
    columns = TableColumns("y", ("user",), time="t")
    for name, shares in (("some", (0.5, 0.25, 0.25)), ("all", EVERYTHING)):
        prepare_table(
            folder / "raw.parquet",
            folder / name,
            columns=columns,
            split=Split("temporal", fractions=shares),
            negative_rate=0.5,
        )
    with pytest.raises(DataError, match="prepare it with --fractions 1,0,0"):
        cut(open_data(folder / "some"), folder / "cut", Periods("week"))
    paths = cut(open_data(folder / "all"), folder / "cut", Periods("week"))
    assert {open_data(p).schema.logit_offset for p in paths} == {np.log(2.0)}


def test_misspelled_periods_are_refused() -> None:
    for by, rows, words in (
        ("month", 0, "--by month; allowed: hour, day, week, rows"),
        ("rows", 0, "give the rows of a step"),
        ("rows", -5, "--rows -5"),
        ("day", 7, "--rows 7 with --by day would be ignored"),
    ):
        with pytest.raises(ValueError, match=words):
            Periods(by, rows)


def test_periods_appear_complete_and_are_used_again(
    timed: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed cut leaves nothing that is used; other periods, or another run, are refused."""
    out = tmp_path / "run"
    writer, count = periods_module.write_schema, {"left": 3}

    def killed(folder: Path, schema: Any) -> None:
        count["left"] -= 1
        if not count["left"]:
            raise KeyboardInterrupt
        writer(folder, schema)

    monkeypatch.setattr(periods_module, "write_schema", killed)
    with pytest.raises(KeyboardInterrupt):
        steps_of(timed.path, out, Periods("week"))
    assert not (out / "periods").exists()
    found = steps_of(timed.path, out, Periods("week"))
    monkeypatch.setattr(periods_module, "write_schema", None)  # nothing is written again
    assert steps_of(timed.path, out, Periods("week")) == found
    with pytest.raises(DataError, match=r"holds other periods \(they differ in by"):
        steps_of(timed.path, out, Periods("day"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(RunError, match="is not a run folder"):
        steps_of(timed.path, tmp_path / "other", Periods("week"))
    with pytest.raises(ValueError, match="--by week; allowed: day, which is a folder of"):
        steps_of(out / "periods", tmp_path / "out", Periods("week"))


def test_a_replay_by_weeks_is_the_replay_of_the_weeks(
    timed: DataSet, tmp_path: Path, seo_rec: Any
) -> None:
    """The command; stopped in between and resumed; against the weeks as a folder of days."""
    options = ("--method", "collisionless", "--dim", 4, "--hidden", "8", "--batch-size", 32)
    out = tmp_path / "run"
    done = seo_rec("replay", timed.path, "--by", "week", "--out", out, *options)
    assert done.code == 0, done.err
    assert "2024-W01: " in done.out and "of 6 days" in done.out
    reference = tmp_path / "reference"
    again = seo_rec("replay", out / "periods", "--out", reference, *options)
    assert again.code == 0, again.err

    def figures(run: Path) -> list[dict[str, Any]]:
        days = json.loads((run / "replay.json").read_text())["days"]
        return [{k: v for k, v in d.items() if not k.endswith("seconds")} for d in days]

    assert figures(out) == figures(reference)
    last = figures(out)[-1]["day"]
    weights = saved_tensors(out / "days" / last / "best")
    other = saved_tensors(reference / "days" / last / "best")
    assert all(torch.equal(other[n], t) for n, t in weights.items())
    (out / "days" / last / "result.json").unlink()
    shutil.rmtree(out / "days" / last)
    wrong = seo_rec("replay", timed.path, "--by", "week", "--out", out, *options)
    assert wrong.code == 2 and "give --resume" in wrong.err
    done = seo_rec("replay", timed.path, "--by", "week", "--out", out, "--resume", *options)
    assert done.code == 0, done.err
    assert figures(out) == figures(reference)
    more = ("--by", "rows", "--rows", 200, "--from", out / "days" / last)
    done = seo_rec("replay", timed.path, *more, "--out", tmp_path / "rows")
    assert done.code == 0 and "of 3 days" in done.out, done.err
    assert recipes.read_replay(tmp_path / "rows").days[0].rows == 200
