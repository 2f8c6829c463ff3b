"""The configuration for Triton: it fits the schema, and describes the graph."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import triton_schema as schema
from google.protobuf import text_format
from served import ABOUT, LINEAR, linear_program, preparation_for, trained
from small_package import POLICY, PREPARATION, ROWS, small_run
from typer.testing import CliRunner

from at_length import at_length
from seo_rec.cli.main import app
from seo_rec.export import package_parts
from seo_rec.serve import PackageError, Predictor, read_package
from seo_rec.serve.predictor import as_table
from seo_rec.serve.signature import signature_of
from seo_rec.serve.triton import CONFIG_FILE, PACKAGE_FOLDER, triton_config, write_config
from seo_rec.serve.writing import write_package

TYPES = {"tensor(float)": schema.TYPE_FP32, "tensor(int64)": schema.TYPE_INT64}


def tritons_own():
    """``ModelConfig`` as tritonclient ships it, without the rest of that package."""
    found = importlib.util.find_spec("tritonclient")
    if found is None or not found.submodule_search_locations:
        pytest.skip("tritonclient is not installed: pip install --no-deps tritonclient")
    path = Path(found.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ModelConfig


def equals(ours, theirs):
    for field in ours.fields:
        other = theirs.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (
            other.number,
            other.type,
            other.is_repeated,
        ), (ours.name, field.name)
        if field.message_type:
            equals(field.message_type, other.message_type)
        if field.enum_type:
            known = {v.name: v.number for v in other.enum_type.values}
            assert {v.name: v.number for v in field.enum_type.values}.items() <= known.items()


def test_the_schema_is_a_part_of_tritons_own():
    equals(schema.ModelConfig.DESCRIPTOR, tritons_own().DESCRIPTOR)


@pytest.mark.parametrize("kind", ["categorical", "multivalent"])
def test_tritons_own_schema_takes_the_configuration(kind, tmp_path, monkeypatch):
    whole = tritons_own()
    packaged(tmp_path / PACKAGE_FOLDER, preparation_for(POLICY, kind=kind), monkeypatch)
    write_config(tmp_path)
    config = text_format.Parse((tmp_path / CONFIG_FILE).read_text(), whole())
    assert config.backend == "onnxruntime" and config.instance_group[0].count == 1


def packaged(folder, preparation, monkeypatch, formats=("onnx",)):
    monkeypatch.setattr("seo_rec.export.package.program_of", linear_program)
    parts = package_parts(trained(POLICY, LINEAR), preparation, None, ABOUT, formats)
    folder.mkdir(parents=True)
    write_package(folder, parts)
    return folder


@pytest.mark.parametrize(
    "kind", at_length(["categorical", "optional", "multivalent"], ["optional"])
)
def test_the_configuration_describes_the_graph(kind, tmp_path, monkeypatch):
    folder = packaged(tmp_path / PACKAGE_FOLDER, preparation_for(POLICY, kind=kind), monkeypatch)
    write_config(tmp_path)
    text = (tmp_path / CONFIG_FILE).read_text()
    config = text_format.Parse(text, schema.ModelConfig())
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    batched = config.max_batch_size > 0
    assert batched == (kind != "multivalent") == config.HasField("dynamic_batching")
    assert config.backend == "onnxruntime"
    for said, there in (
        (config.input, session.get_inputs()),
        (config.output, session.get_outputs()),
    ):
        assert [x.name for x in said] == [x.name for x in there]
        for entry, value in zip(said, there, strict=True):
            assert entry.data_type == TYPES[value.type]
            dims = entry.reshape.shape if entry.HasField("reshape") else entry.dims
            shape = [*([-1] if batched else []), *dims]
            assert shape == [-1 if isinstance(size, str) else size for size in value.shape]


def test_the_documented_client(tmp_path, monkeypatch):
    """Inputs made by the package give the predictor's scores, by the graph alone."""
    folder = packaged(tmp_path / PACKAGE_FOLDER, PREPARATION, monkeypatch)
    write_config(tmp_path)
    config = text_format.Parse((tmp_path / CONFIG_FILE).read_text(), schema.ModelConfig())
    predictor = Predictor.load(folder, "numpy")
    rows = predictor.preparation.encode(as_table(ROWS))
    inputs = signature_of(POLICY, PREPARATION).feed(predictor.package.policy, rows)
    assert list(inputs) == [x.name for x in config.input]
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    (logits,) = session.run(["logits"], inputs)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), predictor(ROWS), rtol=1e-5)


def test_a_package_without_a_graph_is_refused(tmp_path, monkeypatch):
    folder = packaged(tmp_path / "plain", PREPARATION, monkeypatch, ())
    with pytest.raises(PackageError, match="--format triton"):
        triton_config(read_package(folder))


def test_a_run_becomes_a_model_of_a_repository(tmp_path):
    run, out = small_run(tmp_path), tmp_path / "models/clicks"
    command = ["export", str(run), "--out", str(out), "--format", "triton"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.iterdir()} == {"1", CONFIG_FILE}
    text_format.Parse((out / CONFIG_FILE).read_text(), schema.ModelConfig())
    Predictor.load(out / PACKAGE_FOLDER, "onnxruntime")
    refused = CliRunner().invoke(app, [*command, "--tar"])
    assert "--tar" in str(refused.exception)
