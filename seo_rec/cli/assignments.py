"""``--set name=value`` and ``--settings``: the settings of methods as text."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from seo_rec.cli.fields import NONE, Field, fields_of, leaves, nested, text_of, type_name, value_of

# fields of settings that have an option of their own
ELSEWHERE = {
    "params": "--params",
    "budget_rows": "--params",
    "num_bytes": "--bytes",
    "precision": "--precision",
    "id_bits": "--id-bits",
    "dim": "--dim",
    "exact_below": "--exact-below",
    "same_hash": "--same-hash",
}


def assigned(settings: type[Any], texts: Iterable[str], method: str) -> dict[str, Any]:
    """Values of fields of ``settings`` from ``name=value`` texts.

    A field of nested settings is written with a dot, as ``run_off.epochs=8``; the other fields of
    the nested settings keep their defaults. ``run_off=none`` leaves the nested settings out.

    Args:
        settings: A frozen dataclass.
        texts: As typed.
        method: Whose settings they are, for messages.

    Raises:
        ValueError: An unknown name, a name given twice, or a value of another type.
    """
    from seo_rec.search.changes import whole_values  # imports torch

    allowed = {leaf.name: leaf for leaf in settable(settings)}
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (word.strip() for word in text.partition("="))
        if name in ELSEWHERE and name in fields_of(settings):
            raise ValueError(f"--set {text!r} of {method}: {ELSEWHERE[name]} sets it")
        if not equals or name not in allowed:
            raise ValueError(
                f"--set {text!r} of {method}; allowed, with defaults: {_list(allowed)}"
            )
        if name in found:
            raise ValueError(f"--set {text!r}: {name} is already given; give it once")
        found[name] = value_of(value, allowed[name].kind, f"--set {name}")
    _refuse_both(found)
    return whole_values(settings, found)


def _list(allowed: Mapping[str, Field]) -> str:
    shown = {n: text_of(f.default) for n, f in allowed.items() if nested(f) is None}
    return ", ".join(f"{name}={default}" for name, default in shown.items()) or "nothing"


def _refuse_both(found: Mapping[str, Any]) -> None:
    """ValueError if a field is left out (``run_off=none``) and a part of it is given."""
    for name in found:
        outer, dot, _ = name.partition(".")
        if dot and outer in found:
            raise ValueError(f"--set {outer}={NONE} with --set {name}; give one of them")


def assigned_by_family(
    kinds: Mapping[str, type[Any]], texts: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """``METHOD.name=value`` texts as values of fields, by the family that METHOD names.

    Raises:
        ValueError: An unknown family, or what :func:`assigned` refuses.
    """
    by_family: dict[str, list[str]] = {}
    for text in texts:
        family, dot, rest = text.strip().partition(".")
        if not dot or family not in kinds or "=" in family:
            raise ValueError(
                f"--set {text!r}; allowed: METHOD.name=value with METHOD one of {', '.join(kinds)}"
            )
        by_family.setdefault(family, []).append(rest)
    return {family: assigned(kinds[family], rest, family) for family, rest in by_family.items()}


def merged(before: Iterable[str], after: Iterable[str]) -> list[str]:
    """``name=value`` texts of which later ones replace earlier ones of the same name.

    ``run_off=none`` also replaces what was said of parts of ``run_off``, and a part replaces it.
    """
    given = list(after)
    names = [_name(text) for text in given]

    def replaced(text: str) -> bool:
        name = _name(text)
        return any(n == name or n.startswith(f"{name}.") for n in names) or any(
            name.startswith(f"{n}.") for n in names
        )

    return [text for text in before if not replaced(text)] + given


def _name(text: str) -> str:
    return text.partition("=")[0].strip()


def settable(settings: type[Any]) -> list[Field]:
    """The fields that ``--set`` sets, fields of nested settings included."""
    return [leaf for leaf in leaves(settings) if leaf.name not in ELSEWHERE]


def print_settings(settings: type[Any], method: str) -> None:
    """List the settings of a method: name, type, default and meaning.

    A table on a terminal; elsewhere lines with tabs between the four.
    """
    rows = [
        (leaf.name, type_name(leaf.kind), _default(leaf), leaf.help) for leaf in settable(settings)
    ]
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"settings of {method}, given as --set name=value")
    for title in ("setting", "type", "default", "meaning"):
        table.add_column(title, no_wrap=title == "setting")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _default(leaf: Field) -> str:
    return "see below" if dataclasses.is_dataclass(leaf.default) else text_of(leaf.default)
