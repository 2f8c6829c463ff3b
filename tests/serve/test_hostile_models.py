"""Damage to packages of several labels, crosses and newer methods, to deltas, and to requests.

Every trial is drawn from a seed. A package or a delta is refused in words or gives the scores that
it gave; a request is refused with a status of 400 to 499, or each of its rows has a finite score.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from served import parts_of
from small_package import small_package
from test_every_model import written
from test_hostile import EDGES, changed, forged, places, refused, scores_or_error
from test_open_inference import in_binary, request
from test_server_bodies import ROWS, TABLE, stream

from cases import BUILDABLE, POLICIES
from seo_rec.schema import DataError
from seo_rec.serve import PackageError, Predictor
from seo_rec.serve.delta import apply_delta, write_delta
from seo_rec.serve.server.bodies import ARROW, JSON, Body, RequestError, read_body
from seo_rec.serve.server.open_inference import read_request
from seo_rec.serve.server.together import prepared
from seo_rec.serve.writing import write_package

NAMES = ("labels and crosses", "frequent-bands", "cce", "managed-collision-hash")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    found = {name: tmp_path_factory.mktemp("hostile") / "package" for name in NAMES}
    written(found[NAMES[0]], "mmoe", POLICIES["crosses-of-all-kinds"])
    for name in NAMES[1:]:
        found[name].mkdir()
        write_package(found[name], parts_of(BUILDABLE[name])[0])
    return found


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_noticed(name, packages, tmp_path):
    rng = np.random.default_rng(list(name.encode()))
    folder = shutil.copytree(packages[name], tmp_path / "package")
    files = sorted(p.name for p in folder.iterdir() if p.name != "manifest.json")
    for i in range(30):
        path = folder / files[i % len(files)]
        content = path.read_bytes()
        at = int(rng.integers(0, len(content)))
        bad = content[:at] if i % 3 == 0 else bytearray(content)
        if i % 3:
            bad[at] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(bytes(bad))
        assert path.name in refused(folder)
        path.write_bytes(content)


@pytest.mark.parametrize("name", NAMES)
def test_forged_values(name, packages, tmp_path):
    """Values of documents, bytes of headers, ids and codes, with checksums that fit them."""
    predictor = Predictor.load(packages[name], "numpy")
    inputs = predictor.package.golden.inputs
    wanted = predictor.score(inputs)
    folder = shutil.copytree(packages[name], tmp_path / "package")
    rng = np.random.default_rng(list(name.encode()))
    said = []

    def tried(file: str, content: bytes) -> None:
        before = (folder / file).read_bytes()
        (folder / file).write_bytes(content)
        forged(folder)
        said.append(scores_or_error(folder, wanted, inputs))
        (folder / file).write_bytes(before)

    for file in ("policy.json", "backbone.json", "preparation.json"):
        document = json.loads((folder / file).read_text())
        spots = places(document)
        for _ in range(8):
            path = spots[int(rng.integers(0, len(spots)))]
            value = EDGES[int(rng.integers(0, len(EDGES)))]
            tried(file, json.dumps(changed(document, path, value)).encode())
    content = (folder / "embeddings.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    for tensor in {"ids", "codes"} & set(header):
        first, end = (start + at for at in header[tensor]["data_offsets"])
        size = 8 if tensor == "ids" else 4
        for _ in range(6):
            at = first + size * int(rng.integers(0, (end - first) // size))
            for bad in (-1, 2**31 - 1):
                number = bad.to_bytes(size, "little", signed=True)
                tried("embeddings.safetensors", content[:at] + number + content[at + size :])
    for _ in range(6):
        bits = bytearray(content)
        bits[int(rng.integers(0, start))] = int(rng.integers(0, 256))
        tried("embeddings.safetensors", bytes(bits))
    assert len(said) >= 30 and sum(message is not None for message in said) > len(said) / 2


@pytest.mark.parametrize("labels", [("click",), ("click", "buy", "cart"), ("a", "a"), ("a", 1), 7])
def test_labels_that_do_not_fit(labels, packages, tmp_path):
    folder = shutil.copytree(packages[NAMES[0]], tmp_path / "package")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["model"]["labels"] = labels
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "label" in refused(folder) or "scores" in refused(folder)


def test_damaged_deltas(packages, tmp_path):
    base, new, delta = packages[NAMES[0]], tmp_path / "new", tmp_path / "delta"
    written(new, "mmoe", POLICIES["crosses-of-all-kinds"], seed=4)
    delta.mkdir()
    write_delta(base, new, delta)
    before = {p.name: p.read_bytes() for p in base.iterdir()}
    rng = np.random.default_rng(5)
    files = sorted(p.name for p in delta.iterdir())
    for i in range(40):
        path = delta / files[i % len(files)]
        content = path.read_bytes()
        bad = bytearray(content)
        bad[int(rng.integers(0, len(bad)))] = int(rng.integers(0, 256))
        if bytes(bad) == content:
            continue
        path.write_bytes(bytes(bad))
        with pytest.raises(PackageError) as error:
            apply_delta(base, delta, tmp_path / "made")
        assert str(error.value) and not (tmp_path / "made").exists()
        path.write_bytes(content)
    assert {p.name: p.read_bytes() for p in base.iterdir()} == before
    apply_delta(base, delta, tmp_path / "made")


# ---- requests ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Predictor:
    return Predictor.load(small_package(tmp_path_factory.mktemp("served") / "package"), "numpy")


def bodies() -> dict[str, tuple[bytes, str | None]]:
    """Good bodies, and the length of the JSON of one with binary tensors."""
    binary, headers = in_binary()
    return {
        JSON: (json.dumps({"columns": ROWS, "weights": {"user": [1, 2, 3, 4]}}).encode(), None),
        ARROW: (stream(TABLE), None),
        "tensors": (json.dumps(request()).encode(), None),
        "binary": (binary, next(iter(headers.values()))),
    }


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, taken out, put in twice, or cut off."""
    bad = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        at, size = int(rng.integers(0, len(bad))), int(rng.integers(1, 9))
        way = int(rng.integers(0, 5))
        if way < 2:
            bad[at] = int(rng.integers(0, 256)) if way else int(rng.choice(list(b'0919-.eE"[]{},')))
        elif way == 2:
            del bad[at : at + size]
        elif way == 3:
            bad[at:at] = bad[at : at + size]
        else:
            del bad[max(1, at) :]
    return bytes(bad)


@pytest.mark.parametrize("kind", [JSON, ARROW, "tensors", "binary"])
def test_mutated_requests(kind, served):
    content, length = bodies()[kind]
    rng = np.random.default_rng(list(kind.encode()))
    refused_ones = 0

    def read(of: Predictor) -> Body:
        if kind in (JSON, ARROW):
            return read_body(kind, bad, of.preparation, 100, 1 << 20)
        return read_request(bad, length, of.preparation, (), 100)[0]

    for i in range(150):
        bad = mutated(content, rng) if i else content
        try:
            inputs = prepared(served.preparation, [read(served)])[0].inputs
            if isinstance(inputs, DataError):
                raise RequestError(422, str(inputs))
        except RequestError as error:
            assert 400 <= error.status < 500 and 0 < len(str(error)) < 4_000
            refused_ones += 1
            continue
        scores = served.score(inputs)
        assert len(scores) == len(inputs) and ((scores >= 0) & (scores <= 1)).all()
    assert 0 < refused_ones < 150
