"""Scores over HTTP; needs the extra ``seo-rec[server]``, and no torch."""

from __future__ import annotations

from seo_rec.serve.server.live import LivePackage
from seo_rec.settings import ServerSettings

__all__ = ["LivePackage", "ServerSettings"]
