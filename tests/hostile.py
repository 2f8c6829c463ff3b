"""Documents that a stranger, or a damaged disk, has changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

HOSTILE_VALUES = (None, True, -1, 1.5, 10**30, "x", [], {}, [[]], [-1], [2**70], ["a"])


def hostile(document: Any) -> Iterator[tuple[str, Any]]:
    """The document with each of its values replaced in turn, or one of its keys left out."""
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], dict | list):
                walk(value[key])

    walk(document)
    for parent, key in places:
        honest = parent[key]
        for value in HOSTILE_VALUES:
            if value != honest or type(value) is not type(honest):
                parent[key] = value
                yield f"{key}: {value}", document
        parent[key] = honest
        if isinstance(parent, dict):
            order = dict(parent)
            del parent[key]
            yield f"no {key}", document
            parent.clear()
            parent.update(order)
