"""``seo-rec predict`` reads raw files, prepared data and packages by URL, as it reads paths."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from seo_rec.export import export_run
from seo_rec.places import RemoteError, RemotePath, place
from seo_rec.serve import Predictor
from seo_rec.serve.archive import write_tar
from seo_rec.serve.layout import PackageError
from seo_rec.serve.server.live import LivePackage
from stores import upload
from test_remote import bucket, proxy  # noqa: F401


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/predict"
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    return "memory://predict"


def put(path: Path, url: str) -> str:
    target = place(f"{url}/{path.name}")
    assert isinstance(target, RemotePath)
    target.upload(path)
    return str(target)


def test_scores_by_url_are_scores_by_path(clicks, seo_rec, store, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    parquet = tmp_path / "raw.parquet"
    pq.write_table(pacsv.read_csv(clicks.raw), parquet, row_group_size=50)
    write_tar(clicks.package, tmp_path / "package.tar")
    packages = [upload(clicks.package, f"{store}/package"), put(tmp_path / "package.tar", store)]
    cases = [
        ((clicks.raw, parquet), (put(clicks.raw, store), put(parquet, store))),
        ((clicks.data.path,), (upload(clicks.data.path, f"{store}/data"),)),
    ]
    for number, (near, far) in enumerate(cases):
        outs = []
        for who, package, raw in (
            ("near", clicks.package, near),
            ("far", packages[number], far),
        ):
            outs.append(tmp_path / f"{who}-{number}.parquet")
            done = seo_rec("predict", package, "--raw", *raw, "--out", outs[-1])
            assert done.code == 0, done.err
        assert pq.read_table(outs[0]).equals(pq.read_table(outs[1]))
        assert pq.read_table(outs[0]).num_rows > 0
    assert list(scratch.iterdir()) == []


def test_faults_name_the_url(clicks, seo_rec, store, tmp_path):
    package = upload(clicks.package, f"{store}/package")
    out = tmp_path / "scores.parquet"
    for words, said in (
        ((package, "--raw", f"{store}/none.csv"), f"{store}/none.csv: no such file"),
        ((f"{store}/none", "--raw", clicks.raw), f"{store}/none: no such file or folder"),
    ):
        done = seo_rec("predict", *words, "--out", out)
        assert done.code == 2 and said in done.err, done.err
        assert len(done.err.strip().splitlines()) == 1 and not out.exists()
    done = seo_rec("predict", package, "--raw", clicks.raw, "--out", f"{store}/scores.parquet")
    assert done.code == 2 and "writes to local or shared disks" in done.err
    broken = place(f"{package}/manifest.json")
    assert isinstance(broken, RemotePath)
    (tmp_path / "broken").write_text("{")
    broken.upload(tmp_path / "broken")
    with pytest.raises(PackageError, match=f"^{package}/manifest.json"):
        Predictor.load(package)


@pytest.mark.slow
def test_a_delta_is_made_since_a_package_at_a_url(clicks, store, tmp_path):
    package = upload(clicks.package, f"{store}/since")
    export_run(clicks.run, tmp_path / "far", since=package)
    export_run(clicks.run, tmp_path / "near", since=clicks.package)
    names = sorted(path.name for path in (tmp_path / "near").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "far").iterdir())
    for name in names:
        assert (tmp_path / "near" / name).read_bytes() == (tmp_path / "far" / name).read_bytes()


def test_a_server_takes_packages_of_a_disk():
    with pytest.raises(PackageError, match=r"^s3://b/package: a server looks .* copy the package"):
        LivePackage(Path("s3://b/package"))


def test_the_extra_that_is_missing_is_named(clicks, seo_rec, tmp_path, monkeypatch):
    """Scoring alone does not install fsspec."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "fsspec"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    done = seo_rec(
        "predict", clicks.package, "--raw", "s3://b/raw.csv", "--out", tmp_path / "out.parquet"
    )
    assert done.code == 2 and "pip install '.[s3]' in the folder of the repository" in done.err, (
        done.err
    )
    with pytest.raises(RemoteError, match=r"pip install '\.\[gs\]'"):
        Predictor.load("gs://b/package")
