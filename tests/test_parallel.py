"""Preparing by several processes gives what one process gives, byte for byte, also after kills."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from parallel_rows import COLUMNS, contents, rows_of_files, table_rows, write_table
from patience import PATIENCE
from seo_rec.data import numeric, parallel, pieces, shards, work
from seo_rec.data.avazu import HEADER, avazu_source
from seo_rec.data.criteo import criteo_source
from seo_rec.data.dataset import open_data
from seo_rec.data.parallel import Workers, prepare_by
from seo_rec.data.pieces import cut
from seo_rec.data.rawfile import BadRows, Intake, Piece, text_blocks
from seo_rec.data.sketch import DistinctSketch
from seo_rec.data.source import Source
from seo_rec.data.split import Split
from seo_rec.data.table import TableColumns, table_source
from seo_rec.data.tasks import Job
from seo_rec.data.vocabulary import Pruning
from seo_rec.data.work import Task
from seo_rec.schema import DataError, read_schema

TEMPORAL = Split("temporal", fractions=(0.6, 0.2, 0.2))
FILES = Callable[[Path], dict[str, bytes]]


class Alone:
    """The tasks of every stage in this process, in any order."""

    def __init__(self, job: Job, *_: object) -> None:
        self.job = job

    def __enter__(self) -> Alone:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, stage: list[Task], done: Callable[[int], None]) -> None:
        for task in random.Random(len(stage)).sample(stage, len(stage)):
            Job.perform(self.job, task)
        done(len(stage))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces, row groups and shards of a few rows, and all tasks in this process."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 400)
    monkeypatch.setattr(pieces, "PIECE_ROWS", 30)
    monkeypatch.setattr(shards, "ROW_GROUP_ROWS", 16)
    monkeypatch.setattr(shards, "SHARD_ROWS", 64)
    monkeypatch.setattr(work, "SHARD_ROWS", 64)
    monkeypatch.setattr(work, "COUNT_ROWS", 40)
    monkeypatch.setattr(numeric, "BLOCK_ROWS", 16)
    monkeypatch.setattr(parallel, "LocalProcesses", Alone)


def both(tmp_path: Path, make: Callable[[], Source], **rules: Any) -> tuple[Path, Path]:
    """The data sets that one process and two write."""
    rules = {"split": Split(), "pruning": Pruning(), "bad_rows": BadRows(), **rules}
    for processes in (1, 2):
        prepare_by(Workers(processes), make, tmp_path / f"by{processes}", **rules)
    return tmp_path / "by1", tmp_path / "by2"


# ---- the law -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"split": TEMPORAL},
        {"pruning": Pruning(min_count=3)},
        {"pruning": Pruning(sizes={"u": 8}), "split": TEMPORAL},
        {"pruning": Pruning(counted=False)},
        {"split": Split(fractions=(0.5, 0.5, 0.0))},
    ],
    ids=str,
)
@pytest.mark.usefixtures("small")
def test_the_files_of_many_processes_are_those_of_one(
    tmp_path: Path, rules: dict[str, Any]
) -> None:
    rng = random.Random(1)
    rows = table_rows(rng, 500)
    raw = [
        write_table(tmp_path / "a.csv", rows[:250]),
        write_table(tmp_path / "b.csv", rows[250:300], "\r\n"),
        tmp_path / "c.csv.gz",
    ]
    packed = write_table(tmp_path / "c.csv", rows[300:])
    raw[2].write_bytes(gzip.compress(packed.read_bytes()))
    one, two = both(tmp_path, partial(table_source, raw, COLUMNS), **rules)
    assert contents(one) == contents(two)
    assert len(list((two / "train").iterdir())) > 2
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    "transform, rules",
    [
        ("standard", {}),
        ("standard", {"split": TEMPORAL, "pruning": Pruning(min_count=3)}),
        ("standard,y2=log,x=none", {"pruning": Pruning(counted=False)}),
        ("log", {"split": TEMPORAL}),
    ],
    ids=str,
)
@pytest.mark.usefixtures("small")
def test_numbers_are_scaled_by_many_processes_as_by_one(
    tmp_path: Path, transform: str, rules: dict[str, Any]
) -> None:
    """Also where training rows alone miss numbers, which adds a column."""
    rng = np.random.default_rng(3)
    rows = [
        [i % 2, i % 40, f"t{i % 7}", "" if i % 11 == 3 else rng.normal(5, 3), rng.lognormal()]
        for i in range(500)
    ]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["y", "u", "t", "x", "y2"], *rows])
    columns = TableColumns(
        "y", ("u", "t"), ("x", "y2"), numeric_transform=transform, numeric_missing="indicator"
    )
    one, two = both(tmp_path, partial(table_source, tmp_path / "a.csv", columns), **rules)
    assert contents(one) == contents(two)
    schema = read_schema(two)
    assert "x is missing" in [c.name for c in schema.columns]
    if transform == "standard":
        values = [pq.read_table(p)["x"].to_numpy() for p in (two / "train").iterdir()]
        assert np.concatenate(values).astype(float).mean() == pytest.approx(0, abs=1e-6)


def test_tasks_measure_whole_blocks() -> None:
    assert shards.SHARD_ROWS % numeric.BLOCK_ROWS == 0


def test_figures_of_parts_are_those_of_the_whole_to_the_last_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before they are rounded, however rows are cut into tables and tasks."""
    monkeypatch.setattr(numeric, "BLOCK_ROWS", 64)
    x = np.random.default_rng(0).normal(1e6, 3.0, 1000)
    x[::7] = np.nan
    x[128:192] = np.nan
    found = []
    for size, part in ((1000, 1000), (7, 1000), (100, 128), (33, 640)):
        whole = numeric.Fit(numeric.NumericPlan())
        for start in range(0, 1000, part):
            rows, one = x[start : start + part], numeric.Fit(numeric.NumericPlan())
            for first in range(0, len(rows), size):
                one.add(rows[first : first + size])
            whole.merge(json.loads(json.dumps(one.measured())))
        found.append((whole.missing, whole.blocks, whole.rule()))
    assert all(other == found[0] for other in found)
    assert len(found[0][1]) == 15 and found[0][2].mean == pytest.approx(np.nanmean(x), rel=1e-8)


def test_quantiles_need_one_process(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.csv", table_rows(random.Random(1), 50))
    columns = replace(COLUMNS, numeric_transform="quantiles")
    with pytest.raises(DataError, match="one process, because quantiles are measured on all"):
        both(tmp_path, partial(table_source, path, columns))


@pytest.mark.usefixtures("small")
def test_parquet_files_are_cut_at_row_groups(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "y": rng.integers(0, 2, 300),
            "u": rng.integers(0, 50, 300),
            "t": [f"t{i % 7}" for i in range(300)],
            "x": rng.random(300),
            "m": [[str(j) for j in range(i % 4)] for i in range(300)],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=25)
    pq.write_table(table.slice(0, 0), tmp_path / "b.parquet")
    assert [p.line for p in cut(tmp_path / "a.parquet", ",")] == [1, 51, 101, 151, 201, 251]
    raw = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    one, two = both(tmp_path, partial(table_source, raw, COLUMNS))
    assert contents(one) == contents(two)


@pytest.mark.usefixtures("small")
def test_criteo_and_avazu_are_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE_BYTES", 9_000)
    rng = random.Random(2)
    lines = [
        "\t".join([str(rng.randint(0, 1)), *["3"] * 13, *[f"{rng.randint(0, 9):08x}"] * 26])
        for _ in range(300)
    ]
    lines[20] = lines[20].replace("3", "")
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n\n\n")
    make = partial(criteo_source, tmp_path, embed_numeric=True, missing="empty")
    one, two = both(tmp_path, make)
    assert contents(one) == contents(two)
    cells = [f"{i},{i % 2},141021{i % 24:02d}," + ",".join([str(i % 9)] * 21) for i in range(200)]
    (tmp_path / "train.csv").write_text("\n".join([",".join(HEADER), *cells]) + "\n")
    make = partial(avazu_source, tmp_path / "train.csv", missing="token")
    (tmp_path / "avazu").mkdir()
    one, two = both(tmp_path / "avazu", make)
    assert contents(one) == contents(two)


# ---- pieces ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_the_rows_of_the_pieces_are_the_rows_of_the_file(tmp_path: Path, seed: int) -> None:
    """Against Python's csv, which reads the file from end to end."""
    rng = random.Random(seed)
    end = rng.choice(["\n", "\r\n"])
    path = write_table(tmp_path / "t.csv", table_rows(rng, 120), end)
    if seed % 3 == 0:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\n\r\n\n")
    with path.open(newline="", encoding="utf-8-sig") as file:
        expected = [row for row in csv.reader(file) if row]
    found: list[list[str]] = []
    parts = cut(path, ",", piece_bytes=rng.randint(40, 900))
    assert len(parts) > 2
    assert [(p.start, q.start) for p, q in pairwise(parts)] == [
        (p.start, p.stop) for p in parts[:-1]
    ]
    for piece in parts:
        blocks = list(text_blocks(path, Intake(piece=piece), quoted=","))
        text = b"".join(block.data for block in blocks).decode()
        rows = [row for row in csv.reader(text.splitlines(keepends=True)) if row]
        found += rows[1:] if piece.start else rows
        assert rows[0] == expected[0]
    assert found == expected


def test_what_cannot_be_cut_is_one_piece(tmp_path: Path) -> None:
    text = b"y,u\n" + b"1,2\n" * 500
    kinds = {"gz": gzip.compress(text), "cr": text.replace(b"\n", b"\r"), "small": b"y,u\n1,2\n"}
    for name, data in kinds.items():
        (tmp_path / name).write_bytes(data)
        assert cut(tmp_path / name, ",", 100) == [Piece(tmp_path / name)], name
    open_quote = b"y,u\n" + b"1,2\n" * 100 + b'1,"2\n' + b"1,2\n" * 100
    (tmp_path / "open").write_bytes(open_quote)
    parts = cut(tmp_path / "open", ",", 100)
    assert parts[-1].start <= open_quote.index(b'1,"2') < parts[-1].stop == len(open_quote)


def test_blank_lines_are_refused_wherever_a_piece_ends(tmp_path: Path, small: None) -> None:
    for blank in range(40, 60):  # the cut falls before, into and behind the blank lines
        lines = [f"{i % 2},{i},t,1,p" for i in range(90)]
        lines[blank:blank] = ["", ""]
        raw = tmp_path / f"{blank}.csv"
        raw.write_text("y,u,t,x,m\n" + "\n".join(lines) + "\n")
        make = partial(table_source, raw, COLUMNS)
        with pytest.raises(DataError, match=rf"line {blank + 2}: the line is blank"):
            prepare_by(Workers(2), make, tmp_path / "out", split=Split(), pruning=Pruning(),
                       bad_rows=BadRows())  # fmt: skip


# ---- bad rows ----------------------------------------------------------------------------------


def said(make: Callable[[], Source], out: Path, processes: int, bad_rows: BadRows) -> str:
    with pytest.raises(DataError) as caught:
        prepare_by(Workers(processes), make, out, split=Split(), pruning=Pruning(),
                   bad_rows=bad_rows)  # fmt: skip
    assert not out.exists()
    return str(caught.value)


@pytest.mark.usefixtures("small")
def test_the_first_bad_row_is_named_as_by_one_process(tmp_path: Path) -> None:
    rng = random.Random(3)
    rows = table_rows(rng, 300)
    for bad in (60, 130, 131, 290):
        rows[bad][0] = "maybe"
    rows[200][3] = "1e999"
    raw = [write_table(tmp_path / "a.csv", rows[:100]), write_table(tmp_path / "b.csv", rows[100:])]
    make = partial(table_source, raw, COLUMNS)
    for rule in (BadRows(), BadRows("skip", 2), BadRows("skip", 4)):
        assert said(make, tmp_path / "out", 1, rule) == said(make, tmp_path / "out", 2, rule)
    one, two = both(tmp_path, make, bad_rows=BadRows("skip", 5))
    assert contents(one) == contents(two)
    assert len(read_schema(two).options["bad_rows"]["examples"]) == 5


@pytest.mark.usefixtures("small")
def test_other_faults_are_those_that_one_process_meets(tmp_path: Path) -> None:
    rows = table_rows(random.Random(4), 200)
    good = write_table(tmp_path / "good.csv", rows)
    damaged = tmp_path / "damaged.csv.gz"
    damaged.write_bytes(gzip.compress(good.read_bytes())[:-200])
    other = tmp_path / "other.csv"
    other.write_text("y,u,t,x\n1,1,1,1\n")
    unclosed = tmp_path / "unclosed.csv"
    unclosed.write_text(good.read_text() + '1,1,"t,1,p\n' + "1,1,t,1,p\n" * 50)
    for raw in ([good, damaged], [good, other], [unclosed, good], [good, unclosed, damaged]):
        make = partial(table_source, raw, COLUMNS)
        outs = [said(make, tmp_path / "out", n, BadRows()) for n in (1, 2)]
        assert outs[0] == outs[1]
    with pytest.raises(DataError, match="no rows in the train split"):
        prepare_by(Workers(2), partial(table_source, [good], COLUMNS), tmp_path / "out",
                   split=Split(fractions=(1e-9, 0.5, 0.5 - 1e-9)), pruning=Pruning(),
                   bad_rows=BadRows())  # fmt: skip


# ---- sketches ----------------------------------------------------------------------------------


def test_a_sketch_is_exact_below_its_size_and_near_above() -> None:
    sketch = DistinctSketch(1_000)
    sketch.add(np.arange(999).repeat(3))
    assert (sketch.distinct(), sketch.total) == (999, 2_997)
    errors = []
    for start in range(20):
        sketch = DistinctSketch(1_000)
        for block in np.array_split(np.arange(50_000) + start * 10**9, 7):
            sketch.add(block)
            sketch.add(block)
        errors.append(sketch.distinct() / 50_000 - 1)
    assert 0.015 < np.std(errors) < 0.06  # 1 / sqrt(998) is 0.032
    assert abs(np.mean(errors)) < 0.03


def test_sketches_of_parts_make_the_sketch_of_the_whole() -> None:
    ids = np.random.default_rng(0).integers(0, 30_000, 60_000)
    whole, merged = DistinctSketch(500), DistinctSketch(500)
    whole.add(ids)
    for part in np.array_split(ids, 5):
        sketch = DistinctSketch(500)
        sketch.add(part)
        merged.merge(sketch.hashes, sketch.total)
    assert (merged.hashes == whole.hashes).all()
    assert merged.total == whole.total == 60_000


def test_without_vocabularies_hashed_policies_work_and_others_say_why(tmp_path: Path) -> None:
    from seo_rec.methods.published import hashing_trick

    raw = write_table(tmp_path / "t.csv", table_rows(random.Random(5), 200))
    schemas = [
        prepare_by(Workers(), partial(table_source, raw, COLUMNS), tmp_path / str(counted),
                   split=Split(), pruning=Pruning(counted=counted), bad_rows=BadRows())
        for counted in (True, False)
    ]  # fmt: skip
    assert schemas[0].columns == schemas[1].columns  # exact: the columns are small
    assert not (tmp_path / "False" / "vocabulary").exists()
    assert hashing_trick(schemas[1], 2_000, 4) == hashing_trick(schemas[0], 2_000, 4)
    with pytest.raises(DataError, match="without --no-vocabulary"):
        open_data(tmp_path / "False").vocabulary("u")
    with pytest.raises(DataError, match="--no-vocabulary counts none"):
        Pruning(min_count=2, counted=False)


# ---- processes ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("small")
def test_the_largest_tasks_come_first(tmp_path: Path) -> None:
    """So that none of them is alone at the end of its stage."""
    raw = write_table(tmp_path / "t.csv", table_rows(random.Random(8), 500))
    source = table_source(raw, COLUMNS)
    job = Job(source, tmp_path / "work", Split(), Pruning(), BadRows())
    found: dict[str, list[Task]] = {}
    for stage in job.stages():
        found[stage[0].kind] = stage
        for task in stage:
            job.perform(task)
    by_kind = {"write": len(job.shards), "count": len(job.groups)}
    counted = {kind: sum(t.kind == kind for t in found["write"]) for kind in by_kind}
    assert counted == by_kind
    assert len(set(found["write"])) == sum(by_kind.values())
    rows = [
        job.record("write", t.number)["rows"]
        if t.kind == "write"
        else sum(
            table.num_rows
            for piece in job.groups[t.number]
            for table in job.rows(piece, "train", 0, sys.maxsize)
        )
        for t in found["write"]
    ]
    assert rows == sorted(rows, reverse=True)
    assert rows[0] > rows[-1]


def test_another_request_starts_afresh(tmp_path: Path, small: None) -> None:
    raw, out = rows_of_files(tmp_path, 2), tmp_path / "out"
    work = tmp_path / ".out.parallel.part"
    (work / "records").mkdir(parents=True)
    (work / "records" / "read-0.json").write_text('{"rows": 0}')
    (work / "request.json").write_text('"other"')
    make = partial(table_source, raw, COLUMNS)
    schema = prepare_by(Workers(2), make, out, split=Split(), pruning=Pruning(),
                        bad_rows=BadRows())  # fmt: skip
    assert sum(schema.num_rows.values()) == 120
    assert not work.exists()


def test_one_process_removes_what_killed_ones_have_left(tmp_path: Path) -> None:
    work = tmp_path / ".out.parallel.part"
    (work / "rows").mkdir(parents=True)
    make = partial(table_source, rows_of_files(tmp_path, 1), COLUMNS)
    prepare_by(Workers(), make, tmp_path / "out", split=Split(), pruning=Pruning(),
               bad_rows=BadRows())  # fmt: skip
    assert not work.exists()


def command(raw: list[Path], out: Path, *more: str) -> list[str]:
    files = [str(path) for path in raw]
    words = ["prepare", "table", "--raw", files[0], *files[1:], "--label", "y", "--numeric", "x"]
    words += ["--categorical", "u,t", "--multivalent", "m", "--numeric-transform", "none"]
    words += ["--out", str(out), *more]
    return [sys.executable, "-m", "seo_rec", *words]


@pytest.mark.slow
def test_the_ranks_of_a_launcher_prepare_together(tmp_path: Path) -> None:
    raw = rows_of_files(tmp_path)
    subprocess.run(command(raw, tmp_path / "one"), check=True, capture_output=True)
    for bad in (False, True):
        if bad:
            with raw[4].open("a") as file:
                file.write("maybe,1,t,1,p\n")
        out = tmp_path / f"bad-{bad}"
        ranks = [
            subprocess.Popen(
                command(raw, out),
                env={**os.environ, "WORLD_SIZE": "2", "RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        said = [rank.communicate(timeout=PATIENCE) for rank in ranks]
        if not bad:
            assert [rank.returncode for rank in ranks] == [0, 0], said
            assert contents(out) == contents(tmp_path / "one")
            assert "rows in" in said[0][0]
            assert said[1][0] == ""
        else:
            assert [rank.returncode for rank in ranks] == [2, 2]
            line = raw[4].read_text().count("\n")
            assert f"4.csv: line {line}, column 'y'" in said[0][1]
            assert said[1][1] == ""
            assert not out.exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("environment", "words", "message"),
    [
        ({"WORLD_SIZE": "2"}, [], "RANK is ''; allowed: 0 to 1"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, [], "rank is 2; allowed: 0 to 1"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, ["--processes", "2"], "leave out --processes"),
        ({}, ["--processes", "0"], "processes is 0; allowed: 1 or more"),
    ],
)
def test_processes_that_cannot_be_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    words: list[str],
    message: str,
) -> None:
    from typer.testing import CliRunner

    from seo_rec.cli.main import app

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    raw = rows_of_files(tmp_path, 1)
    result = CliRunner().invoke(app, command(raw, tmp_path / "out", *words)[3:])
    assert result.exit_code == 2
    assert message in result.stderr


def test_what_one_process_prepares_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from seo_rec.cli.main import app

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    for words in (["synthetic"], ["movielens", "--raw", str(tmp_path)]):
        result = CliRunner().invoke(app, ["prepare", *words, "--out", str(tmp_path / "out")])
        assert result.exit_code == 2
        assert "use -j 1x1" in result.stderr
