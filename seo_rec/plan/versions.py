"""Plan files of versions before: what they say in the form of the present one."""

from __future__ import annotations

from typing import Any

from seo_rec.plan.placement import DENSE, FUSED, PlanError

VERSION = 2  # 1 had no compute kernels, caches or main memory
_OF_PLACEMENTS = ("compute_kernel", "cache_load_factor")
_OF_RANKS = ("host_memory_bytes",)


def upgraded(document: Any, where: str) -> Any:
    """A document of version 1 as one of the present version; any other document as it is.

    Version 1 had tables in the memory of the devices only, and did not say which kernel it counted
    on: ``dense`` for tables on every rank and under ``adam``, else ``fused``.

    Args:
        document: parsed JSON, of which nothing is checked yet.
        where: the file, for messages.

    Raises:
        PlanError: a document of version 1 has a key that version 2 brought.
    """
    version = document.get("version") if isinstance(document, dict) else None
    if isinstance(version, bool) or version != 1:
        return document
    adam = document.get("row_optimizer") == "adam"

    def with_kernel(placement: dict[str, Any]) -> dict[str, Any]:
        dense = adam or not placement.get("shards")
        return {"compute_kernel": DENSE if dense else FUSED, "cache_load_factor": None}

    changed = {**document, "version": VERSION}
    if "placements" in changed:
        changed["placements"] = _each(changed["placements"], _OF_PLACEMENTS, with_kernel, where)
    for name in {"estimate", "default"} & set(changed):
        estimate = changed[name]
        if isinstance(estimate, dict) and "ranks" in estimate:
            ranks = _each(estimate["ranks"], _OF_RANKS, lambda _: {"host_memory_bytes": 0}, where)
            changed[name] = {**estimate, "ranks": ranks}
    return changed


def _each(values: Any, new: tuple[str, ...], more: Any, where: str) -> Any:
    """The objects of a list with their new keys; what is no list of objects is refused later."""
    if not isinstance(values, list):
        return values
    for key in new:
        if any(isinstance(v, dict) and key in v for v in values):
            raise PlanError(f"{where}: version 1 has no key {key!r}")
    return [{**v, **more(v)} if isinstance(v, dict) else v for v in values]
