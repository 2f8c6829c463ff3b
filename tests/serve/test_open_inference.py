"""The Open Inference Protocol on the server: JSON and binary tensors, and Triton's own client."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from small_package import ROWS, small_package
from test_server import running

from patience import PATIENCE
from seo_rec.serve import Predictor
from seo_rec.serve.server import LivePackage, ServerSettings
from seo_rec.serve.server.app import background, build_app
from seo_rec.serve.server.metrics import Metrics
from seo_rec.serve.server.service import Service

LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    return small_package(tmp_path_factory.mktemp("package") / "clicks")


@pytest.fixture(scope="module")
def wanted(package) -> np.ndarray:
    return Predictor.load(package, "numpy")(ROWS)


@pytest.fixture(scope="module")
def client(package) -> Iterator[httpx.Client]:
    with (
        running(package, "--max-rows", "50") as (_, address),
        httpx.Client(base_url=address, timeout=PATIENCE) as found,
    ):
        yield found


def tensor(name: str, datatype: str, data: list, shape: list[int] | None = None) -> dict:
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data}


def request(**changed) -> dict:
    """The rows of ROWS, whose bags are texts with a separator here."""
    inputs = {
        "price": tensor("price", "FP32", ROWS["price"]),
        "stock": tensor("stock", "INT64", ROWS["stock"], [4, 1]),
        "user": tensor("user", "BYTES", ROWS["user"]),
        "item": tensor("item", "BYTES", ["a|b", "", "7", None]),
    }
    return {"inputs": list({**inputs, **changed}.values())}


def in_binary(**changed) -> tuple[bytes, dict[str, str]]:
    """The same rows in binary form, in which NaN and an empty text stand for a missing value."""

    def texts(*values: str) -> bytes:
        return b"".join(struct.pack("<I", len(v.encode())) + v.encode() for v in values)

    stock = np.array([1, 2, np.nan, 4])
    columns = {
        "price": ("FP64", np.array([1.5, np.nan, -3.0, 0.0]).tobytes()),
        "stock": ("FP32", stock.astype("<f4").tobytes()),
        "user": ("BYTES", texts("ann", "17", "", "bob")),
        "item": ("BYTES", texts("a|b", "", "7", "")),
        **changed,
    }
    inputs = [
        {"name": n, "datatype": t, "shape": [4], "parameters": {"binary_data_size": len(c)}}
        for n, (t, c) in columns.items()
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    content = head + b"".join(c for _, c in columns.values())
    return content, {LENGTH: str(len(head))}


def test_the_model_is_described(client, package):
    version = Predictor.load(package, "numpy").package.version
    about = client.get("/v2/models/clicks").json()
    assert about == client.get(f"/v2/models/clicks/versions/{version}").json()
    assert about["name"] == "clicks" and about["versions"] == [version]
    assert {x["name"]: x["datatype"] for x in about["inputs"]} == {
        "price": "FP64", "stock": "FP64", "user": "BYTES", "item": "BYTES",
    }  # fmt: skip
    assert about["outputs"] == [{"name": "score", "datatype": "FP32", "shape": [-1]}]
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    for path in ("health/live", "health/ready", "models/clicks/ready"):
        assert client.get(f"/v2/{path}").status_code == 200
    for path in ("models/other", "models/other/ready", "models/clicks/versions/1"):
        answer = client.get(f"/v2/{path}")
        assert answer.status_code == 404 and "'clicks'" in answer.json()["error"]


def test_readiness_ends_before_the_server_does(package):
    async def codes() -> list[int]:
        service = Service(LivePackage(package), ServerSettings(), Metrics())
        service.draining = True
        app = build_app(service, background(service, lambda: None))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            paths = ("health/live", "health/ready", "models/clicks/ready")
            return [(await client.get(f"/v2/{path}")).status_code for path in paths]

    assert asyncio.run(codes()) == [200, 503, 503]


def test_tensors_in_json(client, package, wanted):
    answer = client.post("/v2/models/clicks/infer", json={**request(), "id": "r1"})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["id"], found["model_name"]) == ("r1", "clicks")
    (output,) = found["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("score", "FP32", [4])
    np.testing.assert_allclose(output["data"], wanted, rtol=1e-6)
    version = found["model_version"]
    path = f"/v2/models/clicks/versions/{version}/infer"
    outputs = [{"name": "score", "parameters": {"binary_data": True}}]
    answer = client.post(path, json={**request(), "outputs": outputs})
    head = json.loads(answer.content[: int(answer.headers[LENGTH])])
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 16}
    np.testing.assert_allclose(np.frombuffer(answer.content[-16:], "<f4"), wanted, rtol=1e-6)


def test_tensors_in_binary_form(client, wanted):
    content, headers = in_binary()
    answer = client.post("/v2/models/clicks/infer", content=content, headers=headers)
    assert answer.status_code == 200, answer.text
    np.testing.assert_allclose(np.frombuffer(answer.content[-16:], "<f4"), wanted, rtol=1e-6)


def test_ids_of_a_bag_side_by_side(client, package):
    ids = [[3, 4], [5, 6], [7, 8], [9, 10]]
    shaped = tensor("item", "INT64", ids, [4, 2])
    answer = client.post("/v2/models/clicks/infer", json=request(item=shaped))
    wanted = Predictor.load(package, "numpy")({**ROWS, "item": ids})
    np.testing.assert_allclose(answer.json()["outputs"][0]["data"], wanted, rtol=1e-6)
    none = tensor("item", "INT64", [], [4, 0])
    answer = client.post("/v2/models/clicks/infer", json=request(item=none))
    wanted = Predictor.load(package, "numpy")({**ROWS, "item": [[], [], [], []]})
    np.testing.assert_allclose(answer.json()["outputs"][0]["data"], wanted, rtol=1e-6)


BAD = {
    "no json": (b"{", 400, "no JSON text"),
    "a list": (b"[]", 400, "inputs"),
    "unknown key": ({**request(), "model": 1}, 400, "'model'"),
    "inputs are numbers": ({"inputs": [1]}, 400, "list of objects"),
    "none": ({"inputs": []}, 422, "lack the columns"),
    "twice": ({"inputs": request()["inputs"] * 2}, 400, "twice"),
    "datatype": (request(user=tensor("user", "TEXT", ["a"] * 4)), 400, "allowed: BYTES"),
    "other values": (request(user=tensor("user", "INT64", ["a"] * 4)), 400, "datatype INT64"),
    "fraction": (request(stock=tensor("stock", "INT64", [0.5] * 4)), 400, "datatype INT64"),
    "shape": (request(user=tensor("user", "BYTES", ["a"] * 4, [5])), 400, "4 values"),
    "negative": (request(user=tensor("user", "BYTES", ["a"] * 4, [-4])), 400, "allowed: [rows]"),
    "huge": (request(user=tensor("user", "BYTES", ["a"], [10**9, 10**9])), 400, "1 values"),
    "empty and huge": (request(item=tensor("item", "BYTES", [], [10**9, 0])), 413, "allowed: 50"),
    "two ids": (request(user=tensor("user", "INT64", [1] * 8, [4, 2])), 422, "allowed: [rows]"),
    "unequal": (request(user=tensor("user", "BYTES", ["a"] * 3)), 422, "equal length"),
    "an id of 65 bits": (request(user=tensor("user", "UINT64", [2**64] * 4)), 422, "user"),
    "too many": (request(user=tensor("user", "BYTES", ["a"] * 51)), 413, "allowed: 50"),
    "output": ({**request(), "outputs": [{"name": "logits"}]}, 400, "allowed: ['score']"),
    "sequence": ({**request(), "parameters": {"sequence_id": 1}}, 400, "binary_data_output"),
    "shared memory": (
        request(user={**tensor("user", "BYTES", []), "parameters": {"shared_memory_region": "x"}}),
        400,
        "binary_data_size",
    ),
    "infinite": (request(price=tensor("price", "FP64", [1e300] * 4)), 422, "price"),
    "long": (request(user=tensor("user", "BYTES", ["x" * 10_001] * 4)), 422, "10001 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_refused_in_words(name, client):
    body, status, part = BAD[name]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post("/v2/models/clicks/infer", content=content)
    assert (answer.status_code, part in answer.json()["error"]) == (status, True), answer.text


def test_lengths_that_lie_are_refused(client):
    content, headers = in_binary()
    cases = [
        (content[:-1], headers), (content + b"x", headers), (content, {LENGTH: "7"}),
        (content, {LENGTH: "99999"}), (content, {LENGTH: "-1"}), (content, {LENGTH: "9" * 400}),
        in_binary(user=("BYTES", struct.pack("<I", 2**32 - 1) + b"abc")),
        in_binary(user=("BYTES", b"\1\0\0\0\xff" * 4)), in_binary(price=("FP64", b"1234567")),
        in_binary(price=("FP64", b"")), in_binary(user=("BYTES", b"\0\0")),
    ]  # fmt: skip
    for body, head in cases:
        answer = client.post("/v2/models/clicks/infer", content=body, headers=head)
        assert answer.status_code == 400 and answer.json()["error"], answer.text


def test_tritons_own_client(package, wanted):
    """Its usual form is binary; and it asks what the model takes."""
    http = pytest.importorskip("tritonclient.http", reason="pip install 'tritonclient[http]'")
    with running(package) as (_, address):
        client = http.InferenceServerClient(address.removeprefix("http://"))
        assert client.is_server_live() and client.is_server_ready()
        assert client.is_model_ready("clicks")
        about = client.get_model_metadata("clicks")
        columns = {
            "price": np.array([1.5, np.nan, -3.0, 0.0]),
            "stock": np.array([1, 2, np.nan, 4]),
            "user": np.array(["ann", "17", "", "bob"], object),
            "item": np.array(["a|b", "", "7", ""], object),
        }
        assert [x["name"] for x in about["inputs"]] == list(columns)
        for binary in (True, False):
            inputs = []
            for entry in about["inputs"]:
                cells = columns[entry["name"]]
                if not binary and entry["datatype"] == "FP64":
                    cells = np.nan_to_num(cells)  # JSON has no NaN
                inputs.append(http.InferInput(entry["name"], [4], entry["datatype"]))
                inputs[-1].set_data_from_numpy(cells, binary_data=binary)
            outputs = [http.InferRequestedOutput("score", binary_data=binary)]
            scores = client.infer("clicks", inputs, outputs=outputs).as_numpy("score")
            assert scores.shape == (4,)
            rows = [0, 1, 2, 3] if binary else [0, 3]
            np.testing.assert_allclose(scores[rows], wanted[rows], rtol=1e-6)
        with pytest.raises(Exception, match="allowed: \\['score'\\]"):
            client.infer("clicks", inputs, outputs=[http.InferRequestedOutput("other")])
        client.close()
