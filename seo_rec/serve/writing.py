"""Writing a package from its parts: names, bytes and checksums in one place.

The parts come from a trained model (:mod:`seo_rec.export`); nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seo_rec.files import finite, write_bytes
from seo_rec.policy import Policy
from seo_rec.policy.dtypes import BITS, quantize_rows
from seo_rec.serve import layout
from seo_rec.serve.bags import Floats, Inputs
from seo_rec.serve.package import Array
from seo_rec.serve.preparation import Preparation
from seo_rec.serve.program import Program
from seo_rec.serve.tensors import tensor_bytes


@dataclass(frozen=True)
class Parts:
    """What a package is made of.

    Args:
        policy: With the types in which it is served.
        embeddings: What :func:`stored_embeddings` gave.
        preparation: How raw cells become ids and numbers.
        examples: By column, raw cells of :data:`layout.EXAMPLES` rows, the first golden ones.
        program: The backbone.
        weights: Its numbers.
        golden: Rows whose scores are known.
        scores: These scores, float32.
        about: ``precision``, ``data``, ``model``, ``metrics`` and ``versions`` of the manifest.
        more: Makes further files of the package, by name, from those there are.
    """

    policy: Policy
    embeddings: Mapping[str, Array]
    preparation: Preparation
    examples: Mapping[str, list[str | None]]
    program: Program
    weights: Mapping[str, Array]
    golden: Inputs
    scores: Floats
    about: Mapping[str, Any]
    more: Callable[[Mapping[str, bytes]], Mapping[str, bytes]] = lambda files: {}


def stored_embeddings(policy: Policy, floats: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors of ``embeddings.safetensors``.

    Args:
        policy: With the types in which it is served.
        floats: float32 of every table (n, d) and array (size,) by its name, and of the projection
            of the feature number i by ``project.i``.

    Raises:
        ValueError: A type cannot hold the numbers of a table or array; the message names it.
    """
    rows: dict[str, list[Array]] = {}
    for t, place in zip(policy.tables, layout.table_places(policy).values(), strict=True):
        rows.setdefault(place.tensor, []).append(_stored(t.name, floats[t.name], t.dtype))
    found = {name: np.concatenate(parts) for name, parts in rows.items()}
    for i, a in enumerate(policy.arrays):
        found[f"array.{i}"] = _stored(a.name, floats[a.name][None, :], a.dtype)[0]
    for i, f in enumerate(policy.features):
        if f.project is not None:
            found[f"project.{i}"] = np.asarray(floats[f"project.{i}"], np.float32)
    for bits, (tensor, kind) in layout.IDS_OF.items():
        if names := layout.vocabulary_order(policy, bits):
            found[tensor] = np.concatenate([policy.vocabularies[n] for n in names]).astype(kind)
    if policy.codes:
        codes = [policy.codes[name] for name in layout.code_order(policy)]
        found[layout.CODES] = np.concatenate(codes).astype(np.int32)
    return found


def _stored(name: str, floats: Array, dtype: str) -> Array:
    try:
        stored = quantize_rows(floats, dtype)
    except ValueError as error:
        raise ValueError(f"table {name!r}: {error}") from error
    if dtype in BITS:
        return stored
    kind, shape = layout.stored_shape(len(stored), floats.shape[1], dtype)
    return stored.view(kind).reshape(shape)


def write_package(folder: Path, parts: Parts) -> None:
    """Write the files of a package into a folder, the manifest last."""
    for name, content in package_files(parts).items():
        write_bytes(folder / name, content)


def package_files(parts: Parts) -> dict[str, bytes]:
    """The files of a package by name, the manifest last."""
    files = {
        layout.POLICY_FILE: _json(policy_json(parts.policy)),
        layout.EMBEDDINGS_FILE: tensor_bytes(parts.embeddings),
        layout.BACKBONE_FILE: _json(parts.program.to_json()),
        layout.BACKBONE_WEIGHTS_FILE: tensor_bytes(parts.weights),
        layout.GOLDEN_FILE: tensor_bytes(_golden(parts)),
    }
    kept = {
        c.name: (f"kept.{i}", c.kept)
        for i, c in enumerate(parts.preparation.columns)
        if c.kept is not None
    }
    named = {name: tensor for name, (tensor, _) in kept.items()}
    preparation = {**parts.preparation.to_json(named), "examples": dict(parts.examples)}
    files[layout.PREPARATION_FILE] = _json(preparation)
    if kept:
        files[layout.KEPT_FILE] = tensor_bytes(dict(kept.values()))
    files |= parts.more(files)
    return {**files, layout.MANIFEST_FILE: _manifest(parts, files)}


def _manifest(parts: Parts, files: Mapping[str, bytes]) -> bytes:
    """The manifest of a package with these files."""
    entries = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }
    return _json(
        {
            "format": layout.FORMAT,
            "version": layout.version_of(parts.policy),
            "files": entries,
            "num_bytes": parts.policy.num_bytes,
            **parts.about,
        }
    )


def policy_json(policy: Policy) -> dict[str, Any]:
    """The policy's JSON form, with the numbers of ids and codes in place of themselves."""
    return {
        **policy.to_json(),
        "vocabularies": {name: len(ids) for name, ids in policy.vocabularies.items()},
        "codes": {name: len(codes) for name, codes in policy.codes.items()},
    }


def _golden(parts: Parts) -> dict[str, Array]:
    tensors: dict[str, Array] = {"dense": parts.golden.dense_BN, "scores": parts.scores}
    for i, column in enumerate(parts.preparation.embedded):
        bags = parts.golden.columns[column.name]
        tensors[f"ids.{i}"] = bags.ids
        tensors[f"lengths.{i}"] = bags.counts().astype(np.int64)
    return tensors


def _json(document: Any) -> bytes:
    return (json.dumps(finite(document), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
