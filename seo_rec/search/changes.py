"""Settings with some of their values changed, by the names that ``--set`` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from typing import Any


def with_changes(settings: Any, changes: Mapping[str, Any]) -> Any:
    """``settings`` with other values of some fields, constructed once with all of them.

    Args:
        settings: A frozen dataclass; or the class, for an object of its defaults.
        changes: Values by name; ``inner.name`` is the field ``name`` of the field ``inner``.

    Raises:
        ValueError: An unknown name, a part of a field that is None, or a value that the class does
            not allow.
    """
    values = whole_values(settings, changes)
    return settings(**values) if isinstance(settings, type) else replace(settings, **values)


def whole_values(settings: Any, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values that ``changes`` give to whole fields: parts of one field become one value.

    ``{"run_off.epochs": 3}`` becomes ``{"run_off": R}`` with R the run-off of ``settings`` and 3
    epochs.

    Args:
        settings: As :func:`with_changes` takes it.
        changes: As :func:`with_changes` takes them.

    Raises:
        ValueError: An unknown name, or a part of a field that is None.
    """
    values: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    known = {f.name: f for f in fields(settings)}
    for key, value in changes.items():
        name, dot, rest = key.partition(".")
        if name not in known:
            raise ValueError(f"setting {key!r}; allowed: {', '.join(known)}")
        if dot:
            parts.setdefault(name, {})[rest] = value
        else:
            values[name] = value
    for name, of_field in parts.items():
        before = values[name] if name in values else _present(settings, known[name])
        if not is_dataclass(before):
            raise ValueError(
                f"setting {name}.{next(iter(of_field))} where {name} is {before!r}, which has no "
                "parts"
            )
        values[name] = with_changes(before, of_field)
    return values


def _present(settings: Any, field: Field[Any]) -> Any:
    """The value of a field of an object, or the default of a field of a class."""
    if not isinstance(settings, type):
        return getattr(settings, field.name)
    return field.default if field.default_factory is MISSING else field.default_factory()
