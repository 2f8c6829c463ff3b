"""The benchmark of scoring: its raw files, its clients, its page, and a tiny run of all of it."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.pages import scoring as page
from benchmarks.pages import tables
from benchmarks.record import read
from benchmarks.speed import scoring, scoring_load, scoring_raw
from seo_rec.data.criteo import prepare_criteo
from seo_rec.schema import DataError

NAMES = ("user", "movie", "gender", "age", "occupation", "zip")


def write_movielens(folder: Path, ratings: int = 300) -> list[tuple[str, ...]]:
    """Raw files in the form of MovieLens-1M; returns the rows that are to be scored."""
    folder.mkdir(parents=True)
    users = {i: ("F" if i % 2 else "M", str(18 + i), str(i % 5), f"0{i}067") for i in range(1, 9)}
    people = [f"{i}::{'::'.join(cells)}\n" for i, cells in reversed(users.items())]
    (folder / "users.dat").write_text("".join(people))
    rows = [(1 + i % 8, 1 + i % 13, 1 + (i * 7) % 5) for i in range(ratings)]
    (folder / "ratings.dat").write_text("".join(f"{u}::{m}::{r}::0\n" for u, m, r in rows))
    return [(str(u), str(m), *users[u]) for u, m, _ in rows]


def write_criteo(path: Path, rows: int = 300) -> list[list[str]]:
    """Raw lines in the form of Criteo's file, with missing cells; returns their cells."""
    cells = [
        [
            str(i % 2),
            *("" if (i + j) % 5 == 0 else str(i * j - 3) for j in range(13)),
            *("" if (i + j) % 7 == 0 else f"{i % (j + 2):08x}" for j in range(26)),
        ]
        for i in range(rows)
    ]
    path.write_text("".join("\t".join(row) + "\n" for row in cells))
    return cells


# ---- raw files ---------------------------------------------------------------------------------


def test_ratings_have_the_columns_of_their_users(tmp_path):
    wanted = write_movielens(tmp_path / "raw")
    found = scoring_raw.movielens_rows(tmp_path / "raw")
    assert tuple(found.column_names) == NAMES
    assert list(zip(*found.to_pydict().values(), strict=True)) == wanted


def test_files_hold_the_rows_several_times(tmp_path):
    wanted = write_movielens(tmp_path / "raw", 20)
    kind = scoring_raw.SETS["movielens-1m"]
    files = scoring_raw.write_files(kind, kind.read(tmp_path / "raw"), 3, tmp_path)
    text = [tuple(line.split(",")) for line in files["text"].read_text().split()]
    assert [tuple(x.strip('"') for x in line) for line in text] == [NAMES, *wanted * 3]
    rows = pq.read_table(files["Parquet"]).to_pydict()
    assert list(zip(*rows.values(), strict=True)) == wanted * 3


def test_criteo_lines_are_written_as_they_were(tmp_path):
    """But for the label, which scoring does not read."""
    cells = write_criteo(tmp_path / "train.txt", 40)
    kind = scoring_raw.SETS["criteo"]
    table = kind.read(tmp_path / "train.txt")
    files = scoring_raw.write_files(kind, table, 2, tmp_path)
    lines = files["text"].read_text().splitlines()
    assert [line.split("\t") for line in lines] == [row[1:] for row in cells] * 2
    stored = pq.read_table(files["Parquet"])
    assert stored.num_columns == 39 and stored["C1"].null_count == 2 * table["C1"].null_count > 0
    assert pa.types.is_integer(stored.schema.field("I1").type)


# ---- clients -----------------------------------------------------------------------------------


@contextmanager
def answering(*answers: bytes):
    """What runs ``use(address)`` beside a server that gives each connection these answers."""

    def run(use):
        async def serve(reader, writer):
            try:
                for answer in answers:
                    head = await reader.readuntil(b"\r\n\r\n")
                    size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                    await reader.readexactly(size)
                    writer.write(answer)
                    await writer.drain()
            except EOFError:  # the client left first
                pass
            writer.close()

        async def both():
            async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
                return await asyncio.to_thread(use, server.sockets[0].getsockname())

        return asyncio.run(both())

    yield run


def http(status: int, body: bytes = b"{}", more: str = "") -> bytes:
    return f"HTTP/1.1 {status} x\r\ncontent-length: {len(body)}\r\n{more}\r\n".encode() + body


REQUEST = b"POST /score HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"


def seen_by_a_client(address) -> scoring_load.Seen:
    seen = scoring_load.Seen()
    client = scoring_load._client(address, [REQUEST], 0, asyncio.Event(), seen)
    asyncio.run(client)
    return seen


def test_a_client_leaves_when_it_is_told_to():
    with answering(http(200), http(200, b"[1]", "Connection: close\r\n")) as run:
        seen = run(seen_by_a_client)
    assert (len(seen.answers), seen.failures, seen.told_to_leave) == (2, [], 1)
    assert seen.last == b"[1]"


def test_refusals_and_broken_connections_are_failures():
    with answering(http(200), http(429, b"busy"), http(200)) as run:  # and then it hangs up
        seen = run(seen_by_a_client)
    assert len(seen.answers) == 2 and seen.told_to_leave == 0
    assert len(seen.failures) == 2
    assert seen.failures[0].startswith("429: b'busy'")
    assert "Incomplete" in seen.failures[1] or "ConnectionReset" in seen.failures[1]


def test_an_answer_that_is_no_score_is_an_error():
    with (
        answering(http(422, b"no column")) as run,
        pytest.raises(RuntimeError, match="422: b'no column'"),
    ):
        run(lambda address: scoring_load.one_answer(address, REQUEST))


def test_bodies_are_successive_rows():
    table = pa.table({"a": list(range(10)), "b": ["x", None] * 5})
    bodies = [json.loads(b)["columns"] for b in scoring_load.json_bodies(table, 4)]
    assert bodies == [table.slice(i, 4).to_pydict() for i in (0, 4)]
    streams = scoring_load.arrow_bodies(table, 4)
    assert [pa.ipc.open_stream(s).read_all().to_pydict() for s in streams] == bodies
    request = scoring_load.requests_of("Arrow", table, 4)[1]
    head, _, body = request.partition(b"\r\n\r\n")
    assert body == streams[1] and f"Content-Length: {len(body)}".encode() in head


# ---- the page ----------------------------------------------------------------------------------

ENVIRONMENT = {
    "cpu": "C", "threads": 1, "torch": "2", "date": "2026-11-28T", "git_sha": "0" * 40,
    "git_dirty": False,
}  # fmt: skip


def line_of(data: str, whole: int, after: int) -> dict:
    predict = {"form": "text", "seconds": 8.04, "processor_s": 9.96}
    rates = {"rows_per_s": whole, "rows_per_s_after_start": after}
    return {
        "data": data, "columns": 6, "rows": 2_000_000, "rounds": 2, "method": "m",
        "params": 96_000, "goal_rows_per_s": 300_000, "load_average": 0.16,
        "environment": ENVIRONMENT,
        "predict": [{**predict, **rates, "cores": n} for n in (1, 2)],
        "serve": [{"form": "JSON", "rows": 64, "clients": 8, "requests_per_s": 1_234.4,
                   "rows_per_s": 79_002, "p50_ms": 6.123, "p99_ms": 9.876, "processor_ms": 0.456,
                   "failed": 0}],
        "reloads": {"clients": 8, "reloads": 4, "packages": 2, "requests": 4_998, "failed": 2,
                    "failures": [], "told_to_leave": 6, "exit_code": 0, "p50_ms": 5.0,
                    "p99_ms": 50.0},
    }  # fmt: skip


def test_the_page_shows_the_last_line_of_each_set_and_judges_goals():
    lines = [line_of("a", 1, 2), line_of("b", 300_000, 400_000), line_of("a", 299_999, 310_000)]
    text = "\n".join(page.region(lines))
    assert text.count("**a, 6 columns**") == text.count("**b, 6 columns**") == 1
    assert "2,000,000 rows by `seo-rec predict`, the fastest of 2 rounds; `m` of 96,000" in text
    assert "load average 0.2 before" in text
    assert "| text | 2 | 8.0 | 10.0 | 299,999 | 310,000 |" in text
    assert "| text, whole command | 299,999 | 300,000 | missed |" in text
    assert "| text, after the start | 310,000 | 300,000 | met |" in text
    assert text.count("| text, whole command |") == 2  # once for each set, not for one core
    assert "| JSON | 64 | 8 | 1,234 | 79,002 | 6.12 | 9.88 | 0.46 | 0 |" in text
    assert "8 clients sent 5,000 requests (p50 5.00 ms, p99 50.00 ms); 2 failed, 6" in text


def test_without_a_record_the_page_names_the_command():
    assert "benchmarks.speed.scoring" in page.region([])[0]
    assert "scoring" in tables.PAGES["scoring"].regions()


# ---- all of it ---------------------------------------------------------------------------------


def test_other_data_are_refused(tiny_data):
    options = type("Options", (), {"rows": 1})
    with pytest.raises(DataError, match="allowed: movielens-1m, criteo"):
        scoring.measure(tiny_data, Path("raw"), options, Path("out"))


@pytest.mark.slow
def test_a_tiny_run(tmp_path, monkeypatch, seo_rec):
    in_a_process = scoring.seo_rec

    def command(*arguments):
        if arguments[0] == "predict":
            return in_a_process(*arguments)
        done = seo_rec(*arguments)  # torch is loaded already
        assert done.code == 0, done.err
        return done.out

    monkeypatch.setattr(scoring, "seo_rec", command)
    raw = tmp_path / "train.txt"
    write_criteo(raw)
    prepare_criteo(raw, tmp_path / "data", embed_numeric=True)
    monkeypatch.setattr(scoring, "RECORD", tmp_path / "scoring.jsonl")
    monkeypatch.setattr(scoring, "CLIENTS", (1, 3))
    monkeypatch.setattr(scoring_load, "RELOADS", 2)
    monkeypatch.setattr(scoring_load, "DRAIN", 0.5)
    monkeypatch.setattr(scoring_load, "WARM_SECONDS", 0.1)
    options = ["--rows", "500", "--rounds", "1", "--seconds", "0.3", "--params", "4000"]
    scoring.main(["--data", str(tmp_path / "data"), "--raw", str(raw), *options, "--record"])
    (line,) = read(tmp_path / "scoring.jsonl")
    assert (line["data"], line["rows"]) == ("criteo", 600)
    cores = {n for n in scoring.CORES if n <= line["environment"]["cores"]}
    assert {(x["form"], x["cores"]) for x in line["predict"]} == {
        (form, n) for form in ("text", "Parquet") for n in cores
    }
    for x in line["predict"]:
        assert 0 < x["rows_per_s"] < x["rows_per_s_after_start"] and x["processor_s"] > 0
    assert len(line["serve"]) == 2 * 2 * 2
    assert [x["failed"] for x in line["serve"]] == [0] * 8
    assert all(x["processor_ms"] > 0 for x in line["serve"] if x["requests_per_s"])
    reloads = line["reloads"]
    assert (reloads["failed"], reloads["packages"], reloads["exit_code"]) == (0, 2, 0)
    assert reloads["told_to_leave"] == reloads["clients"] and reloads["requests"] > 0
    assert page.region([line])


def test_the_fastest_round_counts_and_scores_that_differ_are_refused(tmp_path, monkeypatch):
    seconds = iter([3.0, 1.0, 2.0, 4.0, 4.0])

    def predicted(package, raw, out, cores):
        shift = 0.01 if raw.suffix == ".parquet" else 0.0
        pq.write_table(pa.table({"score": np.float32([0.5, 0.5 + shift])}), out)
        return {"cores": cores, "seconds": next(seconds)}

    monkeypatch.setattr(scoring, "predicted", predicted)
    monkeypatch.setattr(scoring, "CORES", (1,))
    files = {"text": Path("a.csv"), "Parquet": Path("a.parquet")}
    found = scoring.of_predict(tmp_path, {"text": Path("a.csv")}, 3, tmp_path)
    assert found == [{"form": "text", "cores": 1, "seconds": 1.0}]
    assert np.load(tmp_path / "scores.npy").tolist() == [0.5, 0.5]
    with pytest.raises(AssertionError, match="Parquet"):
        scoring.of_predict(tmp_path, files, 1, tmp_path)
