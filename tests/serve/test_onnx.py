"""The ONNX graph of a package: standard operators, numbers in the package's files, equal scores."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from itertools import chain, cycle, repeat, zip_longest

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from served import ABOUT, LINEAR, as_inputs, everything, preparation_for, trained
from test_every_model import TASKS, about_of, settings_of

from at_length import at_length
from cases import BACKBONES, BAGS, BUILDABLE, POLICIES, batch
from seo_rec.export import dequantized, package_parts
from seo_rec.export.onnx_graph import exported
from seo_rec.export.twin import Twin, example_inputs
from seo_rec.policy import Feature, Lookup, Policy, Table
from seo_rec.serve import PackageError, Predictor, read_package
from seo_rec.serve.fast import OnnxScorer
from seo_rec.serve.layout import BACKBONE_WEIGHTS_FILE, EMBEDDINGS_FILE, ONNX_FILE
from seo_rec.serve.scorer import NumpyScorer
from seo_rec.serve.signature import signature_of
from seo_rec.serve.writing import write_package
from spec import reference_hash

KINDS = {"categorical": "single", "optional": "optional", "multivalent": "bags"}
SOME = {"multi-size-2": ("categorical", "int8"), "dtypes": ("optional", None)}


LABELLED = {"fnn": "towers", "wide-deep": "regression", "mlp": "bottom", "mlp-dropout": "mmoe"}


def graphs() -> Iterator[tuple[str, str, str, str | None, int, str]]:
    """Two policies side by side, a kind of columns, a type and a backbone: each of these in turn.

    Every policy and every backbone is there. Half of the tables of int8 and int4 become floats at
    loading, and half stay as they are.
    """
    names = [name for name in BUILDABLE if name not in SOME]
    networks = chain(BACKBONES, repeat("mlp-linear"))
    kinds, types = cycle(KINDS), cycle((None, "int8", None, "int4"))
    limits = cycle((0, 0, 0, 0, *(dequantized.FLOAT_BYTES,) * 4))
    pairs = [*zip_longest(names[::2], names[1::2], fillvalue=names[0])]
    assert len(pairs) >= len(BACKBONES) and {*LABELLED.values()} == {*TASKS}
    for pair, kind, precision, limit, network in zip(
        pairs, kinds, types, limits, networks, strict=False
    ):
        yield *pair, kind, precision, limit, network


@pytest.fixture(scope="module", autouse=True)
def _one_list_of_operators():
    """The exporter makes its list of 1,000 operators for every graph, a tenth of the time."""
    registry = pytest.importorskip("torch.onnx._internal.exporter._registration").ONNXRegistry
    lists = {}

    def of(opset_version):
        if opset_version not in lists:
            lists[opset_version] = made(opset_version)
        mine = copy(lists[opset_version])
        mine.functions = {target: [*known] for target, known in mine.functions.items()}
        return mine

    made = registry.from_torchlib
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "from_torchlib", staticmethod(of))
        yield


def graph_of(folder, policy, kind, precision=None, settings=LINEAR, about=ABOUT):
    model = trained(policy, settings)
    preparation = preparation_for(policy, kind=kind)
    parts = package_parts(model, preparation, precision, about, ("onnx",))
    write_package(folder, parts)
    return onnx.load(folder / ONNX_FILE, load_external_data=False)


def equals_numpy(folder, policy, kind) -> None:
    package = read_package(folder)
    fast, slow = OnnxScorer(package, 1), NumpyScorer(package)
    for rows in (1, 9, 40):
        columns = batch(policy.columns, BAGS[KINDS[kind]], rows=rows)
        inputs = as_inputs(columns, single=kind == "categorical")
        np.testing.assert_allclose(fast.logits(inputs), slow.logits(inputs), rtol=1e-5, atol=2e-6)
    if kind == "multivalent":  # no id at all
        inputs = as_inputs(batch(policy.columns, BAGS["empty"], rows=3))
        np.testing.assert_allclose(fast.logits(inputs), slow.logits(inputs), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", at_length(SOME, ["multi-size-2"]))
def test_some_policies(name, tmp_path):
    kind, precision = SOME[name]
    graph_of(tmp_path, BUILDABLE[name], kind, precision)
    equals_numpy(tmp_path, BUILDABLE[name], kind)
    Predictor.load(tmp_path, "onnxruntime")


@pytest.mark.slow
@pytest.mark.parametrize("one, other, kind, precision, limit, network", [*graphs()])
def test_every_policy_and_every_backbone(
    one, other, kind, precision, limit, network, tmp_path, monkeypatch
):
    """And what is predicted: clicks, several labels with every way to share layers, a number."""
    monkeypatch.setattr(dequantized, "FLOAT_BYTES", limit)
    policy, settings, about = everything((one, other)), BACKBONES[network], ABOUT
    if network in LABELLED:
        settings, about = settings_of(LABELLED[network], settings), about_of(LABELLED[network])
    graph_of(tmp_path, policy, kind, precision, settings, about)
    equals_numpy(tmp_path, policy, kind)
    Predictor.load(tmp_path, "onnxruntime")  # gives the scores of the model for the golden rows


def steps_at_a_score(folder):
    """How often each operator runs when rows are scored, after what is computed at loading."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(folder / ONNX_FILE), options)
    loaded = onnx.load(folder / "optimized.onnx", load_external_data=False)
    return Counter(node.op_type for node in loaded.graph.node)


# rows of tables: a few, the most that float64 multiplies exactly, and more
@pytest.mark.parametrize("sizes", [(1, 3, 7), (1, 3, 2**20, 2**20 - 4), (2**21, 1)])
def test_the_rows_that_are_read_equal_the_definition_to_the_bit(sizes, tmp_path):
    columns = len(sizes) - 1
    tables = [Table(f"t{j}", rows, 1) for j, rows in enumerate(sizes)]
    seeds = [0, 2**63 - 1, 2**62 + 12345, 2**31]
    features = [
        Feature(f"c{i}", tuple(Lookup(t.name, seed=seeds[j] ^ i) for j, t in enumerate(tables)))
        for i in range(columns)
    ]
    model = graph_of(tmp_path, Policy(tuple(tables), tuple(features)), "categorical")
    op = "Gather" if sum(sizes) < 100 else "GatherND"
    (read,) = [node.input[1] for node in model.graph.node if node.op_type == op]
    kind = onnx.TensorProto.INT32 if op == "Gather" else onnx.TensorProto.INT64
    count = Counter(node.op_type for node in model.graph.node)
    assert count["Mul"] == 3 and count["BitwiseAnd"] == (sum(sizes) > 2**21)  # else in float64
    model.graph.output.append(onnx.helper.make_tensor_value_info(read, kind, None))
    onnx.save(model, tmp_path / "rows.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "rows.onnx"))
    ids = np.random.default_rng(0).integers(0, 2**63 - 1, (500, columns), endpoint=True)
    ids[:4] = np.array([0, 1, 2**62 - 1, 2**63 - 1])[:, None]
    feed = {"dense": np.zeros((500, 2), np.float32), "ids": ids}
    (found,) = session.run([read], feed)
    starts = np.cumsum([0, *(t.num_rows for t in tables)])
    wanted = [
        [
            reference_hash(int(i), k.seed, t.num_rows) + start
            for f, i in zip(features, row, strict=True)
            for k, t, start in zip(f.lookups, tables, starts, strict=False)
        ]
        for row in ids
    ]
    assert np.array_equal(found.reshape(500, -1), wanted)


@pytest.mark.parametrize("precision", ["int8", pytest.param("int4", marks=pytest.mark.slow)])
def test_small_tables_become_floats_at_loading_and_large_ones_stay(
    precision, tmp_path, monkeypatch
):
    """The limit counts float32; either way the graph is small and equals NumPy's scores."""
    policy = BUILDABLE["multi-size-2"]
    floats = sum(t.num_rows * t.dim * 4 for t in policy.tables)
    found = {}
    for limit in (floats, floats - 1):
        folder = tmp_path / str(limit)
        folder.mkdir()
        monkeypatch.setattr(dequantized, "FLOAT_BYTES", limit)
        model = graph_of(folder, policy, "categorical", precision)
        assert [(x.domain, x.version) for x in model.opset_import] == [("", 20)]
        assert len(model.SerializeToString()) < 10_000
        equals_numpy(folder, policy, "categorical")
        found[limit] = steps_at_a_score(folder)
    (tmp_path / "float32").mkdir()
    graph_of(tmp_path / "float32", policy, "categorical")
    assert found[floats] == steps_at_a_score(tmp_path / "float32")
    assert found[floats - 1]["DequantizeLinear"] == 1
    assert not found[floats - 1]["Mul"] > found[floats]["Mul"] + 1  # none has a factor for each row


def test_the_graph_is_small_and_plain(tmp_path):
    """Standard operators only, few of them, and no table a second time."""
    policy = BUILDABLE["multi-size-2"]
    model = graph_of(tmp_path, policy, "categorical")
    assert [(x.domain, x.version) for x in model.opset_import] == [("", 20)]
    count = Counter(node.op_type for node in model.graph.node)
    assert sum(count.values()) <= 24, count
    assert count["BitwiseAnd"] == 0  # a type of 32 bits masks; what a shift has left needs no mask
    assert count["Cast"] == 4  # ids are made unsigned once; the hash uint32, float64 and an int32
    assert not set(count) & {"Loop", "If", "Scan", "Where"}
    assert len(model.SerializeToString()) < 8_000
    text = (tmp_path / ONNX_FILE).read_bytes()
    assert b".py" not in text and b"seo_rec" not in text  # nothing of where it was made


def test_a_graph_leaves_the_twin_as_it_was():
    """Machine code is made of the same twin afterwards."""
    policy = POLICIES["sum"]
    parts = package_parts(trained(policy, LINEAR), preparation_for(policy), "int8", ABOUT)
    signature = signature_of(policy, parts.preparation)
    twin = Twin(parts.policy, parts.embeddings, trained(policy, LINEAR).backbone, signature)
    inputs, _ = example_inputs(signature)
    before = twin(*inputs)
    exported(twin)
    assert torch.equal(twin(*inputs), before)


def test_numbers_stay_in_the_files_of_the_package(clicks):
    model = onnx.load(clicks.package / ONNX_FILE, load_external_data=False)
    places = {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }
    assert places["rows.rows_float32_2"]["location"] == EMBEDDINGS_FILE
    assert places["backbone.layers.0.weight"]["location"] == BACKBONE_WEIGHTS_FILE
    policy = read_package(clicks.package).policy
    assert int(places["rows.rows_float32_2"]["length"]) == policy.num_bytes


def test_a_graph_of_another_package_is_refused(clicks):
    """Its checksum may fit: its inputs do not."""
    policy = POLICIES["sum"]
    package = replace(
        read_package(clicks.package), policy=policy, preparation=preparation_for(policy)
    )
    with pytest.raises(PackageError, match=r"has the inputs .* the package needs \{'dense'"):
        OnnxScorer(package)


def test_threads_stay_on_the_cores_of_the_process(clicks):
    """A process that is kept to some cores, as by taskset, starts no thread on the others."""
    allowed = os.sched_getaffinity(0)
    one = {min(allowed)}
    before = set(os.listdir("/proc/self/task"))
    os.sched_setaffinity(0, one)
    try:
        scorer = OnnxScorer(read_package(clicks.package))
        started = set(os.listdir("/proc/self/task")) - before
        assert [os.sched_getaffinity(int(thread)) for thread in started] == [one] * len(started)
    finally:
        os.sched_setaffinity(0, allowed)
    assert scorer._session.get_session_options().intra_op_num_threads == 1
