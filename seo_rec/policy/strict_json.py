"""Strict reading of JSON: nothing is guessed, and every error names the place in the file."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from seo_rec.policy.entries import PolicyError

MAX_FILE_BYTES = 2**30


def read_document(path: Path) -> Any:
    """The JSON value of a file; PolicyError names the place where it is no strict JSON."""
    if path.is_dir():
        raise PolicyError(f"{path}: a folder; name the policy file in it, as {path}/policy.json")
    if not path.is_file():
        raise PolicyError(f"{path}: no such policy file; `seo-rec search` writes one")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise PolicyError(f"{path}: {path.stat().st_size} bytes; allowed: {MAX_FILE_BYTES}")
    return parse_document(path.read_bytes(), str(path))


def parse_document(content: bytes, where: str) -> Any:
    """The JSON value of UTF-8 text; PolicyError names the place of what is no strict JSON.

    Args:
        content: The text.
        where: What messages call it.
    """
    try:
        return json.loads(
            content.decode("utf-8"),
            object_pairs_hook=no_duplicate_keys,
            parse_constant=no_constant,
            parse_float=_finite,
        )
    except json.JSONDecodeError as error:
        raise PolicyError(
            f"{where}:{error.lineno}:{error.colno}: not valid JSON ({error.msg})"
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise PolicyError(f"{where}: not a JSON file ({type(error).__name__})") from error
    except ValueError as error:
        raise PolicyError(f"{where}: {error}") from error


def no_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A hook of ``json.loads``: an object, or ValueError if a key of it is there twice."""
    seen = dict(pairs)
    if len(seen) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"key {twice[:80]!r} appears twice; give it once")
    return seen


def no_constant(name: str) -> Any:
    """A hook of ``json.loads``: ValueError for NaN and the infinities, which are no JSON."""
    raise ValueError(f"the number {name} is not allowed")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} is not allowed")
    return value


def kind(value: Any) -> str:
    return type(value).__name__


def json_object(value: Any, keys: set[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PolicyError(f"{where}: must be an object, got {kind(value)}")
    if unknown := sorted(set(value) - keys):
        raise PolicyError(f"{where}: unknown keys {unknown}; allowed: {sorted(keys)}")
    if missing := sorted(keys - set(value)):
        raise PolicyError(f"{where}: missing keys {missing}")
    return value


def items(doc: dict[str, Any], key: str, where: str, dot: str = ": ") -> list[tuple[str, Any]]:
    """The items of a list, each with its place."""
    at = f"{where}{dot}{key}"
    if not isinstance(doc[key], list):
        raise PolicyError(f"{at}: must be a list, got {kind(doc[key])}")
    return [(f"{at}[{i}]", item) for i, item in enumerate(doc[key])]


def string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise PolicyError(f"{where}: must be a string, got {kind(value)}")
    return value


def integer(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise PolicyError(f"{where}: must be a whole number, got {kind(value)} {value!r}")
    return value
