"""``seo-rec predict`` and ``Predictor``: rows of every kind, in order, bad ones named."""

from __future__ import annotations

import csv
import json
import shutil
import threading
import uuid
from dataclasses import replace
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from served import ABOUT, LINEAR, linear_program, trained
from sklearn.metrics import roc_auc_score

from cases import POLICIES
from seo_rec.data.rawfile import BadRows
from seo_rec.export import package_parts
from seo_rec.schema import DataError
from seo_rec.serve import Predictor
from seo_rec.serve.archive import write_tar
from seo_rec.serve.bags import RowError
from seo_rec.serve.predict import predict_files, predict_split
from seo_rec.serve.preparation import Preparation
from seo_rec.serve.preparation_rules import Column
from seo_rec.serve.writing import write_package


@pytest.fixture(scope="module")
def predictor(clicks) -> Predictor:
    return Predictor.load(clicks.package)


@pytest.fixture(scope="module")
def rows(clicks) -> dict[str, list]:
    with clicks.raw.open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    columns = {name: [line[name] for line in lines] for name in lines[0]}
    for name in ("price", "age"):
        columns[name] = [float(cell) if cell else None for cell in columns[name]]
    return columns


@pytest.mark.parametrize("ending", [".csv", ".json", ".csv.gz"])
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "prepared"])
def test_scores_do_not_take_the_name_of_another_format(clicks, seo_rec, tmp_path, raw, ending):
    rows = clicks.raw if raw else clicks.data.path
    done = seo_rec("predict", clicks.package, "--raw", rows, "--out", tmp_path / f"s{ending}")
    assert done.code == 2
    last = f".{ending.rpartition(chr(46))[2]}"
    assert f"written as Parquet, and {last} is another format; name it .parquet" in done.err
    assert not [*tmp_path.iterdir()]


def test_auc_of_a_prepared_split_is_that_of_eval(clicks, seo_rec, tmp_path):
    out = tmp_path / "scores.parquet"
    done = seo_rec("predict", clicks.package, "--raw", clicks.data.path, "--out", out)
    assert done.code == 0, done.err
    scores = pq.read_table(out)["score"].to_numpy()
    assert scores.dtype == np.float32
    wanted = json.loads(seo_rec("eval", clicks.run, clicks.data.path).out)
    assert roc_auc_score(clicks.data.labels("test"), scores) == pytest.approx(
        wanted["auc"], abs=1e-6
    )
    assert wanted["auc"] > 0.7  # the model has learnt something, so equal is not chance


def test_raw_rows_have_the_scores_of_the_prepared_ones(clicks, predictor, seo_rec, tmp_path):
    """In order, with the columns that are kept, from CSV, gzip, Parquet and several files."""
    out = tmp_path / "scores.parquet"
    done = seo_rec(
        "predict",
        clicks.package,
        "--raw",
        clicks.raw,
        clicks.raw,
        "--out",
        out,
        "--keep",
        "id,price",
    )
    assert done.code == 0, done.err
    found = pq.read_table(out)
    assert found.column_names == ["id", "price", "score"]
    rows = found.num_rows // 2
    assert found["id"].to_pylist() == [f"r{i}" for i in range(rows)] * 2
    scores = found["score"].to_numpy()
    np.testing.assert_array_equal(scores[:rows], scores[rows:])
    by_split = [
        predictor.score(predictor.preparation.prepared(pq.read_table(path)))
        for split in ("train", "val", "test")
        for path in sorted((clicks.data.path / split).glob("*.parquet"))
    ]
    np.testing.assert_allclose(
        np.sort(np.concatenate(by_split)), np.sort(scores[:rows]), rtol=0, atol=1e-6
    )
    text = pacsv.read_csv(clicks.raw)
    pq.write_table(text, tmp_path / "raw.parquet")
    again = tmp_path / "again.parquet"
    done = seo_rec("predict", clicks.package, "--raw", tmp_path / "raw.parquet", "--out", again)
    assert done.code == 0, done.err
    np.testing.assert_allclose(pq.read_table(again)["score"].to_numpy(), scores[:rows], atol=1e-6)


def test_rows_of_every_kind(predictor, rows):
    polars, pandas = pytest.importorskip("polars"), pytest.importorskip("pandas")
    wanted = predictor(rows)
    assert wanted.dtype == np.float32 and wanted.shape == (len(rows["id"]),)
    table = pa.table(rows)
    for given in (
        table,
        table.to_batches()[0],
        pandas.DataFrame(rows),
        polars.DataFrame(rows),
        {name: np.array(values, object) for name, values in rows.items()},
    ):
        np.testing.assert_array_equal(predictor(given), wanted)
    lists = [[] if not cell else cell.split("|") for cell in rows["tags"]]
    np.testing.assert_array_equal(predictor({**rows, "tags": lists}), wanted)
    order = np.random.default_rng(0).permutation(len(wanted))
    shuffled = {name: [values[i] for i in order] for name, values in rows.items()}
    np.testing.assert_allclose(predictor(shuffled), wanted[order], rtol=0, atol=1e-6)
    one = {name: values[:1] for name, values in rows.items()}
    np.testing.assert_allclose(predictor(one), wanted[:1], rtol=0, atol=1e-6)
    assert predictor({name: [] for name in rows}).shape == (0,)


def test_both_engines_agree(clicks, predictor, rows):
    assert type(predictor.scorer).__name__ == "OnnxScorer"
    plain = Predictor.load(clicks.package, "numpy")
    np.testing.assert_allclose(predictor(rows), plain(rows), rtol=0, atol=1e-6)
    weights = {"tags": [[2.0] * len(c.split("|")) if c else [] for c in rows["tags"]]}
    lists = {**rows, "tags": [c.split("|") if c else [] for c in rows["tags"]]}
    weighted = predictor(lists, weights)
    np.testing.assert_array_equal(weighted, plain(lists, weights))
    assert np.abs(weighted - predictor(rows)).max() > 1e-4


def test_a_tar_file_is_opened_by_both_engines(clicks, predictor, rows, tmp_path):
    """Its files are unpacked for the time of loading, and what is mapped stays."""
    write_tar(clicks.package, tmp_path / "package.tar")
    for engine in ("numpy", "onnxruntime"):
        one = Predictor.load(tmp_path / "package.tar", engine)
        assert not one.package.path.exists()
        np.testing.assert_allclose(one(rows), predictor(rows), rtol=0, atol=1e-6)


def test_many_threads(predictor, rows):
    wanted = predictor(rows)
    found, faults = {}, []

    def score(i: int) -> None:
        try:
            for _ in range(5):
                part = {name: values[i : i + 300] for name, values in rows.items()}
                found[i] = predictor(part)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=score, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    for i, scores in found.items():
        np.testing.assert_allclose(scores, wanted[i : i + 300], rtol=0, atol=1e-6)


BAD = [
    ("3,1,7,i1,x,cheap,20,t1", "line 4, column 'price': not a finite number, got 'cheap'"),
    ("3,1,7,i1,x,1e40,20,t1", "line 4, column 'price': not a finite number, got '1e40'"),
    ("3,1,7,i1,x,1,20", "line 4: the line has 7 columns, 8 are needed"),
    ('3,1,7,"i1,x,1,20,t1', "line 4: the quote that opens a cell here meets the next one"),
]


@pytest.mark.parametrize("line, message", BAD)
def test_bad_rows_are_named_or_skipped(line, message, clicks, seo_rec, tmp_path):
    lines = clicks.raw.read_text().splitlines()[:6]
    lines[3] = line
    raw, out = tmp_path / "bad.csv", tmp_path / "scores.parquet"
    raw.write_text("\n".join(lines) + "\n")
    done = seo_rec("predict", clicks.package, "--raw", raw, "--out", out)
    assert done.code == 2 and f"bad.csv: {message}" in done.err, done.err
    assert not out.exists() and list(tmp_path.iterdir()) == [raw]  # nothing is left over
    skip = ("--on-bad-row", "skip", "--keep", "id")
    done = seo_rec("predict", clicks.package, "--raw", raw, "--out", out, *skip)
    assert done.code == 0 and "1 bad rows skipped" in done.err and message in done.err
    assert pq.read_table(out)["id"].to_pylist() == ["r0", "r1", "r3", "r4"]


HOUR = "not an hour written as YYMMDDHH"
REFUSED = {  # by what the encoder alone can see, text and numbers being well formed
    "14102125,u,i": f"line 3, column 'hour': {HOUR}, got '14102125'; correct the cell",
    " 141021,u,i": f"line 3, column 'hour': {HOUR}, got ' 141021'; correct the cell",
    ",u,i": f"line 3, column 'hour': {HOUR}, got ''; correct the cell",
    f"14102107,{'|'.join(map(str, range(20)))},{'|'.join(map(str, range(14)))}": (
        "line 3, column 'user, item': more combinations than 256 for the cross 'mul', got '20 x 14'"
    ),
}


@pytest.mark.parametrize("line, message", REFUSED.items())
def test_rows_of_text_that_the_encoder_refuses(line, message, tmp_path):
    """One row of three, named as in Parquet; the others are scored."""
    policy = POLICIES["crosses-of-all-kinds"]
    columns = [Column("hour", "categorical", "hour_of_day")]
    columns += [Column(name, "multivalent") for name in ("user", "item")]
    (tmp_path / "package").mkdir()
    with mock.patch("seo_rec.export.package.program_of", linear_program):
        parts = package_parts(
            trained(policy, LINEAR, 0), Preparation("t", "y", {}, tuple(columns)), None, ABOUT
        )
    write_package(tmp_path / "package", parts)
    predictor = Predictor.load(tmp_path / "package")
    raw = tmp_path / "raw.csv"
    raw.write_text(f"hour,user,item\n14102100,1|2,7\n{line}\n14102123,3,7|8\n")
    with pytest.raises(DataError) as error:
        predict_files(predictor, [raw], tmp_path / "scores.parquet")
    assert message in str(error.value)
    done = predict_files(
        predictor, [raw], tmp_path / "scores.parquet", bad_rows=BadRows("skip"), keep=("hour",)
    )
    assert (done.rows, done.skipped) == (2, 1)
    hours = pq.read_table(tmp_path / "scores.parquet")["hour"].to_pylist()
    assert hours == [14102100, 14102123]


def by_value(folder):
    """A predictor of ``user``, one value in a row, and ``item``, several, with ids by value."""
    columns = [Column("hour", "categorical", "hour_of_day")]
    columns += [Column(name, "multivalent", "value", separator="|") for name in ("user", "item")]
    folder.mkdir()
    with mock.patch("seo_rec.export.package.program_of", linear_program):
        preparation = Preparation("t", "y", {}, tuple(columns))
        parts = package_parts(
            trained(POLICIES["crosses-of-all-kinds"], LINEAR, 0), preparation, None, ABOUT
        )
    write_package(folder, parts)
    return Predictor.load(folder)


def scored(predictor, raw, out, **more):
    predict_files(predictor, [raw], out, **more)
    return pq.read_table(out)["score"].to_pylist()


def test_a_uuid_has_the_score_of_its_text(tmp_path):
    predictor = by_value(tmp_path / "package")
    ids = [uuid.UUID(int=i) for i in (7, 2**127)]
    stored = pa.array([i.bytes for i in ids] + [None], pa.binary(16))
    hours, items = [14102100, 14102101, 14102102], pa.array([[1], [2], [3]])
    found = []
    for i, users in enumerate((pa.ExtensionArray.from_storage(pa.uuid(), stored),
                               pa.array([str(i) for i in ids] + [None]))):  # fmt: skip
        raw = tmp_path / f"{i}.parquet"
        pq.write_table(pa.table({"hour": hours, "user": users, "item": items}), raw)
        found.append(scored(predictor, raw, tmp_path / f"scores{i}"))
    assert found[0] == found[1] and len(set(found[0])) == 3


def test_cells_without_an_id_are_named(tmp_path):
    """Text in another encoding, and lists of numbers that are not whole."""
    predictor = by_value(tmp_path / "package")
    text, lists = tmp_path / "raw.csv", tmp_path / "raw.parquet"
    text.write_bytes("hour,user,item\n14102100,a,7\n14102101,été,8\n".encode("latin-1"))
    items = pa.array([[7.0], [8.0, 1.5]])
    users = ["a", "b"]
    pq.write_table(pa.table({"hour": [14102100, 14102101], "user": users, "item": items}), lists)
    for raw, message in (
        (text, "line 3, column 'user': not UTF-8"),
        (lists, "row 2, column 'item': a number in the list is not whole"),
    ):
        with pytest.raises(DataError) as error:
            predict_files(predictor, [raw], tmp_path / "scores")
        assert message in str(error.value)
        out = tmp_path / f"{raw.name}.scores"
        assert len(scored(predictor, raw, out, bad_rows=BadRows("skip"))) == 1
    one = [scored(predictor, raw, tmp_path / f"{raw.name} 2", bad_rows=BadRows("skip"))
           for raw in (text, lists)]  # fmt: skip
    assert one[0] == one[1]


def test_bytes_that_cannot_be_kept_are_no_damage(tmp_path):
    predictor = by_value(tmp_path / "package")
    raw = tmp_path / "raw.parquet"
    rows = {"hour": [14102100], "user": ["a"], "item": [[1]], "b": [b"\xff"]}
    pq.write_table(pa.table(rows), raw)
    with pytest.raises(DataError, match=r"raw.parquet: rows 1 to 1: .*UTF8"):
        predict_files(predictor, [raw], tmp_path / "scores", keep=("b",))


def test_rows_that_are_not_there_are_missed_before_the_options_are(clicks, seo_rec, tmp_path):
    raw, out = tmp_path / "nothing", tmp_path / "out.parquet"
    done = seo_rec("predict", clicks.package, "--raw", raw, "--split", "test", "--out", out)
    assert done.code == 2 and f"{raw}: no such file; check the path" in done.err


def test_bad_rows_of_parquet(clicks, seo_rec, tmp_path):
    table = pacsv.read_csv(clicks.raw).slice(0, 9)
    price = table["price"].to_pylist()
    price[4] = float("inf")
    table = table.set_column(table.column_names.index("price"), "price", [price])
    raw, out = tmp_path / "bad.parquet", tmp_path / "scores.parquet"
    pq.write_table(table, raw)
    done = seo_rec("predict", clicks.package, "--raw", raw, "--out", out)
    assert done.code == 2 and "bad.parquet: row 5, column 'price': not a finite" in done.err
    skip = ("--on-bad-row", "skip", "--keep", "id")
    assert seo_rec("predict", clicks.package, "--raw", raw, "--out", out, *skip).code == 0
    assert pq.read_table(out)["id"].to_pylist() == [f"r{i}" for i in range(9) if i != 4]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--keep", "nothing"), "no columns ['nothing'] to keep; allowed: id, clicked"),
        (("--keep", "score"), "--keep score; allowed: each column once, and not 'score'"),
        (("--on-bad-row", "ignore"), "on-bad-row is 'ignore'; allowed: error, skip"),
        (("--engine", "gpu"), "engine 'gpu'; allowed: auto, onnxruntime, numpy"),
        (("--delimiter", ";"), "the header has ',' and no ';': give --delimiter ','"),
        (("--delimiter", "||"), "delimiter is '||'; allowed: one ASCII character"),
        (("--delimiter", "é"), "delimiter is 'é'; allowed: one ASCII character"),
        (("--delimiter", ""), "delimiter is ''; allowed: one ASCII character"),
        (("--split", "val"), "--split with raw files would be ignored; allowed with a prepared"),
        (("--max-bad", "7"), "--max-bad is given without --on-bad-row skip"),
        (("--on-bad-row", "skip", "--max-bad", "-1"), "max-bad is -1; allowed: 0 or more"),
    ],
)
def test_bad_options(arguments, message, clicks, seo_rec, tmp_path):
    out = tmp_path / "scores.parquet"
    done = seo_rec("predict", clicks.package, "--raw", clicks.raw, "--out", out, *arguments)
    assert done.code == 2 and message in done.err, done.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments", [("--delimiter", ","), ("--on-bad-row", "skip"), ("--max-bad", "7")]
)
def test_options_of_raw_files_are_refused_with_prepared_data(arguments, clicks, seo_rec, tmp_path):
    out = tmp_path / "scores.parquet"
    done = seo_rec("predict", clicks.package, "--raw", clicks.data.path, "--out", out, *arguments)
    message = f"{arguments[0]} with a prepared data set would be ignored; allowed with raw files"
    assert done.code == 2 and message in done.err, done.err
    assert not out.exists()


def test_a_delimiter_is_refused_with_parquet(clicks, seo_rec, tmp_path):
    raw, out = tmp_path / "raw.parquet", tmp_path / "scores.parquet"
    pq.write_table(pacsv.read_csv(clicks.raw).slice(0, 9), raw)
    call = ("predict", clicks.package, "--raw", raw, "--out", out, "--delimiter", ",")
    done = seo_rec(*call)
    assert done.code == 2 and "a delimiter is given, but all files are Parquet" in done.err
    assert not out.exists()
    assert seo_rec(*call, clicks.raw).code == 0  # one of the files is text


def test_damaged_shards_are_refused(clicks, seo_rec, tmp_path):
    """A shard that is replaced, and one that is gone, is no shorter list of scores."""
    folder, out = shutil.copytree(clicks.data.path, tmp_path / "data"), tmp_path / "scores.parquet"
    shard = folder / "test" / "part-00000.parquet"
    pq.write_table(pq.read_table(shard).slice(1), shard)
    call = ("predict", clicks.package, "--raw", folder, "--out", out)
    done = seo_rec(*call)
    assert done.code == 2 and f"{shard}: damaged or replaced" in done.err, done.err
    shard.rename(shard.with_name("part-00001.parquet"))
    done = seo_rec(*call)
    assert done.code == 2 and "missing ['part-00000.parquet'] or left over" in done.err, done.err
    shard.with_name("part-00001.parquet").unlink()
    done = seo_rec(*call)
    assert done.code == 2 and "missing ['part-00000.parquet']" in done.err, done.err
    assert not out.exists()
    assert seo_rec(*call, "--split", "val").code == 0  # whose shards are whole


def test_no_file_is_written_over(clicks, predictor, seo_rec, tmp_path):
    raw = tmp_path / "raw.csv"
    shutil.copy(clicks.raw, raw)
    before = raw.read_bytes()
    for source in (raw, clicks.data.path):
        done = seo_rec("predict", clicks.package, "--raw", source, "--out", raw)
        assert done.code == 2 and f"{raw} exists; choose another --out" in done.err, done.err
    with pytest.raises(FileExistsError, match="exists; choose another"):
        predict_files(predictor, [raw], raw)
    with pytest.raises(FileExistsError, match="exists; choose another"):
        predict_split(predictor, clicks.data.path, "test", tmp_path)
    assert raw.read_bytes() == before and list(tmp_path.iterdir()) == [raw]


def test_data_of_other_rules_are_refused(clicks, tiny, seo_rec, tmp_path):
    done = seo_rec("predict", clicks.package, "--raw", tiny, "--out", tmp_path / "s.parquet")
    assert done.code == 2 and "that were prepared by other rules than" in done.err


@pytest.mark.parametrize(
    "rows, message",
    [
        (7, "rows of type int; allowed: a dict of lists"),
        ({"user": "abc"}, "column 'user' is str; allowed: a list of values"),
        ({"user": [1, "a"]}, "column 'user': "),
        ({"user": [1], "item": [1, 2]}, "not columns of equal length"),
        ({"user": [2**70]}, "column 'user': "),
        ({"user": [1]}, "the rows lack the columns"),
    ],
)
def test_rows_that_are_none(rows, message, predictor):
    with pytest.raises(DataError, match=message):
        predictor(rows)


def test_scores_that_are_no_numbers(clicks, tmp_path):
    """Such a row is named; it has no score."""
    plain = Predictor.load(clicks.package, "numpy")
    inputs = plain.package.golden.inputs
    dense = inputs.dense_BN.copy()
    dense[3] = np.nan
    with pytest.raises(RowError, match="row 3, column 'score': the score is not a number"):
        plain.score(replace(inputs, dense_BN=dense))


def test_rows_of_extremes(predictor, rows):
    """Unseen ids, the largest ids, and a bag of very many."""
    one = {name: values[:1] for name, values in rows.items()}
    for cell in ("never seen", str(2**63 - 1), 2**63 - 1, -1, "\N{SNOWMAN}", "x" * 100_000):
        score = predictor({**one, "user": [cell]})
        assert 0 <= score[0] <= 1
    many = predictor({**one, "tags": [[f"t{i}" for i in range(100_000)]]})
    assert many.shape == (1,) and np.isfinite(many).all()
