"""Valid policy files as JSON, changes of them, and how a file that is refused is checked."""

from __future__ import annotations

import base64
import copy
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import POLICIES, VOCABULARY
from seo_rec.policy import (
    Array,
    Budget,
    Feature,
    Lookup,
    Policy,
    PolicyError,
    Table,
)

SPEC = Path(__file__).resolve().parent.parent / "docs" / "policy-format.md"


def packed(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw)).decode()


GOOD = packed(np.diff(VOCABULARY, prepend=0).astype("<i8").tobytes())


def document() -> dict[str, Any]:
    """A small valid policy as JSON, a vocabulary included."""
    of = POLICIES["id-and-hash"]
    policy = Policy(
        of.tables, of.features, ("hour",), of.vocabularies, {"method": "by hand", "seed": 1.5}
    )
    assert policy.budget is None and policy.decision is None
    return json.loads(json.dumps(policy.to_json()))


def later_document() -> dict[str, Any]:
    """A valid policy as JSON with everything that version 1 did not have."""
    tables = (Table("a", 5, 3, "int4"), Table("p", 6, 2), Table("q", 8, 3))
    features = (
        Feature("user", (Lookup("a", "codes", 9, modulus=8, codes="kept"),), project=2),
        Feature("item", (Lookup("m", "blocks", 4, block=2, width=5),)),
        Feature("hour", (Lookup("a", seed=6),) * 2, "weighted_sum", None, Lookup("p", seed=7)),
        Feature(
            "day", (Lookup("q", "remainder", modulus=3), Lookup("q", "quotient", modulus=3)), "mul"
        ),
        Feature("week", (Lookup("a", "codes", codes="kept"),)),
        Feature("user x item", (Lookup("q", "id", 3, unknown_rows=2),), columns=("user", "item")),
    )
    policy = Policy(
        tables,
        features,
        vocabularies=dict.fromkeys(("day", "week", "user x item"), VOCABULARY),
        codes={"kept": np.array([0, 4, 0, 1, 2, 0, 3, 0], np.int32)},
        arrays=(Array("m", 40, "float16"),),
        budget=Budget(params=200, num_bytes=None),
        decision={"method": "seo", "winner": "plain", "gain": -0.25, "of": [1, None]},
    )
    return json.loads(json.dumps(policy.to_json()))


def refused(path: Path, content: bytes | str | dict[str, Any], message: str) -> None:
    """Loading ``content`` raises PolicyError; the message matches and starts with the path."""
    if isinstance(content, dict):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PolicyError, match=message) as caught:
        Policy.load(path)
    assert str(caught.value).startswith(str(path))


def put(target: Any, at: tuple[str | int, ...], value: Any) -> Any:
    """A deep copy of ``target`` with ``value`` at the path ``at``."""
    changed = copy.deepcopy(target)
    inner = changed
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    return changed
