"""What the tests of the kernels share."""

from __future__ import annotations

import pytest

from seo_kernels import native


@pytest.fixture(params=["c", "torch"])
def path(request, monkeypatch) -> str:
    """Both ways of a CPU: the C kernels and the references."""
    if request.param == "c" and native.missing():
        pytest.skip(str(native.missing()))
    if request.param == "torch":
        monkeypatch.setattr(native, "library", lambda: None)
    return request.param
