"""Searches: each looks at data and decides a policy; :mod:`seo_rec.search.registry` names them."""

from __future__ import annotations

from seo_rec.search.found import Found
from seo_rec.search.registry import SEARCHES, Method, find, settings_by_family

__all__ = ["SEARCHES", "Found", "Method", "find", "settings_by_family"]
