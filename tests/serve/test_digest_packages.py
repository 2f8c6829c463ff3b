"""Packages whose vocabularies hold digests: what they store, what is refused, deltas, runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from served import parts_of
from test_delta import bytes_of, with_delta
from test_hostile import changed, forged, refused

from at_length import at_length
from cases import BUILDABLE, DIGESTS, POLICIES
from seo_rec.data.dataset import open_data
from seo_rec.export import export_run
from seo_rec.metrics import binary_metrics
from seo_rec.policy import Policy
from seo_rec.serve import Predictor
from seo_rec.serve.delta import apply_delta
from seo_rec.serve.package import read_package
from seo_rec.serve.predict import predict_split
from seo_rec.serve.tensors import read_tensors, tensor_bytes
from seo_rec.serve.writing import write_package
from test_bytes import QUICKLY

POLICY = POLICIES["digests"]
EMBEDDINGS = "embeddings.safetensors"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    write_package(folder, parts_of(POLICY)[0])
    return folder


def test_digests_take_four_bytes_and_are_mapped(package: Path) -> None:
    assert json.loads((package / "manifest.json").read_text())["version"] == 2
    tensors = read_tensors(package / EMBEDDINGS)
    assert tensors["digests"].dtype == np.uint32 and tensors["ids"].dtype == np.int64
    short = [f.name for f in POLICY.features if f.id_bits == 32]
    wanted = np.concatenate([POLICY.vocabularies[name] for name in short])
    np.testing.assert_array_equal(tensors["digests"], wanted)
    read = read_package(package)
    assert read.policy == replace(POLICY, provenance=read.policy.provenance)
    for name in short:
        known = read.policy.vocabularies[name]
        assert known.dtype == np.uint32 and not known.flags.owndata
    assert sum(x.nbytes for x in tensors.values()) == POLICY.num_bytes


def test_a_package_without_digests_is_of_version_1(tmp_path: Path) -> None:
    write_package(tmp_path, parts_of(POLICIES["id-and-hash"])[0])
    assert json.loads((tmp_path / "manifest.json").read_text())["version"] == 1
    assert "digests" not in read_tensors(tmp_path / EMBEDDINGS)


def with_tensors(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        tensors = {n: x.copy() for n, x in read_tensors(folder / EMBEDDINGS).items()}
        change(tensors)
        (folder / EMBEDDINGS).write_bytes(tensor_bytes(tensors))

    return harm


def turned(tensors: dict[str, Any]) -> None:
    tensors["digests"][:2] = tensors["digests"][1::-1]


def repeated(tensors: dict[str, Any]) -> None:
    tensors["digests"][1] = tensors["digests"][0]


def wider(tensors: dict[str, Any]) -> None:
    tensors["digests"] = tensors["digests"].astype(np.int64)


def signed(tensors: dict[str, Any]) -> None:
    tensors["digests"] = tensors["digests"].view(np.int32)


def shorter(tensors: dict[str, Any]) -> None:
    tensors["digests"] = tensors["digests"][:-1]


def absent(tensors: dict[str, Any]) -> None:
    del tensors["digests"]


def joined(tensors: dict[str, Any]) -> None:
    tensors["ids"] = np.concatenate([tensors["ids"], tensors.pop("digests")])


def with_document(name: str, path: tuple[Any, ...], value: Any) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(changed(document, path, value)))

    return harm


BITS = [0, 16, 64, 33, 2**40, -32, 32.0, "32", True, None, ..., [32]]
HARMS = {
    **{f.__name__: with_tensors(f) for f in (turned, repeated, wider, signed, shorter, absent)},
    "joined": with_tensors(joined),
    "version 1": with_document("manifest.json", ("version",), 1),
    "version 3": with_document("manifest.json", ("version",), 3),
    "policy of version 3": with_document("policy.json", ("version",), 3),
    "another name": with_document("policy.json", ("vocabularies", "nobody"), 0),
    "too many": with_document("policy.json", ("vocabularies", "user"), 7),
    "below 0": with_document("policy.json", ("vocabularies", "user"), -1),
    "no vocabulary": with_document("policy.json", ("vocabularies", "user"), ...),
    "hour": with_document("policy.json", ("features", 2, "id_bits"), 32),
    **{f"bits {b!r}": with_document("policy.json", ("features", 0, "id_bits"), b) for b in BITS},
}


@pytest.mark.parametrize("name", HARMS)
def test_what_does_not_fit_is_refused(name: str, package: Path) -> None:
    """Checksums are made to fit, so that only the reader's own checks are left."""
    HARMS[name](package)
    forged(package)
    refused(package)


@pytest.mark.parametrize("name", ["digests", "frequent-digests"])
def test_a_delta_of_digests(name: str, tmp_path: Path) -> None:
    old, new, delta = with_delta(tmp_path, parts_of(BUILDABLE[name])[0])
    apply_delta(old, delta)
    assert bytes_of(old) == bytes_of(new)


def test_a_delta_in_which_a_digest_is_another(tmp_path: Path) -> None:
    other = np.sort(np.append(DIGESTS[1:], 77))
    later = replace(POLICY, vocabularies={**POLICY.vocabularies, "user": other})
    old, new, delta = with_delta(tmp_path, parts_of(POLICY)[0], parts_of(later)[0])
    assert json.loads((delta / "delta.json").read_text())["kinds"][EMBEDDINGS] == "rows"
    apply_delta(old, delta)
    assert bytes_of(old) == bytes_of(new)
    assert read_package(old).policy.vocabularies["user"].tolist() == other.tolist()


@pytest.mark.parametrize("method", at_length(["frequent", "no-search"], ["frequent"]))
def test_a_run_is_served_as_it_is_scored(
    method: str, seo_rec: Any, tiny: Path, tmp_path: Path
) -> None:
    """Trained at a budget in bytes, exported, and scored by numpy and by the graph."""
    run, package = tmp_path / "run", tmp_path / "package"
    asked = ["--method", method, "--bytes", "6k", "--precision", "int8", "--dim", 4]
    done = seo_rec("search" if method == "no-search" else "train", tiny, "--out", run, *asked)
    if method == "no-search":
        given = ["--policy", run / "policy.json"]
        run = tmp_path / "trained"
        done = seo_rec("train", tiny, "--out", run, *given, *QUICKLY)
    assert done.code == 0, done.err
    policy = Policy.load(run / "policy.json")
    assert policy.num_bytes <= 6_000 and 32 in policy.id_bits.values()
    export_run(run, package)
    tensors = read_tensors(package / EMBEDDINGS)
    assert sum(x.nbytes for x in tensors.values()) == policy.num_bytes
    wanted = json.loads(seo_rec("eval", run, tiny).out)["auc"]
    labels = open_data(tiny).labels("test")
    for engine in ("numpy", "onnxruntime"):
        predictor = Predictor.load(package, engine)
        out = tmp_path / f"{engine}.parquet"
        predict_split(predictor, tiny, "test", out)
        assert predictor.package.policy.num_bytes == policy.num_bytes
        scores = pq.read_table(out)["score"].to_numpy().astype(np.float64)
        logits = np.log(scores / (1 - scores))
        assert binary_metrics(logits, labels).auc == pytest.approx(wanted, abs=1e-6)
