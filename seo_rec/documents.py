"""JSON documents that are read again: types and shapes are checked where they enter."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from seo_rec.files import read_json

R = TypeVar("R")

NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
NAMES |= {dict: "an object", list: "a list", type(None): "null"}
FIX = "restore the file, or make the folder again"


def read_object(path: Path, required: Mapping[str, Any], optional: Any = None) -> dict[str, Any]:
    """The JSON object in a file, which may have further keys.

    Args:
        path: The file.
        required: The type of the value by key, such as ``int``, ``dict`` or ``int | None``.
        optional: The same of keys that may be missing.

    Raises:
        ValueError: The file holds no such object; the message is one line that names the file.
        OSError: The file cannot be read.
    """
    document = read_json(path)
    if not isinstance(document, dict):
        raise ValueError(f"{path}: a JSON {type(document).__name__}; allowed: an object; {FIX}")
    if missing := sorted(set(required) - set(document)):
        raise ValueError(f"{path}: no {', '.join(missing)} here; {FIX}")
    for key, hint in {**required, **(optional or {})}.items():
        if key in document and not fits(hint, document[key]):
            raise ValueError(f"{path}: {_misfit(key, hint, document[key])}; {FIX}")
    return document


def as_record(kind: type[R], values: Any, where: object) -> R:
    """A JSON value as the dataclass ``kind``, each field of the type that it declares.

    Args:
        kind: Fields with a default may be missing.
        values: The value.
        where: What the message of an error begins with, such as the file.

    Raises:
        ValueError: A field is missing, unknown or of another type; the message is one line.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where}: a JSON {type(values).__name__}; allowed: an object; {FIX}")
    hints = get_type_hints(kind)
    plain = {
        f.name
        for f in fields(kind)  # type: ignore[arg-type]
        if f.default is MISSING and f.default_factory is MISSING
    }
    unknown, missing = sorted(set(values) - set(hints)), sorted(plain - set(values))
    if unknown or missing:
        raise ValueError(f"{where}: missing keys {missing}, unknown keys {unknown[:3]}; {FIX}")
    for key, value in values.items():
        if not fits(hints[key], value):
            raise ValueError(f"{where}: {_misfit(key, hints[key], value)}; {FIX}")
    return kind(**values)


def fits(hint: Any, value: Any) -> bool:
    """Whether a JSON value is of a type: a plain one, ``A | B``, or a mapping or list of any."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(fits(option, value) for option in get_args(hint))
    if hint is float:
        return type(value) in (int, float)
    if hint is Any:
        return True
    plain = get_origin(hint) or hint
    return type(value) is (dict if plain is Mapping else plain)


def _misfit(key: str, hint: Any, value: Any) -> str:
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    kinds = [dict if (get_origin(option) or option) is Mapping else option for option in options]
    allowed = " or ".join(NAMES.get(kind, str(kind)) for kind in kinds)
    return f"{key} is {value!r:.60}; allowed: {allowed}"
