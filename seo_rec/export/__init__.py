"""From a finished training run to a package that serves it; needs torch, as training does.

In: the folder of a training and its data set. Out: a package (``docs/package-format.md``), which
:mod:`seo_rec.serve` reads without torch. Begin with :func:`export_run`; :func:`package_parts` says
what a package is made of: the rules of raw columns, tables, the backbone as a list of steps
(:mod:`~seo_rec.export.program`), golden rows, and on request a graph of the whole
(:mod:`~seo_rec.export.twin`).
"""

from __future__ import annotations

from seo_rec.export.aoti import load_compiled
from seo_rec.export.package import FORMATS, Export, export_run, package_parts
from seo_rec.export.triton import export_triton

__all__ = ["FORMATS", "Export", "export_run", "export_triton", "load_compiled", "package_parts"]
