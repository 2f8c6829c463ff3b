"""Triton's own server loads the repository and answers with the scores of the package.

Of its server only one build comes by pip, without the backend of ONNX Runtime, which a file in
Python stands in for: Triton lets a backend be written in Python. So its reader and its checks of
the configuration, its batching and its HTTP are tested, and not the code of that backend.

    pip install --no-deps --target FOLDER nvidia-pytriton 'numpy<2'
    SEO_REC_TRITON=FOLDER pytest tests/serve/test_triton_server.py
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest
from served import ABOUT, LINEAR, linear_program, preparation_for, trained
from small_package import POLICY, PREPARATION

from patience import PATIENCE, until
from seo_rec.export import package_parts
from seo_rec.serve import Predictor
from seo_rec.serve.signature import signature_of
from seo_rec.serve.triton import PACKAGE_FOLDER, write_config
from seo_rec.serve.writing import write_package

INSTALLED = os.environ.get("SEO_REC_TRITON", "")
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
BACKEND = """
import sys
sys.path[:0] = {paths!r}
import json
import pathlib
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        self.config = json.loads(args["model_config"])
        folder = pathlib.Path(args["model_repository"]) / args["model_version"]
        path = folder / self.config["default_model_filename"]
        self.session = onnxruntime.InferenceSession(str(path / path.name))

    def execute(self, requests):
        answers = []
        for request in requests:
            names = [x.name for x in self.session.get_inputs()]
            read = triton.get_input_tensor_by_name
            feed = {{name: read(request, name).as_numpy() for name in names}}
            (logits,) = self.session.run(["logits"], feed)
            if self.config["max_batch_size"]:
                logits = logits.reshape(-1, *self.config["output"][0]["dims"])
            answers.append(triton.InferenceResponse([triton.Tensor("logits", logits)]))
        return answers
"""
pytestmark = pytest.mark.skipif(not INSTALLED, reason="SEO_REC_TRITON names no folder")


@contextmanager
def triton_server(repository: Path, scratch: Path) -> Iterator[str]:
    """Triton's server with the models of a folder; its address."""
    program = Path(INSTALLED) / "pytriton/tritonserver"
    backends = shutil.copytree(program / "backends", scratch / "backends")
    stub = f"python_backend_stubs/{PYTHON}/triton_python_backend_stub"
    shutil.copy(program / stub, backends / "python")
    (backends / "python/triton_python_backend_stub").chmod(0o755)
    (backends / "onnxruntime").mkdir()
    paths = [INSTALLED, sysconfig.get_path("purelib")]
    (backends / "onnxruntime/model.py").write_text(BACKEND.format(paths=paths))
    server = shutil.copy(program / "bin/tritonserver", scratch / "tritonserver")
    Path(server).chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    libraries = str(Path(INSTALLED) / "nvidia_pytriton.libs")
    command = [str(server), f"--model-repository={repository}", f"--http-port={port}"]
    command += [f"--backend-directory={backends}", "--allow-grpc=false", "--allow-metrics=false"]
    log = scratch / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=stream,
            env={**os.environ, "LD_LIBRARY_PATH": libraries},
        )
    address = f"http://127.0.0.1:{port}"
    try:
        until(lambda: process.poll() is not None or is_ready(address), log.read_text)
        assert process.poll() is None, log.read_text()
        yield address
    finally:
        process.terminate()
        process.wait(PATIENCE)


def is_ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/v2/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def repository(folder: Path) -> dict[str, Predictor]:
    """Two models, of a matrix of ids and of bags."""
    found = {}
    preparations = {"matrix": preparation_for(POLICY, kind="optional"), "bags": PREPARATION}
    for name, preparation in preparations.items():
        package = folder / name / PACKAGE_FOLDER
        package.mkdir(parents=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("seo_rec.export.package.program_of", linear_program)
            parts = package_parts(trained(POLICY, LINEAR), preparation, None, ABOUT, ("onnx",))
        write_package(package, parts)
        write_config(folder / name)
        found[name] = Predictor.load(package, "numpy")
    return found


def asked(address: str, name: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
    tensors = [
        {
            "name": key,
            "shape": list(value.shape),
            "datatype": "FP32" if value.dtype == np.float32 else "INT64",
            "data": value.ravel().tolist(),
        }
        for key, value in inputs.items()
    ]
    to = f"{address}/v2/models/{name}/infer"
    answer = httpx.post(to, json={"inputs": tensors}, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    return np.array(output["data"]).reshape(output["shape"])


def scores(address: str, name: str, predictor: Predictor, start: int) -> np.ndarray:
    """Of four golden rows, by the logits that Triton answers."""
    package = predictor.package
    rows = package.golden.inputs.slice(start, start + 4)
    feed = signature_of(package.policy, package.preparation).feed(package.policy, rows)
    return 1 / (1 + np.exp(-asked(address, name, feed).ravel()))


@pytest.mark.slow
def test_triton_answers_with_the_scores_of_the_package(tmp_path):
    predictors = repository(tmp_path / "models")
    with triton_server(tmp_path / "models", tmp_path) as address:
        for name, predictor in predictors.items():
            ask = partial(scores, address, name, predictor)
            with ThreadPoolExecutor(8) as pool:  # Triton joins the requests of the first model
                found = np.concatenate(list(pool.map(ask, range(0, 64, 4))))
            np.testing.assert_allclose(found, predictor.package.golden.scores, rtol=0, atol=1e-6)
