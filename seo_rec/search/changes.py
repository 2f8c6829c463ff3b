"""Settings with some of their values changed, by the names that ``--set`` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any


def with_changes(settings: Any, changes: Mapping[str, Any]) -> Any:
    """``settings`` with other values of some fields.

    Args:
        settings: A frozen dataclass.
        changes: Values by name; ``inner.name`` is the field ``name`` of the field ``inner``.

    Raises:
        ValueError: An unknown name, a part of a field that is None, or a value that the class does
            not allow.
    """
    own: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    names = [f.name for f in fields(settings)]
    for key, value in changes.items():
        name, dot, rest = key.partition(".")
        if name not in names:
            raise ValueError(f"setting {key!r}; allowed: {', '.join(names)}")
        if dot:
            inner.setdefault(name, {})[rest] = value
        else:
            own[name] = value
    for name, parts in inner.items():
        part = own.get(name, getattr(settings, name))
        if not is_dataclass(part):
            raise ValueError(
                f"setting {name}.{next(iter(parts))} where {name} is {part!r}, which has no parts"
            )
        own[name] = with_changes(part, parts)
    return replace(settings, **own)
