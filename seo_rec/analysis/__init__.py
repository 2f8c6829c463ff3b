"""What sharing rows does to encodings and to weights: section 4 of "Unified Embedding".

In: a run folder, or a data set and settings. Out: figures and their data; no run folder is
changed. Begin with :func:`inner_products` (encodings alone, nothing is trained), then
:func:`orthogonality` (trains models); :mod:`~seo_rec.analysis.drift` compares two data sets.
"""

from __future__ import annotations

from seo_rec.analysis.gradients import (
    GradientSizes,
    figure_of_gradients,
    gradient_parts,
    gradients,
    parts_of,
    residual_sums,
)
from seo_rec.analysis.inner_products import (
    Encoding,
    Measured,
    closed_form,
    compare_encodings,
    encodings,
    inner_products,
    one_of_each,
    part_of_each,
    summary,
    variance,
)
from seo_rec.analysis.orthogonality import (
    Orthogonality,
    OrthogonalitySettings,
    angles,
    figure,
    growth,
    orthogonality,
)
from seo_rec.analysis.tables import (
    print_gradients,
    print_inner_products,
    print_orthogonality,
    print_shared_rows,
    shared_rows,
)
from seo_rec.analysis.vocabularies import only, vocabularies_of

__all__ = [
    "Encoding",
    "GradientSizes",
    "Measured",
    "Orthogonality",
    "OrthogonalitySettings",
    "angles",
    "closed_form",
    "compare_encodings",
    "encodings",
    "figure",
    "figure_of_gradients",
    "gradient_parts",
    "gradients",
    "growth",
    "inner_products",
    "one_of_each",
    "only",
    "orthogonality",
    "part_of_each",
    "parts_of",
    "print_gradients",
    "print_inner_products",
    "print_orthogonality",
    "print_shared_rows",
    "residual_sums",
    "shared_rows",
    "summary",
    "variance",
    "vocabularies_of",
]
