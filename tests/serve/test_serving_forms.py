"""Other forms of the graph compute what the graph of a package computes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.speed import graph_forms, serving, serving_forms
from seo_rec.export import dequantized
from seo_rec.policy import Policy, Table


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    monkeypatch.setattr(serving_forms, "SPREAD", 64)
    monkeypatch.setattr(serving_forms, "CALLS", {1: 4, 64: 1})


def small(policy: Policy) -> Policy:
    """The same features with tables of 60 rows."""
    return Policy(tuple(Table(t.name, 60, t.dim) for t in policy.tables), policy.features)


@pytest.mark.slow
@pytest.mark.parametrize("made", [serving.shared, serving.separate])
def test_forms_of_the_hash(made, tmp_path):
    ways = serving_forms.hash_forms(small(made()), tmp_path / "package")
    # weights that are not packed beforehand are added up in another order
    packed = {name: way for name, way in ways.items() if "no prepacked weights" not in name}
    assert 0 < len(packed) < len(ways)
    serving_forms.require_equal(packed, 0)
    serving_forms.require_equal(ways, 1e-6)
    before = ways[serving_forms.BEFORE].session
    steps = {name: len(graph_of(tmp_path / "package", name)) for name in ("model", "all")}
    assert steps["all"] == steps["model"] - (4 if made is serving.shared else 2)
    assert before.get_inputs()[0].shape[1] == 24 + 2 * (made is serving.separate)


def graph_of(folder, name):
    import onnx

    return onnx.load(folder / f"{name}.onnx", load_external_data=False).graph.node


@pytest.mark.slow
def test_forms_of_int8(tmp_path, monkeypatch):
    monkeypatch.setattr(dequantized, "FLOAT_BYTES", 0)
    ways = serving_forms.int8_forms(small(serving.separate()), tmp_path)
    assert set(ways) == {"float32", "as it is", *graph_forms.ROWS}
    serving_forms.require_equal(ways, 1e-6)
    text = serving_forms.table("int8", serving_forms.in_turns(ways, 1), serving_forms.AS_IT_IS)
    assert text.count("\n| ") == len(ways) + 1
    assert text.count("µs") == 2


class Session:
    """Gives each id of one column as its logit."""

    def get_inputs(self):
        return [SimpleNamespace(name="ids")]

    def run(self, names, feed):
        return [feed["ids"][:, 0]]


def test_a_form_with_other_logits_is_refused():
    ids = np.arange(6).reshape(3, 2)
    ways = {"as it is": serving_forms.Form(Session(), ids)}
    serving_forms.require_equal(ways | {"same": serving_forms.Form(Session(), ids)}, 0)
    with pytest.raises(AssertionError, match="other"):
        serving_forms.require_equal(ways | {"other": serving_forms.Form(Session(), ids + 1)}, 0)


def test_what_a_step_costs():
    assert serving_forms.operators(1).count("\n| ") == len(graph_forms.STEPS)
