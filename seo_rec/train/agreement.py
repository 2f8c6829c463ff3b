"""All processes of a launch do the same thing, or none begins.

Who types a command on each of several machines types it once otherwise, or installs another version
on one of them. The processes would then train a model that nobody asked for, or wait for messages
of another length. They compare what they were told before the first of them writes anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import seo_rec
from seo_rec.environment import library_versions
from seo_rec.train.ranks import ranks

MAX_SHOWN = 3  # differences that a message names
MAX_TEXT = 40  # characters of a value; of a longer one the digest is shown
PATHS = ("data",)  # a folder may have another name on another machine; its fingerprint says enough
LAST = "policy."  # what differs in a policy follows from what differs in options
VERSION = "version of "
NOTHING = "nothing"


class DisagreementError(RuntimeError):
    """The processes of a launch were told different things; the message names what and where."""


def agree(asked: Mapping[str, Any], *, out: Path | None = None, plan: Path | None = None) -> None:
    """Go on only if every process asks for the same, with the same versions of everything.

    Every process of a launch calls this; one process alone agrees with itself.

    Args:
        asked: What decides the run, JSON values and dataclasses of them; ``data`` is not compared.
        out: The run folder.
        plan: The plan file; its content is compared.

    Raises:
        DisagreementError: On every process, with the same message.
    """
    here = ranks()
    if here.world_size == 1:
        return
    told = {**_flat(_plain({k: v for k, v in asked.items() if k not in PATHS})), **_versions()}
    if out is not None:
        told["out"] = str(out.absolute())
    if plan is not None:
        told["plan"] = _digest(plan.read_bytes()) if plan.exists() else "a file that is not there"
    if message := disagreement(here.gather(told)):
        raise DisagreementError(message)


def disagreement(told: Sequence[Mapping[str, str]]) -> str:
    """What ranks were told differently, in one sentence; empty if nothing.

    Args:
        told: By rank, the text of each value by its name.
    """
    names = sorted({*(name for of_rank in told for name in of_rank)}, key=_order)
    found = [parts for name in names if (parts := _difference(name, told))]
    if not found:
        return ""
    shown = ", ".join(text for _, text in found[:MAX_SHOWN])
    if more := len(found) - MAX_SHOWN:
        shown += f" and {more} more" if more > 0 else ""
    installed = all(name.startswith(VERSION) for name, _ in found)
    remedy = (
        "install the same on all machines" if installed else "start all ranks with the same options"
    )
    return f"{shown}; {remedy}"


def _difference(name: str, told: Sequence[Mapping[str, str]]) -> tuple[str, str] | None:
    """The name, and ``rank 1 has NAME x and rank 0 has y``; None if all have the same."""
    values = [of_rank.get(name, NOTHING) for of_rank in told]
    other = next((v for v in values if v != values[0]), None)
    if other is None:
        return None
    who = [str(rank) for rank, value in enumerate(values) if value == other]
    some = f"rank {who[0]} has" if len(who) == 1 else f"ranks {', '.join(who)} have"
    return name, f"{some} {name} {other} and rank 0 has {values[0]}"


def _order(name: str) -> tuple[bool, bool, str]:
    return name.startswith(LAST), not name.startswith(VERSION), name


def _plain(asked: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(asked, default=asdict))
    return values


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Texts of all values, by names such as ``fit.row_lr``."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
            continue
        text = json.dumps(value, sort_keys=True)
        flat[prefix + key] = text if len(text) <= MAX_TEXT else _digest(text.encode())
    return flat


def _digest(content: bytes) -> str:
    return f"(SHA-256 {hashlib.sha256(content).hexdigest()[:16]})"


@cache
def _versions() -> dict[str, str]:
    """The versions of what the processes exchange and compute with, and the code of this package.

    In a clone the version stays what it is between two commits, and the code does not.
    """
    folder = Path(__file__).parents[1]
    code = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        code.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes())
    versions = {"seo_rec": seo_rec.__version__, **library_versions()}
    texts = {VERSION + name: version or NOTHING for name, version in versions.items()}
    return {**texts, f"{VERSION}seo_rec's code": f"(SHA-256 {code.hexdigest()[:16]})"}
