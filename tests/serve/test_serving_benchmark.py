"""The benchmark of serving compares ways that give the same logits."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.accuracy import precision
from benchmarks.pages import precision as precision_page
from benchmarks.pages import serving as page
from benchmarks.speed import serving, serving_ways
from seo_rec.policy import Policy, Table
from seo_rec.settings import FitSettings


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Packages of the model with shared tables, without machine code."""
    folder = tmp_path_factory.mktemp("packages")
    policy = serving.shared()
    small = Policy(tuple(Table(t.name, 60, 4) for t in policy.tables), policy.features)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "FORMATS", ("onnx",))
        serving.write_packages(small, folder)
    return folder


@pytest.mark.slow
def test_all_ways_give_the_same_logits(packages, monkeypatch):
    monkeypatch.setattr(serving_ways, "BATCHES", {1: 2, 8: 2})
    wanted = None
    for way in [w for w in serving_ways.WAYS if not w.startswith("AOTI")]:
        said = serving_ways.timed(serving_ways.way_of(packages, way))
        wanted = wanted or said["logits"]
        assert np.ptp(wanted) > 0.01
        tolerance = 0.005 if "int8" in way else 1e-5
        np.testing.assert_allclose(said["logits"], wanted, atol=tolerance, err_msg=way)
        assert {b: len(ns) for b, ns in said["nanoseconds"].items()} == {"1": 2, "8": 2}


ENVIRONMENT = {
    "cpu": "C", "threads": 1, "torch": "2", "date": "2026-11-27T", "git_sha": "0" * 40,
    "git_dirty": False,
}  # fmt: skip


def line_of(single: float, large: float = 1.0) -> dict:
    """A line in which every way takes as long, at one row and at more."""
    ms = {b: [single if b == "1" else large, 2.0] for b in page.BATCHES}
    ways = {way: {"resident_mb": 7, "ms": ms} for way in serving_ways.WAYS}
    return {"model": "m", "rounds": 3, "environment": ENVIRONMENT, "ways": ways}


def test_the_page_shows_the_last_line_of_each_model():
    text = "\n".join(page.region([line_of(9.0), line_of(0.02)]))
    assert "| onnxruntime | 0.020 | 1.000 | 1.000 | 2.000 | 2.000 | 2.000 | 7 |" in text
    assert "9.000" not in text


def test_goals_are_judged():
    line = line_of(0.03)
    for way in ("TorchRec", "TorchRec, int8", "PyTorch"):
        line["ways"][way] = {"ms": {"1": [0.10, 1.0], "64": [1.0, 1.0], "512": [0.5, 1.0]}}
    line["ways"]["onnxruntime, hashed before"] = {"ms": {b: [0.5, 1.0] for b in page.BATCHES}}
    found = {text: (round(value, 6), limit) for text, value, limit in page.goals(line)}
    assert found["1 row, AOTI, C++, in milliseconds"] == (0.03, 0.03)
    assert found["1 row, AOTI, C++ by TorchRec"] == (0.3, pytest.approx(1 / 3))
    assert found["512 rows, AOTI, C++ by PyTorch"] == (2.0, 1)
    assert found["64 rows, onnxruntime, int8 by float32"] == (1.0, 1)
    assert found["512 rows, onnxruntime, hashing inside by before"] == (2.0, 1.15)
    text = "\n".join(page.region([{**line, "ways": line_of(0.03)["ways"]}]))
    assert "| 1 row, AOTI, C++, in milliseconds | 0.030 | 0.03 | met |" in text
    assert "| 1 row, AOTI, C++ by TorchRec | 1.000 | 0.33 | missed |" in text


def test_large_tables_are_judged_by_themselves():
    line = line_of(0.03)
    line["ways"] = {way: line["ways"][way] for way in serving_ways.LARGE_WAYS}
    line["ways"]["onnxruntime, int8"] = {
        "resident_mb": 5, "ms": {b: [1.5, 2.0] for b in page.BATCHES}
    }  # fmt: skip
    assert [value for _, value, _ in page.goals(line)] == [50.0, 1.5, 1.5, 1.0, 1.0, 1.0]
    text = "\n".join(page.region([line]))
    assert "| 64 rows, onnxruntime, int8 by float32 | 1.500 | 1.00 | missed |" in text


@pytest.mark.slow
def test_large_tables_are_read_by_calls_of_other_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(serving_ways, "BATCHES", {1: 2, 8: 2})
    monkeypatch.setattr(serving_ways, "LARGE", 1 << 10)
    monkeypatch.setattr(serving.dequantized, "FLOAT_BYTES", 1 << 10)
    monkeypatch.setattr(serving, "FORMATS", ("onnx",))
    serving.write_packages(serving.separate(50), tmp_path, large=True)
    for way in [w for w in serving_ways.LARGE_WAYS if not w.startswith("AOTI")]:
        call = serving_ways.way_of(tmp_path, way)(8)
        first, second = call(), call()
        assert not np.allclose(first, second)
        single = serving_ways.way_of(tmp_path, way)(1)
        assert len({float(single()[0]) for _ in range(4)}) == 4
        said = serving_ways.timed(serving_ways.way_of(tmp_path, way))
        np.testing.assert_allclose(said["logits"], first, atol=1e-6)
    ops = (tmp_path / "int8" / "model.onnx").read_bytes()
    assert b"DequantizeLinear" in ops


# ---- the study of types ------------------------------------------------------------------------


def test_all_sizes_fill_the_same_bytes(tiny_data, tmp_path):
    """And a finished run is evaluated in all types."""
    fit = FitSettings(epochs=1, batch_size=200)
    for kind in precision.ROW_BYTES:
        asked = precision.asked_of(tiny_data, 19_200, kind, 1, fit)
        line = precision.measured(tiny_data, asked, fit, tmp_path)
        assert set(precision.IDENTITY) <= set(line)
        assert line["served"][kind]["num_bytes"] == pytest.approx(19_200, rel=0.01)
        assert set(line["served"]) == {"float32", "int8", "int4"}
        assert line["served"]["float32"]["auc"] == pytest.approx(line["test_auc"], abs=1e-6)


def test_the_page_compares_types():
    def line(kind: str, seed: int) -> dict:
        base = {"float32": 0.80, "int8": 0.82, "int4": 0.83}[kind] + seed / 100
        lost = {"float32": 0.0, "int8": 0.001, "int4": 0.002}
        served = {
            p: {"auc": base - x, "log_loss": 0.4 + x, "num_bytes": 100} for p, x in lost.items()
        }
        return {
            "dataset": "d", "bytes": 384, "precision": kind, "seed": seed,
            "embedding_params": {"float32": 96, "int8": 192, "int4": 256}[kind], "served": served,
        }  # fmt: skip

    text = "\n".join(
        precision_page.region([line(k, s) for k in precision.ROW_BYTES for s in (0, 1)])
    )
    assert "**d, 384 bytes of rows**, seeds 0, 1" in text
    assert "| float32 | 96 | 100 | 0.80500 ± 0.00707 | — | 0.40000 ± 0.00000 |" in text
    assert (
        "| int8 | 192 | 100 | 0.82400 ± 0.00707 | +0.01900 ± 0.00000 | 0.40100 ± 0.00000 |" in text
    )
    assert "| 96 | int4 | 100 | −0.002000 ± 0.000000 | +0.002000 ± 0.000000 |" in text
