"""Packages of several labels and of regressions: the laws of packages, for every network.

Their graphs are tested in ``test_onnx.py``, beside those of clicks.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from served import ABOUT, as_inputs, everything, model_logits, preparation_for, trained
from test_delta import bytes_of
from test_package import bytes_without_header

from cases import BACKBONES, BAGS, BUILDABLE, POLICIES, batch
from patience import PATIENCE
from seo_rec.export import package_parts
from seo_rec.export.twin import Twin
from seo_rec.model import ModelSettings, RecModel
from seo_rec.multi_task import MultiTask
from seo_rec.policy import Policy
from seo_rec.serve import Predictor, read_package
from seo_rec.serve.archive import write_tar
from seo_rec.serve.delta import apply_delta, write_delta
from seo_rec.serve.layout import EMBEDDINGS_FILE
from seo_rec.serve.scorer import scores_of
from seo_rec.serve.server import LivePackage, ServerSettings
from seo_rec.serve.server.app import background, build_app
from seo_rec.serve.server.metrics import Metrics
from seo_rec.serve.server.service import Service
from seo_rec.serve.signature import signature_of
from seo_rec.serve.writing import write_package
from seo_rec.settings import Regression

LABELS = ("click", "buy")
# what is predicted, and what the labels share
TASKS = {
    "towers": MultiTask(LABELS, kept="click"),
    "bottom": MultiTask(LABELS, kept="click", shared=(6,)),
    "mmoe": MultiTask(LABELS, kept="click", sharing="mmoe", shared=(6,), experts=3),
    "regression": Regression(20.0, 5.0),
}
FEW = ("mmoe", "regression")  # the others, which differ less, are slow tests
SOME = [t if t in FEW else pytest.param(t, marks=pytest.mark.slow) for t in TASKS]
CROSSED = POLICIES["crosses-of-all-kinds"]


def settings_of(task: str, backbone: ModelSettings = BACKBONES["mlp"]) -> ModelSettings:
    goal = TASKS[task]
    if isinstance(goal, Regression):
        return replace(backbone, regression=goal)
    return replace(backbone, multi_task=goal)


def about_of(task: str) -> dict:
    model = {"task": "regression"} if task == "regression" else {"labels": list(LABELS)}
    return {**ABOUT, "model": model}


def written(
    folder: Path,
    task: str,
    policy: Policy = CROSSED,
    settings: ModelSettings | None = None,
    kind: str = "optional",
    formats: tuple[str, ...] = (),
    seed: int = 3,
    scale: float = 3,
    num_dense: int = 2,
) -> RecModel:
    """Write a package into a new folder; returns the model, whose scores differ between rows.

    Weights of layers are multiplied by ``scale``; the scores of shallow models then differ more.
    """
    model = trained(policy, settings or settings_of(task), num_dense, seed)
    with torch.no_grad():
        for weight in model.backbone.parameters():
            weight *= scale if weight.dim() > 1 else 1
    preparation = preparation_for(policy, num_dense, kind)
    parts = package_parts(model, preparation, None, about_of(task), formats)
    folder.mkdir()
    write_package(folder, parts)
    return model


def rows_of(policy: Policy, kind: str, num_dense: int = 2):
    bags = {"categorical": "single", "optional": "optional", "multivalent": "bags"}[kind]
    columns = batch(policy.columns, BAGS[bags], rows=20)
    return columns, as_inputs(columns, num_dense, single=kind == "categorical")


def scores_equal(predictor: Predictor, model: RecModel, kind: str, least: float = 0.01) -> None:
    """The scores of 20 rows, whose standard deviation is ``least`` or more."""
    num_dense = predictor.package.preparation.num_dense
    columns, inputs = rows_of(predictor.package.policy, kind, num_dense)
    logits = model_logits(model, columns, inputs.dense_BN)
    wanted = logits if predictor.package.is_regression else scores_of(logits)
    assert wanted.std(axis=0).min() > least
    np.testing.assert_allclose(predictor.score(inputs), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("task", SOME)
def test_a_package_scores_as_the_model_does(task, tmp_path):
    for kind in ("optional", "multivalent"):
        model = written(tmp_path / kind, task, kind=kind)
        predictor = Predictor.load(tmp_path / kind, "numpy")
        assert predictor.package.labels == (() if task == "regression" else LABELS)
        size = bytes_without_header(tmp_path / kind / EMBEDDINGS_FILE)
        assert size == predictor.package.policy.num_bytes
        scores_equal(predictor, model, kind)


@pytest.mark.parametrize("task", ["towers", "regression"])
def test_the_twin_of_every_backbone(task):
    policy = POLICIES["mixed-dims"]
    preparation = preparation_for(policy, kind="categorical")
    signature = signature_of(policy, preparation)
    columns, inputs = rows_of(policy, "categorical")
    for name, backbone in BACKBONES.items():
        model = trained(policy, settings_of(task, backbone))
        embeddings = package_embeddings(model)
        twin = Twin(policy, embeddings, model.backbone, signature)
        feed = signature.feed(policy, inputs)
        with torch.no_grad():
            found = twin(*(torch.from_numpy(feed[n]) for n in signature.names)).numpy()
        wanted = model_logits(model, columns, inputs.dense_BN)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6, err_msg=name)


def package_embeddings(model: RecModel):
    from seo_rec.embed.quantize import float_weights
    from seo_rec.serve.writing import stored_embeddings

    return stored_embeddings(model.embedding.policy, float_weights(model.embedding))


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone, task", [*zip(BACKBONES, cycle(("towers", "regression")), strict=False)]
)
def test_the_steps_of_every_backbone(backbone, task, tmp_path):
    """Two labels and a number in turn, without dense columns; ``test_scorer.py`` has clicks."""
    policy, settings = POLICIES["mixed-dims"], settings_of(task, BACKBONES[backbone])
    model = written(
        tmp_path / "package", task, policy, settings, "categorical", scale=1, num_dense=0
    )
    # larger weights make larger numbers in deep backbones, and so larger roundings
    predictor = Predictor.load(tmp_path / "package", "numpy")
    scores_equal(predictor, model, "categorical", least=1e-3)


@pytest.mark.parametrize("task", SOME)
def test_a_delta_a_tar_file_and_a_reload(task, tmp_path):
    """A served package becomes the one of another training, by a delta in a tar file."""
    old, new, delta = (tmp_path / name for name in ("old", "new", "delta"))
    written(old, task)
    model = written(new, task, seed=4)
    delta.mkdir()
    write_delta(old, new, delta)
    write_tar(delta, tmp_path / "delta.tar")
    live = LivePackage(old, "numpy")
    before = live.version
    apply_delta(old, tmp_path / "delta.tar")
    assert bytes_of(old) == bytes_of(new)
    assert live.has_changed() and live.reload() and live.version != before
    scores_equal(live.predictor, model, "optional")
    write_tar(new, tmp_path / "new.tar")
    scores_equal(Predictor.load(tmp_path / "new.tar", "numpy"), model, "optional")


def test_the_server_goes_on_from_one_label_to_two(tmp_path):
    """The answers name the labels of the package that they are of."""
    path = tmp_path / "package"
    written(tmp_path / "two", "mmoe")
    written(path, "regression")
    row = {"n0": [0.5], "n1": [None], "user": ["a"], "item": ["b"], "hour": [None]}

    async def asked() -> list[dict]:
        service = Service(LivePackage(path, "numpy"), ServerSettings(reload=0), Metrics())
        app = build_app(service, background(service, lambda: None))
        transport = httpx.ASGITransport(app)
        found = []
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            for _ in range(2):
                answer = await client.post("/score", json={"columns": row})
                inputs = [
                    {"name": n, "shape": [1], "datatype": t, "data": row[n]}
                    for n, t in (("n0", "FP32"), ("n1", "FP32"), ("user", "BYTES"),
                                 ("item", "BYTES"), ("hour", "INT32"))
                ]  # fmt: skip
                other = await client.post("/v2/models/package/infer", json={"inputs": inputs})
                found.append({**answer.json(), "outputs": other.json()["outputs"]})
                (tmp_path / "package").rename(tmp_path / f"was {len(found)}")
                (tmp_path / "two").rename(path) if len(found) == 1 else None
                await service.reload()
        return found

    one, two = asyncio.run(asked())
    assert "labels" not in one and [x["name"] for x in one["outputs"]] == ["score"]
    np.testing.assert_allclose(one["scores"], one["outputs"][0]["data"])
    assert two["labels"] == list(LABELS)
    assert [x["name"] for x in two["outputs"]] == ["score_click", "score_buy"]
    np.testing.assert_allclose(two["scores"], [[x["data"][0] for x in two["outputs"]]])


def test_a_reload_without_memory_is_logged_and_the_next_one_taken(tmp_path, monkeypatch, caplog):
    path = tmp_path / "package"
    written(path, "regression")
    service = Service(LivePackage(path, "numpy"), ServerSettings(reload=0.01), Metrics())
    looks = iter([RuntimeError("can't start new thread"), True, True])
    loads = iter([MemoryError(), True])

    def step(of):
        found = next(of, False)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(service.live, "has_changed", lambda: step(looks))
    monkeypatch.setattr(service.live, "reload", lambda: step(loads))

    async def watched() -> None:
        task = asyncio.create_task(service.watch())
        while not task.done() and not any("serving" in line for line in caplog.messages):
            await asyncio.sleep(0.01)
        assert not task.done(), task.exception()
        task.cancel()

    with caplog.at_level(logging.INFO, "seo_rec.progress"):
        asyncio.run(asyncio.wait_for(watched(), PATIENCE))
    assert caplog.messages == [
        f"{path}: cannot look for a new package: RuntimeError: can't start new thread",
        "the new package is not served: MemoryError",
        f"serving package {service.live.version}",
    ]


# ---- machine code, and all policies in one -----------------------------------------------------


@pytest.mark.slow
def test_machine_code_of_crosses_and_two_labels(tmp_path):
    from test_aoti import COMPILER

    from seo_rec.export import load_compiled

    if COMPILER is None:
        pytest.skip("needs g++")
    model = written(tmp_path / "package", "mmoe", CROSSED, formats=("aoti",))
    compiled = load_compiled(tmp_path / "package", trust_code=True)
    scores_equal(compiled, model, "optional")
    plain = Predictor.load(tmp_path / "package", "numpy")
    _, inputs = rows_of(CROSSED, "optional")
    for number in (1, 0):
        found, wanted = (p.score(inputs.slice(0, number)) for p in (compiled, plain))
        assert found.shape == wanted.shape == (number, 2)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_everything_is_a_policy_that_a_package_can_hold(tmp_path):
    policy = everything(tuple(n for n in BUILDABLE if n not in ("dropped", "names")))
    model = written(tmp_path / "package", "towers", policy)
    scores_equal(Predictor.load(tmp_path / "package", "numpy"), model, "optional")
    package = read_package(tmp_path / "package")
    assert bytes_without_header(tmp_path / "package" / EMBEDDINGS_FILE) == policy.num_bytes
    manifest = json.loads((tmp_path / "package/manifest.json").read_text())
    assert manifest["num_bytes"] == package.policy.num_bytes
