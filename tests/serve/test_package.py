"""A package holds what the policy counts, is equal each time, and says what is wrong with it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from served import as_inputs, parts_of, written

from cases import BUILDABLE, METHODS, POLICIES, SCHEMAS
from seo_rec import methods, recipes
from seo_rec.export import export_run
from seo_rec.export.program import UnknownOperationError, program_of
from seo_rec.policy import DTYPES, Allowance, Array, Feature, Lookup, Policy, Table
from seo_rec.serve import PackageError, Predictor, read_package
from seo_rec.serve.layout import EMBEDDINGS_FILE, MANIFEST_FILE

LARGE = Policy(
    (Table("a", 3_000, 8), Table("b", 2_000, 5)),
    (
        Feature("user", (Lookup("a", seed=1), Lookup("b", "codes", codes="kept")), project=4),
        Feature("item", (Lookup("a", "id"), Lookup("m", "blocks", 5, block=4, width=8))),
    ),
    vocabularies={name: np.arange(0, 5_000, 2)[:2_500] for name in ("user", "item")},
    codes={"kept": (np.arange(2_501) % 2_000).astype(np.int32)},
    arrays=(Array("m", 5_000),),
)


def bytes_without_header(path) -> int:
    content = path.read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")


@pytest.mark.parametrize("precision", DTYPES)
def test_bytes_are_those_that_the_policy_counts(precision, tmp_path):
    """To the byte but for the header of the file, which is below 1 % of it."""
    written(tmp_path, LARGE, precision=precision)
    policy = read_package(tmp_path).policy
    file = tmp_path / EMBEDDINGS_FILE
    assert bytes_without_header(file) == policy.num_bytes
    assert file.stat().st_size <= 1.01 * policy.num_bytes
    assert json.loads((tmp_path / MANIFEST_FILE).read_text())["num_bytes"] == policy.num_bytes
    # and no other file holds ids or codes: they would be in the policy, which is small
    assert (tmp_path / "policy.json").stat().st_size < 4_000


@pytest.mark.parametrize("name", BUILDABLE)
def test_bytes_of_every_policy(name, tmp_path):
    written(tmp_path, BUILDABLE[name])
    package = read_package(tmp_path)
    assert bytes_without_header(tmp_path / EMBEDDINGS_FILE) == package.policy.num_bytes
    assert package.policy == BUILDABLE[name]
    for feature, ids in BUILDABLE[name].vocabularies.items():
        np.testing.assert_array_equal(package.policy.vocabularies[feature], ids)
    for codes, numbers in BUILDABLE[name].codes.items():
        np.testing.assert_array_equal(package.policy.codes[codes], numbers)


@pytest.mark.parametrize("method", [n for n, m in METHODS.items() if m.exact])
def test_a_budget_in_bytes_is_the_size_of_the_file(method, tmp_path):
    """Within a row: what a method is given in bytes is what its package takes."""
    for precision in ("int8", "int4"):
        policy = METHODS[method].make(SCHEMAS["three"], Allowance(20_000, "bytes", precision), 0)
        written(tmp_path, policy)
        size = bytes_without_header(tmp_path / EMBEDDINGS_FILE)
        assert 20_000 - 12 < size == policy.num_bytes <= 20_000


def test_equal_runs_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        written(tmp_path / name, POLICIES["dtypes"])
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_tables_are_mapped_and_cannot_be_written(tmp_path):
    written(tmp_path, LARGE)
    rows = read_package(tmp_path).embeddings["rows.float32.8"]
    assert not rows.flags.writeable and not rows.flags.owndata
    with pytest.raises(ValueError):
        rows[0] = 0


def test_mlet_is_served_as_one_layer(tiny_data, tmp_path):
    """The tables of the package are those of the policy, whatever the training had."""
    from seo_rec.model import ModelSettings
    from seo_rec.train import FitSettings, Training

    policy = methods.separate(tiny_data.schema, 400, 4)
    settings = ModelSettings(hidden=(4,), mlet=methods.Mlet(8, 0.5))
    recipes.train(
        tiny_data, policy, tmp_path / "run", Training(settings, FitSettings(1, batch_size=200))
    )
    export_run(tmp_path / "run", tmp_path / "package", formats=())
    package = read_package(tmp_path / "package")
    assert package.policy.num_bytes == policy.num_bytes == 1600
    trained = recipes.load_trained(tmp_path / "run")
    table = policy.tables[0]
    first = package.embeddings[f"rows.float32.{table.dim}"][: table.num_rows]
    weight = trained.embedding.ebc.embedding_bags[table.name].weight
    np.testing.assert_array_equal(first, weight.detach().numpy())


def test_what_a_type_cannot_hold_is_refused():
    policy = POLICIES["one-row"]
    from seo_rec.policy import with_precision
    from seo_rec.serve.writing import stored_embeddings

    with pytest.raises(ValueError, match="table 'a': a weight of size 1e\\+06"):
        stored_embeddings(with_precision(policy, "float16"), {"a": np.array([[1e6]], np.float32)})


def test_a_backbone_of_other_operations_is_refused():
    class Odd(torch.nn.Module):
        def forward(self, dense_BN, x_BE):
            return torch.erfinv(x_BE).sum(1)

    with pytest.raises(UnknownOperationError, match=r"Odd uses aten\.erfinv\.default, for which"):
        program_of(Odd(), 0, 3)


def test_operations_that_no_backbone_has_yet():
    """A gate, as in the example of CONTRIBUTING.md, and numbers on either side of a product."""

    class Gate(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = torch.nn.Linear(5, 5)

        def forward(self, dense_BN, x_BE):
            z = torch.cat([dense_BN, x_BE], 1)
            return (2.0 * z * torch.sigmoid(self.gate(z)) * 0.5).reshape(-1, 5, 1).sum(-2)[:, 0]

    gate, dense, x = Gate(), torch.randn(7, 2) * 30, torch.randn(7, 3)
    with pytest.raises(UnknownOperationError, match=r"aten\.select\.int"):
        program_of(gate, 2, 3)
    gate.forward = lambda d, e: (
        lambda z: (2.0 * z * torch.sigmoid(gate.gate(z)) * 0.5).reshape(-1, 5, 1).sum(-2).squeeze(1)
    )(torch.cat([d, e], 1))
    program, weights = program_of(gate, 2, 3)
    found = program.run(dense.numpy(), x.numpy(), weights)
    np.testing.assert_allclose(found, gate(dense, x).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_golden_rows_that_score_otherwise_are_noticed(tmp_path):
    """Even where every checksum fits: the scores of the golden rows were changed before."""
    from dataclasses import replace

    from seo_rec.serve.writing import write_package

    parts, _ = parts_of(POLICIES["sum"])
    write_package(tmp_path, replace(parts, scores=parts.scores + np.float32(1e-3)))
    with pytest.raises(PackageError, match=r"scores of golden rows are off by 0\.001"):
        Predictor.load(tmp_path)


def test_another_backbone_is_noticed(tmp_path):
    from dataclasses import replace

    from seo_rec.serve.writing import write_package

    parts, _ = parts_of(POLICIES["sum"])
    weights = {name: value * np.float32(1.01) for name, value in parts.weights.items()}
    write_package(tmp_path, replace(parts, weights=weights))
    with pytest.raises(PackageError, match="scores of golden rows are off"):
        Predictor.load(tmp_path)


def test_scores_of_many_rows_are_those_of_few(tmp_path):
    """Rows are scored in pieces; where the cuts are makes no difference."""
    written(tmp_path, POLICIES["crosses-of-all-kinds"])
    from cases import BAGS, batch
    from seo_rec.serve import predictor as module

    predictor = Predictor.load(tmp_path)
    inputs = as_inputs(batch(("user", "item", "hour"), BAGS["bags"], rows=50))
    whole = predictor.score(inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS", 7)
        np.testing.assert_allclose(predictor.score(inputs), whole, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"engine": "torch"}, "engine 'torch'; allowed: auto, onnxruntime, numpy"),
        ({"engine": "onnxruntime"}, re.escape("holds no model.onnx; export it with --format onnx")),
    ],
)
def test_engines(arguments, message, tmp_path):
    written(tmp_path, POLICIES["sum"])
    with pytest.raises(ValueError, match=message):
        Predictor.load(tmp_path, **arguments)
