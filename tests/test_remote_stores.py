"""Google Cloud Storage and HDFS by HTTP, against servers on loopback.

The first needs ``pip install gcsfs gcp-storage-emulator``, and is skipped without them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from seo_rec.cli.main import app
from seo_rec.data.dataset import open_data
from seo_rec.data.synthetic import synthetic
from seo_rec.data.table import TableColumns, prepare_table
from seo_rec.places import RemoteError, RemotePath, local_copy, place
from seo_rec.schema import SPLITS, DataError
from stores import batches, upload
from webhdfs import WebHdfs

COLUMNS = TableColumns("y", categorical=("u",), numeric=("x",))


@pytest.fixture(scope="module")
def hdfs() -> Iterator[WebHdfs]:
    pytest.importorskip("requests", reason="requests is not installed")
    server = WebHdfs()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def google() -> Iterator[str]:
    gcsfs = pytest.importorskip("gcsfs", reason="gcsfs is not installed")
    emulator = pytest.importorskip(
        "gcp_storage_emulator.server", reason="gcp-storage-emulator is not installed"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        server = emulator.create_server("127.0.0.1", 0, in_memory=True)
        server.start()
        address = server._api._httpd.socket.getsockname()
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{address[1]}")
        gcsfs.GCSFileSystem.clear_instance_cache()
        gcsfs.GCSFileSystem().mkdir("clicks")
        yield "gs://clicks"
        gcsfs.GCSFileSystem.clear_instance_cache()
        server.stop()


@pytest.fixture(params=["google", "hdfs"])
def store(request: pytest.FixtureRequest) -> str:
    found = request.getfixturevalue(request.param)
    url: str = found if isinstance(found, str) else f"{found.url}/clicks"
    return f"{url}/{request.node.originalname}"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("local") / "data"
    synthetic(data, rows=6_000, strong=2, weak=2, noise=2, multivalent=1)
    return data


def files_of(folder: Path) -> dict[str, bytes]:
    found = (p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def test_a_data_set_gives_the_same_batches(store: str, local: Path) -> None:
    far, near = open_data(upload(local, store)), open_data(local)
    assert str(far.path) == store
    assert far.verify_all() == near.verify_all()
    for split in SPLITS:
        assert batches(far, split, 1_000) == batches(near, split, 1_000)
    assert all(map(np.array_equal, far.counts("bag_0"), near.counts("bag_0")))


@pytest.mark.slow
def test_raw_files_and_results_may_be_there(store: str, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    lines = "".join(f"{i % 2},{i % 17},{i / 8}\n" for i in range(300))
    (raw / "a.csv").write_text("y,u,x\n" + lines)
    pq.write_table(pacsv.read_csv(raw / "a.csv"), raw / "b.parquet", row_group_size=100)
    names = ["a.csv", "b.parquet"]
    prepare_table([raw / name for name in names], tmp_path / "one", columns=COLUMNS)
    url = upload(raw, f"{store}/raw")
    words = ["prepare", "table", "--raw", *[f"{url}/{name}" for name in names], "--label", "y"]
    words += ["--categorical", "u", "--numeric", "x", "--out", f"{store}/out"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    with local_copy(f"{store}/out") as copy:
        assert files_of(copy) == files_of(tmp_path / "one")
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 2 and "not empty" in again.stderr


def test_what_is_missing_or_damaged_is_named(store: str, local: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{store}/none: no schema.json here"):
        open_data(f"{store}/none")
    with pytest.raises(DataError, match=f"{store}/none.csv: no such file"):
        prepare_table(f"{store}/none.csv", tmp_path / "out", columns=COLUMNS)
    url = upload(local, f"{store}/d")
    shard = place(f"{url}/val/part-00000.parquet")
    assert isinstance(shard, RemotePath)
    broken = bytearray((local / "val/part-00000.parquet").read_bytes())
    broken[len(broken) // 2] ^= 1
    (tmp_path / "shard").write_bytes(broken)
    shard.upload(tmp_path / "shard")
    with pytest.raises(DataError, match=r"val/part-00000.parquet: damaged"):
        open_data(url).stream("val", batch_size=100)
    shard.remove()
    with pytest.raises(DataError, match="missing"):
        open_data(url).stream("val", batch_size=100)


def test_an_error_of_a_node_is_no_content(hdfs: WebHdfs, tmp_path: Path) -> None:
    """fsspec itself takes the text of the error for the text of the file."""
    (tmp_path / "a.csv").write_text("y,u,x\n" + "1,2,3\n0,3,4\n" * 200)
    url = upload(tmp_path, f"{hdfs.url}/broken")
    hdfs.failures = 1
    with pytest.raises(RemoteError, match=r"a.csv: cannot read it \(500 Server Error") as caught:
        prepare_table(f"{url}/a.csv", tmp_path / "out", columns=COLUMNS)
    assert "\n" not in str(caught.value)
    assert hdfs.failures == 0


def test_a_hdfs_url_reaches_pyarrow_with_host_port_user_and_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder stands for the cluster, since Hadoop's own library is not installed here."""
    fs = pytest.importorskip("fsspec.implementations.arrow").HadoopFileSystem
    (tmp_path / "clicks").mkdir()
    (tmp_path / "clicks/day").write_text("one")
    asked: list[dict[str, object]] = []

    def connect(**settings: object) -> pafs.FileSystem:
        asked.append(settings)
        return pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())

    monkeypatch.setattr(pafs, "HadoopFileSystem", connect)
    fs.clear_instance_cache()
    try:
        assert place("hdfs://ann@node:9000/clicks/day").read_text() == "one"
    finally:
        fs.clear_instance_cache()  # no later test may meet the folder
    assert [asked[0][key] for key in ("host", "port", "user")] == ["node", 9000, "ann"]
