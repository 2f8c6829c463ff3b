"""Score raw rows from an exported package; needs NumPy, Arrow and safetensors, and no torch.

In: a package (:func:`read_package` checks every file of it) and raw rows. Out: scores. Begin with
:class:`Predictor`: :mod:`~seo_rec.serve.preparation` turns cells into ids and numbers as
``prepare`` did, and :mod:`~seo_rec.serve.scorer` reads rows and runs the backbone;
:mod:`~seo_rec.serve.predict` does so with whole files, :mod:`~seo_rec.serve.server` over HTTP.
"""

from __future__ import annotations

from seo_rec.serve.layout import PackageError
from seo_rec.serve.package import Package, read_package
from seo_rec.serve.predictor import Predictor

__all__ = ["Package", "PackageError", "Predictor", "read_package"]
