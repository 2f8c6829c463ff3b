"""From a finished training run to a package that serves it; needs torch, as training does."""

from __future__ import annotations

from seo_rec.export.aoti import load_compiled
from seo_rec.export.package import FORMATS, Export, export_run, package_parts
from seo_rec.export.triton import export_triton

__all__ = ["FORMATS", "Export", "export_run", "export_triton", "load_compiled", "package_parts"]
