"""Reading a package: every file is checked before anything is scored.

``docs/package-format.md`` is the specification.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seo_rec.files import checksum
from seo_rec.folders import but_is
from seo_rec.policy import Feature, Policy, PolicyError
from seo_rec.policy.reading import read_parts
from seo_rec.policy.strict_json import integer, json_object, parse_document, string
from seo_rec.schema import REGRESSION, DataError
from seo_rec.serve import layout
from seo_rec.serve.bags import Bags, Floats, Inputs
from seo_rec.serve.layout import PackageError
from seo_rec.serve.preparation import Preparation
from seo_rec.serve.program import DENSE, EMBEDDINGS, Program
from seo_rec.serve.tensors import fits, read_tensors

MAX_JSON_BYTES = 1 << 28
_MANIFEST_KEYS = {
    "format", "version", "precision", "files", "num_bytes", "data", "model", "metrics", "versions",
}  # fmt: skip

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Golden:
    """Rows whose scores are known.

    Args:
        inputs: The rows, as ids and numbers.
        scores: What the exporter's model gave them, float32.
        examples: By column, the raw cells of the first rows; None for a missing cell.
    """

    inputs: Inputs
    scores: Floats
    examples: Mapping[str, list[str | None]]


@dataclass(frozen=True)
class Package:
    """A package that has been read and checked.

    Args:
        path: Its folder.
        manifest: Of ``manifest.json``.
        digest: The SHA-256 of ``manifest.json``, 64 hexadecimal digits.
        policy: How ids find their rows; with the vocabularies and codes.
        preparation: How raw cells become ids and numbers.
        program: The backbone.
        embeddings: Tensors of tables, arrays and projections, mapped into memory.
        weights: Tensors of the backbone.
        golden: Rows whose scores are known.
    """

    path: Path
    manifest: Mapping[str, Any]
    digest: str
    policy: Policy
    preparation: Preparation
    program: Program
    embeddings: Mapping[str, Array]
    weights: Mapping[str, Array]
    golden: Golden

    @property
    def files(self) -> Mapping[str, Any]:
        """Of every file but the manifest, its bytes and its checksum."""
        files: Mapping[str, Any] = self.manifest["files"]
        return files

    @property
    def is_regression(self) -> bool:
        """Whether the scores are numbers that are predicted, and no probabilities."""
        return bool(self.manifest["model"].get("task") == REGRESSION)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of a model of several, one score each; empty for a model of one label."""
        return labels_of(self.manifest)

    @property
    def version(self) -> str:
        """The first 12 digits of :attr:`digest`; the manifest has the checksums of all files."""
        return self.digest[:12]


def labels_of(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels that a manifest names, in the order of the scores; empty where it names none.

    Raises:
        PackageError: They are not two names or more, each another one.
    """
    found = manifest["model"].get("labels")
    if found is None:
        return ()
    good = isinstance(found, list) and all(isinstance(n, str) and n for n in found)
    if not good or len(found) < 2 or len(set(found)) < len(found):
        raise PackageError(f"labels of the manifest are {found!r:.80}; allowed: two names or more")
    return tuple(found)


def read_package(folder: Path | str) -> Package:
    """Read a package and check it: names, sizes, checksums, forms and shapes.

    Raises:
        PackageError: The folder is not a package, or a file of it is damaged.
    """
    folder = Path(folder)
    manifest, digest = read_manifest(folder)
    check_files(folder, manifest["files"])
    try:
        return _parsed(folder, manifest, digest)
    except PackageError:
        raise
    except (PolicyError, DataError, ValueError, KeyError, OverflowError) as error:
        raise PackageError(f"{folder}: {error}; export the package again") from error


def read_manifest(folder: Path) -> tuple[dict[str, Any], str]:
    """The manifest of a package, whose form is checked, and the SHA-256 of the file.

    Raises:
        PackageError: There is none, or it has another form.
    """
    path = folder / layout.MANIFEST_FILE
    if not path.is_file():
        raise PackageError(
            f"{folder}: no {layout.MANIFEST_FILE} here, so this is no package{but_is(folder)}; "
            "`seo-rec export` makes one of a finished training run"
        )
    where = str(path)
    try:
        content = _json_bytes(path)
        doc = json_object(parse_document(content, where), _MANIFEST_KEYS, where)
        if doc["format"] != layout.FORMAT or type(doc["version"]) is not int:
            raise PackageError(f"{where}: format {doc['format']!r}; allowed: {layout.FORMAT!r}")
        if not 1 <= doc["version"] <= layout.VERSION:
            raise PackageError(
                f"{where}: version {doc['version']}; this release reads 1 to {layout.VERSION}"
            )
        string(doc["precision"], f"{where}: precision")
        if integer(doc["num_bytes"], f"{where}: num_bytes") < 1:
            raise PackageError(f"{where}: num_bytes {doc['num_bytes']}; allowed: 1 or more")
        for key in ("files", "data", "model", "metrics", "versions"):
            if not isinstance(doc[key], dict):
                raise PackageError(f"{where}: {key} must be an object")
        check_entries(doc["files"], where)
        if missing := [name for name in layout.REQUIRED if name not in doc["files"]]:
            raise PackageError(f"{where}: files lacks {missing}")
        return doc, hashlib.sha256(content).hexdigest()
    except PolicyError as error:
        raise PackageError(str(error)) from error


def check_entries(files: Mapping[str, Any], where: str) -> None:
    """PackageError unless names, sizes and checksums of files have the right form."""
    for name, entry in files.items():
        if name not in (*layout.REQUIRED, *layout.OPTIONAL):
            allowed = ", ".join((*layout.REQUIRED, *layout.OPTIONAL))
            raise PackageError(f"{where}: files names {name!r}; allowed: {allowed}")
        at = f"{where}: files[{name!r}]"
        doc = json_object(entry, {"bytes", "sha256"}, at)
        if integer(doc["bytes"], f"{at}.bytes") < 0:
            raise PackageError(f"{at}.bytes: {doc['bytes']}; allowed: 0 or more")
        digest = string(doc["sha256"], f"{at}.sha256")
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise PackageError(f"{at}.sha256: not 64 hexadecimal digits")


def check_files(
    folder: Path, files: Mapping[str, Any], listing: str = layout.MANIFEST_FILE
) -> None:
    """PackageError unless the folder holds these files, whole, the listing, and no others."""
    expected = {*files, listing}
    there = {path.name for path in folder.iterdir()}
    if missing := sorted(expected - there):
        raise PackageError(f"{folder}: lacks {', '.join(missing)}; copy the package again")
    if extra := sorted(there - expected):
        raise PackageError(
            f"{folder}: holds {extra[:5]}, which {listing} does not name; remove them"
        )
    for name, entry in files.items():
        path = folder / name
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise PackageError(f"{path}: is no regular file; copy the package again")
        if found.st_size != entry["bytes"]:
            raise PackageError(
                f"{path}: has {found.st_size} bytes and {entry['bytes']} are expected; copy the "
                "package again"
            )
        if checksum(path)["sha256"] != entry["sha256"]:
            raise PackageError(f"{path}: its checksum is another one; copy the package again")


def read_json(path: Path) -> Any:
    """The strict JSON value of a file.

    Raises:
        PackageError: It is none, or too large.
    """
    try:
        return parse_document(_json_bytes(path), str(path))
    except PolicyError as error:
        raise PackageError(str(error)) from error


def _json_bytes(path: Path) -> bytes:
    """The bytes of a JSON file; PackageError if it is no regular file, or too large."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise PackageError(f"{path}: is no regular file; copy the package again")
    if (size := path.stat().st_size) > MAX_JSON_BYTES:
        raise PackageError(f"{path}: has {size} bytes; allowed: {MAX_JSON_BYTES}")
    return path.read_bytes()


def _parsed(folder: Path, manifest: dict[str, Any], digest: str) -> Package:
    embeddings = read_tensors(folder / layout.EMBEDDINGS_FILE)
    policy = _policy(folder / layout.POLICY_FILE, embeddings)
    if manifest["version"] < (least := layout.version_of(policy)):
        raise PackageError(
            f"{folder}: its version is {manifest['version']} and its policy has vocabularies of "
            f"digests; allowed with version {least}"
        )
    if policy.num_bytes != manifest["num_bytes"]:
        raise PackageError(
            f"{folder}: the manifest says {manifest['num_bytes']} bytes and the policy has "
            f"{policy.num_bytes}"
        )
    kept = {}
    if layout.KEPT_FILE in manifest["files"]:
        kept = read_tensors(folder / layout.KEPT_FILE)
        for name, ids in kept.items():
            _require_ascending(ids, f"{layout.KEPT_FILE}: {name}")
    path = folder / layout.PREPARATION_FILE
    document = read_json(path)
    examples = document.pop("examples", None) if isinstance(document, dict) else None
    preparation = Preparation.from_json(document, kept, str(path))
    if missing := set(policy.columns) - {c.name for c in preparation.embedded}:
        raise PackageError(f"{path}: lacks the columns {sorted(missing)}, which the policy reads")
    weights = read_tensors(folder / layout.BACKBONE_WEIGHTS_FILE)
    path = folder / layout.BACKBONE_FILE
    program = Program.from_json(read_json(path), list(weights), str(path))
    widths = preparation.num_dense, sum(policy.widths)
    if (program.num_dense, program.width) != widths:
        raise PackageError(
            f"{path}: reads {program.num_dense} dense columns and embeddings of width "
            f"{program.width}; there are {widths[0]} and {widths[1]}"
        )
    if set(weights) & {DENSE, EMBEDDINGS}:
        raise PackageError(f"{layout.BACKBONE_WEIGHTS_FILE}: a weight has the name of an input")
    golden = _golden(
        read_tensors(folder / layout.GOLDEN_FILE), preparation, examples, labels_of(manifest)
    )
    return Package(
        folder, manifest, digest, policy, preparation, program, embeddings, weights, golden
    )


def _policy(path: Path, embeddings: Mapping[str, Array]) -> Policy:
    """The policy, whose ids and codes are tensors."""
    document = read_json(path)
    if not isinstance(document, dict):
        raise PackageError(f"{path}: must be an object")
    parts = read_parts({**document, "vocabularies": {}, "codes": {}}, str(path))
    vocabularies = _vocabularies(document.get("vocabularies"), parts.features, embeddings, path)
    named = document.get("codes")
    known = sorted(named) if isinstance(named, dict) else []
    codes = _divided(named, known, embeddings.get(layout.CODES), f"{path}: codes")
    policy = Policy(
        parts.tables,
        parts.features,
        parts.dropped,
        vocabularies,
        parts.provenance,
        codes,
        parts.arrays,
        parts.budget,
        parts.decision,
    )
    wanted = layout.embedding_shapes(policy)
    found = {name: (x.dtype, x.shape) for name, x in embeddings.items()}
    for name in sorted({*wanted, *found}):
        need = (np.dtype(wanted[name][0]), wanted[name][1]) if name in wanted else None
        if found.get(name) != need:
            raise PackageError(
                f"{layout.EMBEDDINGS_FILE}: tensor {name!r} is {_said(found.get(name))}; the "
                f"policy needs {_said(need)}"
            )
    return policy


def _vocabularies(
    sizes: Any, features: Sequence[Feature], embeddings: Mapping[str, Array], path: Path
) -> dict[str, Array]:
    """The ids or digests of every feature that has some."""
    where, names = f"{path}: vocabularies", [f.name for f in features]
    if not isinstance(sizes, dict) or set(sizes) - set(names):
        raise PackageError(f"{where}: must be an object that names {names}")
    found: dict[str, Array] = {}
    for bits, (tensor, kind) in layout.IDS_OF.items():
        of = [f.name for f in features if f.id_bits == bits]
        mine = {name: sizes[name] for name in of if name in sizes}
        found |= _divided(mine, of, embeddings.get(tensor), where)
        for name in mine:
            _require_ascending(found[name], f"{where}[{name!r}]", kind)
    return found


def _divided(sizes: Any, order: list[str], numbers: Array | None, where: str) -> dict[str, Array]:
    """A tensor cut into named parts of these sizes, in this order."""
    if not isinstance(sizes, dict) or set(sizes) - set(order):
        raise PackageError(f"{where}: must be an object that names {order}")
    numbers = np.empty(0, np.int64) if numbers is None else numbers
    if numbers.ndim != 1:
        raise PackageError(f"{where}: its tensor has the shape {numbers.shape}; allowed: (V,)")
    found: dict[str, Array] = {}
    start = 0
    for name in [name for name in order if name in sizes]:
        size = integer(sizes[name], f"{where}[{name!r}]")
        if size < 0 or start + size > len(numbers):
            raise PackageError(
                f"{where}[{name!r}]: {size} of {len(numbers)} numbers; there are fewer"
            )
        found[name] = numbers[start : start + size]
        start += size
    if start != len(numbers):
        raise PackageError(f"{where}: {start} of {len(numbers)} numbers have a name")
    return found


def _said(tensor: tuple[Any, tuple[int, ...]] | None) -> str:
    return "absent" if tensor is None else f"{tensor[0]} of shape {tensor[1]}"


def _require_ascending(ids: Array, where: str, kind: str = "<i8") -> None:
    if not fits(ids, kind, None):
        raise PackageError(
            f"{where}: ids are {ids.dtype} of shape {ids.shape}; allowed: {np.dtype(kind)} (V,)"
        )
    if len(ids) and (int(ids[0]) < 0 or not bool(np.all(ids[1:] > ids[:-1]))):
        raise PackageError(f"{where}: ids are not ascending, or negative")


def _golden(
    tensors: Mapping[str, Array], preparation: Preparation, examples: Any, labels: Sequence[str]
) -> Golden:
    where = layout.GOLDEN_FILE
    names = [f"{kind}.{i}" for i in range(len(preparation.embedded)) for kind in ("ids", "lengths")]
    if set(tensors) != {"dense", "scores", *names}:
        raise PackageError(f"{where}: holds {sorted(tensors)}; needed are dense, scores, {names}")
    scores, dense = tensors["scores"], tensors["dense"]
    more = (len(labels),) if labels else ()
    if not fits(scores, "f4", None, *more) or len(scores) < layout.EXAMPLES:
        each = f" of each of {len(labels)} labels" if labels else ""
        raise PackageError(f"{where}: scores must be float32, {layout.EXAMPLES} or more{each}")
    if not (np.isfinite(scores).all() and np.isfinite(dense).all()):
        raise PackageError(f"{where}: holds numbers that are not finite")
    if not fits(dense, "f4", len(scores), preparation.num_dense):
        raise PackageError(f"{where}: dense must be float32, one line for each score")
    columns = {}
    for i, column in enumerate(preparation.embedded):
        ids, lengths = tensors[f"ids.{i}"], tensors[f"lengths.{i}"]
        good = fits(ids, "i8", None) and fits(lengths, "i8", len(scores))
        if not good or (lengths < 0).any() or (ids < 0).any():
            raise PackageError(f"{where}: bags of column {column.name!r} do not fit the scores")
        if lengths.max(initial=0) > len(ids) or int(lengths.sum()) != len(ids):
            raise PackageError(f"{where}: bags of column {column.name!r} have other lengths")
        if column.is_single and (lengths != 1).any():
            raise PackageError(f"{where}: column {column.name!r} has one id in every row")
        if column.kind == "categorical" and (lengths > 1).any():
            raise PackageError(f"{where}: column {column.name!r} has one id at most in a row")
        columns[column.name] = Bags(ids, None if column.is_single else lengths)
    if not isinstance(examples, dict) or set(examples) != {c.name for c in preparation.columns}:
        raise PackageError(f"{layout.PREPARATION_FILE}: examples must name every column")
    for name, cells in examples.items():
        good = isinstance(cells, list) and len(cells) == layout.EXAMPLES
        if not good or not all(cell is None or isinstance(cell, str) for cell in cells):
            raise PackageError(
                f"{layout.PREPARATION_FILE}: examples[{name!r}] must be {layout.EXAMPLES} texts"
            )
    return Golden(Inputs(dense, columns), scores, examples)
