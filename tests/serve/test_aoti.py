"""Compiled graphs: nobody runs one unasked, and Python and C++ give the golden scores by it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from served import ABOUT, LINEAR, linear_program, preparation_for, trained
from small_package import POLICY, small_package

from cases import POLICIES
from seo_rec.export import load_compiled, package_parts
from seo_rec.export.aoti import AOTI_FILE
from seo_rec.serve import PackageError, read_package
from seo_rec.serve.signature import signature_of
from seo_rec.serve.writing import write_package

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "docs/examples/serve.cpp"
COMPILER = shutil.which("g++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs g++")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> dict[str, Path]:
    """Packages with machine code: of columns with one id, with one at most, and with bags."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seo_rec.export.package.program_of", linear_program)
        for name in ("optional", "multivalent", "digests"):
            policy = POLICIES.get(name, POLICY)
            preparation = preparation_for(policy, kind="optional" if name in POLICIES else name)
            parts = package_parts(trained(policy, LINEAR), preparation, None, ABOUT, ("aoti",))
            found[name] = tmp_path_factory.mktemp(name)
            write_package(found[name], parts)
    return found


def test_a_package_without_machine_code_is_refused(tmp_path):
    with pytest.raises(PackageError, match="--format aoti"):
        load_compiled(small_package(tmp_path / "plain"), trust_code=True)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["optional", "multivalent", "digests"])
def test_machine_code_gives_the_golden_scores_at_every_batch_size(kind, compiled):
    with pytest.raises(PackageError, match="trust_code=True"):
        load_compiled(compiled[kind])
    predictor = load_compiled(compiled[kind], trust_code=True)
    golden = predictor.package.golden
    for size in (0, 1, 2, 3, 17, len(golden.scores)):
        for start in {0, 5, len(golden.scores) - size}:
            rows = slice(start, min(start + size, len(golden.scores)))
            found = predictor.score(golden.inputs.slice(rows.start, rows.stop))
            np.testing.assert_allclose(found, golden.scores[rows], rtol=0, atol=1e-6)
    lengths = np.stack([bags.counts() for bags in golden.inputs.columns.values()])
    assert lengths.min() == 0
    empty = int(np.argmax((lengths == 0).any(axis=0)))
    found = predictor.score(golden.inputs.slice(empty, empty + 1))
    np.testing.assert_allclose(found, golden.scores[empty : empty + 1], rtol=0, atol=1e-6)


@needs_compiler
@pytest.mark.slow
def test_machine_code_holds_rows_of_int8_once(tmp_path, monkeypatch):
    monkeypatch.setattr("seo_rec.export.package.program_of", linear_program)
    policy = POLICIES["mixed-dims"]
    preparation = preparation_for(policy, kind="categorical")
    parts = package_parts(trained(policy, LINEAR), preparation, "int8", ABOUT, ("aoti",))
    write_package(tmp_path / "package", parts)
    predictor = load_compiled(tmp_path / "package", trust_code=True)
    golden = predictor.package.golden
    found = predictor.score(golden.inputs)
    np.testing.assert_allclose(found, golden.scores, rtol=0, atol=1e-6)
    rows = parts.embeddings["rows.int8.8"].tobytes()
    assert (tmp_path / "package" / AOTI_FILE).read_bytes().count(rows) == 1


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """The example of the documentation, built by the command that it names."""
    made = tmp_path_factory.mktemp("program") / "serve"
    command = command_of(SOURCE.read_text())
    torch_folder = str(Path(torch.__file__).parent)
    words = [w.replace("TORCH", torch_folder) for w in command]
    words = [str(SOURCE) if w == "serve.cpp" else w for w in words]
    words[words.index("serve")] = str(made)
    subprocess.run(words, check=True)
    return made


def command_of(text: str) -> list[str]:
    """The words of the g++ command in the comment, of two lines."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if "g++ -std" in line)
    both = lines[first].rstrip("\\ ") + " " + lines[first + 1].lstrip("/ ")
    return both.lstrip("/ ").split()


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["optional", "digests"])
def test_the_example_in_cpp_gives_the_golden_scores(kind, compiled, program):
    package = read_package(compiled[kind])
    signature = signature_of(package.policy, package.preparation)
    feed = signature.feed(package.policy, package.golden.inputs)
    rows = [
        " ".join([*(repr(float(x)) for x in numbers), *map(str, ids)])
        for numbers, ids in zip(feed["dense"], feed["ids"].tolist(), strict=True)
    ]
    assert (feed["ids"] == -1).any()
    shape = [str(signature.num_dense), str(len(signature.columns))]
    command = [str(program), str(package.path / AOTI_FILE), *shape]
    many = rows * 20  # several batches, and a last one that is smaller
    done = subprocess.run(command, input="\n".join(many), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = np.array(done.stdout.split(), np.float32)
    np.testing.assert_allclose(found, np.tile(package.golden.scores, 20), rtol=0, atol=1e-6)
    done = subprocess.run(command, input=rows[0] + " 7\n", capture_output=True, text=True)
    assert (done.returncode, "line 1" in done.stderr) == (2, True)
    linked = subprocess.run(["ldd", str(program)], capture_output=True, text=True).stdout
    assert "libtorch_cpu" in linked
    assert "libpython" not in linked
    assert "fbgemm_gpu" not in linked


@needs_compiler
@pytest.mark.slow
def test_a_damaged_file_is_not_run(compiled, tmp_path):
    folder = shutil.copytree(compiled["optional"], tmp_path / "copy")
    content = bytearray((folder / AOTI_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / AOTI_FILE).write_bytes(content)
    with pytest.raises(PackageError, match="checksum"):
        load_compiled(folder, trust_code=True)
