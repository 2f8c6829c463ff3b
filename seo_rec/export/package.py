"""A finished training run as a package."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from seo_rec.data.dataset import DataSet, open_data
from seo_rec.documents import read_object
from seo_rec.embed.quantize import float_weights, put_floats_
from seo_rec.export.aoti import aoti_bytes
from seo_rec.export.golden import golden_inputs
from seo_rec.export.onnx_graph import onnx_bytes
from seo_rec.export.preparation import described, example_cells, preparation_of
from seo_rec.export.program import program_of
from seo_rec.export.twin import Twin
from seo_rec.files import new_folder, require_new_file
from seo_rec.model import ModelSettings, RecModel
from seo_rec.places import place
from seo_rec.policy import with_precision
from seo_rec.recipes.evaluation import load_trained
from seo_rec.runs import Run, RunError
from seo_rec.runs.layout import RESULT_FILE, RUN_FILE
from seo_rec.runs.records import REGRESSION_METRICS
from seo_rec.schema import REGRESSION, DataError
from seo_rec.serve.archive import unpacked, write_tar
from seo_rec.serve.bags import Floats, Inputs
from seo_rec.serve.delta import write_delta
from seo_rec.serve.layout import ALL_FILES, AOTI_FILE, ONNX_FILE
from seo_rec.serve.package import read_manifest
from seo_rec.serve.predictor import Predictor
from seo_rec.serve.preparation import Preparation
from seo_rec.serve.scorer import read_back, scores_of
from seo_rec.serve.signature import signature_of
from seo_rec.serve.writing import Parts, stored_embeddings, write_package

FORMATS = ("onnx", "aoti")
USUAL_FORMATS = ("onnx",)
_VERSIONS = ("seo-rec", "torch", "numpy")


@dataclass(frozen=True)
class Export:
    """What was exported.

    Args:
        path: The package or the delta.
        precision: The type of the tables, or that the policy says it.
        num_bytes: Bytes of the embeddings, as the policy counts them.
        total_bytes: Bytes of all files.
        num_golden: Golden rows.
    """

    path: Path
    precision: str
    num_bytes: int
    total_bytes: int
    num_golden: int


def export_run(
    run: Path | str,
    out: Path | str,
    precision: str | None = None,
    data: Path | str | None = None,
    formats: Sequence[str] = USUAL_FORMATS,
    *,
    since: Path | str | None = None,
    tar: bool = False,
) -> Export:
    """Write the package of a finished training run, and load it once to see that it works.

    Args:
        run: The folder of the run, however many processes trained it.
        out: The folder to make, or the file.
        precision: The type of every table and array, one of :data:`seo_rec.policy.DTYPES`; None
            takes the types that the policy says.
        data: The prepared data that the run was trained on; None looks where it lay then.
        formats: What the package holds besides what NumPy reads, of :data:`FORMATS`.
        since: A package; then only what differs from it is written, a delta.
        tar: Write one file in place of a folder.

    Raises:
        DataError: The data are not there, or are others.
        FileExistsError: Something is at ``out``.
        PackageError: ``since`` is not a package.
        RunError: The folder is not a finished training run.
        ValueError: A record of the run is damaged, or the type cannot hold the numbers of a table.
    """
    run, out = place(run), Path(out)
    data, since = (None if path is None else place(path) for path in (data, since))
    with ExitStack() as stack:
        base = None if since is None else stack.enter_context(unpacked(since, ALL_FILES))
        if base is not None:
            read_manifest(base)  # before minutes are spent
        if tar:
            require_new_file(out)
            made = Path(stack.enter_context(TemporaryDirectory(prefix="seo-rec-export-")))
        else:
            made = stack.enter_context(new_folder(out))
        parts = run_parts(run, precision, data, formats)
        if base is None:
            write_package(made, parts)
            Predictor.load(made)
        else:
            package = Path(stack.enter_context(TemporaryDirectory(prefix="seo-rec-export-")))
            write_package(package, parts)
            Predictor.load(package)
            write_delta(base, package, made)
        size = sum(file.stat().st_size for file in made.iterdir())
        if tar:
            write_tar(made, out)
    precision = str(parts.about["precision"])
    return Export(out, precision, parts.policy.num_bytes, size, len(parts.scores))


def run_parts(run: Path, precision: str | None, data: Path | None, formats: Sequence[str]) -> Parts:
    """The parts of the package of a run; see :func:`export_run`."""
    model = load_trained(run)
    required = {"data_fingerprint": str, "model": dict, "method": str}
    asked = read_object(run / RUN_FILE, required | ({"data": str} if data is None else {}))
    opened = training_data(asked, data)
    backbone = ModelSettings.from_json(asked["model"]).backbone
    task = {"task": REGRESSION} if model.regression else {}
    several = model.multi_task
    labels = {} if several is None else {"labels": list(several.labels)}
    about = {
        "data": described(opened.schema),
        "metrics": _metrics(run),
        "versions": {name: _version(name) for name in _VERSIONS},
        "model": {"backbone": backbone, "method": asked["method"], **task, **labels},
    }
    preparation = preparation_of(opened, model.embedding.policy.columns)
    return package_parts(model, preparation, precision, about, formats)


def training_data(asked: Mapping[str, Any], data: Path | None) -> DataSet:
    """The prepared data that a run was trained on.

    Args:
        asked: What ``run.json`` holds.
        data: Where they are; None looks where they lay then.

    Raises:
        DataError: They are not there, or are others.
    """
    path = Path(asked["data"]) if data is None else data
    try:
        opened = open_data(path)
    except DataError as error:
        raise DataError(f"{error}; or name the prepared data by --data") from error
    if opened.fingerprint != asked["data_fingerprint"]:
        raise DataError(
            f"{path} has the fingerprint {opened.fingerprint}, and the run was trained on data "
            f"with {asked['data_fingerprint']}; name these by --data"
        )
    return opened


def package_parts(
    model: RecModel,
    preparation: Preparation,
    precision: str | None,
    about: Mapping[str, Any],
    formats: Sequence[str] = (),
) -> Parts:
    """The parts of the package of a model.

    Args:
        model: Trained, whole, with tables of one layer. Its embeddings are changed to what
            is served.
        preparation: How raw cells become what the model reads.
        precision: See :func:`export_run`.
        about: ``data``, ``model``, ``metrics`` and ``versions`` of the manifest.
        formats: See :func:`export_run`.

    Raises:
        ValueError: The type cannot hold the numbers of a table.
    """
    policy = with_precision(model.embedding.policy, precision)
    embeddings = stored_embeddings(policy, float_weights(model.embedding))
    put_floats_(model.embedding, read_back(policy, embeddings))
    examples = example_cells(preparation)
    inputs = golden_inputs(preparation, examples, policy)
    program, weights = program_of(model.backbone, preparation.num_dense, sum(policy.widths))

    def more(files: Mapping[str, bytes]) -> dict[str, bytes]:
        if not formats:
            return {}
        twin = Twin(policy, embeddings, model.backbone, signature_of(policy, preparation))
        found = {ONNX_FILE: onnx_bytes(twin, files)} if "onnx" in formats else {}
        return found | ({AOTI_FILE: aoti_bytes(twin)} if "aoti" in formats else {})

    return Parts(
        policy=policy,
        embeddings=embeddings,
        preparation=preparation,
        examples=examples,
        program=program,
        weights=weights,
        golden=inputs,
        scores=model_scores(model, preparation, inputs),
        about={"precision": precision or "as the policy says", **about},
        more=more,
    )


@torch.no_grad()
def model_scores(model: RecModel, preparation: Preparation, inputs: Inputs) -> Floats:
    """The scores that the model itself gives prepared rows, float32 (B,) or (B, T)."""
    model.eval()
    names = [c.name for c in preparation.embedded]
    bags = [inputs.columns[name] for name in names]
    features = KeyedJaggedTensor(
        keys=names,
        values=torch.from_numpy(np.concatenate([b.ids for b in bags])),
        lengths=torch.from_numpy(np.concatenate([b.counts() for b in bags])),
    )
    device = next(model.parameters()).device
    x_BE = model.embedding(features.to(device))
    logits = model.backbone(torch.from_numpy(inputs.dense_BN).to(device), x_BE)
    found: Floats = logits.cpu().numpy()
    return found if model.regression else scores_of(found)


def _metrics(run: Path) -> dict[str, Any]:
    result = Run.read(run / RESULT_FILE).to_json()
    names = ("val_auc", "val_logloss", "test_auc", "test_logloss", "test_calibration")
    return {name: result[name] for name in (*names, *REGRESSION_METRICS) if name in result}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise RunError(f"{name} is not installed") from error
