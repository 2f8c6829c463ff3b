"""URLs are read as paths are: against a real S3 server on loopback, and fsspec's memory."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from seo_rec.cli.main import app
from seo_rec.data.dataset import open_data
from seo_rec.data.parallel import Workers
from seo_rec.data.synthetic import synthetic
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.files import new_folder, write_text
from seo_rec.places import RemoteError, RemotePath, is_url, local_argument, local_copy, place
from seo_rec.schema import SPLITS, DataError
from stores import batches, upload

COLUMNS = TableColumns("y", categorical=("u",), numeric=("x",))


class Proxy:
    """Passes TCP connections on, and can cut them: the first ``drops`` after ``after`` bytes."""

    def __init__(self, port: int) -> None:
        self.target, self.drops, self.after = port, 0, 0
        self.dropped = 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(4_096):
                passed += len(data)
                if is_answer and self.drops > 0 and passed > self.after:
                    self.drops -= 1
                    self.dropped += 1
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed")
    moto = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    proxy = Proxy(moto.get_host_and_port()[1])
    yield proxy
    proxy.socket.close()
    moto.stop()


@pytest.fixture
def bucket(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket; credentials and the address are where every S3 program looks for them."""
    import s3fs

    proxy.drops = proxy.dropped = 0
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 3)
    s3fs.S3FileSystem.clear_instance_cache()
    store = s3fs.S3FileSystem()
    if store.exists("clicks"):
        store.rm("clicks", recursive=True)
    store.mkdir("clicks")
    yield "s3://clicks"
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("local") / "data"
    synthetic(data, rows=24_000, strong=2, weak=2, noise=2, multivalent=1)
    return data


def write_csv(path: Path, rows: int = 200) -> Path:
    lines = [f"{i % 2},{i % 17},{i / 8}" for i in range(rows)]
    path.write_text("\n".join(["y,u,x", *lines]) + "\n")
    return path


# ---- paths -------------------------------------------------------------------------------------


def test_a_url_is_told_from_a_path_however_it_arrives() -> None:
    for text in ("s3://b/k/x.csv", Path("s3://b/k/x.csv"), "s3:/b/k/x.csv"):
        found = place(text)
        assert str(found) == "s3://b/k/x.csv"
        assert (found.name, found.stem, found.suffixes) == ("x.csv", "x", [".csv"])
        assert str(found.parent / "y") == "s3://b/k/y"
    for text in ("a/b", "/s3/b", "s3", "c:/x", "https://x.org/y", "my s3://b"):
        assert place(text) == Path(text)
        assert not is_url(text)
    assert sorted([place("gs://b/2"), place("gs://b/1")])[0] == place("gs://b/1/")
    assert len({place("hdfs://n:9000/d"), place("hdfs://n:9000/d")}) == 1


def test_a_url_of_no_store_is_told_so(tmp_path: Path) -> None:
    columns = TableColumns("y", categorical=("a",))
    with pytest.raises(
        DataError, match=r"foo:/b/x\.csv: no such file; .*; foo:// is no store .*gs:"
    ):
        prepare_table(Path("foo://b/x.csv"), tmp_path / "out", columns=columns)
    with pytest.raises(DataError, match=r"given as --raw$"):
        prepare_table(tmp_path / "x.csv", tmp_path / "out", columns=columns)


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    for text, wanted in (
        ("file:///a/b.csv", "/a/b.csv"),
        ("file://localhost/a/b", "/a/b"),
        ("file:/a/b", "/a/b"),
        ("file:///a%20b/%C3%A9", "/a b/é"),
        ("--raw=file:///a", "--raw=/a"),
        ("file:x", "file:x"),
        ("a/file:///b", "a/file:///b"),
        ("profile:///b", "profile:///b"),
        ("--raw=s3://b/file:///a", "--raw=s3://b/file:///a"),
    ):
        assert local_argument(text) == wanted
    for text in ("file://host/a", "file://", "file://a", "file:///a%00b"):
        with pytest.raises(RemoteError, match="names no file of this machine; allowed: file:///"):
            local_argument(text)
    found = place(Path("file:///a/b"))
    assert found == Path("/a/b") and not is_url(found)


def test_file_urls_are_read_by_commands_and_from_python(tmp_path: Path) -> None:
    raw = write_csv(tmp_path / "a b.csv").as_uri()
    assert raw.startswith("file:///") and "%20" in raw
    wanted = prepare_table(tmp_path / "a b.csv", tmp_path / "one", columns=COLUMNS)
    assert prepare_table(raw, tmp_path / "two", columns=COLUMNS) == wanted
    assert open_data((tmp_path / "one").as_uri()).schema == open_data(tmp_path / "two").schema
    options = ["--label", "y", "--categorical", "u", "--numeric", "x"]
    out = tmp_path / "three"
    command = ["prepare", "table", "--raw", raw, f"--out={out.as_uri()}", *options]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert open_data(out).fingerprint == open_data(tmp_path / "one").fingerprint
    result = CliRunner().invoke(app, ["report", "file://other/runs"])
    assert isinstance(result.exception, RemoteError)


def test_what_is_only_read_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for write in (
        lambda: write_text("s3://b/x.json", "{}"),
        lambda: new_folder(Path("s3://b/run")).__enter__(),
    ):
        with pytest.raises(RemoteError, match="writes to local or shared disks"):
            write()
    result = CliRunner().invoke(app, ["plan", "p.json", "--topology", "2xcpu", "--out", "gs://b/p"])
    assert result.exit_code != 0
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    registry = __import__("fsspec.registry", fromlist=["registry"])
    monkeypatch.delitem(registry._registry, "gs", raising=False)  # another test may have used it
    with pytest.raises(RemoteError, match=r"pip install '\.\[gs\]'"):
        open_data("gs://bucket/data")


# ---- fsspec's memory ---------------------------------------------------------------------------


def test_memory_is_read_and_written(tmp_path: Path) -> None:
    raw = write_csv(tmp_path / "t.csv")
    url = upload(tmp_path, "memory://raw") + "/t.csv"
    here = prepare_table(raw, tmp_path / "out", columns=COLUMNS)
    there = prepare_table(url, "memory://out/data", columns=COLUMNS)
    assert there == here
    with local_copy("memory://out/data") as copy:
        for path in (p for p in (tmp_path / "out").rglob("*") if p.is_file()):
            assert (copy / path.relative_to(tmp_path / "out")).read_bytes() == path.read_bytes()
    assert not copy.exists()
    with pytest.raises(FileExistsError, match="not empty"):
        prepare_table(url, "memory://out/data", columns=COLUMNS)


# ---- a server ----------------------------------------------------------------------------------


def test_a_data_set_gives_the_same_batches_from_a_server(bucket: str, local: Path) -> None:
    url = upload(local, f"{bucket}/d")
    far, near = open_data(url), open_data(local)
    assert str(far.path) == url
    assert far.verify_all() == near.verify_all()
    for split in SPLITS:
        assert batches(far, split, 2_000) == batches(near, split, 2_000)
    for name in ("strong_0", "bag_0"):
        assert all(map(np.array_equal, far.counts(name), near.counts(name)))


def test_raw_files_and_results_may_be_at_a_server(bucket: str, tmp_path: Path) -> None:
    """Text, compressed text and Parquet, by the command line."""
    import gzip

    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq

    raw = tmp_path / "raw"
    raw.mkdir()
    text = write_csv(raw / "a.csv")
    (raw / "b.csv.gz").write_bytes(gzip.compress(text.read_bytes()))
    pq.write_table(pacsv.read_csv(text), raw / "c.parquet", row_group_size=50)
    names = [path.name for path in sorted(raw.iterdir())]
    url = upload(raw, f"{bucket}/raw")
    prepare_table([raw / name for name in names], tmp_path / "one", columns=COLUMNS)
    expected = {p.relative_to(tmp_path / "one"): p.read_bytes() for p in
                (tmp_path / "one").rglob("*") if p.is_file()}  # fmt: skip
    words = ["prepare", "table", "--raw", *[f"{url}/{name}" for name in names], "--label", "y"]
    words += ["--categorical", "u", "--numeric", "x"]
    done = CliRunner().invoke(app, [*words, "--out", f"{bucket}/cli"])
    assert done.exit_code == 0, done.stderr
    with local_copy(f"{bucket}/cli") as copy:
        found = {p.relative_to(copy): p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    assert found == expected
    again = CliRunner().invoke(app, [*words, "--out", f"{bucket}/cli"])
    assert again.exit_code == 2
    assert "not empty" in again.stderr


@pytest.mark.slow
def test_two_processes_read_from_a_server(bucket: str, tmp_path: Path) -> None:
    names = ["a.csv", "b.csv"]
    (tmp_path / "raw").mkdir()
    for name in names:
        write_csv(tmp_path / "raw" / name)
    url = upload(tmp_path / "raw", f"{bucket}/raw")
    schemas = [
        prepare_table([f"{url}/{name}" for name in names], f"{bucket}/{processes}",
                      columns=replace(COLUMNS, numeric_transform="none"),
                      workers=Workers(processes))
        for processes in (1, 2)
    ]  # fmt: skip
    assert schemas[0] == schemas[1]


def test_the_schema_comes_last_and_completes(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = write_csv(tmp_path / "t.csv")
    uploaded: list[str] = []
    inner = RemotePath.upload

    def upload_some(self: RemotePath, path: Path) -> None:
        uploaded.append(self.name)
        if len(uploaded) == 3:
            raise RemoteError("the network is gone")
        inner(self, path)

    monkeypatch.setattr(RemotePath, "upload", upload_some)
    with pytest.raises(RemoteError, match="the network is gone"):
        prepare_table(raw, f"{bucket}/d", columns=COLUMNS)
    with pytest.raises(DataError, match="not a prepared data set"):
        open_data(f"{bucket}/d")
    uploaded[:] = ["", "", ""]
    prepare_table(raw, f"{bucket}/d", columns=COLUMNS)
    assert uploaded[-1] == "schema.json"
    open_data(f"{bucket}/d").verify_all()
    upload(tmp_path, f"{bucket}/other")
    with pytest.raises(FileExistsError, match="not empty"):
        prepare_table(raw, f"{bucket}/other", columns=COLUMNS)


def test_a_missing_key_is_named(bucket: str, local: Path) -> None:
    with pytest.raises(DataError, match=r"s3://clicks/none: no schema.json here"):
        open_data(f"{bucket}/none")
    with pytest.raises(DataError, match=r"s3://clicks/none.csv: no such file"):
        prepare_table(f"{bucket}/none.csv", f"{bucket}/out", columns=COLUMNS)
    with pytest.raises(RemoteError, match="s3://clicks/none: no such file or folder"):
        local_copy(f"{bucket}/none").__enter__()
    url = upload(local, f"{bucket}/d")
    shard = place(f"{url}/val/part-00000.parquet")
    assert isinstance(shard, RemotePath)
    data = open_data(url)
    data.verify("val")
    groups = data.stream("val", batch_size=100)
    shard.remove()
    with pytest.raises(DataError, match=r"s3://clicks/d/val/part-00000.parquet.*no such file"):
        list(groups)
    with pytest.raises(DataError, match="shards are missing"):
        open_data(url).stream("val", batch_size=100)


def test_a_dropped_connection_is_tried_again(bucket: str, local: Path, proxy: Proxy) -> None:
    url = upload(local, f"{bucket}/d")
    expected = batches(open_data(local), "train", 2_000)
    proxy.after, proxy.drops = 20_000, 2
    assert batches(open_data(url), "train", 2_000) == expected
    assert proxy.dropped == 2


def test_a_connection_that_stays_dropped_is_one_line(
    bucket: str, local: Path, proxy: Proxy
) -> None:
    url = upload(local, f"{bucket}/d")
    data = open_data(url)
    stream = data.stream("train", batch_size=2_000)
    proxy.after, proxy.drops = 0, 10**6
    with pytest.raises(DataError, match=f"{url}/train/part-00000.parquet") as caught:
        list(stream)
    assert "\n" not in str(caught.value)
    with pytest.raises(RemoteError, match=f"{url}/schema.json: cannot read it") as caught_too:
        open_data(url)
    assert "\n" not in str(caught_too.value)


def test_damaged_bytes_at_a_server_are_not_used(bucket: str, local: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(local, broken)
    shard = broken / "val" / "part-00000.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"s3://clicks/d/val/part-00000.parquet: damaged"):
        open_data(upload(broken, f"{bucket}/d")).stream("val", batch_size=100)


@pytest.mark.slow
def test_a_run_at_a_server_is_evaluated_and_reported(
    bucket: str, local: Path, tmp_path: Path
) -> None:
    url = upload(local, f"{bucket}/d")
    run = tmp_path / "run"
    words = ["--method", "multi-size", "--params", "8000", "--epochs", "1", "--hidden", "8"]
    done = CliRunner().invoke(app, ["train", url, *words, "--out", str(run)])
    assert done.exit_code == 0, done.output
    results = []
    for where in (str(run), upload(run, f"{bucket}/run")):
        found = CliRunner().invoke(app, ["eval", where, url])
        assert found.exit_code == 0, found.output
        results.append(json.loads(found.stdout))
    assert results[0] == results[1]
    page = tmp_path / "page.html"
    found = CliRunner().invoke(app, ["report", f"{bucket}/run", "--out", str(page)])
    assert found.exit_code == 0, found.output
    assert page.exists()
    assert os.listdir(tmp_path).count("s3:") == 0


def test_hdfs_without_java_says_what_is_missing() -> None:
    """In a process of its own, since pyarrow looks for the library once."""
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    code = "from seo_rec.data.dataset import open_data; open_data('hdfs://node:9000/clicks')"
    nowhere = {"JAVA_HOME": "/nowhere", "HADOOP_HOME": "/nowhere", "ARROW_LIBHDFS_DIR": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **nowhere}
    )
    said = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "hdfs://node:9000/clicks" in said, done.stderr
    for word in ("libhdfs", "JAVA_HOME", "HADOOP_HOME", "CLASSPATH", "webhdfs://"):
        assert word in said
