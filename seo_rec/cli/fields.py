"""Fields of settings: what each means, its type and default, and values of it from text.

A settings dataclass says everything once: its annotations are the types, its defaults the defaults
and the ``Args:`` section of its docstring the help, one sentence for each field. Options of
commands, ``--set`` and ``--settings`` are made from that.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

import docstring_parser

NONE = "none"  # how None, and an empty tuple, is written


@dataclass(frozen=True)
class Field:
    """One field of a settings dataclass.

    Args:
        name: Its name; of a nested field the names with a dot, as in ``run_off.epochs``.
        kind: Its annotation.
        default: Its default; ``dataclasses.MISSING`` if it has none.
        help: Its sentence in the docstring, without the full stop.
    """

    name: str
    kind: Any
    default: Any
    help: str


def fields_of(settings: Any) -> dict[str, Field]:
    """The fields of a settings dataclass by name, the inherited ones first.

    Raises:
        TypeError: A field that no docstring of the class or of its parents explains.
    """
    sentences: dict[str, str] = {}
    for parent in reversed(settings.__mro__):
        sentences |= _arguments(parent.__dict__.get("__doc__") or "")
    kinds = get_type_hints(settings)
    found = {}
    for field in dataclasses.fields(settings):
        if not sentences.get(field.name):
            raise TypeError(f"the docstring of {settings.__name__} does not explain {field.name}")
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        sentence = sentences[field.name].rstrip(".")
        found[field.name] = Field(field.name, kinds[field.name], default, sentence)
    return found


@cache
def _arguments(docstring: str) -> dict[str, str]:
    parsed = docstring_parser.parse(docstring).params
    return {p.arg_name: " ".join((p.description or "").split()) for p in parsed}


def nested(field: Field) -> type[Any] | None:
    """The settings dataclass that is the value of a field, if there is one and only one."""
    inner = [k for k in alternatives(field.kind) if dataclasses.is_dataclass(k)]
    return inner[0] if len(inner) == 1 and isinstance(inner[0], type) else None


def leaves(settings: type[Any]) -> Iterator[Field]:
    """All fields that can be written as ``name=value``, with the fields of nested settings."""
    for field in fields_of(settings).values():
        yield field
        inner = nested(field)
        for leaf in leaves(inner) if inner else ():
            yield dataclasses.replace(leaf, name=f"{field.name}.{leaf.name}")


def value_of(text: str, kind: Any, where: str) -> Any:
    """``text`` as a value of a field.

    Args:
        text: As typed; ``none`` is None or an empty tuple, where the type has one.
        kind: The annotation.
        where: What error messages call it, such as ``--set alpha``.

    Raises:
        ValueError: The text is no value of this type.
    """
    kinds = alternatives(kind)
    if text == NONE and (type(None) in kinds or _is_tuple(kinds[0])):
        return None if type(None) in kinds else ()
    plain = kinds[0]
    if _is_tuple(plain):
        parts = [part.strip() for part in text.split(",") if part.strip()]
        inner = get_args(plain)[0]
        if _is_tuple(inner):
            return tuple(_pair(part, inner, text, where, kind) for part in parts)
        return tuple(_scalar(part, inner, text, where, kind) for part in parts)
    return _scalar(text, plain, text, where, kind)


def _pair(text: str, plain: Any, whole: str, where: str, kind: Any) -> tuple[Any, Any]:
    """``a=1`` as the pair of both."""
    name, sign, value = (part.strip() for part in text.rpartition("="))
    if not sign or not name:
        raise ValueError(f"{where}={whole}; allowed: {type_name(kind)}")
    of_name, of_value = get_args(plain)
    first = _scalar(name, of_name, whole, where, kind)
    return first, _scalar(value, of_value, whole, where, kind)


def _scalar(text: str, plain: Any, whole: str, where: str, kind: Any) -> Any:
    if plain is bool and text in ("true", "false"):
        return text == "true"
    if plain is str:
        return text
    if plain in (int, float):
        try:
            return plain(text)
        except ValueError:
            pass
    raise ValueError(f"{where}={whole}; allowed: {type_name(kind)}")


def text_of(value: Any) -> str:
    """A value as it is typed; :func:`value_of` reads it."""
    if value is None or value == ():
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple) and isinstance(value[0], tuple):
        return ",".join(f"{text_of(a)}={text_of(b)}" for a, b in value)
    if isinstance(value, tuple):
        return ",".join(text_of(part) for part in value)
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def type_name(kind: Any) -> str:
    """What may be written for a field, in words."""
    kinds = alternatives(kind)
    names = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}
    plain = kinds[0]
    if dataclasses.is_dataclass(plain):
        return NONE
    if _is_tuple(plain):
        inner = get_args(plain)[0]
        if _is_tuple(inner):
            return "names with numbers, as a=1,b=2"
        of_parts = {int: "whole numbers", str: "words"}[inner]
        return f"{of_parts} separated by commas"
    return names[plain] + (f", or {NONE}" if type(None) in kinds else "")


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The parts of a union, None last; of anything else, itself."""
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(sorted(get_args(kind), key=lambda k: k is type(None)))
    return (kind,)


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple
