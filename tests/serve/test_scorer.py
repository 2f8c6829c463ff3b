"""The NumPy scorer serves what the trained model computes, for every policy and backbone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from served import as_inputs, floats_of, is_single, model_logits, written
from test_page_reader import agrees

from at_length import at_length
from cases import BACKBONES, BAGS, BUILDABLE, POLICIES, batch
from laws import of_features, reference_embedding
from seo_rec.serve import Predictor, read_package
from seo_rec.serve.scorer import NumpyScorer, scores_of

PRECISIONS = ("float16", "bfloat16", "int8", "int4")


@pytest.mark.parametrize("name", BUILDABLE)
def test_embeddings_of_every_policy(name, tmp_path):
    """In float32 the scorer's embeddings are those of the model, for bags of every kind."""
    policy = BUILDABLE[name]
    precision = "float32" if name == "dtypes" else None
    model = written(tmp_path, policy, precision=precision)
    scorer = NumpyScorer(read_package(tmp_path))
    for kind, bags in BAGS.items():
        columns = batch(policy.columns, bags)
        with torch.no_grad():
            wanted = model.embedding(columns).numpy()
        found = scorer.embed(as_inputs(columns))
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6, err_msg=kind)
        if is_single(bags):  # one id each, said in the other way
            again = scorer.embed(as_inputs(columns, single=True))
            np.testing.assert_allclose(again, wanted, rtol=1e-6, atol=1e-6, err_msg=kind)


@pytest.mark.parametrize("precision", [*PRECISIONS, None])
@pytest.mark.parametrize("name", POLICIES)
def test_stored_rows_are_served(name, precision, tmp_path):
    """In every type: the reference of the laws in float64, on floats that went through the type."""
    policy = POLICIES[name]
    model = written(tmp_path, policy, precision=precision)
    package = read_package(tmp_path)
    weights = {key: w.double() for key, w in floats_of(model).items()}  # as served
    columns = batch(policy.columns, BAGS["bags-weighted"])
    wanted = reference_embedding(policy, of_features(policy, columns), weights)
    found = NumpyScorer(package).embed(as_inputs(columns))
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-5)
    served = {t.dtype for t in package.policy.tables} | {a.dtype for a in package.policy.arrays}
    if precision:
        assert served == {precision}
    Predictor.load(tmp_path)


@pytest.mark.parametrize("name", at_length(BACKBONES, ["mlp", "dcn-v2", "dlrm", "autoint"]))
def test_every_backbone(name, tmp_path):
    """And a reader that was written from the pages of the formats agrees."""
    model = written(tmp_path, POLICIES["mixed-dims"], BACKBONES[name], num_dense=3)
    scores_as(model, tmp_path)
    agrees(tmp_path)


def scores_as(model, folder) -> None:
    """The scorer of the package gives the logits and the scores of the model, for all bags."""
    package = read_package(folder)
    scorer = NumpyScorer(package)
    for bags in BAGS.values():
        columns = batch(package.policy.columns, bags)
        inputs = as_inputs(columns, 3)
        wanted = model_logits(model, columns, inputs.dense_BN)
        np.testing.assert_allclose(scorer.logits(inputs), wanted, rtol=1e-5, atol=1e-6)
        scores = torch.sigmoid(torch.from_numpy(wanted).double()).numpy()
        np.testing.assert_allclose(scores_of(scorer.logits(inputs)), scores, rtol=0, atol=1e-6)


def test_a_bag_of_very_many_ids(tmp_path):
    """Its sum is taken in pieces, and its neighbours do not notice."""
    model = written(tmp_path, POLICIES["weighted-sum"])
    scorer = NumpyScorer(read_package(tmp_path))
    columns = batch(("user", "item", "hour"), BAGS["bags"], rows=4)
    before = as_inputs(columns)
    user = before.columns["user"]
    many = np.arange(600_000, dtype=np.int64)
    ids = np.concatenate([user.ids, many, user.ids])
    lengths = np.concatenate([user.lengths, [len(many)], user.lengths])
    big = type(user)(ids, lengths)
    feature = scorer.policy.features[0]
    found = scorer._pooled(feature, big)
    alone = scorer._pooled(feature, user)
    np.testing.assert_allclose(found[:4], alone, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found[5:], alone, rtol=1e-6, atol=1e-6)
    wanted = reference_embedding(
        scorer.policy,
        batch(("user", "item", "hour"), BAGS["bags"], rows=4),
        {key: w.double() for key, w in floats_of(model).items()},
    )
    np.testing.assert_allclose(alone, wanted[:, :3].numpy(), rtol=1e-5, atol=1e-5)
    vectors = scorer._vectors(feature, type(user)(many)).astype(np.float64)
    np.testing.assert_allclose(found[4], vectors.sum(0), rtol=1e-3, atol=1e-2)
