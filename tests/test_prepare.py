"""Raw rows in, exact rows out; a bad row is named; nothing is half written."""

from __future__ import annotations

import gzip
import hashlib
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from prepared_rows import ALL_TRAIN, digests, numbered, rows, write
from real_data import real_data
from seo_rec.cli.prepare import app
from seo_rec.data import rawfile
from seo_rec.data.avazu import HEADER, prepare_avazu
from seo_rec.data.criteo import bucket, log_transform, prepare_criteo
from seo_rec.data.movielens import prepare_movielens
from seo_rec.data.rawfile import BadRows
from seo_rec.data.split import Split
from seo_rec.data.tokens import MISSING, token_id
from seo_rec.data.vocabulary import PRESETS, Pruning, read_vocabulary
from seo_rec.schema import SPLITS, DataError, read_schema


def criteo_line(label: object = 1, integers: str = "3", tokens: str = "0a1b2c3d") -> str:
    return "\t".join([str(label), *[integers] * 13, *[tokens] * 26])


# --- the three public formats ---------------------------------------------------------------


def test_criteo_rows_are_exact(tmp_path: Path) -> None:
    full = criteo_line(1, "7", "05db9164")
    sparse = criteo_line(0, "", "")
    raw = write(tmp_path / "train.txt", full, sparse, criteo_line(0, "-3", "12345678"))
    schema = prepare_criteo(raw, tmp_path / "out", split=ALL_TRAIN)
    got = rows(tmp_path / "out")
    assert got["label"] == [1.0, 0.0, 0.0]
    assert got["I1"] == pytest.approx([math.log(8), 0.0, 0.0])  # -3: clipped where ln is undefined
    assert got["I2"] == pytest.approx([math.log(11), 0.0, 0.0])
    assert got["C26"] == [token_id("05db9164"), MISSING, 12345678]
    assert schema.num_rows == {"train": 3, "val": 0, "test": 0}
    assert schema.vocab_size("C1") == 3
    assert schema.sources[0]["sha256"] == hashlib.sha256(raw.read_bytes()).hexdigest()
    assert "missing: 0" in schema.options["numeric_rule"]
    assert pq.read_table(tmp_path / "out" / "test").num_rows == 0
    assert read_schema(tmp_path / "out") == schema
    ids, counts = read_vocabulary(tmp_path / "out", "C1")
    assert sorted(ids) == list(ids)
    assert counts.tolist() == [1, 1, 1]


def test_criteo_embedded_integers_and_empty_bags(tmp_path: Path) -> None:
    raw = write(tmp_path / "t", criteo_line(1, "100"), criteo_line(0, "", ""), criteo_line(0, "-1"))
    schema = prepare_criteo(
        raw, tmp_path / "out", embed_numeric=True, missing="empty", split=ALL_TRAIN
    )
    assert len(schema.features) == 39
    assert schema.numeric == ()
    got = rows(tmp_path / "out")
    assert got["I1"] == [int(math.log(100) ** 2), None, token_id("-1")]
    assert got["C1"] == [token_id("0a1b2c3d"), None, token_id("0a1b2c3d")]
    assert schema.columns[0].lookups_per_row == pytest.approx(2 / 3)


def test_criteo_number_rules() -> None:
    values = np.array([np.nan, -3, -1, 0, 1, 2, 3, 1000])
    assert log_transform("I2", values) == pytest.approx(
        [0, 0, math.log(3), math.log(4), math.log(5), math.log(6), math.log(7), math.log(1004)]
    )
    assert log_transform("I3", values)[:4].tolist() == [0, 0, 0, 0]
    assert bucket(values[1:]).tolist() == [-3, -1, 0, 1, 2, 1, 47]


def test_line_ends_mark_gzip_and_blank_tail_change_nothing(tmp_path: Path) -> None:
    lines = [criteo_line(i % 2, str(i), f"{i:08x}") for i in range(50)]
    plain = write(tmp_path / "plain", *lines)
    text = plain.read_bytes()
    (tmp_path / "crlf").write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n") + b"\r\n\r\n")
    (tmp_path / "no_end").write_bytes(text[:-1])
    half = len(text) // 2
    (tmp_path / "zip.gz").write_bytes(gzip.compress(text[:half]) + gzip.compress(text[half:]))
    expected = None
    for name in ("plain", "crlf", "no_end", "zip.gz"):
        prepare_criteo(tmp_path / name, tmp_path / f"out_{name}")
        found = digests(tmp_path / f"out_{name}")
        expected = expected or found
        assert found == expected, name


def test_criteo_folder_of_days_in_number_order(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for day in (10, 2):
        write(raw / f"day_{day}", criteo_line(1, str(day)))
    schema = prepare_criteo(raw, tmp_path / "out", split=ALL_TRAIN)
    assert [source["name"] for source in schema.sources] == ["day_2", "day_10"]
    assert rows(tmp_path / "out")["I1"] == pytest.approx([math.log(3), math.log(11)])


def test_avazu_rows_are_exact(tmp_path: Path) -> None:
    cells = [str(i) for i in range(21)]
    cells[3], cells[19] = "85f751fd", "-1"
    row = ",".join(["10000371904215119486", "1", "14102123", *cells])
    raw = write(tmp_path / "train.csv", ",".join(HEADER), row)
    schema = prepare_avazu(raw, tmp_path / "out", split=ALL_TRAIN)
    got = rows(tmp_path / "out")
    assert [c.name for c in schema.columns] == list(HEADER[2:])
    assert got["hour"] == [23]
    assert got["site_domain"] == [token_id("85f751fd")]
    assert got["C20"] == [token_id("-1")]
    assert got["C21"] == [20]


def test_movielens_rows_are_exact(tmp_path: Path) -> None:
    write(tmp_path / "users.dat", "2::M::56::16::01234", "1::F::1::10::98107-2117")
    write(tmp_path / "ratings.dat", "1::10::5::9", "2::10::3::9", "2::11::2::9", "1::11::4::9")
    schema = prepare_movielens(tmp_path, tmp_path / "out", split=ALL_TRAIN)
    got = rows(tmp_path / "out")
    assert got["user"] == [1, 2, 1]
    assert got["movie"] == [10, 11, 11]
    assert got["label"] == [1.0, 0.0, 1.0]
    assert got["zip"] == [token_id(z) for z in ("98107-2117", "01234", "98107-2117")]
    assert schema.options["rating_rule"] == "drop-3"
    prepare_movielens(tmp_path, tmp_path / "all", rating_rule="ge-3", split=ALL_TRAIN)
    assert rows(tmp_path / "all")["label"] == [1.0, 1.0, 0.0, 1.0]
    with pytest.raises(DataError, match="ordered by user"):
        prepare_movielens(tmp_path, tmp_path / "x", split=Split("temporal"))


# --- bad input ------------------------------------------------------------------------------

CRITEO_FAULTS = [
    ("1\t2\t3", ["line 4", "has 3 columns, 40 are needed"]),
    (criteo_line(2), ["line 4", "'label'", "'2'", "outside {0, 1}"]),
    (criteo_line(""), ["line 4", "'label'", "''"]),
    (criteo_line(1, "7x"), ["line 4", "'I1'", "'7x'", "not an integer"]),
    (criteo_line(1, "1.5"), ["line 4", "'I1'", "'1.5'"]),
    (criteo_line() + "\textra", ["line 4", "has 41 columns"]),
    ("", ["line 4", "is blank"]),
]


@pytest.mark.parametrize(("line", "message"), CRITEO_FAULTS)
@pytest.mark.parametrize("block_bytes", [100, 1 << 20])
def test_bad_criteo_row_is_named_and_nothing_is_left(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    message: list[str],
    block_bytes: int,
) -> None:
    monkeypatch.setattr(rawfile, "_READ_BYTES", 64)
    defaults = {"quoted": None, "block_bytes": block_bytes}
    monkeypatch.setattr(rawfile.text_blocks, "__kwdefaults__", defaults)
    good = criteo_line()
    raw = write(tmp_path / "train.txt", good, good, good, line, good, good)
    with pytest.raises(DataError) as error:
        prepare_criteo(raw, tmp_path / "out")
    for part in ["train.txt", *message]:
        assert part in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["train.txt"]

    schema = prepare_criteo(
        raw, tmp_path / "out", split=ALL_TRAIN, bad_rows=BadRows("skip", max_bad=1)
    )
    assert schema.num_rows["train"] == 5
    assert schema.options["bad_rows"]["skipped"] == 1
    with pytest.raises(DataError, match="more than 0 bad rows"):
        prepare_criteo(raw, tmp_path / "out2", bad_rows=BadRows("skip", max_bad=0))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        prepare_criteo(tmp_path / "absent", tmp_path / "out")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        prepare_criteo(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "blank").write_bytes(b"\n\r\n\n")
    with pytest.raises(DataError, match="holds no rows"):
        prepare_criteo(tmp_path / "blank", tmp_path / "out")
    (tmp_path / "utf16").write_bytes("1\t2\n".encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16"):
        prepare_criteo(tmp_path / "utf16", tmp_path / "out")
    whole = gzip.compress("".join(f"{criteo_line(1, str(i))}\n" for i in range(999)).encode())
    (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut.gz: line \d+: the gzip file is truncated"):
        prepare_criteo(tmp_path / "cut.gz", tmp_path / "out")
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(DataError, match=r"no train\.txt"):
        prepare_criteo(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_avazu_and_movielens_rows_are_named(tmp_path: Path) -> None:
    row = "1,0,{hour}," + ",".join("7" for _ in range(21))
    raw = write(tmp_path / "a.csv", ",".join(HEADER), row.format(hour="14102124"))
    with pytest.raises(DataError, match=r"a\.csv: line 2, column 'hour': .*'14102124'"):
        prepare_avazu(raw, tmp_path / "out")
    raw = write(tmp_path / "b.csv", ",".join(HEADER[2:]), "1")
    with pytest.raises(DataError, match=r"b\.csv: line 1: the header is"):
        prepare_avazu(raw, tmp_path / "out")
    raw = write(tmp_path / "c.csv", ",".join(HEADER))
    with pytest.raises(DataError, match=r"no rows in the train split"):
        prepare_avazu(raw, tmp_path / "out")

    write(tmp_path / "users.dat", "1::F::1::10::1")
    write(tmp_path / "ratings.dat", "1::1::5::0", "7::1::5::0")
    with pytest.raises(DataError, match=r"ratings\.dat: line 2, column 'user': .*users\.dat"):
        prepare_movielens(tmp_path, tmp_path / "out")
    write(tmp_path / "ratings.dat", "1::1::5::0", "1::1::6::0")
    with pytest.raises(DataError, match=r"line 2, column 'rating': .*'6'"):
        prepare_movielens(tmp_path, tmp_path / "out")
    write(tmp_path / "users.dat", "1::F::1::10::1", "1::M::1::10::1")
    with pytest.raises(DataError, match="user 1 has more than one line"):
        prepare_movielens(tmp_path, tmp_path / "out")
    write(tmp_path / "users.dat", "1,F,1,10,1", "x::F::1::10::1")
    with pytest.raises(DataError, match=r"users\.dat: none of its 2 lines .* line 1: .*1 columns"):
        prepare_movielens(tmp_path, tmp_path / "out", bad_rows=BadRows("skip"))
    assert not (tmp_path / "out").exists()


# --- the folder appears whole or not at all -------------------------------------------------


def test_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    raw = write(tmp_path / "t", criteo_line())
    (tmp_path / "out").mkdir()
    write(tmp_path / "out" / "mine", "keep")
    with pytest.raises(FileExistsError, match="not empty"):
        prepare_criteo(raw, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupted_prepare_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def interrupted(*_: object) -> None:
        raise error

    raw = write(tmp_path / "t", *[criteo_line()] * 10)
    monkeypatch.setattr("seo_rec.data.prepare.write_vocabulary", interrupted)
    with pytest.raises(error):
        prepare_criteo(raw, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


# --- the command ----------------------------------------------------------------------------


def test_cli_reports_errors_in_one_message(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    raw = write(tmp_path / "t", criteo_line(), criteo_line(3))
    bad = CliRunner().invoke(app, ["criteo", "--raw", str(raw), "--out", out])
    assert bad.exit_code == 2
    assert "line 2, column 'label'" in bad.stderr
    assert "Traceback" not in bad.stderr
    command = ["criteo", "--raw", str(raw), "--out", out, "--on-bad-row", "skip", "--max-bad", "1"]
    skipped = CliRunner().invoke(app, [*command, "--fractions", "1,0,0"])
    assert skipped.exit_code == 0, skipped.stderr
    assert "1 bad rows skipped" in skipped.stderr
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2
    assert "not empty" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-bad", "3"], "without --on-bad-row skip"),
        (["--split", "temporal", "--seed", "3"], "a temporal split uses none"),
        (["--fractions", "0.5,0.5"], "three numbers"),
        (["--vocabulary-size", "C3"], "COLUMN=K"),
        (["--vocabulary-size", "I1=9"], "not categorical columns"),
        (["--missing", "drop"], "allowed: token, empty"),
    ],
)
def test_cli_refuses_settings_that_would_be_ignored(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    raw = write(tmp_path / "t", criteo_line())
    command = ["criteo", "--raw", str(raw), "--out", str(tmp_path / "out"), *arguments]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_cli_table_takes_several_files(tmp_path: Path) -> None:
    files = [str(numbered(tmp_path / f"{name}.csv", 10)) for name in "pqr"]
    result = CliRunner().invoke(
        app,
        ["table", "--raw", *files, "--label", "y", "--categorical", "a,b", "--fractions", "1,0,0",
         "--out", str(tmp_path / "out")],
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert read_schema(tmp_path / "out").num_rows["train"] == 30


# --- real data ------------------------------------------------------------------------------


def test_real_movielens(tmp_path: Path) -> None:
    schema = prepare_movielens(real_data("ml-1m"), tmp_path / "out")
    assert sum(schema.num_rows.values()) == 1_000_209 - 261_197
    positives = sum(schema.num_rows[s] * schema.label_rate[s] for s in SPLITS)
    assert round(positives) == 348_971 + 226_310
    assert schema.vocab_size("user") == 6_040


def test_real_criteo(tmp_path: Path) -> None:
    schema = prepare_criteo(real_data("criteo-sample"), tmp_path / "out")
    assert sum(schema.num_rows.values()) == 137_139
    positives = sum(schema.num_rows[s] * schema.label_rate[s] for s in SPLITS)
    assert positives / 137_139 == pytest.approx(0.25677, abs=5e-6)
    distinct = set()
    for split in SPLITS:
        distinct |= set(pq.read_table(tmp_path / "out" / split, columns=["C3"])["C3"].to_pylist())
    assert len(distinct) == 61_764  # the empty token is one of them


def test_real_criteo_with_the_published_protocol(tmp_path: Path) -> None:
    schema = prepare_criteo(
        real_data("criteo-sample"),
        tmp_path / "out",
        split=Split("temporal"),
        pruning=Pruning(preset="unified-criteo"),
    )
    assert schema.num_rows["train"] == round(137_139 * 6 / 7)
    for column in schema.features:
        assert column.vocab_size <= PRESETS["unified-criteo"][column.name]
    assert schema.vocab_size("C3") == 17_447


def test_real_avazu(tmp_path: Path) -> None:
    schema = prepare_avazu(
        real_data("avazu-sample/train.csv"),
        tmp_path / "out",
        pruning=Pruning(preset="unified-avazu"),
    )
    assert sum(schema.num_rows.values()) == 8_999
    assert len(schema.features) == 22
