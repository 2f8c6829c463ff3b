"""Scores over HTTP; needs the extra ``server``, and no torch.

In: a package, and requests with rows of raw cells. Out: answers with scores. Begin with
:mod:`~seo_rec.serve.server.app`, the routes; :mod:`~seo_rec.serve.server.bodies` reads requests,
:mod:`~seo_rec.serve.server.batching` scores those that wait together, and :class:`LivePackage`
exchanges the package while requests go on.
"""

from __future__ import annotations

from seo_rec.serve.server.live import LivePackage
from seo_rec.settings import ServerSettings

__all__ = ["LivePackage", "ServerSettings"]
