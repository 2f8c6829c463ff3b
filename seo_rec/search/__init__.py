"""Searches: each looks at data and decides a policy; :mod:`seo_rec.search.registry` names them.

In: an opened data set, the settings of the search, a budget among them, and how its models are
trained. Out: :class:`Found`, with the policy. Begin with :func:`find`, which takes the name of any
method or search; :mod:`~seo_rec.search.no_search` is the shortest of them, and
:mod:`~seo_rec.search.seo` the one that the project is named after. Searches of widths start from
:mod:`~seo_rec.search.space`.
"""

from __future__ import annotations

from seo_rec.search.found import Found
from seo_rec.search.registry import SEARCHES, Method, find, settings_by_family

__all__ = ["SEARCHES", "Found", "Method", "find", "settings_by_family"]
