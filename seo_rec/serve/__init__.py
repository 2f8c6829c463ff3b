"""Score raw rows from an exported package; needs NumPy, Arrow and safetensors, and no torch."""

from __future__ import annotations

from seo_rec.serve.layout import PackageError
from seo_rec.serve.package import Package, read_package
from seo_rec.serve.predictor import Predictor

__all__ = ["Package", "PackageError", "Predictor", "read_package"]
