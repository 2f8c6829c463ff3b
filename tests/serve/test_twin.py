"""The twin in plain aten computes what the trained model computes, for every policy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from served import as_inputs, is_single, model_logits, parts_of

from at_length import at_length
from cases import BACKBONES, BAGS, BUILDABLE, POLICIES, batch
from seo_rec.export.stored import Stored
from seo_rec.export.twin import Twin
from seo_rec.serve.signature import signature_of

KINDS = (("categorical", "single"), ("optional", "optional"), ("multivalent", "bags"))
PRECISIONS = ("float16", "bfloat16", "int8", "int4")


def twin_logits(parts, model, inputs):
    signature = signature_of(parts.policy, parts.preparation)
    twin = Twin(parts.policy, parts.embeddings, model.backbone, signature)
    feed = signature.feed(parts.policy, inputs)
    with torch.no_grad():
        return twin(*(torch.from_numpy(feed[name]) for name in signature.names)).numpy()


@pytest.mark.parametrize("name", BUILDABLE)
def test_every_policy(name):
    policy = BUILDABLE[name]
    precision = "float32" if name == "dtypes" else None
    for kind in ("categorical", "optional", "multivalent"):
        parts, model = parts_of(policy, precision=precision, kind=kind)
        for bags_name, bags in BAGS.items():
            if bags.weighted or (kind == "categorical" and not is_single(bags)):
                continue  # rows with weights are scored by NumPy
            if kind == "optional" and bags.most > 1:
                continue
            columns = batch(policy.columns, bags)
            inputs = as_inputs(columns, single=kind == "categorical")
            wanted = model_logits(model, columns, inputs.dense_BN)
            found = twin_logits(parts, model, inputs)
            np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6, err_msg=bags_name)


@pytest.mark.parametrize("precision", at_length([*PRECISIONS, None], ["int8", None]))
@pytest.mark.parametrize("name", POLICIES)
def test_every_type(name, precision):
    policy = POLICIES[name]
    for kind, bags in KINDS:
        parts, model = parts_of(policy, precision=precision, kind=kind)
        columns = batch(policy.columns, BAGS[bags])
        inputs = as_inputs(columns, single=kind == "categorical")
        wanted = model_logits(model, columns, inputs.dense_BN)
        found = twin_logits(parts, model, inputs)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_rows_are_held_once(precision):
    """Compiled code holds every buffer by itself, so a second view of rows would be a copy."""
    parts, _ = parts_of(POLICIES["mixed-dims"], precision=precision, kind="categorical")
    rows = Stored(parts.embeddings)
    held = {name: value for name, value in rows.named_buffers() if name != "halves"}
    stored = [x for name, x in parts.embeddings.items() if not name.startswith("project.")]
    assert sum(x.nbytes for x in held.values()) == sum(x.nbytes for x in stored)


@pytest.mark.parametrize("num_dense", [0, 3])
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone(name, num_dense):
    policy = POLICIES["mixed-dims"]
    parts, model = parts_of(policy, BACKBONES[name], None, num_dense, "categorical", False)
    columns = batch(policy.columns, BAGS["single"])
    inputs = as_inputs(columns, num_dense, single=True)
    wanted = model_logits(model, columns, inputs.dense_BN)
    found = twin_logits(parts, model, inputs)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
