"""The pages of the formats are enough to read a package: a reader written from them agrees."""

from __future__ import annotations

import numpy as np
import page_reader
import pytest
import served
from small_package import small_package
from test_every_model import TASKS, written

from cases import BUILDABLE, POLICIES
from seo_rec.serve.layout import GOLDEN_TOLERANCE

# every address, every way to combine, crosses, and methods of late
QUICK = ("crosses-of-all-kinds", "digits", "dtypes", "frequent-bands", "cce")
ALL = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in BUILDABLE]


def agrees(folder) -> page_reader.Package:
    package = page_reader.Package(folder)
    wanted = package.golden["scores"]
    tolerance = GOLDEN_TOLERANCE
    if package.model.get("task") == "regression":
        tolerance *= 1 + np.abs(wanted).max()
    np.testing.assert_allclose(package.scores(), wanted, rtol=0, atol=tolerance)
    dense, bags = package.examples()
    known_dense, known_bags = package.rows()
    np.testing.assert_allclose(dense, known_dense[: len(dense)], rtol=1e-6, atol=1e-6)
    assert bags == known_bags[: len(bags)]
    return package


@pytest.mark.parametrize("name", ALL)
def test_every_policy(name, tmp_path):
    kind = ("categorical", "optional", "multivalent")[len(name) % 3]
    served.written(tmp_path, BUILDABLE[name], kind=kind)
    agrees(tmp_path)


@pytest.mark.parametrize("precision", ["bfloat16", "int4"])
def test_smaller_types(precision, tmp_path):
    served.written(tmp_path, POLICIES["rows-and-blocks"], precision=precision)
    agrees(tmp_path)


@pytest.mark.parametrize("task", ["mmoe", "regression"])
def test_labels_and_numbers(task, tmp_path):
    assert task in TASKS
    written(tmp_path / "package", task)
    agrees(tmp_path / "package")


def test_raw_cells(clicks, tmp_path):
    """Text, quotes, missing cells, bags, a pruned column, and numbers by every rule."""
    package = agrees(clicks.package)
    assert {c["rule"] for c in package.preparation["columns"]} > {"standard", "quantiles"}
    assert package.kept
    agrees(small_package(tmp_path / "small"))
